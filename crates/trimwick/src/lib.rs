//! Trimwick makes candle models smaller and faster while they train.
//!
//! This crate is a facade: it re-exports the rooms of the workspace and adds nothing of its own.
//!
//! | module | what is in it |
//! |---|---|
//! | [`nn`] | layers that carry masks and fake-quantizers, all differentiable; `ParamStore`, `VarBuilder` |
//! | [`quant`] | fake-quantization of every grid: schemes, observers, learned scales, KV cache |
//! | [`sparse`] | N:M and unstructured pruning: magnitude, Wanda, SparseGPT; mask schedules |
//! | [`models`] | the Llama family: Hugging Face folders, the hub, GGUF, the built-in model; tokenizers |
//! | [`export`] | tensor files through any grid, models in the formats of other runtimes, proved |
//! | [`train`] | the loop: AdamW, schedules, data, distillation, checkpoints that resume bit for bit |
//! | [`formats`] | readers and writers of model files, hardened against hostile ones |
//! | [`kernels`] | the CPU loops on plain slices |
//!
//! # Prune a model of your own
//!
//! Change the import, keep the model:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use trimwick::nn::{self, Module, ParamStore, VarBuilder}; // was: use candle_nn::{self, Module, VarBuilder};
//! use trimwick::sparse::{self, Magnitude, Pattern};
//!
//! struct Mlp {
//!     fc1: nn::Linear,
//!     fc2: nn::Linear,
//! }
//!
//! impl Mlp {
//!     fn new(vb: VarBuilder) -> trimwick::Result<Self> {
//!         Ok(Self { fc1: nn::linear(16, 32, vb.pp("fc1"))?, fc2: nn::linear(32, 4, vb.pp("fc2"))? })
//!     }
//!
//!     fn forward(&self, x: &Tensor) -> trimwick::Result<Tensor> {
//!         Ok(self.fc2.forward(&self.fc1.forward(x)?.relu()?)?)
//!     }
//! }
//!
//! # fn main() -> trimwick::Result<()> {
//! let store = ParamStore::new(DType::F32, &Device::Cpu);
//! let model = Mlp::new(store.var_builder())?;
//! let layers = store.layers(); // every layer the model registered, by its dotted path
//! sparse::prune(&layers.select("fc*")?, Pattern::TWO_FOUR, &Magnitude)?;
//!
//! // The masks act inside forward() and in the gradient: train as before.
//! let loss = model.forward(&Tensor::ones((8, 16), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
//! let gradients = loss.backward()?;
//! assert!(store.trainable().iter().all(|p| gradients.get(p.var().as_tensor()).is_some()));
//! assert_eq!(sparse::violations(&layers, Pattern::TWO_FOUR)?, 0);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod error;

pub use error::{Error, Result};
pub use trimwick_export as export;
pub use trimwick_formats as formats;
pub use trimwick_kernels as kernels;
pub use trimwick_models as models;
pub use trimwick_nn as nn;
pub use trimwick_quant as quant;
pub use trimwick_sparse as sparse;
pub use trimwick_train as train;

/// The blocks of the book's page on custom models, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/custom_models.md")]
pub struct CustomModels;

/// Those of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// Those of the page on one-shot algorithms.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/one_shot.md")]
pub struct OneShot;
