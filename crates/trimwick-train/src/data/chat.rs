//! Conversations from JSON lines, in windows that mark the tokens to train.

use std::borrow::Cow;
use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::lines::{Input, Next, Wrong, foreign, json_reason};
use super::pack::Packer;
use super::turns::{Role, Shape, Turn};
use super::windows::Windows;
use crate::error::BoxError;
use crate::{Error, Result};

/// Lines that are rendered and encoded at a time, on all threads: so many bytes of them, or lines.
const PIECE: (usize, usize) = (4 << 20, 4096);

/// A conversation as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// All of it, with every token that the template writes.
    pub ids: Vec<u32>,
    /// Which of them the assistant writes; not looked at where every token is trained.
    pub answers: Vec<bool>,
}

/// A chat template with its tokenizer: turns to tokens.
pub type Render<'a> = &'a (dyn Fn(&[Turn]) -> Result<Conversation, BoxError> + Sync);

/// What becomes of conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatOptions {
    /// Tokens of a window; a conversation that is longer loses its end.
    pub context: usize,
    /// Token that fills windows up. The model never sees it before a token that is trained.
    pub pad: u32,
    /// Ids are below this.
    pub vocab: usize,
    /// Train the assistant's answers alone, and not every token.
    pub answers: bool,
}

/// What was done with the conversations of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChatCounts {
    /// Conversations in the files.
    pub conversations: usize,
    /// Those that lost their end.
    pub cut: usize,
    /// Tokens that they lost.
    pub cut_tokens: usize,
    /// Those left out, since no trained token is in the context.
    pub dropped: usize,
}

/// Conversations from files or memory, in the order given: a JSON object a line, or a row of a `.parquet` file, in one of three shapes, by which the first
/// line of each file decides for the file. Other keys are not looked at; blank lines are skipped.
///
/// - messages: `{"messages": [{"role": "user", "content": "…"}, …]}`
/// - Alpaca: `{"instruction": "…", "input": "…", "output": "…"}`, of which the input may be empty or missing
/// - ShareGPT: `{"conversations": [{"from": "human", "value": "…"}, …]}`
#[derive(Debug, Clone)]
pub struct ChatSource {
    inputs: Vec<Input>,
}

/// A line that was read.
struct Line {
    input: usize,
    line: u64,
    shape: Shape,
    object: Map<String, Value>,
}

impl ChatSource {
    /// The conversations of files.
    pub fn files(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { inputs: paths.into_iter().map(|p| Input::File(p.into())).collect() }
    }

    /// The conversations of a text in memory, called `name` in messages.
    pub fn memory(name: &str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { inputs: vec![Input::Memory { name: name.into(), text: text.into() }] }
    }

    /// All conversations in windows. Each stays whole, and goes to the window where it leaves the least room. Within a window
    /// a conversation sees those before it, as documents of a text do.
    ///
    /// A window's first token and the first of each conversation are not trained: what comes before them is not their past.
    ///
    /// # Errors
    /// Lines that are no conversation, that the template or the tokenizer refuses, or without an answer where answers are
    /// trained; files that cannot be read: each with file and line. [`Error::Empty`] without any
    /// conversation, [`Error::Setting`] when the context reaches no token to train.
    pub fn windows(&self, render: Render<'_>, options: &ChatOptions) -> Result<(Windows, ChatCounts)> {
        let ChatOptions { context, pad, vocab, .. } = *options;
        if context < 2 {
            return Err(Error::setting("context", "at least 2 tokens", context));
        }
        if pad as usize >= vocab {
            return Err(Error::setting("pad", format!("a token id below the vocabulary of {vocab}"), pad));
        }
        let (mut packer, mut counts) = (Packer::new(context, pad), ChatCounts::default());
        let mut packed = 0;
        self.pieces(|lines| {
            let done: Vec<_> = lines.par_iter().map(|line| self.tokens(line, render, options)).collect();
            for conversation in done {
                let Conversation { mut ids, mut answers } = conversation?;
                counts.conversations += 1;
                if ids.len() > context {
                    counts.cut += 1;
                    counts.cut_tokens += ids.len() - context;
                    ids.truncate(context);
                    answers.truncate(context);
                }
                if answers.iter().skip(1).any(|trained| *trained) {
                    packer.put(&ids, &answers);
                    packed += 1;
                } else {
                    counts.dropped += 1;
                }
            }
            Ok(())
        })?;
        if counts.conversations == 0 {
            return Err(Error::Empty { inputs: super::source::describe(&self.inputs) });
        }
        if packed == 0 {
            let expected = "one in which some conversation has a token to train";
            return Err(Error::setting(
                "context",
                expected,
                format!("{context}, which none of them reaches"),
            ));
        }
        Ok((packer.finish()?, counts))
    }

    /// What is said in all conversations, one text a turn.
    ///
    /// # Errors
    /// Lines that are no conversation; files that cannot be read.
    pub fn contents(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        self.pieces(|lines| {
            for line in lines {
                all.extend(self.turns(line)?.into_iter().map(|turn| turn.content));
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Reads all lines, some at a time.
    fn pieces(&self, mut take: impl FnMut(&[Line]) -> Result<()>) -> Result<()> {
        let (mut pending, mut bytes) = (Vec::new(), 0);
        for (index, input) in self.inputs.iter().enumerate() {
            let mut shape = None;
            input.json_lines(None, |text, line| {
                let object = self.object(index, line, text)?;
                let shape = match shape {
                    Some(shape) => shape,
                    None => {
                        let found = Shape::of(&object).map_err(|wrong| self.wrong(index, line, wrong))?;
                        *shape.insert(found)
                    }
                };
                bytes += text.len();
                pending.push(Line { input: index, line, shape, object });
                if bytes >= PIECE.0 || pending.len() >= PIECE.1 {
                    take(&pending)?;
                    pending.clear();
                    bytes = 0;
                }
                Ok(Next::Go)
            })?;
        }
        take(&pending)
    }

    fn object(&self, input: usize, line: u64, text: &str) -> Result<Map<String, Value>> {
        let expected = || "a JSON object with a conversation".to_string();
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(other) => Err(self.wrong(input, line, (expected(), super::source::kind(&other).into()))),
            Err(e) => Err(self.wrong(input, line, (expected(), json_reason(&e)))),
        }
    }

    fn turns(&self, line: &Line) -> Result<Vec<Turn>> {
        line.shape.turns(&line.object).map_err(|wrong| self.wrong(line.input, line.line, wrong))
    }

    fn tokens(&self, line: &Line, render: Render<'_>, options: &ChatOptions) -> Result<Conversation> {
        let turns = self.turns(line)?;
        let fault = |expected: String, found: String| self.wrong(line.input, line.line, (expected, found));
        if options.answers && turns.iter().all(|turn| turn.role != Role::Assistant) {
            let expected =
                "a turn of the assistant, whose answers are trained (loss = \"all\" takes every turn)";
            return Err(fault(expected.into(), format!("{} without one", turns.len())));
        }
        let refused =
            |source| Error::Chat { path: self.inputs[line.input].path().into(), line: line.line, source };
        let mut conversation = render(&turns).map_err(refused)?;
        if let Some((expected, found)) = foreign(&conversation.ids, options.vocab) {
            return Err(fault(expected, found));
        }
        if !options.answers {
            conversation.answers.fill(true);
        }
        conversation.answers.resize(conversation.ids.len(), false);
        Ok(conversation)
    }

    fn wrong(&self, input: usize, line: u64, (expected, found): Wrong) -> Error {
        self.inputs[input].fault(line, expected, found)
    }
}
