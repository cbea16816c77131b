//! Whether two models differ on what both were measured on.

use serde::Serialize;
use trimwick_kernels::Rng;

/// McNemar's exact test of two accuracies on the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct McNemar {
    /// Questions that only the first model has right.
    pub first_alone: u64,
    /// Questions that only the second model has right.
    pub second_alone: u64,
    /// The probability of counts as uneven as these, or more so, if both models were as good: two-sided.
    pub p: f64,
}

/// Compares which questions two models have right (McNemar 1947, with binomial probabilities): those that both or
/// neither has right say nothing of the difference, and each of the others is a toss of a coin if there is none.
pub fn mcnemar(first: &[bool], second: &[bool]) -> McNemar {
    let alone =
        |of: fn(bool, bool) -> bool| first.iter().zip(second).filter(|&(&a, &b)| of(a, b)).count() as u64;
    let (first_alone, second_alone) = (alone(|a, b| a && !b), alone(|a, b| b && !a));
    let n = first_alone + second_alone;
    // Both tails: twice the probability of at most the smaller count. As logarithms, since 2⁻ⁿ may be below any float.
    let mut log_of_k = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_of_k.exp();
    for k in 1..=first_alone.min(second_alone) {
        log_of_k += ((n - k + 1) as f64 / k as f64).ln();
        tail += log_of_k.exp();
    }
    McNemar { first_alone, second_alone, p: (2. * tail).min(1.) }
}

/// The mean of the differences of pairs, first less second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedMean {
    /// Their mean.
    pub mean: f64,
    /// Its standard error; none of a single pair.
    pub stderr: Option<f64>,
    /// The share of all ways to give the differences signs whose mean is as far from 0, or farther: two-sided.
    pub p: f64,
}

/// Up to so many pairs all ways to give signs are tried.
const ALL_SIGNS: usize = 13;
/// Ways that are drawn where there are more pairs, by a fixed seed.
const DRAWS: u64 = 9999;

/// Compares two models on the same windows of text by their losses: a test by flipping signs (Fisher 1935), which asks no
/// more than that a difference could as well have had the other sign if the models were as good. `None` without pairs.
pub fn paired_mean(first: &[f64], second: &[f64]) -> Option<PairedMean> {
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let n = differences.len();
    if n == 0 {
        return None;
    }
    let sum: f64 = differences.iter().sum();
    let mean = sum / n as f64;
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    let stderr = (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt());
    // Sums in another order of signs round differently.
    let size: f64 = differences.iter().map(|d| d.abs()).sum();
    let bar = sum.abs() - 1e-12 * size;
    let is_far = |flip: &dyn Fn(usize) -> bool| {
        let flipped = differences.iter().enumerate().map(|(i, d)| if flip(i) { -d } else { *d });
        flipped.sum::<f64>().abs() >= bar
    };
    let p = if n <= ALL_SIGNS {
        let ways = 1u32 << n;
        let far = (0..ways).filter(|way| is_far(&|i| way >> i & 1 == 1)).count();
        far as f64 / f64::from(ways)
    } else {
        let rng = Rng::new(0, "sign flips", 0, "windows");
        let words = n.div_ceil(32) as u64;
        let bit = |draw: u64, i: usize| rng.u32_at(draw * words + i as u64 / 32) >> (i % 32) & 1 == 1;
        let far = (0..DRAWS).filter(|&draw| is_far(&|i| bit(draw, i))).count();
        // What was seen is one of the ways.
        (far + 1) as f64 / (DRAWS + 1) as f64
    };
    Some(PairedMean { mean, stderr, p })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(first_alone: usize, second_alone: usize) -> McNemar {
        let pairs = [vec![(true, false); first_alone], vec![(false, true); second_alone]].concat();
        let pairs = [pairs, vec![(true, true); 5], vec![(false, false); 7]].concat();
        let (first, second): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        mcnemar(&first, &second)
    }

    #[test]
    fn mcnemar_by_hand() {
        for (a, b, p) in [
            (0, 0, 1.),
            (1, 0, 1.),
            (0, 5, 2. / 32.),         // 2·1/2⁵
            (1, 7, 2. * 9. / 256.),   // 2·(1 + 8)/2⁸
            (8, 2, 2. * 56. / 1024.), // 2·(1 + 10 + 45)/2¹⁰
            (4, 4, 1.),
        ] {
            let found = counts(a, b);
            assert_eq!((found.first_alone, found.second_alone), (a as u64, b as u64));
            assert!((found.p - p).abs() < 1e-12, "{a} {b}: {} not {p}", found.p);
        }
    }

    #[test]
    fn mcnemar_of_many_questions_neither_underflows_nor_drifts() {
        // The normal approximation with continuity: z = (|b − c| − 1)/√(b + c) = 199/√10000 = 1.99, p = .0466.
        let p = counts(5100, 4900).p;
        assert!((p - 0.0466).abs() < 2e-4, "{p}");
        let certain = counts(4000, 0).p;
        assert!((0. ..1e-300).contains(&certain), "{certain}");
    }

    #[test]
    fn a_paired_mean_by_hand() {
        // Differences 1, 2, 3: mean 2, deviation 1, error 1/√3; of eight ways two (all plus, all minus) are as far.
        let found = paired_mean(&[2., 4., 6.], &[1., 2., 3.]).unwrap();
        assert_eq!((found.mean, found.p), (2., 0.25));
        assert!((found.stderr.unwrap() - 1. / 3f64.sqrt()).abs() < 1e-15);
        // Differences 1, −2: sums −1, 3, −3, 1: all are as far.
        assert_eq!(paired_mean(&[1., 0.], &[0., 2.]).unwrap().p, 1.);
        let one = paired_mean(&[1.], &[3.]).unwrap();
        assert_eq!((one.mean, one.stderr, one.p), (-2., None, 1.));
        assert_eq!(paired_mean(&[], &[]), None);
        assert_eq!(paired_mean(&[3.; 20], &[3.; 20]).unwrap().p, 1.);
    }

    #[test]
    fn many_pairs_agree_with_the_normal_test() {
        let rng = Rng::new(3, "test", 0, "normal");
        let noise: Vec<f64> = (0..200).map(|i| rng.normal_at(i)).collect();
        let mean: f64 = noise.iter().sum::<f64>() / 200.;
        let deviation = (noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 199.).sqrt();
        // Shifted so that z is 1.96: p is .05, within the error of 9999 draws (.0022) and of the shape.
        let shift = 1.96 * deviation / 200f64.sqrt() - mean;
        let shifted: Vec<f64> = noise.iter().map(|x| x + shift).collect();
        let p = paired_mean(&shifted, &[0.; 200]).unwrap().p;
        assert!((p - 0.05).abs() < 0.01, "{p}");
        let sure: Vec<f64> = noise.iter().map(|x| x + 5.).collect();
        assert_eq!(paired_mean(&sure, &[0.; 200]).unwrap().p, 1e-4);
    }
}
