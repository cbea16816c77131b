//! What can be wrong with data, as opposed to with a call.

/// An error about values that a kernel was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A score that decides which weights stay is not a number, so no order of the weights exists.
    #[error(
        "score {index} is NaN, expected a number: check the weight and the calibration statistics for NaN"
    )]
    NanScore {
        /// Position of the first NaN in the row-major scores.
        index: usize,
    },
    /// A value to quantize is NaN or infinite, so its block has no range.
    #[error("value {index} is NaN or infinite, expected a finite number: its block has no scale")]
    NonFinite {
        /// Position of the first such value in the row-major tensor.
        index: usize,
    },
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
