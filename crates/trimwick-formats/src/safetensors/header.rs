//! The header of a safetensors file: what it may say, and that it describes the bytes after it exactly.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::dtype::Dtype;
use crate::error::{Error, Location, Result, quote};
use crate::json::Reader;

/// Longest header that is read, as in the `safetensors` crate.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// Tensors in one file. The shards of the largest mixtures of experts have some ten thousand.
pub(super) const MAX_TENSORS: usize = 1 << 16;
/// Entries of `__metadata__`.
pub(super) const MAX_METADATA: usize = 1 << 16;
/// Bytes of all of `__metadata__`, which is copied.
const MAX_METADATA_BYTES: usize = 16 << 20;
/// Dimensions of a tensor.
pub(super) const MAX_RANK: usize = 32;
/// Bytes of a tensor's name.
const MAX_NAME: usize = 256;
/// The one key that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// One tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, slowest first (row-major).
    pub shape: Vec<usize>,
    /// Where its bytes begin, from the start of the file.
    pub offset: u64,
    /// How many bytes it has: the product of the shape times the element's size.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product() // checked when the header was read
    }
}

/// A header that has been checked against the length of its file.
#[derive(Debug)]
pub(super) struct Header {
    pub tensors: BTreeMap<String, TensorInfo>,
    pub metadata: BTreeMap<String, String>,
}

/// Reads the header `text`, which begins at byte 8 of a file of `file_len` bytes.
pub(super) fn parse(file: &Path, text: &[u8], file_len: u64) -> Result<Header> {
    let data_start = 8 + text.len() as u64;
    let data_len = file_len.saturating_sub(data_start);
    let mut reader = Reader::new(file, "header", text, 8)?;
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut strings = BTreeMap::new();
    let mut has_metadata = false;

    reader.begin_object()?;
    while let Some(name) = reader.next_key()? {
        if name == METADATA {
            if std::mem::replace(&mut has_metadata, true) {
                return Err(reader.meaning(METADATA, "one entry", "a second"));
            }
            metadata(&mut reader, &mut strings)?;
            continue;
        }
        if let Some(rule) = broken_name_rule(&name) {
            return Err(reader.meaning("name", rule, quote(&name)));
        }
        if tensors.len() == MAX_TENSORS {
            return Err(reader.meaning("tensors", format!("at most {MAX_TENSORS}"), "more"));
        }
        tensors.push(entry(&mut reader, name, data_start, data_len)?);
    }
    reader.end()?;
    // Sorted once: a tree that grows name by name takes twice the time, and time is what a bad header costs.
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some([twice, _]) = tensors.array_windows().find(|[a, b]| a.name == b.name) {
        return Err(Error::malformed(
            file,
            Location::Tensor(twice.name.clone()),
            "name",
            "one entry",
            "a second",
        ));
    }
    check_layout(file, &tensors, data_start, data_len)?;
    let tensors = tensors.into_iter().map(|info| (info.name.clone(), info)).collect();
    Ok(Header { tensors, metadata: strings })
}

/// The rule that a tensor's name breaks, if any. Names end up in messages, tables and, with some tools, in paths.
pub(crate) fn broken_name_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a name that is not empty")
    } else if name.len() > MAX_NAME {
        Some("a name of at most 256 bytes")
    } else if !name.bytes().all(|c| matches!(c, b' '..=b'~')) && name.chars().any(char::is_control) {
        Some("a name without control characters")
    } else if name.contains("..") && name.split(['/', '\\']).any(|part| part == "..") {
        Some("a name without the path component '..'")
    } else {
        None
    }
}

fn metadata(reader: &mut Reader<'_>, metadata: &mut BTreeMap<String, String>) -> Result<()> {
    let mut room = MAX_METADATA_BYTES;
    reader.begin_object()?;
    while let Some(key) = reader.next_key()? {
        if metadata.len() == MAX_METADATA {
            return Err(reader.meaning(METADATA, format!("at most {MAX_METADATA} entries"), "more"));
        }
        let value = reader.string("a string")?;
        let Some(rest) = room.checked_sub(key.len() + value.len()) else {
            return Err(reader.meaning(METADATA, format!("at most {MAX_METADATA_BYTES} bytes"), "more"));
        };
        room = rest;
        if metadata.insert(key.into_owned(), value.into_owned()).is_some() {
            return Err(reader.meaning("key", "one entry", "a second"));
        }
    }
    Ok(())
}

/// `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, in any order, nothing else.
fn entry(reader: &mut Reader<'_>, name: Cow<'_, str>, data_start: u64, data_len: u64) -> Result<TensorInfo> {
    let (mut dtype, mut shape, mut range) = (None, None, None);
    reader.begin_object()?;
    while let Some(field) = reader.next_key()? {
        let again = match &*field {
            "dtype" => dtype.replace(self::dtype(reader)?).is_some(),
            "shape" => shape.replace(self::shape(reader)?).is_some(),
            "data_offsets" => range.replace(data_offsets(reader, data_len)?).is_some(),
            _ => return Err(reader.meaning("field", "dtype, shape or data_offsets", quote(&field))),
        };
        if again {
            return Err(reader.meaning(&field, "one entry", "a second"));
        }
    }
    // The reader has left the tensor's object, and its path still ends with the tensor's name.
    let missing = |field: &str| reader.meaning(field, "a value", "none");
    let dtype = dtype.ok_or_else(|| missing("dtype"))?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let (begin, end) = range.ok_or_else(|| missing("data_offsets"))?;

    let Some(bytes) = dtype.byte_len(&shape) else {
        return Err(reader.meaning(
            "shape",
            "a whole number of bytes below 2^61",
            format!("{dtype} {shape:?}"),
        ));
    };
    if end - begin != bytes {
        return Err(reader.meaning(
            "data_offsets",
            format!("{bytes} bytes, which {dtype} {shape:?} takes"),
            format!("{} bytes, [{begin}, {end}]", end - begin),
        ));
    }
    Ok(TensorInfo { name: name.into_owned(), dtype, shape, offset: data_start + begin, bytes })
}

fn dtype(reader: &mut Reader<'_>) -> Result<Dtype> {
    let name: Cow<'_, str> = reader.string("the name of a dtype")?;
    Dtype::from_name(&name).ok_or_else(|| {
        reader.meaning("dtype", "a dtype of safetensors 0.8 such as F32 or BF16", quote(&name))
    })
}

fn shape(reader: &mut Reader<'_>) -> Result<Vec<usize>> {
    let mut shape = Vec::new();
    reader.begin_array()?;
    while reader.next_item()? {
        if shape.len() == MAX_RANK {
            return Err(reader.meaning("shape", format!("at most {MAX_RANK} dimensions"), "more"));
        }
        let dim = reader.unsigned()?;
        let fits = usize::try_from(dim);
        shape.push(
            fits.map_err(|_| reader.meaning("shape", "a size this machine can address", dim.to_string()))?,
        );
    }
    Ok(shape)
}

/// Begin and end, from the start of the data; in order, and within the file.
fn data_offsets(reader: &mut Reader<'_>, data_len: u64) -> Result<(u64, u64)> {
    let mut range = [0; 2];
    let mut count = 0;
    reader.begin_array()?;
    while reader.next_item()? {
        let Some(slot) = range.get_mut(count) else {
            return Err(reader.meaning("data_offsets", "two numbers", "a third"));
        };
        *slot = reader.unsigned()?;
        count += 1;
    }
    if count != 2 {
        return Err(reader.meaning("data_offsets", "two numbers", count.to_string()));
    }
    let [begin, end] = range;
    if end < begin {
        return Err(reader.meaning("data_offsets", "begin <= end", format!("[{begin}, {end}]")));
    }
    if end > data_len {
        let expected = format!("an end within the {data_len} bytes of data in the file");
        return Err(reader.meaning("data_offsets", expected, format!("[{begin}, {end}]")));
    }
    Ok((begin, end))
}

/// Every byte of the data belongs to exactly one tensor. Bytes that no tensor owns are where a file smuggles another.
fn check_layout(file: &Path, tensors: &[TensorInfo], data_start: u64, data_len: u64) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|info| (info.offset, info.bytes));
    let mut end = data_start;
    for info in order {
        if info.offset != end {
            let kind = if info.offset > end { "hole" } else { "overlap" };
            return Err(Error::malformed(
                file,
                Location::Tensor(info.name.clone()),
                "data_offsets",
                format!("to begin at {}, where the tensor before ends", end - data_start),
                format!("{}, {kind} of {} bytes", info.offset - data_start, info.offset.abs_diff(end)),
            ));
        }
        end += info.bytes;
    }
    let rest = data_start + data_len - end;
    if rest != 0 {
        let found = format!("{rest} bytes that belong to no tensor");
        return Err(Error::malformed(file, Location::Offset(end), "data", "the end of the file", found));
    }
    Ok(())
}

/// The tensors of the safetensors file in `stream` that share bytes with `range`, at most `limit` of them; for naming
/// what a damaged file lost, so any failure is just an empty answer.
pub(crate) fn tensors_in(
    stream: &mut dyn Read,
    file_len: u64,
    range: Range<u64>,
    limit: usize,
) -> Vec<String> {
    let mut head = [0; 8];
    let mut text = Vec::new();
    let read = stream.read_exact(&mut head).and_then(|()| {
        let len = u64::from_le_bytes(head).min(MAX_HEADER).min(file_len);
        stream.take(len).read_to_end(&mut text)
    });
    let Ok(header) = read.map_err(drop).and_then(|_| parse(Path::new(""), &text, file_len).map_err(drop))
    else {
        return Vec::new();
    };
    let mut hit: Vec<_> = header
        .tensors
        .into_values()
        .filter(|info| info.offset < range.end && range.start < info.offset + info.bytes)
        .collect();
    hit.sort_by_key(|info| info.offset);
    hit.into_iter().take(limit).map(|info| info.name).collect()
}
