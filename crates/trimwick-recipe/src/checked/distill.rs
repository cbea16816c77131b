//! `[distill]`: the dense model teaches the pruned one.

use serde::Serialize;

use crate::raw::{Choice, Key, Number, Section, SectionSpec};
use crate::resolve::{ToToml, Writer};

static TEACHER: Key<Choice<Teacher>> = Key::default(
    "teacher",
    Choice(&[("dense", Teacher::Dense), ("dense_tuned", Teacher::DenseTuned)]),
    "\"dense\"",
    "Who teaches: the dense model as it was loaded, or after training on the same tokens.",
);

static WEIGHT: Key<Number> = Key::default(
    "weight",
    Number::above(0.0).up_to(1.0),
    "0.5",
    "The loss is weight x divergence from the dense model + (1 - weight) x cross-entropy.",
)
.known_as(&["alpha", "kd_weight"]);
static TEMPERATURE: Key<Number> = Key::default(
    "temperature",
    Number::above(0.0).up_to(100.0),
    "1.0",
    "Both models' logits are divided by it; above 1, unlikely tokens count more.",
)
.known_as(&["temp", "tau"]);
static FEATURES: Key<Number> = Key::default(
    "features",
    Number::from(0.0).up_to(1e6),
    "0.0",
    "Adds so many times the relative error of the blocks' outputs to the loss; 1 is a good value.",
)
.known_as(&["hidden", "squarehead", "feature_weight"]);

static STORAGE: Key<Choice<Storage>> = Key::default(
    "storage",
    Choice(&[("f32", Storage::F32), ("bf16", Storage::Bf16)]),
    "\"f32\"",
    "How the teacher's weights are kept: bf16 takes half, and is exact for a model that came in bf16.",
)
.known_as(&["dtype", "teacher_dtype"]);

/// The declaration of `[distill]`.
pub(crate) static SPEC: SectionSpec =
    SectionSpec { keys: &[&TEACHER, &WEIGHT, &TEMPERATURE, &FEATURES, &STORAGE], foreign: &[] };

/// Distillation from the dense twin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DistillSpec {
    /// Who teaches.
    pub teacher: Teacher,
    /// The share of the divergence in the loss, in (0, 1]; the rest is cross-entropy.
    pub weight: f64,
    /// Divides both models' logits, in (0, 100].
    pub temperature: f64,
    /// Factor on the relative error of the blocks' outputs, at least 0.
    pub features: f64,
    /// How the teacher's weights are kept.
    pub storage: Storage,
}

/// How a teacher's weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As they are computed with.
    F32,
    /// In 16 bits, expanded at each use.
    Bf16,
}

impl ToToml for Storage {
    fn to_toml(&self) -> String {
        match self {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
        }
        .to_toml()
    }
}

/// Who teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Teacher {
    /// The dense model as it was loaded.
    Dense,
    /// The dense twin after training on the same tokens: it knows the text's domain.
    DenseTuned,
}

impl Teacher {
    /// The teacher as the recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Teacher::Dense => "dense",
            Teacher::DenseTuned => "dense_tuned",
        }
    }
}

impl ToToml for Teacher {
    fn to_toml(&self) -> String {
        self.name().to_toml()
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<DistillSpec> {
    let teacher = section.get(&TEACHER);
    let weight = section.get(&WEIGHT);
    let temperature = section.get(&TEMPERATURE);
    let features = section.get(&FEATURES);
    let storage = section.get(&STORAGE);
    section.finish();
    Some(DistillSpec {
        teacher: teacher?,
        weight: weight?,
        temperature: temperature?,
        features: features?,
        storage: storage?,
    })
}

impl DistillSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("distill");
        out.put(&TEACHER, self.teacher);
        out.put(&WEIGHT, self.weight);
        out.put(&TEMPERATURE, self.temperature);
        out.put(&FEATURES, self.features);
        out.put(&STORAGE, self.storage);
    }
}
