//! HellaSwag (arXiv 1905.07830).

use serde::Deserialize;

use super::item::Item;
use super::json::{Gold, Line};
use crate::Result;

pub(super) const FORM: &str = r#"{"activity_label": text, "ctx_a": text, "ctx_b": text, "endings": [texts], "label": index} ("ctx" in the place of ctx_a and ctx_b is understood)"#;

#[derive(Deserialize)]
struct Raw {
    activity_label: String,
    ctx_a: Option<String>,
    ctx_b: Option<String>,
    ctx: Option<String>,
    endings: Vec<String>,
    label: Gold,
}

pub(super) fn item(line: Line<'_>) -> Result<Item> {
    let raw: Raw = line.parse(FORM)?;
    let gold = raw.label.index(&line, "label", line.enough(raw.endings.len())?)?;
    let context = match (raw.ctx_a, raw.ctx_b, raw.ctx) {
        (Some(a), Some(b), _) => format!("{a} {}", capitalized(&b)),
        (_, _, Some(ctx)) => ctx,
        _ => return Err(line.fault(FORM, "neither ctx_a with ctx_b nor ctx")),
    };
    let query = cleaned(&format!("{}: {context}", raw.activity_label));
    Ok(line.item(query, raw.endings.iter().map(|ending| cleaned(ending)).collect(), gold))
}

/// The first letter large and all others small, which is what Python calls capitalized.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect()
    })
}

/// The text without the marks that WikiHow's pages left.
fn cleaned(text: &str) -> String {
    without_brackets(&text.trim().replace(" [title]", ". ")).replace("  ", " ")
}

/// The text without its parts in brackets, each up to the next closing one on the same line.
fn without_brackets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let inner = &rest[open + 1..];
        out.push_str(&rest[..open]);
        rest = match inner.find([']', '\n']) {
            Some(end) if inner[end..].starts_with(']') => &inner[end + 1..],
            // Up to the line break no bracket closes.
            Some(end) => {
                out.push_str(&rest[open..open + 1 + end]);
                &inner[end..]
            }
            None => {
                out.push_str(&rest[open..]);
                ""
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_harness_cleans_them() {
        // Each pair from Python 3: strip, replace, re.sub(r"\[.*?\]", "", …), replace.
        for (text, expected) in [
            (" How to knit [title] Start [step] here ", "How to knit. Start here"),
            ("a [b [c] d] e", "a d] e"),
            ("a [b\nc] d [e] f", "a [b\nc] d f"),
            ("open [only", "open [only"),
            ("[a][b]", ""),
            ("three   spaces", "three  spaces"),
        ] {
            assert_eq!(cleaned(text), expected, "{text:?}");
        }
        for (text, expected) in [("the iPhone X", "The iphone x"), ("", ""), ("éA", "Éa")] {
            assert_eq!(capitalized(text), expected);
        }
    }
}
