//! `[distill]`: the dense model teaches the pruned one.

use serde::Serialize;

use crate::raw::{Key, Number, Section, SectionSpec};
use crate::resolve::Writer;

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

/// The declaration of `[distill]`.
pub(crate) static SPEC: SectionSpec = SectionSpec { keys: &[&WEIGHT, &TEMPERATURE], foreign: &[] };

/// Distillation from the dense twin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DistillSpec {
    /// The share of the divergence in the loss, in (0, 1]; the rest is cross-entropy.
    pub weight: f64,
    /// Divides both models' logits, in (0, 100].
    pub temperature: f64,
}

pub(crate) fn read(section: Section<'_>) -> Option<DistillSpec> {
    let weight = section.get(&WEIGHT);
    let temperature = section.get(&TEMPERATURE);
    section.finish();
    Some(DistillSpec { weight: weight?, temperature: temperature? })
}

impl DistillSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("distill");
        out.put(&WEIGHT, self.weight);
        out.put(&TEMPERATURE, self.temperature);
    }
}
