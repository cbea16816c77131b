//! Masks: bits to elements, what is written where they drop, and what the proof on exported values counts.

use trimwick_kernels::{Rng, apply_mask, apply_mask_inplace, bits_len, count_kept, violations_nm};

use crate::support::{bits as float_bits, normal, unwritten};

/// Lengths around bytes and around the elements of one task.
const LENGTHS: &[usize] = &[0, 1, 7, 8, 9, 16, 63, 1000, 16_384, 16_385, 50_003];

fn random_bits(n: usize) -> Vec<u8> {
    let rng = Rng::new(2, "bits", 0, "");
    (0..bits_len(n) as u64).map(|i| rng.u32_at(i) as u8).collect()
}

fn kept(bits: &[u8], i: usize) -> bool {
    bits[i / 8] >> (i % 8) & 1 == 1
}

#[test]
fn lengths_in_bytes() {
    for (n, want) in [(0, 0), (1, 1), (8, 1), (9, 2), (64, 8), (65, 9)] {
        assert_eq!(bits_len(n), want, "{n} elements");
    }
}

#[test]
fn masks_keep_the_bits_of_what_they_keep_and_write_positive_zero() {
    for &n in LENGTHS {
        let mut x = normal::<f32>("x", n);
        let awkward = [f32::NAN, -0.0, f32::NEG_INFINITY, -1.0, f32::INFINITY, 0.0, 1e-45];
        x.iter_mut().zip(awkward).for_each(|(x, a)| *x = a);
        let mask = random_bits(n);
        let want: Vec<f32> =
            x.iter().enumerate().map(|(i, &v)| if kept(&mask, i) { v } else { 0.0 }).collect();
        let mut y = unwritten::<f32>(n);
        apply_mask(&x, &mask, &mut y);
        assert_eq!(float_bits(&y), float_bits(&want), "{n} elements");
        apply_mask_inplace(&mut x, &mask);
        assert_eq!(float_bits(&x), float_bits(&want), "{n} elements in place");
        assert_eq!(count_kept(&mask, n), (0..n).filter(|&i| kept(&mask, i)).count(), "{n} elements");
    }
}

#[test]
fn a_masked_gradient_is_the_mask_of_the_gradient() {
    // The map is linear and diagonal: applying it to a basis vector gives the derivative exactly.
    let mask = [0b0101_1010, 0b1];
    for i in 0..9 {
        let mut x = [0.0f64; 9];
        x[i] = 1.0;
        let mut y = unwritten(9);
        apply_mask(&x, &mask, &mut y);
        let mut want = [0.0; 9];
        want[i] = f64::from(u8::from(kept(&mask, i)));
        assert_eq!(y, want, "element {i}");
    }
}

#[test]
fn bits_after_the_last_element_do_not_count() {
    assert_eq!(count_kept(&[0xff, 0xff], 11), 11);
    assert_eq!(count_kept(&[0, 0b1111_1000], 11), 0);
}

#[test]
#[should_panic(expected = "mask of 1 bytes for 9 elements, expected 2")]
fn a_mask_of_another_length_is_refused() {
    apply_mask(&[0.0f32; 9], &[0], &mut [0.0; 9]);
}

#[test]
fn violations_are_groups_with_too_many_entries() {
    /// Name, values, columns, n, m, violations.
    type Case<'a> = (&'a str, &'a [f32], usize, usize, usize, usize);
    let cases: &[Case<'_>] = &[
        ("two of four", &[1.0, 0.0, 2.0, 0.0], 4, 2, 4, 0),
        ("three of four", &[1.0, 0.0, 2.0, 3.0], 4, 2, 4, 1),
        ("fewer than allowed", &[0.0; 8], 4, 2, 4, 0),
        ("a negative zero is an entry", &[1.0, -0.0, 2.0, 0.0], 4, 2, 4, 1),
        ("a NaN is an entry", &[1.0, f32::NAN, 2.0, 0.0], 4, 2, 4, 1),
        ("a subnormal is an entry", &[1.0, 1e-45, 2.0, 0.0], 4, 2, 4, 1),
        ("each group on its own", &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0], 8, 2, 4, 0),
        ("both rows", &[1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0], 4, 2, 4, 2),
        ("none allowed", &[0.0, 1.0, 0.0, 0.0], 2, 0, 2, 1),
        ("all allowed", &[1.0, 1.0], 2, 2, 2, 0),
        ("empty", &[], 4, 2, 4, 0),
    ];
    for &(case, values, cols, n, m, want) in cases {
        assert_eq!(violations_nm(values, cols, n, m), want, "{case}");
    }
}

#[test]
fn violations_in_a_large_tensor_are_all_found() {
    let (rows, cols) = (500, 300);
    let mut values: Vec<f32> = (0..rows * cols).map(|i| if i % 4 < 2 { 1.0 } else { 0.0 }).collect();
    assert_eq!(violations_nm(&values, cols, 2, 4), 0);
    for i in (0..rows * cols).step_by(1000) {
        values[i + 2] = 1e-30;
    }
    assert_eq!(violations_nm(&values, cols, 2, 4), 150);
}

#[test]
#[should_panic(expected = "6 columns are not a whole number of groups of 4")]
fn groups_that_straddle_rows_are_refused() {
    violations_nm(&[0.0; 12], 6, 2, 4);
}
