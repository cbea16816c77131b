//! Quantization of small models, from the outside.

mod blocks;
mod branch;
mod calibration;
mod flow;
mod gptq;
mod grids;
mod kv;
mod mixed;
mod policies;
mod rules;
mod scales;
mod schedule;
mod schemes;
mod support;
