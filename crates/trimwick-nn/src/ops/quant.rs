//! Fake-quantization: the values of a grid forward, a straight-through gradient backward.
//!
//! A grid and a run of `block` consecutive elements that share a scale are all that an operation knows. There are
//! three, by where the scales come from:
//!
//! | | scales | dL/dx | dL/ds |
//! |---|---|---|---|
//! | [`fake_quant_dynamic`] | of the values themselves | g | |
//! | [`fake_quant`] | given | g inside of the range, both ends included; 0 outside | |
//! | [`fake_quant_learned`] | trained | as above | LSQ (arXiv 1902.08153) |
//!
//! Quantizers compute in f32. Another dtype on the CPU is cast there and back; on other devices the same values are
//! composed of candle operations, with the scales found on the host by the same function.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels::all_finite;
use trimwick_kernels::quant::{self as kernels, Code, Grid};

use super::cpu::{cpu_slice, owned, tensor_like, with_slices, zeros};
use super::quant_composed as composed;

/// The scales of a tensor's blocks, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scales {
    /// Effective scales: rounded to their format, the scale of the tensor (if there is one) multiplied in.
    pub scales: Vec<f32>,
    /// Integer zero points of an asymmetric grid.
    pub zeros: Option<Vec<f32>>,
}

/// `x` on the grid, each block with the scale of its own largest magnitude. Nothing is clipped: the gradient is that of
/// the identity, and it is passed on without a copy.
///
/// `global` is the scale of the whole tensor where the grid has one; `None` takes it from the values.
///
/// # Errors
/// A block that does not divide the tensor; a NaN or an infinity.
pub fn fake_quant_dynamic(x: &Tensor, grid: Grid, block: usize, global: Option<f32>) -> Result<Tensor> {
    check(x, block, None)?;
    in_f32(x, |x| match x.device() {
        Device::Cpu => x.contiguous()?.apply_op1(Dynamic { grid, block, global }),
        _ => composed::dynamic(x, grid, block, global),
    })
}

/// `x` on the grid, with given scales. The gradient is cut where `x` lies outside of the grid's range.
///
/// # Errors
/// A block that does not divide the tensor, another number of scales than of blocks; a NaN or an infinity, which a grid
/// would hide.
pub fn fake_quant(x: &Tensor, grid: Grid, block: usize, scales: &Arc<Scales>) -> Result<Tensor> {
    check(x, block, Some(scales.scales.len()))?;
    let scales = scales.clone();
    in_f32(x, |x| match x.device() {
        Device::Cpu => x.contiguous()?.apply_op1(Static { grid, block, scales }),
        _ => composed::fixed(x, grid, block, &scales),
    })
}

/// `x` on the grid, with trained scales: `log2_scales` `[blocks]` (f32) are the base-2 logarithms of what, rounded to
/// the scale's format, is used. Both arguments get a gradient; that of the scales is LSQ's, with its factor
/// 1/√(block · largest code).
///
/// # Errors
/// A block that does not divide the tensor, another number of scales than of blocks, an asymmetric grid; a NaN or an
/// infinity.
pub fn fake_quant_learned(
    x: &Tensor,
    log2_scales: &Tensor,
    grid: Grid,
    block: usize,
    global: f32,
) -> Result<Tensor> {
    check(x, block, Some(log2_scales.elem_count()))?;
    if log2_scales.dtype() != DType::F32 {
        bail!("fake-quant: learned scales are f32, found {:?}", log2_scales.dtype());
    }
    if let Code::Uint { .. } = grid.code {
        bail!("fake-quant: the zero points of an asymmetric grid are not learned");
    }
    in_f32(x, |x| match x.device() {
        Device::Cpu => {
            let op = Learned { grid, block, global, input: x.track_op(), scale: log2_scales.track_op() };
            x.contiguous()?.apply_op2(&log2_scales.contiguous()?, op)
        }
        _ => composed::learned(x, log2_scales, grid, block, global),
    })
}

/// The scales that [`fake_quant_learned`] uses: powers of two of the logarithms, rounded to the grid's format.
///
/// # Errors
/// A logarithm that is NaN.
pub fn learned_scales(log2_scales: &[f32], grid: Grid, global: f32) -> Result<Vec<f32>> {
    let scale = |&log2: &f32| {
        if log2.is_nan() {
            bail!("fake-quant: a learned scale is NaN; lower the learning rate of the scales");
        }
        // In f64, so that every platform's library rounds to the same f32; clamped to what f32 holds.
        let scale = f64::from(log2.clamp(-126., 127.)).exp2() as f32;
        Ok(grid.round_scale(scale, global))
    };
    log2_scales.iter().map(scale).collect()
}

fn check(x: &Tensor, block: usize, scales: Option<usize>) -> Result<()> {
    let len = x.elem_count();
    if block == 0 || !len.is_multiple_of(block) {
        bail!("fake-quant: blocks of {block} do not divide a tensor of shape {:?}", x.dims());
    }
    match scales {
        Some(found) if found != len / block => bail!(
            "fake-quant: {found} scales for {} blocks of {block} in a tensor of shape {:?}",
            len / block,
            x.dims()
        ),
        _ => Ok(()),
    }
}

fn in_f32(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match x.dtype() {
        DType::F32 => f(x),
        other => f(&x.to_dtype(DType::F32)?)?.to_dtype(other),
    }
}

/// A grid saturates: it would turn an infinity into an ordinary number.
fn refuse_non_finite(x: &[f32]) -> Result<()> {
    match all_finite(x) {
        true => Ok(()),
        false => bail!("{}", composed::NON_FINITE),
    }
}

struct Dynamic {
    grid: Grid,
    block: usize,
    global: Option<f32>,
}

impl CustomOp1 for Dynamic {
    fn name(&self) -> &'static str {
        "fake-quant-dynamic"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu_slice::<f32>(s, l)?;
        let mut y = zeros::<f32>(x.len());
        kernels::fake_quant_dynamic(self.grid, x, self.block, self.global, &mut y)
            .map_err(candle_core::Error::wrap)?;
        Ok((owned(y), l.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(g.detach()))
    }
}

struct Static {
    grid: Grid,
    block: usize,
    scales: Arc<Scales>,
}

impl CustomOp1 for Static {
    fn name(&self) -> &'static str {
        "fake-quant"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu_slice::<f32>(s, l)?;
        refuse_non_finite(x)?;
        let mut y = zeros::<f32>(x.len());
        let Scales { scales, zeros } = &*self.scales;
        kernels::fake_quant(self.grid, x, self.block, scales, zeros.as_deref(), &mut y);
        Ok((owned(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let x = &x.detach();
        with_slices::<f32, _, 2>([x, g], |[xs, gs]| {
            let mut dx = zeros::<f32>(xs.len());
            let Scales { scales, zeros } = &*self.scales;
            kernels::fake_quant_backward(self.grid, xs, self.block, scales, zeros.as_deref(), gs, &mut dx);
            Ok(Some(tensor_like(dx, x)?))
        })
    }
}

struct Learned {
    grid: Grid,
    block: usize,
    global: f32,
    /// Which of the two gradients somebody wants.
    input: bool,
    scale: bool,
}

impl CustomOp2 for Learned {
    fn name(&self) -> &'static str {
        "fake-quant-learned"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, log2) = (cpu_slice::<f32>(s1, l1)?, cpu_slice::<f32>(s2, l2)?);
        refuse_non_finite(x)?;
        let scales = learned_scales(log2, self.grid, self.global)?;
        let mut y = zeros::<f32>(x.len());
        kernels::fake_quant(self.grid, x, self.block, &scales, None, &mut y);
        Ok((owned(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        log2: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, log2) = (&x.detach(), &log2.detach());
        with_slices::<f32, _, 3>([x, log2, g], |[xs, logs, gs]| {
            let scales = learned_scales(logs, self.grid, self.global)?;
            let (mut dx, mut ds) = (zeros::<f32>(xs.len()), zeros::<f32>(scales.len()));
            kernels::lsq_backward(self.grid, xs, self.block, &scales, gs, &mut dx, &mut ds);
            // dL/dlog2(s) = dL/ds · s · ln 2
            ds.iter_mut().zip(&scales).for_each(|(d, s)| *d *= s * std::f32::consts::LN_2);
            let dx = if self.input { Some(tensor_like(dx, x)?) } else { None };
            let ds = if self.scale { Some(tensor_like(ds, log2)?) } else { None };
            Ok((dx, ds))
        })
    }
}
