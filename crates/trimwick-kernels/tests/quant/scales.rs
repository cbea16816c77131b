//! Scales from ranges, against arithmetic that is exact.

use trimwick_kernels::Rng;
use trimwick_kernels::quant::{Code, Grid, ScaleFormat, scales};

use crate::reference::{codes, grids};

/// Every power of two, numbers beside it, and random ones: positive, up to the largest.
fn magnitudes() -> Vec<f32> {
    let rng = Rng::new(2, "magnitudes", 0, "");
    let mut x = vec![f32::MAX, 1e-45, 3e-45, f32::MIN_POSITIVE];
    for e in -149..128 {
        let power = 2f64.powi(e) as f32;
        x.extend([power, power.next_up(), power.next_down(), power * 1.5, power * 1.75, power * 1.984_375]);
    }
    x.extend((0..20_000).map(|i| f32::from_bits(rng.u32_at(i) & 0x7fff_ffff)));
    x.retain(|&v| v > 0.0 && v.is_finite());
    x
}

#[test]
fn powers_of_two_equal_exact_arithmetic() {
    for code in codes() {
        let max = f64::from(code.max());
        let ceil = Grid { code, scale: ScaleFormat::E8M0Ceil };
        let floor = Grid { code, scale: ScaleFormat::E8M0Floor };
        let exponent_of_max = (0..20).take_while(|&e| 2f64.powi(e) <= max).last().unwrap();
        let mut amaxes = magnitudes();
        // Where the rule of ceil changes: max · 2^e and its neighbours.
        let edges = (-126..100).map(|e| (max * 2f64.powi(e)) as f32);
        amaxes.extend(edges.flat_map(|v| [v, v.next_up(), v.next_down()]).filter(|v| v.is_finite()));
        for amax in amaxes {
            let exact = f64::from(amax);
            // From the logarithm, corrected to what is exact: both sides of each comparison are f64 without rounding.
            let mut e = (exact / max).log2().ceil() as i32;
            while max * 2f64.powi(e) < exact {
                e += 1;
            }
            while max * 2f64.powi(e - 1) >= exact {
                e -= 1;
            }
            let want = 2f64.powi(e.clamp(-127, 127)) as f32;
            assert_eq!(ceil.scale(amax, 1.0), want, "{code:?} ceil of {amax:e}");
            let mut e = exact.log2().floor() as i32;
            while 2f64.powi(e) > exact {
                e -= 1;
            }
            while 2f64.powi(e + 1) <= exact {
                e += 1;
            }
            let want = 2f64.powi((e - exponent_of_max).clamp(-127, 127)) as f32;
            assert_eq!(floor.scale(amax, 1.0), want, "{code:?} floor of {amax:e}");
        }
    }
}

/// Whether a scale is one of its format.
fn representable(grid: &Grid, s: f32, global: f32) -> bool {
    match grid.scale {
        ScaleFormat::F32 => true,
        ScaleFormat::BF16 => s.to_bits() & 0xffff == 0,
        // Ten bits after the leading one, or a multiple of 2⁻²⁴.
        ScaleFormat::F16 => {
            s <= 65504.0 && (s.to_bits() & 0x1fff == 0 || s < 6.2e-5 && (s * 2f32.powi(24)).fract() == 0.0)
        }
        ScaleFormat::E4M3 => (0..=0x7e).any(|byte| Code::E4M3.decode(byte) * global == s),
        ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => {
            s.to_bits() & 0x7f_ffff == 0 || s == 2f32.powi(-127)
        }
    }
}

#[test]
fn scales_are_positive_representable_and_stay_when_rounded_again() {
    for grid in grids() {
        let max = grid.code.max();
        for (i, amax) in magnitudes().into_iter().enumerate().step_by(3) {
            // A tensor whose largest magnitude is that of the block or a thousand times it.
            let tensor = if i % 2 == 0 { amax } else { amax * 1000.0 };
            let global = grid.global(tensor.min(f32::MAX));
            assert!(global > 0.0 && global.is_finite(), "{grid:?} {amax:e}");
            let s = grid.scale(amax, global);
            assert!(s >= 2f32.powi(-127) && s.is_finite(), "{grid:?} {amax:e}: {s:e}");
            assert!(representable(&grid, s, global), "{grid:?} {amax:e}: {s:e}");
            assert_eq!(grid.round_scale(s, global), s, "{grid:?} {amax:e}");
            if !matches!(grid.scale, ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor) {
                assert!((max * s).is_finite(), "{grid:?} {amax:e}: {s:e} overflows");
            }
            let any = amax.sqrt() * 1.234_567;
            let rounded = grid.round_scale(any, global);
            assert!(representable(&grid, rounded, global), "{grid:?} {any:e}: {rounded:e}");
            assert_eq!(grid.round_scale(rounded, global), rounded, "{grid:?} {any:e}");
        }
        let global = grid.global(3.0);
        let none = if grid.scale == ScaleFormat::E4M3 { global } else { 1.0 };
        assert_eq!(grid.scale(0.0, global), none, "{grid:?}");
        assert_eq!(grid.global(0.0), 1.0, "{grid:?}");
    }
}

#[test]
fn rounded_scales_are_the_nearest() {
    let rng = Rng::new(3, "scales", 0, "");
    for i in 0..50_000 {
        let s = f32::from_bits(0x3000_0000 + rng.u32_at(i) % 0x1000_0000);
        let grid = |scale| Grid { code: Code::Int { bits: 8 }, scale };
        let bf16 = grid(ScaleFormat::BF16).round_scale(s, 1.0);
        assert!(
            (f64::from(bf16) - f64::from(s)).abs() <= f64::from(ulp(s, 7)) / 2.0,
            "bf16 of {s:e}: {bf16:e}"
        );
        let f16 = grid(ScaleFormat::F16).round_scale(s, 1.0);
        let want = f64::from(ulp(s, 10)).max(2f64.powi(-24)) / 2.0;
        if s < 65504.0 && s > 2f32.powi(-24) {
            assert!((f64::from(f16) - f64::from(s)).abs() <= want, "f16 of {s:e}: {f16:e}");
        }
        for scale in [ScaleFormat::E8M0Ceil, ScaleFormat::E8M0Floor] {
            let power = grid(scale).round_scale(s, 1.0);
            assert_eq!(power.log2(), f64::from(s).log2().round() as f32, "{s:e}");
        }
        let global = 1e-4;
        let e4m3 = grid(ScaleFormat::E4M3).round_scale(s, global);
        let multiple = Code::E4M3.round((s / global).max(2f32.powi(-9)));
        assert_eq!(e4m3, multiple * global, "{s:e}");
    }
}

/// The distance of numbers with so many mantissa bits near x.
fn ulp(x: f32, mantissa: i32) -> f32 {
    2f32.powi((f64::from(x).log2().floor() as i32).max(-126) - mantissa)
}

#[test]
fn ties_of_scales_go_to_even() {
    let round = |scale, s| Grid { code: Code::Int { bits: 4 }, scale }.round_scale(s, 1.0);
    let at = |mantissa: i32, steps: f32| 1.0 + steps * 2f32.powi(-mantissa);
    for (scale, mantissa) in [(ScaleFormat::BF16, 7), (ScaleFormat::F16, 10)] {
        assert_eq!(round(scale, at(mantissa, 0.5)), at(mantissa, 0.0), "{scale:?}");
        assert_eq!(round(scale, at(mantissa, 1.5)), at(mantissa, 2.0), "{scale:?}");
        assert_eq!(round(scale, at(mantissa, 2.5)), at(mantissa, 2.0), "{scale:?}");
    }
}

#[test]
fn known_scales() {
    let grid = |code, scale| Grid { code, scale };
    let int4 = grid(Code::Int { bits: 4 }, ScaleFormat::F32);
    assert_eq!(int4.scale(3.5, 1.0), 0.5);
    // amax / (6 · 448), then 6 / 6 in units of it.
    let nvfp4 = grid(Code::E2M1, ScaleFormat::E4M3);
    assert_eq!(nvfp4.global(2688.0), 1.0);
    assert_eq!(nvfp4.scale(6.0, 1.0), 1.0);
    assert_eq!(nvfp4.scale(1e-9, 1.0), 2f32.powi(-9), "a small block has the smallest scale");
    assert_eq!(nvfp4.scale(1e9, 1.0), 448.0, "a block beyond the tensor saturates");
    // The rules differ where a mantissa is above that of the code.
    for (amax, ceil, floor) in [
        (6.0, 1.0, 1.0),
        (6.1, 2.0, 1.0),
        (4.0, 1.0, 1.0),
        (3.0, 0.5, 0.5),
        (0.1, 2f32.powi(-5), 2f32.powi(-6)),
    ] {
        assert_eq!(grid(Code::E2M1, ScaleFormat::E8M0Ceil).scale(amax, 1.0), ceil, "ceil {amax}");
        assert_eq!(grid(Code::E2M1, ScaleFormat::E8M0Floor).scale(amax, 1.0), floor, "floor {amax}");
    }
}

#[test]
fn affine_ranges() {
    let uint = |bits, scale| Grid { code: Code::Uint { bits }, scale };
    for (min, max, scale, zero) in [
        (-1.0, 2.0, 0.2, 5.0),
        (1.0, 3.0, 0.2, 0.0),
        (-3.0, -1.0, 0.2, 15.0),
        (0.0, 0.0, 1.0, 0.0),
        (-7.5, 7.5, 1.0, 8.0),
    ] {
        assert_eq!(uint(4, ScaleFormat::F32).affine(min, max), (scale, zero), "{min} to {max}");
    }
    let largest = [f32::MAX, f32::MAX / 3.0, 1e38, 1.0, 1e-30, 1e-42, 0.0];
    for grid in grids().into_iter().filter(|grid| matches!(grid.code, Code::Uint { .. })) {
        for (min, max) in largest.iter().flat_map(|&a| largest.map(|b| (-a, b))) {
            let (scale, zero) = grid.affine(min, max);
            assert!(scale > 0.0 && scale.is_finite(), "{grid:?} {min:e} {max:e}: {scale:e}");
            assert!(zero.fract() == 0.0 && (0.0..=grid.code.max()).contains(&zero), "{grid:?}: {zero}");
            let (mut y, mut y_zero) = ([f32::NAN; 3], 0.0);
            trimwick_kernels::quant::fake_quant(grid, &[min, 0.0, max], 3, &[scale], Some(&[zero]), &mut y);
            assert!(y.iter().all(|v| v.is_finite()), "{grid:?} {min:e} {max:e}: {y:?}");
            std::mem::swap(&mut y[1], &mut y_zero);
            assert_eq!(y_zero.to_bits(), 0, "{grid:?}: zero is exact");
        }
    }
}

#[test]
fn a_given_global_scale_is_used_and_returned() {
    let grid = Grid { code: Code::E2M1, scale: ScaleFormat::E4M3 };
    let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let mut s = [0.0; 2];
    assert_eq!(scales(grid, &x, 16, None, &mut s, None).unwrap(), 31.0 / 2688.0);
    assert_eq!(s, [grid.scale(15.0, 31.0 / 2688.0), grid.scale(31.0, 31.0 / 2688.0)]);
    assert_eq!(scales(grid, &x, 16, Some(0.25), &mut s, None).unwrap(), 0.25);
    assert_eq!(s, [grid.scale(15.0, 0.25), grid.scale(31.0, 0.25)]);
}
