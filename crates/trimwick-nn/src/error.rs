//! What can go wrong between a model and its parameters.

use candle_core::DType;

/// An error of parameter storage, layer selection or layer wrapping.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weight source has no tensor of the requested name.
    #[error("tensor {name}: missing in {origin}; expected shape {expected:?}")]
    MissingTensor {
        /// Dotted name of the parameter.
        name: String,
        /// Where the weights come from.
        origin: String,
        /// Shape that the model asked for.
        expected: Vec<usize>,
    },
    /// The weight source holds the tensor in another shape.
    #[error("tensor {name}: expected shape {expected:?}, found {found:?} in {origin}")]
    Shape {
        /// Dotted name of the parameter.
        name: String,
        /// Where the found tensor comes from.
        origin: String,
        /// Shape that the model asked for.
        expected: Vec<usize>,
        /// Shape that is there.
        found: Vec<usize>,
    },
    /// A parameter was asked for twice with different shapes or dtypes, or a layer path was used twice.
    #[error("{name}: registered twice; give each layer its own path with vb.pp(..)")]
    Duplicate {
        /// Dotted name or layer path.
        name: String,
    },
    /// A glob pattern selected no layer.
    #[error("pattern {pattern:?} matches no layer; the model has {known}")]
    NoMatch {
        /// The pattern as given.
        pattern: String,
        /// A few of the paths that exist.
        known: String,
    },
    /// A glob pattern does not parse.
    #[error("pattern {pattern:?}: {reason}")]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// Why it does not parse.
        reason: String,
    },
    /// No parameter of that name is in the store.
    #[error("parameter {name}: not in the store")]
    UnknownParam {
        /// Dotted name.
        name: String,
    },
    /// A dtype that an operation cannot take.
    #[error("{what}: dtype {found:?} is not supported; use {expected}")]
    DType {
        /// Operation or tensor.
        what: String,
        /// Dtypes that work.
        expected: &'static str,
        /// Dtype that was given.
        found: DType,
    },
    /// A mask, scale or buffer does not fit the weight that it belongs to.
    #[error("{layer}: {what}: expected {expected}, found {found}")]
    Mismatch {
        /// Layer path or parameter name.
        layer: String,
        /// What does not fit.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A model file could not be read or written.
    #[error(transparent)]
    Format(#[from] trimwick_formats::Error),
}

/// Result of parameter storage, layer selection and layer wrapping.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(inner) => inner,
            other => candle_core::Error::wrap(other),
        }
    }
}
