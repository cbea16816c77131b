//! `[data]`: the text a model is trained and measured on.

use serde::Serialize;

use super::chat::{LOSS, TEMPLATE};
use super::file_set::{
    FIELD, FILES, FORMAT, FilePatterns, FileSet, SEPARATOR, TextFormat, is_jsonl, is_parquet, jsonl, parquet,
    read_files,
};
use super::model::builtin;
use crate::error::{FaultKind, Hint};
use crate::raw::{At, Count, Key, Raw, Rule, Section, SectionSpec, Slot, Value, text_of};
use crate::resolve::{ToToml, Writer};

/// The texts that are compiled into the program, as they are named after `builtin:`.
pub const BUILTIN_TEXTS: &[&str] = &["sotu-train", "sotu-eval"];

/// What a text is given as.
const ONE_TEXT: &str = "\"builtin:NAME\", a file or glob pattern, or { files = [\u{2026}] }";

/// Most sources that are mixed.
const SOURCES: usize = 64;

/// A builtin text, a file pattern, a table of files, or a list of such.
pub(super) struct TextRule {
    files: &'static SectionSpec,
    /// Whether several may be mixed.
    mixes: bool,
}

impl Rule for TextRule {
    type Value = ();

    fn expected(&self) -> String {
        if self.mixes { format!("{ONE_TEXT}, or a list of them to mix") } else { ONE_TEXT.to_string() }
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<()> {
        let one = |raw: &Raw| matches!(raw.value, Value::Table(_)) || text_of(raw).is_some();
        match &raw.value {
            Value::List(list) if self.mixes => {
                if !(1..=SOURCES).contains(&list.len()) {
                    at.bad_value(raw, format!("a list of 1 to {SOURCES} sources"));
                    return None;
                }
                let wrong = list.iter().enumerate().filter(|(_, item)| !one(item));
                let found = wrong.map(|(i, item)| at.element(i).wrong_type(item, ONE_TEXT.into())).count();
                (found == 0).then_some(())
            }
            _ if one(raw) => Some(()),
            _ => {
                at.wrong_type(raw, self.expected());
                None
            }
        }
    }

    fn section(&self) -> Option<&'static SectionSpec> {
        Some(self.files)
    }
}

static TRAIN: Key<TextRule> = Key::optional(
    "train",
    TextRule { files: &TRAIN_SPEC, mixes: true },
    "\"builtin:sotu-train\"",
    "nothing trains or calibrates",
    "The text to train and calibrate on; of a list, windows are taken of each source in proportion to its weight.",
)
.known_as(&["dataset", "train_files", "text"]);
static EVAL: Key<TextRule> = Key::required(
    "eval",
    TextRule { files: &EVAL_SPEC, mixes: false },
    "\"builtin:sotu-eval\"",
    "The text every arm is measured on; keep it apart from the training text.",
)
.known_as(&["test", "valid", "validation", "held_out", "eval_files"]);
/// `calibration.data`.
pub(super) static CALIBRATION: Key<TextRule> = Key::optional(
    "data",
    TextRule { files: &EVAL_SPEC, mixes: false },
    "\"builtin:sotu-train\"",
    "windows of data.train",
    "The text that calibration windows are drawn from, if it is another one than what is trained on.",
)
.known_as(&["dataset", "text", "calib_dataset"]);
static CONTEXT: Key<Count> = Key::default(
    "context",
    Count { min: 2, max: 1 << 20 },
    "512",
    "Tokens per window, in training and in measuring.",
)
.known_as(&["seq_len", "max_seq_len", "sequence_length", "block_size", "ctx"]);
static EVAL_TOKENS: Key<Count> = Key::default(
    "eval_tokens",
    Count { min: 0, max: Count::LARGEST },
    "0",
    "Measure on the first so many tokens of the text; 0 for all of them.",
)
.known_as(&["max_eval_tokens"]);

/// The declaration of `[data]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[&TRAIN, &EVAL, &CONTEXT, &EVAL_TOKENS],
    foreign: &[("files", "write data.train = { files = [\"dir/*.txt\"] }")],
};

static WEIGHT: Key<Count> = Key::default(
    "weight",
    Count { min: 1, max: 1000 },
    "1",
    "How many windows are taken of this source, against the others of a list.",
)
.known_as(&["ratio", "share", "probability"]);
/// The declaration of the table `data.train`, and of each of a list.
static TRAIN_SPEC: SectionSpec =
    SectionSpec { keys: &[&FILES, &FORMAT, &FIELD, &SEPARATOR, &LOSS, &TEMPLATE, &WEIGHT], foreign: &[] };
/// The declaration of the tables `data.eval` and `calibration.data`.
static EVAL_SPEC: SectionSpec =
    SectionSpec { keys: &[&FILES, &FORMAT, &FIELD, &SEPARATOR, &LOSS, &TEMPLATE], foreign: &[] };

/// The texts of a recipe and how they are cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataSpec {
    /// What is trained and calibrated on; always given where something is.
    pub train: Option<TextSource>,
    /// What every arm is measured on.
    pub eval: TextSource,
    /// Tokens per window, at least 2.
    pub context: usize,
    /// Measure on the first so many tokens, at least 2; all of them where there is none.
    pub eval_tokens: Option<u64>,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextSource {
    /// One of [`BUILTIN_TEXTS`].
    Builtin(String),
    /// Files.
    Files(FileSet),
    /// Several, at least two; only to train on.
    Mix(Vec<MixedText>),
}

/// One of several texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixedText {
    /// How many windows are taken of it, against the others.
    pub weight: u32,
    /// Not another mix.
    pub text: TextSource,
}

pub(crate) fn read(section: Section<'_>) -> Option<DataSpec> {
    let train = read_train(&section);
    let eval = match read_text(&section, &EVAL) {
        Slot::Absent => {
            section.missing(&EVAL, EVAL.rule.expected());
            None
        }
        eval => eval.given(),
    };
    let context = section.get(&CONTEXT);
    let eval_tokens = section.get(&EVAL_TOKENS);
    if eval_tokens == Some(1) {
        let advice = "the first token of a text has no prediction to score";
        section.conflict(&EVAL_TOKENS, "0 for all, or 2 and more", "1", advice);
    }
    section.finish();
    Some(DataSpec {
        train: train.sound()?,
        eval: eval?,
        context: context? as usize,
        eval_tokens: Some(eval_tokens?).filter(|&tokens| tokens > 0),
    })
}

/// One text, which is no mix.
pub(super) fn read_text(section: &Section<'_>, key: &'static Key<TextRule>) -> Slot<TextSource> {
    let Some(raw) = section.raw(key) else { return Slot::Absent };
    match text_of(raw) {
        Some(text) => Slot::new(named(section, key, raw, text, &section.at(key))),
        None => section.sub(key).and_then(read_files).and_then(files_of),
    }
}

fn read_train(section: &Section<'_>) -> Slot<TextSource> {
    let Some(raw) = section.raw(&TRAIN) else { return Slot::Absent };
    if let Some(text) = text_of(raw) {
        return Slot::new(named(section, &TRAIN, raw, text, &section.at(&TRAIN)));
    }
    let Value::List(list) = &raw.value else {
        return section.sub(&TRAIN).and_then(|files| {
            files.unused(&WEIGHT, "there is one source", "remove it, or write a list of sources");
            files_of(read_files(files)?)
        });
    };
    section.maybe(&TRAIN).and_then(|()| {
        let alone = list.len() == 1;
        let one = |(i, raw): (usize, &Raw)| {
            let Some(text) = text_of(raw) else {
                let files = section.element(&TRAIN, i, &TRAIN_SPEC)?;
                let weight = if alone {
                    files.unused(&WEIGHT, "there is one source", "remove it, or add another source");
                    Some(1)
                } else {
                    files.get(&WEIGHT)
                };
                let text = read_files(files).and_then(files_of);
                return Some(MixedText { weight: u32::try_from(weight?).ok()?, text: text? });
            };
            let text = named(section, &TRAIN, raw, text, &section.at(&TRAIN).element(i))?;
            Some(MixedText { weight: 1, text })
        };
        let read: Vec<Option<MixedText>> = list.iter().enumerate().map(one).collect();
        let mut mix = read.into_iter().collect::<Option<Vec<_>>>()?;
        if alone { mix.pop().map(|only| only.text) } else { Some(TextSource::Mix(mix)) }
    })
}

fn files_of(files: FileSet) -> Option<TextSource> {
    Some(TextSource::Files(files))
}

/// A text that is given as one string.
fn named(
    section: &Section<'_>,
    key: &Key<TextRule>,
    raw: &Raw,
    text: &str,
    at: &At<'_>,
) -> Option<TextSource> {
    if let Some(name) = text.strip_prefix("builtin:") {
        return builtin(section, key, name, BUILTIN_TEXTS).map(TextSource::Builtin);
    }
    if BUILTIN_TEXTS.contains(&text) {
        let hint = Hint::DidYouMean(format!("builtin:{text}"));
        at.report(raw, FaultKind::UnknownWord { expected: key.rule.expected(), found: raw.found(), hint });
        return None;
    }
    let file = FilePatterns::one(raw, at)?;
    let defaults = section.empty(key, key.rule.files);
    let format = match defaults.get(&FIELD)? {
        field if is_jsonl(&file) => jsonl(field),
        field if is_parquet(&file) => parquet(field),
        _ => TextFormat::Text,
    };
    Some(TextSource::Files(FileSet { files: vec![file], format, separator: defaults.get(&SEPARATOR)? }))
}

impl DataSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("data");
        out.put_some(&TRAIN, self.train.as_ref());
        out.put(&EVAL, &self.eval);
        out.put(&CONTEXT, self.context);
        out.put(&EVAL_TOKENS, self.eval_tokens.unwrap_or(0));
    }
}

impl ToToml for TextSource {
    fn to_toml(&self) -> String {
        match self {
            TextSource::Builtin(name) => format!("builtin:{name}").to_toml(),
            TextSource::Files(set) => set.keys().to_toml(),
            TextSource::Mix(mix) => {
                let each = mix.iter().map(|MixedText { weight, text }| match text {
                    TextSource::Files(set) => {
                        let mut keys = set.keys();
                        keys.push((WEIGHT.name, Box::new(u64::from(*weight))));
                        keys.to_toml()
                    }
                    text => text.to_toml(),
                });
                format!("[{}]", each.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl DataSpec {
    /// The sources of the training text with the keys that they stand at: one, or those of a list; none where nothing
    /// trains.
    pub fn sources(&self) -> Vec<(String, &TextSource)> {
        match &self.train {
            None => Vec::new(),
            Some(TextSource::Mix(mix)) => {
                mix.iter().enumerate().map(|(i, mixed)| (format!("data.train.{i}"), &mixed.text)).collect()
            }
            Some(text) => vec![("data.train".into(), text)],
        }
    }
}
