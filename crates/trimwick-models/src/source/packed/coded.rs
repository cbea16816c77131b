//! Packed weights as codes and scales.

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::packed::{sparse24, unpack_awq, unpack_columns, unpack_row_pairs, unpack_rows};
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::packed::Element;
use trimwick_kernels::quant::Code;

use super::Method;
use super::container::Kept;
use super::form::{Codes as Stored, Form};
use super::gptq::Transposed;
use super::scales::Scales;
use crate::error::Result;
use crate::source::coded::{Codes, fits};

/// Codes before their scales.
type Raw = (Element, Vec<u8>, Option<Vec<u8>>);

impl Form {
    /// The codes with their scales; `None` where products have to take the values: codes of formats that they do not
    /// know, groups of other sizes, factors of the inputs other than 1.
    pub(super) fn coded(&self, folder: &ModelFolder) -> Result<Option<Codes>> {
        let (rows, cols) = (self.rows, self.cols);
        if let Stored::Transposed(weight) = &self.codes {
            return weight.coded(folder, rows, cols);
        }
        let Some(scales) = self.scales.as_ref().filter(|s| fits(s.block[1], cols)) else {
            return Ok(None);
        };
        if let Some(name) = &self.columns
            && folder.read_f32(name)?.iter().any(|&factor| factor != 1.)
        {
            return Ok(None);
        }
        let raw = match &self.codes {
            Stored::Bytes { name, dtype, zeros } => bytes(folder, name, *dtype, zeros.as_deref())?,
            Stored::Words { name, bits, zeros } => {
                let codes = unpack_rows(&folder.read_raw(name)?, rows, cols, *bits, 4)?;
                let [down, across] = scales.shape();
                let zeros = match zeros {
                    Some(name) => Some(unpack_columns(&folder.read_raw(name)?, down, across, *bits)?),
                    None => None,
                };
                Some(offset_binary(codes, *bits, zeros))
            }
            Stored::Fp4(name) => {
                Some((Element::E2M1, unpack_rows(&folder.read_raw(name)?, rows, cols, 4, 1)?, None))
            }
            Stored::RowPairs(name) => {
                Some((Element::Int4, unpack_row_pairs(&folder.read_raw(name)?, rows, cols)?, None))
            }
            Stored::Kept(kept) => kept.coded(folder, rows, cols)?,
            Stored::Transposed(_) => None,
        };
        let Some((element, codes, zeros)) = raw else { return Ok(None) };
        let stored = scales.read(folder)?;
        Ok(Some(Codes {
            element,
            codes,
            group: scales.block[1],
            scales: scales.of_rows(&stored, rows),
            zeros: zeros.map(|zeros| scales.of_rows(&zeros, rows)),
            minima: None,
            global: scales.factor(folder)?,
        }))
    }
}

fn bytes(folder: &ModelFolder, name: &str, dtype: Dtype, zeros: Option<&str>) -> Result<Option<Raw>> {
    let codes = folder.read_raw(name)?;
    Ok(match (dtype, zeros) {
        (Dtype::I8, None) => Some((Element::Int8, codes, None)),
        (Dtype::I8, Some(zeros)) => {
            let unsigned = |bytes: Vec<u8>| bytes.into_iter().map(|b| b ^ 0x80).collect::<Vec<_>>();
            Some((Element::Uint8, unsigned(codes), Some(unsigned(folder.read_raw(zeros)?))))
        }
        (Dtype::F8_E4M3, None) => Some((Element::E4M3, codes, None)),
        _ => None,
    })
}

/// Codes of so many bits of which the middle is zero, unless there are zero points.
fn offset_binary(mut codes: Vec<u8>, bits: u32, zeros: Option<Vec<u8>>) -> Raw {
    match (bits, zeros) {
        (..=4, Some(zeros)) => (Element::Uint4, codes, Some(zeros)),
        (_, Some(zeros)) => (Element::Uint8, codes, Some(zeros)),
        (..=4, None) => {
            codes.iter_mut().for_each(|c| *c = c.wrapping_sub(1 << (bits - 1)) & 15);
            (Element::Int4, codes, None)
        }
        (_, None) => {
            codes.iter_mut().for_each(|c| *c = c.wrapping_sub(1 << (bits - 1)));
            (Element::Int8, codes, None)
        }
    }
}

impl Kept {
    fn coded(&self, folder: &ModelFolder, rows: usize, cols: usize) -> Result<Option<Raw>> {
        let kept = if self.meta.is_some() { cols / 2 } else { cols };
        let (element, codes) = match (self.small, self.dtype) {
            (Some(code), _) => {
                let element = match code {
                    Code::Int { bits: ..=4 } => Element::Int4,
                    Code::Int { .. } => Element::Int8,
                    Code::E2M1 => Element::E2M1,
                    _ => return Ok(None),
                };
                let bits = code.bits();
                let mut codes = unpack_rows(&folder.read_raw(&self.name)?, rows, kept, bits, 1)?;
                if element != Element::E2M1 {
                    let sign_extended =
                        |c: u8| ((c << (8 - bits)).cast_signed() >> (8 - bits)).cast_unsigned();
                    codes.iter_mut().for_each(|c| *c = sign_extended(*c));
                }
                (element, codes)
            }
            (None, Dtype::I8) => (Element::Int8, folder.read_raw(&self.name)?),
            (None, Dtype::F8_E4M3) => (Element::E4M3, folder.read_raw(&self.name)?),
            _ => return Ok(None),
        };
        let codes = match &self.meta {
            Some(meta) => sparse24::expand(&codes, &folder.read_raw(meta)?, rows, cols, 1)?,
            None => codes,
        };
        Ok(Some((element, codes, None)))
    }
}

impl Transposed {
    fn coded(&self, folder: &ModelFolder, rows: usize, cols: usize) -> Result<Option<Codes>> {
        let group = cols / self.groups.max(1);
        if self.ordered && !self.in_order(folder, cols)? || !fits(group, cols) {
            return Ok(None);
        }
        let name = |part: &str| format!("{}{part}", self.base);
        let (weight, zeros) = (folder.read_raw(&name("qweight"))?, folder.read_raw(&name("qzeros"))?);
        let (bits, codes, zeros) = match self.method {
            Method::Gptq { bits, v2 } => {
                let mask = u8::MAX >> (8 - bits);
                let mut zeros = unpack_rows(&zeros, self.groups, rows, bits, 4)?;
                zeros.iter_mut().filter(|_| !v2).for_each(|z| *z = z.wrapping_add(1) & mask);
                (bits, unpack_columns(&weight, cols, rows, bits)?, zeros)
            }
            _ => (4, unpack_awq(&weight, cols, rows)?, unpack_awq(&zeros, self.groups, rows)?),
        };
        let scales = folder.read_f32(&name("scales"))?;
        Ok(Some(Codes {
            element: if bits <= 4 { Element::Uint4 } else { Element::Uint8 },
            codes: transposed(&codes, rows),
            group,
            scales: transposed(&scales, rows),
            zeros: Some(transposed(&zeros, rows)),
            minima: None,
            global: None,
        }))
    }
}

/// `[n, rows]` as `[rows, n]`.
fn transposed<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let columns = values.len() / rows;
    (0..rows).flat_map(|row| (0..columns).map(move |column| values[column * rows + row])).collect()
}

impl Scales {
    /// What the blocks of a matrix hold, repeated for each of its rows.
    fn of_rows<T: Copy>(&self, values: &[T], rows: usize) -> Vec<T> {
        let [down, _] = self.block;
        let [n, across] = self.shape();
        let of_row = |row: usize| &values[(row / down).min(n - 1) * across..][..across];
        (0..rows).flat_map(|row| of_row(row).iter().copied()).collect()
    }
}
