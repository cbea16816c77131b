//! What the layouts share: lines of JSON, and right answers given in several ways.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};

use super::item::Item;
use crate::data::{Input, Next, json_reason};
use crate::{Error, Result};

/// A line of a file, and what to say of it.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) input: &'a Input,
    pub(super) number: u64,
    pub(super) text: &'a str,
}

impl<'a> Line<'a> {
    /// The line's JSON object; `form` says what it should be.
    pub(super) fn parse<T: Deserialize<'a>>(&self, form: &str) -> Result<T> {
        serde_json::from_str(self.text).map_err(|e| self.fault(form, json_reason(&e)))
    }

    pub(super) fn fault(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        self.input.fault(self.number, expected, found)
    }

    /// The number of choices, if it is enough.
    pub(super) fn enough(&self, choices: usize) -> Result<usize> {
        if choices < 2 { Err(self.fault("at least two choices", choices.to_string())) } else { Ok(choices) }
    }

    pub(super) fn item(&self, context: String, choices: Vec<String>, gold: usize) -> Item {
        Item { line: self.number, context, delimiter: " ".into(), choices, gold }
    }
}

/// The questions of the lines that are not blank, the first `limit`.
pub(super) fn each(
    input: &Input,
    limit: usize,
    mut item: impl FnMut(Line<'_>) -> Result<Item>,
) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    input.json_lines(None, |text, number| {
        items.push(item(Line { input, number, text: text.trim_ascii() })?);
        Ok(if items.len() < limit { Next::Go } else { Next::Stop })
    })?;
    Ok(items)
}

/// Which choice is right, as a file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gold {
    Number(u64),
    Text(String),
}

impl Gold {
    /// The index of a number, or of digits: what HellaSwag and PIQA have.
    pub(super) fn index(&self, line: &Line<'_>, key: &str, choices: usize) -> Result<usize> {
        let index = match self {
            Self::Number(n) => Some(*n),
            Self::Text(text) => text.trim().parse().ok(),
        };
        index.and_then(|n| usize::try_from(n).ok()).filter(|&n| n < choices).ok_or_else(|| {
            let expected =
                format!("{key}: an index from 0 below {choices}; a split without labels cannot be scored");
            line.fault(expected, self.to_string())
        })
    }

    /// The index of a number or of a letter. Digits in quotes could count from 0 or from 1.
    pub(super) fn index_or_letter(&self, line: &Line<'_>, key: &str, choices: usize) -> Result<usize> {
        let index = match self {
            Self::Number(n) => usize::try_from(*n).ok(),
            Self::Text(text) => letter(text),
        };
        index.filter(|&n| n < choices).ok_or_else(|| {
            let last = (b'A' + (choices.clamp(1, 26) - 1) as u8) as char;
            let expected = format!("{key}: an index from 0 below {choices}, or a letter from A to {last}");
            line.fault(expected, self.to_string())
        })
    }
}

/// The index of a capital letter, of A 0.
pub(super) fn letter(text: &str) -> Option<usize> {
    match text.trim().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

impl fmt::Display for Gold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(text) => f.write_str(&short(text)),
        }
    }
}

/// A quoted text for a message, the beginning of it if it is long.
pub(super) fn short(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?} and more", &text[..end]),
    }
}

impl<'de> Deserialize<'de> for Gold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Answer;
        impl Visitor<'_> for Answer {
            type Value = Gold;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an index or a letter")
            }

            fn visit_u64<E>(self, n: u64) -> Result<Gold, E> {
                Ok(Gold::Number(n))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Gold, E> {
                // Minus one marks a line without an answer.
                Ok(Gold::Text(n.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Gold, E> {
                Ok(Gold::Text(text.into()))
            }
        }
        deserializer.deserialize_any(Answer)
    }
}
