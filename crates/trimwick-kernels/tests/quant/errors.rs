//! NaN and infinities are errors that say where; lengths that do not fit are panics.

use trimwick_kernels::Error;
use trimwick_kernels::quant::{
    Code, Grid, ScaleFormat, block_amax, block_range, decode, encode, fake_quant, fake_quant_dynamic, scales,
};

use crate::reference::{grids, tensor};

const INT8: Grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::F32 };

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    // Small and large blocks, and one that is cut; the positions are in the first, a middle and the last register.
    for (block, n) in
        [(1, 70), (16, 64), (32, 160), (33, 99), (100, 300), (576, 60_000 / 576 * 576), (200_000, 200_000)]
    {
        for grid in grids() {
            if n > 1000 && grid.scale != ScaleFormat::F32 {
                continue;
            }
            for bad in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 5, n / 3, n / 2 + 1, n - 1] {
                    let mut x = tensor(0, 1, n);
                    x[at] = bad;
                    // A later one does not matter.
                    x[n - 1] = f32::NAN;
                    let mut y = vec![0.0; n];
                    let mut s = vec![0.0; n / block];
                    let mut z = s.clone();
                    let want = Err(Error::NonFinite { index: at });
                    let case = format!("{grid:?} {bad} at {at} of {n} in blocks of {block}");
                    let got = fake_quant_dynamic(grid, &x, block, None, &mut y);
                    assert_eq!(got, want, "{case}");
                    let got = scales(grid, &x, block, None, &mut s, Some(&mut z));
                    assert_eq!(got.map(drop), want, "{case}");
                    assert_eq!(block_amax(&x, block, &mut s), want, "{case}");
                    assert_eq!(block_range(&x, block, &mut s, &mut z), want, "{case}");
                }
            }
        }
    }
}

#[test]
fn the_error_says_what_to_look_for() {
    let got = block_amax(&[1.0, f32::NAN], 2, &mut [0.0]).unwrap_err().to_string();
    assert_eq!(got, "value 1 is NaN or infinite, expected a finite number: its block has no scale");
}

#[test]
#[should_panic(expected = "fake_quant: 10 elements are not whole blocks of 4")]
fn blocks_that_do_not_divide() {
    fake_quant(INT8, &[0.0; 10], 4, &[1.0; 2], None, &mut [0.0; 10]);
}

#[test]
#[should_panic(expected = "fake_quant: scales has 3 elements, expected 2")]
fn scales_of_another_length() {
    fake_quant(INT8, &[0.0; 8], 4, &[1.0; 3], None, &mut [0.0; 8]);
}

#[test]
#[should_panic(expected = "encode: zeros has 1 elements, expected 2")]
fn zeros_of_another_length() {
    encode(INT8, &[0.0; 8], 4, &[1.0; 2], Some(&[0.0]), &mut [0; 8]);
}

#[test]
#[should_panic(expected = "decode: y has 7 elements, expected 8")]
fn outputs_of_another_length() {
    decode(INT8, &[0; 8], 4, &[1.0; 2], None, &mut [0.0; 7]);
}

#[test]
#[should_panic(expected = "scales: Uint without zeros")]
fn zero_points_have_to_go_somewhere() {
    let uint = Grid { code: Code::Uint { bits: 4 }, scale: ScaleFormat::F32 };
    let _ = scales(uint, &[0.0; 8], 4, None, &mut [0.0; 2], None);
}

#[test]
#[should_panic(expected = "Int of 9 bits, expected 2 to 8")]
fn codes_that_a_byte_cannot_hold() {
    let grid = Grid { code: Code::Int { bits: 9 }, scale: ScaleFormat::F32 };
    let _ = fake_quant_dynamic(grid, &[0.0; 8], 8, None, &mut [0.0; 8]);
}
