//! The small tables of `tokenizer.json`: normalizer, pre-tokenizer, post-processor, decoder.
//!
//! The `tokenizers` crate reads and runs them. Each rule here is a way to make it panic or hang that it does not look for
//! itself; most were found by mutating files. Rules go by the shape of a table and not by its type, since the crate also
//! takes tables whose type is missing or wrong.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::utils::SysRegex;

use super::{guarded, regex};
use crate::error::{Error, Result, quote, show};

/// Published files nest their parts at most four deep.
const MAX_DEPTH: usize = 16;

/// Reads the table under the key `at`, if there is one.
pub(super) fn part<T: DeserializeOwned>(value: Option<Value>, at: &str, origin: &str) -> Result<Option<T>> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    if !value.is_object() {
        return Err(Error::tokenizer(origin, at, "a table or null", show(&value)));
    }
    check(&value, at, origin, 0)?;
    guarded(origin, at, || Ok(serde_json::from_value(value)?)).map(Some)
}

fn check(value: &Value, at: &str, origin: &str, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::tokenizer(origin, at, format!("parts at most {MAX_DEPTH} deep"), "deeper ones"));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(i, item)| check(item, &format!("{at}[{i}]"), origin, depth + 1)),
        Value::Object(map) => {
            check_template(map, at, origin)?;
            for (key, item) in map {
                let at = format!("{at}.{}", quote(key).trim_matches('"'));
                if let Some((expected, found)) = fault(map, key, item) {
                    return Err(Error::tokenizer(origin, at, expected, found));
                }
                check(item, &at, origin, depth + 1)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What is wrong with one entry of a table: what it must be, and what it is.
fn fault(table: &Map<String, Value>, key: &str, item: &Value) -> Option<(&'static str, String)> {
    let text = item.as_str();
    match key {
        "Regex" => text.and_then(regex::refusal).map(|found| ("a pattern that takes linear time", found)),
        "String" | "prepend" if text == Some("") => Some(("at least one character", "none".into())),
        "length" if item.as_u64() == Some(0) => Some(("at least 1", "0".into())),
        "normalizers" | "pretokenizers" | "processors" | "decoders" => {
            let odd = item.as_array()?.iter().find(|part| !part.is_object())?;
            Some(("a list of tables", show(odd)))
        }
        // A replacement of nothing by something breaks the crate's alignments.
        "pattern" if table.contains_key("content") => {
            let pattern = item.get("Regex")?.as_str()?;
            matches_nothing(pattern)
                .then(|| ("a pattern that matches at least one character", quote(pattern)))
        }
        _ => None,
    }
}

/// Whether a pattern matches the empty string somewhere.
fn matches_nothing(pattern: &str) -> bool {
    // A pattern that does not compile is refused when the crate reads it.
    let Ok(regex) = SysRegex::new(pattern) else { return false };
    ["", "a", " ", "▁a b", "1.\n"]
        .iter()
        .any(|sample| regex.find_iter(sample).any(|(start, end)| start == end))
}

/// Every special token that a template names must be declared in it: the crate looks it up without asking.
fn check_template(table: &Map<String, Value>, at: &str, origin: &str) -> Result<()> {
    let Some(declared) = table.get("special_tokens") else { return Ok(()) };
    for list in ["single", "pair"] {
        for piece in table.get(list).and_then(Value::as_array).into_iter().flatten() {
            let Some(id) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) else { continue };
            if declared.get(id).is_none() {
                let expected = "names that special_tokens declares";
                return Err(Error::tokenizer(origin, format!("{at}.{list}"), expected, quote(id)));
            }
        }
    }
    Ok(())
}
