//! The project's own form of a question.

use serde::Deserialize;

use super::item::Item;
use super::json::{Gold, Line};
use crate::Result;

pub(super) const FORM: &str = r#"{"query": text, "choices": [texts], "gold": index or letter} ("context" and "answer" are understood too)"#;

#[derive(Deserialize)]
struct Raw {
    #[serde(alias = "context")]
    query: String,
    choices: Vec<String>,
    #[serde(alias = "answer")]
    gold: Gold,
    delimiter: Option<String>,
}

pub(super) fn item(line: Line<'_>) -> Result<Item> {
    let raw: Raw = line.parse(FORM)?;
    let gold = raw.gold.index_or_letter(&line, "gold", line.enough(raw.choices.len())?)?;
    let mut item = line.item(raw.query, raw.choices, gold);
    if let Some(delimiter) = raw.delimiter {
        item.delimiter = delimiter;
    }
    Ok(item)
}
