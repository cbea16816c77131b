//! An open safetensors file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dtype::{self, Dtype};
use super::header::{self, Header, MAX_HEADER, TensorInfo};
use crate::error::{Error, Location, Result, quote, reserve};
use crate::foreign;
use crate::source::ByteSource;

/// Raw bytes that are converted at a time; a multiple of every element's size.
const CHUNK: usize = 1 << 20;

/// A safetensors file whose header has been read and checked; tensors are read when they are asked for.
#[derive(Debug)]
pub struct SafetensorsFile {
    source: ByteSource,
    header: Header,
}

impl SafetensorsFile {
    /// Opens a file and checks its header against the file's length.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for any breach of the format, and for what is no regular file;
    /// [`Error::Refused`] for pickles and GGUF, whatever they are named.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::from_source(ByteSource::open(path)?)
    }

    /// The same for any source, such as bytes in memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_source(source: ByteSource) -> Result<Self> {
        let header = Self::read_header(&source).or_else(|error| {
            // A foreign file is told by its first bytes only now: a header of 640 bytes opens like a pickle.
            foreign::refuse(&source)?;
            let mut head = [0; 4];
            if source.read_exact_at(0, &mut head).is_ok() && &head == b"GGUF" {
                return Err(Error::refused(
                    source.path(),
                    "a GGUF file and no safetensors",
                    "give it a name that ends in .gguf, or use GgufFile",
                ));
            }
            Err(error)
        })?;
        Ok(Self { source, header })
    }

    fn read_header(source: &ByteSource) -> Result<Header> {
        let fault = |at, field: &str, expected: String, found: String| {
            Err(Error::malformed(source.path(), Location::Offset(at), field, expected, found))
        };
        if source.len() < 8 {
            let found = format!("a file of {} bytes", source.len());
            return fault(0, "header length", "8 bytes".into(), found);
        }
        let mut len = [0; 8];
        source.read_exact_at(0, &mut len)?;
        let len = u64::from_le_bytes(len);
        let limit = MAX_HEADER.min(source.len() - 8);
        if len > limit {
            let why = if limit == MAX_HEADER { "the limit of the format" } else { "what the file holds" };
            return fault(0, "header length", format!("at most {limit}, {why}"), len.to_string());
        }
        let text = match source.as_slice() {
            Some(bytes) => Cow::Borrowed(&bytes[8..8 + len as usize]), // just checked
            None => Cow::Owned(source.read_vec(8, len)?),
        };
        header::parse(source.path(), &text, source.len())
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Every tensor by its name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.header.tensors
    }

    /// The strings under `__metadata__`; empty when there is none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// One tensor's description.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no tensor of that name.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.tensors.get(name).ok_or_else(|| Error::missing(self.path(), "tensor", name))
    }

    /// A tensor's bytes as they are in the file: row-major, little-endian.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`], [`Error::OutOfMemory`]; [`Error::Malformed`] when the file was cut since it
    /// was opened.
    pub fn read_raw(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.info(name)?;
        self.source.read_vec(info.offset, info.bytes)
    }

    /// A tensor as 32-bit floats, row-major: F32, F16 and BF16 exactly, F64 rounded to nearest, BOOL as 0 and 1,
    /// integers where a float equals them.
    ///
    /// # Errors
    /// As [`read_raw`](Self::read_raw), and [`Error::Malformed`] for an integer that no float equals and for the
    /// types below 16 bits and complex ones, whose bytes mean nothing without their scheme.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let Some(decode) = dtype::decoder(info.dtype) else {
            return Err(self.fault(
                info,
                "dtype",
                "F64, F32, F16, BF16, an integer or BOOL to read as f32",
                info.dtype.to_string(),
            ));
        };
        let width = info.dtype.bits() / 8;
        let elements = info.elements();
        let mut values = reserve(self.path(), &format!("tensor {}", quote(name)), elements)?;
        values.resize(elements, 0.0);

        let mut buffer = Vec::new();
        for (i, out) in values.chunks_mut(CHUNK / width).enumerate() {
            let offset = info.offset + (i * CHUNK) as u64;
            let len = out.len() * width;
            let bytes = match self.source.as_slice() {
                Some(bytes) => &bytes[offset as usize..][..len], // in the file, as the header check found
                None => {
                    buffer.resize(len, 0);
                    self.source.read_exact_at(offset, &mut buffer)?;
                    &buffer
                }
            };
            decode(bytes, out).map_err(|inexact| {
                let found = format!(
                    "{} {} at element {}",
                    info.dtype,
                    inexact.value,
                    i * CHUNK / width + inexact.index
                );
                self.fault(info, "value", "an integer that f32 represents", found)
            })?;
        }
        Ok(values)
    }

    /// Sum of the tensors' bytes.
    pub fn total_bytes(&self) -> u64 {
        self.header.tensors.values().map(|info| info.bytes).sum() // disjoint ranges of one file
    }

    fn fault(&self, info: &TensorInfo, field: &str, expected: &str, found: String) -> Error {
        Error::malformed(self.path(), Location::Tensor(info.name.clone()), field, expected, found)
    }
}

impl Dtype {
    /// Whether [`SafetensorsFile::read_f32`] takes this type.
    pub fn is_numeric(self) -> bool {
        dtype::decoder(self).is_some()
    }
}
