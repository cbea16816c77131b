//! From text to windows of token ids, in an order that any step can be resumed in.

mod chat;
mod lines;
mod mix;
mod pack;
mod source;
mod table;
mod tokens;
mod turns;
mod windows;

pub use chat::{ChatCounts, ChatOptions, ChatSource, Conversation, Render};
pub(crate) use lines::{Input, MAX_LINE, Next, foreign, json_reason};
pub use source::{Encode, TextFormat, TextSource};
pub(crate) use table::is_table;
pub use tokens::{Overflow, Tokens};
pub use turns::{Role, Turn};
pub use windows::{Batch, Cursor, Order, Windows};
