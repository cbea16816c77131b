//! A second reader of packed tensors, straight from the description of the layout, in `f64`.

use trimwick_export::Packed;
use trimwick_formats::safetensors::Dtype;
use trimwick_quant::{Code, Granularity, ScaleFormat};

/// Every part is found by its suffix.
fn bytes<'a>(packed: &'a Packed, suffix: &str) -> &'a [u8] {
    &packed.parts().find(|part| part.suffix == suffix).unwrap_or_else(|| panic!("no {suffix}")).bytes
}

/// The values that the parts stand for.
pub fn decode(packed: &Packed) -> Vec<f32> {
    let (spec, shape) = (packed.spec(), packed.shape());
    let (rows, row) = (shape[0], shape[1..].iter().product::<usize>());
    let blocks = matches!(
        (spec.code, spec.scale, spec.granularity),
        (Code::Int { bits: 8 | 4 }, ScaleFormat::F16, Granularity::Group(32))
    );
    if blocks {
        // Its own test decodes blocks; here it is enough that they are those of the codes.
        return packed.unpack().dequantize();
    }
    let (bits, codes, word) = match spec.code {
        Code::Int { bits: 8 } => (8, bytes(packed, ""), 1),
        Code::E4M3 | Code::E5M2 => (8, bytes(packed, ""), 1),
        Code::E2M1 => (4, bytes(packed, "_packed"), 1),
        Code::E2M3 | Code::E3M2 => (6, bytes(packed, "_packed"), 1),
        Code::Ternary => (2, bytes(packed, "_packed"), 4),
        Code::Int { bits } | Code::Uint { bits } => (usize::from(bits), bytes(packed, "_packed"), 4),
    };
    let width = codes.len() / rows;
    assert_eq!(width, (row * bits).div_ceil(8 * word) * word);
    let group = match spec.granularity {
        Granularity::Tensor => rows * row,
        Granularity::Group(group) => group,
        _ => row,
    };
    let groups = if spec.granularity == Granularity::Tensor { 1 } else { row / group };
    let mut values = Vec::new();
    for i in 0..rows {
        let line = &codes[i * width..(i + 1) * width];
        for j in 0..row {
            let code = field(line, j * bits, bits);
            let at = (i * row + j) / group;
            let scale = f64::from(scale(packed, at));
            let zero = match spec.code {
                Code::Uint { .. } => zero(packed, at / groups, at % groups, groups, bits),
                _ => 0.,
            };
            // Adding 0 makes a zero positive.
            values.push(((number(spec.code, code) - zero) * scale) as f32 + 0.);
        }
    }
    values
}

/// Bits `from..from + bits` of a little-endian stream.
fn field(bytes: &[u8], from: usize, bits: usize) -> u32 {
    (0..bits).map(|i| u32::from(bytes[(from + i) / 8] >> ((from + i) % 8) & 1) << i).sum()
}

/// The number of a code.
fn number(code: Code, stored: u32) -> f64 {
    let stored_signed = |bits: u8| f64::from(stored) - 2f64.powi(i32::from(bits) - 1);
    match code {
        Code::Int { bits: 8 } => f64::from(stored as u8 as i8),
        Code::Int { bits } => stored_signed(bits),
        Code::Ternary => stored_signed(2),
        Code::Uint { .. } => stored.into(),
        Code::E2M1 => float(stored, 2, 1, 1),
        Code::E2M3 => float(stored, 2, 3, 1),
        Code::E3M2 => float(stored, 3, 2, 3),
        Code::E4M3 => float(stored, 4, 3, 7),
        Code::E5M2 => float(stored, 5, 2, 15),
    }
}

/// Sign, exponent and mantissa without special values.
fn float(stored: u32, exponent: u32, mantissa: u32, bias: i32) -> f64 {
    let m = f64::from(stored & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    let e = (stored >> mantissa & ((1 << exponent) - 1)) as i32;
    let size = if e == 0 { m * 2f64.powi(1 - bias) } else { (1. + m) * 2f64.powi(e - bias) };
    if stored >> (exponent + mantissa) == 1 { -size } else { size }
}

/// Scale `at` of the tensor.
fn scale(packed: &Packed, at: usize) -> f32 {
    let stored = bytes(packed, "_scale");
    let half = || u32::from(u16::from_le_bytes([stored[2 * at], stored[2 * at + 1]]));
    match packed.spec().scale {
        ScaleFormat::F32 => f32::from_le_bytes(stored[4 * at..4 * at + 4].try_into().unwrap()),
        ScaleFormat::BF16 => f32::from_bits(half() << 16),
        ScaleFormat::F16 => float(half(), 5, 10, 15) as f32,
        ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => 2f64.powi(i32::from(stored[at]) - 127) as f32,
        ScaleFormat::E4M3 => {
            let tensor = f32::from_le_bytes(bytes(packed, "_scale_2").try_into().unwrap());
            float(stored[at].into(), 4, 3, 7) as f32 * tensor
        }
    }
}

/// Zero point of row `i` and group `j`: a stream along the rows, in words of column j.
fn zero(packed: &Packed, i: usize, j: usize, groups: usize, bits: usize) -> f64 {
    let words = bytes(packed, "_zero_point").as_chunks::<4>().0;
    let column: Vec<u8> = words.iter().skip(j).step_by(groups).flatten().copied().collect();
    field(&column, i * bits, bits).into()
}

/// The type and shape of every part.
pub fn describe(packed: &Packed) -> Vec<(&'static str, Dtype, Vec<usize>)> {
    packed.parts().map(|part| (part.suffix, part.dtype, part.shape.clone())).collect()
}
