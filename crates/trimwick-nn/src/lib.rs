//! Candle layers that carry masks and fake-quantizers, every one of them differentiable.
//!
//! The crate has five ideas:
//!
//! * A [`ParamStore`] owns the parameters, ordered by name, each trainable, frozen or a buffer. Tied weights are
//!   one entry. It can start from random values keyed by a seed, or from a [`TensorSource`].
//! * A [`VarBuilder`] is candle_nn's, plus the store: models are written as for candle_nn, and every layer
//!   registers itself under its path when it is built, since candle has no module tree to walk.
//! * A layer computes with `chain(w)` and trains `w`. A mask, a fake-quantizer and a low-rank adapter are
//!   [`Reparam`]s in the [`Slot`]s of its [`Chain`]; they are set on a built model through [`Layers`], without
//!   `&mut`.
//! * Every operation in [`ops`] has a backward. Candle's fused `rms_norm`, `softmax_last_dim`, `rope` and `sdpa`
//!   end the autograd graph without an error, and a model that uses them trains its head alone while the loss
//!   still falls.
//! * Between these operations gradients do not go through candle's gradient store, which copies each of them; a
//!   [`GradientSink`] sums those of parameters where they are made.
//!
//! The crate reads model files through `trimwick-formats` (the floor below), so that no untrusted byte is parsed
//! by candle.

#![forbid(unsafe_code)]

mod attention;
mod builder;
mod clock;
mod conv;
mod dropout;
mod embedding;
mod error;
mod feed;
mod grad;
mod kv;
mod layer;
mod linear;
mod lm;
mod mlp;
mod norm;
mod one_shot;
pub mod ops;
mod param;
mod place;
mod reparam;
mod rotary;
mod saved;
mod source;
mod store;
mod stream;
mod watch;
mod wrap;

pub use attention::{AttentionConfig, CausalAttention, KvCache};
pub use builder::VarBuilder;
pub use candle_nn::{Activation, Conv2dConfig, Init, Module, ModuleT};
pub use clock::Clock;
pub use conv::{Conv2d, conv2d, conv2d_no_bias};
pub use dropout::{Dropout, dropout};
pub use embedding::{Embedding, embedding, embedding_init};
pub use error::{Error, Result};
pub use feed::{Feed, FeedSource};
pub use grad::GradientSink;
pub use kv::KvSlot;
pub use layer::{Branch, Capture, CaptureGuard, Layer, LayerKind, Layers};
pub use linear::{Linear, linear, linear_b, linear_init, linear_no_bias};
pub use lm::CausalLm;
pub use mlp::{SwiGluMlp, SwiGluMlpConfig};
pub use norm::{LayerNorm, RmsNorm, layer_norm, rms_norm};
pub use one_shot::{EvenRows, LayerReport, Watch, decibels};
pub use param::{Compact, Param, Role};
pub use place::Place;
pub use reparam::{Chain, Reparam, Slot};
pub use rotary::{RopeScaling, Rotary, inverse_frequencies};
pub use source::{FolderSource, TensorSource};
pub use store::ParamStore;
pub use stream::{DecoderBlock, LmHead, LoadedBlock, LoadedEmbedding, LoadedHead, StreamedLm};
pub use watch::{InputSums, InputWatch};
pub use wrap::{Wrap, wrap};
