//! One error for code that uses several rooms.

/// Any error of Trimwick. Code that uses one room has that room's own type at hand.
///
/// The rooms' errors are boxed, so that a `Result` of this type stays small.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of a tensor operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Of parameters and layers.
    #[error(transparent)]
    Nn(Box<trimwick_nn::Error>),
    /// Of quantization.
    #[error(transparent)]
    Quant(Box<trimwick_quant::Error>),
    /// Of pruning.
    #[error(transparent)]
    Sparse(Box<trimwick_sparse::Error>),
    /// Of models and tokenizers.
    #[error(transparent)]
    Models(Box<trimwick_models::Error>),
    /// Of training, evaluation and data.
    #[error(transparent)]
    Train(Box<trimwick_train::Error>),
    /// Of tensor files on a grid.
    #[error(transparent)]
    Export(Box<trimwick_export::Error>),
    /// Of model files.
    #[error(transparent)]
    Formats(Box<trimwick_formats::Error>),
}

/// Result of code that uses several rooms.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! boxed {
    ($($variant:ident($error:ty)),+ $(,)?) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })+
    };
}

boxed!(
    Nn(trimwick_nn::Error),
    Quant(trimwick_quant::Error),
    Sparse(trimwick_sparse::Error),
    Models(trimwick_models::Error),
    Train(trimwick_train::Error),
    Export(trimwick_export::Error),
    Formats(trimwick_formats::Error),
);
