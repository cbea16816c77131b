//! Where a model can go.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use trimwick_formats::blocks::GgmlType;
use trimwick_formats::safetensors::Dtype;

use crate::{Error, Result};

/// A format that a runtime loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A Hugging Face folder of plain floats, zeros included.
    Hf,
    /// A folder for vLLM, SGLang and transformers.
    CompressedTensors,
    /// A folder for TensorRT-LLM, vLLM and SGLang.
    ModelOpt,
    /// A file for llama.cpp, Ollama, LM Studio and candle.
    Gguf,
    /// A folder for storage and for this program: any code, and of 2:4 weights only what was kept.
    Sparse24,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 5] =
        [Self::Hf, Self::CompressedTensors, Self::ModelOpt, Self::Gguf, Self::Sparse24];

    /// Its name in recipes and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::CompressedTensors => "compressed-tensors",
            Self::ModelOpt => "modelopt",
            Self::Gguf => "gguf",
            Self::Sparse24 => "sparse24",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|target| target.name() == text);
        found.ok_or_else(|| Error::UnknownTarget { found: text.chars().take(64).collect(), known: known() })
    }
}

/// How weights without a quantizer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dense {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
}

impl Dense {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    pub(crate) fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
        }
    }

    /// `torch_dtype` of a configuration.
    pub(crate) fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// A value as it is stored.
    pub(crate) fn rounded(self, v: f32) -> f32 {
        match self {
            Self::F32 => v,
            Self::F16 => half::f16::from_f32(v).to_f32(),
            Self::BF16 => half::bf16::from_f32(v).to_f32(),
        }
    }

    /// Whether a value is stored as it is.
    pub(crate) fn holds(self, v: f32) -> bool {
        self.rounded(v).to_bits() == v.to_bits()
    }
}

/// How a model is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployOptions {
    /// The format.
    pub target: Target,
    /// The type of weights without a quantizer. Norms are always F32 in GGUF.
    pub dense: Dense,
    /// Bytes of tensors in one safetensors file, about: a larger model is written in several.
    pub shard_bytes: u64,
    /// The model's name, for its card and for GGUF.
    pub name: String,
    /// A folder whose tokenizer and generation files are copied.
    pub companions: Option<PathBuf>,
    /// What the card says of the model's making: lines of Markdown.
    pub card: String,
    /// Whether an output of that name may be replaced.
    pub replace: bool,
}

impl DeployOptions {
    /// bf16 for what is not quantized, shards of 5 GB, nothing copied.
    pub fn new(target: Target, name: impl Into<String>) -> Self {
        Self {
            target,
            dense: Dense::BF16,
            shard_bytes: 5_000_000_000,
            name: name.into(),
            companions: None,
            card: String::new(),
            replace: false,
        }
    }
}
