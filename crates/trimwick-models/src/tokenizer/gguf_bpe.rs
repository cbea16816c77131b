//! Byte-level BPE from GGUF metadata (`tokenizer.ggml.model` = `gpt2`).

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::normalizers::NFC;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing, Tokens};
use tokenizers::{AddedToken, PostProcessorWrapper};
use trimwick_formats::gguf::GgufFile;

use super::blueprint::{Blueprint, Bpe, Model, Names};
use super::pre;
use crate::error::{Error, Result, quote};

const NAMES: Names = Names { vocab: "tokenizer.ggml.tokens", merges: "tokenizer.ggml.merges" };

/// What `tokenizer.ggml.token_type` says of a token.
pub(super) mod token_type {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

pub(super) fn read(file: &GgufFile, origin: &str) -> Result<Blueprint> {
    let pre = pre::named(file.get_str("tokenizer.ggml.pre")?, origin)?;
    let vocab = Vocabulary::read(file, origin)?;
    let Some(merges) = file.get_strings(NAMES.merges)? else {
        return Err(Error::tokenizer(origin, NAMES.merges, "a list of merges", "nothing"));
    };
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        // A space that belongs to the left token can only be its first character.
        let split = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let Some(split) = split.filter(|&at| at + 1 < merge.len()) else {
            let at = format!("{}[{rank}]", NAMES.merges);
            return Err(Error::tokenizer(origin, at, "two tokens with a space between", quote(merge)));
        };
        pairs.push((merge[..split].to_string(), merge[split + 1..].to_string()));
    }
    let bpe = Bpe { vocab: vocab.pairs(), merges: pairs, ignore_merges: pre.ignore_merges, ..Bpe::default() };
    bpe.check(&NAMES, origin)?;
    let added = vocab.added(&[token_type::UNKNOWN, token_type::CONTROL]);
    Ok(Blueprint {
        model: Model::Bpe(bpe),
        added,
        normalizer: pre.nfc.then(|| NFC.into()),
        pre_tokenizer: Some(pre.splitter),
        post_processor: vocab.template(file, pre.add_bos, origin)?,
        decoder: Some(ByteLevel::default().into()),
        eos_ids: vocab.eos_ids(file, origin)?,
    })
}

/// The token list of a GGUF file with the type of each.
pub(super) struct Vocabulary<'a> {
    pub tokens: &'a [String],
    pub types: Vec<i32>,
}

impl<'a> Vocabulary<'a> {
    pub fn read(file: &'a GgufFile, origin: &str) -> Result<Self> {
        let tokens = file.get_strings(NAMES.vocab)?.unwrap_or_default();
        if tokens.is_empty() {
            return Err(Error::tokenizer(origin, NAMES.vocab, "at least one token", "none"));
        }
        let key = "tokenizer.ggml.token_type";
        let types = match file.get_i32s(key)? {
            Some(types) if types.len() == tokens.len() => types.to_vec(),
            Some(types) => {
                let expected = format!("{} entries, one per token", tokens.len());
                return Err(Error::tokenizer(origin, key, expected, types.len().to_string()));
            }
            None => vec![token_type::NORMAL; tokens.len()],
        };
        let known = token_type::NORMAL..=token_type::BYTE;
        if let Some(i) = types.iter().position(|t| !known.contains(t) && *t != 0) {
            return Err(Error::tokenizer(origin, format!("{key}[{i}]"), "0 to 6", types[i].to_string()));
        }
        Ok(Self { tokens, types })
    }

    /// Tokens with their ids. Lists of more than 2³² tokens cannot be in a file that was opened.
    pub fn pairs(&self) -> Vec<(String, u32)> {
        self.tokens.iter().cloned().zip(0..).collect()
    }

    /// The tokens that are looked for in the text itself: special ones, of the types in `special`, and the user's.
    pub fn added(&self, special: &[i32]) -> Vec<(u32, AddedToken)> {
        let typed = (0..).zip(self.tokens.iter().zip(&self.types));
        typed
            .filter(|(_, (token, kind))| {
                !token.is_empty() && (special.contains(kind) || **kind == token_type::USER_DEFINED)
            })
            .map(|(id, (token, kind))| {
                (id, AddedToken::from(token.clone(), special.contains(kind)).normalized(false))
            })
            .collect()
    }

    /// An id key, checked against the token list.
    pub fn id(&self, file: &GgufFile, name: &str, origin: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        match file.get_u32(&key)? {
            Some(id) if id as usize >= self.tokens.len() => {
                let expected = format!("an id below {}", self.tokens.len());
                Err(Error::tokenizer(origin, key, expected, id.to_string()))
            }
            id => Ok(id),
        }
    }

    pub fn eos_ids(&self, file: &GgufFile, origin: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.id(file, name, origin)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    /// The template that puts special tokens around a text, if any are.
    pub fn template(
        &self,
        file: &GgufFile,
        add_bos: bool,
        origin: &str,
    ) -> Result<Option<PostProcessorWrapper>> {
        let add_bos = file.get_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = file.get_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let bos = if add_bos { self.id(file, "bos_token_id", origin)? } else { None };
        let eos = if add_eos { self.id(file, "eos_token_id", origin)? } else { None };
        if bos.is_none() && eos.is_none() {
            return Ok(None);
        }
        // The template refers to tokens by name; the names here are ours, since a token may hold any character.
        let mut single = vec!["$A".to_string()];
        let mut specials = Vec::new();
        let mut put = |name: &str, id: u32| {
            let token = self.tokens[id as usize].clone();
            SpecialToken::new(name.into(), vec![id], vec![token]).map(|special| specials.push(special))
        };
        let wrong = |e: &dyn std::fmt::Display| {
            Error::tokenizer(origin, "template", "special tokens around a text", quote(&e.to_string()))
        };
        if let Some(id) = bos {
            single.insert(0, "<bos>".into());
            put("<bos>", id).map_err(|e| wrong(&e))?;
        }
        if let Some(id) = eos {
            single.push("<eos>".into());
            put("<eos>", id).map_err(|e| wrong(&e))?;
        }
        let template = TemplateProcessing::builder()
            .try_single(single.clone())
            .map_err(|e| wrong(&e))?
            .special_tokens(Tokens::from(specials))
            .build()
            .map_err(|e| wrong(&e))?;
        Ok(Some(template.into()))
    }
}
