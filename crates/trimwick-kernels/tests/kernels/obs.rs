//! The solver of one-shot compression.

use trimwick_kernels::matmul_tn;
use trimwick_kernels::obs::{Compress, Factor, FactorError, Prune, Select, solve};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f32 / (1u64 << 31) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn gram(x: &[f32], cols: usize) -> Vec<f32> {
    let mut gram = vec![0.; cols * cols];
    matmul_tn(x, x, &mut gram, x.len() / cols, cols, cols, false);
    gram
}

#[test]
fn the_factor_is_that_of_the_inverse() {
    let (cols, tokens) = (19, 40);
    let g = gram(&numbers(tokens * cols, 1), cols);
    let reversed: Vec<usize> = (0..cols).rev().collect();
    for order in [None, Some(&reversed[..])] {
        let factor = Factor::new(&g, tokens as u64, cols, 0.01, 0, order).unwrap();
        let at = |i: usize| order.map_or(i, |o| o[i]);
        let scale = 2. / tokens as f64;
        let mean: f64 = (0..cols).map(|j| f64::from(g[j * cols + j]) * scale).sum::<f64>() / cols as f64;
        // H·UᵀU is the identity.
        for i in 0..cols {
            for j in 0..cols {
                let mut sum = 0.;
                for k in 0..cols {
                    let damped = if i == k { 0.01 * mean } else { 0. };
                    let h = f64::from(g[at(i) * cols + at(k)]) * scale + damped;
                    let inverse: f64 = (0..cols).map(|r| factor.row(r)[k] * factor.row(r)[j]).sum();
                    sum += h * inverse;
                }
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-9, "({i}, {j}): {sum}");
            }
        }
        assert!((0..cols).all(|i| factor.row(i)[..i].iter().all(|u| *u == 0.) && factor.diagonal(i) > 0.));
        assert_eq!((factor.damping(), factor.retries(), factor.dead()), (0.01, 0, &[][..]));
    }
}

#[test]
fn damping_is_raised_and_faults_are_named() {
    // Two equal inputs, and numbers without rounding: H = [[4, 4], [4, 4]] is singular, to the bit.
    let x: Vec<f32> = (0..30).flat_map(|i| [(i % 2 * 2) as f32, (i % 2 * 2) as f32, 0.]).collect();
    let g = gram(&x, 3);
    let raised = Factor::new(&g, 30, 3, 0., 3, None).unwrap();
    assert!(raised.retries() > 0 && raised.damping() >= 1e-4);
    assert_eq!(raised.dead(), [2]);
    assert_eq!(Factor::new(&g, 30, 3, 0., 0, None).unwrap_err(), FactorError::NotPositive { damping: 0. });
    let mut broken = g.clone();
    broken[4] = f32::NAN;
    assert_eq!(Factor::new(&broken, 30, 3, 0.01, 3, None).unwrap_err(), FactorError::NonFinite { index: 4 });
}

/// Drops the columns that are named.
struct Drop(Vec<usize>);

impl Compress for Drop {
    type Row = ();

    fn column(&self, _: &mut (), w: &[f64], _: &Factor, j: usize) -> f64 {
        if self.0.contains(&j) { 0. } else { w[j] }
    }
}

#[test]
fn the_rest_makes_up_for_the_error_as_well_as_it_can() {
    let (cols, tokens, rows) = (12, 60, 3);
    let g = gram(&numbers(tokens * cols, 3), cols);
    let factor = Factor::new(&g, tokens as u64, cols, 0., 0, None).unwrap();
    let w: Vec<f64> = numbers(rows * cols, 4).iter().map(|v| f64::from(*v)).collect();
    // Once the first columns are dropped, the change times the gram vanishes on the columns that may answer.
    for block in [1, 2, 5, 12] {
        let mut found = w.clone();
        solve(&mut found, &factor, block, &Drop(vec![0, 1, 2]), &mut [(); 3]);
        for (w, found) in w.chunks(cols).zip(found.chunks(cols)) {
            assert_eq!(found[..3], [0.; 3]);
            for j in 3..cols {
                let slope: f64 = (0..cols).map(|k| (found[k] - w[k]) * f64::from(g[k * cols + j])).sum();
                assert!(slope.abs() < 1e-5, "block {block}, column {j}: {slope}");
            }
        }
    }
}

#[test]
fn pruning_keeps_what_it_says() {
    let (cols, rows) = (24, 6);
    let g = gram(&numbers(50 * cols, 5), cols);
    let factor = Factor::new(&g, 50, cols, 0.01, 0, None).unwrap();
    for (select, block) in [(Select::Nm { n: 1, m: 4 }, 8), (Select::Share(0.25), 12)] {
        let mut w: Vec<f64> = numbers(rows * cols, 6).iter().map(|v| f64::from(*v)).collect();
        let mut kept = vec![vec![true; cols]; rows];
        solve(&mut w, &factor, block, &Prune(select), &mut kept);
        for (w, kept) in w.iter().zip(kept.concat()) {
            assert!(kept || w.to_bits() == 0, "dropped is +0.0");
        }
        match select {
            Select::Nm { n, m } => {
                let counts =
                    kept.iter().flat_map(|row| row.chunks(m).map(|g| g.iter().filter(|k| **k).count()));
                assert!(counts.into_iter().all(|c| c == n));
            }
            Select::Share(share) => {
                let of_block = |b: usize| {
                    kept.iter().flat_map(|r| &r[b * block..(b + 1) * block]).filter(|k| !**k).count()
                };
                let want = (share * (rows * block) as f64) as usize;
                assert!((0..cols / block).all(|b| of_block(b) == want));
            }
        }
    }
}
