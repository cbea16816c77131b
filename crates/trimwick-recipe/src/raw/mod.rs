//! The recipe as it was written: a tree of values that each know their place.
//!
//! `parse` makes the tree from TOML text, `key` declares what a key takes, `section` reads the declared keys of one
//! table, and `suggest` guesses what an unknown word was meant to be.

mod key;
mod list;
mod numbers;
mod parse;
mod places;
mod rules;
mod section;
mod suggest;

use std::sync::Arc;

use crate::error::{Place, Plain};

pub(crate) use key::{Default, Key, SectionSpec};
pub(crate) use list::{list_of, needless, twice};
pub(crate) use numbers::{Count, Number};
pub(crate) use parse::{DEEPEST, parse_document, parse_value};
pub(crate) use places::Places;
pub(crate) use rules::{At, Choice, Globs, OneGlob, Rule, Sub, Subs, Switch, Text, text_of};
pub(crate) use section::{Section, Sink, Slot};
pub(crate) use suggest::{nearest, nearest_of};

/// A value, and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// The text of an override's value. A shell has no quotes left, so a key that takes a string reads this text even
    /// where it looks like a number or a date.
    pub(crate) typed: Option<Arc<str>>,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Whole(i64),
    /// A whole number that does not fit 64 bits, as written.
    Huge(String),
    Real(f64),
    Switch(bool),
    Date(String),
    List(Vec<Raw>),
    Table(Table),
}

/// The keys of a table in the order in which they were written. Recipes are small: a list is searched fast enough.
#[derive(Debug, Clone, std::default::Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<(String, Raw)>,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Raw> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, raw)| raw)
    }

    pub(crate) fn position(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(name, _)| name == key)
    }
}

impl Raw {
    /// The value as a fault shows it: short, escaped, and with its type where that is not plain to see.
    pub(crate) fn found(&self) -> String {
        match &self.value {
            Value::Text(text) => format!("the string \"{}\"", Plain(text)),
            Value::Whole(number) => format!("{number}"),
            Value::Huge(text) => format!("{} (beyond 64 bits)", Plain(text)),
            Value::Real(number) => format!("{number:?}"),
            Value::Switch(on) => format!("{on}"),
            Value::Date(text) => format!("the date {}", Plain(text)),
            Value::List(list) if list.is_empty() => "an empty list".to_string(),
            Value::List(list) => format!("a list of {}", list.len()),
            Value::Table(_) => "a table".to_string(),
        }
    }
}
