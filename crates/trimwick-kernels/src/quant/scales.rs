//! Scales of a tensor from its range.

use rayon::prelude::*;

use super::blocks::{PIECE, check_len, count};
use super::code::Code;
use super::grid::{Grid, ScaleFormat};
use super::range::{amax_at, range_at};
use super::scaler::Fill;
use super::simd::Level;
use crate::error::Result;

/// The scale of each block of `block` consecutive elements, and the zero points of [`Code::Uint`], from the range.
///
/// Returns the global scale that was used: `global`, or [`Grid::global`] of the largest magnitude of `x`. `zeros` is
/// filled with 0 for signed codes.
///
/// # Errors
/// [`Error::NonFinite`](crate::Error::NonFinite) with the first NaN or infinity; the outputs are then unspecified.
///
/// # Panics
/// When `block` does not divide the elements, an output does not have one element for each block, or `zeros` is
/// missing for [`Code::Uint`].
pub fn scales(
    grid: Grid,
    x: &[f32],
    block: usize,
    global: Option<f32>,
    scales: &mut [f32],
    zeros: Option<&mut [f32]>,
) -> Result<f32> {
    const OP: &str = "scales";
    grid.code.check(OP);
    let blocks = count(OP, x.len(), block);
    check_len(OP, "scales", scales.len(), blocks);
    if let Some(zeros) = &zeros {
        check_len(OP, "zeros", zeros.len(), blocks);
    }
    scales_at(Level::detect(), grid, x, block, global, scales, zeros)
}

pub(super) fn scales_at(
    level: Level,
    grid: Grid,
    x: &[f32],
    block: usize,
    global: Option<f32>,
    scales: &mut [f32],
    zeros: Option<&mut [f32]>,
) -> Result<f32> {
    if let Code::Uint { .. } = grid.code {
        let Some(zeros) = zeros else { panic!("scales: Uint without zeros, expected one for each block") };
        range_at(level, x, block, scales, zeros)?;
        let scaler = grid.scaler(1.0);
        let fill = |(lo, hi): (&mut [f32], &mut [f32])| level.run(Fill::Affine(scaler, lo, hi));
        match scales.len() > PIECE {
            true => {
                (scales.par_chunks_mut(PIECE), zeros.par_chunks_mut(PIECE)).into_par_iter().for_each(fill)
            }
            false => fill((scales, zeros)),
        }
        return Ok(1.0);
    }
    if let Some(zeros) = zeros {
        zeros.fill(0.0);
    }
    amax_at(level, x, block, scales)?;
    let global = global.unwrap_or_else(|| match grid.scale {
        ScaleFormat::E4M3 => grid.global(scales.iter().fold(0.0, |a, &b| a.max(b))),
        _ => 1.0,
    });
    let scaler = grid.scaler(global);
    let fill = |amax: &mut [f32]| level.run(Fill::Symmetric(scaler, amax));
    match scales.len() > PIECE {
        true => scales.par_chunks_mut(PIECE).for_each(fill),
        false => fill(scales),
    }
    Ok(global)
}
