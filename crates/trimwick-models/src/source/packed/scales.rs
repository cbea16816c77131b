//! Scales as they are stored, and where each of them applies.

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::minifloat;
use trimwick_formats::safetensors::Dtype;

use super::parts::Parts;
use crate::error::Result;

const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// A matrix of scales over blocks of a matrix of values.
#[derive(Debug, Clone)]
pub(super) struct Scales {
    name: String,
    dtype: Dtype,
    shape: [usize; 2],
    /// Values that share one, down and across.
    pub(super) block: [usize; 2],
    /// One number for all of them: its name, and whether it divides.
    global: Option<(String, bool)>,
}

impl Scales {
    /// The scales in `part` of a weight of `[rows, cols]`.
    pub(super) fn find(parts: &mut Parts<'_>, part: &str, rows: usize, cols: usize) -> Result<Self> {
        let info = parts.need(part)?;
        let types = [&FLOATS[..], &[Dtype::F8_E4M3, Dtype::U8, Dtype::F8_E8M0]].concat();
        parts.check(part, info, &types, None)?;
        let shape = match info.shape[..] {
            [] | [1] => [1, 1],
            [n] if n == rows => [rows, 1],
            [n, g] => [n, g],
            _ => [0, 0],
        };
        // Down: one for all, one for each row, or the blocks of 128 that DeepSeek has.
        let down = block(rows, shape[0]).filter(|down| [1, 128, rows].contains(down));
        let (Some(down), Some(across)) = (down, block(cols, shape[1])) else {
            let expected = format!("scales over blocks of [{rows}, {cols}]");
            return Err(parts.fault(part, &expected, &format!("{:?}", info.shape)));
        };
        let mut scales =
            Self { name: parts.name(part), dtype: info.dtype, shape, block: [down, across], global: None };
        if info.dtype == Dtype::F8_E4M3 {
            let part = if parts.peek("weight_global_scale").is_some() {
                "weight_global_scale"
            } else {
                "weight_scale_2"
            };
            let info = parts.need(part)?;
            parts.check(part, info, &[Dtype::F32], Some(if info.shape.is_empty() { &[] } else { &[1] }))?;
            scales.global = Some((parts.name(part), part == "weight_global_scale"));
        }
        Ok(scales)
    }

    /// Number of blocks down and across.
    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The scales, row-major; the one of the tensor multiplied in, rounded once.
    pub(super) fn read(&self, folder: &ModelFolder) -> Result<Vec<f32>> {
        let bytes = |value: fn(u8) -> f32| -> Result<Vec<f32>> {
            Ok(folder.read_raw(&self.name)?.into_iter().map(value).collect())
        };
        let mut scales = match self.dtype {
            Dtype::F8_E4M3 => bytes(minifloat::e4m3)?,
            Dtype::U8 | Dtype::F8_E8M0 => bytes(minifloat::e8m0)?,
            _ => folder.read_f32(&self.name)?,
        };
        if let Some((name, divides)) = &self.global {
            let global = folder.read_f32(name)?.first().copied().unwrap_or(f32::NAN);
            scales.iter_mut().for_each(|s| *s = if *divides { *s / global } else { *s * global });
        }
        Ok(scales)
    }

    /// What the scales are multiples of, where there is such a number.
    pub(super) fn factor(&self, folder: &ModelFolder) -> Result<Option<f32>> {
        let Some((name, divides)) = &self.global else { return Ok(None) };
        let global = folder.read_f32(name)?.first().copied().unwrap_or(f32::NAN);
        Ok(Some(if *divides { 1. / global } else { global }))
    }

    /// `(value − zero) · scale` in place, of a matrix with rows of `cols`. `zeros` are those of the blocks.
    pub(super) fn apply(&self, values: &mut [f32], cols: usize, scales: &[f32], zeros: Option<&[f32]>) {
        let [down, across] = self.block;
        for (i, row) in values.chunks_exact_mut(cols).enumerate() {
            let first = (i / down).min(self.shape[0] - 1) * self.shape[1];
            for (j, run) in row.chunks_mut(across).enumerate() {
                let (s, z) = (scales[first + j], zeros.map_or(0., |zeros| zeros[first + j]));
                run.iter_mut().for_each(|v| *v = (*v - z) * s);
            }
        }
    }
}

/// How many of `len` share one of `n`: an even share, or 128 with a shorter last one as DeepSeek's blocks have it.
fn block(len: usize, n: usize) -> Option<usize> {
    match n {
        0 => None,
        n if len.is_multiple_of(n) => Some(len / n),
        n if len.div_ceil(128) == n => Some(128),
        _ => None,
    }
}
