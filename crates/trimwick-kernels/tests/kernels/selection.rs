//! Selection against sorting, over thousands of random and adversarial tensors.

use trimwick_kernels::{Error, Rng, apply_mask, bits_len, count_kept, select_nm, select_top, violations_nm};

use crate::support::{normal, unwritten};

/// What stays of `scores`: the first `keep` in the order larger first, then lower index first.
fn stays(scores: &[f32], keep: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
    let mut stays = vec![false; scores.len()];
    order[..keep].iter().for_each(|&i| stays[i] = true);
    stays
}

fn to_bits(stays: impl IntoIterator<Item = bool>, n: usize) -> Vec<u8> {
    let mut bits = vec![0; bits_len(n)];
    for (i, stays) in stays.into_iter().enumerate() {
        bits[i / 8] |= u8::from(stays) << (i % 8);
    }
    bits
}

fn check_nm(case: &str, scores: &[f32], cols: usize, n: usize, m: usize) {
    // 0xff, so that a bit that is not cleared shows.
    let mut bits = vec![0xff; bits_len(scores.len())];
    select_nm(scores, cols, n, m, &mut bits).unwrap();
    let want = scores.chunks(m).flat_map(|group| stays(group, n));
    assert_eq!(bits, to_bits(want, scores.len()), "{case}: {n}:{m} of {cols} columns, {scores:?}");
}

fn check_top(case: &str, scores: &[f32], keep: usize) {
    let mut bits = vec![0xff; bits_len(scores.len())];
    select_top(scores, keep, &mut bits).unwrap();
    assert!(bits == to_bits(stays(scores, keep), scores.len()), "{case}: top {keep} of {}", scores.len());
    assert_eq!(count_kept(&bits, scores.len()), keep, "{case}");
}

/// Tensor `seed`: from plain normal values to nothing but ties, signed zeros and infinities.
fn adversarial(seed: u64, len: usize) -> Vec<f32> {
    const PALETTES: &[&[f32]] = &[
        &[0.0],
        &[0.0, -0.0],
        &[1.0, 0.0, -0.0, -1.0],
        &[f32::INFINITY, f32::NEG_INFINITY, 0.0],
        &[f32::INFINITY],
        &[1e-45, -1e-45, 0.0, -0.0, f32::MIN_POSITIVE],
        &[f32::MAX, f32::INFINITY, f32::MIN, f32::NEG_INFINITY],
        // Neighbours that differ in the last bit, and one value on the other side of a change of the upper 16 bits.
        &[1.0, 1.000_000_1, 0.999_999_94, 1.007_812_5],
        &[3.0, 3.0, 3.0, 4.0],
    ];
    let rng = Rng::new(seed, "adversarial", 0, "");
    let kind = seed as usize % (PALETTES.len() + 2);
    let value = |i: u64| match PALETTES.get(kind) {
        Some(palette) => palette[rng.u32_at(i) as usize % palette.len()],
        None if kind == PALETTES.len() => rng.normal_at(i) as f32,
        None => Some(f32::from_bits(rng.u32_at(i))).filter(|v| !v.is_nan()).unwrap_or(0.0),
    };
    (0..len as u64).map(value).collect()
}

#[test]
fn groups_of_ten_thousand_tensors() {
    let shape = Rng::new(0, "shape", 0, "");
    for seed in 0..10_000u64 {
        let pick = |lane: u64, below: usize| shape.u32_at(4 * seed + lane) as usize % below;
        let m = [1, 2, 3, 4, 4, 4, 5, 7, 8, 16, 33, 40][pick(0, 12)];
        let (n, groups, rows) = (pick(1, m + 1), pick(2, 4), pick(3, 5));
        check_nm(&format!("seed {seed}"), &adversarial(seed, rows * groups * m), groups * m, n, m);
    }
}

#[test]
fn groups_of_large_tensors_cross_the_edges_of_tasks() {
    for (rows, cols, n, m) in
        [(300, 256, 2, 4), (301, 252, 2, 4), (64, 1002, 1, 3), (33, 4000, 4, 8), (9, 8000, 20, 40)]
    {
        check_nm("normal", &normal::<f32>("scores", rows * cols), cols, n, m);
        check_nm("ties", &adversarial(2, rows * cols), cols, n, m);
    }
}

#[test]
fn the_top_of_ten_thousand_tensors() {
    let shape = Rng::new(1, "shape", 0, "");
    for seed in 0..10_000u64 {
        let len = shape.u32_at(2 * seed) as usize % 70;
        let keep = shape.u32_at(2 * seed + 1) as usize % (len + 1);
        check_top(&format!("seed {seed}"), &adversarial(seed, len), keep);
    }
}

#[test]
fn the_top_of_large_tensors_crosses_the_edges_of_tasks() {
    let n = 100_003;
    for seed in 0..11 {
        let scores = adversarial(seed, n);
        for keep in [0, 1, n / 3, n / 2, n - 1, n] {
            check_top(&format!("seed {seed}"), &scores, keep);
        }
    }
}

#[test]
fn of_equal_scores_the_lowest_index_stays() {
    for (case, scores, want) in [
        ("all equal", [2.0, 2.0, 2.0, 2.0], 0b0011),
        ("all zero", [0.0, 0.0, 0.0, 0.0], 0b0011),
        ("signed zeros are equal", [-0.0, -0.0, 0.0, 0.0], 0b0011),
        ("a tie for second place", [1.0, 5.0, 1.0, 1.0], 0b0011),
        ("a tie for first place", [1.0, 5.0, 5.0, 5.0], 0b0110),
        ("infinities", [f32::INFINITY, 5.0, f32::INFINITY, f32::INFINITY], 0b0101),
        ("least of all", [f32::NEG_INFINITY, -5.0, f32::NEG_INFINITY, f32::MIN], 0b1010),
    ] {
        let mut bits = [0xff];
        select_nm(&scores, 4, 2, 4, &mut bits).unwrap();
        assert_eq!(bits, [want], "{case}, 2:4");
        let mut bits = [0xff];
        select_top(&scores, 2, &mut bits).unwrap();
        assert_eq!(bits, [want], "{case}, top 2");
    }
}

#[test]
fn nan_is_refused_by_its_first_position_and_nothing_is_written() {
    let n = 50_000;
    for (first, second) in [(0, 1), (3, 40_000), (32_768, 32_770), (n - 2, n - 1)] {
        let mut scores = vec![1.0f32; n];
        scores[first] = -f32::NAN;
        scores[second] = f32::NAN;
        let mut bits = vec![0xa5; bits_len(n)];
        assert_eq!(select_nm(&scores, n, 2, 4, &mut bits), Err(Error::NanScore { index: first }));
        assert_eq!(select_top(&scores, 5, &mut bits), Err(Error::NanScore { index: first }));
        assert!(bits.iter().all(|&b| b == 0xa5));
    }
    let message = Error::NanScore { index: 12 }.to_string();
    assert!(message.contains("score 12 is NaN"), "{message}");
}

#[test]
fn what_is_selected_never_violates_its_pattern() {
    for seed in 0..2000 {
        let (rows, cols) = (1 + seed as usize % 7, 24);
        let weights = adversarial(seed, rows * cols);
        let scores: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        for (n, m) in [(2, 4), (4, 8), (1, 4), (1, 2), (3, 6), (0, 4), (4, 4)] {
            let mut bits = vec![0; bits_len(scores.len())];
            select_nm(&scores, cols, n, m, &mut bits).unwrap();
            assert_eq!(count_kept(&bits, scores.len()), scores.len() / m * n, "seed {seed}, {n}:{m}");
            let mut pruned = unwritten(weights.len());
            apply_mask(&weights, &bits, &mut pruned);
            assert_eq!(violations_nm(&pruned, cols, n, m), 0, "seed {seed}, {n}:{m}");
        }
    }
}

#[test]
fn empty_tensors() {
    assert_eq!(select_nm(&[], 4, 2, 4, &mut []), Ok(()));
    assert_eq!(select_nm(&[], 0, 2, 4, &mut []), Ok(()));
    assert_eq!(select_top(&[], 0, &mut []), Ok(()));
}

#[test]
#[should_panic(expected = "pattern 5:4")]
fn more_to_keep_than_there_are_is_refused() {
    let _ = select_nm(&[0.0; 4], 4, 5, 4, &mut [0]);
}

#[test]
#[should_panic(expected = "6 columns are not a whole number of groups of 4")]
fn columns_that_are_no_whole_groups_are_refused() {
    let _ = select_nm(&[0.0; 12], 6, 2, 4, &mut [0; 2]);
}
