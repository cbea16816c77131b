//! GPTQ and AWQ: transposed weights of integers, with scales and zero points for groups of inputs.

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::packed::{unpack_awq, unpack_columns, unpack_rows};
use trimwick_formats::safetensors::Dtype;

use super::Method;
use super::form::{Codes, Form};
use super::parts::Parts;
use crate::error::{Error, Result};

const FLOATS: [Dtype; 3] = [Dtype::F16, Dtype::BF16, Dtype::F32];

/// A weight whose codes are stored `[inputs, outputs]`.
#[derive(Debug, Clone)]
pub(super) struct Transposed {
    pub(super) base: String,
    pub(super) method: Method,
    pub(super) groups: usize,
    /// Whether `g_idx` gives the group of each input.
    pub(super) ordered: bool,
}

pub(super) fn find(parts: &mut Parts<'_>, method: Method) -> Result<Option<Form>> {
    let Some(info) = parts.get("qweight") else { return Ok(None) };
    let [a, b] = parts.matrix("qweight", info, &[Dtype::I32])?;
    let overflow = |parts: &Parts<'_>| parts.fault("qweight", "fewer codes", "too many");
    let (rows, cols, packed) = match method {
        Method::Gptq { bits, .. } => {
            let per_word = 32 / bits as usize;
            (b, a.checked_mul(per_word).ok_or_else(|| overflow(parts))?, per_word)
        }
        _ => (b.checked_mul(8).ok_or_else(|| overflow(parts))?, a, 8),
    };
    let scales = parts.need("scales")?;
    let [groups, outputs] = parts.matrix("scales", scales, &FLOATS)?;
    if outputs != rows {
        return Err(parts.fault("scales", &format!("[groups, {rows}]"), &format!("{:?}", scales.shape)));
    }
    parts.need_of("qzeros", &[Dtype::I32], &[groups, rows.div_ceil(packed)])?;
    let ordered = parts.peek("g_idx").is_some();
    if ordered {
        parts.need_of("g_idx", &[Dtype::I32], &[cols])?;
    } else if !cols.is_multiple_of(groups) {
        let expected = format!("groups that divide the {cols} inputs");
        return Err(parts.fault("scales", &expected, &groups.to_string()));
    }
    let base = parts.name("");
    let codes = Codes::Transposed(Transposed { base, method, groups, ordered });
    Ok(Some(Form { rows, cols, codes, scales: None, columns: None }))
}

impl Transposed {
    /// The values `[rows, cols]`: outputs, inputs.
    pub(super) fn read(&self, folder: &ModelFolder, rows: usize, cols: usize) -> Result<Vec<f32>> {
        let name = |part: &str| format!("{}{part}", self.base);
        let (weight, zeros) = (folder.read_raw(&name("qweight"))?, folder.read_raw(&name("qzeros"))?);
        let (codes, zeros): (Vec<u8>, Vec<f32>) = match self.method {
            Method::Gptq { bits, v2 } => {
                let mask = u8::MAX >> (8 - bits);
                let zero = |z: u8| f32::from(if v2 { z } else { z.wrapping_add(1) & mask });
                let zeros = unpack_rows(&zeros, self.groups, rows, bits, 4)?;
                (unpack_columns(&weight, cols, rows, bits)?, zeros.into_iter().map(zero).collect())
            }
            _ => {
                let zeros = unpack_awq(&zeros, self.groups, rows)?;
                (unpack_awq(&weight, cols, rows)?, zeros.into_iter().map(f32::from).collect())
            }
        };
        let scales = folder.read_f32(&name("scales"))?;
        let group = self.group_of(folder, cols)?;
        let mut values = vec![0.; rows * cols];
        for (k, codes) in codes.chunks_exact(rows).enumerate() {
            let at = group[k] * rows;
            for (n, &code) in codes.iter().enumerate() {
                values[n * cols + k] = (f32::from(code) - zeros[at + n]) * scales[at + n];
            }
        }
        Ok(values)
    }

    /// Whether the groups are runs of inputs of one length, as they are without `g_idx`.
    pub(super) fn in_order(&self, folder: &ModelFolder, cols: usize) -> Result<bool> {
        let size = cols / self.groups;
        let whole = cols.is_multiple_of(self.groups);
        Ok(whole && self.group_of(folder, cols)?.into_iter().enumerate().all(|(k, group)| group == k / size))
    }

    /// The group of each input.
    fn group_of(&self, folder: &ModelFolder, cols: usize) -> Result<Vec<usize>> {
        if !self.ordered {
            return Ok((0..cols).map(|k| k / (cols / self.groups)).collect());
        }
        let name = format!("{}g_idx", self.base);
        let bytes = folder.read_raw(&name)?;
        let groups = bytes.as_chunks().0.iter().map(|group| i32::from_le_bytes(*group));
        groups
            .map(|group| match usize::try_from(group) {
                Ok(group) if group < self.groups => Ok(group),
                _ => {
                    let origin = folder.path().display().to_string();
                    let expected = format!("groups below {}", self.groups);
                    Err(Error::weights(&origin, &name, expected, group.to_string()))
                }
            })
            .collect()
    }
}
