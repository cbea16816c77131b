//! The checked recipe, one file per section: its declaration, its plain struct, how it is read and how it is written.
//!
//! A new section is a file here with a [`SectionSpec`](crate::raw::SectionSpec), a struct, `read` and `write`, and a line in
//! `recipe.rs`. What one section asks of another is in `cross.rs`.

pub(crate) mod blockwise;
pub(crate) mod budget;
pub(crate) mod calibration;
pub(crate) mod chat;
pub(crate) mod compare;
pub(crate) mod config;
pub(crate) mod cross;
mod cross_blocks;
mod cross_passes;
mod cross_quantize;
pub(crate) mod data;
pub(crate) mod distill;
pub(crate) mod engine;
pub(crate) mod export;
pub(crate) mod file_set;
pub(crate) mod groups;
pub(crate) mod kv;
pub(crate) mod lora;
pub(crate) mod model;
pub(crate) mod pass_list;
pub(crate) mod pass_spec;
pub(crate) mod passes;
pub(crate) mod pattern;
pub(crate) mod pretrain;
pub(crate) mod prune;
pub(crate) mod quantize;
pub(crate) mod quantize_rules;
pub(crate) mod quantize_spec;
pub(crate) mod train;
pub(crate) mod warmup;
