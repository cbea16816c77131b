//! An open GGUF file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::cursor::Cursor;
use super::header::{Header, Metadata};
use super::tensors::{self, TensorInfo};
use super::value::Value;
use crate::blocks::dequantize;
use crate::error::{Error, Result, reserve};
use crate::source::ByteSource;

/// Values that are read and decoded at a time: a multiple of every block length.
const SLAB: usize = 1 << 20;

/// A GGUF file whose description was read and checked. Tensors are read on demand, from several threads if need be.
#[derive(Debug)]
pub struct GgufFile {
    source: ByteSource,
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Opens a file and reads its description.
    ///
    /// # Errors
    /// [`Error::Malformed`] for whatever breaks the format, [`Error::Refused`] for pickles and the older formats of
    /// ggml, [`Error::Io`], [`Error::OutOfMemory`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::from_source(ByteSource::open(path)?)
    }

    /// The same from any source, such as bytes that are compiled into the program.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_source(source: ByteSource) -> Result<Self> {
        let mut cursor = Cursor::new(&source);
        let header = Header::read(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, header.keys)?;
        let alignment = metadata.alignment(&cursor)?;
        let tensors = tensors::read(&mut cursor, header.tensors, alignment)?;
        Ok(Self { version: header.version, alignment, metadata, tensors, source })
    }

    /// The path, or the name of bytes in memory.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.source.len()
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// All metadata by key. The typed getters ([`get_u32`](Self::get_u32) and its siblings) are the way to single ones.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata.values
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The description of one tensor.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::missing(self.path(), "tensor", name))
    }

    /// The bytes of a tensor as they stand in the file.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`], [`Error::OutOfMemory`], and [`Error::Malformed`] if the file was cut since it
    /// was opened.
    pub fn read_raw(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.tensor(name)?;
        self.source.read_vec(info.offset, info.bytes)
    }

    /// A tensor's values, dequantized, row-major in the order of [`TensorInfo::shape`].
    ///
    /// Slabs of the tensor are read and decoded in parallel, so that memory holds the result and little else.
    ///
    /// # Errors
    /// As [`read_raw`](Self::read_raw).
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.tensor(name)?;
        let elements = info.elements();
        let mut values = reserve(self.path(), name, elements)?;
        values.resize(elements, 0.0f32);
        if let Some(all) = self.source.as_slice() {
            let start = info.offset as usize;
            dequantize(info.dtype, &all[start..start + info.bytes as usize], &mut values)?;
            return Ok(values);
        }
        let slab_bytes = SLAB / info.dtype.block_len() * info.dtype.block_bytes();
        values.par_chunks_mut(SLAB).enumerate().try_for_each(|(slab, values)| {
            let bytes = values.len() / info.dtype.block_len() * info.dtype.block_bytes();
            let offset = info.offset + (slab * slab_bytes) as u64;
            dequantize(info.dtype, &self.source.read_vec(offset, bytes as u64)?, values)
        })?;
        Ok(values)
    }

    /// Where the value of a key stands in the file, for messages about it.
    pub(super) fn value_offset(&self, key: &str) -> u64 {
        self.metadata.offset(key)
    }
}
