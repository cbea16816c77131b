//! `[compare]`: control arms that are trained or pruned beside the main one.

use serde::Serialize;

use crate::raw::{At, Choice, Key, Raw, Rule, Section, SectionSpec, Slot, list_of, needless, text_of, twice};
use crate::resolve::{ToToml, Writer};

const ARMS: Choice<Arm> =
    Choice(&[("dense_tuned", Arm::DenseTuned), ("pruned_magnitude", Arm::PrunedMagnitude)]);

/// Arms that every run measures as far as it has them.
const ALWAYS: &[&str] = &["dense", "pruned", "recovered"];

/// A list of arms.
#[derive(Debug)]
struct ArmList;

impl Rule for ArmList {
    type Value = Vec<Arm>;

    fn expected(&self) -> String {
        format!("a list of arms out of {}", ARMS.expected())
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Vec<Arm>> {
        let mut arms = list_of(raw, at, self.expected(), |item, at, before| {
            if let Some(name) = text_of(item).filter(|name| ALWAYS.contains(name)) {
                needless(item, at, format!("the arm {name:?} is measured in every run that has it"));
                return None;
            }
            let arm = ARMS.word(item, at)?;
            if before.contains(&arm) {
                twice(item, at, "arm", arm.name());
                return None;
            }
            Some(arm)
        })?;
        arms.sort();
        Some(arms)
    }
}

static ARM_LIST: Key<ArmList> = Key::optional(
    "arms",
    ArmList,
    "[\"dense_tuned\", \"pruned_magnitude\"]",
    "every arm that the other sections allow",
    "Also measure the dense model trained on the same tokens, and the model pruned once by magnitude.",
)
.known_as(&["controls", "baselines"]);

/// The declaration of `[compare]`.
pub(crate) static SPEC: SectionSpec = SectionSpec { keys: &[&ARM_LIST], foreign: &[] };

/// What the result is compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompareSpec {
    /// The control arms, each at most once, in the order of [`Arm`].
    pub arms: Vec<Arm>,
}

/// A control arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The dense model, trained on the same tokens in the same way but for `[lora]`: all of its weights learn.
    DenseTuned,
    /// The dense model, pruned once by magnitude to the same pattern.
    PrunedMagnitude,
}

impl Arm {
    /// The arm as the recipe and the summary write it.
    pub fn name(self) -> &'static str {
        match self {
            Arm::DenseTuned => "dense_tuned",
            Arm::PrunedMagnitude => "pruned_magnitude",
        }
    }
}

pub(crate) fn read(section: Section<'_>) -> Slot<Vec<Arm>> {
    let arms = section.maybe(&ARM_LIST);
    section.finish();
    arms
}

impl CompareSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("compare");
        out.put(&ARM_LIST, self.arms.as_slice());
    }
}

impl ToToml for Arm {
    fn to_toml(&self) -> String {
        self.name().to_toml()
    }
}
