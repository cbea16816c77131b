//! A question, and a file of them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::layout::Layout;
use crate::data::Input;
use crate::{Error, Result};

/// A text and its possible continuations, one of which is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Line of the file that it begins on, counted from 1.
    pub line: u64,
    /// The text.
    pub context: String,
    /// What stands between the text and a choice.
    pub delimiter: String,
    /// The continuations, two or more.
    pub choices: Vec<String>,
    /// Which of them is right, counted from 0.
    pub gold: usize,
}

/// The questions of one file.
#[derive(Debug, Clone)]
pub struct Task {
    /// How the file holds them.
    pub layout: Layout,
    /// The questions, in the order of the file.
    pub items: Vec<Item>,
    input: Input,
}

impl Task {
    /// The questions of a file, or its first `limit`.
    ///
    /// # Errors
    /// [`Error::Text`] with file and line for a question that is not as [`Layout`] says, text that is not UTF-8, a line
    /// of more than 64 MiB and a file without questions; [`Error::Io`] for one that cannot be read.
    pub fn read(layout: Layout, path: &Path, limit: Option<usize>) -> Result<Self> {
        Self::of(layout, Input::File(path.into()), limit)
    }

    /// The questions of a text in memory, called `name` in messages.
    ///
    /// # Errors
    /// As [`Task::read`].
    pub fn memory(
        layout: Layout,
        name: &str,
        text: impl Into<Cow<'static, str>>,
        limit: Option<usize>,
    ) -> Result<Self> {
        Self::of(layout, Input::Memory { name: name.into(), text: text.into() }, limit)
    }

    fn of(layout: Layout, input: Input, limit: Option<usize>) -> Result<Self> {
        let items = layout.items(&input, limit.unwrap_or(usize::MAX))?;
        match items.is_empty() {
            true => Err(input.fault(1, format!("at least one question: {}", layout.form()), "none")),
            false => Ok(Self { layout, items, input }),
        }
    }

    /// The file, or the name of the text in memory.
    pub fn path(&self) -> &Path {
        self.input.path()
    }

    /// A fault of one question.
    pub(super) fn fault(&self, item: &Item, expected: impl Into<String>, found: impl Into<String>) -> Error {
        self.input.fault(item.line, expected, found)
    }

    /// The file as an owned path, for errors that carry a source.
    pub(super) fn owned_path(&self) -> PathBuf {
        self.input.path().into()
    }
}
