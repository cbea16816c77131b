//! What a packed weight looks like, and its values.

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::minifloat;
use trimwick_formats::packed::{row_bytes, unpack_columns, unpack_row_pairs, unpack_rows};
use trimwick_formats::safetensors::Dtype;

use super::Method;
use super::container::{self, Kept};
use super::gptq::{self, Transposed};
use super::parts::Parts;
use super::scales::Scales;
use crate::error::Result;

/// A packed weight `[rows, cols]` whose parts were checked against each other.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) codes: Codes,
    /// None where the values are numbers by themselves.
    pub(super) scales: Option<Scales>,
    /// Factors of the inputs, which a runtime applies to the activations: [cols].
    pub(super) columns: Option<String>,
}

/// Where the codes are, by the name of their tensor, and what they are worth.
#[derive(Debug, Clone)]
pub(super) enum Codes {
    /// A byte each: I8, F8_E4M3, F8_E5M2; with zero points of I8.
    Bytes { name: String, dtype: Dtype, zeros: Option<String> },
    /// compressed-tensors' words: offset binary, zero points along the rows.
    Words { name: String, bits: u32, zeros: Option<String> },
    /// E2M1 in pairs.
    Fp4(String),
    /// 4-bit two's complement, two rows in one.
    RowPairs(String),
    /// GPTQ and AWQ.
    Transposed(Transposed),
    /// The container.
    Kept(Kept),
}

/// The form of the weight under a layer's path; `None` where it is plain.
pub(super) fn find(parts: &mut Parts<'_>, method: Method) -> Result<Option<Form>> {
    match method {
        Method::Tensors => tensors(parts),
        Method::Gptq { .. } | Method::Awq => gptq::find(parts, method),
        Method::Container => container::find(parts),
    }
}

fn tensors(parts: &mut Parts<'_>) -> Result<Option<Form>> {
    if let Some(info) = parts.get("weight_packed") {
        return match info.dtype {
            Dtype::I32 => words(parts).map(Some),
            _ => {
                let [rows, width] = parts.matrix("weight_packed", info, &[Dtype::U8])?;
                fp4(parts, "weight_packed", rows, width).map(Some)
            }
        };
    }
    // A weight without a scale beside it is plain; an embedding of bytes would be refused for its type.
    if parts.peek("weight_scale").is_none() {
        return Ok(None);
    }
    let info = parts.need("weight")?;
    let types = [Dtype::I8, Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::U8];
    let [rows, cols] = parts.matrix("weight", info, &types)?;
    let name = parts.name("weight");
    if info.dtype == Dtype::U8 {
        let scale = parts.peek("weight_scale").map(|scale| scale.dtype);
        return match scale {
            Some(Dtype::F8_E4M3) => fp4(parts, "weight", rows, cols).map(Some),
            _ => {
                let rows = 2 * rows;
                let scales = Scales::find(parts, "weight_scale", rows, cols)?;
                // Of the second rounding, of the weight to FP8 at run time: no part of the values.
                parts.get("weight_scale_2");
                let columns = columns(parts, cols)?;
                Ok(Some(Form { rows, cols, codes: Codes::RowPairs(name), scales: Some(scales), columns }))
            }
        };
    }
    let scales = Scales::find(parts, "weight_scale", rows, cols)?;
    let zeros = match parts.peek("weight_zero_point") {
        Some(_) => {
            let shape = parts.peek("weight_scale").map(|s| s.shape.clone()).unwrap_or_default();
            parts.need_of("weight_zero_point", &[Dtype::I8], &shape)?;
            Some(parts.name("weight_zero_point"))
        }
        None => None,
    };
    let columns = columns(parts, cols)?;
    let codes = Codes::Bytes { name, dtype: info.dtype, zeros };
    Ok(Some(Form { rows, cols, codes, scales: Some(scales), columns }))
}

/// ModelOpt's factors of the inputs.
fn columns(parts: &mut Parts<'_>, cols: usize) -> Result<Option<String>> {
    if parts.peek("pre_quant_scale").is_none() {
        return Ok(None);
    }
    parts.need_of("pre_quant_scale", &[Dtype::F32, Dtype::F16, Dtype::BF16], &[cols])?;
    Ok(Some(parts.name("pre_quant_scale")))
}

fn fp4(parts: &mut Parts<'_>, part: &str, rows: usize, width: usize) -> Result<Form> {
    let cols = 2 * width;
    let scales = Scales::find(parts, "weight_scale", rows, cols)?;
    let columns = columns(parts, cols)?;
    Ok(Form { rows, cols, codes: Codes::Fp4(parts.name(part)), scales: Some(scales), columns })
}

/// compressed-tensors' packed integers. Their width follows from the shape beside them.
fn words(parts: &mut Parts<'_>) -> Result<Form> {
    let info = parts.need("weight_packed")?;
    let [n, width] = parts.matrix("weight_packed", info, &[Dtype::I32])?;
    let [rows, cols] = shape(parts, n, 32 * width)?;
    let fits = |bits: &u32| row_bytes(cols, *bits, 4) == Some(4 * width);
    let Some(bits) = (2..=8).find(fits) else {
        let expected = format!("words for rows of {cols} codes of 2 to 8 bits");
        return Err(parts.fault("weight_packed", &expected, &format!("{width} words")));
    };
    let scales = Scales::find(parts, "weight_scale", rows, cols)?;
    let zeros = match parts.peek("weight_zero_point") {
        Some(_) => {
            let [n, groups] = scales.shape();
            let words = row_bytes(n, bits, 4).unwrap_or_default() / 4;
            parts.need_of("weight_zero_point", &[Dtype::I32], &[words, groups])?;
            Some(parts.name("weight_zero_point"))
        }
        None => None,
    };
    if parts.peek("weight_g_idx").is_some() {
        return Err(parts.fault("weight_g_idx", "groups in the order of the inputs", "another order"));
    }
    let codes = Codes::Words { name: parts.name("weight_packed"), bits, zeros };
    Ok(Form { rows, cols, codes, scales: Some(scales), columns: None })
}

/// `weight_shape` [2], which must be `[rows, 1..=most]`.
pub(super) fn shape(parts: &mut Parts<'_>, rows: usize, most: usize) -> Result<[usize; 2]> {
    let info = parts.need_of("weight_shape", &[Dtype::I64], &[2])?;
    let bytes = parts.folder().read_raw(&info.name)?;
    let dims: Vec<i64> = bytes.as_chunks().0.iter().map(|dim| i64::from_le_bytes(*dim)).collect();
    match dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>().as_deref() {
        Some(&[n, cols]) if n == rows && (1..=most).contains(&cols) => Ok([n, cols]),
        _ => {
            let expected = format!("[{rows}, 1 to {most}], as its codes have it");
            Err(parts.fault("weight_shape", &expected, &format!("{dims:?}")))
        }
    }
}

impl Form {
    /// The values, row-major.
    pub(super) fn read(&self, folder: &ModelFolder) -> Result<Vec<f32>> {
        let (rows, cols) = (self.rows, self.cols);
        let mut zeros = None;
        let mut values: Vec<f32> = match &self.codes {
            Codes::Bytes { name, dtype, zeros: zero_name } => {
                if let Some(name) = zero_name {
                    zeros = Some(folder.read_f32(name)?);
                }
                bytes_as(*dtype, folder.read_raw(name)?)
            }
            Codes::Words { name, bits, zeros: zero_name } => {
                let codes = unpack_rows(&folder.read_raw(name)?, rows, cols, *bits, 4)?;
                let shape = self.scales.as_ref().map_or([1, 1], Scales::shape);
                let half = f32::from(1u8 << (bits - 1));
                let given = match zero_name {
                    Some(name) => unpack_columns(&folder.read_raw(name)?, shape[0], shape[1], *bits)?,
                    None => Vec::new(),
                };
                zeros = Some(match zero_name {
                    Some(_) => given.into_iter().map(f32::from).collect(),
                    None => vec![half; shape[0] * shape[1]],
                });
                codes.into_iter().map(f32::from).collect()
            }
            Codes::Fp4(name) => {
                let codes = unpack_rows(&folder.read_raw(name)?, rows, cols, 4, 1)?;
                codes.into_iter().map(minifloat::e2m1).collect()
            }
            Codes::RowPairs(name) => {
                let codes = unpack_row_pairs(&folder.read_raw(name)?, rows, cols)?;
                codes.into_iter().map(|code| f32::from((code << 4).cast_signed() >> 4)).collect()
            }
            Codes::Transposed(weight) => return weight.read(folder, rows, cols),
            Codes::Kept(kept) => kept.read(folder, rows, cols)?,
        };
        if let Some(scales) = &self.scales {
            scales.apply(&mut values, cols, &scales.read(folder)?, zeros.as_deref());
        }
        if let Some(name) = &self.columns {
            let factors = folder.read_f32(name)?;
            for row in values.chunks_exact_mut(cols) {
                row.iter_mut().zip(&factors).for_each(|(v, factor)| *v *= factor);
            }
        }
        Ok(values)
    }
}

/// The numbers that bytes of a type are.
pub(super) fn bytes_as(dtype: Dtype, bytes: Vec<u8>) -> Vec<f32> {
    let value: fn(u8) -> f32 = match dtype {
        Dtype::F8_E4M3 => minifloat::e4m3,
        Dtype::F8_E5M2 => minifloat::e5m2,
        _ => |byte| f32::from(byte.cast_signed()),
    };
    bytes.into_iter().map(value).collect()
}
