//! Where a long text may be cut without changing its tokens.
//!
//! A pre-tokenizer runs over the whole text on one thread and keeps some forty bytes for each of the text's, so ten
//! megabytes in one call are slow. Cutting is exact at a place that no rule of the tokenizer looks across. This module
//! uses one kind of place, *between an ASCII letter and a single space that an ASCII letter follows*, and only for
//! tokenizers whose every part is known to respect it:
//!
//! - **Added tokens** are searched for first. None may hold a letter followed by a space, nor take in the space that
//!   follows it, nor, where the space is taken off (see below), begin with a letter.
//! - **Normalizers**: none, NFC (a letter and a space both begin a new composition), and SentencePiece's: spaces become
//!   `▁`, and one `▁` is prepended to the text. A later piece gives its space up, since it gets that one back.
//! - **Splitting into words**: the patterns in [`pre::PATTERNS`], none of which matches a letter and then a space, so
//!   that a word always ends here; none looks behind, and only white space looks ahead, which the piece on the left does
//!   not end with.
//! - **Merges** without splitting (SentencePiece): none may give a token with a letter before `▁`, so that no merge
//!   crosses the cut, and merges on one side do not depend on the other.
//!
//! For any other tokenizer the text is encoded in one piece. The tests compare both ways.

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::PreTokenizerWrapper;

use super::blueprint::{Blueprint, Model};
use super::pre;

/// A text is cut at the first harmless place after this many bytes.
const PIECE: usize = 32 * 1024;

/// How to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cuts {
    /// Whether pieces after the first lose their space, because the normalizer prepends one.
    drop_space: bool,
}

impl Cuts {
    /// Cuts for a pre-tokenizer that is known to end words before a space, with no normalizer.
    pub fn for_words() -> Self {
        Self { drop_space: false }
    }

    /// The pieces of a text, to be encoded one by one.
    pub fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        self.pieces_of(text, PIECE)
    }

    pub(super) fn pieces_of<'a>(&self, text: &'a str, size: usize) -> Vec<&'a str> {
        let bytes = text.as_bytes();
        let mut pieces = Vec::with_capacity(text.len() / size + 1);
        let mut start = 0;
        let mut at = size;
        while at + 1 < bytes.len() {
            let harmless = bytes[at] == b' '
                && bytes[at - 1].is_ascii_alphabetic()
                && bytes[at + 1].is_ascii_alphabetic();
            if harmless {
                // Both neighbours are ASCII, so this is a character boundary.
                pieces.push(&text[start..at]);
                start = at + usize::from(self.drop_space);
                at += size;
            } else {
                at += 1;
            }
        }
        pieces.push(&text[start..]);
        pieces
    }
}

/// How texts may be cut for this tokenizer, or `None`.
pub(super) fn plan(parts: &Blueprint) -> Option<Cuts> {
    let normalizer = to_value(&parts.normalizer)?;
    let pre_tokenizer = to_value(&parts.pre_tokenizer)?;
    let drop_space = match spaces(&normalizer)? {
        Spaces::Kept => false,
        Spaces::Marked { prepended } => prepended,
    };
    let splits = splits_words(&pre_tokenizer)?;
    if !splits && !merges_stay_in_words(&parts.model) {
        return None;
    }
    let added_ok = parts.added.iter().all(|(_, token)| {
        let text = token.content.as_bytes();
        let crosses = text.windows(2).any(|w| w[0].is_ascii_alphabetic() && w[1] == b' ');
        let hidden = drop_space && text.first().is_some_and(u8::is_ascii_alphabetic);
        !crosses && !hidden && !token.rstrip
    });
    added_ok.then_some(Cuts { drop_space })
}

fn to_value<T: serde::Serialize>(part: &Option<T>) -> Option<Value> {
    serde_json::to_value(part).ok()
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("")
}

/// What the normalizer does to spaces.
enum Spaces {
    Kept,
    Marked { prepended: bool },
}

fn spaces(normalizer: &Value) -> Option<Spaces> {
    let steps = match normalizer {
        Value::Null => return Some(Spaces::Kept),
        value if kind(value) == "Sequence" => value["normalizers"].as_array()?.as_slice(),
        value => std::slice::from_ref(value),
    };
    let marks = |v: &Value| kind(v) == "Replace" && v["pattern"]["String"] == " " && v["content"] == "▁";
    let prepends = |v: &Value| kind(v) == "Prepend" && v["prepend"] == "▁";
    match steps {
        [] => Some(Spaces::Kept),
        [nfc] if kind(nfc) == "NFC" => Some(Spaces::Kept),
        [mark] if marks(mark) => Some(Spaces::Marked { prepended: false }),
        [first, mark] if prepends(first) && marks(mark) => Some(Spaces::Marked { prepended: true }),
        _ => None,
    }
}

/// Whether every word ends before a space. `None`: not known to.
fn splits_words(pre_tokenizer: &Value) -> Option<bool> {
    let steps = match pre_tokenizer {
        Value::Null => return Some(false),
        value if kind(value) == "Sequence" => value["pretokenizers"].as_array()?.as_slice(),
        value => std::slice::from_ref(value),
    };
    let mut splits = false;
    for step in steps {
        match kind(step) {
            "Digits" => {}
            "ByteLevel" if step["add_prefix_space"] == false => splits |= step["use_regex"] != false,
            "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
                let pattern = step["pattern"]["Regex"].as_str()?;
                if !pre::PATTERNS.contains(&pattern) {
                    return None;
                }
                // Only patterns that match letters make words of everything.
                splits |= pattern.contains(r"\p{L}") || pattern.contains(r"\p{Lu}");
            }
            // A piece begins with the space, so that nothing is prepended to it.
            "Metaspace" if step["replacement"] == "▁" => splits |= step["split"] != false,
            _ => return None,
        }
    }
    Some(splits)
}

/// Whether no merge joins a letter to a following `▁`, and neither can be part of an unknown token that is fused with its
/// neighbours: both are tokens, or every byte is.
fn merges_stay_in_words(model: &Model) -> bool {
    let Model::Bpe(bpe) = model else { return false };
    let tokens: HashSet<&str> = bpe.vocab.iter().map(|(token, _)| token.as_str()).collect();
    let letters = ('a'..='z').chain('A'..='Z').chain(['▁']).map(String::from);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let known =
        |mut names: Box<dyn Iterator<Item = String>>| names.all(|name| tokens.contains(name.as_str()));
    let none_unknown = known(Box::new(letters)) || (bpe.byte_fallback && known(Box::new(bytes)));
    let crosses = |(left, right): &(String, String)| {
        let mut letter = false;
        left.chars().chain(right.chars()).any(|c| {
            let crossing = letter && c == '▁';
            letter = c.is_ascii_alphabetic();
            crossing
        })
    };
    none_unknown && !bpe.ignore_merges && !bpe.merges.iter().any(crosses)
}

/// Whether a pre-tokenizer runs a pattern.
pub(super) fn has_regex(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    fn any(value: &Value) -> bool {
        let here = kind(value) == "Split" || (kind(value) == "ByteLevel" && value["use_regex"] != false);
        here || value["pretokenizers"].as_array().is_some_and(|steps| steps.iter().any(any))
    }
    serde_json::to_value(pre_tokenizer).is_ok_and(|value| any(&value))
}
