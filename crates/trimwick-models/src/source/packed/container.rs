//! Our own container: any code under its scale, and of a 2:4 weight the kept half of them.
//!
//! Of a weight `L.weight`, `[N, K]`:
//!
//! | tensor | type, shape | |
//! |---|---|---|
//! | `L.weight_values` | F32, F16, BF16, I8, F8_E4M3, F8_E5M2 `[N, K′]` | values, or codes of a byte |
//! | | U8 `[N, ⌈K′·b/8⌉]`, with `weight_bits` I64 [2] = b, code | codes of fewer bits, a dense stream along the row |
//! | `L.weight_meta` | U8 `[N, ⌈K/8⌉]` | where 2:4: the places of the kept two of four; K′ = K/2, else K |
//! | `L.weight_shape` | I64 [2] | N, K |
//! | `L.weight_scale` | as in compressed-tensors, beside codes | with `weight_scale_2` F32 [1] beside E4M3 |
//!
//! `code` is 0 for integers in two's complement, 1 for E2M1, 2 for E2M3 and 3 for E3M2.

use trimwick_formats::floats::f32_to_le_bytes;
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::packed::{row_bytes, sparse24, unpack_rows};
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant::Code;

use super::form::{Codes, Form, bytes_as, shape};
use super::parts::Parts;
use super::scales::Scales;
use crate::error::Result;

/// Values or codes, of which only those that are not dropped may be there.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    /// Codes below a byte.
    pub(super) small: Option<Code>,
    pub(super) meta: Option<String>,
}

pub(super) fn find(parts: &mut Parts<'_>) -> Result<Option<Form>> {
    let Some(info) = parts.get("weight_values") else { return Ok(None) };
    let floats = [Dtype::F32, Dtype::F16, Dtype::BF16];
    let bytes = [Dtype::I8, Dtype::F8_E4M3, Dtype::F8_E5M2];
    let types = [&floats[..], &bytes, &[Dtype::U8]].concat();
    let [n, width] = parts.matrix("weight_values", info, &types)?;
    // A code has two bits at least, and half of the codes may be gone.
    let [rows, cols] = shape(parts, n, width.saturating_mul(8))?;
    let meta = parts.peek("weight_meta").is_some();
    if meta {
        if !cols.is_multiple_of(4) {
            return Err(parts.fault("weight_shape", "rows of whole groups of four", &cols.to_string()));
        }
        parts.need_of("weight_meta", &[Dtype::U8], &[rows, cols.div_ceil(8)])?;
    }
    let kept = if meta { cols / 2 } else { cols };
    let small = if info.dtype == Dtype::U8 { Some(small(parts)?) } else { None };
    let expected = match small {
        Some(code) => row_bytes(kept, code.bits(), 1),
        None => Some(kept),
    };
    if expected != Some(width) {
        let expected = format!("rows of {kept} values");
        return Err(parts.fault("weight_values", &expected, &format!("{} {:?}", info.dtype, info.shape)));
    }
    let scales = match floats.contains(&info.dtype) {
        true => None,
        false => Some(Scales::find(parts, "weight_scale", rows, cols)?),
    };
    let kept = Kept {
        name: parts.name("weight_values"),
        dtype: info.dtype,
        small,
        meta: meta.then(|| parts.name("weight_meta")),
    };
    Ok(Some(Form { rows, cols, codes: Codes::Kept(kept), scales, columns: None }))
}

/// What `weight_bits` says.
fn small(parts: &mut Parts<'_>) -> Result<Code> {
    let info = parts.need_of("weight_bits", &[Dtype::I64], &[2])?;
    let bytes = parts.folder().read_raw(&info.name)?;
    let said: Vec<i64> = bytes.as_chunks().0.iter().map(|v| i64::from_le_bytes(*v)).collect();
    Ok(match said[..] {
        [bits @ 2..=7, 0] => Code::Int { bits: bits as u8 },
        [4, 1] => Code::E2M1,
        [6, 2] => Code::E2M3,
        [6, 3] => Code::E3M2,
        _ => {
            return Err(parts.fault("weight_bits", "2 to 7 bits and a code of 0 to 3", &format!("{said:?}")));
        }
    })
}

impl Kept {
    /// The values `[rows, cols]` before their scales.
    pub(super) fn read(&self, folder: &ModelFolder, rows: usize, cols: usize) -> Result<Vec<f32>> {
        let kept = if self.meta.is_some() { cols / 2 } else { cols };
        let values = match (self.small, self.dtype) {
            (Some(code), _) => {
                let codes = unpack_rows(&folder.read_raw(&self.name)?, rows, kept, code.bits(), 1)?;
                codes.into_iter().map(|c| code.decode(c)).collect()
            }
            (None, Dtype::F32 | Dtype::F16 | Dtype::BF16) => folder.read_f32(&self.name)?,
            (None, dtype) => bytes_as(dtype, folder.read_raw(&self.name)?),
        };
        let Some(meta) = &self.meta else { return Ok(values) };
        let bytes = sparse24::expand(&f32_to_le_bytes(&values), &folder.read_raw(meta)?, rows, cols, 4)?;
        Ok(bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect())
    }
}
