//! Lines of a file or of a text in memory, bounded and checked.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::table::{is_table, rows};
use crate::{Error, Result};

/// The longest line that is read: a longer one is no text, and would be held in memory as a whole.
pub(crate) const MAX_LINE: usize = 64 << 20;

/// A file, or a text in memory with a name for messages.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    File(PathBuf),
    Memory { name: String, text: Cow<'static, str> },
}

impl Input {
    /// What to call it in a message.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Memory { name, .. } => Path::new(name),
        }
    }

    /// Calls `f` with each line, its line break included, and its number from 1, until `f` says stop.
    pub(crate) fn lines(&self, mut f: impl FnMut(&str, u64) -> Result<Next>) -> Result<Next> {
        let mut reader: Box<dyn BufRead + '_> = match self {
            Self::Memory { text, .. } => Box::new(text.as_bytes()),
            Self::File(path) => Box::new(BufReader::with_capacity(1 << 20, open(path)?)),
        };
        let (mut line, mut bytes) = (0, Vec::new());
        loop {
            line += 1;
            bytes.clear();
            let mut bounded = reader.by_ref().take(MAX_LINE as u64 + 1);
            if bounded.read_until(b'\n', &mut bytes).map_err(Error::io(self.path(), "read"))? == 0 {
                return Ok(Next::Go);
            }
            if bytes.len() > MAX_LINE {
                return Err(self.fault(line, format!("lines of at most {MAX_LINE} bytes"), "a longer one"));
            }
            let text = std::str::from_utf8(&bytes).map_err(|e| {
                let at = e.valid_up_to();
                self.fault(line, "UTF-8 text", format!("byte {:#04x} at column {}", bytes[at], at + 1))
            })?;
            if let Next::Stop = f(text, line)? {
                return Ok(Next::Stop);
            }
        }
    }

    /// [`Input::lines`] of a file with a JSON value a line: the byte order mark that editors of some systems begin a file with
    /// is taken off, and blank lines are passed over. Of a Parquet file, its rows: with `field`, what each has there.
    pub(crate) fn json_lines(
        &self,
        field: Option<&str>,
        mut f: impl FnMut(&str, u64) -> Result<Next>,
    ) -> Result<Next> {
        if matches!(self, Self::File(path) if is_table(path)) {
            return rows(self, field, f);
        }
        self.lines(|text, line| {
            let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
            if text.trim_ascii().is_empty() { Ok(Next::Go) } else { f(text, line) }
        })
    }

    pub(crate) fn fault(&self, line: u64, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Text { path: self.path().into(), line, expected: expected.into(), found: found.into() }
    }
}

/// What is wrong with a line: expected and found.
pub(crate) type Wrong = (String, String);

/// What is wrong with the JSON of one line.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    let full = error.to_string();
    let reason = full.split(" at line ").next().unwrap_or(&full);
    // The names of our own types help nobody.
    let reason = reason.split(", expected struct ").next().unwrap_or(reason);
    let reason = match reason {
        r if r.starts_with("data did not match any variant") => "another form",
        "unexpected end of hex escape" => "half of a surrogate pair, or an escape cut short",
        r => r,
    };
    format!("{reason} at column {}", error.column())
}

/// What is wrong with the ids of a line, where one is outside of the vocabulary.
pub(crate) fn foreign(ids: &[u32], vocab: usize) -> Option<Wrong> {
    let id = ids.iter().find(|&&id| id as usize >= vocab)?;
    let expected = format!("token ids below the model's vocabulary of {vocab}");
    Some((expected, format!("id {id}: the tokenizer belongs to another model")))
}

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    Stop,
}

pub(super) fn open(path: &Path) -> Result<File> {
    // Opening a pipe would wait for its writer, and a folder fails late.
    if !std::fs::metadata(path).map_err(Error::io(path, "open"))?.is_file() {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
        return Err(Error::Io { path: path.into(), doing: "open", source });
    }
    File::open(path).map_err(Error::io(path, "open"))
}
