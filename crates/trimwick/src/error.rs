//! One error for code that uses several rooms.

/// Any error of the workspace's libraries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of a tensor operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Of parameters and layers.
    #[error(transparent)]
    Nn(#[from] trimwick_nn::Error),
    /// Of tensor files on a grid.
    #[error(transparent)]
    Export(#[from] trimwick_export::Error),
    /// Of quantization.
    #[error(transparent)]
    Quant(#[from] trimwick_quant::Error),
    /// Of pruning.
    #[error(transparent)]
    Sparse(#[from] trimwick_sparse::Error),
    /// Of models and tokenizers.
    #[error(transparent)]
    Models(#[from] trimwick_models::Error),
    /// Of training, evaluation and data.
    #[error(transparent)]
    Train(#[from] trimwick_train::Error),
    /// Of model files.
    #[error(transparent)]
    Formats(#[from] trimwick_formats::Error),
}

/// Result of code that uses several rooms.
pub type Result<T> = std::result::Result<T, Error>;
