//! Tensor descriptions, and whether the data they promise is in the file.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Field};
use super::header::read_name;
use crate::blocks::GgmlType;
use crate::error::{Error, Result, quote, reserve};

/// The least that a description takes in the file: name, one dimension, type, offset.
pub(super) const LEAST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// ggml keeps 63 bytes of a name; other writers put longer ones.
const MAX_NAME_BYTES: usize = 1024;

/// ggml's `GGML_MAX_DIMS`.
pub(super) const MAX_DIMS: u32 = 4;

/// Memory for a description: the name twice, the dimensions, a place in a tree whose nodes may be half empty.
pub(super) const TENSOR_EXTRA: u64 = 320;

/// A tensor whose bytes are known to lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the file.
    pub name: String,
    /// 1 to 4 dimensions of at least 1, the slowest first (row-major; the file has them the other way round).
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub dtype: GgmlType,
    /// Where the tensor's bytes start, counted from the start of the file.
    pub offset: u64,
    /// How many there are: the whole blocks that the shape asks for.
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of values: the product of the dimensions.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A description as read, with its offset still relative to the data.
struct Described {
    info: TensorInfo,
    offset_at: u64,
}

/// Reads `count` descriptions, a number that the header was asked about, and checks them against each other and the
/// file.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: u32,
) -> Result<BTreeMap<String, TensorInfo>> {
    let mut described = BTreeMap::new();
    for index in 0..count {
        let at = cursor.position();
        let tensor = read_one(cursor, alignment)?;
        let name = tensor.info.name.clone();
        if described.contains_key(&name) {
            let found = format!("a second one as number {index}");
            return Err(cursor.fault(at, Field { of: &name, part: "name" }, "each tensor once", found));
        }
        described.insert(name, tensor);
    }
    let data = cursor.position().next_multiple_of(u64::from(alignment));
    for tensor in described.values_mut() {
        place(cursor, tensor, data)?;
    }
    check_overlaps(cursor, described.values())?;
    Ok(described.into_iter().map(|(name, tensor)| (name, tensor.info)).collect())
}

fn read_one(cursor: &mut Cursor<'_>, alignment: u32) -> Result<Described> {
    let name = read_name(cursor, "tensor name", MAX_NAME_BYTES)?;
    let field = |part| Field { of: &name, part };
    let (shape, elements) = read_shape(cursor, &name)?;

    let at = cursor.position();
    let code = cursor.u32(field("type"))?;
    let Some(dtype) = GgmlType::from_code(code) else {
        return Err(unknown_type(cursor, at, &name, code));
    };
    let (block_len, block_bytes) = (dtype.block_len() as u64, dtype.block_bytes() as u64);
    let row = shape.last().copied().unwrap_or_default() as u64;
    if !row.is_multiple_of(block_len) {
        let expected = format!("a multiple of {block_len}, the block of {dtype}");
        return Err(cursor.fault(at, field("row length"), expected, row.to_string()));
    }

    let offset_at = cursor.position();
    let offset = cursor.u64(field("offset"))?;
    if !offset.is_multiple_of(u64::from(alignment)) {
        let expected = format!("a multiple of {alignment}, the alignment");
        return Err(cursor.fault(offset_at, field("offset"), expected, offset.to_string()));
    }
    let Some(bytes) = (elements / block_len).checked_mul(block_bytes) else {
        let expected = "a size of less than 2^64 bytes";
        return Err(cursor.fault(at, field("dims"), expected, format!("{elements} values of {dtype}")));
    };
    Ok(Described { info: TensorInfo { name, shape, dtype, offset, bytes }, offset_at })
}

/// The dimensions, slowest first, and their product.
fn read_shape(cursor: &mut Cursor<'_>, name: &str) -> Result<(Vec<usize>, u64)> {
    let at = cursor.position();
    let field = Field { of: name, part: "n_dims" };
    let rank = cursor.u32(field)?;
    if !(1..=MAX_DIMS).contains(&rank) {
        return Err(cursor.fault(at, field, format!("1 to {MAX_DIMS}"), rank.to_string()));
    }
    let field = Field { of: name, part: "dims" };
    let at = cursor.position();
    let mut dims = [0u64; MAX_DIMS as usize];
    let dims = &mut dims[..rank as usize];
    for dim in dims.iter_mut() {
        let at = cursor.position();
        *dim = cursor.u64(field)?;
        if *dim == 0 {
            return Err(cursor.fault(at, field, "at least 1", "0"));
        }
    }
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let shape = dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>();
    match (elements, shape) {
        (Some(elements), Some(shape)) if usize::try_from(elements).is_ok() => Ok((shape, elements)),
        _ => {
            let dims = dims.iter().map(u64::to_string).collect::<Vec<_>>().join("×");
            Err(cursor.fault(at, field, format!("a product of less than 2^{}", usize::BITS), dims))
        }
    }
}

/// Turns the offset into one from the start of the file, and checks that the bytes are there.
fn place(cursor: &Cursor<'_>, tensor: &mut Described, data: u64) -> Result<()> {
    let info = &mut tensor.info;
    let start = data.checked_add(info.offset);
    let end = start.and_then(|start| start.checked_add(info.bytes));
    match (start, end) {
        (Some(start), Some(end)) if end <= cursor.source().len() => {
            info.offset = start;
            Ok(())
        }
        _ => Err(cursor.fault(
            tensor.offset_at,
            Field { of: &info.name, part: "offset" },
            format!(
                "{} bytes of data before byte {}, the end of the file",
                info.bytes,
                cursor.source().len()
            ),
            format!("offset {} from byte {data}, where the data starts", info.offset),
        )),
    }
}

/// Walks the tensors by their place in the file and refuses two that share a byte.
fn check_overlaps<'a>(
    cursor: &Cursor<'_>,
    described: impl ExactSizeIterator<Item = &'a Described>,
) -> Result<()> {
    let mut placed = reserve(cursor.source().path(), "tensor places", described.len())?;
    placed.extend(described);
    placed.sort_unstable_by_key(|tensor| (tensor.info.offset, tensor.offset_at));
    for pair in placed.windows(2) {
        let (first, second) = (&pair[0].info, &pair[1].info);
        let end = first.offset + first.bytes;
        if second.offset < end {
            return Err(cursor.fault(
                pair[1].offset_at,
                Field { of: &second.name, part: "offset" },
                format!("data from byte {end}, behind that of {}", quote(&first.name)),
                format!("data from byte {}", second.offset),
            ));
        }
    }
    Ok(())
}

/// The error for a type that is not read: types that exist are called by name, and there is a way out.
fn unknown_type(cursor: &Cursor<'_>, at: u64, name: &str, code: u32) -> Error {
    let readable = GgmlType::ALL.map(GgmlType::name).join(", ");
    let found = match code {
        10 | 11 | 15..=23 | 29 | 34 | 35 => {
            let name = match code {
                10 => "Q2_K",
                11 => "Q3_K",
                15 => "Q8_K",
                34 | 35 => "TQ1_0 or TQ2_0",
                _ => "one of the IQ types",
            };
            format!(
                "{code}, {name}; get the model in Q8_0, or bring it there with llama-quantize --allow-requantize"
            )
        }
        9 => "9, Q8_1".into(),
        24..=27 => format!("{code}, an integer type"),
        28 => "28, F64".into(),
        _ => format!("{code}, which is no type"),
    };
    cursor.fault(at, Field { of: name, part: "type" }, format!("one of {readable}"), found)
}
