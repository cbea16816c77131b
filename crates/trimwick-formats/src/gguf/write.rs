//! Writing GGUF version 3: one pass, tensor by tensor, the same bytes for the same keys and tensors.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::cursor::Cursor;
use super::header::{Header, Metadata};
use super::tensors::{LEAST_TENSOR, MAX_DIMS};
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, MAX_HEADER_BYTES};
use crate::atomic::{Produce, atomic_write_with};
use crate::blocks::GgmlType;
use crate::error::{Error, Result, quote};
use crate::exact::write_exactly;
use crate::source::ByteSource;

/// ggml has 64 bytes for a name, the last of which is 0; llama.cpp refuses a longer one.
const MAX_NAME: usize = 63;

/// A tensor to be written, with the way to produce its bytes.
pub struct NewTensor<'a> {
    name: String,
    dtype: GgmlType,
    shape: Vec<usize>,
    write: Box<Produce<'a>>,
}

impl<'a> NewTensor<'a> {
    /// A tensor whose bytes, as the type stores rows of `shape` (slowest dimension first), are at hand.
    pub fn bytes(name: impl Into<String>, dtype: GgmlType, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self::stream(name, dtype, shape, move |out| out.write_all(bytes))
    }

    /// A tensor whose bytes are produced when their turn comes, so that only one tensor is in memory. The function must
    /// write as many bytes as type and shape take, and the same ones if it is called again.
    pub fn stream(
        name: impl Into<String>,
        dtype: GgmlType,
        shape: &[usize],
        write: impl Fn(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_owned(), write: Box::new(write) }
    }

    /// Checks everything that a reader would, and returns the number of bytes.
    fn check(&self) -> Result<u64> {
        let fault = |expected: String, found: String| {
            Err(Error::unwritable(format!("tensor {}", quote(&self.name)), expected, found))
        };
        if !(1..=MAX_NAME).contains(&self.name.len()) {
            let expected = format!("a name of 1 to {MAX_NAME} bytes");
            return fault(expected, format!("{} bytes", self.name.len()));
        }
        if !(1..=MAX_DIMS as usize).contains(&self.shape.len()) || self.shape.contains(&0) {
            let expected = format!("1 to {MAX_DIMS} dimensions of at least 1");
            return fault(expected, format!("{:?}", self.shape));
        }
        let (block_len, block_bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        let row = self.shape.last().copied().unwrap_or_default();
        if !row.is_multiple_of(block_len) {
            return fault(
                format!("rows of whole blocks of {block_len}, for {}", self.dtype),
                row.to_string(),
            );
        }
        let elements = self.shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim as u64));
        match elements.and_then(|n| (n / block_len as u64).checked_mul(block_bytes as u64)) {
            // A file offset is signed in most systems.
            Some(bytes) if bytes <= i64::MAX as u64 / 2 => Ok(bytes),
            _ => fault("fewer than 2^62 bytes".into(), format!("{} {:?}", self.dtype, self.shape)),
        }
    }
}

/// A GGUF file that is laid out and can be written any number of times.
///
/// Keys and tensors stand in the order in which they are given; each tensor begins at a multiple of 32 bytes, and the
/// padding is zeros.
pub struct Writer<'a> {
    description: Vec<u8>,
    tensors: Vec<(NewTensor<'a>, u64)>,
    data_len: u64,
}

impl<'a> Writer<'a> {
    /// Checks keys and tensors and lays them out.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for what a reader would refuse: a repeated key or name, a row that is no whole number of
    /// blocks, a name beyond 63 bytes, a description of more than [`MAX_HEADER_BYTES`].
    pub fn new(
        metadata: &[(String, Value)],
        tensors: impl IntoIterator<Item = NewTensor<'a>>,
    ) -> Result<Self> {
        let tensors = tensors
            .into_iter()
            .map(|tensor| tensor.check().map(|bytes| (tensor, bytes)))
            .collect::<Result<Vec<_>>>()?;
        let mut names = BTreeSet::new();
        for (tensor, _) in &tensors {
            if !names.insert(tensor.name.as_str()) {
                let what = format!("tensor {}", quote(&tensor.name));
                return Err(Error::unwritable(what, "one tensor of that name", "a second"));
            }
        }
        let mut description = b"GGUF".to_vec();
        description.extend(3u32.to_le_bytes());
        description.extend((tensors.len() as u64).to_le_bytes());
        description.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut description, key);
            value.put(&mut description);
        }
        check_keys(&description, tensors.len())?;
        let mut data_len = 0u64;
        for (tensor, bytes) in &tensors {
            put_string(&mut description, &tensor.name);
            description.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&dim| description.extend((dim as u64).to_le_bytes()));
            description.extend(tensor.dtype.code().to_le_bytes());
            description.extend(data_len.to_le_bytes());
            data_len = data_len
                .checked_add(aligned(*bytes))
                .ok_or_else(|| Error::unwritable("a GGUF file", "fewer than 2^64 bytes", "more"))?;
        }
        if description.len() as u64 > MAX_HEADER_BYTES {
            let expected = format!("a description of at most {MAX_HEADER_BYTES} bytes");
            return Err(Error::unwritable("a GGUF file", expected, description.len().to_string()));
        }
        description.resize(aligned(description.len() as u64) as usize, 0);
        Ok(Self { description, tensors, data_len })
    }

    /// The length of the file, exactly.
    pub fn file_len(&self) -> u64 {
        (self.description.len() as u64).saturating_add(self.data_len)
    }

    /// Writes the file's bytes to `out`.
    ///
    /// # Errors
    /// What `out` returns; [`io::ErrorKind::InvalidData`] when a stream has another length than its shape takes.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.description)?;
        for (tensor, bytes) in &self.tensors {
            write_exactly(out, &tensor.name, *bytes, |out| (tensor.write)(out))?;
            let padding = aligned(*bytes) - bytes;
            out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize])?;
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

/// Reads the keys as the reader will, which knows the rules.
fn check_keys(description: &[u8], tensors: usize) -> Result<()> {
    // The description of the tensors follows; a file of as many bytes as they take at least stands for it.
    let mut bytes = description.to_vec();
    bytes.resize(bytes.len() + tensors * LEAST_TENSOR as usize, 0);
    let source = ByteSource::memory(bytes, "keys");
    let mut cursor = Cursor::new(&source);
    let read = Header::read(&mut cursor)
        .and_then(|header| Metadata::read(&mut cursor, header.keys))
        .and_then(|metadata| metadata.alignment(&cursor));
    match read {
        Ok(DEFAULT_ALIGNMENT) => Ok(()),
        Ok(other) => {
            let expected = format!("general.alignment = {DEFAULT_ALIGNMENT}, or none");
            Err(Error::unwritable("the keys of a GGUF file", expected, other.to_string()))
        }
        Err(error) => {
            let expected = "keys that a reader takes";
            Err(Error::unwritable("the keys of a GGUF file", expected, error.to_string()))
        }
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(u64::from(DEFAULT_ALIGNMENT))
}

/// Length and bytes.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
