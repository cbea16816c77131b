//! The two moments of a parameter, in f32 or in 8 bits a value.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_kernels::{self as kernels, MOMENT_BLOCK, Moment8, Rng};
use trimwick_nn::{Param, ops};

use crate::{Error, Result, host};

/// How moments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// In the parameter's dtype: 8 bytes a value in f32.
    #[default]
    F32,
    /// In 8 bits with a scale for each 256 values ([`trimwick_kernels::adamw_8bit`], after arXiv 2110.02861): 2.03 bytes
    /// a value. Parameters of fewer than 4096 values (norms, biases, learned scales) keep theirs in f32.
    Int8,
}

/// Parameters below this size keep their moments in f32: there is nothing to gain.
const SMALL: usize = 4096;

/// Moments at work.
pub(crate) enum Pair {
    /// Values of the parameter's shape and dtype.
    Full { m: Tensor, v: Tensor },
    /// Codes (U8, of the parameter's shape) and scales (f32, one for each block).
    Packed { m: [Tensor; 2], v: [Tensor; 2] },
}

impl Pair {
    /// Zero moments.
    ///
    /// # Errors
    /// A large parameter for 8 bits that is not f32 on the CPU.
    pub(crate) fn new(param: &Param, format: Moments) -> Result<Self> {
        let var = param.var();
        if format == Moments::F32 || param.elem_count() < SMALL {
            return Ok(Self::Full { m: var.zeros_like()?, v: var.zeros_like()? });
        }
        if !host::fused(&var) {
            let expected = "\"f32\", since 8-bit moments need f32 parameters on the CPU";
            let found = format!("\"int8\" for {}: {:?} on {:?}", param.name(), var.dtype(), var.device());
            return Err(Error::setting("moments", expected, found));
        }
        let blocks = param.elem_count().div_ceil(MOMENT_BLOCK);
        let moment = || -> Result<[Tensor; 2]> {
            let codes = Tensor::zeros(param.shape(), DType::U8, param.device())?;
            Ok([codes, Tensor::zeros(blocks, DType::F32, param.device())?])
        };
        Ok(Self::Packed { m: moment()?, v: moment()? })
    }

    /// The tensors of the state with the prefixes of their names in a checkpoint.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Full { m, v } => vec![("m", m), ("v", v)],
            Self::Packed { m, v } => {
                vec![("m", &m[0]), ("m_scale", &m[1]), ("v", &v[0]), ("v_scale", &v[1])]
            }
        }
    }

    /// The tensors in the order of [`Pair::tensors`], to be replaced.
    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        match self {
            Self::Full { m, v } => vec![m, v],
            Self::Packed { m: [mc, ms], v: [vc, vs] } => vec![mc, ms, vc, vs],
        }
    }

    /// One fused step of an f32 parameter on the CPU. What `keep` drops is +0.0 afterwards, in weight and moments.
    pub(crate) fn step(
        &self,
        param: &Param,
        grad: &Tensor,
        h: &kernels::AdamW,
        keep: Option<&[u8]>,
    ) -> Result<()> {
        let var = param.var();
        match self {
            Self::Full { m, v } => step_full(&var, grad, m, v, h, keep),
            Self::Packed { m, v } => {
                let rng = Rng::new(0, "moments", h.step, param.name());
                step_packed(&var, grad, m, v, h, keep, &rng)
            }
        }
    }
}

fn step_full(
    w: &Tensor,
    grad: &Tensor,
    m: &Tensor,
    v: &Tensor,
    h: &kernels::AdamW,
    keep: Option<&[u8]>,
) -> Result<()> {
    ops::with_slices::<f32, _, 1>([grad], |[g]| {
        ops::update(w, |w: &mut [f32]| {
            ops::update(m, |m: &mut [f32]| {
                ops::update(v, |v: &mut [f32]| {
                    match keep {
                        Some(keep) => kernels::adamw_masked(w, g, m, v, h, keep),
                        None => kernels::adamw(w, g, m, v, h),
                    }
                    Ok(())
                })
            })
        })
    })?;
    Ok(())
}

fn step_packed(
    w: &Tensor,
    grad: &Tensor,
    [mc, ms]: &[Tensor; 2],
    [vc, vs]: &[Tensor; 2],
    h: &kernels::AdamW,
    keep: Option<&[u8]>,
    rng: &Rng,
) -> Result<()> {
    ops::with_slices::<f32, _, 1>([grad], |[g]| {
        ops::update(w, |w: &mut [f32]| {
            ops::update(mc, |mc: &mut [u8]| {
                ops::update(ms, |ms: &mut [f32]| {
                    ops::update(vc, |vc: &mut [u8]| {
                        ops::update(vs, |vs: &mut [f32]| {
                            let m = Moment8 { codes: mc, scales: ms };
                            let v = Moment8 { codes: vc, scales: vs };
                            kernels::adamw_8bit(w, g, m, v, keep, rng, h);
                            Ok(())
                        })
                    })
                })
            })
        })
    })?;
    Ok(())
}
