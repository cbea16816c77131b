//! A quantized weight as GGUF blocks.

use trimwick_formats::blocks::{BlockScales, GgmlType, encode};
use trimwick_kernels::quant::{Code, ScaleFormat};
use trimwick_models::permute_rows;
use trimwick_quant::{Granularity, Quantized};

use super::fit::Refusal;
use super::part::{matrix, scales};

/// Values that a scale of Q8_0, Q4_0, Q4_1 and MXFP4 covers.
const BLOCK: usize = 32;

const HALF_SCALES: &str =
    "train with scales that half precision holds: bf16 ones of 2^-17 and above, f16, or powers of two";

/// A weight in blocks.
pub(crate) struct Blocks {
    pub dtype: GgmlType,
    pub bytes: Vec<u8>,
    /// The scale of the tensor, a tensor of its own.
    pub global: Option<f32>,
}

/// The type of blocks that can hold a grid whatever its scales are, or why none can.
pub(crate) fn dtype(q: &Quantized) -> Result<GgmlType, Refusal> {
    const NEAREST: &str = "q8_0, q4_0, int4 and int8 in groups of 32·n, mxfp4 and nvfp4 fit; \
                           compressed-tensors holds fp8";
    let [_, row] = matrix(&q.shape);
    let power = matches!(q.spec.scale, ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor);
    let dtype = match (q.spec.code, q.spec.granularity) {
        (Code::Int { bits: ..=4 } | Code::Ternary, _) => GgmlType::Q4_0,
        (Code::Int { .. }, _) => GgmlType::Q8_0,
        (Code::Uint { bits: ..=4 }, _) => GgmlType::Q4_1,
        (Code::E2M1, Granularity::Group(32)) if power => GgmlType::MXFP4,
        (Code::E2M1, Granularity::Group(16)) if q.spec.has_global() => GgmlType::NVFP4,
        _ => return Err(("GGUF has no block for this grid".into(), NEAREST)),
    };
    if !row.is_multiple_of(dtype.block_len()) {
        let problem = format!("rows of {row}, which are no whole blocks of {} ({dtype})", dtype.block_len());
        return Err((problem, "compressed-tensors holds rows of any length"));
    }
    match q.spec.granularity {
        Granularity::Group(group) if !matches!(dtype, GgmlType::NVFP4) && !group.is_multiple_of(BLOCK) => {
            let problem = format!("groups of {group}, and a block of {dtype} has one scale for {BLOCK}");
            Err((problem, "train with groups of 32, 64 or 128"))
        }
        _ => Ok(dtype),
    }
}

/// Why scales such as this one, which is none of half precision, have no place in blocks of a type.
pub(crate) fn holds(dtype: GgmlType, scale: f32) -> Result<(), Refusal> {
    let half = matches!(dtype, GgmlType::Q8_0 | GgmlType::Q4_0 | GgmlType::Q4_1);
    if half && half::f16::from_f32(scale).to_f32() != scale {
        return Err((format!("scales in full precision, and those of {dtype} have half"), HALF_SCALES));
    }
    Ok(())
}

/// The codes as bytes of their own sign: a code of three bits is one of four or of eight as well.
fn signed(q: &Quantized) -> Vec<u8> {
    match q.spec.code {
        Code::Int { .. } | Code::Ternary => {
            let above = 8 - q.spec.code.bits();
            q.codes.iter().map(|code| ((code << above).cast_signed() >> above).cast_unsigned()).collect()
        }
        _ => q.codes.clone(),
    }
}

/// Codes and scales in blocks, the rows in the order of a `llama` file where there are `heads`.
pub(crate) fn pack(q: &Quantized, heads: Option<usize>) -> Result<Blocks, Refusal> {
    let dtype = dtype(q)?;
    let [rows, row] = matrix(&q.shape);
    let moved = |values: &[u8], columns: usize| match heads {
        Some(heads) => permute_rows(values, heads, columns),
        None => values.to_vec(),
    };
    let codes = moved(&signed(q), row);
    // One entry for each block of the result.
    let spread = |of: &dyn Fn(usize) -> f32| -> Vec<f32> {
        let per_row = row / BLOCK;
        let all: Vec<f32> = (0..rows * per_row).map(|i| of(i * BLOCK / q.block)).collect();
        match heads {
            Some(heads) => permute_rows(&all, heads, per_row),
            None => all,
        }
    };
    let scale = |block: usize| q.scales[block];
    let bytes = match dtype {
        GgmlType::Q8_0 | GgmlType::Q4_0 => encode(dtype, &codes, BlockScales::Half(&spread(&scale))),
        GgmlType::Q4_1 => {
            let zeros = q.zeros.as_deref().unwrap_or_default();
            // +0, where the zero point is 0, as every reader adds it.
            let min = |block: usize| 0. - zeros.get(block).copied().unwrap_or_default() * q.scales[block];
            encode(dtype, &codes, BlockScales::HalfMin(&spread(&scale), &spread(&min)))
        }
        GgmlType::MXFP4 => {
            let powers = moved(&scales(q).to_bytes(ScaleFormat::E8M0Ceil), row / BLOCK);
            encode(dtype, &codes, BlockScales::E8M0(&powers))
        }
        _ => {
            let e4m3 = moved(&scales(q).to_bytes(ScaleFormat::E4M3), row / 16);
            encode(dtype, &codes, BlockScales::E4M3(&e4m3))
        }
    };
    let bytes = bytes.map_err(|error| (error.to_string(), HALF_SCALES))?;
    Ok(Blocks { dtype, bytes, global: (dtype == GgmlType::NVFP4).then_some(q.global) })
}
