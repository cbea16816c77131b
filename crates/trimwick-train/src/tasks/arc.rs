//! ARC, the AI2 Reasoning Challenge (arXiv 1803.05457), as published and as on the hub.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::item::Item;
use super::json::{Line, short};
use crate::Result;

pub(super) const FORM: &str = r#"{"question": {"stem": text, "choices": [{"text": …, "label": …}]}, "answerKey": label} or {"question": text, "choices": {"text": [texts], "label": [labels]}, "answerKey": label}"#;

#[derive(Deserialize)]
struct Raw {
    question: Asked,
    choices: Option<Columns>,
    #[serde(rename = "answerKey")]
    answer_key: String,
}

/// A question with its choices, or its text alone.
enum Asked {
    Published(Published),
    Text(String),
}

#[derive(Deserialize)]
struct Published {
    stem: String,
    choices: Vec<Labelled>,
}

#[derive(Deserialize)]
struct Labelled {
    text: String,
    label: String,
}

#[derive(Deserialize)]
struct Columns {
    text: Vec<String>,
    label: Vec<String>,
}

pub(super) fn item(line: Line<'_>) -> Result<Item> {
    let raw: Raw = line.parse(FORM)?;
    let (question, texts, labels): (_, Vec<_>, Vec<_>) = match (raw.question, raw.choices) {
        (Asked::Published(asked), _) => {
            let (texts, labels) = asked.choices.into_iter().map(|c| (c.text, c.label)).unzip();
            (asked.stem, texts, labels)
        }
        (Asked::Text(text), Some(choices)) => (text, choices.text, choices.label),
        (Asked::Text(_), None) => return Err(line.fault(FORM, "a question without choices")),
    };
    if line.enough(texts.len())? != labels.len() {
        let found = format!("{} texts and {} labels", texts.len(), labels.len());
        return Err(line.fault("a label for each choice", found));
    }
    let key = raw.answer_key.trim();
    let gold = labels.iter().position(|label| label == key).ok_or_else(|| {
        let expected = format!("answerKey: one of the labels {}", short(&labels.join(", ")));
        line.fault(expected, short(key))
    })?;
    Ok(line.item(format!("Question: {question}\nAnswer:"), texts, gold))
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Asked;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an object with stem and choices")
            }

            fn visit_str<E>(self, text: &str) -> Result<Asked, E> {
                Ok(Asked::Text(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Asked, A::Error> {
                Published::deserialize(MapAccessDeserializer::new(map)).map(Asked::Published)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
