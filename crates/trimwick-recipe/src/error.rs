//! What can be wrong with a recipe, one [`Fault`] per mistake, and the list of all of them.
//!
//! A fault prints as one line, `file:line: key: what is wrong, what was expected, what was found; what to do`.
//! A fault of a value that the command line gave names that override in place of the file and line.

use std::fmt;
use std::sync::Arc;

/// Where the text stands that a fault is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of the recipe file, counted from 1.
    Line {
        /// The recipe, as its path was given.
        file: Arc<str>,
        /// The line, counted from 1.
        line: usize,
    },
    /// The recipe as a whole: what is missing stands on no line.
    File {
        /// The recipe, as its path was given.
        file: Arc<str>,
    },
    /// A `key=value` of the command line.
    Override {
        /// The override as it was typed.
        text: Arc<str>,
    },
}

impl Place {
    /// The line in the recipe file, counted from 1, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Place::Line { line, .. } => Some(*line),
            Place::File { .. } | Place::Override { .. } => None,
        }
    }

    /// The order in which faults are listed: by line, then the file as a whole, then the command line.
    fn rank(&self) -> (u8, usize) {
        match self {
            Place::Line { line, .. } => (0, *line),
            Place::File { .. } => (1, 0),
            Place::Override { .. } => (2, 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { file, line } => write!(f, "{}:{line}", Plain(file)),
            Place::File { file } => write!(f, "{}", Plain(file)),
            Place::Override { text } => write!(f, "override {}", Plain(text)),
        }
    }
}

/// Text that came from outside, with control characters escaped so that a fault stays one harmless line.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        for (count, c) in self.0.chars().enumerate() {
            if count == LONGEST {
                return f.write_str("…");
            }
            // The bidirectional controls reorder a terminal line without being control characters.
            if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// What an unknown word was probably meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A known name close to it.
    DidYouMean(String),
    /// The key exists, but in another section.
    BelongsIn {
        /// The section, as written between brackets.
        section: String,
        /// The key as that section knows it.
        key: String,
    },
    /// A key that other tools have and recipes replace by something else.
    Instead(String),
    /// Nothing is close: everything that is known here.
    Known(Vec<String>),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::DidYouMean(name) => write!(f, "did you mean `{name}`?"),
            Hint::BelongsIn { section, key } if section.is_empty() => {
                write!(f, "`{key}` belongs at the top, before the first section; move it there")
            }
            Hint::BelongsIn { section, key } => write!(f, "`{key}` belongs in [{section}]; move it there"),
            Hint::Instead(what) => f.write_str(what),
            Hint::Known(names) => write!(f, "known here: {}", names.join(", ")),
        }
    }
}

/// The class of a fault and its details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// The file could not be read at all.
    #[error("expected a readable recipe, found {found}; {advice}")]
    Unreadable {
        /// What happened instead.
        found: String,
        /// What to do.
        advice: String,
    },
    /// The text is not TOML. Only faults of this class are reported then, since every later one would be a guess.
    #[error("not TOML: {found}; {advice}")]
    Syntax {
        /// What the parser says.
        found: String,
        /// What to do.
        advice: String,
    },
    /// A `key=value` of the command line cannot be applied.
    #[error("expected {expected}, found {found}; {advice}")]
    Override {
        /// What an override looks like.
        expected: String,
        /// What was found.
        found: String,
        /// What to do.
        advice: String,
    },
    /// A key that no section, or not this one, knows.
    #[error("unknown key; {hint}")]
    UnknownKey {
        /// What was probably meant.
        hint: Hint,
    },
    /// A key or a section written twice.
    #[error("given twice{}; keep one of them", .first.map(|line| format!(", first on line {line}")).unwrap_or_default())]
    Duplicate {
        /// The line of the first one, where it is known.
        first: Option<usize>,
    },
    /// A value of the wrong TOML type.
    #[error("wrong type: expected {expected}, found {found}; write for example {example}")]
    WrongType {
        /// What the key takes.
        expected: String,
        /// What was written.
        found: String,
        /// A line that would be accepted.
        example: String,
    },
    /// A value of the right type that is not allowed.
    #[error("expected {expected}, found {found}; write for example {example}")]
    BadValue {
        /// What the key takes.
        expected: String,
        /// What was written.
        found: String,
        /// A line that would be accepted.
        example: String,
    },
    /// A word that is none of those the key knows.
    #[error("expected {expected}, found {found}; {hint}")]
    UnknownWord {
        /// The words that are known.
        expected: String,
        /// What was written.
        found: String,
        /// What was probably meant.
        hint: Hint,
    },
    /// A key or a section that has to be there.
    #[error("missing: expected {expected}, found nothing; add for example {example}")]
    Missing {
        /// What the key takes.
        expected: String,
        /// A line that would be accepted.
        example: String,
    },
    /// A key that is known and well-formed, but nothing would read it.
    #[error("has no effect: {why}; {advice}")]
    NoEffect {
        /// Why nothing reads it.
        why: String,
        /// What to do.
        advice: String,
    },
    /// Values that are each allowed, but not together.
    #[error("expected {expected}, found {found}; {advice}")]
    Conflict {
        /// What the other values ask of this one.
        expected: String,
        /// What was written.
        found: String,
        /// What to do.
        advice: String,
    },
    /// A pattern that selects no layer of the model.
    #[error("expected a pattern that matches {expected}, found {pattern:?}, which matches none; nearest: {}", .nearest.join(", "))]
    NoLayer {
        /// What it should have matched: layers that can be pruned, parameters.
        expected: String,
        /// The pattern.
        pattern: String,
        /// Names of the model that are close to it.
        nearest: Vec<String>,
    },
    /// A layer whose shape a pattern cannot take.
    #[error("{layer}{}: expected {expected}, found {found}; {advice}", if *.more > 0 { format!(" and {more} more") } else { String::new() })]
    Shape {
        /// The first layer that is affected.
        layer: String,
        /// How many more have the same fault.
        more: usize,
        /// What the pattern asks for.
        expected: String,
        /// The layer's shape.
        found: String,
        /// What to do.
        advice: String,
    },
    /// A file or a folder that is not there, or is not what it should be.
    #[error("expected {expected}, found {found}; {advice}")]
    Files {
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        advice: String,
    },
}

/// One mistake in a recipe: where it stands, the dotted key it is about, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where the mistake was written.
    pub place: Place,
    /// The full dotted key, such as `train.lr`; empty for faults of the whole text.
    pub key: String,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.kind)
        } else {
            write!(f, "{}: {}: {}", self.place, Plain(&self.key), self.kind)
        }
    }
}

impl std::error::Error for Fault {}

/// Every fault of a recipe, in the order of the file; the command line's come last. Never empty.
///
/// Displays as one line per fault, without a trailing newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `Err` with all faults, `Ok` where there are none.
    pub(crate) fn check(faults: Vec<Fault>) -> Result<(), Faults> {
        if faults.is_empty() { Ok(()) } else { Err(Faults::sorted(faults)) }
    }

    /// The faults in the order of the file; at least one.
    pub(crate) fn sorted(mut faults: Vec<Fault>) -> Faults {
        faults.sort_by_key(|fault| fault.place.rank());
        Faults(faults)
    }

    /// The faults, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// How many there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a list of faults is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The faults about one dotted key, such as `train.lr`.
    pub fn about<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Fault> {
        self.0.iter().filter(move |fault| fault.key == key)
    }

    /// Both lists as one, for checks that are made one after the other but reported together.
    #[must_use]
    pub fn and(self, other: Faults) -> Faults {
        let mut all = self.0;
        all.extend(other.0);
        Faults::sorted(all)
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Faults(vec![fault])
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
