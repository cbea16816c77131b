//! Streams and permutations: what makes them reproducible, and that they are random enough to notice a mistake.

use std::collections::HashSet;

use trimwick_kernels::{Rng, permute};

use crate::support::bits;

#[test]
fn streams_are_pinned() {
    // A change of these numbers changes every run that was ever started: never update them in place.
    let rng = Rng::new(42, "init", 0, "model.embed_tokens.weight");
    assert_eq!([0, 1, 2, 3, 4].map(|i| rng.u32_at(i)), PINNED_WORDS);
    assert_eq!([0, 1, 2].map(|i| permute(42, 1000, i)), PINNED_ORDER);
}

const PINNED_WORDS: [u32; 5] = [1_451_107_012, 1_710_267_026, 1_242_065_568, 2_715_639_373, 1_491_143_002];
const PINNED_ORDER: [u64; 3] = [971, 633, 497];

#[test]
fn each_of_seed_stream_step_and_name_names_another_stream() {
    let streams = [
        Rng::new(1, "a", 0, "x"),
        Rng::new(2, "a", 0, "x"),
        Rng::new(1 << 32, "a", 0, "x"),
        Rng::new(1, "b", 0, "x"),
        Rng::new(1, "a", 1, "x"),
        Rng::new(1, "a", 1 << 32, "x"),
        Rng::new(1, "a", 0, "y"),
        Rng::new(1, "", 0, "ax"),
        Rng::new(1, "ax", 0, ""),
    ];
    let words: HashSet<u32> = streams.iter().flat_map(|rng| (0..1000).map(|i| rng.u32_at(i))).collect();
    // 9000 words out of 2³²: about .01 collisions are expected.
    assert!(words.len() >= 8999, "{} distinct words of 9000", words.len());
}

#[test]
fn filling_is_the_indexed_values() {
    let rng = Rng::new(9, "fill", 3, "w");
    for n in [0, 1, 2, 5, 4095, 4096, 4097, 10_001] {
        let (mut u, mut z) = (vec![f64::NAN; n], vec![f64::NAN; n]);
        rng.fill_uniform(-2.0, 3.0, &mut u);
        rng.fill_normal(1.0, 0.5, &mut z);
        let at = |f: &dyn Fn(u64) -> f64| (0..n as u64).map(f).collect::<Vec<f64>>();
        assert_eq!(bits(&u), bits(&at(&|i| -2.0 + 5.0 * rng.uniform_at(i))), "uniform, {n}");
        assert_eq!(bits(&z), bits(&at(&|i| 1.0 + 0.5 * rng.normal_at(i))), "normal, {n}");
        let mut narrow = vec![f32::NAN; n];
        rng.fill_normal(1.0, 0.5, &mut narrow);
        assert!(narrow.iter().zip(&z).all(|(&a, &b)| a == b as f32), "f32 is f64 rounded, {n}");
    }
}

#[test]
fn uniform_values_fill_the_unit_interval_evenly() {
    let rng = Rng::new(5, "uniform", 0, "");
    const N: usize = 100_000;
    let mut bins = [0usize; 100];
    for i in 0..N as u64 {
        let u = rng.uniform_at(i);
        assert!((0.0..1.0).contains(&u));
        bins[(u * 100.0) as usize] += 1;
    }
    // Chi-squared with 99 degrees of freedom: mean 99, standard deviation 14.1.
    let expected = N as f64 / 100.0;
    let chi: f64 = bins.iter().map(|&b| (b as f64 - expected).powi(2) / expected).sum();
    assert!((40.0..170.0).contains(&chi), "chi-squared {chi}");
}

#[test]
fn normal_values_have_the_moments_of_the_normal_distribution() {
    let rng = Rng::new(5, "normal", 0, "");
    const N: u64 = 200_000;
    let z: Vec<f64> = (0..N).map(|i| rng.normal_at(i)).collect();
    let moment = |p: i32| z.iter().map(|z| z.powi(p)).sum::<f64>() / N as f64;
    // Five standard errors of each moment.
    for (p, want, error) in
        [(1, 0.0, 1.0), (2, 1.0, 2f64.sqrt()), (3, 0.0, 15f64.sqrt()), (4, 3.0, 96f64.sqrt())]
    {
        let got = moment(p);
        assert!((got - want).abs() < 5.0 * error / (N as f64).sqrt(), "moment {p} is {got}");
    }
    let correlation = z.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / N as f64;
    assert!(correlation.abs() < 5.0 / (N as f64).sqrt(), "neighbours correlate by {correlation}");
    assert!(z.iter().all(|z| z.is_finite()));
}

#[test]
fn the_far_end_of_a_stream_can_be_read() {
    let rng = Rng::new(1, "end", u64::MAX, "");
    assert_ne!(rng.u32_at(u64::MAX), rng.u32_at(u64::MAX - 1));
    assert!(rng.uniform_at(u64::MAX) < 1.0);
    assert!(rng.normal_at(u64::MAX).is_finite());
}

#[test]
fn permutations_are_bijections() {
    for n in (1..=70).chain([127, 128, 129, 1000, 4096, 65_537]) {
        for key in [0, 1, 0xdead_beef, u64::MAX] {
            let mut seen = vec![false; n];
            for i in 0..n as u64 {
                let to = permute(key, n as u64, i) as usize;
                assert!(!std::mem::replace(&mut seen[to], true), "n {n}, key {key}: {to} twice");
            }
        }
    }
}

#[test]
fn permutations_of_huge_ranges_stay_inside_and_apart() {
    for n in [(1 << 32) - 1, 1 << 32, (1 << 33) + 7, u64::MAX - 1, u64::MAX] {
        let images: HashSet<u64> = (0..1000).chain(n - 1000..n).map(|i| permute(3, n, i)).collect();
        assert_eq!(images.len(), 2000, "n {n}");
        assert!(images.iter().all(|&x| x < n));
    }
}

#[test]
fn a_permutation_of_nothing_gives_the_index_back() {
    assert_eq!(permute(1, 0, 17), 17);
    assert_eq!(permute(1, 1, 0), 0);
}

#[test]
#[should_panic(expected = "index 5 is outside of 0..5")]
fn an_index_past_the_end_is_refused() {
    permute(1, 5, 5);
}

#[test]
fn every_order_of_four_comes_up_about_as_often_as_any_other() {
    let mut counts = std::collections::HashMap::new();
    for key in 0..24_000 {
        *counts.entry([0, 1, 2, 3].map(|i| permute(key, 4, i))).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 24);
    // Expected 1000 each, standard deviation 31.
    assert!(counts.values().all(|c| (800..1200).contains(c)), "{counts:?}");
}

#[test]
fn a_shuffle_leaves_few_neighbours_together() {
    let n = 10_000;
    let order: Vec<u64> = (0..n).map(|i| permute(11, n, i)).collect();
    let together = order.windows(2).filter(|w| w[0].abs_diff(w[1]) == 1).count();
    let fixed = (0..n).filter(|&i| order[i as usize] == i).count();
    // Both are Poisson, with means 2 and 1.
    assert!(together < 12 && fixed < 10, "{together} neighbours, {fixed} fixed points");
    let other = (0..n).filter(|&i| permute(12, n, i) == order[i as usize]).count();
    assert!(other < 10, "{other} places agree under another key");
}
