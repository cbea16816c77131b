//! Conversations as JSON lines hold them.

use serde_json::{Map, Value};

use super::lines::Wrong;
use super::source::kind;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Says how to behave, before the first turn.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    /// `system`, `user`, `assistant`.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// How the lines of a file hold conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{"messages": [{"role": …, "content": …}]}`
    Messages,
    /// `{"instruction": …, "input": …, "output": …}`
    Alpaca,
    /// `{"conversations": [{"from": …, "value": …}]}`
    ShareGpt,
}

fn wrong<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Wrong> {
    Err((expected.into(), found.into()))
}

impl Shape {
    /// The shape of an object, by the key that no other shape has.
    pub(super) fn of(object: &Map<String, Value>) -> Result<Self, Wrong> {
        let has = |key| object.contains_key(key);
        match (has("messages"), has("conversations"), has("instruction")) {
            (true, false, false) => Ok(Self::Messages),
            (false, true, false) => Ok(Self::ShareGpt),
            (false, false, true) => Ok(Self::Alpaca),
            (false, false, false) => wrong(
                "a conversation under \"messages\", \"conversations\" or \"instruction\"",
                match object.keys().next() {
                    Some(key) => format!("none of these keys (the first of {} is {key:?})", object.len()),
                    None => "an empty object".into(),
                },
            ),
            _ => wrong(
                "one of \"messages\", \"conversations\", \"instruction\"",
                "more than one of these keys",
            ),
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Alpaca => "instruction",
            Self::ShareGpt => "conversations",
        }
    }

    /// The turns of a line.
    pub(super) fn turns(self, object: &Map<String, Value>) -> Result<Vec<Turn>, Wrong> {
        let Some(value) = object.get(self.key()) else {
            let found = object.keys().next().map_or("an empty object".into(), |key| format!("{key:?} first"));
            return wrong(format!("the key {:?}, as in the file's first line", self.key()), found);
        };
        let (role, content) = match self {
            Self::Alpaca => return alpaca(object),
            Self::Messages => ("role", "content"),
            Self::ShareGpt => ("from", "value"),
        };
        let Value::Array(list) = value else {
            return wrong(format!("{:?} to be a list", self.key()), kind(value));
        };
        if list.is_empty() {
            return wrong(format!("at least one turn in {:?}", self.key()), "an empty list");
        }
        list.iter().enumerate().map(|(i, turn)| self.turn(turn, i, role, content)).collect()
    }

    fn turn(self, turn: &Value, index: usize, role: &str, content: &str) -> Result<Turn, Wrong> {
        let at = |key: &str| format!("{}[{index}].{key}", self.key());
        let Value::Object(object) = turn else {
            return wrong(
                format!("{}[{index}] to be an object with {role:?} and {content:?}", self.key()),
                kind(turn),
            );
        };
        let text = |key: &str| match object.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => wrong(format!("{} to be a string", at(key)), kind(other)),
            None => wrong(format!("a string {}", at(key)), "no such key"),
        };
        let name = text(role)?;
        let known = match (self, name.as_str()) {
            (_, "system") => Role::System,
            (_, "user") | (Self::ShareGpt, "human") => Role::User,
            (_, "assistant") | (Self::ShareGpt, "gpt" | "chatgpt") => Role::Assistant,
            _ => {
                let names = match self {
                    Self::ShareGpt => "\"system\", \"human\" (or \"user\") or \"gpt\" (or \"assistant\")",
                    _ => "\"system\", \"user\" or \"assistant\"",
                };
                let found: String = name.chars().take(40).collect();
                return wrong(format!("{} to be {names}", at(role)), format!("{found:?}"));
            }
        };
        Ok(Turn { role: known, content: text(content)?.clone() })
    }
}

/// An instruction with its input, if there is one, below it after a blank line; and the output.
fn alpaca(object: &Map<String, Value>) -> Result<Vec<Turn>, Wrong> {
    let text = |key: &str| match object.get(key) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => wrong(format!("{key:?} to be a string"), kind(other)),
        None => wrong(format!("a string {key:?}"), "no such key"),
    };
    let asked = text("instruction")?;
    let input = if object.contains_key("input") { text("input")? } else { "" };
    let content = if input.is_empty() { asked.to_string() } else { format!("{asked}\n\n{input}") };
    let answer = text("output")?.to_string();
    Ok(vec![Turn { role: Role::User, content }, Turn { role: Role::Assistant, content: answer }])
}
