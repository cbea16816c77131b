//! Metadata by key and type.

use super::file::GgufFile;
use super::value::{Array, Value};
use crate::error::{Error, Location, Result};

/// Each getter gives `None` where the key is absent. The integer getters take an integer of any width that holds the
/// value, since writers disagree about widths.
///
/// # Errors
/// [`Error::Malformed`], with the offset of the value, where the key is there with another type or out of range.
impl GgufFile {
    /// An integer that fits 32 bits without sign.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "an integer from 0 to 2^32 − 1", |value| value.as_integer()?.try_into().ok())
    }

    /// An integer that fits 64 bits without sign.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "an integer from 0 to 2^64 − 1", |value| value.as_integer()?.try_into().ok())
    }

    /// A float; one of 64 bits is rounded to 32.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a float", |value| match value {
            Value::F32(v) => Some(*v),
            Value::F64(v) => Some(*v as f32),
            _ => None,
        })
    }

    /// A bool.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a bool", |value| match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", |value| match value {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn get_strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.get(key, "an array of strings", |value| match value {
            Value::Array(Array::String(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of `i32`.
    pub fn get_i32s(&self, key: &str) -> Result<Option<&[i32]>> {
        self.get(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of `f32`.
    pub fn get_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.get(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        pick: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata().get(key) else { return Ok(None) };
        match pick(value) {
            Some(picked) => Ok(Some(picked)),
            None => {
                let at = Location::Offset(self.value_offset(key));
                Err(Error::malformed(self.path(), at, format!("{key:?} value"), expected, value.describe()))
            }
        }
    }
}
