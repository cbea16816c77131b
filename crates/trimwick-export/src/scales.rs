//! Scales and zero points: found in the values, written as bytes, read back.

use std::ops::Range;

use trimwick_formats::floats::{
    bf16_from_le_bytes, bf16_to_le_bytes, f16_from_le_bytes, f16_to_le_bytes, f32_from_le_bytes,
    f32_to_le_bytes,
};
use trimwick_kernels::quant::{self as kernels, Code, ScaleFormat};
use trimwick_quant::Granularity;

use crate::layout::Layout;
use crate::store::Store;

/// What stands between the codes of a tensor and its values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scales {
    /// Effective scales of the blocks, the one of the tensor multiplied in.
    pub scales: Vec<f32>,
    /// Zero points of the blocks, where the code has them.
    pub zeros: Option<Vec<f32>>,
    /// The scale of the tensor; 1 where there is none.
    pub global: f32,
}

/// The scales of some rows, and how many of their values share one.
pub(crate) struct RowScales<'a> {
    pub block: usize,
    pub scales: &'a [f32],
    pub zeros: Option<&'a [f32]>,
}

impl Scales {
    /// The scales of a tensor's values, by their largest magnitudes.
    ///
    /// # Errors
    /// The index of the first value that is not finite.
    pub(crate) fn of(layout: &Layout, values: &[f32]) -> Result<Self, usize> {
        let [rows, groups] = layout.scale_shape();
        let mut scales = vec![0.; rows * groups];
        let mut zeros = layout.spec.asymmetric().then(|| scales.clone());
        let grid = layout.spec.grid();
        match kernels::scales(grid, values, layout.block(), None, &mut scales, zeros.as_deref_mut()) {
            Ok(global) => Ok(Self { scales, zeros, global }),
            // The only thing that can be wrong with values.
            Err(_) => Err(values.iter().position(|v| !v.is_finite()).unwrap_or_default()),
        }
    }

    /// Those of some rows.
    pub(crate) fn rows(&self, layout: &Layout, rows: Range<usize>) -> RowScales<'_> {
        let (block, range) = match layout.spec.granularity {
            Granularity::Tensor => (rows.len() * layout.row(), 0..1),
            _ => {
                let groups = layout.scale_shape()[1];
                (layout.block(), rows.start * groups..rows.end * groups)
            }
        };
        let zeros = self.zeros.as_ref().map(|zeros| &zeros[range.clone()]);
        RowScales { block, scales: &self.scales[range], zeros }
    }

    /// The scales in their format.
    pub(crate) fn to_bytes(&self, format: ScaleFormat) -> Vec<u8> {
        match format {
            ScaleFormat::F32 => f32_to_le_bytes(&self.scales),
            ScaleFormat::F16 => f16_to_le_bytes(&self.scales),
            ScaleFormat::BF16 => bf16_to_le_bytes(&self.scales),
            // An effective scale is m·global, rounded once: a billionth off m, whose neighbors are a sixteenth away.
            ScaleFormat::E4M3 => self.scales.iter().map(|s| Code::E4M3.encode(s / self.global)).collect(),
            // The exponent field of a float is e + 127, and that of the subnormal 2^−127 is 0.
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => {
                self.scales.iter().map(|s| (s.to_bits() >> 23) as u8).collect()
            }
        }
    }

    /// The effective scales that [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// The index of the first that is no scale: NaN, infinite, zero, negative.
    pub(crate) fn read(bytes: &[u8], format: ScaleFormat, global: f32) -> Result<Vec<f32>, usize> {
        let wide = |width: usize| vec![0f32; bytes.len() / width];
        let mut scales;
        // The lengths agree: `wide` counts them.
        let read = match format {
            ScaleFormat::F32 => {
                scales = wide(4);
                f32_from_le_bytes(bytes, &mut scales)
            }
            ScaleFormat::F16 => {
                scales = wide(2);
                f16_from_le_bytes(bytes, &mut scales)
            }
            ScaleFormat::BF16 => {
                scales = wide(2);
                bf16_from_le_bytes(bytes, &mut scales)
            }
            ScaleFormat::E4M3 => {
                scales = bytes.iter().map(|&code| Code::E4M3.decode(code) * global).collect();
                Ok(())
            }
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => {
                scales = bytes.iter().map(|&e| power_of_two(e)).collect();
                Ok(())
            }
        };
        match scales.iter().position(|s| !(s.is_finite() && *s > 0.)) {
            None if read.is_ok() => Ok(scales),
            wrong => Err(wrong.unwrap_or_default()),
        }
    }
}

/// 2^(e − 127); 255 is NaN.
fn power_of_two(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// Zero points as words: unsigned codes, packed along the rows of the tensor, for each column of groups.
pub(crate) fn pack_zeros(zeros: &[f32], shape: [usize; 2], bits: u32) -> Vec<u8> {
    let [rows, groups] = shape;
    let mut codes: Vec<u8> =
        (0..groups).flat_map(|j| (0..rows).map(move |i| zeros[i * groups + j] as u8)).collect();
    let columns = Store::words(bits).pack(&mut codes, rows, &[]);
    transposed(columns.as_chunks().0, groups).concat()
}

/// The zero points that [`pack_zeros`] packed.
pub(crate) fn unpack_zeros(bytes: &[u8], shape: [usize; 2], bits: u32) -> Vec<f32> {
    let [rows, groups] = shape;
    let words = Store::words(bits).row_bytes(rows) / 4;
    let columns = transposed(bytes.as_chunks().0, words).concat();
    let mut codes = vec![0; rows * groups];
    Store::words(bits).unpack(&columns, rows, &mut codes);
    (0..rows).flat_map(|i| (0..groups).map(move |j| j * rows + i)).map(|at| f32::from(codes[at])).collect()
}

/// A matrix of `rows` rows with rows for columns.
fn transposed(words: &[[u8; 4]], rows: usize) -> Vec<[u8; 4]> {
    let columns = words.len() / rows.max(1);
    (0..columns).flat_map(|j| (0..rows).map(move |i| words[i * columns + j])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_are_packed_along_the_rows() {
        // 9 rows of 2 groups in 4 bits: two words for each column, those of a group beside each other.
        let zeros: Vec<f32> = (0..9).flat_map(|i| [i as f32, (15 - i) as f32]).collect();
        let bytes = pack_zeros(&zeros, [9, 2], 4);
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        assert_eq!(words, [0x7654_3210, 0x89ab_cdef, 8, 7]);
        assert_eq!(unpack_zeros(&bytes, [9, 2], 4), zeros);
        for bits in 2..=8u32 {
            for shape in [[1, 1], [1, 5], [11, 1], [13, 3]] {
                let zeros: Vec<f32> =
                    (0..shape[0] * shape[1]).map(|i| (i * 7 % (1 << bits)) as f32).collect();
                assert_eq!(
                    unpack_zeros(&pack_zeros(&zeros, shape, bits), shape, bits),
                    zeros,
                    "{bits} {shape:?}"
                );
            }
        }
    }

    #[test]
    fn scales_that_are_none_are_refused() {
        for (format, bytes, expected) in [
            (ScaleFormat::E8M0Ceil, &[0, 127, 254, 255][..], 3),
            (ScaleFormat::E4M3, &[1, 0x7e, 0x7f], 2),
            (ScaleFormat::E4M3, &[0x38, 0], 1),
            (ScaleFormat::E4M3, &[0x38, 0x38, 0xb8], 2),
            (ScaleFormat::BF16, &[0x80, 0x3f, 0x80, 0xbf], 1),
            (ScaleFormat::F16, &[0, 0x7c], 0),
            (ScaleFormat::F32, &[0, 0, 0xc0, 0x7f], 0),
        ] {
            assert_eq!(Scales::read(bytes, format, 1.0), Err(expected), "{format:?} {bytes:?}");
        }
        assert_eq!(Scales::read(&[0, 127, 254], ScaleFormat::E8M0Floor, 1.0).unwrap()[1], 1.0);
    }
}
