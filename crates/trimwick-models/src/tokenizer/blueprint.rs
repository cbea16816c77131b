//! A tokenizer as a list of checked parts, and the checks that every source shares.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use super::{Inner, Tokenizer, cuts, guarded};
use crate::config::MAX_VOCAB;
use crate::error::{Error, Result, quote};

/// Everything a tokenizer is made of.
pub(super) struct Blueprint {
    pub model: Model,
    /// Tokens that are found in the text before anything else, with their ids.
    pub added: Vec<(u32, AddedToken)>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub post_processor: Option<PostProcessorWrapper>,
    pub decoder: Option<DecoderWrapper>,
    pub eos_ids: Vec<u32>,
}

/// The vocabulary and how words become tokens.
pub(super) enum Model {
    Bpe(Bpe),
    Unigram { vocab: Vec<(String, f64)>, unk_id: Option<usize>, byte_fallback: bool },
}

/// Byte-pair encoding: merges in the order of their rank.
#[derive(Default)]
pub(super) struct Bpe {
    pub vocab: Vec<(String, u32)>,
    pub merges: Vec<(String, String)>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
}

/// Names of the parts in messages: JSON paths or GGUF keys.
pub(super) struct Names {
    pub vocab: &'static str,
    pub merges: &'static str,
}

impl Bpe {
    /// Checks the vocabulary and every merge.
    pub fn check(&self, names: &Names, origin: &str) -> Result<()> {
        let ids = check_vocab(&self.vocab, names.vocab, origin)?;
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or("");
        let mut joined = String::new();
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            let at = || format!("{}[{rank}]", names.merges);
            for token in [left, right] {
                if !ids.contains_key(token.as_str()) {
                    return Err(Error::tokenizer(origin, at(), "two tokens of the vocabulary", quote(token)));
                }
            }
            let Some(rest) = right.strip_prefix(prefix) else {
                let expected = format!("a right part that begins with {}", quote(prefix));
                return Err(Error::tokenizer(origin, at(), expected, quote(right)));
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(rest);
            if !ids.contains_key(joined.as_str()) {
                let expected = "a merge that gives a token of the vocabulary";
                return Err(Error::tokenizer(origin, at(), expected, quote(&joined)));
            }
        }
        Ok(())
    }
}

/// Checks that tokens and ids are each given once and ids are below [`MAX_VOCAB`]. The crate's structures have a place
/// for every id up to the largest.
pub(super) fn check_vocab<'a>(
    vocab: &'a [(String, u32)],
    at: &str,
    origin: &str,
) -> Result<HashMap<&'a str, u32>> {
    if vocab.is_empty() {
        return Err(Error::tokenizer(origin, at, "at least one token", "none"));
    }
    let mut ids = HashMap::with_capacity(vocab.len());
    let mut tokens = HashMap::with_capacity(vocab.len());
    for (token, id) in vocab {
        if *id as usize >= MAX_VOCAB {
            let found = format!("id {id} of token {}", quote(token));
            return Err(Error::tokenizer(origin, at, format!("ids below {MAX_VOCAB}"), found));
        }
        if let Some(first) = ids.insert(token.as_str(), *id) {
            let found = format!("token {} with ids {first} and {id}", quote(token));
            return Err(Error::tokenizer(origin, at, "each token once", found));
        }
        if let Some(first) = tokens.insert(*id, token) {
            let found = format!("id {id} for tokens {} and {}", quote(first), quote(token));
            return Err(Error::tokenizer(origin, at, "each id once", found));
        }
    }
    Ok(ids)
}

impl Blueprint {
    /// Makes the tokenizer. The model must have been checked.
    pub fn build(self, origin: &str) -> Result<Tokenizer> {
        let cuts = cuts::plan(&self);
        let backtracks = self.pre_tokenizer.as_ref().is_some_and(cuts::has_regex);
        let model: ModelWrapper = match self.model {
            Model::Bpe(bpe) => guarded(origin, "model", || build_bpe(bpe))?.into(),
            Model::Unigram { vocab, unk_id, byte_fallback } => {
                guarded(origin, "model", || Unigram::from(vocab, unk_id, byte_fallback))?.into()
            }
        };
        let mut inner = Inner::new(model);
        guarded(origin, "normalizer", || inner.with_normalizer(self.normalizer).map(|_| ()))?;
        inner.with_pre_tokenizer(self.pre_tokenizer);
        inner.with_post_processor(self.post_processor);
        inner.with_decoder(self.decoder);
        let tokens: Vec<AddedToken> = self.added.iter().map(|(_, token)| token.clone()).collect();
        guarded(origin, "added_tokens", || inner.add_tokens(tokens))?;
        // The crate gives ids to added tokens by itself and only warns where they are not those of the file.
        for (index, (id, token)) in self.added.iter().enumerate() {
            let given = inner.token_to_id(&token.content);
            if given != Some(*id) {
                let expected = format!("id {} for {}", given.unwrap_or_default(), quote(&token.content));
                return Err(Error::tokenizer(
                    origin,
                    format!("added_tokens[{index}]"),
                    expected,
                    id.to_string(),
                ));
            }
        }
        Tokenizer::assemble(inner, cuts, backtracks, self.eos_ids, origin)
    }
}

fn build_bpe(bpe: Bpe) -> tokenizers::Result<BPE> {
    let mut builder = BPE::builder()
        .vocab_and_merges(bpe.vocab.into_iter().collect::<Vocab>(), bpe.merges)
        .fuse_unk(bpe.fuse_unk)
        .byte_fallback(bpe.byte_fallback)
        .ignore_merges(bpe.ignore_merges);
    if let Some(token) = bpe.unk_token {
        builder = builder.unk_token(token);
    }
    if let Some(prefix) = bpe.continuing_subword_prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = bpe.end_of_word_suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    builder.build()
}
