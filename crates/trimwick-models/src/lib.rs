//! The Llama family with Trimwick's layers, from HF folders, the hub, GGUF files or the built-in model.
#![forbid(unsafe_code)]

pub mod builtin;
mod config;
mod error;
#[cfg(test)]
mod gguf_bytes;
mod llama;
mod names;
mod sampling;
pub mod source;
mod tokenizer;

pub use config::{Arch, LlamaConfig, MAX_VOCAB};
pub use error::{Error, Result};
pub use llama::Llama;
pub use names::{gguf_to_hf, hf_to_gguf, permute_rows, unpermute_rows};
pub use sampling::{Sampler, SamplingOptions};
pub use source::{ModelFiles, ModelSource, OpenOptions};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use trimwick_nn::RopeScaling;
