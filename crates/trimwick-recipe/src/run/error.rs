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
        "{}: holds a run of another recipe ({keys}fingerprint {found}, this one is {expected}); give another folder \
         with --out, or remove it",
        path.display()
    )]
    OtherRun {
        /// The run's folder.
        path: PathBuf,
        /// The keys that differ, as `train.steps, seed differ; `; empty where they are not known.
        keys: String,
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
    /// A record of a finished stage that is not this run's.
    #[error("{}: {what}: expected {expected}, found {found}; remove it to run the stage again", path.display())]
    Stale {
        /// The record.
        path: PathBuf,
        /// Its part.
        what: &'static str,
        /// What this run's would hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A file between two stages whose digest is another one.
    #[error("{}: not the file that was written; remove it to run the stage again", path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
    },
    /// A file between two stages that does not hold the tensors that were saved.
    #[error("{}: {tensor}: {what}; remove the file to run the stage again", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A mask in the model's folder that does not belong to the model.
    #[error(
        "{}: {tensor}: expected {expected}, found {found}; restore the file that was written with the weights",
        path.display()
    )]
    Masks {
        /// The file.
        path: PathBuf,
        /// The mask.
        tensor: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Text or model are not those that the run began with.
    #[error(
        "{}: {what}: its finished stages are about what was there before; restore that, or give another folder with \
         --out",
        path.display()
    )]
    Changed {
        /// The run's folder, or its record of what it reads.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A folder that a run must not write to.
    #[error("{}: expected {expected}, found {found}; {advice}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What a run can take.
        expected: &'static str,
        /// What is there.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// The stop flag ended a stage. [`run`](super::run) tells it as [`RunOutcome::Stopped`](super::RunOutcome::Stopped).
    #[error("stopped; the same recipe continues")]
    Stopped,
    /// A text that the recipe names and the program does not carry.
    #[error("{key}: {found:?} is not a text that comes with the program; known: {known}")]
    UnknownText {
        /// The recipe's key.
        key: String,
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
    /// Blocks of a model that has no files.
    #[error("{origin}: expected {expected}; give model.source")]
    NoWeights {
        /// The model.
        origin: String,
        /// What is needed.
        expected: String,
    },
    /// Too little text.
    #[error(
        "{key}: {found} windows of {context} tokens, expected at least {expected}; give more text or a shorter data.context"
    )]
    TooFewWindows {
        /// The recipe's key.
        key: String,
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
    /// A value that the export's type cannot hold.
    #[error(
        "{tensor}: element {index} is {value}, which is infinite as {dtype}; write export.dtype = \"bf16\" or \"f32\""
    )]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The element, in row-major order.
        index: usize,
        /// Its value.
        value: f32,
        /// The type.
        dtype: &'static str,
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
    /// Of an export for another runtime.
    #[error(transparent)]
    Export(Box<trimwick_export::Error>),
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

impl From<trimwick_export::Error> for RunError {
    fn from(error: trimwick_export::Error) -> Self {
        Self::Export(Box::new(error))
    }
}
