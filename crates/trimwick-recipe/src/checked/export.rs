//! `[export]`: what is written at the end.

use serde::Serialize;

use crate::raw::{At, Choice, Key, Raw, Rule, Section, SectionSpec, list_of, twice};
use crate::resolve::{ToToml, Writer};

static DTYPE: Key<Choice<ExportDtype>> = Key::optional(
    "dtype",
    Choice(&[("bf16", ExportDtype::BF16), ("f16", ExportDtype::F16), ("f32", ExportDtype::F32)]),
    "\"bf16\"",
    "\"bf16\"; \"f32\" beside [quantize], whose grids 16 bits do not hold",
    "The type of the written weights. They are trained in f32.",
)
.known_as(&["type", "torch_dtype", "precision"]);

const TARGETS: Choice<ExportTarget> = Choice(&[
    ("compressed-tensors", ExportTarget::CompressedTensors),
    ("modelopt", ExportTarget::ModelOpt),
    ("gguf", ExportTarget::Gguf),
    ("sparse24", ExportTarget::Sparse24),
]);

/// A list of targets.
#[derive(Debug)]
struct TargetList;

impl Rule for TargetList {
    type Value = Vec<ExportTarget>;

    fn expected(&self) -> String {
        format!("a list of formats out of {}", TARGETS.expected())
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Vec<ExportTarget>> {
        let mut targets = list_of(raw, at, self.expected(), |item, at, before| {
            let target = TARGETS.word(item, at)?;
            if before.contains(&target) {
                twice(item, at, "format", target.name());
                return None;
            }
            Some(target)
        })?;
        targets.sort();
        Some(targets)
    }
}

static TARGET_LIST: Key<TargetList> = Key::optional(
    "targets",
    TargetList,
    "[\"gguf\"]",
    "none: only the folder that transformers reads",
    "Also write the model, as it was trained, in the formats of these runtimes, into the folder `exports` of the run.",
)
.known_as(&["format", "formats", "target"]);

static DENSE: Key<Choice<ExportDtype>> = Key::optional(
    "dense",
    Choice(&[("bf16", ExportDtype::BF16), ("f16", ExportDtype::F16), ("f32", ExportDtype::F32)]),
    "\"bf16\"",
    "\"bf16\"",
    "The type of weights without a quantizer in the formats of `targets`.",
);

/// The declaration of `[export]`.
pub(crate) static SPEC: SectionSpec = SectionSpec { keys: &[&DTYPE, &TARGET_LIST, &DENSE], foreign: &[] };

/// How the model is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportSpec {
    /// The type of the written weights.
    pub dtype: ExportDtype,
    /// Formats in which the model is written too, each at most once, in the order of [`ExportTarget`].
    pub targets: Vec<ExportTarget>,
    /// The type of weights without a quantizer in those formats.
    pub dense: ExportDtype,
}

/// A format of other runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ExportTarget {
    /// vLLM, SGLang, transformers.
    #[serde(rename = "compressed-tensors")]
    CompressedTensors,
    /// TensorRT-LLM, vLLM, SGLang.
    #[serde(rename = "modelopt")]
    ModelOpt,
    /// llama.cpp and what is built on it.
    #[serde(rename = "gguf")]
    Gguf,
    /// Our own 2:4 container.
    #[serde(rename = "sparse24")]
    Sparse24,
}

impl ExportTarget {
    /// The format as the recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            ExportTarget::CompressedTensors => "compressed-tensors",
            ExportTarget::ModelOpt => "modelopt",
            ExportTarget::Gguf => "gguf",
            ExportTarget::Sparse24 => "sparse24",
        }
    }

    /// Whether the format is one of packed weights alone.
    pub(crate) fn needs_quantizers(self) -> bool {
        matches!(self, ExportTarget::CompressedTensors | ExportTarget::ModelOpt)
    }
}

impl ToToml for ExportTarget {
    fn to_toml(&self) -> String {
        self.name().to_toml()
    }
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
    let targets = section.maybe(&TARGET_LIST).or(Vec::new());
    let dense = section.maybe(&DENSE);
    if dense.present() && targets.as_ref().is_some_and(Vec::is_empty) {
        section.unused(&DENSE, "there are no targets", "remove it, or name some in export.targets");
    }
    section.finish();
    Some(ExportSpec {
        dtype: dtype.or(if quantized { ExportDtype::F32 } else { ExportDtype::BF16 })?,
        targets: targets?,
        dense: dense.or(ExportDtype::BF16)?,
    })
}

impl ExportSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("export");
        out.put(&DTYPE, self.dtype.name());
        if !self.targets.is_empty() {
            out.put(&TARGET_LIST, self.targets.as_slice());
            out.put(&DENSE, self.dense.name());
        }
    }
}
