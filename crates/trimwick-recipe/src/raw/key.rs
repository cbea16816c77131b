//! Keys and sections, declared once: what a key takes, its default, an example and what it is for.
//!
//! The same declaration reads the value, words the fault, suggests the key to who mistypes it, and prints the reference.

use super::Rule;

/// What holds where a key is not given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    /// The key has to be given.
    Required,
    /// This TOML value, read by the key's own rule.
    Toml(&'static str),
    /// Nothing, or what the words say.
    Absent(&'static str),
}

/// The declaration of one key.
#[derive(Debug)]
pub(crate) struct Key<R> {
    pub(crate) name: &'static str,
    pub(crate) rule: R,
    pub(crate) default: Default,
    /// A TOML value that is accepted.
    pub(crate) example: &'static str,
    /// What the key is for, in a line.
    pub(crate) about: &'static str,
    /// What other tools call it.
    pub(crate) aliases: &'static [&'static str],
}

impl<R> Key<R> {
    const fn new(
        name: &'static str,
        rule: R,
        default: Default,
        example: &'static str,
        about: &'static str,
    ) -> Self {
        Key { name, rule, default, example, about, aliases: &[] }
    }

    /// A key that has to be given.
    pub(crate) const fn required(
        name: &'static str,
        rule: R,
        example: &'static str,
        about: &'static str,
    ) -> Self {
        Key::new(name, rule, Default::Required, example, about)
    }

    /// A key with a default that is written as TOML.
    pub(crate) const fn default(
        name: &'static str,
        rule: R,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Key::new(name, rule, Default::Toml(default), default, about)
    }

    /// A key that may be left out; `otherwise` says what holds then.
    pub(crate) const fn optional(
        name: &'static str,
        rule: R,
        example: &'static str,
        otherwise: &'static str,
        about: &'static str,
    ) -> Self {
        Key::new(name, rule, Default::Absent(otherwise), example, about)
    }

    /// The names under which other tools know this key.
    pub(crate) const fn known_as(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// A [`Key`] whose rule's type is forgotten.
pub(crate) trait AnyKey: Sync {
    fn name(&self) -> &'static str;
    fn aliases(&self) -> &'static [&'static str];
    fn default(&self) -> Default;
    fn example(&self) -> &'static str;
    fn about(&self) -> &'static str;
    fn expected(&self) -> String;
    /// The section that the key opens, if it opens one.
    fn section(&self) -> Option<&'static SectionSpec>;
}

impl<R: Rule + Sync> AnyKey for Key<R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    fn default(&self) -> Default {
        self.default
    }

    fn example(&self) -> &'static str {
        self.example
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn expected(&self) -> String {
        self.rule.expected()
    }

    fn section(&self) -> Option<&'static SectionSpec> {
        self.rule.section()
    }
}

/// The declaration of one section: its keys in the order in which a resolved recipe writes them.
pub(crate) struct SectionSpec {
    pub(crate) keys: &'static [&'static dyn AnyKey],
    /// Words of other tools that no key here answers to, and what to write instead.
    pub(crate) foreign: &'static [(&'static str, &'static str)],
}

impl SectionSpec {
    /// Calls `visit` with the dotted path of every section from here down, and the section.
    pub(crate) fn walk(&'static self, path: &str, visit: &mut dyn FnMut(&str, &'static SectionSpec)) {
        visit(path, self);
        for key in self.keys {
            if let Some(section) = key.section() {
                let path =
                    if path.is_empty() { key.name().to_string() } else { format!("{path}.{}", key.name()) };
                section.walk(&path, visit);
            }
        }
    }
}
