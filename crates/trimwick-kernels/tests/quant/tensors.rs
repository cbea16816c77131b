//! Ten thousand tensors for each grid: the definition, bit for bit, along every way to it.

use trimwick_kernels::quant::{
    Code, Grid, ScaleFormat, block_amax, block_range, decode, encode, fake_quant, fake_quant_dynamic,
    pack_bits, packed_len, scales, unpack_bits,
};

use crate::reference::{KINDS, bits, grids, quantize, table, tensor};

const TENSORS: u64 = 10_000;

/// Block lengths around the widths of registers, and group sizes of presets.
const BLOCKS: &[usize] = &[1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100];

/// Scales and zeros of a tensor by its range.
fn by_range(grid: Grid, x: &[f32], block: usize) -> (f32, Vec<f32>, Option<Vec<f32>>) {
    let mut s = vec![f32::NAN; x.len() / block];
    let mut z = s.clone();
    let global = scales(grid, x, block, None, &mut s, Some(&mut z)).unwrap();
    let zeros = matches!(grid.code, Code::Uint { .. }).then_some(z);
    (global, s, zeros)
}

fn check(grid: Grid, table: &[(f64, u8)], x: &[f32], block: usize, case: &str) {
    let (global, s, zeros) = by_range(grid, x, block);
    let zeros = zeros.as_deref();
    assert!(s.iter().all(|&s| s > 0.0 && s.is_finite()), "{case}: scales {s:?}");

    let mut y = vec![f32::NAN; x.len()];
    fake_quant(grid, x, block, &s, zeros, &mut y);
    let (want_codes, want) = quantize(table, x, block, &s, zeros);
    assert_eq!(bits(&y), bits(&want), "{case}: definition");
    assert!(y.iter().all(|v| v.is_finite()), "{case}: not finite");
    for (x, y) in x.iter().zip(&y) {
        assert!(*y != 0.0 || y.to_bits() == 0, "{case}: {x} became −0");
        assert!(*x != 0.0 || y.to_bits() == 0, "{case}: 0 became {y}");
    }

    for global in [None, Some(global)] {
        let mut dynamic = vec![f32::NAN; x.len()];
        fake_quant_dynamic(grid, x, block, global, &mut dynamic).unwrap();
        assert_eq!(bits(&dynamic), bits(&y), "{case}: dynamic");
    }

    let mut codes = vec![0xaa; x.len()];
    encode(grid, x, block, &s, zeros, &mut codes);
    assert_eq!(codes, want_codes, "{case}: codes");
    let mut packed = vec![0xaa; packed_len(x.len(), grid.code.bits())];
    pack_bits(&codes, grid.code.bits(), &mut packed);
    let mut unpacked = vec![0xaa; x.len()];
    unpack_bits(&packed, grid.code.bits(), &mut unpacked);
    assert_eq!(unpacked, codes, "{case}: packing");
    let mut decoded = vec![f32::NAN; x.len()];
    decode(grid, &unpacked, block, &s, zeros, &mut decoded);
    assert_eq!(bits(&decoded), bits(&y), "{case}: decoded");

    let mut again = vec![f32::NAN; x.len()];
    fake_quant(grid, &y, block, &s, zeros, &mut again);
    assert_eq!(bits(&again), bits(&y), "{case}: quantized twice");
}

#[test]
fn ten_thousand_tensors_of_every_grid() {
    for grid in grids() {
        let table = table(grid.code);
        for seed in 0..TENSORS {
            let block = BLOCKS[seed as usize % BLOCKS.len()];
            let rows = 1 + seed as usize / 7 % 3;
            let x = tensor(seed as u32 / 3, seed, block * rows);
            let case =
                || format!("{grid:?} tensor {seed} of kind {}, block {block}", seed as u32 / 3 % KINDS);
            check(grid, &table, &x, block, &case());
        }
    }
}

#[test]
fn large_tensors_that_are_cut_into_pieces() {
    // Blocks of one piece, of a part of one, of many, and one that is itself cut.
    let shapes =
        [(1, 40_000), (32, 50_016), (576, 57_600), (20_000, 60_000), (150_001, 150_001), (140_000, 280_000)];
    for grid in grids().into_iter().step_by(3) {
        let table = table(grid.code);
        for (i, (block, n)) in shapes.into_iter().enumerate() {
            let x = tensor([0, 5, 7, 8][i % 4], i as u64, n);
            check(grid, &table, &x, block, &format!("{grid:?} {n} elements in blocks of {block}"));
        }
    }
}

#[test]
fn amax_and_range_are_those_of_the_elements() {
    for (kind, &block) in BLOCKS.iter().cycle().take(170).enumerate() {
        let x = tensor(kind as u32, 9, block * 5);
        let (mut amax, mut min, mut max) = ([f32::NAN; 5], [f32::NAN; 5], [f32::NAN; 5]);
        block_amax(&x, block, &mut amax).unwrap();
        block_range(&x, block, &mut min, &mut max).unwrap();
        for (i, x) in x.chunks(block).enumerate() {
            let fold = |first: f32, f: fn(f32, f32) -> f32| x.iter().fold(first, |a, &b| f(a, b));
            assert_eq!(amax[i], fold(0.0, |a, b| a.max(b.abs())), "kind {kind} block {block}");
            assert_eq!(min[i], fold(f32::INFINITY, f32::min), "kind {kind} block {block}");
            assert_eq!(max[i], fold(f32::NEG_INFINITY, f32::max), "kind {kind} block {block}");
            assert!(min[i] != 0.0 || min[i].to_bits() == 0, "a zero is +0.0");
        }
    }
}

#[test]
fn no_value_saturates_under_the_rule_of_ceil() {
    let uint = |grid: &Grid| matches!(grid.code, Code::Uint { .. });
    for grid in grids().into_iter().filter(|grid| grid.scale == ScaleFormat::E8M0Ceil && !uint(grid)) {
        for seed in 0..2000 {
            let x = tensor(0, seed, 32);
            let (_, s, _) = by_range(grid, &x, 32);
            let largest = x.iter().fold(0f32, |a, b| a.max(b.abs())) / s[0];
            assert!(largest <= grid.code.max(), "{grid:?}: {largest}");
            assert!(2.0 * largest > grid.code.max(), "{grid:?}: {largest} would fit a smaller scale");
        }
    }
}

#[test]
fn all_zero_blocks_are_positive_zero() {
    for grid in grids() {
        for zero in [0.0, -0.0] {
            // One block of zeros beside one that is not.
            let mut x = vec![zero; 64];
            x[32..].fill(0.3);
            let mut y = vec![f32::NAN; 64];
            fake_quant_dynamic(grid, &x, 32, None, &mut y).unwrap();
            assert!(y[..32].iter().all(|v| v.to_bits() == 0), "{grid:?}");
            assert!(y[32..].iter().all(|v| *v > 0.0), "{grid:?}: {:?}", &y[32..]);
        }
    }
}

#[test]
fn known_values() {
    let run = |code, scale, x: &[f32]| {
        let mut y = vec![f32::NAN; x.len()];
        fake_quant_dynamic(Grid { code, scale }, x, x.len(), None, &mut y).unwrap();
        y
    };
    let x = [0.1, 0.2, 0.35, 0.16, 0.85, 0.9, 0.67, 0.76];
    let mxfp4 = [0.125, 0.25, 0.375, 0.125, 0.75, 1.0, 0.75, 0.75];
    assert_eq!(run(Code::E2M1, ScaleFormat::E8M0Ceil, &x), mxfp4);
    let int4 = run(Code::Int { bits: 4 }, ScaleFormat::F32, &[7.0, 0.5, 1.5, 2.5, -0.5, -7.0, -3.4]);
    assert_eq!(int4, [7.0, 0.0, 2.0, 2.0, 0.0, -7.0, -3.0]);
    let ternary = run(Code::Ternary, ScaleFormat::F32, &[2.0, 1.0, -1.1, 0.9, -2.0]);
    assert_eq!(ternary, [2.0, 0.0, -2.0, 0.0, -2.0]);
    let uint2 = run(Code::Uint { bits: 2 }, ScaleFormat::F32, &[-1.0, 2.0, 0.4, 0.6, -0.6]);
    assert_eq!(uint2, [-1.0, 2.0, 0.0, 1.0, -1.0]);
}

#[test]
fn given_scales_clip() {
    let grid = Grid { code: Code::Int { bits: 4 }, scale: ScaleFormat::F32 };
    let x = [100.0, -100.0, 7.4, 7.6, -8.4, -8.6, f32::MAX, f32::MIN, f32::INFINITY];
    let mut y = [f32::NAN; 9];
    fake_quant(grid, &x, 9, &[1.0], None, &mut y);
    assert_eq!(y, [7.0, -8.0, 7.0, 7.0, -8.0, -8.0, 7.0, -8.0, 7.0]);
    let mut y = [0.0; 3];
    fake_quant(grid, &[f32::NAN, 1.0, -f32::NAN], 3, &[1.0], None, &mut y);
    assert!(y[0].is_nan() && y[1] == 1.0 && y[2].is_nan());
}

#[test]
fn huge_scales_give_finite_numbers_that_every_reader_gets() {
    let mut scales = vec![f32::MAX, 1e38, 2f32.powi(127), 2f32.powi(126), 1e37, 3e36];
    scales.extend([1e35, 2f32.powi(-127), f32::MIN_POSITIVE]);
    for grid in grids() {
        let table = table(grid.code);
        for &s in &scales {
            let x = tensor(4, 1, 40);
            let zeros = matches!(grid.code, Code::Uint { .. }).then_some([(grid.code.max() / 2.0).ceil()]);
            let zeros = zeros.as_ref().map(|z| z.as_slice());
            let mut y = vec![f32::NAN; x.len()];
            fake_quant(grid, &x, x.len(), &[s], zeros, &mut y);
            assert!(y.iter().all(|v| v.is_finite()), "{grid:?} {s:e}: {y:?}");
            assert_eq!(bits(&y), bits(&quantize(&table, &x, x.len(), &[s], zeros).1), "{grid:?} {s:e}");
        }
    }
}

#[test]
fn nothing_is_done_to_no_elements() {
    for grid in grids() {
        for block in [0, 1, 32] {
            fake_quant(grid, &[], block, &[], None, &mut []);
            fake_quant_dynamic(grid, &[], block, None, &mut []).unwrap();
            encode(grid, &[], block, &[], None, &mut []);
            decode(grid, &[], block, &[], None, &mut []);
            assert_eq!(scales(grid, &[], block, None, &mut [], Some(&mut [])).unwrap(), 1.0);
            block_amax(&[], block, &mut []).unwrap();
        }
    }
}
