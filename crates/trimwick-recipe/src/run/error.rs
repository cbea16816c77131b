//! What can end a run.

use std::path::PathBuf;

/// An error of a run. Nothing half-written is left: every file is written aside and renamed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The recipe does not fit the files or the model.
    #[error(transparent)]
    Recipe(#[from] crate::Faults),
    /// The folder holds a run of another recipe.
    #[error(
        "{}: holds a run of another recipe (fingerprint {found}, this one is {expected}); give another folder \
         with --out, or remove it",
        path.display()
    )]
    OtherRun {
        /// The run's folder.
        path: PathBuf,
        /// Fingerprint of this recipe.
        expected: String,
        /// Fingerprint of the run in the folder.
        found: String,
    },
    /// A record of a finished stage that cannot be read.
    #[error("{}: not the record of a stage ({source}); remove it to run the stage again", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A text that the recipe names and the program does not carry.
    #[error("{key}: {found:?} is not a text that comes with the program; known: {known}")]
    UnknownText {
        /// The recipe's key.
        key: &'static str,
        /// The name as given.
        found: String,
        /// The names that exist.
        known: String,
    },
    /// The model came without a tokenizer.
    #[error("{origin}: no tokenizer.json beside the weights; put the model's own there")]
    NoTokenizer {
        /// The model.
        origin: String,
    },
    /// Too little text.
    #[error(
        "{key}: {found} windows of {context} tokens, expected at least {expected}; give more text or a shorter data.context"
    )]
    TooFewWindows {
        /// The recipe's key.
        key: &'static str,
        /// Tokens in a window.
        context: usize,
        /// Windows needed.
        expected: usize,
        /// Windows there are.
        found: usize,
    },
    /// The written file does not hold what was trained.
    #[error("{}: {tensor}: {what}; the export is not what was trained: report this", path.display())]
    Proof {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What differs.
        what: String,
    },
    /// Reading or writing a file of the run.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Of a model or tokenizer.
    #[error(transparent)]
    Model(#[from] trimwick_models::Error),
    /// Of a parameter store.
    #[error(transparent)]
    Nn(#[from] trimwick_nn::Error),
    /// Of quantization.
    #[error(transparent)]
    Quant(#[from] trimwick_quant::Error),
    /// Of pruning.
    #[error(transparent)]
    Sparse(#[from] trimwick_sparse::Error),
    /// Of training, evaluation or data.
    #[error(transparent)]
    Train(#[from] trimwick_train::Error),
    /// Of a model file or a checkpoint.
    #[error(transparent)]
    Format(#[from] trimwick_formats::Error),
    /// Of a tensor operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of a run's parts.
pub type Result<T> = std::result::Result<T, RunError>;
