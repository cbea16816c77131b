//! Metadata values: thirteen types, arrays among them.

use super::MAX_ARRAY_DEPTH;
use super::cursor::{Cursor, Field};
use crate::error::{Error, Result, quote, reserve};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7; one byte, 0 or 1.
    Bool(bool),
    /// Type 8.
    String(String),
    /// Type 9.
    Array(Array),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

/// An array of metadata values, all of one type: a plain vector of that type, so that it takes the memory it takes in
/// the file and not that of as many [`Value`]s.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Of type 0.
    U8(Vec<u8>),
    /// Of type 1.
    I8(Vec<i8>),
    /// Of type 2.
    U16(Vec<u16>),
    /// Of type 3.
    I16(Vec<i16>),
    /// Of type 4.
    U32(Vec<u32>),
    /// Of type 5.
    I32(Vec<i32>),
    /// Of type 6.
    F32(Vec<f32>),
    /// Of type 7.
    Bool(Vec<bool>),
    /// Of type 8.
    String(Vec<String>),
    /// Of type 9: arrays, which may differ in type and length.
    Array(Vec<Array>),
    /// Of type 10.
    U64(Vec<u64>),
    /// Of type 11.
    I64(Vec<i64>),
    /// Of type 12.
    F64(Vec<f64>),
}

/// The least that a nested array takes in the file: its type and its count.
const LEAST_ARRAY: u64 = 12;

/// What a string takes in memory beyond the bytes it takes in the file: the `String` itself, less its length in the
/// file, and the allocator's rounding.
const STRING_EXTRA: u64 = size_of::<String>() as u64 - 8 + 32;

/// The same for an array within an array.
const ARRAY_EXTRA: u64 = size_of::<Array>() as u64 - LEAST_ARRAY + 32;

impl Value {
    /// Reads a type and the value after it.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self> {
        let field = Field { of: key, part: "value" };
        let at = cursor.position();
        Ok(match cursor.u32(Field { of: key, part: "value type" })? {
            0 => Self::U8(cursor.u8(field)?),
            1 => Self::I8(i8::from_le_bytes(cursor.array(field)?)),
            2 => Self::U16(u16::from_le_bytes(cursor.array(field)?)),
            3 => Self::I16(i16::from_le_bytes(cursor.array(field)?)),
            4 => Self::U32(cursor.u32(field)?),
            5 => Self::I32(i32::from_le_bytes(cursor.array(field)?)),
            6 => Self::F32(f32::from_le_bytes(cursor.array(field)?)),
            7 => Self::Bool(read_bool(cursor, field)?),
            8 => {
                cursor.charge(at, STRING_EXTRA, field)?;
                Self::String(cursor.string(field)?)
            }
            9 => Self::Array(Array::read(cursor, key, 1)?),
            10 => Self::U64(cursor.u64(field)?),
            11 => Self::I64(i64::from_le_bytes(cursor.array(field)?)),
            12 => Self::F64(f64::from_le_bytes(cursor.array(field)?)),
            code => return Err(unknown_type(cursor, at, key, "value type", code)),
        })
    }

    /// The value if it is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value in a few words, for messages and listings: `u32 30`, `array of 49152 strings`.
    pub fn describe(&self) -> String {
        match self {
            Self::U8(v) => format!("u8 {v}"),
            Self::I8(v) => format!("i8 {v}"),
            Self::U16(v) => format!("u16 {v}"),
            Self::I16(v) => format!("i16 {v}"),
            Self::U32(v) => format!("u32 {v}"),
            Self::I32(v) => format!("i32 {v}"),
            Self::F32(v) => format!("f32 {v:?}"),
            Self::Bool(v) => format!("bool {v}"),
            Self::String(v) => format!("string {}", quote(v)),
            Self::Array(v) => format!("array of {} {}", v.len(), v.elements()),
            Self::U64(v) => format!("u64 {v}"),
            Self::I64(v) => format!("i64 {v}"),
            Self::F64(v) => format!("f64 {v:?}"),
        }
    }
}

impl Array {
    /// Reads the element type, the count and the elements of an array that stands within `depth − 1` others.
    fn read(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Self> {
        let type_at = cursor.position();
        if depth > MAX_ARRAY_DEPTH {
            let field = Field { of: key, part: "array nesting" };
            let expected = format!("at most {MAX_ARRAY_DEPTH} levels");
            return Err(cursor.fault(type_at, field, expected, format!("level {depth}")));
        }
        let code = cursor.u32(Field { of: key, part: "array type" })?;
        let at = cursor.position();
        let field = Field { of: key, part: "array length" };
        let n = cursor.u64(field)?;
        Ok(match code {
            0 => Self::U8(cursor.values(at, n, field, u8::from_le_bytes)?),
            1 => Self::I8(cursor.values(at, n, field, i8::from_le_bytes)?),
            2 => Self::U16(cursor.values(at, n, field, u16::from_le_bytes)?),
            3 => Self::I16(cursor.values(at, n, field, i16::from_le_bytes)?),
            4 => Self::U32(cursor.values(at, n, field, u32::from_le_bytes)?),
            5 => Self::I32(cursor.values(at, n, field, i32::from_le_bytes)?),
            6 => Self::F32(cursor.values(at, n, field, f32::from_le_bytes)?),
            7 => {
                let bytes = cursor.values(at, n, field, u8::from_le_bytes)?;
                if let Some(bad) = bytes.iter().position(|&byte| byte > 1) {
                    let field = Field { of: key, part: "array element" };
                    return Err(not_a_bool(cursor, at + 8 + bad as u64, field, bytes[bad]));
                }
                Self::Bool(bytes.into_iter().map(|byte| byte == 1).collect())
            }
            8 => Self::String(items(cursor, at, n, key, 8, STRING_EXTRA, |cursor, field| {
                cursor.string(field)
            })?),
            9 => Self::Array(items(cursor, at, n, key, LEAST_ARRAY, ARRAY_EXTRA, |cursor, _| {
                Self::read(cursor, key, depth + 1)
            })?),
            10 => Self::U64(cursor.values(at, n, field, u64::from_le_bytes)?),
            11 => Self::I64(cursor.values(at, n, field, i64::from_le_bytes)?),
            12 => Self::F64(cursor.values(at, n, field, f64::from_le_bytes)?),
            code => return Err(unknown_type(cursor, type_at, key, "array type", code)),
        })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::Array(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn elements(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "strings",
            Self::Array(_) => "arrays",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }
}

/// `n` elements that must be looked at one by one: at least `least` bytes each in the file, and `extra` bytes in memory
/// beyond those. `at` is where `n` stands in the file.
fn items<T>(
    cursor: &mut Cursor<'_>,
    at: u64,
    n: u64,
    key: &str,
    least: u64,
    extra: u64,
    mut read: impl FnMut(&mut Cursor<'_>, Field<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let field = Field { of: key, part: "array length" };
    cursor.check_count(at, n, least, field)?;
    cursor.charge(at, n.saturating_mul(extra), field)?;
    let mut values = reserve(cursor.source().path(), "metadata array", n as usize)?;
    for _ in 0..n {
        values.push(read(cursor, Field { of: key, part: "array element" })?);
    }
    Ok(values)
}

fn read_bool(cursor: &mut Cursor<'_>, field: Field<'_>) -> Result<bool> {
    let at = cursor.position();
    match cursor.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(not_a_bool(cursor, at, field, other)),
    }
}

fn not_a_bool(cursor: &Cursor<'_>, at: u64, field: Field<'_>, byte: u8) -> Error {
    cursor.fault(at, field, "a bool, 0 or 1", byte.to_string())
}

fn unknown_type(cursor: &Cursor<'_>, at: u64, of: &str, part: &'static str, code: u32) -> Error {
    cursor.fault(at, Field { of, part }, "a value type, 0 to 12", code.to_string())
}
