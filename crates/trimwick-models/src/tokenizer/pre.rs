//! Pre-tokenizers: how a text is split into words before merges.
//!
//! A GGUF file names its pre-tokenizer in `tokenizer.ggml.pre`; the names are llama.cpp's, the splits those of the
//! `tokenizer.json` that each name stands for.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::{Error, Result, quote};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const NUMBERS: &str = r"\p{N}+";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";

/// Patterns none of whose matches holds a letter followed by a space, and none of which looks behind or, from a letter,
/// ahead: what [`super::cuts`] needs to know of a pattern.
pub(super) const PATTERNS: [&str; 7] = [GPT2, LLAMA3, QWEN2, TEKKEN, PUNCTUATION, NUMBERS, THREE_DIGITS];

/// What a name in `tokenizer.ggml.pre` stands for.
pub(super) struct Pre {
    pub splitter: PreTokenizerWrapper,
    /// A word that is in the vocabulary is a token even if no merges lead to it.
    pub ignore_merges: bool,
    /// Unicode normalization form C comes first.
    pub nfc: bool,
    /// Whether a text begins with the beginning-of-text token where the file does not say.
    pub add_bos: bool,
}

/// One name for each split, the published one first.
pub(super) const NAMES: [&str; 6] = ["smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "default"];

/// The pre-tokenizer of a name; a file without the name has llama.cpp's `default`.
pub(super) fn named(name: Option<&str>, origin: &str) -> Result<Pre> {
    let pre = |splitter, ignore_merges, nfc, add_bos| Pre { splitter, ignore_merges, nfc, add_bos };
    let build = |patterns: &[&str]| {
        sequence(patterns).map_err(|e| {
            Error::tokenizer(origin, "tokenizer.ggml.pre", "a pattern that compiles", quote(&e.to_string()))
        })
    };
    Ok(match name.unwrap_or("default") {
        "smollm" => pre(digits_and_words(), false, false, false),
        "gpt-2" | "phi-2" => pre(ByteLevel::new(false, true, true).into(), false, false, false),
        "llama-bpe" | "llama3" | "llama-v3" => pre(build(&[LLAMA3])?, true, false, true),
        "qwen2" | "deepseek-r1-qwen" => pre(build(&[QWEN2])?, false, true, false),
        "tekken" => pre(build(&[TEKKEN])?, true, false, true),
        "default" => pre(build(&[PUNCTUATION, GPT2, NUMBERS, THREE_DIGITS])?, false, false, false),
        other => {
            let supported = "smollm, gpt-2, llama-bpe, qwen2, tekken, default; \
                             or convert from a folder with its tokenizer.json";
            return Err(Error::unsupported(origin, "pre-tokenizer (tokenizer.ggml.pre)", other, supported));
        }
    })
}

/// Digits one by one, then words as in GPT-2, as bytes: the pre-tokenizer called `smollm`.
pub(super) fn digits_and_words() -> PreTokenizerWrapper {
    let parts = vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
    Sequence::new(parts).into()
}

/// Each pattern splits further what the ones before it left; then bytes.
fn sequence(patterns: &[&str]) -> tokenizers::Result<PreTokenizerWrapper> {
    let mut parts: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in patterns {
        let pattern = SplitPattern::Regex((*pattern).to_string());
        parts.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    parts.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(parts).into())
}
