//! Packed files read back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use trimwick_formats::Error as FormatError;
use trimwick_formats::floats::f32_to_le_bytes;
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, Writer};
use trimwick_quant::{QuantSpec, Scheme};

use crate::files::check_output;
use crate::layout::{Layout, Role};
use crate::packed::{Packed, Wrong, part};
use crate::store::Store;
use crate::{Error, Result, metadata};

/// Dimensions that a tensor can have.
const RANKS: std::ops::RangeInclusive<usize> = 2..=32;

/// A file that [`quantize_file`](crate::quantize_file) wrote, or says so: nothing in it is believed before it is checked.
#[derive(Debug)]
pub struct PackedFile {
    file: SafetensorsFile,
    scheme: Scheme,
    spec: QuantSpec,
    names: BTreeSet<String>,
}

impl PackedFile {
    /// Opens a packed file and reads what it says about itself.
    ///
    /// # Errors
    /// [`Error::NotPacked`]; those of [`SafetensorsFile::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let file = SafetensorsFile::open(path)?;
        let (scheme, spec, names) = metadata::read(&file)?;
        Ok(Self { file, scheme, spec, names: names.into_iter().collect() })
    }

    /// The file itself.
    pub fn file(&self) -> &SafetensorsFile {
        &self.file
    }

    /// The scheme that it was quantized with.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The names of the packed tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// A packed tensor.
    ///
    /// # Errors
    /// [`trimwick_formats::Error`] for a name that is not one of [`names`](Self::names), a part that is missing, of
    /// another type, shape or range than the scheme asks for; [`trimwick_quant::Error`] for a shape that is none of the
    /// scheme.
    pub fn load(&self, name: &str) -> Result<Packed> {
        if !self.names.contains(name) {
            return Err(FormatError::missing(self.file.path(), "packed tensor", name).into());
        }
        let named = |wrong: Wrong| wrong.into_error(self.file.path(), name);
        let layout = Layout::new(name, &self.shape(name)?, self.spec)?;
        let mut parts = Vec::new();
        for slot in layout.slots() {
            let full = format!("{name}{}", slot.suffix);
            let info = self.file.info(&full)?;
            if info.dtype != slot.dtype || info.shape != slot.shape {
                let expected = format!("{} {:?}", slot.dtype, slot.shape);
                let found = format!("{} {:?}", info.dtype, info.shape);
                return Err(named(Wrong::new(slot.role, &expected, &found)));
            }
            parts.push((slot.role, part(&slot, self.file.read_raw(&full)?)));
        }
        Packed::from_parts(layout, parts).map_err(named)
    }

    /// The values of a packed tensor, row-major.
    ///
    /// # Errors
    /// As [`load`](Self::load), and for codes that are not numbers.
    pub fn decode(&self, name: &str) -> Result<Vec<f32>> {
        self.load(name)?.values().map_err(|wrong| wrong.into_error(self.file.path(), name))
    }

    /// The shape of a packed tensor: its codes' own, the one beside them, or the one that their length tells.
    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let wrong = |role, expected: &str, found: String| {
            Wrong::new(role, expected, &found).into_error(self.file.path(), name)
        };
        let store = Store::of(&self.spec);
        let own = matches!(store, Store::Own(_));
        let codes =
            self.file.info(&if own { name.into() } else { format!("{name}{}", Role::Codes.suffix()) })?;
        let beside = format!("{name}{}", Role::Shape.suffix());
        let shape = if own {
            codes.shape.clone()
        } else if let Some(info) = self.file.tensors().get(&beside) {
            if info.dtype != Dtype::I64 || info.shape.len() != 1 || !RANKS.contains(&info.elements()) {
                let found = format!("{} {:?}", info.dtype, info.shape);
                return Err(wrong(Role::Shape, "I64 [2] to [32]", found));
            }
            let dims = self.file.read_raw(&beside)?;
            let dims = dims.as_chunks().0.iter().map(|dim| i64::from_le_bytes(*dim));
            dims.map(|dim| usize::try_from(dim).unwrap_or(0)).collect()
        } else {
            match (codes.dtype, &codes.shape[..]) {
                (Dtype::U8, [rows, width]) => vec![*rows, store.row_of(*width)],
                (dtype, shape) => {
                    return Err(wrong(Role::Codes, "U8 of two dimensions", format!("{dtype} {shape:?}")));
                }
            }
        };
        // A code has at least two bits.
        let most = codes.bytes.saturating_mul(4);
        let values = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim as u64));
        match values {
            Some(n) if n > 0 && n <= most && RANKS.contains(&shape.len()) => Ok(shape),
            _ => {
                let expected = format!("at least two dimensions of 1 to {most} values in all");
                Err(wrong(Role::Shape, &expected, format!("{shape:?}")))
            }
        }
    }
}

/// Writes the values that the codes of a packed file stand for, as F32 under the names they were quantized from: the
/// file that [`quantize_file`](crate::quantize_file) writes with `fake`, byte for byte.
///
/// # Errors
/// As [`PackedFile::decode`]; of writing. Nothing is left behind.
pub fn dequantize_file(input: impl AsRef<Path>, output: impl AsRef<Path>, replace: bool) -> Result<()> {
    let (input, output) = (input.as_ref(), output.as_ref());
    let packed = PackedFile::open(input)?;
    check_output(output, replace, std::iter::once(input))?;
    let mut tensors = Vec::new();
    let mut parts = BTreeSet::new();
    for name in packed.names() {
        let shape = packed.shape(name)?;
        let layout = Layout::new(name, &shape, packed.spec)?;
        parts.extend(layout.slots().iter().map(|slot| format!("{name}{}", slot.suffix)));
        let packed = &packed;
        tensors.push(NewTensor::stream(name, Dtype::F32, &shape, move |out| {
            out.write_all(&f32_to_le_bytes(&packed.decode(name)?))
        }));
    }
    for (name, info) in packed.file.tensors().iter().filter(|(name, _)| !parts.contains(*name)) {
        let file = &packed.file;
        tensors.push(NewTensor::stream(name, info.dtype, &info.shape, move |out| {
            out.write_all(&file.read_raw(name).map_err(Error::from)?)
        }));
    }
    let metadata = metadata::describe(packed.file.metadata().clone(), &packed.scheme, true, packed.names());
    Writer::new(tensors, &metadata)?.save(output)?;
    Ok(())
}
