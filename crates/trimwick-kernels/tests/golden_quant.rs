//! Grids against other libraries: `golden/quant.safetensors`, which `golden/quant_make.py` writes with nvidia-modelopt
//! 0.47.0, torchao 0.18.0 and compressed-tensors 0.20.0 on the CPU, and from an independent reference in numpy.
//!
//! Every code and every dequantized value has to agree, bit for bit (−0.0 counts as the 0.0 that ours always is). Where
//! a library has another rule on purpose, the rule is written out below and its result has to be that, bit for bit,
//! and under its scales our codes and values have to be its own. These are the differences:
//!
//! | library, case | its rule | ours | what is tested |
//! |---|---|---|---|
//! | compressed-tensors, torchao (−128 to 127, −8 to 7): symmetric int | s = amax / 127.5, amax / 7.5: half of the whole range | amax / 127, amax / 7: the largest magnitude is a value of the grid, as in ModelOpt and the papers | the rule; all else exact |
//! | ModelOpt `_tensor_quant`, INT4QTensor | x · (127 / amax), then q / (127 / amax) | x / s, then q · s: what every reader of the exported bytes computes | the rule, its scale, its values; elements exactly between two codes may take the other one (counted) |
//! | ModelOpt `fp8_eager` | x · (448 / amax), then q · 1 / (448 / amax) | x / s, then q · s | the same |
//! | torchao int | round(x · (1 / s)) + z | round(x / s + z): as compressed-tensors | scales and zero points exact; elements between two codes (counted) |
//! | torchao NVFP4 | block scales ≥ 2⁻⁶, and x · (1 / g / s) | ≥ 2⁻⁹, the smallest number: as ModelOpt's export | the rule; all else exact |
//! | compressed-tensors NVFP4 | divides by G = 2688 / amax, s = e4m3(amax_b / 6 · G) / G, and a scale of 0 becomes .125 | g = amax / 2688, s = e4m3(amax_b / 6g) · g: as ModelOpt's export | the rule; all else exact |
//! | compressed-tensors MXFP4, MXFP6, MXFP8 | e from amax rounded to so many mantissa bits: 1, 3 and (as in MXFP4) 1 | ⌈log₂(amax / max)⌉, with which nothing saturates, or the specification's floor | the rule; all else exact |
//! | ModelOpt MXFP4QTensor | a tie goes to the smaller magnitude | to the even code, as in its own NVFP4 and in the specification | elements between two codes (counted) |
//! | any, an all-zero block | 0 / 0 = NaN (fp8 of ModelOpt and torchao), or another scale, code or zero point for the same zeros | scale 1 (NVFP4: g), values +0.0 | ours is +0.0; where theirs is NaN, it is so there alone |

use safetensors::SafeTensors;
use trimwick_kernels::quant::{Code, Grid, ScaleFormat, encode, fake_quant, fake_quant_dynamic, scales};

/// A scale from the largest magnitudes of the block and of the tensor, where a library has another rule than ours.
type Rule = fn(f32, f32) -> f32;

struct Case {
    name: &'static str,
    grid: Grid,
    /// `None`: scales (and zero points) are ours.
    rule: Option<Rule>,
    /// Elements of `weight` and of `awkward` that lie between two codes and take the other one.
    ties: [usize; 2],
    /// What the library divides codes by, from amax, instead of multiplying them by the scale.
    divisor: Option<fn(f32) -> f32>,
    /// The library makes NaN of blocks of zeros.
    nan: bool,
}

const INPUTS: [&str; 2] = ["weight", "awkward"];

const INT8: Code = Code::Int { bits: 8 };
const INT4: Code = Code::Int { bits: 4 };

fn case(name: &'static str, code: Code, scale: ScaleFormat) -> Case {
    Case { name, grid: Grid { code, scale }, rule: None, ties: [0, 0], divisor: None, nan: false }
}

impl Case {
    fn rule(self, rule: Rule) -> Self {
        Self { rule: Some(rule), ..self }
    }

    fn ties(self, weight: usize, awkward: usize) -> Self {
        Self { ties: [weight, awkward], ..self }
    }

    fn divides(self, divisor: fn(f32) -> f32) -> Self {
        Self { divisor: Some(divisor), ..self }
    }

    fn nan(self) -> Self {
        Self { nan: true, ..self }
    }
}

/// compressed-tensors: the exponent of amax rounded to `mantissa` bits.
fn rounded_power(amax: f32, mantissa: u32, largest: i32) -> f32 {
    let bits = amax.to_bits() + (1 << (23 - mantissa - 1));
    2f32.powi((bits >> 23) as i32 - 127 - largest)
}

fn cases() -> Vec<Case> {
    use Code::{E2M1, E2M3, E3M2, E4M3, E5M2, Ternary};
    use ScaleFormat::{BF16, E8M0Ceil, E8M0Floor, F16, F32};
    const NV: ScaleFormat = ScaleFormat::E4M3;
    let uint = |bits| Code::Uint { bits };
    // In PyTorch, a number divided by a tensor is the tensor's reciprocal times the number.
    let times7: fn(f32) -> f32 = |amax| 1.0 / amax * 7.0;
    let inverse7: Rule = |amax, _| 1.0 / (7.0 / amax);
    let inverse_times7: Rule = |amax, _| 1.0 / (1.0 / amax * 7.0);
    let half_step8: Rule = |amax, _| amax / 127.5;
    let half_step4: Rule = |amax, _| amax / 7.5;
    vec![
        case("modelopt.int8_tensor", INT8, F32),
        case("modelopt.int8_channel", INT8, F32),
        case("modelopt.int8_g64", INT8, F32),
        case("modelopt.fp8_tensor", E4M3, F32),
        case("modelopt.fp8_channel", E4M3, F32).nan(),
        case("modelopt.int4_g32", INT4, F32).rule(inverse_times7).divides(times7).ties(0, 9),
        case("modelopt.int4_g64", INT4, F32).rule(inverse_times7).divides(times7).ties(0, 10),
        case("modelopt.int4_g128", INT4, F32).rule(inverse_times7).divides(times7).ties(0, 10),
        case("modelopt.fake_int8_channel", INT8, F32)
            .rule(|amax, _| 1.0 / (127.0 / amax))
            .divides(|amax| 127.0 / amax),
        case("modelopt.fake_int4_g32", INT4, F32).rule(inverse7).divides(|amax| 7.0 / amax).ties(0, 9),
        case("modelopt.fake_int4_g128", INT4, F32).rule(inverse7).divides(|amax| 7.0 / amax).ties(0, 10),
        case("modelopt.fake_fp8_channel", E4M3, F32).rule(|amax, _| 1.0 / (1.0 / amax * 448.0)),
        case("modelopt.nvfp4", E2M1, NV),
        case("modelopt.mxfp4", E2M1, E8M0Ceil).ties(0, 108),
        case("modelopt.mxfp8", E4M3, E8M0Ceil),
        case("torchao.int8_tensor", INT8, F32),
        case("torchao.int8_channel", INT8, F32),
        case("torchao.int8_wide_channel", INT8, F32).rule(half_step8).ties(1, 1),
        case("torchao.int4_g32", INT4, F32).rule(half_step4).ties(11, 5),
        case("torchao.int4_g64", INT4, F32).rule(half_step4).ties(6, 2),
        case("torchao.int4_g128", INT4, F32).rule(half_step4).ties(2, 1),
        case("torchao.uint4_g32", uint(4), F32).ties(0, 3),
        case("torchao.uint8_channel", uint(8), F32),
        case("torchao.fp8_tensor", E4M3, F32),
        case("torchao.fp8_channel", E4M3, F32).nan(),
        case("torchao.fp8_e5m2_channel", E5M2, F32).nan(),
        case("torchao.mxfp4_ceil", E2M1, E8M0Ceil),
        case("torchao.mxfp4_floor", E2M1, E8M0Floor),
        case("torchao.mxfp6_e2m3_ceil", E2M3, E8M0Ceil),
        case("torchao.mxfp6_e2m3_floor", E2M3, E8M0Floor),
        case("torchao.mxfp6_e3m2_ceil", E3M2, E8M0Ceil),
        case("torchao.mxfp6_e3m2_floor", E3M2, E8M0Floor),
        case("torchao.mxfp8_ceil", E4M3, E8M0Ceil),
        case("torchao.mxfp8_floor", E4M3, E8M0Floor),
        case("torchao.mxfp8_e5m2_ceil", E5M2, E8M0Ceil),
        case("torchao.mxfp8_e5m2_floor", E5M2, E8M0Floor),
        case("torchao.nvfp4", E2M1, NV).rule(|amax, tensor| {
            let global = tensor / 2688.0;
            E4M3.round((amax / 6.0 / global).clamp(2f32.powi(-6), 448.0)) * global
        }),
        case("compressed_tensors.int8_tensor", INT8, F32).rule(half_step8),
        case("compressed_tensors.int8_channel", INT8, F32).rule(half_step8),
        case("compressed_tensors.int4_g32", INT4, F32).rule(half_step4),
        case("compressed_tensors.int4_g64", INT4, F32).rule(half_step4),
        case("compressed_tensors.int4_g128", INT4, F32).rule(half_step4),
        case("compressed_tensors.uint4_g32", uint(4), F32),
        case("compressed_tensors.uint8_channel", uint(8), F32),
        case("compressed_tensors.fp8_tensor", E4M3, F32),
        case("compressed_tensors.fp8_channel", E4M3, F32),
        case("compressed_tensors.mxfp4", E2M1, E8M0Floor).rule(|amax, _| rounded_power(amax, 1, 2)),
        case("compressed_tensors.mxfp6_e2m3", E2M3, E8M0Floor).rule(|amax, _| rounded_power(amax, 3, 2)),
        case("compressed_tensors.mxfp8", E4M3, E8M0Floor).rule(|amax, _| rounded_power(amax, 1, 8)),
        case("compressed_tensors.nvfp4", E2M1, NV).rule(|amax, tensor| {
            let divisor = 1.0 / tensor * 2688.0;
            match E4M3.round(amax / 6.0 * divisor) {
                0.0 => 0.125 / divisor,
                multiple => multiple / divisor,
            }
        }),
        case("reference.int8_channel", INT8, F32),
        case("reference.q8_0", INT8, F16),
        case("reference.q4_0", INT4, F16),
        case("reference.int4_bf16_g64", INT4, BF16),
        case("reference.int3_bf16_g64", Code::Int { bits: 3 }, BF16),
        case("reference.ternary_bf16_g128", Ternary, BF16),
        case("reference.fp8_e5m2_channel", E5M2, F32),
        case("reference.nvfp4", E2M1, NV),
        case("reference.mxfp4_ceil", E2M1, E8M0Ceil),
        case("reference.mxfp4_floor", E2M1, E8M0Floor),
        case("reference.mxfp6_e2m3_ceil", E2M3, E8M0Ceil),
        case("reference.mxfp6_e2m3_floor", E2M3, E8M0Floor),
        case("reference.mxfp6_e3m2_ceil", E3M2, E8M0Ceil),
        case("reference.mxfp6_e3m2_floor", E3M2, E8M0Floor),
        case("reference.mxfp8_ceil", E4M3, E8M0Ceil),
        case("reference.mxfp8_floor", E4M3, E8M0Floor),
        case("reference.mxint8_ceil", INT8, E8M0Ceil),
        case("reference.mxint8_floor", INT8, E8M0Floor),
    ]
}

/// The tensors of the file.
struct Golden(Vec<u8>);

impl Golden {
    fn open() -> Self {
        Self(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/quant.safetensors")).unwrap())
    }

    fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.0).unwrap().names().into_iter().map(String::from).collect()
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).ok().map(|t| t.data().to_vec())
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.bytes(name)?;
        Some(bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}

/// The two values around v in the code, or the one twice where v is one or beyond all of them.
fn neighbours(code: Code, v: f32) -> (f64, f64) {
    let values = (0..=u8::MAX >> (8 - code.bits())).map(|c| code.decode(c)).filter(|v| v.is_finite());
    let (mut below, mut above) = (code.min(), code.max());
    for value in values.filter(|&value| (code.min()..=code.max()).contains(&value)) {
        if value <= v {
            below = below.max(value);
        }
        if value >= v {
            above = above.min(value);
        }
    }
    (f64::from(below), f64::from(above))
}

/// The number of elements that lie between two codes and take the other one.
fn check(golden: &Golden, case: &Case, input: usize) -> usize {
    let (grid, name) = (case.grid, format!("{}.{}", case.name, INPUTS[input]));
    let Some(codes) = golden.bytes(&format!("{name}.codes")) else {
        assert_eq!(INPUTS[input], "awkward", "{name} is missing");
        return 0;
    };
    let x = golden.floats(INPUTS[input]).unwrap();
    let theirs = golden.floats(&format!("{name}.scales")).unwrap();
    let zeros = golden.floats(&format!("{name}.zeros"));
    let block = x.len() / theirs.len();
    let amax = |x: &[f32]| x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let is_zero: Vec<bool> = x.chunks(block).map(|x| amax(x) == 0.0).collect();

    // Scales and zero points.
    let (mut s, mut z) = (vec![0.0; theirs.len()], vec![0.0; theirs.len()]);
    let global = scales(grid, &x, block, None, &mut s, Some(&mut z)).unwrap();
    for (i, block) in x.chunks(block).enumerate().filter(|(i, _)| !is_zero[*i]) {
        let want = case.rule.map_or(s[i], |rule| rule(amax(block), amax(&x)));
        assert_eq!(theirs[i], want, "{name}: scale {i}");
        if let Some(zeros) = &zeros {
            assert_eq!(zeros[i], z[i], "{name}: zero point {i}");
        }
    }
    if case.rule.is_none()
        && let Some(want) = golden.floats(&format!("{name}.global"))
    {
        assert_eq!(global, want[0], "{name}: global scale");
    }

    // Codes and values under their scales; a block of zeros may have any.
    let given: Vec<f32> = theirs.iter().zip(&is_zero).map(|(&s, &zero)| if zero { 1.0 } else { s }).collect();
    let affine = zeros.is_some();
    let given_zeros: Vec<f32> =
        z.iter().zip(&is_zero).map(|(&z, &zero)| if zero { 0.0 } else { z }).collect();
    let given_zeros = affine.then_some(given_zeros.as_slice());
    let (mut ours, mut y) = (vec![0; x.len()], vec![f32::NAN; x.len()]);
    encode(grid, &x, block, &given, given_zeros, &mut ours);
    fake_quant(grid, &x, block, &given, given_zeros, &mut y);
    let stored = golden.floats(&format!("{name}.y"));
    let mut ties = 0;
    for i in 0..x.len() {
        let b = i / block;
        if is_zero[b] {
            let nan = stored.as_ref().is_some_and(|y| y[i].is_nan());
            assert_eq!(nan, case.nan, "{name}: element {i} of a block of zeros");
            if let (false, Some(stored)) = (nan, &stored) {
                assert_eq!(stored[i], 0.0, "{name}: element {i} of a block of zeros");
            }
            continue;
        }
        let (theirs, z) = (grid.code.decode(codes[i]), given_zeros.map_or(0.0, |z| z[b]));
        let quotient = x[i] / given[b] + z;
        if grid.code.decode(ours[i]) != theirs {
            ties += 1;
            let (below, above) = neighbours(grid.code, quotient);
            let distance = (f64::from(quotient) - (below + above) / 2.0).abs();
            let ulps = distance / (f64::from(quotient.abs()) * 2f64.powi(-23));
            assert!(ulps <= 2.0, "{name}: element {i}, {quotient} is {ulps} ulp from a tie");
            assert!([below, above].contains(&f64::from(theirs)), "{name}: element {i} is neither neighbour");
            continue;
        }
        assert_eq!(y[i], (theirs - z) * given[b], "{name}: value {i}");
        if let Some(stored) = &stored {
            let amax = amax(&x[b * block..][..block]);
            let want = case.divisor.map_or(y[i], |divisor| theirs / divisor(amax));
            assert_eq!(stored[i], want, "{name}: their value {i}");
        }
    }
    // On our own scales.
    let mut dynamic = vec![f32::NAN; x.len()];
    fake_quant_dynamic(grid, &x, block, None, &mut dynamic).unwrap();
    for (i, &v) in dynamic.iter().enumerate() {
        assert!(v != 0.0 || v.to_bits() == 0, "{name}: element {i} is −0");
        if is_zero[i / block] {
            assert_eq!(v.to_bits(), 0, "{name}: element {i} of a block of zeros");
        } else if case.rule.is_none() && ties == 0 {
            assert_eq!(v, y[i], "{name}: element {i} on our scale");
        }
    }
    ties
}

#[test]
fn codes_and_values_of_other_libraries() {
    let golden = Golden::open();
    let mut wrong = vec![];
    for case in cases() {
        let ties = [0, 1].map(|input| check(&golden, &case, input));
        if ties != case.ties {
            wrong.push(format!("{}: {ties:?}, expected {:?}", case.name, case.ties));
        }
    }
    assert!(wrong.is_empty(), "elements between two codes that take the other one:\n{}", wrong.join("\n"));
}

#[test]
fn every_case_of_the_file_is_checked() {
    let cases = cases();
    for name in Golden::open().names() {
        let known = cases.iter().any(|case| name.starts_with(&format!("{}.", case.name)));
        assert!(known || INPUTS.contains(&name.as_str()), "{name} is checked by no case");
    }
}
