//! The one error of this crate.
//!
//! Every message is a single line that says where the fault is, what was expected, what was found and, where the
//! reader can do something about it, what to do. Text that comes from the file (names, keys, values) is quoted and
//! escaped, so that a hostile name can neither break the line nor send a control sequence to a terminal.

use std::collections::TryReserveError;
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes break a rule of their format.
    #[error(
        "{}: {at}: {}: expected {}, found {}",
        OneLine(path),
        escape(field),
        escape(expected),
        escape(found)
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        at: Location,
        /// The field that is wrong, by its name in the specification.
        field: Box<str>,
        /// What the format asks for there.
        expected: Box<str>,
        /// What is there.
        found: Box<str>,
    },

    /// The file is of a kind that is deliberately not read.
    #[error("{}: refused: this is {}; {}", OneLine(path), escape(what), escape(instead))]
    Refused {
        /// The file.
        path: PathBuf,
        /// What kind of file it is and why it is not read.
        what: String,
        /// What to do instead.
        instead: String,
    },

    /// Something that was asked for by name is not there.
    #[error("{}: no {kind} named {name:?}", OneLine(path))]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The kind of thing: "tensor", "metadata key", "shard" …
        kind: &'static str,
        /// The name that was asked for.
        name: String,
    },

    /// The operating system refused an operation.
    #[error("{}: cannot {}: {source}", OneLine(path), escape(doing))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operation, as a verb phrase: "open", "read 32 bytes at 96" …
        doing: String,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A size was plausible, and there is not enough memory for it.
    #[error("{}: {}: cannot reserve {bytes} bytes of memory", OneLine(path), escape(what))]
    OutOfMemory {
        /// The file.
        path: PathBuf,
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },

    /// There is no model where one was looked for.
    #[error("{}: no model weights: expected {expected}, found {found}", OneLine(path))]
    NoModel {
        /// The path that was given.
        path: PathBuf,
        /// What is looked for there.
        expected: String,
        /// What is there.
        found: String,
    },

    /// What was to be written breaks a rule of its format; nothing was written.
    #[error("cannot write {what}: expected {expected}, found {found}")]
    Unwritable {
        /// The tensor, file or key.
        what: String,
        /// What the format asks for.
        expected: String,
        /// What was given.
        found: String,
    },

    /// The disk is too full to begin; nothing was written.
    #[error(
        "{}: not enough disk space: expected {needed} bytes free, found {available}; free some and run again",
        OneLine(path)
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// How much the files take.
        needed: u64,
        /// How much there is.
        available: u64,
    },

    /// Another process writes to the folder.
    #[error("{}: in use by {holder}; wait until it has ended, or take another folder", OneLine(path))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who holds the lock, as far as the lock file tells.
        holder: String,
    },

    /// A caller's buffer does not fit the data it belongs to.
    #[error("{what}: expected {expected}, found {found}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length that was given.
        found: usize,
    },
}

/// Where in a file a fault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A byte offset from the start of the file.
    Offset(u64),
    /// A path into a JSON document, such as `weight_map["lm_head.weight"]`.
    Json(String),
    /// A tensor, by its name.
    Tensor(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "byte {offset}"),
            Self::Json(path) => write!(f, "JSON {}", escape(path)),
            Self::Tensor(name) => write!(f, "tensor {}", quote(name)),
        }
    }
}

impl Error {
    /// A [`Error::Malformed`] from anything that turns into strings.
    pub fn malformed(
        path: impl Into<PathBuf>,
        at: Location,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            path: path.into(),
            at,
            field: field.into().into_boxed_str(),
            expected: expected.into().into_boxed_str(),
            found: found.into().into_boxed_str(),
        }
    }

    /// A [`Error::Io`]; `doing` completes "cannot …".
    pub fn io(path: impl Into<PathBuf>, doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), doing: doing.into(), source }
    }

    /// A [`Error::Refused`]: "this is `what`; `instead`".
    pub fn refused(path: impl Into<PathBuf>, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::Refused { path: path.into(), what: what.into(), instead: instead.into() }
    }

    /// A [`Error::Unwritable`]: "cannot write `what`".
    pub(crate) fn unwritable(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Unwritable { what: what.into(), expected: expected.into(), found: found.into() }
    }

    /// A [`Error::Missing`].
    pub fn missing(path: impl Into<PathBuf>, kind: &'static str, name: impl Into<String>) -> Self {
        Self::Missing { path: path.into(), kind, name: name.into() }
    }
}

/// Room for `count` values of type `T`, or [`Error::OutOfMemory`] where `Vec::with_capacity` would abort.
pub(crate) fn reserve<T>(path: &Path, what: &str, count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_: TryReserveError| Error::OutOfMemory {
        path: path.to_owned(),
        what: what.to_owned(),
        bytes: (count as u64).saturating_mul(size_of::<T>() as u64),
    })?;
    Ok(values)
}

/// At most this many characters of a string from a file are shown in a message.
const SHOWN_CHARS: usize = 80;

/// Text from a file as it may appear in a message: in quotes, escaped, and cut when it is long.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}

/// The same without the quotes and without a limit: the last guard around text that was composed elsewhere.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_debug());
        } else {
            out.push(c);
        }
        out
    })
}

/// A path on one line: paths may hold control characters too.
struct OneLine<'a>(&'a Path);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_the_names_hold() {
        let error = Error::malformed(
            "a\nb.gguf",
            Location::Tensor("x\u{1b}[31m\n".into()),
            "dims",
            "1 to 4",
            quote("evil\r\n"),
        );
        let message = error.to_string();
        assert_eq!(message, r#"a\nb.gguf: tensor "x\u{1b}[31m\n": dims: expected 1 to 4, found "evil\r\n""#);
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let shown = quote(&"é".repeat(1000));
        assert_eq!(shown.chars().filter(|&c| c == 'é').count(), SHOWN_CHARS);
        assert!(shown.ends_with("… (2000 bytes)"), "{shown}");
    }

    #[test]
    fn an_impossible_reservation_is_an_error_and_no_abort() {
        let error = reserve::<u64>(Path::new("f"), "tokens", usize::MAX / 16).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    }
}
