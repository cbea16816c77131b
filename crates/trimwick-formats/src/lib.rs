//! Readers and writers of model files from strangers.
//!
//! A model file is a program for whoever reads it: its counts say how much memory to take, its lengths where to look
//! next, its offsets what to believe. This crate is the one room of the workspace in which such bytes are handled,
//! and everything in it follows from that.
//!
//! **A number from a file is believed only after it was compared with the file.** Every reader goes the same way:
//! parse the field, compute sizes with checked arithmetic, compare them with the bytes that remain, reserve memory
//! fallibly, build. What comes out (a [`gguf::GgufFile`], for one) is whole: each tensor's bytes lie in the file,
//! overlap no other's, and decode to exactly the product of its dimensions. Nothing behind the reader checks again.
//! Reading the description of a file takes at most 64 MiB of memory above the size of the file.
//!
//! **Whatever is wrong ends in one line.** There is a single [`Error`]. It names the file, the byte offset, JSON path
//! or tensor, the field, what was expected and what was found, with text from the file quoted and escaped. There is no
//! panic, and no abort for want of memory.
//!
//! **What can run code is not read.** Pickles are refused, and so are the formats of ggml from before GGUF, each with
//! the way to convert it.
//!
//! **What is written is whole or not there.** [`safetensors::Writer`] and [`gguf::Writer`] stream a file tensor by tensor,
//! the same bytes each time; [`atomic_write`] replaces a file in one step; [`checkpoint`] keeps a run's state through
//! crashes and full disks, and verifies it before it is believed. [`packed`] and [`blocks`] hold codes as deployment
//! formats do: from codes that are given, never from floats that would be rounded again.
//!
//! **Files are read, not mapped**: see [`ByteSource`]. The crate forbids `unsafe`, and it knows neither tensors nor
//! devices. It hands out plain vectors, so that its tests parse millions of damaged files in seconds.
#![forbid(unsafe_code)]

mod atomic;
pub mod blocks;
pub mod checkpoint;
mod error;
mod exact;
pub mod floats;
pub mod folder;
mod foreign;
pub mod gguf;
mod guard;
mod hash;
mod json;
pub mod minifloat;
pub mod packed;
pub mod safetensors;
mod source;

pub use atomic::{atomic_write, atomic_write_on, atomic_write_with};
pub use error::{Error, Location, Result};
pub use guard::{guarded, is_guarded};
pub use hash::{sha256_bytes, sha256_file};
pub use source::{ByteSource, read_small};
