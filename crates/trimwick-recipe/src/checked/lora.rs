//! `[lora]`: low-rank adapters in the place of whole weights.

use serde::Serialize;

use crate::raw::{Choice, Count, Globs, Key, Number, Section, SectionSpec};
use crate::resolve::{ToToml, Writer};

static RANK: Key<Count> = Key::default(
    "rank",
    Count { min: 1, max: 1 << 16 },
    "16",
    "The rank of an adapter, at most the smaller side of its weight.",
)
.known_as(&["r", "lora_r"]);
static ALPHA: Key<Number> =
    Key::default("alpha", Number::above(0.0).up_to(1e6), "32.0", "An adapter's factor is alpha / rank.")
        .known_as(&["lora_alpha"]);
static LAYERS: Key<Globs> = Key::default(
    "layers",
    Globs { empty: false },
    "[\"model.layers.*\"]",
    "Which linear layers get an adapter, by dotted path; * matches across dots.",
)
.known_as(&["targets", "target_modules", "include", "modules"]);
static BASE: Key<Choice<Base>> = Key::default(
    "base",
    Choice(&[("f32", Base::F32), ("bf16", Base::Bf16), ("int8", Base::Int8), ("nf4", Base::Nf4)]),
    "\"f32\"",
    "How the frozen weights under the adapters are kept while training.",
)
.known_as(&["base_dtype", "load_in"]);

/// The declaration of `[lora]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[&RANK, &ALPHA, &LAYERS, &BASE],
    foreign: &[
        ("dropout", "adapters here have no dropout; remove it"),
        ("lora_dropout", "adapters here have no dropout; remove it"),
    ],
};

/// Adapters that train in the place of whole weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraSpec {
    /// Rank of an adapter, at least 1.
    pub rank: usize,
    /// Its factor is alpha / rank.
    pub alpha: f64,
    /// Glob patterns over layer paths, at least one.
    pub layers: Vec<String>,
    /// How the weights under the adapters are kept.
    pub base: Base,
}

/// How frozen weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// As they are.
    F32,
    /// 16 bits a weight.
    Bf16,
    /// 8 bits a weight, a scale for each row.
    Int8,
    /// 4 bits a weight, a scale for each 64 of them (QLoRA, arXiv 2305.14314).
    Nf4,
}

impl Base {
    fn name(self) -> &'static str {
        match self {
            Base::F32 => "f32",
            Base::Bf16 => "bf16",
            Base::Int8 => "int8",
            Base::Nf4 => "nf4",
        }
    }
}

impl ToToml for Base {
    fn to_toml(&self) -> String {
        self.name().to_toml()
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<LoraSpec> {
    let rank = section.get(&RANK);
    let alpha = section.get(&ALPHA);
    let layers = section.get(&LAYERS);
    let base = section.get(&BASE);
    section.finish();
    Some(LoraSpec { rank: rank? as usize, alpha: alpha?, layers: layers?, base: base? })
}

impl LoraSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("lora");
        out.put(&RANK, self.rank);
        out.put(&ALPHA, self.alpha);
        out.put(&LAYERS, self.layers.as_slice());
        out.put(&BASE, self.base);
    }
}
