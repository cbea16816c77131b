//! Files that go along with the weights.

use std::path::Path;

use serde_json::Value;
use trimwick_formats::{atomic_write, read_small};

use crate::Result;

/// Files of a model's folder that other programs read.
const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];
const LARGEST: u64 = 64 << 20;

/// Copies what is there of the companions from one folder to another.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        if let Some(bytes) = read_small(from.join(name), LARGEST)? {
            atomic_write(to.join(name), &bytes)?;
        }
    }
    Ok(())
}

/// The chat template of a model's folder.
pub(crate) fn chat_template(folder: &Path) -> Result<Option<String>> {
    if let Some(bytes) = read_small(folder.join("chat_template.jinja"), LARGEST)? {
        return Ok(String::from_utf8(bytes).ok());
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let json: Option<Value> =
            read_small(folder.join(name), LARGEST)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(template) = json.as_ref().and_then(|json| json.get("chat_template")?.as_str()) {
            return Ok(Some(template.into()));
        }
    }
    Ok(None)
}
