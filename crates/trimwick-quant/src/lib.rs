//! Quantization-aware training of layers that were built with `trimwick-nn`.
//!
//! A layer under training computes with the numbers that its exported form will hold, and trains the numbers that they
//! are rounded from. Everything here follows from taking that literally:
//!
//! * **A grid is a deployment format.** A [`Scheme`] names codes, how many values share a scale, and the format that the
//!   scale is stored in; the scale is rounded to it before it is used. So the grid trained on is the grid read back, and
//!   an export loses nothing. [`Scheme::preset`] lists the usual ones; others are composed, in code or as text
//!   (`weight int4 g64 bf16, input int8 token dynamic`).
//! * **Fake-quantization is a reparametrization**, like a mask: `FQ(M ⊙ (W + BA))`, the last slot of a layer's chain. A
//!   dropped weight stays +0.0 on every grid, an adapter merges exactly. Values and codes come from one function of
//!   `trimwick-kernels`: [`quantized`] gives the codes of what the layer computed with, and [`on_grid`] proves it.
//! * **A gradient is cut only where something was clipped.** Scales that follow the weight clip nothing, and the gradient
//!   passes as it is. Fixed scales clip what outgrows them, and there the gradient is zero, ends of the range not
//!   included. Learned scales (LSQ) move instead. See [`ScalePolicy`].
//! * **Nothing is silent.** A group that does not divide a row, a rule that governs nothing, a freeze with nothing to
//!   freeze, a static input that saw no data, a NaN in a weight or an activation: each is an error that names the layer,
//!   and the first three come before any weight is read.
//! * **A switched-off quantizer is not there**, bit for bit, forward and backward: [`QuantSchedule`] starts them late.
//!
//! # The way of a model
//!
//! | step | function |
//! |---|---|
//! | which scheme for which layer | [`govern`] |
//! | quantizers on | [`attach`], [`attach_with`]; [`kv::attach`] for keys and values |
//! | scales of static inputs, of keys and values | [`calibrate`], [`kv::calibrate`], [`calibrate_all`] |
//! | optimizer | built after attaching, so that it knows the learned scales |
//! | before each step | [`QuantSchedule::before_step`], or [`refresh`] for ema scales alone |
//! | after a checkpoint was loaded | [`restore`], [`QuantSchedule::resume`] |
//! | the result | [`quantized`], [`off_grid`] |
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use trimwick_nn::{Module, ParamStore, linear};
//! use trimwick_quant::{Scheme, attach, calibrate, off_grid, quantized};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = ParamStore::new(DType::F32, &Device::Cpu);
//! let fc = linear(64, 8, store.var_builder().pp("fc"))?;
//! let x = Tensor::ones((4, 64), DType::F32, &Device::Cpu)?;
//!
//! let layers = store.layers();
//! attach(&layers, &Scheme::nvfp4())?;
//! calibrate(&layers, || fc.forward(&x).map(drop))?;
//!
//! // From here on the model computes on the grid; train it as before.
//! let gradients = fc.forward(&x)?.sqr()?.mean_all()?.backward()?;
//! assert!(store.trainable().iter().all(|p| gradients.get(p.var().as_tensor()).is_some()));
//!
//! assert_eq!(off_grid(&layers)?, 0);
//! let weight = quantized(fc.layer())?.expect("a quantizer is attached");
//! assert_eq!((weight.codes.len(), weight.scales.len()), (8 * 64, 8 * 64 / 16));
//! # Ok(())
//! # }
//! ```
//!
//! # One-shot algorithms
//!
//! They start training well, or do without it. Each is a [`Pass`]: [`run_pass`] shows it what layers see of calibration
//! data, [`run_pass_on_model`] goes through a language model block after block, each on the outputs of those that are
//! done. Attach the scheme first; passes compose, in this order.
//!
//! | pass | what it does | needs |
//! |---|---|---|
//! | [`SmoothQuant`] | moves outliers of the input into the weight | a quantized input |
//! | [`AwqScale`] | gives weights that meet large inputs more of the grid | a quantized weight |
//! | [`AwqClip`] | narrows the range of each group | frozen or learned scales |
//! | [`SvdQuant`] | a branch of low rank carries the outliers of the weight | a quantized weight, no mask |
//! | [`Gptq`] | rounds column by column, jointly with pruning if asked | frozen or learned scales |
//! | [`BiasCorrection`] | puts the mean of the output right | |
//!
//! Rounding to nearest with ranges that are searched for the least squared error needs no data: [`Range::Mse`]. [`mixed`]
//! chooses a scheme for each layer under a budget. Every pass reports the signal-to-noise ratio of each layer's output
//! before and after ([`LayerReport`]).
//!
//! Scales of input channels go into what makes the input, where a model says what that is ([`trimwick_nn::Feed`]); else
//! the layer divides its input itself ([`InputScale`]). Formats of plain weights cannot say that, and no branch: they get
//! both as part of the weight ([`whole_weight`]).
//!
//! # What is saved
//!
//! Beside `L.weight` of a layer `L`, all f32 unless said otherwise. Buffers come and go with the quantizer; the learned
//! scales are parameters of one dimension, which gets no weight decay.
//!
//! | name | shape | of |
//! |---|---|---|
//! | `weight_scale` | `[1]`, `[out]` or `[out, groups]` | frozen and ema scales |
//! | `weight_zero_point` | the same | asymmetric codes |
//! | `weight_global_scale` | `[1]` | e4m3 scales, unless dynamic |
//! | `weight_shared_global_scale` | `[1]` | the same of fused layers: [`share_global`], [`share_fused`] |
//! | `weight_range` | `[2, blocks]` | ema: averages of least and largest values |
//! | `weight_log2_scale` | `[blocks]`, trainable | learned scales |
//! | `weight_scale_pinned` | `[1]` | scales that were chosen with the weight: calibration keeps them |
//! | `input_channel_scale` | `[in]` | what an [`InputScale`] divides by |
//! | `svd_down`, `svd_up` | `[rank, in]`, `[out, rank]` | the branch of [`SvdQuant`] |
//! | `input_scale`, `input_zero_point`, `input_global_scale` | `[1]` | static inputs |
//! | `input_range`, `input_seen` | `[2]` | least and largest input of calibration; of the step under way (ema) |
//! | `input_histogram` | `[2049]`, i64 | counts of magnitudes, and the exponent of their end |
//! | `input_log2_scale` | `[1]`, trainable | learned scale of a static input |
//! | `k_scale`, `v_scale` | `[1]` | keys and values, under the attention layer |
//!
//! Scales are effective ones: the scale of the tensor, where there is one, is multiplied in.

#![forbid(unsafe_code)]

mod attach;
mod awq;
mod bias;
mod codes;
mod error;
mod fused;
mod gptq;
mod histogram;
mod input;
pub mod kv;
pub mod mixed;
mod observer;
mod options;
mod owns;
mod pass;
mod presets;
mod range;
mod rescale;
mod rules;
mod saved;
mod scaling;
mod schedule;
mod scheme;
mod seen;
mod smooth;
mod spec;
mod svd;
mod trial;
mod weight;
mod whole;
mod words;

pub use attach::{
    attach, attach_with, calibrate, calibrate_all, detach, input_quantizer, refresh, restore, set_enabled,
    share_global, weight_quantizer,
};
pub use awq::{AwqClip, AwqScale};
pub use bias::BiasCorrection;
pub use codes::{Quantized, off_grid, on_grid, quantized};
pub use error::{Error, Result};
pub use fused::{fused_groups, has_divisor, share_fused, with_divisor};
pub use gptq::{ColumnOrder, FixMask, Gptq, GroupScales, Joint};
pub use input::InputQuant;
pub use options::{LEARNED_SCALES, Options, Range, ScalePolicy};
pub use owns::owns;
pub use pass::{Part, Pass, run_pass, run_pass_on_model};
pub use rescale::{InputScale, absorb};
pub use rules::{Rule, govern};
pub use schedule::QuantSchedule;
pub use scheme::{InputSpec, Scheme};
pub use seen::{InputSeen, Needs};
pub use smooth::{Alpha, SmoothQuant};
pub use spec::{Granularity, QuantSpec};
pub use svd::{LowRank, SvdQuant};
pub use trimwick_kernels::obs::Select;
pub use trimwick_kernels::quant::{Code, Grid, ScaleFormat};
pub use trimwick_nn::{LayerReport, Watch};
pub use weight::WeightQuant;
pub use whole::{branch_bits, take_apart, whole_weight};
