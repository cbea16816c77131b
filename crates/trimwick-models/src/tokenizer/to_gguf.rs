//! A tokenizer as GGUF metadata, so that llama.cpp gives the same ids; the way back of [`super::gguf_bpe`] and
//! [`super::gguf_spm`].
//!
//! GGUF has names for pre-tokenizers where `tokenizer.json` has patterns, and scores where it has merges. A tokenizer is
//! written only where its parts are those of a name, and where the scores give its merges back; else it is refused, since
//! other ids would be worse than none.

use std::collections::BTreeMap;

use serde_json::Value;
use trimwick_formats::gguf::{Array, Value as Gguf};

use super::gguf_bpe::token_type;
use super::{Tokenizer, gguf_spm, guarded, pre};
use crate::config::LlamaConfig;
use crate::error::{Error, Result, quote};

/// What stands for a space inside the tokens of SentencePiece.
const MARK: &str = "▁";

/// What is written beside the vocabulary.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
}

impl Tokenizer {
    /// The keys `tokenizer.ggml.*` of this tokenizer for a model of `config`, and `tokenizer.chat_template`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tokenizer that GGUF has no name for, or that is not byte-level BPE or SentencePiece BPE;
    /// [`Error::Tokenizer`] for ids beyond the vocabulary of the model.
    pub fn to_gguf(&self, config: &LlamaConfig, chat_template: Option<&str>) -> Result<Vec<(String, Gguf)>> {
        let json: Value = serde_json::from_str(&self.to_json()?)
            .map_err(|e| Error::Json { origin: self.origin.clone(), reason: e.to_string() })?;
        let mut out = Vec::new();
        let mut put = |key: &str, value| out.push((format!("tokenizer.ggml.{key}"), value));
        let string = |text: &str| Gguf::String(text.into());
        let vocab = self.vocabulary(&json, config.vocab_size)?;
        let unknown = json.pointer("/model/unk_token").and_then(Value::as_str);
        if json.pointer("/model/type").and_then(Value::as_str) != Some("BPE") {
            return Err(self.unnamed("a model that is not BPE"));
        }
        let merges = self.merges(&json)?;
        match self.pre_name(&json)? {
            Some(name) => {
                put("model", string("gpt2"));
                put("pre", string(name));
                let joined = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
                put("merges", Gguf::Array(Array::String(joined)));
            }
            None => {
                let prefix = self.sentencepiece(&json)?;
                put("model", string("llama"));
                put("pre", string("default"));
                put("scores", Gguf::Array(Array::F32(self.scores(&vocab, &merges)?)));
                put("add_space_prefix", Gguf::Bool(prefix));
            }
        }
        put("tokens", Gguf::Array(Array::String(vocab.tokens)));
        put("token_type", Gguf::Array(Array::I32(vocab.types)));
        // Every id that llama.cpp would otherwise take from its own defaults.
        let eos = self.eos_ids.first().or(config.eos_token_ids.first()).copied();
        let bos = self.before.first().copied().or(config.bos_token_id).or(eos).unwrap_or_default();
        let eos = eos.unwrap_or(bos);
        let unknown = unknown.and_then(|token| self.token_to_id(token)).unwrap_or(eos);
        for (key, id) in [("bos", bos), ("eos", eos), ("unknown", unknown), ("padding", eos)] {
            put(&format!("{key}_token_id"), Gguf::U32(id));
        }
        if let Some(&eot) = config.eos_token_ids.iter().find(|&&id| id != eos) {
            put("eot_token_id", Gguf::U32(eot));
        }
        match (&self.before[..], &self.after[..]) {
            ([], []) => {}
            ([first], []) if *first == bos => {}
            ([first], [last]) if *first == bos && *last == eos => {}
            ([], [last]) if *last == eos => {}
            _ => {
                return Err(
                    self.unnamed("a template of other tokens than one at the beginning and one at the end")
                );
            }
        }
        put("add_bos_token", Gguf::Bool(!self.before.is_empty()));
        put("add_eos_token", Gguf::Bool(!self.after.is_empty()));
        if let Some(template) = chat_template {
            out.push(("tokenizer.chat_template".into(), Gguf::String(template.into())));
        }
        Ok(out)
    }

    fn unnamed(&self, found: &str) -> Error {
        let supported = "byte-level BPE split as smollm, gpt-2, llama-bpe, qwen2, tekken or default do; \
                         SentencePiece BPE; or export for Hugging Face";
        Error::unsupported(&self.origin, "tokenizer in GGUF", found, supported)
    }

    /// Every token by id, with its type; ids that no token has are there as unused ones.
    fn vocabulary(&self, json: &Value, size: usize) -> Result<Vocabulary> {
        let mut tokens: Vec<Option<(String, i32)>> = vec![None; size];
        let added = json.get("added_tokens").and_then(Value::as_array);
        let vocab = json.pointer("/model/vocab").and_then(Value::as_object);
        let unknown = json.pointer("/model/unk_token").and_then(Value::as_str);
        let fallback = json.pointer("/model/byte_fallback").and_then(Value::as_bool).unwrap_or(false);
        let of_model = vocab.into_iter().flatten().map(|(token, id)| {
            let byte = fallback && is_byte(token);
            let kind = match () {
                () if Some(token.as_str()) == unknown => token_type::UNKNOWN,
                () if byte => token_type::BYTE,
                () => token_type::NORMAL,
            };
            (id.as_u64(), token.clone(), kind)
        });
        let of_list = added.into_iter().flatten().map(|token| {
            let text = token.get("content").and_then(Value::as_str).unwrap_or_default().to_string();
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            let kind = match special {
                true if Some(text.as_str()) == unknown => token_type::UNKNOWN,
                true => token_type::CONTROL,
                false => token_type::USER_DEFINED,
            };
            (token.get("id").and_then(Value::as_u64), text, kind)
        });
        for (id, token, kind) in of_model.chain(of_list) {
            let slot = id.and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
            match slot {
                Some(slot) => *slot = Some((token, kind)),
                // Added tokens beyond the embedding cannot be used, and are left out as transformers does.
                None if kind == token_type::CONTROL || kind == token_type::USER_DEFINED => {}
                None => {
                    let expected = format!("ids below vocab_size = {size}");
                    return Err(Error::tokenizer(&self.origin, "model.vocab", expected, quote(&token)));
                }
            }
        }
        let unused = |id: usize| (format!("[PAD{id}]"), token_type::UNUSED);
        let (tokens, types) =
            tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| unused(id))).unzip();
        Ok(Vocabulary { tokens, types })
    }

    fn merges(&self, json: &Value) -> Result<Vec<(String, String)>> {
        let list = json.pointer("/model/merges").and_then(Value::as_array);
        let pair = |merge: &Value| match merge {
            Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())),
            Value::Array(pair) => match &pair[..] {
                [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
                _ => None,
            },
            _ => None,
        };
        let merges: Option<Vec<_>> = list.into_iter().flatten().map(pair).collect();
        merges.ok_or_else(|| self.unnamed("merges of another form"))
    }

    /// llama.cpp's name of a byte-level pre-tokenizer; `None` where there is no byte level.
    fn pre_name(&self, json: &Value) -> Result<Option<&'static str>> {
        let steps = steps(json.get("pre_tokenizer"));
        if !steps.iter().any(|step| step.starts_with("ByteLevel")) {
            return Ok(None);
        }
        let nfc = match json.get("normalizer").filter(|n| !n.is_null()) {
            None => false,
            Some(n) if n.get("type").and_then(Value::as_str) == Some("NFC") => true,
            Some(n) => return Err(self.unnamed(&format!("the normalizer {}", n["type"]))),
        };
        let ignore_merges = json.pointer("/model/ignore_merges").and_then(Value::as_bool).unwrap_or(false);
        for name in pre::NAMES {
            let named = pre::named(Some(name), &self.origin)?;
            let splitter =
                guarded(&self.origin, "pre_tokenizer", || Ok(serde_json::to_value(&named.splitter)?))?;
            if self::steps(Some(&splitter)) == steps
                && (named.nfc, named.ignore_merges) == (nfc, ignore_merges)
            {
                return Ok(Some(name));
            }
        }
        Err(self.unnamed(&format!("byte-level BPE split by {}", quote(&steps.join(", ")))))
    }

    /// Whether a SentencePiece tokenizer puts a space in front of a text.
    fn sentencepiece(&self, json: &Value) -> Result<bool> {
        let normalizer = steps(json.get("normalizer"));
        let split = json.get("pre_tokenizer").is_some_and(|p| !p.is_null());
        let (prepend, replace) = (format!("Prepend {MARK}"), format!("Replace \" \" {MARK}"));
        match normalizer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [a, b] if a == prepend && b == replace && !split => Ok(true),
            [a] if a == replace && !split => Ok(false),
            _ => Err(self.unnamed("SentencePiece with another normalizer or a pre-tokenizer")),
        }
    }

    /// Scores whose order is that of the merges.
    fn scores(&self, vocab: &Vocabulary, merges: &[(String, String)]) -> Result<Vec<f32>> {
        let mut rank = BTreeMap::new();
        for (a, b) in merges {
            let next = rank.len();
            rank.entry(format!("{a}{b}")).or_insert(next);
        }
        let last = rank.len();
        let score = |(token, kind): (&String, &i32)| match (rank.get(token), *kind) {
            (Some(&rank), token_type::NORMAL | token_type::USER_DEFINED) => -(rank as f32),
            (_, token_type::NORMAL) => -(last as f32) - 1.,
            _ => 0.,
        };
        let scores: Vec<f32> = vocab.tokens.iter().zip(&vocab.types).map(score).collect();
        match gguf_spm::merges(&vocab.tokens, &vocab.types, &scores) == merges {
            true => Ok(scores),
            false => Err(self.unnamed("BPE whose merges no scores give")),
        }
    }
}

/// Whether a token is that of a byte, `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// The steps of a normalizer or pre-tokenizer in words that are equal where they do the same.
fn steps(part: Option<&Value>) -> Vec<String> {
    let Some(part) = part.filter(|part| !part.is_null()) else { return Vec::new() };
    let inner = ["pretokenizers", "normalizers"].iter().find_map(|key| part.get(key)?.as_array());
    if let Some(inner) = inner {
        return inner.iter().flat_map(|part| steps(Some(part))).collect();
    }
    let get = |key: &str| part.get(key).unwrap_or(&Value::Null);
    let pattern = || match (get("pattern").get("String"), get("pattern").get("Regex")) {
        (Some(text), _) => text.to_string(),
        (_, Some(regex)) => format!("/{}/", regex.as_str().unwrap_or_default()),
        _ => String::new(),
    };
    let text = |key: &str| get(key).as_str().unwrap_or_default().to_string();
    vec![match get("type").as_str() {
        Some("ByteLevel") => {
            let regex = get("use_regex").as_bool().unwrap_or(true);
            format!("ByteLevel {} {}", get("add_prefix_space"), regex)
        }
        Some("Split") => format!("Split {} {} {}", pattern(), text("behavior"), get("invert")),
        Some("Digits") => format!("Digits {}", get("individual_digits")),
        Some("Prepend") => format!("Prepend {}", text("prepend")),
        Some("Replace") => format!("Replace {} {}", pattern(), text("content")),
        other => other.unwrap_or("unnamed").to_string(),
    }]
}

#[cfg(test)]
mod tests {
    use trimwick_formats::ByteSource;
    use trimwick_formats::gguf::{GgufFile, Writer};

    use super::*;

    fn golden(name: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
    }

    /// A configuration with so many tokens.
    fn config(vocab_size: usize) -> LlamaConfig {
        let text = std::fs::read_to_string(golden("llama2/config.json")).unwrap();
        LlamaConfig { vocab_size, ..LlamaConfig::from_hf_json(&text, "test").unwrap() }
    }

    fn there_and_back(tokenizer: &Tokenizer, vocab_size: usize) -> (GgufFile, Tokenizer) {
        let keys = tokenizer.to_gguf(&config(vocab_size), Some("{{ x }}")).unwrap();
        let mut bytes = Vec::new();
        Writer::new(&keys, []).unwrap().write_to(&mut bytes).unwrap();
        let file = GgufFile::from_source(ByteSource::memory(bytes, "written")).unwrap();
        let read = Tokenizer::from_gguf(&file, "written").unwrap();
        (file, read)
    }

    #[test]
    fn every_kind_of_tokenizer_gives_the_same_ids_from_gguf() {
        let prose: String =
            std::fs::read_to_string(golden("prose.txt")).unwrap().chars().take(20_000).collect();
        let texts = ["", "It's 1984:  naïve café\n\t日本語 👩‍👩‍👧 \r\n x ", "<|im_start|>a</s>b", &prose];
        for name in ["smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "default", "spm"] {
            let file = GgufFile::open(golden(&format!("tokenizers/{name}.gguf"))).unwrap();
            let tokenizer = Tokenizer::from_gguf(&file, name).unwrap();
            let size = tokenizer.vocab_size();
            // Beyond its tokens a model may have rows that no text leads to.
            let (written, read) = there_and_back(&tokenizer, size + 3);
            assert_eq!(written.get_strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), size + 3);
            assert_eq!(written.get_str("tokenizer.chat_template").unwrap(), Some("{{ x }}"));
            let pre = if name == "spm" { "default" } else { name };
            assert_eq!(written.get_str("tokenizer.ggml.pre").unwrap(), Some(pre));
            for text in texts {
                for special in [false, true] {
                    let (a, b) = (tokenizer.encode(text, special), read.encode(text, special));
                    assert_eq!(a.unwrap(), b.unwrap(), "{name} {special}: {text:.40}");
                }
            }
            assert_eq!(tokenizer.special_ids(), read.special_ids(), "{name}");
        }
    }

    #[test]
    fn what_gguf_has_no_name_for_is_refused() {
        let file = GgufFile::open(golden("tokenizers/smollm.gguf")).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file, "t").unwrap();
        let json: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
        let refused = |json: Value, size: usize| {
            let tokenizer = Tokenizer::from_json(&json.to_string(), "t").unwrap();
            tokenizer.to_gguf(&config(size), None).unwrap_err().to_string()
        };
        let size = tokenizer.vocab_size();
        let mut split = json.clone();
        split["pre_tokenizer"] = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        assert!(refused(split, size).contains("byte-level BPE split by"));
        let mut lower = json.clone();
        lower["normalizer"] = serde_json::json!({"type": "Lowercase"});
        assert!(refused(lower, size).contains("the normalizer"));
        let mut whole = json.clone();
        whole["pre_tokenizer"] = Value::Null;
        assert!(refused(whole, size).contains("SentencePiece with another normalizer"));
        assert!(refused(json, 40).contains("ids below vocab_size = 40"));
    }
}
