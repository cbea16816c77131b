//! A tensor as it lies in a packed file.

use std::io::{self, Write};
use std::ops::Range;

use trimwick_formats::floats::f32_from_le_bytes;
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant as kernels;
use trimwick_quant::{QuantSpec, Quantized};

use crate::layout::{Layout, Role, Slot};
use crate::scales::{Scales, pack_zeros, unpack_zeros};
use crate::store::Store;
use crate::{Error, Result};

/// Values that are worked on at a time, about: enough for every core, little beside the tensor itself.
const PIECE: usize = 1 << 20;

/// One of the tensors of which a packed tensor consists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What follows the tensor's name: `_packed`, `_scale` …, nothing.
    pub suffix: &'static str,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Little-endian, row-major.
    pub bytes: Vec<u8>,
}

/// A tensor as it lies in a packed file: the bytes of codes and scales, and what they mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    layout: Layout,
    parts: Vec<(Role, Part)>,
    /// Read from the parts.
    scales: Scales,
}

impl Packed {
    /// Packs values of `shape`, at least two dimensions and none of them 0, row-major. `name` stands in errors.
    ///
    /// # Errors
    /// A shape that the quantizer cannot take; NaN or infinity.
    pub fn pack(name: &str, values: &[f32], shape: &[usize], spec: &QuantSpec) -> Result<Self> {
        Self::of(name, &spec.quantize(name, values, shape)?)
    }

    /// Packs codes and scales that are there already, such as a trained layer's; see [`trimwick_quant::quantized`].
    ///
    /// # Errors
    /// A shape that the quantizer cannot take.
    pub fn of(name: &str, quantized: &Quantized) -> Result<Self> {
        let layout = Layout::new(name, &quantized.shape, quantized.spec)?;
        let scales = Scales {
            scales: quantized.scales.clone(),
            zeros: quantized.zeros.clone(),
            global: quantized.global,
        };
        let bytes = |slot: &Slot| match slot.role {
            Role::Codes => layout.store.pack(&mut quantized.codes.clone(), layout.row(), &scales.scales),
            role => small(&layout, role, &scales),
        };
        let parts = layout.slots().into_iter().map(|slot| (slot.role, part(&slot, bytes(&slot)))).collect();
        // From the bytes, as every other reader.
        Self::from_parts(layout, parts).map_err(|wrong| wrong.into_error("packed tensor".as_ref(), name))
    }

    /// A tensor from the parts of its layout, in any order.
    pub(crate) fn from_parts(layout: Layout, parts: Vec<(Role, Part)>) -> Result<Self, Wrong> {
        let bytes = |role: Role| parts.iter().find(|(r, _)| *r == role).map(|(_, part)| &part.bytes[..]);
        let need = |role: Role| bytes(role).ok_or_else(|| Wrong::new(role, "a tensor", "none"));
        let spec = &layout.spec;
        let mut global = [1f32];
        if spec.has_global() {
            // The slot has one element.
            let read = f32_from_le_bytes(need(Role::Global)?, &mut global);
            if read.is_err() || !(global[0].is_finite() && global[0] > 0.) {
                let found = global[0].to_string();
                return Err(Wrong::new(Role::Global, "a positive number", &found));
            }
        }
        let heads;
        let stored = match layout.store {
            Store::Blocks(ggml) => {
                let blocks = need(Role::Codes)?.chunks_exact(ggml.block_bytes());
                heads = blocks.flat_map(|block| [block[0], block[1]]).collect::<Vec<u8>>();
                &heads
            }
            _ => need(Role::Scales)?,
        };
        let scales = Scales::read(stored, spec.scale, global[0]).map_err(|index| {
            Wrong::new(Role::Scales, "positive numbers", &format!("another at element {index}"))
        })?;
        let zeros = match spec.asymmetric() {
            true => Some(unpack_zeros(need(Role::Zeros)?, layout.scale_shape(), spec.code.bits())),
            false => None,
        };
        need(Role::Codes)?;
        Ok(Self { scales: Scales { scales, zeros, global: global[0] }, layout, parts })
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.layout.name
    }

    /// The grid.
    pub fn spec(&self) -> &QuantSpec {
        &self.layout.spec
    }

    /// Shape of the tensor that was packed.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// The tensors that stand for it in a file.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().map(|(_, part)| part)
    }

    /// The values that the bytes stand for, row-major.
    ///
    /// # Errors
    /// [`trimwick_formats::Error`], for bytes of another's: codes that are not numbers.
    pub fn decode(&self) -> Result<Vec<f32>> {
        self.values().map_err(|wrong| wrong.into_error("packed tensor".as_ref(), &self.layout.name))
    }

    /// The same, for those who know the file.
    pub(crate) fn values(&self) -> Result<Vec<f32>, Wrong> {
        let mut values = vec![0.; self.layout.len()];
        for rows in pieces(&self.layout) {
            let range = rows.start * self.layout.row()..rows.end * self.layout.row();
            self.decode_rows(rows, &mut values[range]);
        }
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let found = format!("{} at element {index}", values[index]);
                Err(Wrong::new(Role::Codes, "codes of finite numbers", &found))
            }
        }
    }

    /// Codes and scales, as [`trimwick_quant`] has them.
    pub fn unpack(&self) -> Quantized {
        let mut codes = vec![0; self.layout.len()];
        self.layout.store.unpack(self.codes(), self.layout.row(), &mut codes);
        Quantized {
            spec: self.layout.spec,
            shape: self.layout.shape.clone(),
            block: self.layout.block(),
            codes,
            scales: self.scales.scales.clone(),
            zeros: self.scales.zeros.clone(),
            global: self.scales.global,
        }
    }

    /// The values of some rows, which are whatever the bytes say.
    pub(crate) fn decode_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        let (store, width) = (self.layout.store, self.layout.store.row_bytes(self.layout.row()));
        let bytes = &self.codes()[rows.start * width..rows.end * width];
        let mut unpacked = Vec::new();
        let codes = match store {
            Store::Own(_) => bytes,
            _ => {
                unpacked.resize(values.len(), 0);
                store.unpack(bytes, self.layout.row(), &mut unpacked);
                &unpacked
            }
        };
        let s = self.scales.rows(&self.layout, rows);
        kernels::decode(self.layout.spec.grid(), codes, s.block, s.scales, s.zeros, values);
    }

    fn codes(&self) -> &[u8] {
        // There since the parts were checked.
        self.parts.iter().find(|(role, _)| *role == Role::Codes).map_or(&[], |(_, part)| &part.bytes)
    }
}

/// What is wrong with a part.
#[derive(Debug)]
pub(crate) struct Wrong {
    role: Role,
    expected: String,
    found: String,
}

impl Wrong {
    pub(crate) fn new(role: Role, expected: &str, found: &str) -> Self {
        Self { role, expected: expected.into(), found: found.into() }
    }

    /// The same of tensor `name` in a file.
    pub(crate) fn into_error(self, path: &std::path::Path, name: &str) -> Error {
        let at = trimwick_formats::Location::Tensor(name.into());
        let field = format!("{} part", &self.role.suffix()[1..]);
        Error::Format(trimwick_formats::Error::malformed(path, at, field, self.expected, self.found))
    }
}

/// The part of a slot.
pub(crate) fn part(slot: &Slot, bytes: Vec<u8>) -> Part {
    Part { suffix: slot.suffix, dtype: slot.dtype, shape: slot.shape.clone(), bytes }
}

/// Rows, cut into pieces that fit the cache of no one but the memory of everyone.
pub(crate) fn pieces(layout: &Layout) -> impl Iterator<Item = Range<usize>> {
    let (rows, step) = (layout.rows(), (PIECE / layout.row().max(1)).max(1));
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

/// Writes one part of a tensor of these values and scales.
///
/// # Errors
/// Of `out`.
pub(crate) fn write_part(
    layout: &Layout,
    role: Role,
    values: &[f32],
    scales: &Scales,
    out: &mut dyn Write,
) -> io::Result<()> {
    if role != Role::Codes {
        return out.write_all(&small(layout, role, scales));
    }
    let mut codes = Vec::new();
    for rows in pieces(layout) {
        let values = &values[rows.start * layout.row()..rows.end * layout.row()];
        codes.resize(values.len(), 0);
        let s = scales.rows(layout, rows);
        kernels::encode(layout.spec.grid(), values, s.block, s.scales, s.zeros, &mut codes);
        out.write_all(&layout.store.pack(&mut codes, layout.row(), s.scales))?;
    }
    Ok(())
}

/// The bytes of any part but the codes.
pub(crate) fn small(layout: &Layout, role: Role, scales: &Scales) -> Vec<u8> {
    match role {
        Role::Codes => Vec::new(),
        Role::Scales => scales.to_bytes(layout.spec.scale),
        Role::Zeros => {
            let zeros = scales.zeros.as_deref().unwrap_or_default();
            pack_zeros(zeros, layout.scale_shape(), layout.spec.code.bits())
        }
        Role::Global => scales.global.to_le_bytes().to_vec(),
        Role::Shape => layout.shape.iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect(),
    }
}
