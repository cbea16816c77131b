//! `[[train.groups]]`: parameters that train differently.

use serde::Serialize;

use crate::raw::{Key, Number, OneGlob, Section, SectionSpec};
use crate::resolve::Writer;

static PATTERN: Key<OneGlob> = Key::required(
    "pattern",
    OneGlob { over: "parameter names" },
    "\"*norm*\"",
    "A glob pattern over names of parameters that train: a layer's path and .weight or .bias; .lora_a, .lora_b; learned \
     scales only where it matches nothing but *_log2_scale.",
);
static LR_SCALE: Key<Number> = Key::default(
    "lr_scale",
    Number::from(0.0).up_to(1000.0),
    "1.0",
    "Their learning rate as a multiple of lr.",
);
static WEIGHT_DECAY: Key<Number> = Key::optional(
    "weight_decay",
    Number::from(0.0).up_to(1.0),
    "0.0",
    "train.weight_decay",
    "Their weight decay.",
);

/// The declaration of `[[train.groups]]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[&PATTERN, &LR_SCALE, &WEIGHT_DECAY],
    foreign: &[("lr", "give lr_scale, a multiple of train.lr")],
};

/// Parameters that train differently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParameterGroup {
    /// A glob pattern over parameter names: a layer's path and `.weight` or `.bias`.
    pub pattern: String,
    /// Their learning rate as a multiple of the others', in [0, 1000].
    pub lr_scale: f64,
    /// Their weight decay, in [0, 1], norms and biases included; what the others have where there is none.
    pub weight_decay: Option<f64>,
}

pub(crate) fn read(section: Section<'_>) -> Option<ParameterGroup> {
    let pattern = section.get(&PATTERN);
    let lr_scale = section.get(&LR_SCALE);
    let weight_decay = section.maybe(&WEIGHT_DECAY);
    if !section.has(&LR_SCALE) && !section.has(&WEIGHT_DECAY) {
        section.missing(&LR_SCALE, "lr_scale or weight_decay, what differs in this group".to_string());
    }
    section.finish();
    Some(ParameterGroup { pattern: pattern?, lr_scale: lr_scale?, weight_decay: weight_decay.sound()? })
}

impl ParameterGroup {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.element("train.groups");
        out.put(&PATTERN, &self.pattern);
        out.put(&LR_SCALE, self.lr_scale);
        out.put_some(&WEIGHT_DECAY, self.weight_decay);
    }
}
