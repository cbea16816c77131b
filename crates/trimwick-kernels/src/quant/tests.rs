//! Every loop at every width of registers that this processor has: the same bits as on arrays.

use super::blocks::Blocks;
use super::codes::encode_at;
use super::fake::{dynamic_at, static_at};
use super::gradient::{clipped_at, lsq_at};
use super::range::{amax_at, range_at};
use super::scales::scales_at;
use super::simd::Level;
use super::{Code, Grid, ScaleFormat};
use crate::rng::Rng;

const SCALES: [ScaleFormat; 6] = [
    ScaleFormat::F32,
    ScaleFormat::F16,
    ScaleFormat::BF16,
    ScaleFormat::E4M3,
    ScaleFormat::E8M0Ceil,
    ScaleFormat::E8M0Floor,
];

const CODES: [Code; 9] = [
    Code::Int { bits: 8 },
    Code::Int { bits: 4 },
    Code::Ternary,
    Code::Uint { bits: 4 },
    Code::E2M1,
    Code::E2M3,
    Code::E3M2,
    Code::E4M3,
    Code::E5M2,
];

/// Lengths of blocks below, at and above registers of 4, 8 and 16 lanes.
const BLOCKS: [usize; 14] = [1, 3, 4, 5, 8, 11, 15, 16, 17, 32, 33, 47, 64, 600];

/// Normal values, values with any finite bits, and both mixed with zeros of both signs.
fn tensor(kind: u64, n: usize) -> Vec<f32> {
    let rng = Rng::new(11, "levels", kind, "x");
    let mut x = vec![0.0; n];
    rng.fill_normal(0.0, 1.0, &mut x);
    for (i, v) in x.iter_mut().enumerate() {
        let bits = rng.u32_at(i as u64);
        match kind % 4 {
            1 => *v = f32::from_bits(bits & 0xbfff_ffff),
            2 if bits & 1 == 0 => *v *= 0.0,
            3 => *v = f32::from_bits(bits & 0x80ff_ffff),
            _ => {}
        }
    }
    x
}

/// Everything a level computes, as bits.
fn everything(level: Level, grid: Grid, x: &[f32], g: &[f32], block: usize) -> (Vec<Vec<u32>>, Vec<u8>) {
    let (n, blocks) = (x.len(), x.len() / block);
    let vec = |n: usize| vec![f32::NAN; n];
    let (mut s, mut z, mut amax, mut min, mut max) =
        (vec(blocks), vec(blocks), vec(blocks), vec(blocks), vec(blocks));
    let (mut y, mut dynamic, mut clipped, mut learned, mut ds) =
        (vec(n), vec(n), vec(n), vec(n), vec(blocks));
    let mut codes = vec![0; n];
    scales_at(level, grid, x, block, None, &mut s, Some(&mut z)).unwrap();
    amax_at(level, x, block, &mut amax).unwrap();
    range_at(level, x, block, &mut min, &mut max).unwrap();
    dynamic_at(level, grid, x, block, None, &mut dynamic).unwrap();
    let zeros = matches!(grid.code, Code::Uint { .. }).then_some(z.as_slice());
    let given = Blocks::new("test", grid.code, n, block, &s, zeros);
    static_at(level, given, x, &mut y);
    encode_at(level, given, x, &mut codes);
    // Half of the scale, so that something clips.
    let half: Vec<f32> = s.iter().map(|s| s / 2.0).collect();
    let given = Blocks::new("test", grid.code, n, block, &half, None);
    clipped_at(level, given, x, g, &mut clipped);
    lsq_at(level, given, x, g, &mut learned, &mut ds);
    let floats = [s.clone(), z.clone(), amax, min, max, y, dynamic, clipped, learned, ds];
    (floats.iter().map(|v| v.iter().map(|v| v.to_bits()).collect()).collect(), codes)
}

#[test]
fn every_level_equals_arrays() {
    let levels: Vec<Level> = Level::all().collect();
    let (scalar, wide) = levels.split_last().unwrap();
    for (code, scale) in CODES.iter().flat_map(|&code| SCALES.map(|scale| (code, scale))) {
        let grid = Grid { code, scale };
        for (i, &block) in BLOCKS.iter().enumerate() {
            for kind in 0..8 {
                let (x, g) = (tensor(kind, block * 3), tensor(4 * i as u64, block * 3));
                let want = everything(*scalar, grid, &x, &g, block);
                for level in wide {
                    let got = everything(*level, grid, &x, &g, block);
                    assert!(got == want, "{grid:?} kind {kind} block {block}: {level:?} differs");
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_at_every_level() {
    let grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::F32 };
    for level in Level::all() {
        for &block in &BLOCKS {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, block / 2, block - 1, 2 * block, 3 * block - 1] {
                    let mut x = tensor(0, 3 * block);
                    x[at] = bad;
                    let (mut a, mut b, mut y) = ([0.0; 3], [0.0; 3], vec![0.0; 3 * block]);
                    let case = format!("{level:?} {bad} at {at} in blocks of {block}");
                    let want = Err(crate::Error::NonFinite { index: at });
                    assert_eq!(amax_at(level, &x, block, &mut a), want, "{case}");
                    assert_eq!(range_at(level, &x, block, &mut a, &mut b), want, "{case}");
                    assert_eq!(dynamic_at(level, grid, &x, block, None, &mut y), want, "{case}");
                }
                // With given scales an infinity saturates and a NaN stays, in every lane.
                let x = vec![bad; 3 * block];
                let mut y = vec![0.0; 3 * block];
                static_at(level, Blocks::new("test", grid.code, x.len(), block, &[1.0; 3], None), &x, &mut y);
                let want = if bad.is_nan() { f32::NAN } else { bad.clamp(-128.0, 127.0) };
                assert!(
                    y.iter().all(|y| *y == want || y.is_nan() && want.is_nan()),
                    "{level:?} {bad}: {y:?}"
                );
            }
        }
    }
}
