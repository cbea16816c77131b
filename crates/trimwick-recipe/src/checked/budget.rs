//! `[quantize.budget]`: a scheme for each layer, chosen under a budget.

use serde::Serialize;

use super::quantize_rules::{SchemeRule, Wanted};
use crate::error::FaultKind;
use crate::raw::{At, Choice, Count, Key, Number, Raw, Rule, Section, SectionSpec, Slot, Value};
use crate::resolve::{ToToml, Writer};

static BITS: Key<Number> = Key::optional(
    "bits",
    Number::above(0.0).up_to(32.0),
    "5.0",
    "quantize.budget.bytes",
    "Bits that each weight of quantize.layers may take on average, scales counted.",
)
.known_as(&["effective_bits", "effective-bits"]);
static BYTES: Key<Count> = Key::optional(
    "bytes",
    Count { min: 1, max: Count::LARGEST },
    "80000000",
    "quantize.budget.bits",
    "Bytes that those weights may take in all, scales counted.",
);
static CANDIDATES: Key<SchemeList> = Key::required(
    "candidates",
    SchemeList,
    "[\"int4-g64\", \"int4-g32\", \"int8-weight\"]",
    "The schemes to choose from. Layers that share an input take the same.",
)
.known_as(&["quantization_formats", "formats", "schemes"]);
static SCORE: Key<Choice<Score>> = Key::default(
    "score",
    Choice(&[("gradient", Score::Gradient), ("kl", Score::Kl)]),
    "\"gradient\"",
    "What a scheme is thought to cost: from gradients of the loss, or from the predictions with one group of layers quantized \
     at a time, which takes a pass over the calibration windows for each group and candidate.",
)
.known_as(&["method", "score_func"]);

/// The declaration of `[quantize.budget]`.
pub(crate) static SPEC: SectionSpec =
    SectionSpec { keys: &[&BITS, &BYTES, &CANDIDATES, &SCORE], foreign: &[] };

/// Schemes under a budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetSpec {
    /// What the weights may take, scales counted.
    pub limit: BudgetLimit,
    /// The schemes to choose from, at least two.
    pub candidates: Vec<Wanted>,
    /// Where their scores come from.
    pub score: Score,
}

/// What the weights may take, scales counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetLimit {
    /// Bits for each weight on average.
    Bits(f64),
    /// Bytes in all.
    Bytes(u64),
}

/// Where the scores of schemes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Gradients of the loss.
    Gradient,
    /// The Kullback–Leibler divergence of the predictions.
    Kl,
}

impl Score {
    /// The score as the recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Score::Gradient => "gradient",
            Score::Kl => "kl",
        }
    }
}

/// Two or more schemes that quantize weights.
#[derive(Debug)]
struct SchemeList;

impl Rule for SchemeList {
    type Value = Vec<Wanted>;

    fn expected(&self) -> String {
        "a list of two or more schemes that quantize weights".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Vec<Wanted>> {
        let Value::List(list) = &raw.value else {
            at.wrong_type(raw, self.expected());
            return None;
        };
        let mut schemes: Vec<Wanted> = Vec::with_capacity(list.len());
        let mut sound = true;
        for (i, item) in list.iter().enumerate() {
            let at = at.element(i);
            match SchemeRule.read(item, &at) {
                Some(wanted) if wanted.scheme.is_none_or(|scheme| scheme.weight.is_none()) => {
                    at.bad_value(item, "a scheme that quantizes weights".to_string());
                    sound = false;
                }
                Some(wanted) if schemes.iter().any(|other| other.scheme == wanted.scheme) => {
                    let why = format!("the scheme {:?} is in the list already", wanted.text);
                    at.report(item, FaultKind::NoEffect { why, advice: "leave it out of the list".into() });
                    sound = false;
                }
                Some(wanted) => schemes.push(wanted),
                None => sound = false,
            }
        }
        if sound && schemes.len() < 2 {
            at.bad_value(raw, self.expected());
            return None;
        }
        sound.then_some(schemes)
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<BudgetSpec> {
    let (bits, bytes) = (section.maybe(&BITS), section.maybe(&BYTES));
    let limit = match (bits, bytes) {
        (Slot::Absent, Slot::Absent) => {
            section.missing(&BITS, "bits, or bytes, what the weights may take".to_string());
            None
        }
        (Slot::Given(bits), Slot::Given(_)) => {
            let found = format!("{bits:?} beside bytes");
            section.conflict(&BITS, "one of bits and bytes", found, "remove one of them");
            None
        }
        (Slot::Given(bits), Slot::Absent) => Some(BudgetLimit::Bits(bits)),
        (Slot::Absent, Slot::Given(bytes)) => Some(BudgetLimit::Bytes(bytes)),
        _ => None,
    };
    let (candidates, score) = (section.get(&CANDIDATES), section.get(&SCORE));
    section.finish();
    Some(BudgetSpec { limit: limit?, candidates: candidates?, score: score? })
}

impl BudgetSpec {
    /// The key of the limit.
    pub(crate) fn limit_key(&self) -> &'static str {
        match self.limit {
            BudgetLimit::Bits(_) => "quantize.budget.bits",
            BudgetLimit::Bytes(_) => "quantize.budget.bytes",
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("quantize.budget");
        match self.limit {
            BudgetLimit::Bits(bits) => out.put(&BITS, bits),
            BudgetLimit::Bytes(bytes) => out.put(&BYTES, bytes),
        }
        let texts: Vec<&dyn ToToml> = self.candidates.iter().map(|wanted| wanted as &dyn ToToml).collect();
        out.put(&CANDIDATES, texts.as_slice());
        out.put(&SCORE, self.score.name());
    }
}
