//! The one error of this crate.
//!
//! Every message is one line: where the fault is, what was expected, what was found. Text that comes from a file is
//! quoted, escaped and cut, and no message ever carries an access token.

#[cfg(feature = "hub")]
use std::path::Path;
use std::path::PathBuf;

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model, its configuration or its tokenizer could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration key holds a value that no model can have.
    #[error("{origin}: key {key}: expected {expected}, found {found}")]
    Config {
        /// The file, hub id or recipe table.
        origin: String,
        /// The key, dotted for a nested one: `rope_scaling.factor`.
        key: String,
        /// What the key must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A configuration or a file asks for something that this crate does not compute.
    #[error("{origin}: {what} {found} is not supported; supported: {supported}")]
    Unsupported {
        /// The file, hub id or recipe table.
        origin: String,
        /// The kind of thing: "architecture", "rope type", "activation" …
        what: &'static str,
        /// The name that was found, quoted.
        found: String,
        /// The names that work, or what to do instead.
        supported: String,
    },

    /// A text is not the JSON document that it should be.
    #[error("{origin}: not valid JSON: {reason}")]
    Json {
        /// The file.
        origin: String,
        /// What the parser says, with line and column.
        reason: String,
    },

    /// A tokenizer breaks a rule of its format.
    #[error("{origin}: tokenizer: {at}: expected {expected}, found {found}")]
    Tokenizer {
        /// The file.
        origin: String,
        /// A JSON path or a GGUF key.
        at: String,
        /// What must be there.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A chat template that is none, or that does not take a conversation.
    #[error("{origin}: chat template: expected {expected}, found {found}")]
    Chat {
        /// The file or the template's name.
        origin: String,
        /// What must be there.
        expected: String,
        /// What is there, or what the template raised.
        found: String,
    },

    /// The weights do not fit the configuration, or hold values that nothing can be computed with.
    #[error("{origin}: tensor {tensor}: expected {expected}, found {found}")]
    Weights {
        /// The file or folder.
        origin: String,
        /// Name of the tensor, as Hugging Face calls it.
        tensor: String,
        /// What the configuration asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A path, a file in a folder or a built-in name does not exist.
    #[error("{path}: {what}; {hint}")]
    NotFound {
        /// The path or name as the user gave it.
        path: String,
        /// What is missing.
        what: String,
        /// What is there instead, or what to do.
        hint: String,
    },

    /// A model hub could not give what was asked for.
    #[error("hub model {repo} at revision {revision}: {reason}")]
    Hub {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// What happened, without any token.
        reason: String,
    },

    /// The crate was compiled without something that the source needs.
    #[error("{what} needs the cargo feature `{feature}`; build with `--features {feature}`{instead}")]
    Feature {
        /// What was asked for.
        what: String,
        /// The cargo feature.
        feature: &'static str,
        /// Another way, with its leading separator, or nothing.
        instead: &'static str,
    },

    /// Logits or sampling options that no token can be drawn from.
    #[error("sampling: {what}: expected {expected}, found {found}")]
    Sampling {
        /// The option or array.
        what: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },

    /// The operating system refused an operation.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// A verb phrase: "read", "list" …
        doing: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A model file is malformed.
    #[error(transparent)]
    Format(#[from] trimwick_formats::Error),

    /// A layer could not be built.
    #[error(transparent)]
    Nn(#[from] trimwick_nn::Error),

    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// A [`Error::Config`].
    pub(crate) fn config(
        origin: &str,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Config {
            origin: origin.into(),
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A [`Error::Unsupported`]; `found` is text from a file and is quoted here.
    pub(crate) fn unsupported(
        origin: &str,
        what: &'static str,
        found: &str,
        supported: impl Into<String>,
    ) -> Self {
        Self::Unsupported { origin: origin.into(), what, found: quote(found), supported: supported.into() }
    }

    /// A [`Error::Chat`].
    pub(crate) fn chat(origin: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Chat { origin: origin.into(), expected: expected.into(), found: found.into() }
    }

    /// A [`Error::Tokenizer`].
    pub(crate) fn tokenizer(
        origin: &str,
        at: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Tokenizer {
            origin: origin.into(),
            at: at.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A [`Error::Weights`].
    pub(crate) fn weights(
        origin: &str,
        tensor: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Weights {
            origin: origin.into(),
            tensor: tensor.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A [`Error::Io`].
    #[cfg(feature = "hub")]
    pub(crate) fn io(path: &Path, doing: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), doing, source }
    }
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

/// A JSON value as it may appear in a message.
pub(crate) fn show(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(s) => quote(s),
        serde_json::Value::Array(a) => format!("a list of {} values", a.len()),
        serde_json::Value::Object(o) => format!("a table of {} keys", o.len()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_files_stays_on_one_line_and_short() {
        let error = Error::unsupported("config.json", "architecture", "Evil\n\u{1b}[31m", "llama");
        assert_eq!(
            error.to_string(),
            r#"config.json: architecture "Evil\n\u{1b}[31m" is not supported; supported: llama"#
        );
        assert!(quote(&"é".repeat(1000)).ends_with("… (2000 bytes)"));
    }
}
