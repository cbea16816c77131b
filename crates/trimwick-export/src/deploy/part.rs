//! The tensors that stand for a packed weight, and their bytes.

use trimwick_formats::Error as FormatError;
use trimwick_formats::floats::{bf16_to_le_bytes, f16_to_le_bytes, f32_to_le_bytes};
use trimwick_formats::packed::{offset, pack_columns, pack_row_pairs, pack_rows, row_bytes, sparse24};
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant::{Code, ScaleFormat};
use trimwick_quant::{Granularity, QuantSpec, Quantized, has_divisor};

use crate::scales::Scales;

/// What a part holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A byte to a code, in the type that says what it means.
    Bytes,
    /// I32 words of offset binary.
    Words,
    /// Zero points as I32 words along N.
    WordZeros,
    /// A dense stream of bytes along each row.
    Stream,
    /// Two rows of 4-bit codes in one.
    RowPairs,
    /// N and K.
    Shape,
    /// The scales of the blocks in the part's type.
    Scales,
    /// The scale of the tensor.
    Global,
    /// What E4M3 scales are divided by in its place.
    Divisor,
    /// Ones.
    Ones,
    /// One number.
    Number(f32),
    /// Bits of a code and its kind.
    Bits,
    /// Codes of the kept two of every four.
    Kept,
    /// Their places.
    Meta,
}

/// One tensor of a packed weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    /// What follows the path of the layer and a dot.
    pub part: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub kind: Kind,
}

impl Slot {
    pub(crate) fn new(part: &'static str, dtype: Dtype, shape: &[usize], kind: Kind) -> Self {
        Self { part, dtype, shape: shape.into(), kind }
    }
}

/// Rows and row length of a weight.
pub(crate) fn matrix(shape: &[usize]) -> [usize; 2] {
    [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()]
}

/// Scales down and across.
pub(crate) fn scale_shape(spec: &QuantSpec, shape: &[usize]) -> [usize; 2] {
    let [rows, row] = matrix(shape);
    match spec.granularity {
        Granularity::Tensor => [1, 1],
        Granularity::Channel | Granularity::Token => [rows, 1],
        Granularity::Group(group) => [rows, row / group.max(1)],
    }
}

/// I32 words of a row of codes.
pub(crate) fn words(row: usize, bits: u32) -> usize {
    row_bytes(row, bits, 4).unwrap_or_default() / 4
}

/// Bytes of a row of codes.
pub(crate) fn stream(row: usize, bits: u32) -> usize {
    row_bytes(row, bits, 1).unwrap_or_default()
}

/// The number by which readers of the container know a code below a byte.
pub(crate) fn code_number(code: Code) -> i64 {
    match code {
        Code::E2M1 => 1,
        Code::E2M3 => 2,
        Code::E3M2 => 3,
        _ => 0,
    }
}

/// The bytes of one part of a weight.
pub(crate) fn bytes(slot: &Slot, q: &Quantized) -> Result<Vec<u8>, FormatError> {
    let [rows, row] = matrix(&q.shape);
    let bits = q.spec.code.bits();
    Ok(match slot.kind {
        Kind::Bytes => q.codes.clone(),
        Kind::Words => {
            let mut codes = q.codes.clone();
            if !q.spec.asymmetric() {
                offset(&mut codes, bits);
            }
            pack_rows(&codes, row, bits, 4)?
        }
        Kind::WordZeros => {
            let [_, groups] = scale_shape(&q.spec, &q.shape);
            let zeros: Vec<u8> = q.zeros.iter().flatten().map(|&z| z as u8).collect();
            pack_columns(&zeros, groups, bits)?
        }
        Kind::Stream => pack_rows(&low_bits(&q.codes, bits), row, bits, 1)?,
        Kind::RowPairs => pack_row_pairs(&q.codes, row)?,
        Kind::Shape => [rows, row].iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect(),
        Kind::Bits => {
            [i64::from(bits), code_number(q.spec.code)].iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        Kind::Scales => match slot.dtype {
            Dtype::F32 => f32_to_le_bytes(&q.scales),
            Dtype::F16 => f16_to_le_bytes(&q.scales),
            Dtype::BF16 => bf16_to_le_bytes(&q.scales),
            Dtype::U8 => scales(q).to_bytes(ScaleFormat::E8M0Ceil),
            _ => scales(q).to_bytes(ScaleFormat::E4M3),
        },
        Kind::Global => q.global.to_le_bytes().to_vec(),
        // Checked to be there before anything is written.
        Kind::Divisor => has_divisor(q.global).unwrap_or(1. / q.global).to_le_bytes().to_vec(),
        Kind::Ones => floats_as(slot.dtype, &vec![1.; slot.shape.iter().product()]),
        Kind::Number(number) => floats_as(slot.dtype, &[number]),
        Kind::Kept => {
            let (kept, _) = sparse24::compress(&low_bits(&q.codes, bits), row, 1)?;
            match slot.dtype {
                Dtype::U8 => pack_rows(&kept, row / 2, bits, 1)?,
                _ => kept,
            }
        }
        Kind::Meta => sparse24::compress(&low_bits(&q.codes, bits), row, 1)?.1,
    })
}

/// Floats in one of their types.
pub(crate) fn floats_as(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => f16_to_le_bytes(values),
        Dtype::BF16 => bf16_to_le_bytes(values),
        _ => f32_to_le_bytes(values),
    }
}

fn low_bits(codes: &[u8], bits: u32) -> Vec<u8> {
    codes.iter().map(|code| code & (u8::MAX >> (8 - bits))).collect()
}

pub(crate) fn scales(q: &Quantized) -> Scales {
    Scales { scales: q.scales.clone(), zeros: q.zeros.clone(), global: q.global }
}
