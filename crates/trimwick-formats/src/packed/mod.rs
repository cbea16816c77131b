//! Layouts of packed weights in safetensors: bytes to codes and back, no tensor, no scale.
//!
//! A code takes a byte here: unsigned, as it is stored. Signed codes are stored in offset binary by compressed-tensors
//! (q + 2^(b−1)) and in two's complement by ModelOpt and in our own container; [`offset`] turns one into the other.
//! N is the number of outputs, K that of inputs, and codes are row-major `[N, K]` whatever the layout.
//!
//! | layout | stored | order | of |
//! |---|---|---|---|
//! | [`pack_rows`], words of 4 | I32 `[N, ⌈K·b/32⌉]` | a dense stream of bits along each row | compressed-tensors `weight_packed` |
//! | [`pack_rows`], words of 1 | U8 `[N, ⌈K·b/8⌉]` | the same; of two nibbles the first is the low one | FP4 and FP6 codes |
//! | [`pack_columns`] | I32 `[⌈N·b/32⌉, K]` | the same along each column | zero points of compressed-tensors, `qweight` of GPTQ |
//! | [`pack_row_pairs`] | U8 `[N/2, K]` | row 2i in the low, 2i + 1 in the high nibble | ModelOpt W4A16_AWQ |
//! | [`unpack_awq`] | I32 `[K, N/8]` | nibble i of a word is column 0 2 4 6 1 3 5 7 of eight | AutoAWQ `qweight` |
//! | [`sparse24`] | values `[N, K/2]`, a nibble of places to each four | see there | our 2:4 container |
//!
//! Every length is checked before anything is reserved or read; nothing here trusts a shape.

mod awq;
mod bits;
mod pairs;
pub mod sparse24;

pub use awq::{pack_awq, unpack_awq};
pub use bits::{pack_columns, pack_rows, row_bytes, unpack_columns, unpack_rows};
pub use pairs::{pack_row_pairs, unpack_row_pairs};

use crate::error::{Error, Result};

/// Between two's complement and offset binary, in place: q mod 2^b to q + 2^(b−1) and back.
pub fn offset(codes: &mut [u8], bits: u32) {
    let (mask, half) = (u8::MAX >> (8 - bits.clamp(1, 8)), 1 << (bits.clamp(1, 8) - 1));
    codes.iter_mut().for_each(|code| *code = (*code & mask) ^ half);
}

/// Whether a buffer has the length that its shape asks for.
fn check_len(what: &'static str, expected: Option<usize>, found: usize) -> Result<()> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        expected => Err(Error::Length { what, expected: expected.unwrap_or(usize::MAX), found }),
    }
}

/// A vector of zeros, or an error where there is not the memory for it.
fn zeros(what: &'static str, len: usize) -> Result<Vec<u8>> {
    let mut out = crate::error::reserve(std::path::Path::new("packed weight"), what, len)?;
    out.resize(len, 0);
    Ok(out)
}
