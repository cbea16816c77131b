//! Reading `tokenizer.json` from strangers: everything that makes the crate below panic, or that it would take silently
//! for something else, is found here first.

use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use tokenizers::AddedToken;

use super::blueprint::{Blueprint, Bpe, Model, Names, check_vocab};
use super::parts::part;
use crate::error::{Error, Result, quote, show};

const NAMES: Names = Names { vocab: "model.vocab", merges: "model.merges" };
/// Published files have at most a few thousand added tokens.
const MAX_ADDED: usize = 1 << 20;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: Option<Value>,
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: RawModel,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct RawModel {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: Vocab,
    #[serde(default)]
    merges: Option<Vec<Merge>>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u64>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
}

/// Reads and checks the text of a `tokenizer.json`.
pub(super) fn read(text: &str, origin: &str) -> Result<Blueprint> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // serde_json itself refuses to nest deeper than 128, which keeps hostile nesting off the stack.
    let file: File = serde_json::from_str(text)
        .map_err(|e| Error::Json { origin: origin.into(), reason: quote_reason(&e.to_string()) })?;
    if let Some(version) = file.version.filter(|v| v != "1.0") {
        return Err(Error::tokenizer(origin, "version", "\"1.0\"", show(&version)));
    }
    let model = model(file.model, origin)?;
    let added = added(file.added_tokens.unwrap_or_default(), &model, origin)?;
    Ok(Blueprint {
        model,
        added,
        normalizer: part(file.normalizer, "normalizer", origin)?,
        pre_tokenizer: part(file.pre_tokenizer, "pre_tokenizer", origin)?,
        post_processor: part(file.post_processor, "post_processor", origin)?,
        decoder: part(file.decoder, "decoder", origin)?,
        eos_ids: Vec::new(),
    })
}

/// The parser quotes unknown names from the file as they are.
fn quote_reason(reason: &str) -> String {
    let clean: String = reason.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clean.chars().count() > 300 { clean.chars().take(300).collect::<String>() + "…" } else { clean }
}

fn model(raw: RawModel, origin: &str) -> Result<Model> {
    if raw.dropout.is_some_and(|p| p != 0.0) {
        let found = raw.dropout.unwrap_or_default().to_string();
        return Err(Error::tokenizer(
            origin,
            "model.dropout",
            "0 or null: encoding must not be random",
            found,
        ));
    }
    match (raw.kind.as_deref(), raw.vocab) {
        // Old files leave the type out.
        (Some("BPE") | None, Vocab::Map(vocab)) => {
            let Some(merges) = raw.merges else {
                return Err(Error::tokenizer(origin, "model.merges", "a list", "nothing"));
            };
            let bpe = Bpe {
                vocab,
                merges: merges.into_iter().filter_map(|Merge(pair)| pair).collect(),
                unk_token: raw.unk_token,
                continuing_subword_prefix: raw.continuing_subword_prefix.filter(|p| !p.is_empty()),
                end_of_word_suffix: raw.end_of_word_suffix.filter(|s| !s.is_empty()),
                fuse_unk: raw.fuse_unk.unwrap_or(false),
                byte_fallback: raw.byte_fallback.unwrap_or(false),
                ignore_merges: raw.ignore_merges.unwrap_or(false),
            };
            bpe.check(&NAMES, origin)?;
            Ok(Model::Bpe(bpe))
        }
        (Some("Unigram"), Vocab::List(vocab)) => {
            unigram(vocab, raw.unk_id, raw.byte_fallback.unwrap_or(false), origin)
        }
        (Some("BPE") | None, Vocab::List(_)) => {
            Err(Error::tokenizer(origin, NAMES.vocab, "a table of tokens and ids", "a list"))
        }
        (Some("Unigram"), Vocab::Map(_)) => {
            Err(Error::tokenizer(origin, NAMES.vocab, "a list of tokens and scores", "a table"))
        }
        (Some(other), _) => Err(Error::unsupported(origin, "tokenizer model", other, "BPE, Unigram")),
    }
}

fn unigram(
    vocab: Vec<(String, f64)>,
    unk_id: Option<u64>,
    byte_fallback: bool,
    origin: &str,
) -> Result<Model> {
    let ids: Vec<(String, u32)> = vocab
        .iter()
        .enumerate()
        .map(|(id, (token, _))| (token.clone(), id.min(u32::MAX as usize) as u32))
        .collect();
    check_vocab(&ids, NAMES.vocab, origin)?;
    for (id, (token, score)) in vocab.iter().enumerate() {
        if !score.is_finite() || token.is_empty() {
            let expected = "tokens of at least one character with finite scores";
            let found = format!("{} with {score}", quote(token));
            return Err(Error::tokenizer(origin, format!("{}[{id}]", NAMES.vocab), expected, found));
        }
    }
    let unk_id = unk_id.and_then(|id| usize::try_from(id).ok());
    if unk_id.is_some_and(|id| id >= vocab.len()) {
        let expected = format!("an id below {}", vocab.len());
        return Err(Error::tokenizer(
            origin,
            "model.unk_id",
            expected,
            unk_id.unwrap_or_default().to_string(),
        ));
    }
    Ok(Model::Unigram { vocab, unk_id, byte_fallback })
}

fn added(list: Vec<Added>, model: &Model, origin: &str) -> Result<Vec<(u32, AddedToken)>> {
    if list.len() > MAX_ADDED {
        let expected = format!("at most {MAX_ADDED} entries");
        return Err(Error::tokenizer(origin, "added_tokens", expected, list.len().to_string()));
    }
    let pairs: Vec<(String, u32)> =
        list.iter().map(|a| (a.content.clone(), u32::try_from(a.id).unwrap_or(u32::MAX))).collect();
    if !pairs.is_empty() {
        check_vocab(&pairs, "added_tokens", origin)?;
    }
    let by_id: std::collections::HashMap<u32, &str> = match model {
        Model::Bpe(bpe) => bpe.vocab.iter().map(|(token, id)| (*id, token.as_str())).collect(),
        Model::Unigram { vocab, .. } => {
            vocab.iter().enumerate().map(|(id, (token, _))| (id as u32, token.as_str())).collect()
        }
    };
    for (index, (content, id)) in pairs.iter().enumerate() {
        let at = || format!("added_tokens[{index}]");
        if content.is_empty() {
            return Err(Error::tokenizer(origin, at(), "a token of at least one character", "an empty one"));
        }
        if let Some(other) = by_id.get(id).filter(|other| **other != content) {
            let expected = format!("an id of its own for {}", quote(content));
            return Err(Error::tokenizer(origin, at(), expected, format!("{id}, which is {}", quote(other))));
        }
    }
    let token = |a: Added| AddedToken {
        normalized: a.normalized.unwrap_or(!a.special),
        content: a.content,
        single_word: a.single_word,
        lstrip: a.lstrip,
        rstrip: a.rstrip,
        special: a.special,
    };
    Ok(pairs.iter().map(|(_, id)| *id).zip(list.into_iter().map(token)).collect())
}

/// `model.vocab`: tokens to ids (BPE) or pairs of token and score (Unigram). Repeated tokens are kept, to be refused.
enum Vocab {
    Map(Vec<(String, u32)>),
    List(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table of tokens and ids or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocab, A::Error> {
                let mut vocab = Vec::new();
                while let Some((token, id)) = map.next_entry::<String, u64>()? {
                    let id = u32::try_from(id)
                        .map_err(|_| A::Error::custom(format!("token id {id} in model.vocab")))?;
                    vocab.push((token, id));
                }
                Ok(Vocab::Map(vocab))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vocab, A::Error> {
                let mut vocab = Vec::new();
                while let Some(entry) = seq.next_element::<(String, f64)>()? {
                    vocab.push(entry);
                }
                Ok(Vocab::List(vocab))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// A merge: `"left right"` in old files, `["left", "right"]` in new ones. Old files may begin with a line that is none.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E: de::Error>(self, merge: &str) -> std::result::Result<Merge, E> {
                match merge.split_once(' ') {
                    Some(("#version:", _)) => Ok(Merge(None)),
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(Merge(Some((left.into(), right.into()))))
                    }
                    _ => Err(E::invalid_value(de::Unexpected::Str(merge), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Merge, A::Error> {
                let mut next =
                    |n| seq.next_element::<String>()?.ok_or_else(|| A::Error::invalid_length(n, &self));
                let merge = Merge(Some((next(0)?, next(1)?)));
                match seq.next_element::<de::IgnoredAny>()? {
                    None => Ok(merge),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(V)
    }
}
