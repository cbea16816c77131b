//! Training a byte-level BPE vocabulary.

use std::collections::HashSet;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, Model as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

use super::blueprint::{Blueprint, Bpe, Model};
use super::{Tokenizer, cuts, guarded, pre};
use crate::config::MAX_VOCAB;
use crate::error::{Error, Result, quote};

const ORIGIN: &str = "tokenizer training";

pub(super) fn train(texts: &[&str], vocab_size: usize, specials: &[&str]) -> Result<Tokenizer> {
    let distinct: HashSet<&str> = specials.iter().copied().collect();
    if distinct.len() < specials.len() || distinct.contains("") {
        let found = format!("{specials:?}");
        return Err(Error::tokenizer(ORIGIN, "special tokens", "distinct texts, none empty", found));
    }
    let least = 256 + specials.len();
    if vocab_size < least || vocab_size > MAX_VOCAB {
        return Err(Error::tokenizer(
            ORIGIN,
            "vocab_size",
            format!("{least} to {MAX_VOCAB}"),
            vocab_size.to_string(),
        ));
    }
    let splitter = pre::digits_and_words();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.iter().map(|s| AddedToken::from(*s, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let words = |piece: &str| -> tokenizers::Result<Vec<String>> {
        let mut split = PreTokenizedString::from(piece);
        splitter.pre_tokenize(&mut split)?;
        let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(words.into_iter().map(|(word, _, _)| word.to_string()).collect())
    };
    let cut = cuts::Cuts::for_words();
    let pieces = texts.iter().flat_map(|text| cut.pieces(text));
    guarded(ORIGIN, "texts", || trainer.feed(pieces, words))?;
    let mut model = BPE::default();
    guarded(ORIGIN, "merges", || trainer.train(&mut model))?;
    if model.get_vocab_size() != vocab_size {
        let expected = format!("texts with {vocab_size} frequent tokens, or a smaller vocab_size");
        let found = format!("{} tokens", model.get_vocab_size());
        return Err(Error::tokenizer(ORIGIN, "vocab_size", expected, found));
    }
    Blueprint {
        model: Model::Bpe(parts(&model)?),
        added: (0..).zip(specials).map(|(id, token)| (id, AddedToken::from(*token, true))).collect(),
        normalizer: None,
        pre_tokenizer: Some(splitter),
        post_processor: None,
        decoder: Some(ByteLevelDecoder::default().into()),
        eos_ids: if specials.is_empty() { Vec::new() } else { vec![0] },
    }
    .build(ORIGIN)
}

/// The vocabulary and merges of a trained model, which shows them only when it is written out.
fn parts(model: &BPE) -> Result<Bpe> {
    let wrong = |found: &str| Error::tokenizer(ORIGIN, "model", "a vocabulary and merges", quote(found));
    let value = serde_json::to_value(model).map_err(|e| wrong(&e.to_string()))?;
    let merges = value["merges"].as_array().ok_or_else(|| wrong("no merges"))?;
    let pair = |m: &serde_json::Value| Some((m[0].as_str()?.to_string(), m[1].as_str()?.to_string()));
    let merges = merges.iter().map(pair).collect::<Option<Vec<_>>>().ok_or_else(|| wrong("odd merges"))?;
    let mut vocab: Vec<(String, u32)> = model.get_vocab().into_iter().collect();
    vocab.sort_unstable_by_key(|(_, id)| *id);
    Ok(Bpe { vocab, merges, ..Bpe::default() })
}
