//! Writing safetensors: one pass, tensor by tensor, the same bytes for the same tensors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};

use super::dtype::Dtype;
use super::header::{MAX_HEADER, MAX_METADATA, MAX_RANK, MAX_TENSORS, METADATA, broken_name_rule};
use crate::atomic::{Produce, atomic_write_with};
use crate::error::{Error, Result, quote};
use crate::exact::write_exactly;

/// A tensor to be written, with its values or with the way to produce them.
pub struct NewTensor<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    Bytes(&'a [u8]),
    Floats(&'a [f32]),
    Stream(Box<Produce<'a>>),
}

impl<'a> NewTensor<'a> {
    /// A tensor of `dtype` whose little-endian, row-major bytes are at hand.
    pub fn bytes(name: impl Into<String>, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self::new(name, dtype, shape, Values::Bytes(bytes))
    }

    /// Floats that are stored as F32, or rounded to nearest even as F16 or BF16, a piece at a time.
    pub fn floats(name: impl Into<String>, dtype: Dtype, shape: &[usize], values: &'a [f32]) -> Self {
        Self::new(name, dtype, shape, Values::Floats(values))
    }

    /// A tensor whose bytes are produced when their turn comes, so that only one tensor is in memory. The function must
    /// write as many bytes as type and shape take, and the same ones if it is called again.
    pub fn stream(
        name: impl Into<String>,
        dtype: Dtype,
        shape: &[usize],
        write: impl Fn(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> Self {
        Self::new(name, dtype, shape, Values::Stream(Box::new(write)))
    }

    fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize], values: Values<'a>) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_owned(), values }
    }

    /// Checks everything that a reader would, and returns the number of bytes.
    fn check(&self) -> Result<u64> {
        let fault = |expected: &str, found: String| {
            Err(Error::unwritable(format!("tensor {}", quote(&self.name)), expected, found))
        };
        if let Some(rule) = broken_name_rule(&self.name) {
            return fault(rule, quote(&self.name));
        }
        if self.name == METADATA {
            return fault("another name", "the key of the file's metadata".into());
        }
        if self.shape.len() > MAX_RANK {
            return fault(&format!("at most {MAX_RANK} dimensions"), self.shape.len().to_string());
        }
        let kind = format!("{} {:?}", self.dtype, self.shape);
        let Some(bytes) = self.dtype.byte_len(&self.shape) else {
            return fault("a shape of a whole number of bytes below 2^61", kind);
        };
        let given = match &self.values {
            Values::Bytes(given) => given.len() as u64,
            Values::Floats(given) => match self.dtype {
                Dtype::F32 => given.len() as u64 * 4,
                Dtype::F16 | Dtype::BF16 => given.len() as u64 * 2,
                _ => return fault("F32, F16 or BF16 for floats", self.dtype.to_string()),
            },
            Values::Stream(_) => bytes,
        };
        if given != bytes {
            return fault(&format!("{bytes} bytes, which {kind} takes"), given.to_string());
        }
        Ok(bytes)
    }

    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.values {
            Values::Bytes(bytes) => out.write_all(bytes),
            Values::Stream(write) => write(out),
            Values::Floats(values) => {
                let mut bytes = Vec::with_capacity(1 << 16);
                for piece in values.chunks(1 << 14) {
                    bytes.clear();
                    match self.dtype {
                        Dtype::F16 => {
                            bytes.extend(piece.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()))
                        }
                        Dtype::BF16 => {
                            bytes.extend(piece.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()))
                        }
                        _ => bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes())),
                    }
                    out.write_all(&bytes)?;
                }
                Ok(())
            }
        }
    }
}

/// A safetensors file that is laid out and can be written any number of times.
///
/// The header lists the tensors by name. Their bytes lie in order of falling element size, then by name, so that each
/// begins at a multiple of its element's size; the data begins at a multiple of 8.
pub struct Writer<'a> {
    /// In the order of their bytes.
    tensors: Vec<(NewTensor<'a>, u64)>,
    header: String,
    data_len: u64,
}

impl<'a> Writer<'a> {
    /// Checks the tensors and lays them out. `metadata` is what transformers reads `format` = `pt` from.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for what a reader would refuse: a repeated or unprintable name, a length that does not
    /// fit the shape, a header above 100 MB.
    pub fn new(
        tensors: impl IntoIterator<Item = NewTensor<'a>>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut tensors = tensors
            .into_iter()
            .map(|tensor| tensor.check().map(|bytes| (tensor, bytes)))
            .collect::<Result<Vec<_>>>()?;
        if tensors.len() > MAX_TENSORS || metadata.len() > MAX_METADATA {
            let found = format!("{} and {}", tensors.len(), metadata.len());
            let expected = format!("at most {MAX_TENSORS} tensors and {MAX_METADATA} metadata entries");
            return Err(Error::unwritable("a safetensors file", expected, found));
        }
        tensors
            .sort_by(|(a, _), (b, _)| b.dtype.bits().cmp(&a.dtype.bits()).then_with(|| a.name.cmp(&b.name)));

        let mut entries = BTreeMap::new();
        let mut end = 0u64;
        for (tensor, bytes) in &tensors {
            let begin = end;
            end = begin.checked_add(*bytes).ok_or_else(|| {
                Error::unwritable("a safetensors file", "fewer than 2^64 bytes", "more".to_owned())
            })?;
            if entries.insert(tensor.name.as_str(), (tensor, begin, end)).is_some() {
                let what = format!("tensor {}", quote(&tensor.name));
                return Err(Error::unwritable(what, "one tensor of that name", "a second"));
            }
        }
        let header = header(&entries, metadata);
        if header.len() as u64 > MAX_HEADER {
            let expected = format!("a header of at most {MAX_HEADER} bytes");
            return Err(Error::unwritable("a safetensors file", expected, header.len().to_string()));
        }
        Ok(Self { tensors, header, data_len: end })
    }

    /// The length of the file, exactly.
    pub fn file_len(&self) -> u64 {
        (8 + self.header.len() as u64).saturating_add(self.data_len)
    }

    /// Writes the file's bytes to `out`.
    ///
    /// # Errors
    /// What `out` returns; [`io::ErrorKind::InvalidData`] when a stream has another length than its shape takes.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(self.header.as_bytes())?;
        for (tensor, bytes) in &self.tensors {
            write_exactly(out, &tensor.name, *bytes, |out| tensor.write_to(out))?;
        }
        Ok(())
    }

    /// Writes the file at `path` as [`atomic_write`](crate::atomic_write) does: the old one or the new one is there,
    /// never half of it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic_write_with(path, |out| self.write_to(out))
    }
}

/// Writes tensors to a safetensors file, streaming, aside and renamed when it is whole and synced.
///
/// # Errors
/// [`Error::Unwritable`] before anything is written, [`Error::Io`] after.
pub fn write<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = NewTensor<'a>>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    Writer::new(tensors, metadata)?.save(path)
}

fn header(
    entries: &BTreeMap<&str, (&NewTensor<'_>, u64, u64)>,
    metadata: &BTreeMap<String, String>,
) -> String {
    let mut json = String::from("{");
    if !metadata.is_empty() {
        json.push_str("\"__metadata__\":{");
        for (key, value) in metadata {
            string(&mut json, key);
            json.push(':');
            string(&mut json, value);
            json.push(',');
        }
        json.pop();
        json.push_str("},");
    }
    for (name, (tensor, begin, end)) in entries {
        string(&mut json, name);
        // Writing to a String cannot fail. `{:?}` of numbers is their JSON.
        let shape = format!("{:?}", tensor.shape).replace(' ', "");
        let _ = write!(
            json,
            ":{{\"dtype\":\"{}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}},",
            tensor.dtype
        );
    }
    if json.ends_with(',') {
        json.pop();
    }
    json.push('}');
    // The length in front takes 8 bytes, so a header of 8n bytes puts the data at a multiple of 8.
    let padding = json.len().next_multiple_of(8) - json.len();
    json.extend(std::iter::repeat_n(' ', padding));
    json
}

/// Appends a JSON string.
fn string(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            c if u32::from(c) < 0x20 => drop(write!(json, "\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}
