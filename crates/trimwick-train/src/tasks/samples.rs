//! What lm-evaluation-harness logs (`--log_samples`): the requests that it made of a question, context and continuation each.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::item::Item;
use super::json::{Gold, Line, short};
use crate::Result;

pub(super) const FORM: &str = r#"{"arguments": {"gen_args_0": {"arg_0": context, "arg_1": continuation}, …} or [[context, continuation], …], "target": index}"#;

#[derive(Deserialize)]
struct Raw {
    arguments: Requests,
    target: Gold,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Requests {
    Named(BTreeMap<String, Request>),
    Listed(Vec<(String, String)>),
}

#[derive(Deserialize)]
struct Request {
    #[serde(rename = "arg_0")]
    context: String,
    #[serde(rename = "arg_1")]
    continuation: String,
}

impl Requests {
    /// In the order in which they were made: `gen_args_10` comes behind `gen_args_9`.
    fn in_order(self) -> Vec<(String, String)> {
        match self {
            Self::Listed(requests) => requests,
            Self::Named(named) => {
                let mut named: Vec<_> = named.into_iter().collect();
                named.sort_by_key(|(name, _)| (name.len(), name.clone()));
                named.into_iter().map(|(_, request)| (request.context, request.continuation)).collect()
            }
        }
    }
}

pub(super) fn item(line: Line<'_>) -> Result<Item> {
    let raw: Raw = line.parse(FORM)?;
    let requests = raw.arguments.in_order();
    let count = line.enough(requests.len())?;
    let context = requests[0].0.clone();
    if let Some((other, _)) = requests.iter().find(|(other, _)| *other != context) {
        let found = format!("another one, {}, beside {}", short(other), short(&context));
        return Err(line.fault("one context for all choices", found));
    }
    // The harness puts its delimiter before each choice; what is normalized by is the choice without it.
    let spaced = requests.iter().all(|(_, choice)| choice.starts_with(' '));
    let delimiter = if spaced { " " } else { "" };
    let choices: Vec<String> =
        requests.into_iter().map(|(_, choice)| choice[delimiter.len()..].into()).collect();
    // The right answer is an index, in quotes or not, or the choice itself.
    let gold = match &raw.target {
        Gold::Text(text) if text.trim().parse::<u64>().is_err() => {
            choices.iter().position(|choice| choice == text)
        }
        _ => None,
    };
    let gold = gold.map_or_else(|| raw.target.index(&line, "target", count), Ok)?;
    Ok(Item { delimiter: delimiter.into(), ..line.item(context, choices, gold) })
}
