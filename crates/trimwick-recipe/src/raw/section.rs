//! Reads the declared keys of one table, and reports every key of the table that is not declared.

use std::cell::RefCell;

use super::{At, Default, Key, Raw, Rule, SectionSpec, Sub, Subs, Table, Value, nearest, parse_value};
use crate::error::{Fault, FaultKind, Hint, Place};

/// Collects faults while everything is still read to its end.
#[derive(Debug, std::default::Default)]
pub(crate) struct Sink(RefCell<Vec<Fault>>);

impl Sink {
    pub(crate) fn new(faults: Vec<Fault>) -> Self {
        Sink(RefCell::new(faults))
    }

    pub(crate) fn push(&self, fault: Fault) {
        self.0.borrow_mut().push(fault);
    }

    pub(crate) fn into_faults(self) -> Vec<Fault> {
        self.0.into_inner()
    }
}

/// What became of a key or a section that may be left out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Slot<T> {
    /// It is not there.
    Absent,
    /// It is there, and a fault has been reported about it.
    Faulty,
    /// It is there and sound.
    Given(T),
}

impl<T> Slot<T> {
    pub(crate) fn new(value: Option<T>) -> Self {
        value.map_or(Slot::Faulty, Slot::Given)
    }

    /// Whether it was written, soundly or not.
    pub(crate) fn present(&self) -> bool {
        !matches!(self, Slot::Absent)
    }

    pub(crate) fn as_ref(&self) -> Slot<&T> {
        match self {
            Slot::Absent => Slot::Absent,
            Slot::Faulty => Slot::Faulty,
            Slot::Given(value) => Slot::Given(value),
        }
    }

    pub(crate) fn given(self) -> Option<T> {
        match self {
            Slot::Given(value) => Some(value),
            Slot::Absent | Slot::Faulty => None,
        }
    }

    /// The value, or `default` where there is none; `None` where it is faulty.
    pub(crate) fn or(self, default: T) -> Option<T> {
        match self {
            Slot::Absent => Some(default),
            Slot::Faulty => None,
            Slot::Given(value) => Some(value),
        }
    }

    /// The value as an option; `None` where it is faulty.
    pub(crate) fn sound(self) -> Option<Option<T>> {
        match self {
            Slot::Absent => Some(None),
            Slot::Faulty => None,
            Slot::Given(value) => Some(Some(value)),
        }
    }

    pub(crate) fn and_then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Slot<U> {
        match self {
            Slot::Absent => Slot::Absent,
            Slot::Faulty => Slot::Faulty,
            Slot::Given(value) => Slot::new(read(value)),
        }
    }
}

static EMPTY: Table = Table { entries: Vec::new() };

/// One table of the recipe with its declaration.
pub(crate) struct Section<'a> {
    spec: &'static SectionSpec,
    root: &'static SectionSpec,
    path: String,
    table: &'a Table,
    place: Place,
    sink: &'a Sink,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The top of the recipe; `place` is where what is missing in it is reported.
    pub(crate) fn root(spec: &'static SectionSpec, table: &'a Table, place: Place, sink: &'a Sink) -> Self {
        Section { spec, root: spec, path: String::new(), table, place, sink, asked: RefCell::default() }
    }

    /// The value of a key that is required or has a default; `None` after a fault.
    pub(crate) fn get<R: Rule>(&self, key: &Key<R>) -> Option<R::Value> {
        self.asked.borrow_mut().push(key.name);
        if let Some(raw) = self.table.get(key.name) {
            return key.rule.read(raw, &self.at(key));
        }
        match key.default {
            Default::Toml(text) => {
                let value = parse_value(text, &self.place).unwrap_or_else(Value::Text);
                key.rule.read(&Raw { value, place: self.place.clone(), typed: None }, &self.at(key))
            }
            Default::Required | Default::Absent(_) => {
                self.missing(key, key.rule.expected());
                None
            }
        }
    }

    /// The value of a key that may be left out.
    pub(crate) fn maybe<R: Rule>(&self, key: &Key<R>) -> Slot<R::Value> {
        self.asked.borrow_mut().push(key.name);
        match self.table.get(key.name) {
            Some(raw) => Slot::new(key.rule.read(raw, &self.at(key))),
            None => Slot::Absent,
        }
    }

    /// The section behind a key, where it is given.
    pub(crate) fn sub<R: Rule<Value = ()>>(&self, key: &Key<R>) -> Slot<Section<'a>> {
        self.maybe(key).and_then(|()| {
            let raw = self.table.get(key.name)?;
            self.inner(key.rule.section()?, self.full(key.name), raw)
        })
    }

    /// The section behind a key, or one without keys where it is not given.
    pub(crate) fn sub_or_empty(&self, key: &Key<Sub>) -> Option<Section<'a>> {
        self.sub(key).or(self.empty(key, key.rule.0))
    }

    /// A section without keys in the place of what stands behind `key`: what it holds by default.
    pub(crate) fn empty<R>(&self, key: &Key<R>, spec: &'static SectionSpec) -> Section<'a> {
        let (root, path, place, sink) = (self.root, self.full(key.name), self.place.clone(), self.sink);
        Section { spec, root, path, table: &EMPTY, place, sink, asked: RefCell::default() }
    }

    /// The sections of a `[[…]]` list, in order; none where it is not given.
    pub(crate) fn subs(&self, key: &Key<Subs>) -> Option<Vec<Section<'a>>> {
        let list = self.maybe(key).and_then(|()| match &self.table.get(key.name)?.value {
            Value::List(list) => Some(list),
            _ => None,
        });
        let element = |(i, raw)| self.inner(key.rule.0, format!("{}.{i}", self.full(key.name)), raw);
        list.and_then(|list| list.iter().enumerate().map(element).collect()).or(Vec::new())
    }

    /// The section at an element of the list behind a key, where there is a table.
    pub(crate) fn element<R>(
        &self,
        key: &Key<R>,
        index: usize,
        spec: &'static SectionSpec,
    ) -> Option<Section<'a>> {
        let Value::List(list) = &self.table.get(key.name)?.value else { return None };
        self.inner(spec, format!("{}.{index}", self.full(key.name)), list.get(index)?)
    }

    fn inner(&self, spec: &'static SectionSpec, path: String, raw: &'a Raw) -> Option<Section<'a>> {
        let Value::Table(table) = &raw.value else { return None };
        let place = raw.place.clone();
        Some(Section {
            spec,
            root: self.root,
            path,
            table,
            place,
            sink: self.sink,
            asked: RefCell::default(),
        })
    }

    /// Whether the key is written, soundly or not.
    pub(crate) fn has<R>(&self, key: &Key<R>) -> bool {
        self.table.get(key.name).is_some()
    }

    /// The raw value of a key that several rules may read.
    pub(crate) fn raw<R>(&self, key: &Key<R>) -> Option<&'a Raw> {
        self.asked.borrow_mut().push(key.name);
        self.table.get(key.name)
    }

    /// A key that other keys make meaningless: a fault where it is given.
    pub(crate) fn unused<R>(&self, key: &Key<R>, why: impl Into<String>, advice: impl Into<String>) {
        self.asked.borrow_mut().push(key.name);
        if self.has(key) {
            self.fault(key, FaultKind::NoEffect { why: why.into(), advice: advice.into() });
        }
    }

    /// Reports a key that has to be there, unless another is there that was meant to be it: that one's fault says so.
    pub(crate) fn missing<R>(&self, key: &Key<R>, expected: String) {
        let meant = Hint::DidYouMean(self.full(key.name));
        if self.unknown().take(LISTED).any(|(name, _)| self.hint(name) == meant) {
            return;
        }
        self.fault(key, FaultKind::Missing { expected, example: line(key) });
    }

    /// Reports a fault about a key, at the key or, where it is not given, at the section.
    pub(crate) fn fault<R>(&self, key: &Key<R>, kind: FaultKind) {
        let place = self.table.get(key.name).map_or(&self.place, |raw| &raw.place).clone();
        self.sink.push(Fault { place, key: self.full(key.name), kind });
    }

    /// Reports a value that is allowed by itself but not beside others.
    pub(crate) fn conflict<R>(
        &self,
        key: &Key<R>,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let (expected, found, advice) = (expected.into(), found.into(), advice.into());
        self.fault(key, FaultKind::Conflict { expected, found, advice });
    }

    /// Where a rule that reads `key` reports to.
    pub(crate) fn at<R>(&self, key: &Key<R>) -> At<'a> {
        At { sink: self.sink, key: self.full(key.name), example: line(key) }
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// The keys that are not declared.
    fn unknown(&self) -> impl Iterator<Item = &'a (String, Raw)> {
        let spec = self.spec;
        self.table.entries.iter().filter(move |(name, _)| !spec.keys.iter().any(|key| key.name() == name))
    }

    /// Reports the keys that are not declared.
    pub(crate) fn finish(self) {
        let mut unknown = self.unknown();
        for (name, raw) in unknown.by_ref().take(LISTED) {
            let kind = FaultKind::UnknownKey { hint: self.hint(name) };
            self.sink.push(Fault { place: raw.place.clone(), key: self.full(name), kind });
        }
        if let Some((name, raw)) = unknown.next() {
            let hint =
                Hint::Instead(format!("and {} more after it; correct the first ones", unknown.count()));
            let kind = FaultKind::UnknownKey { hint };
            self.sink.push(Fault { place: raw.place.clone(), key: self.full(name), kind });
        }
        // Holds whatever the recipe says, so that any test that parses one finds a key that nothing reads.
        let asked = self.asked.borrow();
        debug_assert!(
            self.spec.keys.iter().all(|key| asked.contains(&key.name())),
            "a key of [{}] is declared and not read",
            self.path
        );
    }

    /// The key that `name` was meant to be: here under another name, then elsewhere, then by likeness.
    fn hint(&self, name: &str) -> Hint {
        let same = |known: &str| known.eq_ignore_ascii_case(name) || known.replace('_', "-") == name;
        let named = |spec: &SectionSpec| {
            spec.keys
                .iter()
                .find(|key| same(key.name()) || key.aliases().contains(&name))
                .map(|key| key.name())
        };
        if let Some(key) = named(self.spec) {
            return Hint::DidYouMean(self.full(key));
        }
        if let Some((_, instead)) = self.spec.foreign.iter().find(|(word, _)| *word == name) {
            return Hint::Instead(instead.to_string());
        }
        let mut elsewhere = None;
        let mut others = Vec::new();
        self.root.walk("", &mut |path, spec| {
            if path == self.path {
                return;
            }
            if elsewhere.is_none() {
                elsewhere = named(spec)
                    .map(|key| Hint::BelongsIn { section: path.to_string(), key: key.to_string() });
            }
            if elsewhere.is_none() {
                let foreign = spec.foreign.iter().find(|(word, _)| *word == name);
                elsewhere = foreign.map(|(_, instead)| Hint::Instead(instead.to_string()));
            }
            others.extend(spec.keys.iter().map(|key| (key.name(), path.to_string())));
        });
        if let Some(hint) = elsewhere {
            return hint;
        }
        let here = self.spec.keys.iter().map(|key| key.name());
        if let Some(key) = nearest(name, here.clone()) {
            return Hint::DidYouMean(self.full(key));
        }
        if let Some(key) = nearest(name, others.iter().map(|(key, _)| *key)) {
            let section = others.iter().find(|(other, _)| *other == key).map(|(_, path)| path.clone());
            return Hint::BelongsIn { section: section.unwrap_or_default(), key: key.to_string() };
        }
        Hint::Known(here.map(str::to_string).collect())
    }
}

/// Unknown keys that are looked at: with more of them a table is no section of a recipe, and each hint costs a look at every
/// key there is.
const LISTED: usize = 20;

/// The key as a line that would be accepted.
fn line<R>(key: &Key<R>) -> String {
    // The example of a section is its header, alone or with a key. A list opens with a quote, or is empty.
    let header = |c: char| c == '[' || c.is_ascii_alphabetic();
    if key.example.strip_prefix('[').is_some_and(|rest| rest.starts_with(header)) {
        return key.example.to_string();
    }
    format!("{} = {}", key.name, key.example)
}
