//! What can go wrong in training.

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::DType;

use crate::data::is_table;

/// An error of another crate's own type: from a tokenizer, a hook.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error of training data, of the optimizer or of the loop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that no run can have.
    #[error("{key}: expected {expected}, found {found}")]
    Setting {
        /// The setting, such as `train.batch`.
        key: &'static str,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A parameter group that governs nothing.
    #[error("parameter group {pattern:?}: {problem}")]
    Group {
        /// The group's pattern.
        pattern: String,
        /// Why it governs nothing.
        problem: String,
    },
    /// A layer that cannot take a low-rank adapter.
    #[error("{layer}: an adapter needs {expected}, found {found}")]
    Adapter {
        /// The layer's path.
        layer: String,
        /// What an adapter needs.
        expected: String,
        /// What the layer is.
        found: String,
    },
    /// There is no trainable parameter.
    #[error("nothing to train: every parameter is frozen")]
    AllFrozen,
    /// A dtype that is not trained.
    #[error("parameter {name}: {found:?} is not trained; load the model in f32")]
    DType {
        /// The parameter.
        name: String,
        /// Its dtype.
        found: DType,
    },
    /// Trainable parameters without a gradient: an operation without a backward, or a layer the loss does not see.
    #[error("no gradient for {}: an operation cut the graph, or the loss does not depend on it; freeze it if that is meant", Names(.names))]
    MissingGradient {
        /// The parameters, sorted.
        names: Vec<String>,
    },
    /// Trainable parameters that the optimizer was not given.
    #[error("trainable but unknown to the optimizer: {}", Names(.names))]
    NotOptimized {
        /// The parameters, sorted.
        names: Vec<String>,
    },
    /// A loss or gradient is NaN or infinite. The weights are those before the step.
    #[error("{what} is {value}; the weights are untouched: lower the learning rate or check the data")]
    NonFinite {
        /// What is not finite.
        what: String,
        /// NaN or an infinity.
        value: f64,
    },
    /// A gradient is NaN or infinite, and other weights of the step are updated already.
    #[error(
        "{what} is {value}; other weights of this step are updated already (memory = \"lean\"): run again, which goes on from the last checkpoint, with a lower learning rate or with non_finite = \"rewind\""
    )]
    HalfStep {
        /// What is not finite.
        what: String,
        /// NaN or an infinity.
        value: f64,
    },
    /// A lean step met a gradient for a parameter that it had updated.
    #[error(
        "parameter {name}: a gradient came after its update, since which parts of the model use it depends on the data; train with memory = \"blocks\""
    )]
    Late {
        /// The parameter.
        name: String,
    },
    /// A loss far above the last ones.
    #[error(
        "the loss of step {step} is {loss}, more than {factor} times {median}, the median of the last ones"
    )]
    Spike {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// What the guard allows.
        factor: f64,
        /// Median of the last losses.
        median: f64,
    },
    /// One broken step more than the guards allow.
    #[error("after {skips} skipped steps and rewinds, as many as are allowed: {source}")]
    GaveUp {
        /// Steps left out and rewinds before.
        skips: u32,
        /// What was broken now.
        source: Box<Error>,
    },
    /// The loss of a window of text is NaN or infinite.
    #[error(
        "evaluation: the loss of window {window} is {value}: the model's weights give no finite logits; check the model, or the training that made it"
    )]
    Broken {
        /// The window, counted from 0.
        window: usize,
        /// NaN or an infinity.
        value: f64,
    },
    /// A text file that cannot be used.
    #[error("{}: expected {expected}, found {found}", At(.path, *.line))]
    Text {
        /// The file, or the name of a text in memory.
        path: PathBuf,
        /// Line, or row of a table, counted from 1.
        line: u64,
        /// What is expected there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The tokenizer rejected a text.
    #[error("{}: the tokenizer failed: {source}", At(.path, *.line))]
    Tokenizer {
        /// The file, or the name of a text in memory.
        path: PathBuf,
        /// First line of the piece of text, counted from 1.
        line: u64,
        /// The tokenizer's error.
        source: BoxError,
    },
    /// A question whose choices got no log-likelihoods.
    #[error("{}: the choices could not be scored: {source}", At(.path, *.line))]
    Scoring {
        /// The file, or the name of a text in memory.
        path: PathBuf,
        /// Line of the question, counted from 1.
        line: u64,
        /// What went wrong.
        source: BoxError,
    },
    /// A conversation that could not be made into tokens.
    #[error("{}: {source}", At(.path, *.line))]
    Chat {
        /// The file, or the name of a text in memory.
        path: PathBuf,
        /// Line, or row of a table, counted from 1.
        line: u64,
        /// What the template or the tokenizer says.
        source: BoxError,
    },
    /// No text in the given files.
    #[error("data: {inputs} without any text: expected at least one non-empty document")]
    Empty {
        /// The files or texts.
        inputs: String,
    },
    /// Fewer tokens than one window.
    #[error(
        "data: expected at least {expected} tokens (one window), found {found}: add text or shorten data.context"
    )]
    TooShort {
        /// Tokens of a window.
        expected: usize,
        /// Tokens that there are.
        found: usize,
    },
    /// A hook failed.
    #[error("step {step}: {hook}: {source}")]
    Hook {
        /// The hook's name.
        hook: String,
        /// The step, counted from 1.
        step: u64,
        /// The hook's error.
        source: BoxError,
    },
    /// A checkpoint that verifies but belongs to another run than the one it is to continue.
    #[error("{}: {what}: expected {expected}, found {found}: use another output folder, or the settings that it was started with", OneLine(.path))]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What this run has.
        expected: String,
        /// What the checkpoint has.
        found: String,
    },
    /// The operating system refused an operation.
    #[error("{}: cannot {doing}: {source}", OneLine(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operation, as a verb phrase.
        doing: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A parameter or layer operation failed.
    #[error(transparent)]
    Nn(#[from] trimwick_nn::Error),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Format(#[from] trimwick_formats::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn setting(key: &'static str, expected: impl Into<String>, found: impl fmt::Display) -> Self {
        Self::Setting { key, expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.into(), doing, source }
    }
}

/// The first few of a list of names.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        f.write_str(&self.0[..self.0.len().min(SHOWN)].join(", "))?;
        match self.0.len() {
            0..=SHOWN => Ok(()),
            n => write!(f, " and {} more", n - SHOWN),
        }
    }
}

/// A line of a text, or a row of a table.
struct At<'a>(&'a Path, u64);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if is_table(self.0) { "row" } else { "line" };
        write!(f, "{}: {unit} {}", OneLine(self.0), self.1)
    }
}

/// A path on one line: paths may hold control characters.
struct OneLine<'a>(&'a Path);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_debug()),
            false => write!(f, "{c}"),
        })
    }
}
