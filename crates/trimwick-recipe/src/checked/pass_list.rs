//! How passes and SmoothQuant's exponent are written.

use crate::error::{FaultKind, Hint};
use crate::raw::{At, Choice, Number, Raw, Rule, Value, list_of, text_of, twice};

/// A pass by its name, in the order in which they can follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PassName {
    SmoothQuant,
    AwqScale,
    SvdQuant,
    AwqClip,
    Gptq,
    BiasCorrection,
}

const NAMES: Choice<PassName> = Choice(&[
    ("smoothquant", PassName::SmoothQuant),
    ("awq-scale", PassName::AwqScale),
    ("svdquant", PassName::SvdQuant),
    ("awq-clip", PassName::AwqClip),
    ("gptq", PassName::Gptq),
    ("bias-correction", PassName::BiasCorrection),
]);

/// Words of other tools, and what to write instead.
const FOREIGN: [(&str, &str); 6] = [
    ("awq", "write \"awq-scale\", \"awq-clip\" or both"),
    ("awq_full", "write \"awq-scale\", \"awq-clip\""),
    ("awq_lite", "write \"awq-scale\""),
    (
        "sparsegpt",
        "it prunes: write prune.method = \"sparsegpt\", and quantize.gptq.joint = true for both in one pass",
    ),
    ("max", "it is no pass: write quantize.range = \"max\""),
    ("mse", "it is no pass: write quantize.range = \"mse\""),
];

impl PassName {
    pub(crate) fn word(self) -> &'static str {
        NAMES.0.iter().find(|(_, name)| *name == self).map_or("", |(word, _)| word)
    }
}

/// A list of passes that can follow each other.
#[derive(Debug)]
pub(crate) struct PassList;

impl Rule for PassList {
    type Value = Vec<PassName>;

    fn expected(&self) -> String {
        format!("a list of passes out of {}, in this order", NAMES.expected())
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Vec<PassName>> {
        list_of(raw, at, self.expected(), |item, at, before| {
            let pass = word(item, at)?;
            follows(before, pass, item, at).then_some(pass)
        })
    }
}

fn word(raw: &Raw, at: &At<'_>) -> Option<PassName> {
    let foreign = text_of(raw).and_then(|text| FOREIGN.iter().find(|(word, _)| *word == text));
    let Some((_, instead)) = foreign else { return NAMES.word(raw, at) };
    let hint = Hint::Instead(instead.to_string());
    at.report(raw, FaultKind::UnknownWord { expected: NAMES.expected(), found: raw.found(), hint });
    None
}

/// Whether a pass can come after those before it.
fn follows(before: &[PassName], pass: PassName, raw: &Raw, at: &At<'_>) -> bool {
    let Some(last) = before.iter().find(|&&other| other >= pass) else { return true };
    if *last == pass {
        twice(raw, at, "pass", pass.word());
        return false;
    }
    let kind = FaultKind::Conflict {
        expected: format!("{:?} before {:?}", pass.word(), last.word()),
        found: "them the other way round".to_string(),
        advice: format!("keep to the order {}", NAMES.expected().replace(" or ", ", ")),
    };
    at.report(raw, kind);
    false
}

/// A number from 0 to 1, or `None` for "search".
#[derive(Debug)]
pub(crate) struct AlphaRule;

impl Rule for AlphaRule {
    type Value = Option<f64>;

    fn expected(&self) -> String {
        "a number from 0 up to 1, or \"search\"".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Option<f64>> {
        match (&raw.value, text_of(raw)) {
            (Value::Text(_), Some("search")) => Some(None),
            (Value::Text(_), _) => {
                at.bad_value(raw, self.expected());
                None
            }
            (Value::Whole(_) | Value::Real(_) | Value::Huge(_), _) => {
                Number::from(0.0).up_to(1.0).read(raw, at).map(Some)
            }
            _ => {
                at.wrong_type(raw, self.expected());
                None
            }
        }
    }
}
