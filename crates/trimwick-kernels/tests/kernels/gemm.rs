//! Matrix products against three nested loops.

use trimwick_kernels::{
    MatMut, MatRef, Real, Threading, add_gram, matmul_nn, matmul_nt, matmul_strided, matmul_tn, mirror,
};

use crate::support::{assert_close, normal, unwritten};

/// (m, k, n): single rows and columns, inner dimensions of 0, 1 and 2 (paths of their own), edges of register
/// tiles, and a size past the threshold of threading.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 64, 1),
    (1, 7, 33),
    (33, 7, 1),
    (5, 0, 4),
    (5, 1, 4),
    (17, 2, 19),
    (3, 5, 7),
    (16, 16, 16),
    (31, 65, 33),
    (64, 300, 48),
    (130, 1030, 70),
    (0, 5, 3),
    (3, 5, 0),
];

/// c\[i, j\] = Σ a(i, l)·b(l, j).
fn product(
    m: usize,
    k: usize,
    n: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let element = |i, j| (0..k).map(|l| a(i, l) * b(l, j)).sum();
    (0..m * n).map(|e| element(e / n, e % n)).collect()
}

fn check_all<T: Real>(tolerance: f64) {
    for &(m, k, n) in SHAPES {
        let tolerance = tolerance * k.max(m).max(n) as f64;
        let (x, w, g): (Vec<T>, Vec<T>, Vec<T>) =
            (normal("x", m * k), normal("w", n * k), normal("g", m * n));
        let (xf, wf, gf) = (
            |i: usize, j: usize| x[i * k + j].to_f64(),
            |i: usize, j: usize| w[i * k + j].to_f64(),
            |i: usize, j: usize| g[i * n + j].to_f64(),
        );
        let case = |name: &str| format!("{name} m {m} k {k} n {n}");

        let (mut y, mut dx, mut dw): (Vec<T>, Vec<T>, Vec<T>) =
            (unwritten(m * n), unwritten(m * k), unwritten(n * k));
        matmul_nt(&x, &w, &mut y, m, k, n, false);
        matmul_nn(&g, &w, &mut dx, m, n, k, false);
        matmul_tn(&g, &x, &mut dw, m, n, k, false);
        let want_y = product(m, k, n, xf, |l, j| wf(j, l));
        let want_dx = product(m, n, k, gf, wf);
        let want_dw = product(n, m, k, |i, l| gf(l, i), xf);
        assert_close(&case("nt"), &y, &want_y, tolerance);
        assert_close(&case("nn"), &dx, &want_dx, tolerance);
        assert_close(&case("tn"), &dw, &want_dw, tolerance);

        matmul_nt(&x, &w, &mut y, m, k, n, true);
        matmul_nn(&g, &w, &mut dx, m, n, k, true);
        matmul_tn(&g, &x, &mut dw, m, n, k, true);
        let twice = |x: Vec<f64>| x.iter().map(|v| 2.0 * v).collect::<Vec<f64>>();
        assert_close(&case("nt accumulated"), &y, &twice(want_y), 2.0 * tolerance);
        assert_close(&case("nn accumulated"), &dx, &twice(want_dx), 2.0 * tolerance);
        assert_close(&case("tn accumulated"), &dw, &twice(want_dw), 2.0 * tolerance);
    }
}

#[test]
fn linear_layer_products_in_f32() {
    check_all::<f32>(1e-7);
}

#[test]
fn linear_layer_products_in_f64() {
    check_all::<f64>(2e-16);
}

#[test]
fn strided_views_write_their_elements_and_no_others() {
    let (m, k, n) = (6, 5, 4);
    let (a, b) = (normal::<f64>("a", 200), normal::<f64>("b", 200));
    for (ars, acs, brs, bcs, crs, ccs) in
        [(5, 1, 4, 1, 4, 1), (1, 6, 1, 5, 1, 6), (11, 2, 3, 17, 13, 3), (30, 1, 1, 40, 2, 12)]
    {
        let mut c = vec![7.0; 200];
        let (av, bv) = (MatRef::new(&a, m, k, ars, acs), MatRef::new(&b, k, n, brs, bcs));
        matmul_strided(av, bv, MatMut::new(&mut c, m, n, crs, ccs), -2.0, true, Threading::Single);
        let mut want = vec![7.0; 200];
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| a[i * ars + l * acs] * b[l * brs + j * bcs]).sum();
                want[i * crs + j * ccs] = 7.0 - 2.0 * sum;
            }
        }
        assert_close(&format!("strides {ars} {acs} {brs} {bcs} {crs} {ccs}"), &c, &want, 1e-14);
    }
}

#[test]
#[should_panic(expected = "does not fit in 11 elements")]
fn a_view_past_the_end_is_refused() {
    MatRef::new(&[0.0f32; 11], 3, 4, 4, 1);
}

#[test]
#[should_panic(expected = "does not fit in 8 elements")]
fn a_view_whose_size_wraps_is_refused() {
    MatRef::new(&[0.0f32; 8], 3, 4, usize::MAX / 2 + 1, 1);
}

#[test]
#[should_panic(expected = "overlaps itself")]
fn an_output_that_overlaps_itself_is_refused() {
    MatMut::new(&mut [0.0f32; 20], 3, 4, 3, 1);
}

#[test]
#[should_panic(expected = "overlaps itself")]
fn an_output_of_one_repeated_element_is_refused() {
    MatMut::new(&mut [0.0f32; 20], 1, 4, 4, 0);
}

#[test]
#[should_panic(expected = "w has 11 elements, expected 3×4")]
fn a_slice_of_another_length_is_refused() {
    matmul_nt(&[0.0f32; 8], &[0.0; 11], &mut [0.0; 6], 2, 4, 3, false);
}

/// A gram is the product that [`matmul_tn`] computes, over tiles on and off the diagonal, added to what was there.
#[test]
fn grams_are_products_mirrored() {
    for (m, k) in [(1, 1), (7, 3), (0, 4), (40, 130), (33, 257), (20, 770)] {
        let (x, y): (Vec<f32>, Vec<f32>) = (normal("x", m * k), normal("y", 3 * k));
        let mut expected = vec![0f32; k * k];
        matmul_tn(&y, &y, &mut expected, 3, k, k, false);
        let mut gram = vec![0f32; k * k];
        add_gram(&y, &mut gram, k);
        matmul_tn(&x, &x, &mut expected, m, k, k, true);
        add_gram(&x, &mut gram, k);
        mirror(&mut gram, k);
        let expected: Vec<f64> = expected.iter().map(|&v| f64::from(v)).collect();
        assert_close(&format!("gram m {m} k {k}"), &gram, &expected, 1e-5 * (m + 3) as f64);
        for i in 0..k {
            assert!((0..i).all(|j| gram[i * k + j].to_bits() == gram[j * k + i].to_bits()));
        }
    }
    mirror::<f32>(&mut [], 5);
}
