//! `[export]`: what is written at the end.

use serde::Serialize;

use crate::raw::{Choice, Key, Section, SectionSpec};
use crate::resolve::Writer;

static DTYPE: Key<Choice<ExportDtype>> = Key::optional(
    "dtype",
    Choice(&[("bf16", ExportDtype::BF16), ("f16", ExportDtype::F16), ("f32", ExportDtype::F32)]),
    "\"bf16\"",
    "\"bf16\"; \"f32\" beside [quantize], whose grids 16 bits do not hold",
    "The type of the written weights. They are trained in f32.",
)
.known_as(&["type", "torch_dtype", "precision"]);

/// The declaration of `[export]`.
pub(crate) static SPEC: SectionSpec = SectionSpec { keys: &[&DTYPE], foreign: &[] };

/// How the model is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportSpec {
    /// The type of the written weights.
    pub dtype: ExportDtype,
}

/// The type of the written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    /// bfloat16.
    BF16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision: the weights as they were trained.
    F32,
}

impl ExportDtype {
    /// The type as the recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            ExportDtype::BF16 => "bf16",
            ExportDtype::F16 => "f16",
            ExportDtype::F32 => "f32",
        }
    }
}

pub(crate) fn read(section: Section<'_>, quantized: bool) -> Option<ExportSpec> {
    let dtype = section.maybe(&DTYPE);
    section.finish();
    Some(ExportSpec { dtype: dtype.or(if quantized { ExportDtype::F32 } else { ExportDtype::BF16 })? })
}

impl ExportSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("export");
        out.put(&DTYPE, self.dtype.name());
    }
}
