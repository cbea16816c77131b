//! A histogram of magnitudes that grows with what it sees.

use rayon::prelude::*;
use trimwick_kernels::quant::Grid;

/// Bins of equal width over `[0, 2^exponent]`.
pub(crate) const BINS: usize = 2048;

/// The least exponent: what is smaller is in the first bin.
const LEAST: i32 = -100;

/// Values one task counts.
const CHUNK: usize = 64 * 1024;

/// Shares of the largest magnitude that an error is measured at, in 32nds: 1 is among them, most are below.
pub(crate) const SHARES: std::ops::RangeInclusive<u32> = 4..=34;

/// Counts of magnitudes. The upper end is a power of two: when it has to grow, whole bins are merged, so that the
/// counts are the same whatever the order in which values were seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram {
    exponent: i32,
    counts: Vec<i64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: LEAST, counts: vec![0; BINS] }
    }
}

impl Histogram {
    /// Adds finite values of which `largest` is the largest magnitude.
    pub(crate) fn add(&mut self, values: &[f32], largest: f32) {
        let mut exponent = self.exponent;
        while 2f64.powi(exponent) < f64::from(largest) {
            exponent += 1;
        }
        self.widen(exponent);
        // Bins in an f32: exact, being a product with a power of two.
        let per_unit = 2f32.powi(11 - exponent);
        let count = |piece: &[f32]| {
            let mut counts = vec![0i64; BINS];
            for v in piece {
                counts[((v.abs() * per_unit) as usize).min(BINS - 1)] += 1;
            }
            counts
        };
        for counts in values.par_chunks(CHUNK).map(count).collect::<Vec<_>>() {
            self.counts.iter_mut().zip(counts).for_each(|(sum, c)| *sum += c);
        }
    }

    fn widen(&mut self, exponent: i32) {
        let shift = (exponent - self.exponent).clamp(0, 63) as u32;
        if shift == 0 {
            return;
        }
        let old = std::mem::replace(&mut self.counts, vec![0; BINS]);
        for (i, count) in old.into_iter().enumerate() {
            self.counts[(i as u64 >> shift) as usize] += count;
        }
        self.exponent = exponent;
    }

    /// The counts, and the exponent at the end.
    pub(crate) fn to_saved(&self) -> Vec<i64> {
        self.counts.iter().copied().chain([i64::from(self.exponent)]).collect()
    }

    /// What [`Histogram::to_saved`] gave.
    pub(crate) fn from_saved(saved: &[i64]) -> Option<Self> {
        let (exponent, counts) = saved.split_last()?;
        let exponent = i32::try_from(*exponent).ok().filter(|e| (LEAST..=128).contains(e))?;
        let sound = counts.len() == BINS && counts.iter().all(|c| *c >= 0);
        sound.then(|| Self { exponent, counts: counts.to_vec() })
    }

    fn width(&self) -> f64 {
        2f64.powi(self.exponent - 11)
    }

    /// The middle of a bin.
    fn middle(&self, bin: usize) -> f64 {
        (bin as f64 + 0.5) * self.width()
    }

    /// The magnitude that `percent` of the values do not exceed, up to the width of a bin; at most `largest`.
    pub(crate) fn percentile(&self, percent: f64, largest: f32) -> f32 {
        let total: i64 = self.counts.iter().sum();
        let rank = (percent / 100. * total as f64).ceil() as i64;
        let mut below = 0;
        for (bin, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return ((bin + 1) as f64 * self.width()).min(f64::from(largest)) as f32;
            }
        }
        largest
    }

    /// The share of `largest` at which the values, at the middles of their bins, are quantized with the least squared
    /// error.
    pub(crate) fn least_error(&self, grid: Grid, largest: f32) -> f32 {
        let error = |range: f32| {
            let scale = f64::from(grid.scale(range, 1.));
            let of_bin = |(bin, count): (usize, &i64)| {
                let x = self.middle(bin);
                let y = f64::from(grid.code.round((x / scale) as f32)) * scale;
                *count as f64 * (x - y) * (x - y)
            };
            self.counts.iter().enumerate().filter(|(_, c)| **c > 0).map(of_bin).sum::<f64>()
        };
        // The whole range first: of equal errors it stays.
        let mut best = (error(largest), largest);
        for share in SHARES.filter(|s| *s != 32) {
            let range = (f64::from(largest) * f64::from(share) / 32.) as f32;
            let error = error(range);
            if error < best.0 {
                best = (error, range);
            }
        }
        best.1
    }

    /// The range that loses least information: for ranges of more and more bins, the counts, with all that lies above in
    /// the last bin, against the counts spread evenly over the bins of each code (the calibration of TensorRT). The
    /// first bin is left out: the zeros of a mask or a rectifier would drown the rest.
    pub(crate) fn least_divergence(&self, grid: Grid, largest: f32) -> f32 {
        let used = ((f64::from(largest) / self.width()) as usize + 1).min(BINS);
        let mut best = (f64::INFINITY, largest);
        for bins in (used.div_ceil(8)..=used).rev().step_by((used / 128).max(1)) {
            let range = if bins == used { largest } else { (bins as f64 * self.width()) as f32 };
            let divergence = self.divergence(grid, range, bins);
            if divergence < best.0 {
                best = (divergence, range);
            }
        }
        best.1
    }

    fn divergence(&self, grid: Grid, range: f32, bins: usize) -> f64 {
        let scale = f64::from(grid.scale(range, 1.));
        let codes: Vec<f32> =
            (1..bins).map(|bin| grid.code.round((self.middle(bin) / scale) as f32)).collect();
        let mut kept = self.counts[1..bins.max(1)].to_vec();
        let inside: Vec<i64> = kept.clone();
        if let Some(last) = kept.last_mut() {
            *last += self.counts[bins..].iter().sum::<i64>();
        }
        // Runs of bins of one code, what is inside spread evenly over those of them that are not empty.
        let mut spread = vec![0f64; kept.len()];
        let mut start = 0;
        for run in codes.chunk_by(|a, b| a == b) {
            let end = start + run.len();
            let filled = kept[start..end].iter().filter(|c| **c > 0).count();
            let mean = inside[start..end].iter().sum::<i64>() as f64 / filled.max(1) as f64;
            for (s, _) in spread[start..end].iter_mut().zip(&kept[start..end]).filter(|(_, c)| **c > 0) {
                *s = mean;
            }
            start = end;
        }
        let spread_sum: f64 = spread.iter().sum();
        let kept_sum = kept.iter().sum::<i64>() as f64;
        if kept_sum == 0. || spread_sum == 0. {
            return f64::INFINITY;
        }
        let term = |(count, spread): (&i64, &f64)| {
            let (p, q) = (*count as f64 / kept_sum, spread / spread_sum);
            if p == 0. { 0. } else { p * (p / q).ln() }
        };
        kept.iter().zip(&spread).map(term).sum()
    }
}

#[cfg(test)]
mod tests {
    use trimwick_kernels::Rng;
    use trimwick_kernels::quant::{Code, ScaleFormat};

    use super::*;

    const INT8: Grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::F32 };
    const INT4: Grid = Grid { code: Code::Int { bits: 4 }, scale: ScaleFormat::F32 };

    fn normal(n: usize) -> Vec<f32> {
        let mut values = vec![0f32; n];
        Rng::new(1, "histogram", 0, "x").fill_normal(0., 1., &mut values);
        values
    }

    fn largest(values: &[f32]) -> f32 {
        values.iter().fold(0f32, |a, v| a.max(v.abs()))
    }

    #[test]
    fn the_order_of_what_is_seen_does_not_matter() {
        let mut values = normal(10_000);
        values[77] = 300.;
        values[78] = 0.;
        let mut whole = Histogram::default();
        whole.add(&values, largest(&values));
        let (mut there, mut back) = (Histogram::default(), Histogram::default());
        values.chunks(999).for_each(|piece| there.add(piece, largest(piece)));
        values.chunks(999).rev().for_each(|piece| back.add(piece, largest(piece)));
        assert_eq!(whole, there);
        assert_eq!(whole, back);
        assert_eq!(whole.counts.iter().sum::<i64>(), 10_000);
        assert_eq!(Histogram::from_saved(&whole.to_saved()).as_ref(), Some(&whole));
        assert!(Histogram::from_saved(&[1, 2]).is_none());
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values_up_to_a_bin() {
        let values = normal(20_000);
        let mut h = Histogram::default();
        h.add(&values, largest(&values));
        let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        for percent in [1., 50., 99., 99.9, 100.] {
            let exact = sorted[((percent / 100. * 20_000f64).ceil() as usize).max(1) - 1];
            let found = h.percentile(percent, largest(&values));
            assert!((found - exact).abs() <= h.width() as f32, "{percent}: {found} {exact}");
        }
        assert_eq!(h.percentile(100., largest(&values)), largest(&values));
    }

    #[test]
    fn one_outlier_is_clipped_and_no_outlier_is_not() {
        let mut values = normal(50_000);
        let plain = largest(&values);
        let mut h = Histogram::default();
        h.add(&values, plain);
        let ranges = |h: &Histogram, g: Grid, l| [h.least_error(g, l), h.least_divergence(g, l)];
        for found in ranges(&h, INT8, plain) {
            assert!(found > 0.6 * plain && found <= 1.07 * plain, "{found} of {plain}");
        }
        values[5] = 40.;
        let mut h = Histogram::default();
        h.add(&values, 40.);
        for found in ranges(&h, INT4, 40.) {
            assert!(found < 20. && found > 1., "{found}");
        }
    }

    #[test]
    fn values_on_the_grid_already_keep_their_range() {
        // Codes −7..7 of one scale: at the middles of bins nothing but the whole range has no error left.
        let values: Vec<f32> = (0..7000).map(|i| (i % 15) as f32 - 7.).collect();
        let mut h = Histogram::default();
        h.add(&values, 7.);
        assert_eq!(h.least_error(INT4, 7.), 7.);
    }

    #[test]
    fn zeros_alone_have_a_range_of_zero() {
        let mut h = Histogram::default();
        h.add(&[0.; 100], 0.);
        assert_eq!(h.percentile(99., 0.), 0.);
        assert_eq!((h.least_error(INT8, 0.), h.least_divergence(INT8, 0.)), (0., 0.));
    }
}
