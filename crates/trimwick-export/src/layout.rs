//! Which tensors a packed tensor consists of.

use trimwick_formats::blocks::GgmlType;
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant::{Code, ScaleFormat};
use trimwick_quant::{Granularity, QuantSpec};

use crate::Result;
use crate::store::Store;

/// What a part holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Codes,
    Scales,
    Zeros,
    Global,
    Shape,
}

impl Role {
    /// What is appended to the tensor's name, where the codes do not lie under the name itself.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Codes => "_packed",
            Self::Scales => "_scale",
            Self::Zeros => "_zero_point",
            Self::Global => "_scale_2",
            Self::Shape => "_shape",
        }
    }
}

/// Type and shape of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub role: Role,
    pub suffix: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Slot {
    fn new(role: Role, dtype: Dtype, shape: Vec<usize>) -> Self {
        Self { role, suffix: role.suffix(), dtype, shape }
    }

    /// Its bytes. Every dimension is at most that of the tensor, so this cannot overflow where that did not.
    pub(crate) fn bytes(&self) -> u64 {
        self.dtype.byte_len(&self.shape).unwrap_or(u64::MAX)
    }
}

/// A tensor of at least two dimensions with a grid that it fits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    pub name: String,
    pub spec: QuantSpec,
    pub shape: Vec<usize>,
    pub store: Store,
}

impl Layout {
    /// `shape` is not empty and has no zero.
    ///
    /// # Errors
    /// [`trimwick_quant::Error`] where the grid does not fit.
    pub(crate) fn new(name: &str, shape: &[usize], spec: QuantSpec) -> Result<Self> {
        spec.check_weight(name, shape)?;
        Ok(Self { name: name.into(), spec, shape: shape.to_vec(), store: Store::of(&spec) })
    }

    /// N.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// K.
    pub(crate) fn row(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows() * self.row()
    }

    /// Values that share a scale.
    pub(crate) fn block(&self) -> usize {
        match self.spec.granularity {
            Granularity::Tensor => self.len(),
            Granularity::Channel | Granularity::Token => self.row(),
            Granularity::Group(group) => group,
        }
    }

    /// The scales as a matrix.
    pub(crate) fn scale_shape(&self) -> [usize; 2] {
        match self.spec.granularity {
            Granularity::Tensor => [1, 1],
            _ => [self.rows(), self.row() / self.block()],
        }
    }

    /// The parts, codes first.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let codes = match self.store {
            Store::Own(dtype) => Slot { suffix: "", ..Slot::new(Role::Codes, dtype, self.shape.clone()) },
            store => {
                let dtype = store.dtype();
                let width = store.row_bytes(self.row()) / (dtype.bits() / 8);
                Slot::new(Role::Codes, dtype, vec![self.rows(), width])
            }
        };
        let mut slots = vec![codes];
        if !matches!(self.store, Store::Blocks(_)) {
            let [rows, groups] = self.scale_shape();
            let shape = match self.spec.granularity {
                Granularity::Tensor => vec![1],
                _ => vec![rows, groups],
            };
            let dtype = match self.spec.scale {
                ScaleFormat::F32 => Dtype::F32,
                ScaleFormat::F16 => Dtype::F16,
                ScaleFormat::BF16 => Dtype::BF16,
                ScaleFormat::E4M3 => Dtype::F8_E4M3,
                ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => Dtype::U8,
            };
            slots.push(Slot::new(Role::Scales, dtype, shape));
            if self.spec.asymmetric() {
                let words = Store::words(self.spec.code.bits()).row_bytes(rows) / 4;
                slots.push(Slot::new(Role::Zeros, Dtype::I32, vec![words, groups]));
            }
            if self.spec.has_global() {
                slots.push(Slot::new(Role::Global, Dtype::F32, vec![1]));
            }
        }
        if self.says_shape() {
            slots.push(Slot::new(Role::Shape, Dtype::I64, vec![self.shape.len()]));
        }
        slots
    }

    /// Bytes of codes and scales.
    pub(crate) fn packed_bytes(&self) -> u64 {
        self.slots().iter().filter(|slot| slot.role != Role::Shape).map(Slot::bytes).sum()
    }

    /// Whether the shape is written beside the codes: always where runtimes look for it, else where it is not known
    /// from the codes.
    fn says_shape(&self) -> bool {
        match self.store {
            Store::Own(_) => false,
            Store::Dense { word: 4, .. } => true,
            store => self.shape.len() != 2 || store.row_of(store.row_bytes(self.row())) != self.row(),
        }
    }
}

impl Store {
    /// How the codes of a grid are stored.
    pub(crate) fn of(spec: &QuantSpec) -> Self {
        match (spec.code, spec.scale, spec.granularity) {
            (Code::Int { bits: 8 }, ScaleFormat::F16, Granularity::Group(32)) => Self::Blocks(GgmlType::Q8_0),
            (Code::Int { bits: 4 }, ScaleFormat::F16, Granularity::Group(32)) => Self::Blocks(GgmlType::Q4_0),
            (Code::Int { bits: 8 }, ..) => Self::Own(Dtype::I8),
            (Code::E4M3, ..) => Self::Own(Dtype::F8_E4M3),
            (Code::E5M2, ..) => Self::Own(Dtype::F8_E5M2),
            (Code::Int { .. } | Code::Ternary, ..) => {
                Self::Dense { bits: spec.code.bits(), word: 4, offset: 1 << (spec.code.bits() - 1) }
            }
            (Code::Uint { bits }, ..) => Self::words(bits.into()),
            (Code::E2M1 | Code::E2M3 | Code::E3M2, ..) => {
                Self::Dense { bits: spec.code.bits(), word: 1, offset: 0 }
            }
        }
    }

    /// Unsigned numbers in I32.
    pub(crate) fn words(bits: u32) -> Self {
        Self::Dense { bits, word: 4, offset: 0 }
    }
}
