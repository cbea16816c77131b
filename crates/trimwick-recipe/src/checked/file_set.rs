//! The files of a text: which they are, and what they hold.

use serde::Serialize;

use super::chat::{self, ChatSpec};
use crate::raw::{At, Choice, Key, Raw, Rule, Section, Slot, Text, Value, text_of};
use crate::resolve::ToToml;

/// One file or glob pattern, or a list of them.
#[derive(Debug)]
pub(super) struct FilePatterns;

impl FilePatterns {
    pub(super) fn one(raw: &Raw, at: &At<'_>) -> Option<String> {
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

#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Text,
    Jsonl,
    Parquet,
    Chat,
}

pub(super) static FILES: Key<FilePatterns> = Key::required(
    "files",
    FilePatterns,
    "[\"data/*.txt\"]",
    "Files and glob patterns, from the current directory; those of one pattern are read in the order of their names.",
)
.known_as(&["file", "path", "paths", "glob"]);
pub(super) static FORMAT: Key<Choice<Format>> = Key::optional(
    "format",
    Choice(&[
        ("text", Format::Text),
        ("jsonl", Format::Jsonl),
        ("parquet", Format::Parquet),
        ("chat", Format::Chat),
    ]),
    "\"text\"",
    "\"jsonl\" where every pattern ends in .jsonl, \"parquet\" where every one ends in .parquet, \"text\" where none does",
    "One document per file, per line as a JSON object, or per row of a table; or a conversation per line or row: messages, Alpaca or ShareGPT.",
)
.known_as(&["type"]);
pub(super) static FIELD: Key<Text> = Key::default(
    "field",
    Text { what: "the name of a JSON field", allowed: |text| !text.is_empty() },
    "\"text\"",
    "The field of each JSON object, or the column of each row, that holds the text. Only with format \"jsonl\" or \"parquet\".",
)
.known_as(&["column", "text_field", "key"]);
pub(super) static SEPARATOR: Key<Text> = Key::default(
    "separator",
    Text::any("the text between two documents"),
    "\"\\n\\n\"",
    "Put between two documents, before they are cut into tokens.",
)
.known_as(&["sep", "join"]);

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
    /// One document per row.
    Parquet {
        /// The column that holds the text.
        field: String,
    },
    /// One conversation per line as a JSON object, or per row of a file that ends in `.parquet`.
    Chat(ChatSpec),
}

pub(super) fn read_files(section: Section<'_>) -> Option<FileSet> {
    let files = section.get(&FILES);
    let format = match (section.maybe(&FORMAT), &files) {
        (Slot::Given(format), _) => Some(format),
        (Slot::Absent, Some(files)) if files.iter().all(|file| is_jsonl(file)) => Some(Format::Jsonl),
        (Slot::Absent, Some(files)) if files.iter().all(|file| is_parquet(file)) => Some(Format::Parquet),
        (Slot::Absent, Some(files)) if files.iter().any(|file| is_jsonl(file) || is_parquet(file)) => {
            section.missing(&FORMAT, "one format for files that look like both".to_string());
            None
        }
        (Slot::Absent, Some(_)) => Some(Format::Text),
        _ => None,
    };
    let is_chat = matches!(format, Some(Format::Chat));
    if !is_chat && format.is_some() {
        chat::none(&section);
    }
    let spec = if is_chat || format.is_none() { chat::read(&section) } else { None };
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
        Some(Format::Parquet) => section.get(&FIELD).map(parquet),
        Some(Format::Chat) => {
            section.unused(&FIELD, "a conversation says which fields it has", "remove it");
            spec.map(TextFormat::Chat)
        }
        None => section.get(&FIELD).and(None),
    };
    if let Some(files) = &files {
        check_names(&section, format.as_ref(), files);
    }
    section.finish();
    Some(FileSet { files: files?, format: format?, separator: separator? })
}

/// A file is read as a table by its name, which has to agree with the format.
fn check_names(section: &Section<'_>, format: Option<&TextFormat>, files: &[String]) {
    let wanted = match format {
        Some(TextFormat::Parquet { .. }) => true,
        Some(TextFormat::Text | TextFormat::Jsonl { .. }) => false,
        // Conversations are in lines or rows.
        Some(TextFormat::Chat(_)) | None => return,
    };
    let Some(odd) = files.iter().find(|file| is_parquet(file) != wanted) else { return };
    let (expected, advice) = match wanted {
        true => {
            ("patterns that end in .parquet, as the format says", "leave the format out, or name other files")
        }
        false => {
            ("no pattern that ends in .parquet, unless the format says so", "write format = \"parquet\"")
        }
    };
    section.conflict(&FILES, expected, format!("{odd:?}"), advice);
}

pub(super) fn jsonl(field: String) -> TextFormat {
    TextFormat::Jsonl { field }
}

pub(super) fn parquet(field: String) -> TextFormat {
    TextFormat::Parquet { field }
}

pub(super) fn is_parquet(file: &str) -> bool {
    file.ends_with(".parquet")
}

pub(super) fn is_jsonl(file: &str) -> bool {
    file.ends_with(".jsonl") || file.ends_with(".ndjson")
}

impl FileSet {
    /// The keys of its table with their values.
    pub(super) fn keys(&self) -> Vec<(&str, Box<dyn ToToml + '_>)> {
        let mut keys: Vec<(&str, Box<dyn ToToml + '_>)> = vec![(FILES.name, Box::new(self.files.as_slice()))];
        match &self.format {
            TextFormat::Text => keys.push((FORMAT.name, Box::new("text"))),
            TextFormat::Jsonl { field } => {
                keys.push((FORMAT.name, Box::new("jsonl")));
                keys.push((FIELD.name, Box::new(field)));
            }
            TextFormat::Parquet { field } => {
                keys.push((FORMAT.name, Box::new("parquet")));
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
