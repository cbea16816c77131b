//! Every layout against its formula, and every instruction set against the arrays.

use super::product::{decode, product_at};
use super::simd::{Level, ROWS};
use super::*;
use crate::Rng;

/// A weight by its codes, and the number of each.
struct Case {
    name: &'static str,
    packed: Packed,
    /// `[rows, cols]`.
    values: Vec<f32>,
}

fn random(name: &str, n: usize) -> Vec<f32> {
    let mut x = vec![0.; n];
    Rng::new(3, "packed", 0, name).fill_normal(0., 1., &mut x);
    x
}

fn draws(name: &str, n: usize) -> Vec<u8> {
    let rng = Rng::new(4, "packed", 0, name);
    (0..n as u64).map(|i| (rng.u32_at(i) >> 7) as u8).collect()
}

fn e2m1(code: u8) -> f32 {
    let magnitude = [0., 0.5, 1., 1.5, 2., 3., 4., 6.][usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => fraction / 8. * 2f32.powi(-6),
        e => (1. + fraction / 8.) * 2f32.powi(e - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn number(element: Element, code: u8) -> f32 {
    match element {
        Element::Int8 => f32::from(code.cast_signed()),
        Element::Uint8 => f32::from(code),
        Element::Int4 => f32::from((code << 4).cast_signed() >> 4),
        Element::Uint4 => f32::from(code & 15),
        Element::E2M1 => e2m1(code),
        Element::E4M3 => e4m3(code),
    }
}

/// Every kind of weight `[rows, cols]`, with groups of `size`.
fn cases(rows: usize, cols: usize, size: usize) -> Vec<Case> {
    let given = if size >= cols { 1 } else { cols.div_ceil(size) };
    let group = |i: usize| i / cols * given + (i % cols / size).min(given - 1);
    let base = random("scales", rows * given);
    let f16: Vec<f32> = base.iter().map(|s| half::f16::from_f32(0.01 + s.abs() / 50.).to_f32()).collect();
    let f32s: Vec<f32> = base.iter().map(|s| 0.01 + s.abs() / 37.).collect();
    let powers: Vec<f32> = base.iter().map(|s| 2f32.powi((s * 3.) as i32 - 5)).collect();
    let global = 0.0123f32;
    let levels: Vec<f32> =
        draws("levels", rows * given).iter().map(|&c| e4m3(8 + c % 100) * global).collect();
    let zeros = draws("zeros", rows * given).iter().map(|z| z & 15).collect::<Vec<_>>();
    let minima: Vec<f32> =
        random("minima", rows * given).iter().map(|m| half::f16::from_f32(*m).to_f32()).collect();
    let mut cases = Vec::new();
    let mut case =
        |name, element, scales: &[f32], zeros: Option<&[u8]>, minima: Option<&[f32]>, keep: bool| {
            let mut codes = draws(name, rows * cols);
            // No NaN.
            codes.iter_mut().filter(|_| element == Element::E4M3).for_each(|c| *c &= 0xf7);
            // The ends of the range beside each other, and with them the largest sums.
            for (i, code) in codes.iter_mut().enumerate().take(2 * cols) {
                *code = if i < cols { 0x80 } else { 0x7f };
                if element == Element::E2M1 || element == Element::E4M3 {
                    *code = if i < cols { 0xf6 } else { 0x77 };
                }
                if element == Element::Int4 {
                    *code = if i < cols { 8 } else { 7 };
                }
            }
            if keep {
                for (i, code) in codes.iter_mut().enumerate() {
                    let dropped =
                        [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]][(i / 4 * 7 + i / cols) % 6];
                    if dropped.contains(&(i % 4)) || i % 59 == 0 {
                        *code = 0;
                    }
                }
            }
            let groups = Groups { size, scales, zeros, minima, global: Some(global) };
            let packed = match keep {
                true => Packed::kept(element, &codes, rows, cols, &groups).expect("a weight that is 2:4"),
                false => Packed::dense(element, &codes, rows, cols, &groups),
            };
            let value = |(i, &code): (usize, &u8)| {
                let g = group(i);
                let zero = zeros.map_or(0., |z| f32::from(z[g]));
                (number(element, code) - zero) * scales[g] + minima.map_or(0., |m| m[g])
            };
            cases.push(Case { name, packed, values: codes.iter().enumerate().map(value).collect() });
        };
    case("int8", Element::Int8, &f32s, None, None, false);
    case("uint8 with zero points", Element::Uint8, &f32s, Some(&zeros), None, false);
    case("int4", Element::Int4, &f16, None, None, false);
    case("uint4 with zero points", Element::Uint4, &f16, Some(&zeros), None, false);
    case("uint4 with minima", Element::Uint4, &f16, None, Some(&minima), false);
    case("fp4 under powers of two", Element::E2M1, &powers, None, None, false);
    case("fp4 under e4m3", Element::E2M1, &levels, None, None, false);
    case("fp8", Element::E4M3, &f32s, None, None, false);
    if cols.is_multiple_of(4) {
        case("2:4 int8", Element::Int8, &f32s, None, None, true);
        case("2:4 int4", Element::Int4, &f16, None, None, true);
        case("2:4 fp4", Element::E2M1, &powers, None, None, true);
    }
    let plain = random("plain", rows * cols);
    let halves: Vec<half::f16> = plain.iter().map(|&v| half::f16::from_f32(v)).collect();
    let brains: Vec<half::bf16> = plain.iter().map(|&v| half::bf16::from_f32(v)).collect();
    let bits: Vec<u16> = halves.iter().map(|v| v.to_bits()).collect();
    let values = halves.iter().map(|v| v.to_f32()).collect();
    cases.push(Case { name: "f16", packed: Packed::f16(&bits, rows, cols), values });
    let bits: Vec<u16> = brains.iter().map(|v| v.to_bits()).collect();
    let values = brains.iter().map(|v| v.to_f32()).collect();
    cases.push(Case { name: "bf16", packed: Packed::bf16(&bits, rows, cols), values });
    cases.push(Case { name: "f32", packed: Packed::f32(&plain, rows, cols), values: plain });
    cases
}

/// Rows and inputs with and without a rest, and every kind of group.
const SHAPES: [(usize, usize, usize); 8] = [
    (16, 32, 32),
    (35, 96, 16),
    (20, 80, 16),
    (33, 160, 32),
    (48, 256, 64),
    (17, 384, 128),
    (40, 100, 1000),
    (16, 160, 128),
];

#[test]
fn codes_and_scales_come_back_as_fake_quantization_has_them() {
    for (rows, cols, size) in SHAPES {
        for Case { name, packed, values } in cases(rows, cols, size) {
            let mut row = vec![0.; cols];
            for (i, want) in values.chunks_exact(cols).enumerate() {
                packed.row(i, &mut row);
                for (j, (got, want)) in row.iter().zip(want).enumerate() {
                    // Under E4M3 scales the product with their factor is rounded in another order.
                    let bound = if name == "fp4 under e4m3" { 1e-6 * want.abs() } else { 0. };
                    assert!((got - want).abs() <= bound, "{name} {rows}×{cols}: [{i}, {j}] {got}, {want}");
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_the_numbers() {
    for (rows, cols, size) in SHAPES {
        for Case { name, packed, values } in cases(rows, cols, size) {
            for m in [1, 2, 3, 15] {
                let mut x = random("x", m * cols);
                x[cols / 2] = 40.;
                for arithmetic in [Arithmetic::Float, Arithmetic::Blocks, Arithmetic::Tokens] {
                    let packed = packed.clone().with_arithmetic(arithmetic);
                    if packed.arithmetic() != arithmetic {
                        continue;
                    }
                    let mut activations = Activations::new();
                    activations.set(&x, m, cols);
                    activations.prepare(arithmetic);
                    let mut y = vec![f32::NAN; m * rows];
                    product(&Crew::alone(), &activations, &mut [(&packed, &mut y)]);
                    for (i, y) in y.chunks_exact(rows).enumerate() {
                        let x = &x[i * cols..][..cols];
                        let rounded = rounded(x, arithmetic);
                        for (n, &y) in y.iter().enumerate() {
                            let w = &values[n * cols..][..cols];
                            let dot =
                                |x: &[f64]| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
                            let size: f64 =
                                w.iter().zip(&rounded).map(|(&w, x)| (f64::from(w) * x).abs()).sum();
                            let want = dot(&rounded);
                            let error = (f64::from(y) - want).abs();
                            assert!(
                                error <= 4e-6 * size + 1e-12,
                                "{name} {rows}×{cols} m {m} {arithmetic:?}: {y}, {want}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Activations as an arithmetic sees them.
fn rounded(x: &[f32], arithmetic: Arithmetic) -> Vec<f64> {
    let block = match arithmetic {
        Arithmetic::Float => return x.iter().map(|&x| f64::from(x)).collect(),
        Arithmetic::Blocks => 32,
        Arithmetic::Tokens => x.len(),
    };
    let each = |x: &[f32]| {
        let amax = x.iter().fold(0f32, |a, x| a.max(x.abs()));
        let (scale, inverse) = (f64::from(amax / 127.), if amax > 0. { 127. / amax } else { 0. });
        x.iter().map(|x| f64::from((x * inverse).round_ties_even()) * scale).collect::<Vec<_>>()
    };
    x.chunks(block).flat_map(each).collect()
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let levels: Vec<Level> = Level::all().collect();
    for (rows, cols, size) in SHAPES {
        for Case { name, packed, .. } in cases(rows, cols, size) {
            for arithmetic in [Arithmetic::Float, Arithmetic::Blocks, Arithmetic::Tokens] {
                let packed = packed.clone().with_arithmetic(arithmetic);
                for m in [1, 15] {
                    let mut activations = Activations::new();
                    activations.set(&random("x", m * cols), m, cols);
                    activations.prepare(packed.arithmetic());
                    let run = |level: Level| {
                        let mut y = vec![f32::NAN; m * rows];
                        product_at(level, &Crew::alone(), &activations, &mut [(&packed, &mut y)]);
                        let mut tile = vec![f32::NAN; cols.next_multiple_of(32) * ROWS];
                        decode(level, &packed, 0..1, &mut tile);
                        y.extend(tile);
                        y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    };
                    let want = run(levels[levels.len() - 1]);
                    for &level in &levels {
                        assert!(
                            run(level) == want,
                            "{name} {rows}×{cols} m {m} {arithmetic:?}: {level:?} differs"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_sizes_are_those_of_the_layout() {
    let (rows, cols) = (64, 512);
    for Case { name, packed, .. } in cases(rows, cols, 1000) {
        let bits = 8. * (packed.bytes() as f64 - (rows * 4) as f64) / (rows * cols) as f64;
        let want = match name {
            "int8" | "uint8 with zero points" | "fp8" => 8.,
            "2:4 int8" => 5.,
            "2:4 int4" | "2:4 fp4" => 3.,
            "f32" => 32.,
            "f16" | "bf16" => 16.,
            _ => 4.,
        };
        assert!((bits - want).abs() < 0.1, "{name}: {bits} bits, expected {want}");
        assert_eq!(packed.is_kept(), name.starts_with("2:4"));
    }
    let codes = [1, 1, 1, 0];
    let groups = Groups { size: 4, scales: &[1.], zeros: None, minima: None, global: None };
    assert!(Packed::kept(Element::Int8, &codes, 1, 4, &groups).is_none());
}

#[test]
fn a_crew_gives_what_one_thread_gives() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (rows, cols) = (1000, 96);
    let all = cases(rows, cols, 32);
    let mut activations = Activations::new();
    activations.set(&random("x", cols), 1, cols);
    activations.prepare(Arithmetic::Blocks);
    let run = |crew: &Crew<'_>| {
        let mut ys = vec![vec![f32::NAN; rows]; all.len()];
        let mut products: Vec<_> =
            all.iter().zip(&mut ys).map(|(c, y)| (&c.packed, y.as_mut_slice())).collect();
        product(crew, &activations, &mut products);
        ys
    };
    let want = run(&Crew::alone());
    let found = pool.install(|| Crew::with(|crew| (0..50).map(|_| run(crew)).collect::<Vec<_>>()));
    assert!(found.iter().all(|found| *found == want));
    // From outside of the pool, with rayon's own work in between, and one within another.
    let found = Crew::with(|crew| {
        let first = run(crew);
        let inner = Crew::with(run);
        crew.each(7, |_| ());
        (first, inner)
    });
    assert!(found.0 == want && found.1 == want);
}

#[test]
fn a_panic_in_a_piece_reaches_the_caller() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for bad in [0, 63] {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.install(|| Crew::with(|crew| crew.each(64, |i| assert!(i != bad, "piece {i}"))));
        }));
        assert!(result.is_err(), "{bad}");
    }
    assert_eq!(pool.install(|| Crew::with(|crew| crew.size())), 2);
}

#[test]
fn attention_to_a_cache_is_attention() {
    let (h, hkv, d) = (6, 2, 24);
    for (format, tolerance) in [(KvFormat::F32, 2e-6), (KvFormat::F16, 2e-3), (KvFormat::Int8, 3e-2)] {
        for (len, window) in [(1, None), (70, None), (70, Some(9)), (5, Some(9))] {
            let (k, v) = (random("k", len * hkv * d), random("v", len * hkv * d));
            let q = random("q", h * d);
            let mut keys = Cached::new(format, hkv, d, len);
            let mut values = Cached::new(format, hkv, d, 0);
            keys.push(&k[..hkv * d]);
            keys.push(&k[hkv * d..]);
            values.push(&v);
            values.push(&v[..hkv * d]);
            values.truncate(len);
            let mut got = vec![f32::NAN; h * d];
            attend(&Crew::alone(), &q, &keys, &values, 0.2, window, &mut got);
            let dims = crate::AttentionDims { b: 1, tq: 1, tk: len, h, hkv, d, scale: 0.2, window };
            let mut want = vec![0.; h * d];
            crate::attention(&q, &k, &v, &dims, &mut want);
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= tolerance, "{format:?} {len} {window:?}: {got}, {want}");
            }
            let mut buffer = Vec::new();
            let (a, b) = (keys.floats(&mut buffer), &k);
            assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance));
        }
    }
}
