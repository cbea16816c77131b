//! `[data]`: the text a model is trained and measured on.

use serde::Serialize;

use super::chat::{self, ChatSpec, LOSS, TEMPLATE};
use super::model::builtin;
use crate::error::{FaultKind, Hint};
use crate::raw::{At, Choice, Count, Key, Raw, Rule, Section, SectionSpec, Slot, Text, Value, text_of};
use crate::resolve::{ToToml, Writer};

/// The texts that are compiled into the program, as they are named after `builtin:`.
pub const BUILTIN_TEXTS: &[&str] = &["sotu-train", "sotu-eval"];

/// Most sources that are mixed.
const SOURCES: usize = 64;

/// A builtin text, a file pattern, a table of files, or a list of such.
#[derive(Debug)]
struct TextRule {
    files: &'static SectionSpec,
    /// Whether several may be mixed.
    mixes: bool,
}

impl Rule for TextRule {
    type Value = ();

    fn expected(&self) -> String {
        let one = "\"builtin:NAME\", a file or glob pattern, or { files = [\u{2026}] }";
        if self.mixes { format!("{one}, or a list of them to mix") } else { one.to_string() }
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
                let expected = "\"builtin:NAME\", a file or glob pattern, or { files = [\u{2026}] }";
                let found = wrong.map(|(i, item)| at.element(i).wrong_type(item, expected.into())).count();
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

/// One file or glob pattern, or a list of them.
#[derive(Debug)]
struct FilePatterns;

impl FilePatterns {
    fn one(raw: &Raw, at: &At<'_>) -> Option<String> {
        let Some(text) = text_of(raw) else {
            at.wrong_type(raw, "a file or a glob pattern, a string".to_string());
            return None;
        };
        if text.is_empty() || text.len() > 4096 || text.contains('\0') {
            at.bad_value(raw, "a file or a glob pattern of 1 to 4096 bytes".to_string());
            return None;
        }
        match glob::Pattern::new(text) {
            Ok(_) => Some(text.to_string()),
            Err(error) => {
                at.bad_value(raw, format!("a glob pattern (at byte {}: {})", error.pos, error.msg));
                None
            }
        }
    }
}

impl Rule for FilePatterns {
    type Value = Vec<String>;

    fn expected(&self) -> String {
        "a list of files and glob patterns".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Vec<String>> {
        match &raw.value {
            Value::List(list) if !list.is_empty() => {
                let read: Vec<_> =
                    list.iter().enumerate().map(|(i, item)| Self::one(item, &at.element(i))).collect();
                read.into_iter().collect()
            }
            Value::List(_) => {
                at.bad_value(raw, self.expected());
                None
            }
            _ if text_of(raw).is_some() => Some(vec![Self::one(raw, at)?]),
            _ => {
                at.wrong_type(raw, self.expected());
                None
            }
        }
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

#[derive(Debug, Clone, Copy)]
enum Format {
    Text,
    Jsonl,
    Chat,
}

static FILES: Key<FilePatterns> = Key::required(
    "files",
    FilePatterns,
    "[\"data/*.txt\"]",
    "Files and glob patterns, from the current directory; those of one pattern are read in the order of their names.",
)
.known_as(&["file", "path", "paths", "glob"]);
static FORMAT: Key<Choice<Format>> = Key::optional(
    "format",
    Choice(&[("text", Format::Text), ("jsonl", Format::Jsonl)]),
    "\"text\"",
    "\"jsonl\" where every pattern ends in .jsonl, \"text\" where none does",
    "One document per file, or one per line as a JSON object.",
)
.known_as(&["type"]);
static TRAIN_FORMAT: Key<Choice<Format>> = Key::optional(
    "format",
    Choice(&[("text", Format::Text), ("jsonl", Format::Jsonl), ("chat", Format::Chat)]),
    "\"text\"",
    "\"jsonl\" where every pattern ends in .jsonl, \"text\" where none does",
    "One document per file, or one per line as a JSON object; or a conversation per line: messages, Alpaca or ShareGPT.",
)
.known_as(&["type"]);
static FIELD: Key<Text> = Key::default(
    "field",
    Text { what: "the name of a JSON field", allowed: |text| !text.is_empty() },
    "\"text\"",
    "The field of each JSON object that holds the text. Only with format \"jsonl\".",
)
.known_as(&["column", "text_field", "key"]);
static WEIGHT: Key<Count> = Key::default(
    "weight",
    Count { min: 1, max: 1000 },
    "1",
    "How many windows are taken of this source, against the others of a list.",
)
.known_as(&["ratio", "share", "probability"]);
static SEPARATOR: Key<Text> = Key::default(
    "separator",
    Text::any("the text between two documents"),
    "\"\\n\\n\"",
    "Put between two documents, before they are cut into tokens.",
)
.known_as(&["sep", "join"]);

/// The declaration of the table `data.train`, and of each of a list.
static TRAIN_SPEC: SectionSpec = SectionSpec {
    keys: &[&FILES, &TRAIN_FORMAT, &FIELD, &SEPARATOR, &LOSS, &TEMPLATE, &WEIGHT],
    foreign: &[],
};
/// The declaration of the table `data.eval`.
static EVAL_SPEC: SectionSpec =
    SectionSpec { keys: &[&FILES, &FORMAT, &FIELD, &SEPARATOR], foreign: &[] };

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

/// Files that make up one text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileSet {
    /// Files and glob patterns relative to the current directory, at least one; see [`FileSet::expand`].
    pub files: Vec<String>,
    /// What each file holds.
    pub format: TextFormat,
    /// Put between two documents.
    pub separator: String,
}

/// What a file of text holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    /// One document, in UTF-8.
    Text,
    /// One JSON object per line.
    Jsonl {
        /// The field that holds the text.
        field: String,
    },
    /// One conversation per line, as a JSON object; only to train on.
    Chat(ChatSpec),
}

pub(crate) fn read(section: Section<'_>) -> Option<DataSpec> {
    let train = read_train(&section);
    let eval = match read_eval(&section) {
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

fn read_eval(section: &Section<'_>) -> Slot<TextSource> {
    let Some(raw) = section.raw(&EVAL) else { return Slot::Absent };
    match text_of(raw) {
        Some(text) => Slot::new(named(section, &EVAL, raw, text, &section.at(&EVAL))),
        None => section.sub(&EVAL).and_then(|files| read_files(files, &FORMAT)).and_then(files_of),
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
            files_of(read_files(files, &TRAIN_FORMAT)?)
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
                let text = read_files(files, &TRAIN_FORMAT).and_then(files_of);
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
    let format = if is_jsonl(&file) { jsonl(defaults.get(&FIELD)?) } else { TextFormat::Text };
    Some(TextSource::Files(FileSet { files: vec![file], format, separator: defaults.get(&SEPARATOR)? }))
}

fn read_files(section: Section<'_>, key: &Key<Choice<Format>>) -> Option<FileSet> {
    let trains = key.rule.0.len() > FORMAT.rule.0.len();
    let files = section.get(&FILES);
    let format = match (section.maybe(key), &files) {
        (Slot::Given(format), _) => Some(format),
        (Slot::Absent, Some(files)) if files.iter().all(|file| is_jsonl(file)) => Some(Format::Jsonl),
        (Slot::Absent, Some(files)) if files.iter().any(|file| is_jsonl(file)) => {
            section.missing(key, "one format for files that look like both".to_string());
            None
        }
        (Slot::Absent, Some(_)) => Some(Format::Text),
        _ => None,
    };
    let is_chat = matches!(format, Some(Format::Chat));
    if trains && !is_chat && format.is_some() {
        chat::none(&section);
    }
    let spec = if trains && (is_chat || format.is_none()) { chat::read(&section) } else { None };
    let separator = if is_chat {
        let (why, advice) = ("conversations are kept apart", "remove it");
        section.unused(&SEPARATOR, why, advice);
        Some(String::new())
    } else {
        section.get(&SEPARATOR)
    };
    let format = match format {
        Some(Format::Text) => {
            section.unused(&FIELD, "plain text has no fields", "remove it, or write format = \"jsonl\"");
            Some(TextFormat::Text)
        }
        Some(Format::Jsonl) => section.get(&FIELD).map(jsonl),
        Some(Format::Chat) => {
            section.unused(&FIELD, "a conversation says which fields it has", "remove it");
            spec.map(TextFormat::Chat)
        }
        None => section.get(&FIELD).and(None),
    };
    section.finish();
    Some(FileSet { files: files?, format: format?, separator: separator? })
}

fn jsonl(field: String) -> TextFormat {
    TextFormat::Jsonl { field }
}

fn is_jsonl(file: &str) -> bool {
    file.ends_with(".jsonl") || file.ends_with(".ndjson")
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

impl FileSet {
    /// The keys of its table with their values.
    fn keys(&self) -> Vec<(&str, Box<dyn ToToml + '_>)> {
        let mut keys: Vec<(&str, Box<dyn ToToml + '_>)> = vec![(FILES.name, Box::new(self.files.as_slice()))];
        match &self.format {
            TextFormat::Text => keys.push((FORMAT.name, Box::new("text"))),
            TextFormat::Jsonl { field } => {
                keys.push((FORMAT.name, Box::new("jsonl")));
                keys.push((FIELD.name, Box::new(field)));
            }
            TextFormat::Chat(spec) => {
                keys.push((FORMAT.name, Box::new("chat")));
                spec.put(&mut keys);
                return keys;
            }
        }
        keys.push((SEPARATOR.name, Box::new(&self.separator)));
        keys
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
