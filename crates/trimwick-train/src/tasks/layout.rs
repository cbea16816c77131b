//! The file layouts by name.

use super::item::Item;
use super::{arc, choice, hellaswag, json, mmlu, piqa, samples};
use crate::Result;
use crate::data::Input;

/// How a file holds multiple-choice questions. Each is JSON Lines, a question a line, blank lines skipped; keys that are
/// not named here are passed over. MMLU is CSV where the file's name ends in `.csv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `{"query": text, "choices": [texts], "gold": index or letter}`; `context` for `query` and `answer` for `gold` are
    /// understood. `"delimiter"` stands between context and choice; a space where there is none. The text is the prompt.
    Choice,
    /// HellaSwag's `activity_label`, `ctx_a` and `ctx_b` (or `ctx` alone), `endings`, `label`. The prompt is `activity: ctx_a
    /// Ctx_b`, with the traces of WikiHow in brackets taken out.
    HellaSwag,
    /// ARC as published (`question.stem`, `question.choices`) or as on the hub (`question`, `choices.text`,
    /// `choices.label`), with `answerKey`. The prompt is `Question: …⏎Answer:`, the choices are the texts.
    Arc,
    /// PIQA's `goal`, `sol1`, `sol2`, with a `label` in the line or in the line of that number of `NAME-labels.lst` beside
    /// `NAME.jsonl`. The prompt is `Question: …⏎Answer:`, the choices are both solutions.
    Piqa,
    /// MMLU's CSV rows `question,A,B,C,D,letter` or `question`, `choices` (four), `answer`, `subject`. The prompt names
    /// the subject, where the line or the name of the file (`SUBJECT_test.csv`) tells it, and lists the choices with
    /// their letters, which are what is scored.
    Mmlu,
    /// What lm-evaluation-harness logs with `--log_samples`, of any task of multiple choice with one context: `arguments` with a
    /// context and a continuation for each choice, and `target`. The prompt is the one that the harness made, examples included.
    Samples,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Self; 6] =
        [Self::Choice, Self::HellaSwag, Self::Arc, Self::Piqa, Self::Mmlu, Self::Samples];

    /// Its name, such as `hellaswag`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Choice => "choice",
            Self::HellaSwag => "hellaswag",
            Self::Arc => "arc",
            Self::Piqa => "piqa",
            Self::Mmlu => "mmlu",
            Self::Samples => "samples",
        }
    }

    /// The layout of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    /// What a question looks like, for messages.
    pub(super) fn form(self) -> &'static str {
        match self {
            Self::Choice => choice::FORM,
            Self::HellaSwag => hellaswag::FORM,
            Self::Arc => arc::FORM,
            Self::Piqa => piqa::FORM,
            Self::Mmlu => mmlu::FORM,
            Self::Samples => samples::FORM,
        }
    }

    /// The first `limit` questions.
    pub(super) fn items(self, input: &Input, limit: usize) -> Result<Vec<Item>> {
        match self {
            Self::Choice => json::each(input, limit, choice::item),
            Self::HellaSwag => json::each(input, limit, hellaswag::item),
            Self::Arc => json::each(input, limit, arc::item),
            Self::Piqa => piqa::items(input, limit),
            Self::Mmlu => mmlu::items(input, limit),
            Self::Samples => json::each(input, limit, samples::item),
        }
    }
}
