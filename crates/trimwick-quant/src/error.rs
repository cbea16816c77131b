//! What can go wrong when a layer is quantized.

/// An error of quantization: it names the layer, the rule or the word.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A word that names no preset, code, scale format or granularity.
    #[error("{what} {found:?}: unknown; {hint}expected one of {known}")]
    Unknown {
        /// `"scheme"`, `"code"` …
        what: &'static str,
        /// The word as given.
        found: String,
        /// `did you mean …? `, or nothing.
        hint: String,
        /// The words that exist.
        known: String,
    },
    /// A quantizer that no grid or runtime has, whatever the layer.
    #[error("quantizer {spec}: {problem}")]
    Spec {
        /// The quantizer.
        spec: String,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// A group that does not divide a layer's rows.
    #[error(
        "{layer}: {spec} needs rows of whole groups of {group}, but they are of {row} ({row} % {group} ≠ 0); groups that fit: {fits}"
    )]
    Group {
        /// Layer path.
        layer: String,
        /// The quantizer.
        spec: String,
        /// Its group.
        group: usize,
        /// Length of a row: the inputs of a linear layer.
        row: usize,
        /// Groups that divide it.
        fits: String,
    },
    /// A scheme or option that a layer of this kind cannot take.
    #[error("{layer}: {spec}: {problem}")]
    Layer {
        /// Layer path.
        layer: String,
        /// The quantizer or option.
        spec: String,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// A rule that changes nothing.
    #[error("rule {pattern:?}: {problem}")]
    Rule {
        /// The pattern as given.
        pattern: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// An option outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        what: &'static str,
        /// The range.
        expected: &'static str,
        /// The value as given.
        found: f64,
    },
    /// NaN or infinity in a weight or an activation.
    #[error(
        "{layer}: {what} holds {found} at element {index}; the weights, the data or the learning rate are broken"
    )]
    NonFinite {
        /// Layer path.
        layer: String,
        /// `"weight"`, `"input"`, `"keys"` …
        what: &'static str,
        /// NaN or an infinity.
        found: f32,
        /// Row-major index.
        index: usize,
    },
    /// A static quantizer that was never calibrated.
    #[error(
        "{layer}: the static scale of its {what} is not known yet; run quant::calibrate (quant::kv::calibrate for keys and values) on calibration data, or restore a checkpoint that has it"
    )]
    Uncalibrated {
        /// Layer path.
        layer: String,
        /// `"input"`, `"keys"` …
        what: &'static str,
    },
    /// A layer that saw no data in calibration.
    #[error(
        "{layer}: no {what} seen in calibration; the forward pass must run this layer on calibration data, or exclude it"
    )]
    NoStatistics {
        /// Layer path.
        layer: String,
        /// `"input"`, `"keys"` …
        what: &'static str,
    },
    /// A saved scale, statistic or histogram of another layer, scheme or version.
    #[error("{layer}: buffer {buffer}: expected {expected}, found {found}; it was saved with another scheme")]
    Buffer {
        /// Layer path.
        layer: String,
        /// Suffix of the buffer.
        buffer: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A quantizer's tensor operation failed.
    #[error("{layer}: {what}: {source}")]
    Operation {
        /// Layer path.
        layer: String,
        /// `"weight"`, `"input"` …
        what: &'static str,
        /// Why.
        source: Box<candle_core::Error>,
    },
    /// The Hessian of a layer could not be factored, even with damping raised.
    #[error(
        "{layer}: the Hessian is not positive definite even with damping {damping}; give more calibration tokens or raise the damping"
    )]
    Cholesky {
        /// Layer path.
        layer: String,
        /// The largest damping tried, as a share of the mean diagonal.
        damping: f64,
    },
    /// A budget that nothing fits.
    #[error(
        "a budget of {bits:.3} bits a weight: the smallest candidates take {least:.3}; raise it, or add smaller ones"
    )]
    Budget {
        /// The budget, in bits for each weight.
        bits: f64,
        /// What the smallest candidates take.
        least: f64,
    },
    /// A mask that was chosen together with quantized weights could not be fixed.
    #[error("{layer}: mask: {source}")]
    Mask {
        /// Layer path.
        layer: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Of [`trimwick_nn`].
    #[error(transparent)]
    Nn(#[from] trimwick_nn::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// The error of an operation on `values`: when they hold a NaN or an infinity, that is what was wrong.
    pub(crate) fn named(e: candle_core::Error, layer: &str, what: &'static str, values: &[f32]) -> Self {
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Self::NonFinite { layer: layer.into(), what, found: values[index], index },
            None => Self::Operation { layer: layer.into(), what, source: Box::new(e) },
        }
    }
}

/// Result of quantization.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(inner) => inner,
            Error::Nn(inner) => inner.into(),
            // Without a backtrace: what is wrong is in the data, not in the code that found it.
            other => candle_core::Error::Wrapped(Box::new(other)),
        }
    }
}
