//! What can go wrong between a tensor and its packed form.

use std::io;
use std::path::PathBuf;

use trimwick_formats::Error as FormatError;

/// Result of an export.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an export: it names the file, the tensor, the element.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A scheme that leaves weights as they are.
    #[error("scheme `{scheme}`: no weight quantizer; take a scheme that has one, such as int4-g128")]
    NoWeight {
        /// The scheme as text.
        scheme: String,
    },
    /// A tensor that the scheme cannot take, mostly because its rows are not whole groups.
    #[error("{source}; or leave {} out (--skip GLOB, --tensors GLOB)", them(*.others))]
    Misfit {
        /// What is wrong with the first such tensor, and what would fit.
        source: Box<trimwick_quant::Error>,
        /// How many more tensors there are that do not fit.
        others: usize,
    },
    /// NaN or infinity, which no grid has.
    #[error("{}: tensor {tensor:?} holds {found} at element {index}; quantize finite weights, or leave it out (--skip)", .path.display())]
    NonFinite {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element.
        index: usize,
        /// NaN or an infinity.
        found: f32,
    },
    /// A pattern that is no glob.
    #[error("--{option} {pattern:?}: not a glob: {reason}")]
    Pattern {
        /// `"tensors"` or `"skip"`.
        option: &'static str,
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern that changes nothing.
    #[error("--{option} {pattern:?}: matches nothing that would be quantized; these would: {known}")]
    NoMatch {
        /// `"tensors"` or `"skip"`.
        option: &'static str,
        /// The pattern as given.
        pattern: String,
        /// The first few tensors that could be meant.
        known: String,
    },
    /// A file without a single tensor to quantize.
    #[error("{}: nothing to quantize: expected a tensor of floats with at least two dimensions, found {found}", .path.display())]
    Nothing {
        /// The file or folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// An input that holds codes already.
    #[error("{}: packed already, as `{scheme}`; give the file that it was made from", .path.display())]
    AlreadyPacked {
        /// The file.
        path: PathBuf,
        /// The scheme as text.
        scheme: String,
    },
    /// Two tensors of the output would have one name.
    #[error("{}: tensor {part:?} is there already, and a part of {tensor:?} would get that name; leave one out (--skip)", .path.display())]
    Taken {
        /// The file or folder.
        path: PathBuf,
        /// The tensor to be packed.
        tensor: String,
        /// The name of its part.
        part: String,
    },
    /// Something has the name of the output.
    #[error("{}: {what}; give another name{}", .path.display(), if *.forcible { ", or --force" } else { "" })]
    Occupied {
        /// The output.
        path: PathBuf,
        /// What is there.
        what: &'static str,
        /// Whether it may be replaced if asked for.
        forcible: bool,
    },
    /// A file that does not say what its codes mean.
    #[error("{}: not a packed file: metadata {key}: expected {expected}, found {found}", .path.display())]
    NotPacked {
        /// The file.
        path: PathBuf,
        /// The metadata that is missing or strange.
        key: &'static str,
        /// What it should say.
        expected: String,
        /// What it says.
        found: String,
    },
    /// The bytes that were written do not hold what they should. Nothing was left of them.
    #[error(
        "{}: proof failed: tensor {tensor:?}, element {index}: expected {expected}, found {found}; \
         the disk, the memory or the input changed meanwhile: run again", .path.display()
    )]
    Proof {
        /// The output as it was to be named.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the first element that differs; of the first byte in tensors that are copied.
        index: usize,
        /// What quantizing the input gives.
        expected: f32,
        /// What the written bytes decode to.
        found: f32,
    },
    /// A target that does not exist.
    #[error("export target {found:?}: expected one of {known}")]
    UnknownTarget {
        /// The name as given.
        found: String,
        /// Those that there are.
        known: String,
    },
    /// A grid that a target cannot hold exactly.
    #[error("{target} cannot hold {layer} ({scheme}): {problem}; {nearest}")]
    Refused {
        /// The target.
        target: crate::Target,
        /// The layer.
        layer: String,
        /// What it is quantized by.
        scheme: String,
        /// Why not.
        problem: String,
        /// What would hold it.
        nearest: &'static str,
    },
    /// A target of packed weights for a model without any.
    #[error("{target}: no layer is quantized; take hf or gguf, or quantize first")]
    NothingQuantized {
        /// The target.
        target: crate::Target,
    },
    /// GGUF without a tokenizer, which llama.cpp would not load.
    #[error(
        "{name}: gguf needs the model's tokenizer, and there is none; save its tokenizer.json beside the model"
    )]
    NoTokenizer {
        /// The model.
        name: String,
    },
    /// A store that does not hold the model of its configuration.
    #[error("tensor {tensor:?} of the model: expected {expected}, found {found}")]
    Store {
        /// The tensor.
        tensor: String,
        /// What the configuration or the quantizer asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An export that is not what it should be.
    #[error("{}: {what}: expected {expected}, found {found}", .path.display())]
    Mismatch {
        /// The export.
        path: PathBuf,
        /// The tensor and element, or the key of the configuration.
        what: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// The caller wanted no more.
    #[error("stopped; nothing was written")]
    Stopped,
    /// Of [`trimwick_quant`].
    #[error(transparent)]
    Quant(#[from] trimwick_quant::Error),
    /// Of [`trimwick_models`].
    #[error(transparent)]
    Model(Box<trimwick_models::Error>),
    /// Of [`trimwick_sparse`].
    #[error(transparent)]
    Sparse(Box<trimwick_sparse::Error>),
    /// Of a tensor operation.
    #[error(transparent)]
    Candle(Box<candle_core::Error>),
    /// Of [`trimwick_kernels`].
    #[error(transparent)]
    Kernel(#[from] trimwick_kernels::Error),
    /// Of [`trimwick_formats`].
    #[error(transparent)]
    Format(FormatError),
}

fn them(others: usize) -> String {
    match others {
        0 => "it".into(),
        1 => "it and 1 more that does not fit".into(),
        n => format!("it and {n} more that do not fit"),
    }
}

impl From<FormatError> for Error {
    /// An error of this crate comes back as itself from the writers, which know none but those of input and output.
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io { path, doing, source } => match source.downcast::<Error>() {
                Ok(own) => own,
                Err(source) => Self::Format(FormatError::Io { path, doing, source }),
            },
            error => Self::Format(error),
        }
    }
}

impl From<trimwick_models::Error> for Error {
    fn from(error: trimwick_models::Error) -> Self {
        Self::Model(Box::new(error))
    }
}

impl From<trimwick_sparse::Error> for Error {
    fn from(error: trimwick_sparse::Error) -> Self {
        Self::Sparse(Box::new(error))
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(Box::new(error))
    }
}

impl From<Error> for io::Error {
    /// For the way through a writer.
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}
