//! Scales of groups, sixteen rows beside each other, in the narrowest type that holds them exactly.

use super::aligned::Aligned;
use super::simd::{ROWS, Simd};

/// How a scale is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Exponents: MX.
    E8m0,
    /// FP8 under one factor of the tensor: NVFP4.
    E4m3,
    F16,
    Bf16,
    F32,
}

impl Format {
    fn bytes(self) -> usize {
        match self {
            Self::E8m0 | Self::E4m3 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// The bytes of a number, if it is held exactly.
    fn encode(self, x: f32, out: &mut [u8]) -> bool {
        match self {
            Self::E8m0 => {
                let power = x.to_bits() & 0x807f_ffff == 0 && x.to_bits() != 0;
                out[0] = (x.to_bits() >> 23) as u8;
                power && x.is_finite()
            }
            Self::E4m3 => match e4m3_code(x) {
                Some(code) => {
                    out[0] = code;
                    true
                }
                None => false,
            },
            Self::F16 => {
                let near = half::f16::from_f32(x);
                out.copy_from_slice(&near.to_le_bytes());
                near.to_f32().to_bits() == x.to_bits()
            }
            Self::Bf16 => {
                out.copy_from_slice(&((x.to_bits() >> 16) as u16).to_le_bytes());
                x.to_bits() & 0xffff == 0
            }
            Self::F32 => {
                out.copy_from_slice(&x.to_le_bytes());
                true
            }
        }
    }
}

/// The code of a number that is E4M3 up to the rounding of its product with a factor.
fn e4m3_code(x: f32) -> Option<u8> {
    let (mut low, mut high) = (0u8, 0x7e);
    let value = |code: u8| f32::from_bits(u32::from(code) << 20) * f32::from_bits((120 + 127) << 23);
    while low < high {
        let middle = low + (high - low) / 2;
        if value(middle) < x * (1. - 1e-6) { low = middle + 1 } else { high = middle }
    }
    ((value(low) - x).abs() <= x.abs() * 1e-6).then_some(low)
}

/// Numbers `[panels, groups, 16]`.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    format: Format,
    factor: f32,
    data: Aligned,
}

impl Scales {
    /// Of `[rows, groups]` values; those of rows and groups that are padding are 0, or the smallest power of two, which
    /// multiplies zeros all the same. `global` is a factor of which the values may be E4M3 multiples, and `factor` one
    /// that is multiplied to all of them.
    pub fn new(
        values: &[f32],
        rows: usize,
        groups: usize,
        padded: usize,
        global: Option<f32>,
        factor: f32,
    ) -> Self {
        let wanted = [Format::E8m0, Format::E4m3, Format::F16, Format::Bf16];
        let fit = |format: &Format| {
            let divisor = match (format, global) {
                (Format::E4m3, Some(global)) => global,
                (Format::E4m3, None) => return false,
                _ => 1.,
            };
            let mut bytes = [0; 4];
            values.iter().all(|&v| format.encode(v / divisor, &mut bytes[..format.bytes()]))
        };
        let format = wanted.into_iter().find(fit).unwrap_or(Format::F32);
        let divisor = global.filter(|_| format == Format::E4m3).unwrap_or(1.);
        let size = format.bytes();
        let mut data = Aligned::zeros(rows.div_ceil(ROWS) * padded * ROWS * size);
        for (row, values) in values.chunks_exact(groups.max(1)).enumerate() {
            for (group, &value) in values.iter().enumerate() {
                let at = ((row / ROWS * padded + group) * ROWS + row % ROWS) * size;
                format.encode(value / divisor, &mut data.bytes_mut()[at..at + size]);
            }
        }
        Self { format, factor: divisor * factor, data }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The sixteen numbers of a group of a panel, `index` = panel · groups + group.
    #[inline(always)]
    pub fn at<S: Simd>(&self, simd: S, index: usize) -> S::F {
        let mut out = [[0.; ROWS]];
        self.read(simd, index, &mut out);
        simd.floats(&out[0])
    }

    /// The numbers of the groups from `index` on.
    #[inline(always)]
    pub fn read<S: Simd>(&self, simd: S, index: usize, out: &mut [[f32; ROWS]]) {
        let factor = simd.splat(self.factor);
        let data = &self.data.bytes()[index * self.format.bytes() * ROWS..];
        macro_rules! each {
            ($x:ident => $value:expr) => {
                for (out, $x) in out.iter_mut().zip(data.as_chunks().0) {
                    simd.store(simd.mul($value, factor), out);
                }
            };
        }
        match self.format {
            Format::E8m0 => each!(x => simd.e8m0(simd.widen(x))),
            Format::E4m3 => each!(x => simd.e4m3(simd.widen(x))),
            Format::F16 => each!(x => simd.f16(x)),
            Format::Bf16 => each!(x => simd.bf16(x)),
            Format::F32 => each!(x => simd.f32(x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Array;
    use super::*;

    #[test]
    fn the_narrowest_type_that_holds_all_is_taken() {
        let (rows, groups) = (19, 3);
        let cases: [(&str, Option<f32>, f32, Format); 6] = [
            ("powers of two", None, 0.25, Format::E8m0),
            ("f16", None, 0.333_251_95, Format::F16),
            ("bf16", None, 1.0e-20, Format::F32),
            ("bf16 cut", None, f32::from_bits(0x1e3d_0000), Format::Bf16),
            ("a third", None, 1. / 3., Format::F32),
            ("e4m3", Some(0.00123), 1.125, Format::E4m3),
        ];
        for (name, global, first, format) in cases {
            let values: Vec<f32> = (0..rows * groups)
                .map(|i| first * [1., 2., 4.][i % 3] * if format == Format::E4m3 { 0.00123 } else { 1. })
                .collect();
            let scales = Scales::new(&values, rows, groups, 4, global, 1.);
            assert_eq!(scales.format, format, "{name}");
            for row in 0..rows {
                for group in 0..groups {
                    let got = scales.at(Array, row / ROWS * 4 + group)[row % ROWS];
                    let want = values[row * groups + group];
                    assert!((got - want).abs() <= want * 1e-6, "{name}: {got}, expected {want}");
                    assert!(global.is_some() || got == want, "{name}: {got}, expected {want}");
                }
            }
        }
    }
}
