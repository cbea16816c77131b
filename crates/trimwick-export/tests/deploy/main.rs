//! The built-in model in every format: what is read back computes what was trained.

mod clients;
mod llama_cpp;
mod refused;
mod round_trip;
mod support;
mod verified;
