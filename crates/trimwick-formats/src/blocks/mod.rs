//! The number formats of ggml: what a block of bytes is worth in `f32`.
//!
//! A quantized row is a sequence of blocks along its fastest dimension; each block holds one or more scales and a few
//! bits per value. The values here are those of `dequantize_row_*` in ggml's `ggml-quants.c`, bit for bit. The order
//! of operations leaves no room for doubt: a scale has 11 significant bits, a sub-block scale at most 8 and a quantum
//! at most 6, so that at most one operation of each formula rounds. A compiler that contracts `d·q + m` to a fused
//! multiply-add gets the same bits as one that does not.

mod encode;
mod fp4;
mod k_quants;
mod legacy;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::floats;
pub use encode::{BlockScales, encode, encode_floats};

/// The types of GGUF tensors that are read.
///
/// The names are the format's. `_0` types have a scale `d`, `_1` types a scale and a minimum, `_K` types are
/// super-blocks of 256 values with quantized scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types, reason = "the names of the format")]
#[non_exhaustive]
pub enum GgmlType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits: `d·(n − 8)`, 32 values in 18 bytes.
    Q4_0,
    /// 4 bits: `d·n + m`, 32 values in 20 bytes.
    Q4_1,
    /// 5 bits: `d·(n − 16)`, 32 values in 22 bytes.
    Q5_0,
    /// 5 bits: `d·n + m`, 32 values in 24 bytes.
    Q5_1,
    /// 8 bits: `d·n`, n signed, 32 values in 34 bytes.
    Q8_0,
    /// 4 bits: `d·scale·n − dmin·min`, with 6-bit scales and minima per 32, 256 values in 144 bytes.
    Q4_K,
    /// 5 bits: as [`Q4_K`](Self::Q4_K), 256 values in 176 bytes.
    Q5_K,
    /// 6 bits: `d·scale·(n − 32)`, with signed 8-bit scales per 16, 256 values in 210 bytes.
    Q6_K,
    /// E2M1 codes with a power of two: 32 values in 17 bytes.
    MXFP4,
    /// E2M1 codes with an E4M3 scale per 16: 64 values in 36 bytes. The scale of the tensor is a tensor of its own.
    NVFP4,
}

impl GgmlType {
    /// Every type that is read.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::MXFP4,
        Self::NVFP4,
    ];

    /// The type with this number in a GGUF tensor description, if it is one that is read.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.code() == code)
    }

    /// The number of this type in a GGUF tensor description (`ggml_type`).
    pub fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
            Self::MXFP4 => 39,
            Self::NVFP4 => 40,
        }
    }

    /// The name by which the format knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::MXFP4 => "MXFP4",
            Self::NVFP4 => "NVFP4",
        }
    }

    /// Values per block; 1 for the plain floats. A row is a whole number of blocks.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::MXFP4 => 32,
            Self::NVFP4 => 64,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::MXFP4 => 17,
            Self::NVFP4 => 36,
        }
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Values per task: a multiple of every block length, and enough work to be worth handing to a thread.
const TASK: usize = 1 << 16;

/// Decodes whole blocks to `f32`, in parallel over runs of blocks.
///
/// # Shapes
/// `bytes`: n · [`block_bytes`](GgmlType::block_bytes); `out`: n · [`block_len`](GgmlType::block_len).
///
/// # Errors
/// [`Error::Length`] if the two do not fit each other.
pub fn dequantize(dtype: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    in_tasks(dtype, bytes, out, |bytes, out| decode(dtype, bytes, out))
}

/// The values of NVFP4 blocks under the scale of their tensor, `e2m1 · (e4m3 · scale)`: the order in which they are
/// trained. The other order, `(e2m1 · e4m3) · scale`, may differ in the last bit.
///
/// # Shapes
/// As [`dequantize`].
///
/// # Errors
/// [`Error::Length`] if the two do not fit each other.
pub fn dequantize_nvfp4(bytes: &[u8], scale: f32, out: &mut [f32]) -> Result<()> {
    in_tasks(GgmlType::NVFP4, bytes, out, |bytes, out| {
        each(bytes, out, |block, out| fp4::nvfp4_times(block, out, scale));
        Ok(())
    })
}

fn in_tasks(
    dtype: GgmlType,
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8], &mut [f32]) -> Result<()> + Sync,
) -> Result<()> {
    let (block_len, block_bytes) = (dtype.block_len(), dtype.block_bytes());
    let blocks = bytes.len() / block_bytes;
    if !bytes.len().is_multiple_of(block_bytes) || blocks.checked_mul(block_len) != Some(out.len()) {
        let expected = out.len().div_ceil(block_len).saturating_mul(block_bytes);
        return Err(Error::Length { what: "quantized bytes", expected, found: bytes.len() });
    }
    if out.len() <= TASK {
        return decode(bytes, out);
    }
    out.par_chunks_mut(TASK)
        .zip(bytes.par_chunks(TASK / block_len * block_bytes))
        .try_for_each(|(out, bytes)| decode(bytes, out))
}

fn decode(dtype: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    match dtype {
        GgmlType::F32 => return floats::f32_from_le_bytes(bytes, out),
        GgmlType::F16 => return floats::f16_from_le_bytes(bytes, out),
        GgmlType::BF16 => return floats::bf16_from_le_bytes(bytes, out),
        GgmlType::Q4_0 => each(bytes, out, legacy::q4_0),
        GgmlType::Q4_1 => each(bytes, out, legacy::q4_1),
        GgmlType::Q5_0 => each(bytes, out, legacy::q5_0),
        GgmlType::Q5_1 => each(bytes, out, legacy::q5_1),
        GgmlType::Q8_0 => each(bytes, out, legacy::q8_0),
        GgmlType::Q4_K => each(bytes, out, k_quants::q4_k),
        GgmlType::Q5_K => each(bytes, out, k_quants::q5_k),
        GgmlType::Q6_K => each(bytes, out, k_quants::q6_k),
        GgmlType::MXFP4 => each(bytes, out, fp4::mxfp4),
        GgmlType::NVFP4 => each(bytes, out, fp4::nvfp4),
    }
    Ok(())
}

/// Calls `block` on each block of `B` bytes and its `N` values.
fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

/// The little-endian half-precision float at `bytes[at]`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_come_back() {
        for dtype in GgmlType::ALL {
            assert_eq!(GgmlType::from_code(dtype.code()), Some(dtype));
        }
        assert_eq!(GgmlType::from_code(4), None);
        assert_eq!(GgmlType::from_code(u32::MAX), None);
    }

    #[test]
    fn many_tasks_give_what_one_gives() {
        for dtype in GgmlType::ALL {
            let blocks = 3 * TASK / dtype.block_len() + 1;
            let bytes: Vec<u8> = (0..blocks * dtype.block_bytes()).map(|i| (i * i / 7 % 61) as u8).collect();
            let mut parallel = vec![0.0; blocks * dtype.block_len()];
            let mut serial = parallel.clone();
            dequantize(dtype, &bytes, &mut parallel).unwrap();
            decode(dtype, &bytes, &mut serial).unwrap();
            assert!(parallel.iter().zip(&serial).all(|(a, b)| a.to_bits() == b.to_bits()), "{dtype}");
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        for dtype in GgmlType::ALL {
            let (len, bytes) = (dtype.block_len(), dtype.block_bytes());
            for (bytes, len) in [(bytes - 1, len), (bytes + 1, len), (bytes, len + 1), (0, len), (bytes, 0)] {
                let result = dequantize(dtype, &vec![0; bytes], &mut vec![0.0; len]);
                assert!(matches!(result, Err(Error::Length { .. })), "{dtype} {bytes} {len}");
            }
        }
    }
}
