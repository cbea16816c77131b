//! Documents from text and JSONL files, joined and encoded.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value;

use super::lines::{Input, Next, Wrong, foreign, json_reason};
use super::tokens::{Overflow, Tokens, TokensWriter};
use crate::error::BoxError;
use crate::{Error, Result};

/// Text is encoded in pieces of about this many bytes, so that a corpus of any size is read in bounded memory.
const PIECE: usize = 4 << 20;

/// How a file holds documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextFormat {
    /// A file is one document.
    Text,
    /// Each line is a JSON object that holds one document, blank lines being skipped; or each row of a file whose name ends in
    /// `.parquet`.
    Jsonl {
        /// The key of the document's text.
        field: String,
    },
}

/// What stands between two documents.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Joint {
    Text(String),
    Token(u32),
}

/// Documents from files or memory, in the order given. Empty documents are skipped.
///
/// Documents are joined by a text, by default a blank line, and the *joined* text is encoded: a tokenizer may
/// treat a line break before a letter and one at the end of a text differently. With [`TextSource::eos`] each
/// document is encoded on its own and followed by a token instead.
///
/// Joined text of more than 4 MiB is encoded in pieces, cut before a line that starts with a letter or the like and
/// follows a line that is not blank, where the tokenizers of the Llama family have a token boundary anyway.
#[derive(Debug, Clone)]
pub struct TextSource {
    inputs: Vec<Input>,
    format: TextFormat,
    joint: Joint,
    overflow: Option<Overflow>,
}

impl TextSource {
    /// The documents of files.
    pub fn files(paths: impl IntoIterator<Item = impl Into<PathBuf>>, format: TextFormat) -> Self {
        let inputs = paths.into_iter().map(|p| Input::File(p.into())).collect();
        Self { inputs, format, joint: Joint::Text("\n\n".into()), overflow: None }
    }

    /// The documents of a text in memory, called `name` in messages.
    pub fn memory(name: &str, text: impl Into<Cow<'static, str>>, format: TextFormat) -> Self {
        let inputs = vec![Input::Memory { name: name.into(), text: text.into() }];
        Self { inputs, format, joint: Joint::Text("\n\n".into()), overflow: None }
    }

    /// Joins the documents by `text`.
    pub fn separator(mut self, text: &str) -> Self {
        self.joint = Joint::Text(text.into());
        self
    }

    /// Ends each document with the token `id`.
    pub fn eos(mut self, id: u32) -> Self {
        self.joint = Joint::Token(id);
        self
    }

    /// Keeps tokens that are too many for memory in a file. The text itself is read in pieces anyway.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// The token ids of all documents, or of as many as give `limit` tokens (the result then has exactly that many).
    ///
    /// # Errors
    /// Files that cannot be read, text that is not UTF-8, a line of more than 64 MiB, JSONL lines without the field,
    /// a failing tokenizer, an id outside of `vocab`: each with file and line; a file of tokens that cannot be written.
    /// [`Error::Empty`] without any token.
    pub fn encode(&self, encode: Encode<'_>, vocab: usize, limit: Option<usize>) -> Result<Tokens> {
        let limit = limit.unwrap_or(usize::MAX);
        let ids = TokensWriter::new(self.overflow.clone());
        let mut packer =
            Packer { source: self, encode, vocab, limit, ids, text: String::new(), origins: vec![] };
        packer.run()?;
        if packer.ids.len() == 0 {
            return Err(Error::Empty { inputs: describe(&self.inputs) });
        }
        packer.ids.finish()
    }
}

/// What inputs are called together.
pub(super) fn describe(inputs: &[Input]) -> String {
    match inputs {
        [] => "no files".into(),
        [one] => one.path().display().to_string(),
        [first, rest @ ..] => format!("{} and {} more", first.path().display(), rest.len()),
    }
}

/// A tokenizer: text to token ids, without special tokens.
pub type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>, BoxError>;

/// Where a part of the pending text comes from.
struct Origin {
    at: usize,
    input: usize,
    line: u64,
}

struct Packer<'a> {
    source: &'a TextSource,
    encode: Encode<'a>,
    vocab: usize,
    limit: usize,
    ids: TokensWriter,
    text: String,
    /// One per line of `text`.
    origins: Vec<Origin>,
}

impl Packer<'_> {
    fn run(&mut self) -> Result<()> {
        if let Joint::Token(id) = self.source.joint
            && id as usize >= self.vocab
        {
            return Err(Error::setting(
                "eos",
                format!("a token id below the vocabulary of {}", self.vocab),
                id,
            ));
        }
        let source = self.source;
        // Whether a document stands before what comes next.
        let mut follows = false;
        for (index, input) in source.inputs.iter().enumerate() {
            let next = match &source.format {
                TextFormat::Text => {
                    let mut started = false;
                    let next = input.lines(|text, line| {
                        if !started {
                            self.start_document(follows)?;
                            started = true;
                        }
                        self.push(text, index, line)
                    })?;
                    if started {
                        self.end_document()?;
                        follows = true;
                    }
                    next
                }
                TextFormat::Jsonl { field } => input.json_lines(Some(field), |text, line| {
                    let document = document(input, line, text.trim_ascii(), field)?;
                    if document.is_empty() {
                        return Ok(Next::Go);
                    }
                    self.start_document(follows)?;
                    follows = true;
                    let next = self.push(&document, index, line)?;
                    self.end_document()?;
                    Ok(next)
                })?,
            };
            if next == Next::Stop {
                break;
            }
        }
        self.flush()
    }

    fn start_document(&mut self, follows: bool) -> Result<()> {
        if let (true, Joint::Text(joint)) = (follows, &self.source.joint) {
            self.text.push_str(joint);
            if self.text.len() >= PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn end_document(&mut self) -> Result<()> {
        if let Joint::Token(id) = self.source.joint {
            self.flush()?;
            self.put(&[id])?;
        }
        Ok(())
    }

    fn push(&mut self, text: &str, input: usize, line: u64) -> Result<Next> {
        if self.text.len() >= PIECE && self.may_cut(text) {
            self.flush()?;
        }
        self.origins.push(Origin { at: self.text.len(), input, line });
        self.text.push_str(text);
        Ok(if self.ids.len() >= self.limit { Next::Stop } else { Next::Go })
    }

    /// Whether a piece may end before `next`.
    fn may_cut(&self, next: &str) -> bool {
        let Some(before) = self.text.strip_suffix('\n') else { return false };
        let inside_paragraph =
            !before.ends_with(char::is_whitespace) && !next.starts_with(char::is_whitespace);
        inside_paragraph || self.text.len() >= 2 * PIECE
    }

    /// Encodes the pending text.
    fn flush(&mut self) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let ids = (self.encode)(&self.text).map_err(|source| self.tokenizer_failed(source))?;
        if let Some(wrong) = foreign(&ids, self.vocab) {
            return Err(self.foreign_id(wrong));
        }
        self.put(&ids)?;
        self.text.clear();
        self.origins.clear();
        Ok(())
    }

    /// Takes as many ids as are wanted yet.
    fn put(&mut self, ids: &[u32]) -> Result<()> {
        let room = self.limit - self.ids.len();
        self.ids.push(&ids[..ids.len().min(room)])
    }

    fn tokenizer_failed(&self, source: BoxError) -> Error {
        let (input, line) = self.origins.first().map_or((0, 1), |o| (o.input, o.line));
        Error::Tokenizer { path: self.source.inputs[input].path().into(), line, source }
    }

    /// The error for an id outside of the vocabulary. Which line it came from is found by encoding line by line;
    /// an id that only the whole piece gives is reported at the first line.
    fn foreign_id(&self, mut wrong: Wrong) -> Error {
        let mut at = self.origins.first();
        for (i, origin) in self.origins.iter().enumerate() {
            let end = self.origins.get(i + 1).map_or(self.text.len(), |next| next.at);
            let ids = (self.encode)(&self.text[origin.at..end]).unwrap_or_default();
            if let Some(of_line) = foreign(&ids, self.vocab) {
                (wrong, at) = (of_line, Some(origin));
                break;
            }
        }
        let (input, line) = at.map_or((0, 1), |o| (o.input, o.line));
        let (expected, found) = wrong;
        self.source.inputs[input].fault(line, expected, found)
    }
}

/// The text of one JSONL line.
fn document(input: &Input, line: u64, text: &str, field: &str) -> Result<String> {
    let expected = || format!("a JSON object with a string {field:?}");
    let value: Value =
        serde_json::from_str(text).map_err(|e| input.fault(line, expected(), json_reason(&e)))?;
    let found = match value {
        Value::Object(mut object) => match object.remove(field) {
            Some(Value::String(document)) => return Ok(document),
            Some(other) => format!("{} in that field", kind(&other)),
            None => match object.keys().next() {
                Some(key) => format!("no such field (the first of {} is {key:?})", object.len()),
                None => "an empty object".into(),
            },
        },
        other => kind(&other).into(),
    };
    Err(input.fault(line, expected(), found))
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
