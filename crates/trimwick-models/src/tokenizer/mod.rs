//! Text to token ids and back.
//!
//! The work is done by the `tokenizers` crate. This module decides what it is given: a `tokenizer.json` from a stranger
//! is checked before that crate sees it, since some files make it panic or, worse, silently tokenize otherwise
//! ([`Tokenizer::from_json`]); a GGUF file's vocabulary is turned into what its `tokenizer.json` was
//! ([`Tokenizer::from_gguf`]); a new byte-level vocabulary can be trained ([`Tokenizer::train_bpe`]). Long texts are cut
//! where the cut provably changes nothing and encoded on all threads ([`Tokenizer::encode`]).

mod blueprint;
mod cuts;
mod gguf_bpe;
mod gguf_spm;
mod json;
mod parts;
mod pre;
mod regex;
#[cfg(test)]
mod tests;
mod to_gguf;
mod train;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use trimwick_formats::gguf::GgufFile;

use crate::error::{Error, Result, quote};
use crate::text_file::{MAX_TOKENIZER, read_text};
use cuts::Cuts;

type Inner = tokenizers::Tokenizer;

/// A tokenizer that has been checked. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// Where long texts may be cut; `None` where no cut is known to be harmless.
    cuts: Option<Cuts>,
    /// Whether the pre-tokenizer runs a backtracking regex.
    backtracks: bool,
    /// Ids that go before and after a text when special tokens are asked for.
    before: Vec<u32>,
    after: Vec<u32>,
    eos_ids: Vec<u32>,
    origin: String,
}

/// Longest run of white space that the crate's regex engine gets through: it keeps a state per character, stops
/// silently at a million, and would leave the rest of the text in one piece.
const MAX_WHITE_RUN: usize = 400_000;

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Format`] if it cannot be read; otherwise as [`Tokenizer::from_json`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_TOKENIZER)?.ok_or_else(|| Error::NotFound {
            path: path.display().to_string(),
            what: "no such file".into(),
            hint: "give the path of a tokenizer.json".into(),
        })?;
        Self::from_json(&text, &path.display().to_string())
    }

    /// Reads the text of a `tokenizer.json` with a BPE or Unigram model; `origin` is named in errors.
    ///
    /// Truncation and padding in the file are ignored: texts are always encoded whole.
    ///
    /// # Errors
    /// [`Error::Json`] or [`Error::Tokenizer`], naming the JSON path, for a file that breaks a rule: a repeated token or
    /// id, an id above 2²⁴, a merge of or into a token that does not exist, a pattern that can take exponential time, an
    /// unknown part.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        json::read(text, origin)?.build(origin)
    }

    /// Rebuilds the tokenizer of a GGUF file from its metadata: byte-level BPE (`tokenizer.ggml.model` = `gpt2`) or
    /// SentencePiece (`llama`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another model or an unknown `tokenizer.ggml.pre`, [`Error::Tokenizer`] for lists that
    /// do not fit together.
    pub fn from_gguf(file: &GgufFile, origin: &str) -> Result<Self> {
        let model = file.get_str("tokenizer.ggml.model")?;
        let blueprint = match model {
            Some("gpt2") => gguf_bpe::read(file, origin)?,
            Some("llama") => gguf_spm::read(file, origin)?,
            Some(other) => {
                return Err(Error::unsupported(
                    origin,
                    "tokenizer model",
                    other,
                    "gpt2 (BPE), llama (SentencePiece)",
                ));
            }
            None => return Err(Error::tokenizer(origin, "tokenizer.ggml.model", "a tokenizer", "nothing")),
        };
        blueprint.build(origin)
    }

    /// Trains a byte-level BPE vocabulary of exactly `vocab_size` tokens on `texts`: the special tokens first, then the
    /// 256 bytes, then merges by frequency. Digits are split one by one and words as in GPT-2 (the pre-tokenizer that
    /// GGUF calls `smollm`). The result depends on the arguments alone. The first special token ends a text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the vocabulary has no room for bytes and special tokens, a special token is empty or
    /// repeated, or the texts are too small for that many tokens.
    pub fn train_bpe(texts: &[&str], vocab_size: usize, specials: &[&str]) -> Result<Self> {
        train::train(texts, vocab_size, specials)
    }

    /// The ids of a text. With `add_special`, the tokens that the tokenizer's template puts around a text (a
    /// beginning-of-text token, for most Llamas) are there too. Special tokens that are spelled out in the text are
    /// recognized in either case.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer fails on this text, or the text holds a run of more than 400 000 white-space
    /// characters, which its pattern matcher cannot get through.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        self.check_white_runs(text)?;
        let pieces = match &self.cuts {
            Some(cuts) => cuts.pieces(text),
            None => vec![text],
        };
        let parts: Vec<Vec<u32>> =
            pieces.par_iter().map(|piece| self.encode_piece(piece)).collect::<Result<_>>()?;
        let (before, after): (&[u32], &[u32]) =
            if add_special { (&self.before, &self.after) } else { (&[], &[]) };
        let mut ids =
            Vec::with_capacity(parts.iter().map(Vec::len).sum::<usize>() + before.len() + after.len());
        ids.extend_from_slice(before);
        parts.iter().for_each(|part| ids.extend_from_slice(part));
        ids.extend_from_slice(after);
        Ok(ids)
    }

    /// The ids of a text without special tokens around it, and for each the bytes of the text that it stands for: from the
    /// end of the token before, so that white space which a tokenizer leaves out belongs to the token that took it. Tokens
    /// that share a character all have its bytes. For texts that are short enough to be encoded in one piece.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_spans(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        self.check_white_runs(text)?;
        let encoding = guarded(&self.origin, "encode", || self.inner.encode(text, false))?;
        let mut reached = 0;
        let span = |&(start, end): &(usize, usize)| {
            let start = start.min(reached);
            reached = reached.max(end);
            start..end.max(start)
        };
        let spans = encoding.get_offsets().iter().map(span).collect();
        Ok((encoding.get_ids().to_vec(), spans))
    }

    fn encode_piece(&self, piece: &str) -> Result<Vec<u32>> {
        let encoding = guarded(&self.origin, "encode", || self.inner.encode_fast(piece, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn check_white_runs(&self, text: &str) -> Result<()> {
        if !self.backtracks || text.len() <= MAX_WHITE_RUN {
            return Ok(());
        }
        let mut run = 0;
        for (at, c) in text.char_indices() {
            run = if c.is_whitespace() { run + 1 } else { 0 };
            if run > MAX_WHITE_RUN {
                let expected = format!("at most {MAX_WHITE_RUN} white-space characters in a row");
                return Err(Error::tokenizer(
                    &self.origin,
                    "encode",
                    expected,
                    format!("more, up to byte {at}"),
                ));
            }
        }
        Ok(())
    }

    /// The text of ids; ids that no token has are skipped, and special tokens too if `skip_special`. Bytes that are not
    /// UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(&self.origin, "decode", || self.inner.decode(ids, skip_special))
    }

    /// Decodes ids one by one as they are generated.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, ids: Vec::new(), shown: 0, start: 0 }
    }

    /// One more than the largest id: the rows an embedding needs.
    pub fn vocab_size(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// One more than the largest id that text can become, added tokens left out.
    pub(crate) fn model_vocab_size(&self) -> usize {
        self.inner.get_vocab(false).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The id of a token, spelled as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, spelled as in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Ids that go before and after a text when special tokens are asked for.
    pub fn special_ids(&self) -> (&[u32], &[u32]) {
        (&self.before, &self.after)
    }

    /// Tokens that end a text; empty if neither the tokenizer's file nor the model's configuration names one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The same tokenizer with these as the tokens that end a text.
    pub fn with_eos_ids(mut self, ids: Vec<u32>) -> Self {
        self.eos_ids = ids;
        self
    }

    /// The `tokenizer.json` of this tokenizer: the same bytes for the same tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot be written out.
    pub fn to_json(&self) -> Result<String> {
        guarded(&self.origin, "serialize", || self.inner.to_string(true))
    }

    /// Writes `tokenizer.json` to `path`, replacing a file that is there only once the new one is complete.
    ///
    /// # Errors
    /// [`Error::Format`] if it cannot be written.
    pub fn save_json(&self, path: &Path) -> Result<()> {
        Ok(trimwick_formats::atomic_write(path, self.to_json()?.as_bytes())?)
    }

    /// Finishes a tokenizer whose parts were checked.
    fn assemble(
        inner: Inner,
        cuts: Option<Cuts>,
        backtracks: bool,
        eos_ids: Vec<u32>,
        origin: &str,
    ) -> Result<Self> {
        let mut tokenizer = Self {
            inner: Arc::new(inner),
            cuts,
            backtracks,
            before: Vec::new(),
            after: Vec::new(),
            eos_ids,
            origin: origin.to_string(),
        };
        // What the template adds, seen on a text of one letter; this is also the first try of all parts together.
        let probe = guarded(origin, "post_processor", || tokenizer.inner.encode("a", true))?;
        let plain = tokenizer.encode_piece("a")?;
        let special = |mask: &u32| *mask == 1;
        let mask = probe.get_special_tokens_mask();
        let before = mask.iter().take_while(|&m| special(m)).count();
        let after = mask[before..].iter().rev().take_while(|&m| special(m)).count();
        let (before, rest) = probe.get_ids().split_at(before);
        let (text, after) = rest.split_at(rest.len() - after);
        if text != plain {
            let found = "a template that changes the text's own tokens";
            return Err(Error::tokenizer(origin, "post_processor", "tokens around the text", found));
        }
        (tokenizer.before, tokenizer.after) = (before.to_vec(), after.to_vec());
        for &id in tokenizer.before.iter().chain(&tokenizer.after) {
            if tokenizer.inner.id_to_token(id).is_none() {
                return Err(Error::tokenizer(origin, "post_processor", "ids of tokens", id.to_string()));
            }
        }
        Ok(tokenizer)
    }
}

/// Text that becomes complete as ids arrive; see [`Tokenizer::decode_stream`].
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// Bytes of the text of `ids[start..]` that have been returned.
    shown: usize,
    /// First id that is still decoded: a few are kept, since spaces can depend on what went before.
    start: usize,
}

impl DecodeStream<'_> {
    /// The text that `id` completes: empty while a character lacks bytes.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        const KEPT: usize = 16;
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids[self.start..], self.skip_special)?;
        if text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let new = text.get(self.shown..).unwrap_or_default().to_string();
        self.shown = text.len();
        if self.ids.len() - self.start > 2 * KEPT {
            // Restart only where the kept part decodes to the end of what was shown.
            let start = self.ids.len() - KEPT;
            let kept = self.tokenizer.decode(&self.ids[start..], self.skip_special)?;
            if text.ends_with(&kept) && !kept.starts_with('\u{fffd}') {
                (self.start, self.shown) = (start, kept.len());
            }
        }
        Ok(new)
    }
}

/// Runs a call into the `tokenizers` crate; a panic there is an error here.
fn guarded<T>(
    origin: &str,
    at: &str,
    call: impl FnOnce() -> std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<T> {
    let found = match trimwick_formats::guarded(call) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => quote(&error.to_string()),
        None => "a fault inside the tokenizers library".to_string(),
    };
    Err(Error::tokenizer(origin, at, "a part that works", found))
}
