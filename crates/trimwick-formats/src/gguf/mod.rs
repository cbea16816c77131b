//! GGUF, the file format of llama.cpp: versions 2 and 3, little-endian. Version 3 is written ([`Writer`]).
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 keys
//! keys    × { string key, u32 type, value }            string = u64 length + UTF-8 bytes
//! tensors × { string name, u32 n, u64 dims[n] (fastest first), u32 type, u64 offset }
//! padding to general.alignment, then the data; offsets count from here
//! ```
//!
//! Source: the specification in ggml's `docs/gguf.md`, and llama.cpp's `gguf.cpp` where that is stricter. A file that
//! opens here is whole: its strings are UTF-8, keys and tensor names are unique, and every tensor is a whole number of
//! blocks which lie in the file, aligned, and overlap no other's. Two limits are this reader's own: the description
//! (everything in front of the data) ends within [`MAX_HEADER_BYTES`], and takes at most [`MAX_EXTRA_MEMORY`] more
//! memory than it has bytes; that is some 160 000 tensors or a million strings.
//!
//! ```no_run
//! let file = trimwick_formats::gguf::GgufFile::open("model.gguf")?;
//! let layers = file.get_u32("llama.block_count")?;
//! let embedding = file.read_f32("token_embd.weight")?; // row-major, dequantized
//! # Ok::<(), trimwick_formats::Error>(())
//! ```

mod cursor;
mod file;
mod getters;
mod header;
mod put;
mod tensors;
mod value;
mod write;

pub use file::GgufFile;
pub use tensors::TensorInfo;
pub use value::{Array, Value};
pub use write::{NewTensor, Writer};

/// Where the description of a file must end. The largest vocabularies need about a tenth of it.
pub const MAX_HEADER_BYTES: u64 = 128 << 20;

/// Memory that the description may take beyond its own size in the file.
pub const MAX_EXTRA_MEMORY: u64 = 48 << 20;

/// `general.alignment` where a file does not say, and of every file that is written.
const DEFAULT_ALIGNMENT: u32 = 32;

/// Arrays within arrays are read to this depth; llama.cpp writes none.
pub const MAX_ARRAY_DEPTH: usize = 64;

/// The largest `general.alignment`. Writers use 32, and a page at most.
pub const MAX_ALIGNMENT: u32 = 1 << 20;
