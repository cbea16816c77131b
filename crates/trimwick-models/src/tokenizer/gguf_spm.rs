//! SentencePiece BPE from GGUF metadata (`tokenizer.ggml.model` = `llama`): Llama 1 and 2, TinyLlama, Mistral 7B.
//!
//! SentencePiece keeps no merges: it joins the neighbours whose joined token has the highest score, the leftmost of
//! equals. The same result comes from a list of merges: every way to split a token into two others, ordered by the
//! token's score. That is how Hugging Face's own converter makes their `tokenizer.json`, with ties ordered by the ids of
//! the parts.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{DecoderWrapper, NormalizerWrapper};
use trimwick_formats::gguf::GgufFile;

use super::blueprint::{Blueprint, Bpe, Model, Names};
use super::gguf_bpe::{Vocabulary, token_type};
use super::guarded;
use crate::error::{Error, Result};

const NAMES: Names = Names { vocab: "tokenizer.ggml.tokens", merges: "tokenizer.ggml.scores" };
/// What stands for a space inside tokens.
const MARK: &str = "▁";

pub(super) fn read(file: &GgufFile, origin: &str) -> Result<Blueprint> {
    let vocab = Vocabulary::read(file, origin)?;
    let scores = match file.get_f32s(NAMES.merges)? {
        Some(scores) if scores.len() == vocab.tokens.len() => scores,
        Some(scores) => {
            let expected = format!("{} entries, one per token", vocab.tokens.len());
            return Err(Error::tokenizer(origin, NAMES.merges, expected, scores.len().to_string()));
        }
        None => return Err(Error::tokenizer(origin, NAMES.merges, "a score for each token", "nothing")),
    };
    if let Some(i) = scores.iter().position(|s| s.is_nan()) {
        return Err(Error::tokenizer(origin, format!("{}[{i}]", NAMES.merges), "a number", "NaN"));
    }
    let unk = vocab.id(file, "unknown_token_id", origin)?.or_else(|| {
        vocab.types.iter().position(|&t| t == token_type::UNKNOWN).and_then(|i| u32::try_from(i).ok())
    });
    let bpe = Bpe {
        vocab: vocab.pairs(),
        merges: merges(vocab.tokens, &vocab.types, scores),
        unk_token: unk.map(|id| vocab.tokens[id as usize].clone()),
        fuse_unk: true,
        byte_fallback: vocab.types.contains(&token_type::BYTE),
        ..Bpe::default()
    };
    bpe.check(&NAMES, origin)?;
    let prefix = file.get_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    Ok(Blueprint {
        model: Model::Bpe(bpe),
        added: vocab.added(&[token_type::UNKNOWN, token_type::CONTROL]),
        normalizer: Some(guarded(origin, "normalizer", || normalizer(prefix))?),
        pre_tokenizer: None,
        post_processor: vocab.template(file, true, origin)?,
        decoder: Some(guarded(origin, "decoder", || decoder(prefix))?),
        eos_ids: vocab.eos_ids(file, origin)?,
    })
}

fn normalizer(prefix: bool) -> tokenizers::Result<NormalizerWrapper> {
    let mark = Replace::new(" ", MARK)?;
    Ok(match prefix {
        true => Sequence::new(vec![Prepend::new(MARK.into()).into(), mark.into()]).into(),
        false => mark.into(),
    })
}

fn decoder(prefix: bool) -> tokenizers::Result<DecoderWrapper> {
    let mut steps: Vec<DecoderWrapper> =
        vec![Replace::new(MARK, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(steps).into())
}

/// Every pair of tokens that joins into a token, best score first. Control, unknown and byte tokens take no part: text
/// must not merge into them.
pub(super) fn merges(tokens: &[String], types: &[i32], scores: &[f32]) -> Vec<(String, String)> {
    let takes_part = |id: usize| {
        matches!(types[id], 0 | token_type::NORMAL | token_type::USER_DEFINED | token_type::UNUSED)
    };
    let ids: HashMap<&str, usize> =
        (0..tokens.len()).filter(|&id| takes_part(id)).map(|id| (tokens[id].as_str(), id)).collect();
    // (score, id of the token, ids of its parts)
    let mut found = Vec::new();
    for (&token, &id) in &ids {
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                found.push((scores[id], id, left, right));
            }
        }
    }
    found.sort_unstable_by(|a, b| {
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)).then(a.3.cmp(&b.3))
    });
    found.into_iter().map(|(_, _, left, right)| (tokens[left].clone(), tokens[right].clone())).collect()
}
