//! Values of codes, and rounding to them.

use trimwick_kernels::Rng;
use trimwick_kernels::quant::Code;

use crate::reference::{codes, nearest, table};

#[test]
fn ranges_and_bits() {
    for (code, bits, min, max) in [
        (Code::Int { bits: 8 }, 8, -128.0, 127.0),
        (Code::Int { bits: 4 }, 4, -8.0, 7.0),
        (Code::Int { bits: 2 }, 2, -2.0, 1.0),
        (Code::Ternary, 2, -1.0, 1.0),
        (Code::Uint { bits: 8 }, 8, 0.0, 255.0),
        (Code::Uint { bits: 1 }, 1, 0.0, 1.0),
        (Code::E2M1, 4, -6.0, 6.0),
        (Code::E2M3, 6, -7.5, 7.5),
        (Code::E3M2, 6, -28.0, 28.0),
        (Code::E4M3, 8, -448.0, 448.0),
        (Code::E5M2, 8, -57344.0, 57344.0),
    ] {
        assert_eq!((code.bits(), code.min(), code.max()), (bits, min, max), "{code:?}");
    }
}

#[test]
fn every_code_of_every_table_decodes() {
    for code in codes() {
        for (value, byte) in table(code) {
            assert_eq!(f64::from(code.decode(byte)), value, "{code:?} {byte:#x}");
            assert_eq!(code.encode(value as f32), byte, "{code:?} {value}");
            assert_eq!(f64::from(code.round(value as f32)), value, "{code:?} {value} is its own value");
            // The bits above a code do not count.
            if code.bits() < 8 {
                assert_eq!(code.decode(byte | 0x80), code.decode(byte), "{code:?} {byte:#x}");
            }
        }
    }
}

#[test]
fn codes_that_are_no_numbers() {
    assert!(Code::E4M3.decode(0x7f).is_nan() && Code::E4M3.decode(0xff).is_nan());
    assert_eq!(Code::E5M2.decode(0x7c), f32::INFINITY);
    assert_eq!(Code::E5M2.decode(0xfc), f32::NEG_INFINITY);
    assert!((0x7d..=0x7f).all(|code| Code::E5M2.decode(code).is_nan()));
    assert_eq!(Code::E4M3.decode(0x80).to_bits(), (-0.0f32).to_bits(), "another writer's −0");
    assert_eq!(Code::Ternary.decode(2), -2.0);
}

/// Where rounding changes: each value, each midpoint, and their neighbours. Rounding does not decrease, so where it is
/// right at both sides of every change it is right in between.
fn changes(table: &[(f64, u8)]) -> Vec<f32> {
    let mut at = vec![0.0, f32::MIN_POSITIVE, 1e-45, 1e-20];
    for pair in table.windows(2) {
        // Exact: values have at most 8 significant bits.
        at.extend([pair[0].0 as f32, ((pair[0].0 + pair[1].0) / 2.0) as f32, pair[1].0 as f32]);
    }
    let ends = [f32::MAX, 1e30, 2.0 * table[table.len() - 1].0 as f32, 1.0001 * table[0].0 as f32];
    at.extend(ends);
    at.iter().flat_map(|&v| [v, v.next_up(), v.next_down(), -v, -v.next_up(), -v.next_down()]).collect()
}

fn check(code: Code, table: &[(f64, u8)], x: f32) {
    let (value, byte) = nearest(table, x);
    let got = code.round(x);
    assert_eq!(got.to_bits(), (value as f32).to_bits(), "{code:?} round({x:e}) is {got}, expected {value}");
    assert_eq!(code.encode(x), byte, "{code:?} encode({x:e})");
}

#[test]
fn rounding_at_every_change_equals_a_search_over_the_table() {
    for code in codes() {
        let table = table(code);
        changes(&table).into_iter().filter(|x| x.is_finite()).for_each(|x| check(code, &table, x));
    }
}

#[test]
fn rounding_of_random_numbers_equals_a_search_over_the_table() {
    let rng = Rng::new(1, "codes", 0, "");
    for code in codes() {
        let table = table(code);
        for i in 0..60_000 {
            let bits = rng.u32_at(i);
            // Any bits, and then exponents around those of the code.
            for bits in [bits, 0x3a00_0000 + bits % 0x0d00_0000, 0xba00_0000 + bits % 0x0d00_0000] {
                let x = f32::from_bits(bits);
                if x.is_finite() {
                    check(code, &table, x);
                }
            }
        }
    }
}

#[test]
#[ignore = "all 2³² numbers take minutes; the changes are always tested"]
fn rounding_of_all_numbers_equals_a_search_over_the_table() {
    for code in [Code::E2M1, Code::E2M3, Code::E3M2, Code::E4M3, Code::E5M2] {
        let table = table(code);
        // Upwards from 0 the nearest value is the same or the next.
        let positive = &table[table.partition_point(|v| v.0 < 0.0)..];
        let mut at = 0;
        for bits in 0..f32::INFINITY.to_bits() {
            let x = f32::from_bits(bits);
            while at + 1 < positive.len() && nearest(&positive[at..at + 2], x) == positive[at + 1] {
                at += 1;
            }
            let want = positive[at].0 as f32;
            assert_eq!(code.round(x), want, "{code:?} round({x:e})");
            assert_eq!(code.round(-x), -want, "{code:?} round({:e})", -x);
        }
    }
}

#[test]
fn infinities_saturate_and_nan_stays() {
    for code in codes() {
        assert_eq!(code.round(f32::INFINITY), code.max(), "{code:?}");
        assert_eq!(code.round(f32::NEG_INFINITY), code.min(), "{code:?}");
        assert!(code.round(f32::NAN).is_nan() && code.round(-f32::NAN).is_nan(), "{code:?}");
    }
}

#[test]
fn zeros_are_positive() {
    for code in codes() {
        for x in [0.0, -0.0, -1e-45, -1e-10] {
            assert_eq!(code.round(x).to_bits(), 0, "{code:?} {x:e}");
            assert_eq!(code.encode(x), 0, "{code:?} {x:e}");
        }
    }
}

#[test]
fn ties_of_e2m1() {
    let x = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0];
    assert_eq!(x.map(|x| Code::E2M1.round(x)), [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]);
}
