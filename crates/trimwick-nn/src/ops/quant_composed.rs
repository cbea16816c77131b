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

pub(super) const NON_FINITE: &str = "fake-quant: the tensor holds a NaN or an infinity";

pub(super) fn dynamic(x: &Tensor, grid: Grid, block: usize, global: Option<f32>) -> Result<Tensor> {
    let held = x.detach();
    let rows = blocks(&held, block)?;
    refuse_non_finite(&held)?;
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
    refuse_non_finite(&held)?;
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
    refuse_non_finite(&held)?;
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

/// Zero times a NaN or an infinity is NaN, and a sum keeps it; a maximum may not.
fn refuse_non_finite(x: &Tensor) -> Result<()> {
    match (x * 0.)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
        true => Ok(()),
        false => bail!("{NON_FINITE}"),
    }
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

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use trimwick_kernels::quant::ScaleFormat;
    use trimwick_testkit::{assert_close, random, values};

    use super::super::quant as fused;
    use super::*;
    use std::sync::Arc;

    const CODES: [Code; 9] = [
        Code::Int { bits: 8 },
        Code::Int { bits: 4 },
        Code::Int { bits: 2 },
        Code::Ternary,
        Code::E2M1,
        Code::E2M3,
        Code::E3M2,
        Code::E4M3,
        Code::E5M2,
    ];

    /// Values over many binades, some of them on ties and some zero.
    fn input() -> Tensor {
        let x = random(&[4, 96], 3).to_dtype(DType::F32).unwrap();
        let mut v: Vec<f32> = values(&x).into_iter().map(|v| v as f32).collect();
        for (i, v) in v.iter_mut().enumerate() {
            *v *= 2f32.powi((i % 23) as i32 - 14);
        }
        v[7] = 0.;
        v[8] = -0.;
        v[32..40].copy_from_slice(&[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5., 6.]);
        v[96..128].fill(0.);
        Tensor::from_vec(v, (4, 96), &Device::Cpu).unwrap()
    }

    /// Value of `f` and the gradient of `Σ g·f` for a fixed g.
    fn both(x: &Var, f: impl Fn(&Tensor) -> Tensor) -> (Tensor, Tensor) {
        let y = f(x.as_tensor());
        let g = random(y.dims(), 11).to_dtype(DType::F32).unwrap();
        let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
        (y.detach(), grads.get(x.as_tensor()).unwrap().clone())
    }

    fn assert_same(a: &(Tensor, Tensor), b: &(Tensor, Tensor), what: &str) {
        // Equal numbers; a zero may have the other sign.
        for (a, b) in [(&a.0, &b.0), (&a.1, &b.1)] {
            for (i, (a, b)) in values(a).iter().zip(values(b)).enumerate() {
                assert!(*a == b, "{what}: element {i}: {a} and {b}");
            }
        }
    }

    #[test]
    fn composed_values_and_gradients_are_the_fused_ones() {
        let x = Var::from_tensor(&input()).unwrap();
        for code in CODES {
            for scale in [ScaleFormat::F32, ScaleFormat::BF16, ScaleFormat::E8M0Ceil, ScaleFormat::E4M3] {
                let grid = Grid { code, scale };
                for block in [16, 32, 96, 384] {
                    let what = format!("{grid:?} {block}");
                    assert_same(
                        &both(&x, |x| dynamic(x, grid, block, None).unwrap()),
                        &both(&x, |x| fused::fake_quant_dynamic(x, grid, block, None).unwrap()),
                        &what,
                    );
                    // Scales that clip a part.
                    let scales: Vec<f32> = (0..384 / block).map(|i| 0.01 + 0.3 * i as f32).collect();
                    let scales = Arc::new(Scales { scales, zeros: None });
                    assert_same(
                        &both(&x, |x| fixed(x, grid, block, &scales).unwrap()),
                        &both(&x, |x| fused::fake_quant(x, grid, block, &scales).unwrap()),
                        &what,
                    );
                }
            }
        }
    }

    #[test]
    fn composed_zero_points_are_the_fused_ones() {
        let x = Var::from_tensor(&input()).unwrap();
        for bits in [2, 4, 8] {
            let grid = Grid { code: Code::Uint { bits }, scale: ScaleFormat::F32 };
            assert_same(
                &both(&x, |x| dynamic(x, grid, 32, None).unwrap()),
                &both(&x, |x| fused::fake_quant_dynamic(x, grid, 32, None).unwrap()),
                "dynamic",
            );
            let zeros = Some((0..12).map(|i| (i % 4) as f32).collect());
            let scales = Arc::new(Scales { scales: vec![0.07; 12], zeros });
            assert_same(
                &both(&x, |x| fixed(x, grid, 32, &scales).unwrap()),
                &both(&x, |x| fused::fake_quant(x, grid, 32, &scales).unwrap()),
                "static",
            );
        }
    }

    #[test]
    fn composed_learned_scales_are_the_fused_ones() {
        let x = Var::from_tensor(&input()).unwrap();
        for code in CODES {
            for scale in [ScaleFormat::F32, ScaleFormat::BF16, ScaleFormat::E8M0Ceil, ScaleFormat::E4M3] {
                let grid = Grid { code, scale };
                let logs = (0..12).map(|i| -3.3 + 0.37 * i as f32).collect::<Vec<_>>();
                let logs = Var::from_vec(logs, 12, &Device::Cpu).unwrap();
                let run = |f: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
                    let of_x = both(&x, |x| f(x, logs.as_tensor()));
                    (of_x, both(&logs, |logs| f(x.as_tensor(), logs)).1)
                };
                let (a, ds) = run(&|x, s| learned(x, s, grid, 32, 0.05).unwrap());
                let (b, want) = run(&|x, s| fused::fake_quant_learned(x, s, grid, 32, 0.05).unwrap());
                assert_same(&a, &b, &format!("{grid:?}"));
                // Sums over a block, in another order.
                assert_close(&ds, &want, 1e-4, 1e-5);
            }
        }
    }

    #[test]
    fn composed_operations_refuse_what_the_fused_ones_refuse() {
        let grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::F32 };
        let scales = Scales { scales: vec![1.], zeros: None };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let x = Tensor::new(&[1., bad, 2.], &Device::Cpu).unwrap();
            let logs = Tensor::new(&[0f32], &Device::Cpu).unwrap();
            let errors = [
                dynamic(&x, grid, 3, None),
                fixed(&x, grid, 3, &scales),
                learned(&x, &logs, grid, 3, 1.),
                fused::fake_quant_dynamic(&x, grid, 3, None),
                fused::fake_quant(&x, grid, 3, &Arc::new(scales.clone())),
                fused::fake_quant_learned(&x, &logs, grid, 3, 1.),
            ];
            assert!(errors.iter().all(Result::is_err), "{bad}: {errors:?}");
        }
    }
}
