//! Fake-quantization from candle operations, for devices that the loops of `trimwick-kernels` do not reach.
//!
//! The scales are found on the host, from the largest magnitude of each block, by the function that the loops use: one
//! definition. What remains is elementwise. A value enters the graph detached, and `x − x.detach()`, which is zero,
//! carries the gradient: candle's `round` leaves the graph, and its `clamp` halves the gradient at the bounds.

use candle_core::{DType, Device, Result, Tensor, bail};
use trimwick_kernels::quant::{Code, Grid};

use super::quant::{Scales, learned_scales};

/// Adding and subtracting 1.5 · 2²³ rounds an f32 of up to 2²² to the nearest integer, ties to even.
const MAGIC: f64 = 12_582_912.;

pub(super) fn dynamic(x: &Tensor, grid: Grid, block: usize, global: Option<f32>) -> Result<Tensor> {
    let held = x.detach();
    let rows = blocks(&held, block)?;
    // Zero times a NaN or an infinity is NaN, and sums keep it; the largest of a row may not.
    if !(&rows * 0.)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
        bail!("fake-quant: the tensor holds a NaN or an infinity");
    }
    let host = |t: Tensor| t.to_device(&Device::Cpu)?.to_vec1::<f32>();
    let scales = match grid.code {
        Code::Uint { .. } => {
            let (min, max) = (host(rows.min(1)?)?, host(rows.max(1)?)?);
            let (scales, zeros) = min.iter().zip(&max).map(|(min, max)| grid.affine(*min, *max)).unzip();
            Scales { scales, zeros: Some(zeros) }
        }
        _ => {
            let amax = host(rows.abs()?.max(1)?)?;
            let largest = amax.iter().fold(0f32, |a, b| a.max(*b));
            let global = global.unwrap_or_else(|| grid.global(largest));
            let scales = amax.iter().map(|amax| grid.scale(*amax, global)).collect();
            Scales { scales, zeros: None }
        }
    };
    let value = on_grid(&held, grid, block, &scales)?.value;
    value + (x - held)?
}

pub(super) fn fixed(x: &Tensor, grid: Grid, block: usize, scales: &Scales) -> Result<Tensor> {
    let held = x.detach();
    let Parts { value, inside, .. } = on_grid(&held, grid, block, scales)?;
    value + ((x - held)? * inside)?
}

pub(super) fn learned(
    x: &Tensor,
    log2_scales: &Tensor,
    grid: Grid,
    block: usize,
    global: f32,
) -> Result<Tensor> {
    let (held, logs) = (x.detach(), log2_scales.detach());
    let host = logs.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
    let scales = Scales { scales: learned_scales(&host, grid, global)?, zeros: None };
    let Parts { value, inside, quotient, code, scale } = on_grid(&held, grid, block, &scales)?;
    // LSQ: the code less the quotient inside of the range, the code (then an end of the range) outside.
    let slope = (code - (quotient * &inside)?)?;
    let factor = f64::from(std::f32::consts::LN_2) / (block as f64 * f64::from(grid.code.max())).sqrt();
    let slope = ((slope * scale)? * factor)?;
    let move_x = ((x - held)? * inside)?;
    let move_scale = (log2_scales - logs)?.unsqueeze(1)?;
    let move_scale = blocks(&slope, block)?.broadcast_mul(&move_scale)?.reshape(x.shape())?;
    (value + move_x)? + move_scale
}

/// What a tensor is on a grid, element by element in its shape.
struct Parts {
    value: Tensor,
    /// 1 where the quotient is inside of the range, its ends included.
    inside: Tensor,
    quotient: Tensor,
    code: Tensor,
    scale: Tensor,
}

fn blocks(x: &Tensor, block: usize) -> Result<Tensor> {
    x.contiguous()?.reshape((x.elem_count() / block, block))
}

fn on_grid(x: &Tensor, grid: Grid, block: usize, scales: &Scales) -> Result<Parts> {
    let column = |v: &[f32]| Tensor::from_slice(v, (v.len(), 1), &Device::Cpu)?.to_device(x.device());
    let scale = column(&scales.scales)?;
    let zero = scales.zeros.as_deref().map(column).transpose()?;
    let mut quotient = blocks(x, block)?.broadcast_div(&scale)?;
    if let Some(zero) = &zero {
        quotient = quotient.broadcast_add(zero)?;
    }
    let (min, max) = (grid.code.min(), grid.code.max());
    let inside = (quotient.ge(min)? * quotient.le(max)?)?.to_dtype(DType::F32)?;
    let code = round(grid.code, &quotient.clamp(min, max)?)?;
    let value = match &zero {
        Some(zero) => code.broadcast_sub(zero)?.broadcast_mul(&scale)?,
        None => code.broadcast_mul(&scale)?,
    };
    let shaped = |t: Tensor| t.reshape(x.shape());
    Ok(Parts {
        value: shaped(value)?,
        inside: shaped(inside)?,
        quotient: shaped(quotient)?,
        code: shaped(code)?,
        scale: scale.broadcast_as((scales.scales.len(), block))?.contiguous()?.reshape(x.shape())?,
    })
}

/// Codes of quotients that lie in the code's range.
fn round(code: Code, q: &Tensor) -> Result<Tensor> {
    let Some((mantissa, least, largest)) = binades(code) else { return integer(q) };
    // The distance between neighbours doubles at every power of two above the least.
    let unit = 2f64.powi(least - mantissa);
    let magnitude = q.abs()?;
    let mut step = magnitude.zeros_like()?.affine(0., unit)?;
    for exponent in least + 1..=largest {
        let above = magnitude.ge(2f64.powi(exponent) as f32)?.to_dtype(DType::F32)?;
        step = (step + (above * (unit * 2f64.powi(exponent - least - 1)))?)?;
    }
    integer(&(q / &step)?)? * step
}

fn integer(q: &Tensor) -> Result<Tensor> {
    q.affine(1., MAGIC)?.affine(1., -MAGIC)
}

/// Mantissa bits, and the exponents of the least and the largest normal number, of a float code.
fn binades(code: Code) -> Option<(i32, i32, i32)> {
    match code {
        Code::Int { .. } | Code::Uint { .. } | Code::Ternary => None,
        Code::E2M1 => Some((1, 0, 2)),
        Code::E2M3 => Some((3, 0, 2)),
        Code::E3M2 => Some((2, -2, 4)),
        Code::E4M3 => Some((3, -6, 8)),
        Code::E5M2 => Some((2, -14, 15)),
    }
}
