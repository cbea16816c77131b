//! Weights as codes and scales, for products that read them as they are stored.

use trimwick_kernels::packed::{Element, Groups, Packed};

use crate::names::unpermute_rows;

/// A weight `[rows, cols]` in the values it is stored with.
#[derive(Debug, Clone)]
pub(crate) enum Coded {
    /// Codes under scales.
    Codes(Codes),
    /// The bits of half precision.
    F16(Vec<u16>),
    /// The bits of bfloat16.
    Bf16(Vec<u16>),
    /// Plain floats of 32 bits.
    F32(Vec<f32>),
    /// The values of what is stored in a form that products do not take.
    Decoded(Vec<f32>),
}

/// Codes `[rows, cols]`, one to a byte, with what turns them into numbers.
#[derive(Debug, Clone)]
pub(crate) struct Codes {
    pub(crate) element: Element,
    pub(crate) codes: Vec<u8>,
    /// Inputs that share a scale.
    pub(crate) group: usize,
    /// `[rows, groups]`, as are zero points and minima.
    pub(crate) scales: Vec<f32>,
    pub(crate) zeros: Option<Vec<u8>>,
    pub(crate) minima: Option<Vec<f32>>,
    /// What NVFP4's scales are multiples of.
    pub(crate) global: Option<f32>,
}

/// Scales beyond this could overflow with a code; no model has them.
const LARGEST: f32 = 1e35;

impl Codes {
    /// The rows of a `llama` GGUF file in Hugging Face's order.
    pub(crate) fn unpermuted(self, heads: usize, rows: usize, cols: usize) -> Self {
        let groups = self.scales.len() / rows.max(1);
        Self {
            codes: unpermute_rows(&self.codes, heads, cols),
            scales: unpermute_rows(&self.scales, heads, groups),
            zeros: self.zeros.map(|zeros| unpermute_rows(&zeros, heads, groups)),
            minima: self.minima.map(|minima| unpermute_rows(&minima, heads, groups)),
            ..self
        }
    }

    /// What is no number that one can compute with.
    fn fault(&self) -> Option<String> {
        let numbers = self.scales.iter().chain(self.minima.iter().flatten());
        if let Some(bad) = numbers.into_iter().find(|s| s.is_nan() || s.abs() >= LARGEST) {
            return Some(format!("a scale of {bad}"));
        }
        let nan = self.element == Element::E4M3 && self.codes.iter().any(|code| code & 0x7f == 0x7f);
        nan.then(|| "the code of NaN".into())
    }
}

impl Coded {
    /// What is no number that one can compute with, if there is such a thing.
    pub(crate) fn fault(&self) -> Option<String> {
        let bits = |values: &[u16], exponent: u16| {
            let at = values.iter().position(|v| v & exponent == exponent);
            at.map(|at| format!("NaN or infinity at element {at}"))
        };
        match self {
            Self::Codes(codes) => codes.fault(),
            Self::F16(values) => bits(values, 0x7c00),
            Self::Bf16(values) => bits(values, 0x7f80),
            Self::F32(values) | Self::Decoded(values) => {
                let bad = values.iter().position(|v| !v.is_finite());
                bad.map(|at| format!("{} at element {at}", values[at]))
            }
        }
    }

    /// The weight in the layout of its products; of 2:4 codes what is not zero.
    pub(crate) fn pack(self, rows: usize, cols: usize) -> Packed {
        match self {
            Self::Codes(codes) => {
                let groups = Groups {
                    size: codes.group,
                    scales: &codes.scales,
                    zeros: codes.zeros.as_deref(),
                    minima: codes.minima.as_deref(),
                    global: codes.global,
                };
                let Codes { element, codes, .. } = &codes;
                Packed::kept(*element, codes, rows, cols, &groups)
                    .unwrap_or_else(|| Packed::dense(*element, codes, rows, cols, &groups))
            }
            Self::F16(values) => Packed::f16(&values, rows, cols),
            Self::Bf16(values) => Packed::bf16(&values, rows, cols),
            Self::F32(values) | Self::Decoded(values) => Packed::f32(&values, rows, cols),
        }
    }
}

/// Whether products can take groups of this size in rows of `cols`.
pub(crate) fn fits(group: usize, cols: usize) -> bool {
    group >= cols || group > 0 && group.is_multiple_of(16)
}
