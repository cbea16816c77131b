//! Metadata values as bytes.

use super::value::{Array, Value};
use super::write::put_string;

/// The codes of types, which are those of values and of the elements of arrays.
macro_rules! codes {
    ($($of:ident),*) => {$(
        impl $of {
            fn code(&self) -> u32 {
                match self {
                    Self::U8(_) => 0,
                    Self::I8(_) => 1,
                    Self::U16(_) => 2,
                    Self::I16(_) => 3,
                    Self::U32(_) => 4,
                    Self::I32(_) => 5,
                    Self::F32(_) => 6,
                    Self::Bool(_) => 7,
                    Self::String(_) => 8,
                    Self::Array(_) => 9,
                    Self::U64(_) => 10,
                    Self::I64(_) => 11,
                    Self::F64(_) => 12,
                }
            }
        }
    )*};
}
codes!(Value, Array);

impl Value {
    /// Appends type and value.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.code().to_le_bytes());
        match self {
            Self::U8(v) => out.push(*v),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::String(v) => put_string(out, v),
            Self::Array(v) => v.put(out),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

impl Array {
    /// Appends element type, length and elements.
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.code().to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        match self {
            Self::U8(v) => out.extend(v),
            Self::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
            Self::String(v) => v.iter().for_each(|v| put_string(out, v)),
            Self::Array(v) => v.iter().for_each(|v| v.put(out)),
            Self::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
            Self::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        }
    }
}
