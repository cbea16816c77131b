//! Gradients: the exact mask, and learned scales against central differences with rounding frozen.

use trimwick_kernels::quant::{Code, Grid, ScaleFormat, fake_quant, fake_quant_backward, lsq_backward};

use crate::reference::{bits, grids, tensor};

#[test]
fn the_mask_is_exact_at_its_bounds() {
    for code in
        [Code::Int { bits: 4 }, Code::Int { bits: 8 }, Code::Ternary, Code::E2M1, Code::E4M3, Code::E5M2]
    {
        let grid = Grid { code, scale: ScaleFormat::F32 };
        let (min, max, s) = (code.min(), code.max(), 0.5);
        // A scale that is a power of two divides exactly.
        let x = [
            min * s,
            max * s,
            (min * s).next_down(),
            (max * s).next_up(),
            0.0,
            -0.0,
            f32::MAX,
            f32::MIN,
            0.1,
        ];
        let want = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        for g in [3.0, -2.0, f32::MAX] {
            let (mut dx, mut learned, mut ds) = ([f32::NAN; 9], [f32::NAN; 9], [f32::NAN]);
            fake_quant_backward(grid, &x, 9, &[s], None, &[g; 9], &mut dx);
            assert_eq!(bits(&dx), bits(&want.map(|keep| if keep == 1.0 { g } else { 0.0 })), "{code:?}");
            lsq_backward(grid, &x, 9, &[s], &[g; 9], &mut learned, &mut ds);
            assert_eq!(bits(&learned), bits(&dx), "{code:?} learned");
        }
    }
}

#[test]
fn the_mask_is_where_the_definition_clamps() {
    for grid in grids() {
        for (seed, block) in [3, 16, 17, 32, 40, 100].into_iter().enumerate() {
            let (x, g) = (tensor(0, seed as u64, 4 * block), tensor(0, 77, 4 * block));
            let (min, max) = (grid.code.min(), grid.code.max());
            // Scales with which about half of the elements clip.
            let s: Vec<f32> = (1..=4).map(|i| 0.01 * i as f32 / max).collect();
            let z = [0.0, 1.0, 0.0, 1.0];
            for zeros in [None, Some(z.as_slice())] {
                let mut dx = vec![f32::NAN; x.len()];
                fake_quant_backward(grid, &x, block, &s, zeros, &g, &mut dx);
                let want: Vec<f32> = (0..x.len())
                    .map(|i| {
                        let quotient = x[i] / s[i / block];
                        let quotient = zeros.map_or(quotient, |z| quotient + z[i / block]);
                        if (min..=max).contains(&quotient) { g[i] } else { 0.0 }
                    })
                    .collect();
                assert_eq!(bits(&dx), bits(&want), "{grid:?} block {block}");
                assert!(want.contains(&0.0) && want.iter().any(|v| *v != 0.0), "{grid:?}: no test");
            }
        }
    }
}

/// L(s) = Σ g · y(s), with what rounding adds to each quotient frozen at `s0`, in f64.
fn frozen(code: Code, x: &[f32], g: &[f32], s0: f32, s: f64) -> f64 {
    let (min, max) = (f64::from(code.min()), f64::from(code.max()));
    x.iter()
        .zip(g)
        .map(|(&x, &g)| {
            let at = f64::from(x / s0);
            let quotient = f64::from(x) / s;
            let value = match at {
                _ if at < min => min,
                _ if at > max => max,
                _ => quotient + (f64::from(code.round(x / s0)) - at),
            };
            f64::from(g) * value * s
        })
        .sum()
}

#[test]
fn learned_scales_against_central_differences() {
    let codes = [
        Code::Int { bits: 8 },
        Code::Int { bits: 4 },
        Code::Int { bits: 2 },
        Code::Ternary,
        Code::Uint { bits: 4 },
    ];
    let floats = [Code::E2M1, Code::E2M3, Code::E3M2, Code::E4M3, Code::E5M2];
    for code in codes.into_iter().chain(floats) {
        let grid = Grid { code, scale: ScaleFormat::F32 };
        for (seed, (block, blocks)) in
            [(5, 3), (16, 4), (32, 5), (100, 3), (700, 2), (150_000, 1)].into_iter().enumerate()
        {
            let n = block * blocks;
            let (x, g) = (tensor(0, seed as u64, n), tensor(0, 100 + seed as u64, n));
            // Some elements clip.
            let s: Vec<f32> = (0..blocks).map(|i| 0.03 / code.max() * (1.0 + 0.3 * i as f32)).collect();
            let (mut dx, mut ds) = (vec![f32::NAN; n], vec![f32::NAN; blocks]);
            lsq_backward(grid, &x, block, &s, &g, &mut dx, &mut ds);
            let factor = 1.0 / (block as f64 * f64::from(code.max())).sqrt();
            for i in 0..blocks {
                let range = i * block..(i + 1) * block;
                let at = |s1: f64| frozen(code, &x[range.clone()], &g[range.clone()], s[i], s1);
                let (s0, h) = (f64::from(s[i]), f64::from(s[i]) * 1e-4);
                let want = (at(s0 + h) - at(s0 - h)) / (2.0 * h) * factor;
                // A part of the largest that the sum could be.
                let size: f64 = g[range.clone()].iter().map(|g| f64::from(g.abs())).sum::<f64>()
                    * f64::from(code.max())
                    * factor;
                let error = (f64::from(ds[i]) - want).abs() / size;
                assert!(error < 1e-5, "{code:?} block {block}: {} against {want} (error {error:e})", ds[i]);
            }
        }
    }
}

#[test]
fn a_learned_scale_that_clips_all_has_the_bounds_as_its_gradient() {
    let grid = Grid { code: Code::Int { bits: 4 }, scale: ScaleFormat::F32 };
    let (x, g) = ([100.0, -100.0, 50.0, 60.0], [1.0, 1.0, 2.0, -1.0]);
    let (mut dx, mut ds) = ([f32::NAN; 4], [f32::NAN; 1]);
    lsq_backward(grid, &x, 4, &[1.0], &g, &mut dx, &mut ds);
    assert_eq!(dx, [0.0; 4]);
    assert_eq!(ds[0], ((7.0 - 8.0 + 14.0 - 7.0) / 28f64.sqrt()) as f32);
}

#[test]
fn gradients_do_not_move_what_rounding_does() {
    // dx is the gradient of the surrogate with respect to x, element by element: 1 inside, 0 outside.
    let grid = Grid { code: Code::E2M1, scale: ScaleFormat::F32 };
    let x = tensor(0, 3, 64);
    let (mut y, mut dx) = (vec![0.0; 64], vec![0.0; 64]);
    fake_quant(grid, &x, 64, &[0.005], None, &mut y);
    fake_quant_backward(grid, &x, 64, &[0.005], None, &[1.0; 64], &mut dx);
    for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
        let clipped = y.abs() == 6.0 * 0.005 && x.abs() > y.abs();
        assert_eq!(dx[i], if clipped { 0.0 } else { 1.0 }, "{x} {y}");
    }
}

#[test]
fn no_elements() {
    let grid = Grid { code: Code::E2M1, scale: ScaleFormat::F32 };
    fake_quant_backward(grid, &[], 0, &[], None, &[], &mut []);
    lsq_backward(grid, &[], 0, &[], &[], &mut [], &mut []);
}
