//! Where a store takes its values from.

use candle_core::{DType, Device, Tensor};

/// A set of named tensors that is read when a model asks for them.
pub trait TensorSource: Send + Sync {
    /// What to call the source in an error: a path, a hub id.
    fn origin(&self) -> String;

    /// Every name, sorted.
    fn names(&self) -> Vec<String>;

    /// Shape of a tensor, or `None` when there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Reads one tensor, contiguous, in `dtype`, on `device`.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor>;
}
