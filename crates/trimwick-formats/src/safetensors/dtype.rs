//! The element types of safetensors.

use std::fmt;

use half::f16;
use half::slice::HalfFloatSliceExt;

/// An element type, named as in the file. Values are little-endian; those below a byte are packed from the lowest bit.
#[allow(missing_docs)] // the name is the definition
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

impl Dtype {
    /// Every type, in the order of the `safetensors` crate 0.8.
    pub const ALL: [Self; 22] = [
        Self::BOOL,
        Self::F4,
        Self::F6_E2M3,
        Self::F6_E3M2,
        Self::U8,
        Self::I8,
        Self::F8_E5M2,
        Self::F8_E4M3,
        Self::F8_E8M0,
        Self::F8_E4M3FNUZ,
        Self::F8_E5M2FNUZ,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::C64,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// Bits of one element: 4, 6, 8, 16, 32 or 64.
    pub fn bits(self) -> usize {
        match self {
            Self::F4 => 4,
            Self::F6_E2M3 | Self::F6_E3M2 => 6,
            Self::BOOL
            | Self::U8
            | Self::I8
            | Self::F8_E5M2
            | Self::F8_E4M3
            | Self::F8_E8M0
            | Self::F8_E4M3FNUZ
            | Self::F8_E5M2FNUZ => 8,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 16,
            Self::I32 | Self::U32 | Self::F32 => 32,
            Self::C64 | Self::F64 | Self::I64 | Self::U64 => 64,
        }
    }

    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::BOOL => "BOOL",
            Self::F4 => "F4",
            Self::F6_E2M3 => "F6_E2M3",
            Self::F6_E3M2 => "F6_E3M2",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8_E5M2 => "F8_E5M2",
            Self::F8_E4M3 => "F8_E4M3",
            Self::F8_E8M0 => "F8_E8M0",
            Self::F8_E4M3FNUZ => "F8_E4M3FNUZ",
            Self::F8_E5M2FNUZ => "F8_E5M2FNUZ",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::C64 => "C64",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes of a tensor of this shape, or `None` where the product overflows or does not fill its last byte.
    ///
    /// A dimension of 0 does not excuse the others: strides are products too.
    pub fn byte_len(self, shape: &[usize]) -> Option<u64> {
        let span = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim.max(1) as u64))?;
        let bits = span.checked_mul(self.bits() as u64)?;
        if shape.contains(&0) {
            return Some(0);
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An integer that has no equal among the 32-bit floats.
pub(super) struct Inexact {
    /// Its place among the values given.
    pub index: usize,
    /// The integer.
    pub value: i128,
}

/// Fills `out` from the little-endian bytes of one type; there are as many bytes as `out` takes.
pub(super) type Decoder = fn(&[u8], &mut [f32]) -> Result<(), Inexact>;

/// The decoder of a type; `None` where its values are codes of some scheme and not numbers by themselves.
pub(super) fn decoder(dtype: Dtype) -> Option<Decoder> {
    Some(match dtype {
        Dtype::F32 => |bytes, out| floats(bytes, out, f32::from_le_bytes),
        Dtype::F64 => |bytes, out| floats(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => |bytes, out| halves(bytes, out),
        Dtype::BF16 => {
            |bytes, out| floats(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
        }
        Dtype::BOOL => |bytes, out| floats(bytes, out, |[b]| f32::from(u8::from(b != 0))),
        Dtype::U8 => |bytes, out| floats(bytes, out, |[b]| f32::from(b)),
        Dtype::I8 => |bytes, out| floats(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
        Dtype::U16 => |bytes, out| floats(bytes, out, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::I16 => |bytes, out| floats(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::U32 => |bytes, out| integers(bytes, out, |b| u32::from_le_bytes(b).into()),
        Dtype::I32 => |bytes, out| integers(bytes, out, |b| i32::from_le_bytes(b).into()),
        Dtype::U64 => |bytes, out| integers(bytes, out, |b| u64::from_le_bytes(b).into()),
        Dtype::I64 => |bytes, out| integers(bytes, out, |b| i64::from_le_bytes(b).into()),
        Dtype::F4
        | Dtype::F6_E2M3
        | Dtype::F6_E3M2
        | Dtype::F8_E5M2
        | Dtype::F8_E4M3
        | Dtype::F8_E8M0
        | Dtype::F8_E4M3FNUZ
        | Dtype::F8_E5M2FNUZ
        | Dtype::C64 => return None,
    })
}

fn floats<const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn([u8; N]) -> f32,
) -> Result<(), Inexact> {
    for (value, &chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = decode(chunk);
    }
    Ok(())
}

/// In blocks, for which `half` uses the processor's conversion.
fn halves(bytes: &[u8], out: &mut [f32]) -> Result<(), Inexact> {
    let mut block = [f16::ZERO; 64];
    for (out, chunks) in out.chunks_mut(block.len()).zip(bytes.as_chunks().0.chunks(block.len())) {
        for (half, &chunk) in block.iter_mut().zip(chunks) {
            *half = f16::from_le_bytes(chunk);
        }
        block[..out.len()].convert_to_f32_slice(out);
    }
    Ok(())
}

fn integers<const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn([u8; N]) -> i128,
) -> Result<(), Inexact> {
    for (index, (slot, &chunk)) in out.iter_mut().zip(bytes.as_chunks::<N>().0).enumerate() {
        let value = decode(chunk);
        *slot = value as f32;
        if *slot as i128 != value {
            return Err(Inexact { index, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
            assert_eq!(format!("{dtype:?}"), dtype.name());
        }
        for unknown in ["", "f32", "F128", "Q4_0", "F32 "] {
            assert_eq!(Dtype::from_name(unknown), None);
        }
    }

    #[test]
    fn byte_lengths() {
        for (dtype, shape, want) in [
            (Dtype::F32, vec![], Some(4)),
            (Dtype::F32, vec![2, 3], Some(24)),
            (Dtype::F4, vec![2, 3], Some(3)),
            (Dtype::F4, vec![3], None),
            (Dtype::F6_E2M3, vec![4], Some(3)),
            (Dtype::F6_E2M3, vec![5], None),
            (Dtype::U8, vec![0, 7], Some(0)),
            (Dtype::U8, vec![usize::MAX], None),
            (Dtype::F32, vec![1 << 32, 1 << 32], None),
            (Dtype::F32, vec![0, 1 << 32, 1 << 32], None),
            (Dtype::F32, vec![4, (1 << 62) + 1], None),
        ] {
            assert_eq!(dtype.byte_len(&shape), want, "{dtype} {shape:?}");
        }
    }

    #[test]
    fn integers_are_read_only_where_they_are_exact() {
        let decode = decoder(Dtype::I64).unwrap();
        let mut out = [1.0; 3];
        let exact: Vec<u8> = [-(1i64 << 24), 1 << 40, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(decode(&exact, &mut out).is_ok());
        assert_eq!(out, [-16777216.0, (1i64 << 40) as f32, 0.0]);
        for value in [(1i64 << 24) + 1, i64::MAX, i64::MIN + 1] {
            let inexact = decode(&value.to_le_bytes(), &mut out).unwrap_err();
            assert_eq!((inexact.index, inexact.value), (0, value.into()));
        }
    }
}
