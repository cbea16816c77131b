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

use candle_core::{DType, Device, Result, Tensor, bail};
use trimwick_kernels::all_finite;
use trimwick_kernels::quant::{self as kernels, Code, Grid};

use super::cpu::{with_slices, zeros};
use super::quant_composed as composed;
use crate::grad::{Backward, Inputs, buffer, pass_through, record};

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
        Device::Cpu => {
            let x = x.contiguous()?;
            let mut y = zeros::<f32>(x.elem_count());
            with_slices::<f32, _, 1>([&x], |[x]| {
                kernels::fake_quant_dynamic(grid, x, block, global, &mut y).map_err(candle_core::Error::wrap)
            })?;
            pass_through(&x, y, x.shape())
        }
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
        Device::Cpu => {
            let x = x.contiguous()?;
            let y = on_grid(&x, grid, block, &scales)?;
            record(y, x.shape(), &[&x], Static { x: x.detach(), grid, block, scales })
        }
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
            let (x, log2) = (x.contiguous()?, log2_scales.contiguous()?);
            let scales = with_slices::<f32, _, 1>([&log2], |[log2]| learned_scales(log2, grid, global))?;
            let scales = Scales { scales, zeros: None };
            let y = on_grid(&x, grid, block, &scales)?;
            let op = Learned { x: x.detach(), scales: scales.scales, grid, block };
            record(y, x.shape(), &[&x, &log2], op)
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

/// `x` on the grid with given scales.
fn on_grid(x: &Tensor, grid: Grid, block: usize, scales: &Scales) -> Result<Vec<f32>> {
    let mut y = zeros::<f32>(x.elem_count());
    with_slices::<f32, _, 1>([x], |[x]| {
        refuse_non_finite(x)?;
        kernels::fake_quant(grid, x, block, &scales.scales, scales.zeros.as_deref(), &mut y);
        Ok(())
    })?;
    Ok(y)
}

struct Static {
    x: Tensor,
    grid: Grid,
    block: usize,
    scales: Arc<Scales>,
}

impl Backward<f32> for Static {
    fn backward(&self, g: &[f32], to: &mut Inputs<'_, f32>) -> Result<()> {
        let Scales { scales, zeros } = &*self.scales;
        with_slices::<f32, _, 1>([&self.x], |[x]| {
            to.overwrite(0, x.len(), |dx| {
                kernels::fake_quant_backward(self.grid, x, self.block, scales, zeros.as_deref(), g, dx);
            })
        })
    }
}

struct Learned {
    x: Tensor,
    scales: Vec<f32>,
    grid: Grid,
    block: usize,
}

impl Backward<f32> for Learned {
    fn backward(&self, g: &[f32], to: &mut Inputs<'_, f32>) -> Result<()> {
        let mut ds = buffer::<f32>(self.scales.len());
        with_slices::<f32, _, 1>([&self.x], |[x]| {
            to.overwrite(0, x.len(), |dx| {
                kernels::lsq_backward(self.grid, x, self.block, &self.scales, g, dx, &mut ds);
            })
        })?;
        // dL/dlog2(s) = dL/ds · s · ln 2
        ds.iter_mut().zip(&self.scales).for_each(|(d, s)| *d *= s * std::f32::consts::LN_2);
        to.give(1, ds)
    }
}
