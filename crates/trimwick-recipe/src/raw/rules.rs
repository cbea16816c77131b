//! What a key can take: one small rule per kind of value, which reads it, words its faults and describes itself.

use super::{Raw, SectionSpec, Sink, Value, nearest};
use crate::error::{Fault, FaultKind, Hint};

/// Reads one kind of value.
pub(crate) trait Rule {
    /// What is read.
    type Value;

    /// What the key takes, as in "expected …".
    fn expected(&self) -> String;

    /// The value, or `None` after reporting to `at` what is wrong with it.
    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Self::Value>;

    /// The section behind the key, for rules that take a table.
    fn section(&self) -> Option<&'static SectionSpec> {
        None
    }
}

/// Where a rule reports to.
pub(crate) struct At<'a> {
    pub(crate) sink: &'a Sink,
    /// The full dotted key.
    pub(crate) key: String,
    /// A line that would be accepted, `key = value`.
    pub(crate) example: String,
}

impl At<'_> {
    pub(crate) fn report(&self, raw: &Raw, kind: FaultKind) {
        self.sink.push(Fault { place: raw.place.clone(), key: self.key.clone(), kind });
    }

    pub(crate) fn wrong_type(&self, raw: &Raw, expected: String) {
        let example = self.example.clone();
        self.report(raw, FaultKind::WrongType { expected, found: raw.found(), example });
    }

    pub(crate) fn bad_value(&self, raw: &Raw, expected: String) {
        let example = self.example.clone();
        self.report(raw, FaultKind::BadValue { expected, found: raw.found(), example });
    }

    /// The element `index` of a list.
    pub(crate) fn element(&self, index: usize) -> At<'_> {
        At { sink: self.sink, key: format!("{}.{index}", self.key), example: self.example.clone() }
    }
}

/// The string in `raw`. A number or a date from the command line counts as the text that was typed.
pub(crate) fn text_of(raw: &Raw) -> Option<&str> {
    match (&raw.value, &raw.typed) {
        (Value::Text(text), _) => Some(text),
        (
            Value::Whole(_) | Value::Huge(_) | Value::Real(_) | Value::Switch(_) | Value::Date(_),
            Some(typed),
        ) => Some(typed),
        _ => None,
    }
}

/// A string.
#[derive(Debug)]
pub(crate) struct Text {
    /// What the string is, as in "expected …".
    pub(crate) what: &'static str,
    /// Whether this text is allowed.
    pub(crate) allowed: fn(&str) -> bool,
}

impl Text {
    pub(crate) const fn any(what: &'static str) -> Self {
        fn any(_: &str) -> bool {
            true
        }
        Text { what, allowed: any }
    }

    /// Not empty, and nothing that a file name cannot hold.
    pub(crate) const fn path(what: &'static str) -> Self {
        fn path(text: &str) -> bool {
            !text.is_empty() && !text.contains('\0')
        }
        Text { what, allowed: path }
    }
}

impl Rule for Text {
    type Value = String;

    fn expected(&self) -> String {
        self.what.to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<String> {
        match text_of(raw) {
            Some(text) if (self.allowed)(text) => return Some(text.to_string()),
            Some(_) => at.bad_value(raw, self.expected()),
            None => at.wrong_type(raw, self.expected()),
        }
        None
    }
}

/// A list of glob patterns over layer paths; a single string stands for a list of one.
#[derive(Debug)]
pub(crate) struct Globs {
    /// Whether the list may be empty.
    pub(crate) empty: bool,
}

impl Globs {
    /// The longest pattern. A pattern becomes an automaton, and strangers write recipes too.
    pub(crate) const LONGEST: usize = 256;

    /// Reads a single pattern.
    pub(crate) fn one(raw: &Raw, at: &At<'_>) -> Option<String> {
        let Some(text) = text_of(raw) else {
            at.wrong_type(raw, "a glob pattern, a string".to_string());
            return None;
        };
        if text.is_empty() || text.len() > Self::LONGEST {
            at.bad_value(raw, format!("a pattern of 1 to {} bytes", Self::LONGEST));
            return None;
        }
        match globset::Glob::new(text) {
            Ok(_) => Some(text.to_string()),
            Err(error) => {
                at.bad_value(raw, format!("a glob pattern ({})", error.kind()));
                None
            }
        }
    }
}

impl Rule for Globs {
    type Value = Vec<String>;

    fn expected(&self) -> String {
        "a list of glob patterns over layer paths".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Vec<String>> {
        match &raw.value {
            Value::List(list) if list.is_empty() && !self.empty => {
                at.bad_value(raw, self.expected());
                None
            }
            Value::List(list) => {
                let read: Vec<_> =
                    list.iter().enumerate().map(|(i, item)| Self::one(item, &at.element(i))).collect();
                read.into_iter().collect()
            }
            _ if text_of(raw).is_some() => Some(vec![Self::one(raw, at)?]),
            _ => {
                at.wrong_type(raw, self.expected());
                None
            }
        }
    }
}

/// A single glob pattern.
#[derive(Debug)]
pub(crate) struct OneGlob {
    /// What it is matched with, as in "a glob pattern over …".
    pub(crate) over: &'static str,
}

impl Rule for OneGlob {
    type Value = String;

    fn expected(&self) -> String {
        format!("a glob pattern over {}", self.over)
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<String> {
        Globs::one(raw, at)
    }
}

/// `true` or `false`.
#[derive(Debug)]
pub(crate) struct Switch;

impl Rule for Switch {
    type Value = bool;

    fn expected(&self) -> String {
        "true or false".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<bool> {
        if let Value::Switch(on) = raw.value {
            return Some(on);
        }
        at.wrong_type(raw, self.expected());
        None
    }
}

/// One word out of a list.
#[derive(Debug)]
pub(crate) struct Choice<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Copy> Choice<T> {
    /// Reads one word; also for lists of words.
    pub(crate) fn word(&self, raw: &Raw, at: &At<'_>) -> Option<T> {
        let Some(text) = text_of(raw) else {
            at.wrong_type(raw, self.expected());
            return None;
        };
        if let Some((_, value)) = self.0.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = self.0.iter().map(|(word, _)| *word);
        let hint = match nearest(text, words.clone()) {
            Some(word) => Hint::DidYouMean(word.to_string()),
            None => Hint::Instead("write one of them".to_string()),
        };
        at.report(raw, FaultKind::UnknownWord { expected: self.expected(), found: raw.found(), hint });
        None
    }
}

impl<T: Copy> Rule for Choice<T> {
    type Value = T;

    fn expected(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| format!("{word:?}")).collect();
        match words.as_slice() {
            [only] => only.clone(),
            [first @ .., last] => format!("{} or {last}", first.join(", ")),
            [] => String::new(),
        }
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<T> {
        self.word(raw, at)
    }
}

/// A table that is a section of its own; read it with [`Section::sub`].
pub(crate) struct Sub(pub(crate) &'static SectionSpec);

impl Rule for Sub {
    type Value = ();

    fn expected(&self) -> String {
        "a section".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<()> {
        if matches!(raw.value, Value::Table(_)) {
            return Some(());
        }
        at.wrong_type(raw, self.expected());
        None
    }

    fn section(&self) -> Option<&'static SectionSpec> {
        Some(self.0)
    }
}

/// A list of tables, `[[…]]`; read it with [`Section::subs`].
pub(crate) struct Subs(pub(crate) &'static SectionSpec);

impl Rule for Subs {
    type Value = ();

    fn expected(&self) -> String {
        "a list of sections, each under [[…]]".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<()> {
        let Value::List(list) = &raw.value else {
            at.wrong_type(raw, self.expected());
            return None;
        };
        let mut whole = true;
        for (i, item) in list.iter().enumerate().filter(|(_, item)| !matches!(item.value, Value::Table(_))) {
            at.element(i).wrong_type(item, Sub(self.0).expected());
            whole = false;
        }
        whole.then_some(())
    }

    fn section(&self) -> Option<&'static SectionSpec> {
        Some(self.0)
    }
}
