//! Quantization of small models, from the outside.

mod calibration;
mod flow;
mod grids;
mod kv;
mod policies;
mod rules;
mod schedule;
mod schemes;
mod support;
