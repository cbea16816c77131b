//! Safetensors files, format version 0.4 and the element types of the `safetensors` crate 0.8.
//!
//! `u64` header length, little-endian; that many bytes of JSON; the tensors' bytes. The header must be UTF-8 without a
//! byte order mark, name every tensor and field once, and describe every byte of the data exactly once; offsets, shape
//! and type must agree. What is accepted here is accepted by the `safetensors` crate; the reverse does not hold, since
//! this reader bounds names, ranks and counts and refuses duplicates.
//!
//! Reading touches the header alone until a tensor is asked for. Writing ([`Writer`]) streams tensor by tensor, and the
//! same tensors give the same bytes whatever order they come in.

mod dtype;
mod file;
mod header;
mod write;

pub use dtype::Dtype;
pub use file::SafetensorsFile;
pub use header::TensorInfo;
pub(crate) use header::{broken_name_rule, tensors_in};
pub use write::{NewTensor, Writer, write};
