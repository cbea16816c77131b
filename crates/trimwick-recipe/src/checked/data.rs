//! `[data]`: the text a model is trained and measured on.

use serde::Serialize;

use super::model::builtin;
use crate::error::{FaultKind, Hint};
use crate::raw::{At, Choice, Count, Key, Raw, Rule, Section, SectionSpec, Slot, Text, Value, text_of};
use crate::resolve::{ToToml, Writer};

/// The texts that are compiled into the program, as they are named after `builtin:`.
pub const BUILTIN_TEXTS: &[&str] = &["sotu-train", "sotu-eval"];

/// A builtin text, a file pattern, or a table of files.
#[derive(Debug)]
struct TextRule;

impl Rule for TextRule {
    type Value = ();

    fn expected(&self) -> String {
        "\"builtin:NAME\", a file or glob pattern, or { files = [\u{2026}] }".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<()> {
        if matches!(raw.value, Value::Table(_)) || text_of(raw).is_some() {
            return Some(());
        }
        at.wrong_type(raw, self.expected());
        None
    }

    fn section(&self) -> Option<&'static SectionSpec> {
        Some(&FILES_SPEC)
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
    TextRule,
    "\"builtin:sotu-train\"",
    "nothing trains or calibrates",
    "The text to train and calibrate on.",
)
.known_as(&["dataset", "train_files", "text"]);
static EVAL: Key<TextRule> = Key::required(
    "eval",
    TextRule,
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
static FIELD: Key<Text> = Key::default(
    "field",
    Text { what: "the name of a JSON field", allowed: |text| !text.is_empty() },
    "\"text\"",
    "The field of each JSON object that holds the text. Only with format \"jsonl\".",
)
.known_as(&["column", "text_field", "key"]);
static SEPARATOR: Key<Text> = Key::default(
    "separator",
    Text::any("the text between two documents"),
    "\"\\n\\n\"",
    "Put between two documents, before they are cut into tokens.",
)
.known_as(&["sep", "join"]);

/// The declaration of the tables `data.train` and `data.eval`.
pub(crate) static FILES_SPEC: SectionSpec =
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
}

pub(crate) fn read(section: Section<'_>) -> Option<DataSpec> {
    let train = read_text(&section, &TRAIN);
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

fn read_text(section: &Section<'_>, key: &Key<TextRule>) -> Slot<TextSource> {
    let Some(raw) = section.raw(key) else { return Slot::Absent };
    let Some(text) = text_of(raw) else {
        return section.sub(key).and_then(read_files).and_then(|files| Some(TextSource::Files(files)));
    };
    if let Some(name) = text.strip_prefix("builtin:") {
        return Slot::new(builtin(section, key, name, BUILTIN_TEXTS).map(TextSource::Builtin));
    }
    if BUILTIN_TEXTS.contains(&text) {
        let hint = Hint::DidYouMean(format!("builtin:{text}"));
        section
            .fault(key, FaultKind::UnknownWord { expected: key.rule.expected(), found: raw.found(), hint });
        return Slot::Faulty;
    }
    let file = FilePatterns::one(raw, &section.at(key));
    let defaults = section.empty(key, &FILES_SPEC);
    Slot::new(file).and_then(|file| {
        let format = if is_jsonl(&file) { jsonl(defaults.get(&FIELD)?) } else { TextFormat::Text };
        Some(TextSource::Files(FileSet { files: vec![file], format, separator: defaults.get(&SEPARATOR)? }))
    })
}

fn read_files(section: Section<'_>) -> Option<FileSet> {
    let files = section.get(&FILES);
    let format = match (section.maybe(&FORMAT), &files) {
        (Slot::Given(format), _) => Some(format),
        (Slot::Absent, Some(files)) if files.iter().all(|file| is_jsonl(file)) => Some(Format::Jsonl),
        (Slot::Absent, Some(files)) if files.iter().any(|file| is_jsonl(file)) => {
            section.missing(&FORMAT, "one format for files that look like both".to_string());
            None
        }
        (Slot::Absent, Some(_)) => Some(Format::Text),
        _ => None,
    };
    let format = match format {
        Some(Format::Text) => {
            section.unused(&FIELD, "plain text has no fields", "remove it, or write format = \"jsonl\"");
            Some(TextFormat::Text)
        }
        Some(Format::Jsonl) => section.get(&FIELD).map(jsonl),
        None => section.get(&FIELD).and(None),
    };
    let separator = section.get(&SEPARATOR);
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
        let set = match self {
            TextSource::Builtin(name) => return format!("builtin:{name}").to_toml(),
            TextSource::Files(set) => set,
        };
        let mut keys: Vec<(&str, Box<dyn ToToml + '_>)> = vec![(FILES.name, Box::new(set.files.as_slice()))];
        match &set.format {
            TextFormat::Text => keys.push((FORMAT.name, Box::new("text"))),
            TextFormat::Jsonl { field } => {
                keys.push((FORMAT.name, Box::new("jsonl")));
                keys.push((FIELD.name, Box::new(field)));
            }
        }
        keys.push((SEPARATOR.name, Box::new(&set.separator)));
        keys.to_toml()
    }
}
