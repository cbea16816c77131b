//! Tests of the training crate through its public interface, in one binary: linking candle takes longer than running.

mod blockwise;
mod chat;
mod common;
mod data;
mod deep;
mod gradients;
mod guards;
mod layouts;
mod lora;
mod memory;
mod objective;
mod optimizer;
mod resume;
mod state;
#[cfg(feature = "parquet")]
mod tables;
mod tasks;
mod training;
