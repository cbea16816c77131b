//! The fixed part in front, and the keys after it.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Field};
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, MAX_ALIGNMENT, tensors};
use crate::error::Result;
use crate::foreign;

/// The specification's limit for keys; tensor names keep far below it.
const MAX_NAME_BYTES: usize = 65_535;

/// The least that a key takes in the file: length, one character, type, one byte of value.
const LEAST_KEY: u64 = 8 + 1 + 4 + 1;

/// Memory for an entry of the metadata: a key, a value and a position, in a tree whose nodes may be half empty.
const ENTRY_EXTRA: u64 = 256;

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) tensors: u64,
    pub(super) keys: u64,
}

impl Header {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        foreign::refuse(cursor.source())?;
        let field = Field::of_header("magic number");
        match &cursor.array(field)? {
            b"GGUF" => {}
            b"FUGG" => {
                return Err(cursor.fault(0, field, "\"GGUF\"", "\"FUGG\", that of a byte-swapped file"));
            }
            magic => {
                let found = format!("\"{}\"", magic.escape_ascii());
                return Err(cursor.fault(0, field, "\"GGUF\"", found));
            }
        }
        let field = Field::of_header("version");
        let at = cursor.position();
        let version = cursor.u32(field)?;
        let found = match version {
            2 | 3 => None,
            1 => {
                Some("1, a draft of the format; convert the original weights with a current llama.cpp".into())
            }
            _ if (1..=3).contains(&version.swap_bytes()) => Some(
                "a big-endian file; convert it with gguf-convert-endian of the Python package gguf".into(),
            ),
            _ => Some(version.to_string()),
        };
        if let Some(found) = found {
            return Err(cursor.fault(at, field, "2 or 3, little-endian", found));
        }
        let at = cursor.position();
        let tensors = cursor.u64(Field::of_header("tensor count"))?;
        let keys = cursor.u64(Field::of_header("key count"))?;
        let counts = [
            (at, tensors, tensors::LEAST_TENSOR, tensors::TENSOR_EXTRA, "tensor count"),
            (at + 8, keys, LEAST_KEY, ENTRY_EXTRA, "key count"),
        ];
        for (at, count, least, extra, part) in counts {
            cursor.check_count(at, count, least, Field::of_header(part))?;
            cursor.charge(at, count.saturating_mul(extra), Field::of_header(part))?;
        }
        Ok(Self { version, tensors, keys })
    }
}

/// The keys, their values and, in the order of the keys, the offsets at which the values stand in the file.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) offsets: Vec<u64>,
}

impl Metadata {
    pub(super) fn read(cursor: &mut Cursor<'_>, keys: u64) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for index in 0..keys {
            let at = cursor.position();
            let key = read_name(cursor, "key", MAX_NAME_BYTES)?;
            if entries.contains_key(&key) {
                let found = format!("a second one as number {index}");
                return Err(cursor.fault(at, Field { of: &key, part: "key" }, "each key once", found));
            }
            let at = cursor.position();
            let value = Value::read(cursor, &key)?;
            entries.insert(key, (value, at));
        }
        let offsets = entries.values().map(|&(_, at)| at).collect();
        Ok(Self { values: entries.into_iter().map(|(key, (value, _))| (key, value)).collect(), offsets })
    }

    /// Where the type of this key's value stands in the file.
    pub(super) fn offset(&self, key: &str) -> u64 {
        let index = self.values.keys().position(|other| other == key);
        index.and_then(|index| self.offsets.get(index).copied()).unwrap_or_default()
    }

    /// `general.alignment`, a power of two.
    pub(super) fn alignment(&self, cursor: &Cursor<'_>) -> Result<u32> {
        let key = "general.alignment";
        match self.values.get(key) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(&Value::U32(n)) if n.is_power_of_two() && n <= MAX_ALIGNMENT => Ok(n),
            Some(other) => Err(cursor.fault(
                self.offset(key),
                Field { of: key, part: "value" },
                format!("u32, a power of two up to {MAX_ALIGNMENT}"),
                other.describe(),
            )),
        }
    }
}

/// A string that names something: 1 to `most` bytes.
pub(super) fn read_name(cursor: &mut Cursor<'_>, part: &'static str, most: usize) -> Result<String> {
    let at = cursor.position();
    let field = Field::of_header(part);
    let name = cursor.string(field)?;
    match name.len() {
        n if (1..=most).contains(&n) => Ok(name),
        n => Err(cursor.fault(at, field, format!("1 to {most} bytes"), format!("{n} bytes"))),
    }
}
