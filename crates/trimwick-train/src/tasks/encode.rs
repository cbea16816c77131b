//! From texts to the token ids that a model is asked about.

use std::ops::Range;

use super::item::{Item, Task};
use crate::data::{Encode, foreign};
use crate::{Error, Result};

/// A model's tokenizer and limits.
pub struct Encoder<'a> {
    /// Text to token ids, without special tokens.
    pub encode: Encode<'a>,
    /// What stands for an empty context: the token that begins a text, or else the one that ends it.
    pub prefix: Option<u32>,
    /// Ids are below this.
    pub vocab: usize,
    /// The model's positions.
    pub window: usize,
}

/// A choice behind its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The tokens of both, at least two.
    pub ids: Vec<u32>,
    /// How many of the last tokens are the choice's: at least one, and not all.
    pub scored: usize,
}

impl Request {
    /// The tokens that a model is given: all but the last, which is only a target.
    pub fn inputs(&self) -> &[u32] {
        &self.ids[..self.ids.len().saturating_sub(1)]
    }

    /// Positions of [`Request::inputs`] whose next token is scored.
    pub fn scored_positions(&self) -> Range<usize> {
        let end = self.inputs().len();
        end.saturating_sub(self.scored)..end
    }

    /// The tokens that are scored.
    pub fn targets(&self) -> &[u32] {
        &self.ids[self.ids.len().saturating_sub(self.scored)..]
    }
}

/// A question in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// One for each choice.
    pub requests: Vec<Request>,
    /// Whether the beginning of the context was cut off, to fit the model's window.
    pub cut: bool,
}

impl Task {
    /// The questions in tokens.
    ///
    /// Context and choice are encoded together, and what goes beyond the tokens of the context alone is the choice's; white
    /// space at the end of the context counts to the choice. Of what is longer than the window the beginning is cut off.
    ///
    /// # Errors
    /// With file and line: a failing tokenizer, ids outside the vocabulary, a choice that adds no token or has more of them
    /// than the window, an empty context where there is no prefix.
    pub fn encode(&self, encoder: &Encoder<'_>) -> Result<Vec<Question>> {
        self.items.iter().map(|item| self.question(item, encoder)).collect()
    }

    fn question(&self, item: &Item, encoder: &Encoder<'_>) -> Result<Question> {
        let context = item.context.trim_end();
        let moved = &item.context[context.len()..];
        let before = match (context.is_empty(), encoder.prefix) {
            (false, _) => self.ids(item, context, encoder)?,
            (true, Some(prefix)) => vec![prefix],
            (true, None) => {
                let found = "none, and a tokenizer without a token that begins or ends a text";
                return Err(self.fault(item, "a context", found));
            }
        };
        let mut cut = false;
        let mut requests = Vec::with_capacity(item.choices.len());
        for (i, choice) in item.choices.iter().enumerate() {
            let tail = format!("{moved}{}{choice}", item.delimiter);
            let choice = match context.is_empty() {
                true => self.ids(item, &tail, encoder)?,
                false => {
                    let mut whole = self.ids(item, &format!("{context}{tail}"), encoder)?;
                    whole.split_off(before.len().min(whole.len()))
                }
            };
            let scored = choice.len();
            let fault = |expected: String| {
                self.fault(item, expected, format!("choice {} (from 0) of {scored} tokens", i))
            };
            if scored == 0 {
                return Err(fault("choices that add tokens to the context".into()));
            }
            if scored > encoder.window {
                return Err(fault(format!(
                    "choices of at most {} tokens, the model's window",
                    encoder.window
                )));
            }
            let mut ids = before.clone();
            ids.extend(choice);
            // The last token is only a target.
            let excess = ids.len().saturating_sub(encoder.window.saturating_add(1));
            cut |= excess > 0;
            ids.drain(..excess);
            requests.push(Request { ids, scored });
        }
        Ok(Question { requests, cut })
    }

    fn ids(&self, item: &Item, text: &str, encoder: &Encoder<'_>) -> Result<Vec<u32>> {
        let failed = |source| Error::Tokenizer { path: self.owned_path(), line: item.line, source };
        let ids = (encoder.encode)(text).map_err(failed)?;
        match foreign(&ids, encoder.vocab) {
            None => Ok(ids),
            Some((expected, found)) => Err(self.fault(item, expected, found)),
        }
    }
}
