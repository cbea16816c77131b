//! What can go wrong when a layer is pruned.

/// An error of pruning: it names the layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pattern that does not parse or makes no sense.
    #[error(
        "sparsity pattern {found:?}: expected N:M with 0 < N < M ≤ 64 (such as 2:4), or unstructured with a sparsity in (0, 1)"
    )]
    Pattern {
        /// The pattern as given.
        found: String,
    },
    /// The pattern's groups do not divide the layer's inputs.
    #[error(
        "{layer}: pattern {pattern} needs groups of {group} inputs, but the layer has {inputs} ({inputs} % {group} ≠ 0); exclude it or choose another pattern"
    )]
    Shape {
        /// Layer path.
        layer: String,
        /// The pattern.
        pattern: String,
        /// Its group, M.
        group: usize,
        /// Inputs of the layer.
        inputs: usize,
    },
    /// A method needs calibration data where none was seen.
    #[error(
        "{layer}: {method} needs the layer's inputs, but none were seen in calibration; run it on a model with calibration data"
    )]
    NoStatistics {
        /// Layer path.
        layer: String,
        /// The method.
        method: &'static str,
    },
    /// NaN or infinity in a weight or a statistic.
    #[error(
        "{layer}: {what} holds a NaN or infinity at element {index}; the weights or the calibration data are broken"
    )]
    NonFinite {
        /// Layer path.
        layer: String,
        /// `"weight"`, `"input statistic"` …
        what: &'static str,
        /// Row-major index.
        index: usize,
    },
    /// Scores that cannot be ordered.
    #[error("{layer}: {source}")]
    Score {
        /// Layer path.
        layer: String,
        /// What is wrong with them.
        source: trimwick_kernels::Error,
    },
    /// A method that cannot take this kind of layer.
    #[error(
        "{layer}: {method} prunes linear layers only; use magnitude for convolutions, or exclude the layer"
    )]
    Kind {
        /// Layer path.
        layer: String,
        /// The method.
        method: &'static str,
    },
    /// The Hessian could not be factored, even with damping raised.
    #[error(
        "{layer}: the Hessian is not positive definite even with damping {damping}; give more calibration tokens or raise prune.damping"
    )]
    Cholesky {
        /// Layer path.
        layer: String,
        /// The largest damping tried, as a share of the mean diagonal.
        damping: f64,
    },
    /// Weights kept in another dtype than f32.
    #[error("{layer}: pruning works on f32 weights on the CPU, found {found:?}")]
    DType {
        /// Layer path.
        layer: String,
        /// Dtype found.
        found: candle_core::DType,
    },
    /// Of [`trimwick_nn`].
    #[error(transparent)]
    Nn(#[from] trimwick_nn::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of pruning.
pub type Result<T> = std::result::Result<T, Error>;
