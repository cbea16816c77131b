//! How sure a mean over windows of text is.

use trimwick_kernels::Rng;

/// Resamples that an interval is made of.
const RESAMPLES: u64 = 4000;

/// Where 95 % of the means of resampled windows lie; `None` for fewer than two windows.
///
/// A percentile bootstrap with a fixed seed (Efron and Tibshirani 1993, chapter 13): windows, not tokens, are drawn,
/// since the tokens of a window depend on each other.
pub(crate) fn interval(losses: &[f64]) -> Option<(f64, f64)> {
    if losses.len() < 2 {
        return None;
    }
    let n = losses.len() as u64;
    let rng = Rng::new(0, "bootstrap", 0, "windows");
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|round| {
            let drawn = (0..n).map(|i| losses[(rng.uniform_at(round * n + i) * n as f64) as usize]);
            drawn.sum::<f64>() / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some((at(0.025), at(0.975)))
}

/// The interval of the difference of two arms on the same windows.
pub(crate) fn paired(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    interval(&differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_the_error_of_the_mean() {
        // Of n values of standard deviation s the mean has s/√n; 1.96 of those either way hold 95 %.
        let rng = Rng::new(7, "test", 0, "normal");
        let values: Vec<f64> = (0..400).map(|i| 3. + 0.5 * rng.normal_at(i)).collect();
        let (low, high) = interval(&values).unwrap();
        let half = 1.96 * 0.5 / 20.;
        assert!(((high - low) / 2. - half).abs() < 0.1 * half, "{low} {high}");
        assert!(low < 3. && 3. < high);
    }

    #[test]
    fn one_window_says_nothing_and_equal_ones_everything() {
        assert_eq!(interval(&[1.]), None);
        assert_eq!(interval(&[2.; 9]), Some((2., 2.)));
    }

    #[test]
    fn what_windows_share_does_not_widen_a_difference() {
        let rng = Rng::new(8, "test", 0, "normal");
        let a: Vec<f64> = (0..50).map(|i| rng.normal_at(i)).collect();
        let b: Vec<f64> = a.iter().map(|a| a - 0.25).collect();
        let (low, high) = paired(&a, &b).unwrap();
        assert!((low - 0.25).abs() < 1e-12 && (high - 0.25).abs() < 1e-12);
        assert_eq!(paired(&a, &b[1..]), None);
    }
}
