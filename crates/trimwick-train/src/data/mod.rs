//! From text to windows of token ids, in an order that any step can be resumed in.

mod lines;
mod source;
mod windows;

pub(crate) use lines::{Input, MAX_LINE, Next};
pub use source::{Encode, TextFormat, TextSource};
pub use windows::{Batch, Cursor, Order, Windows};
