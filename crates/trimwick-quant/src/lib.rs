//! Quantization-aware training of layers that were built with `trimwick-nn`.

#![forbid(unsafe_code)]

mod attach;
mod codes;
mod error;
mod histogram;
mod input;
pub mod kv;
mod observer;
mod options;
mod presets;
mod range;
mod rules;
mod saved;
mod schedule;
mod scheme;
mod spec;
mod weight;
mod words;

pub use attach::{
    attach, attach_with, calibrate, detach, input_quantizer, refresh, restore, set_enabled, share_global,
    weight_quantizer,
};
pub use codes::{Quantized, off_grid, on_grid, quantized};
pub use error::{Error, Result};
pub use input::InputQuant;
pub use options::{Options, Range, ScalePolicy};
pub use rules::{Rule, govern};
pub use schedule::QuantSchedule;
pub use scheme::{InputSpec, Scheme};
pub use spec::{Granularity, QuantSpec};
pub use trimwick_kernels::quant::{Code, Grid, ScaleFormat};
pub use weight::WeightQuant;
