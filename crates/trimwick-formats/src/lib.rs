//! Readers and writers of model files from strangers.
#![forbid(unsafe_code)]

mod error;

pub use error::{Error, Location, Result};
