//! From values to scales: the ranges of weights.

use rayon::prelude::*;
use trimwick_kernels::quant as kernels;
use trimwick_nn::ops::Scales;

use crate::histogram::{Histogram, SHARES};
use crate::options::Range;
use crate::spec::QuantSpec;
use crate::{Error, Result};

/// Values one task searches.
const PIECE: usize = 16 * 1024;

/// The scales of `values` in blocks of `block`, and the scale of the tensor behind them (1 unless the grid has one;
/// `global` if given). `layer` and `what` name them in the error of a NaN or an infinity.
pub(crate) fn scales(
    layer: &str,
    what: &'static str,
    spec: &QuantSpec,
    block: usize,
    values: &[f32],
    range: Range,
    global: Option<f32>,
) -> Result<(Scales, f32)> {
    let grid = spec.grid();
    let mut scales = vec![0f32; values.len() / block.max(1)];
    let mut zeros = spec.asymmetric().then(|| scales.clone());
    let global = kernels::scales(grid, values, block, global, &mut scales, zeros.as_deref_mut())
        .map_err(|e| Error::named(candle_core::Error::wrap(e), layer, what, values))?;
    let mut clip = |f: &(dyn Fn(&[f32]) -> Vec<f32> + Sync)| {
        let piece = block * (PIECE / block).max(1);
        scales.par_chunks_mut(piece / block).zip(values.par_chunks(piece)).for_each(|(scales, values)| {
            scales.copy_from_slice(&f(values));
        });
    };
    match range {
        Range::Max => {}
        Range::Percentile(percent) => {
            clip(&|piece| {
                let magnitude = |b: &[f32]| grid.scale(percentile(b, percent), global);
                piece.chunks_exact(block).map(magnitude).collect()
            });
        }
        Range::Mse => clip(&|piece| least_error(spec, block, piece, global)),
        Range::Entropy => {
            let largest = largest(values);
            let mut histogram = Histogram::default();
            histogram.add(values, largest);
            scales.fill(grid.scale(histogram.least_divergence(grid, largest), global));
        }
    }
    Ok((Scales { scales, zeros }, global))
}

/// The largest magnitude of finite values.
pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |a, v| a.max(v.abs()))
}

/// The magnitude that `percent` of the values do not exceed. Of a block that is mostly zeros it is the largest one:
/// a range of zero would lose the rest.
fn percentile(block: &[f32], percent: f64) -> f32 {
    let mut magnitudes: Vec<f32> = block.iter().map(|v| v.abs()).collect();
    let rank = ((percent / 100. * block.len() as f64).ceil() as usize).clamp(1, block.len());
    let found = *magnitudes.select_nth_unstable_by(rank - 1, f32::total_cmp).1;
    if found == 0. { largest(block) } else { found }
}

/// For each block the scale, among those of shares of its largest magnitude, with the least squared error.
fn least_error(spec: &QuantSpec, block: usize, values: &[f32], global: f32) -> Vec<f32> {
    let grid = spec.grid();
    let amax: Vec<f32> = values.chunks_exact(block).map(largest).collect();
    let mut best = vec![(f64::INFINITY, 1f32); amax.len()];
    let mut y = vec![0f32; values.len()];
    // The whole range first: of equal errors it stays.
    for share in std::iter::once(32).chain(SHARES.filter(|s| *s != 32)) {
        let share = share as f32 / 32.;
        let scales: Vec<f32> = amax.iter().map(|a| grid.scale((a * share).min(f32::MAX), global)).collect();
        kernels::fake_quant(grid, values, block, &scales, None, &mut y);
        for (i, (x, y)) in values.chunks_exact(block).zip(y.chunks_exact(block)).enumerate() {
            let difference = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
            let error = x.iter().zip(y).map(difference).sum::<f64>();
            if error < best[i].0 {
                best[i] = (error, scales[i]);
            }
        }
    }
    best.into_iter().map(|(_, scale)| scale).collect()
}
