//! Token ids, in memory or, where there are many, in a file.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use trimwick_kernels::{Words, WordsWriter};

use crate::{Error, Result};

/// Tokens that are held in memory, where a file may hold the others: 256 MiB of them.
const IN_MEMORY: usize = 1 << 26;

/// Where tokens go that are too many for memory.
#[derive(Debug, Clone)]
pub struct Overflow {
    folder: PathBuf,
    above: usize,
}

impl Overflow {
    /// Into a file without a name in `folder`, when there are more than 64 million of them.
    pub fn into_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), above: IN_MEMORY }
    }

    /// Already when there are more than so many.
    #[must_use]
    pub fn above(self, tokens: usize) -> Self {
        Self { above: tokens, ..self }
    }
}

/// A list of token ids. Clones share it.
#[derive(Debug, Clone)]
pub struct Tokens {
    ids: Ids,
    overflow: Option<Overflow>,
}

#[derive(Debug, Clone)]
enum Ids {
    Memory(Arc<[u32]>),
    File(Arc<Words>),
}

impl Tokens {
    /// Whether the ids are in a file.
    pub fn in_file(&self) -> bool {
        matches!(self.ids, Ids::File(_))
    }

    /// Where more of them would go.
    pub(super) fn overflow(&self) -> Option<&Overflow> {
        self.overflow.as_ref()
    }
}

impl Deref for Tokens {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match &self.ids {
            Ids::Memory(ids) => ids,
            Ids::File(words) => words,
        }
    }
}

impl<T: Into<Arc<[u32]>>> From<T> for Tokens {
    fn from(ids: T) -> Self {
        Self { ids: Ids::Memory(ids.into()), overflow: None }
    }
}

/// Collects token ids.
#[derive(Debug)]
pub(super) struct TokensWriter {
    memory: Vec<u32>,
    file: Option<WordsWriter>,
    len: usize,
    overflow: Option<Overflow>,
}

impl TokensWriter {
    /// Of ids that go to a file when they are too many; in memory, however many they are, without one.
    pub(super) fn new(overflow: Option<Overflow>) -> Self {
        Self { memory: Vec::new(), file: None, len: 0, overflow }
    }

    /// Ids so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends ids.
    ///
    /// # Errors
    /// [`Error::Io`]: a file that cannot be made or written.
    pub(super) fn push(&mut self, ids: &[u32]) -> Result<()> {
        self.len += ids.len();
        match (&mut self.file, &self.overflow) {
            (Some(file), Some(overflow)) => file.write(ids).map_err(fault(overflow)),
            (None, Some(overflow)) if self.len > overflow.above => {
                let mut file = WordsWriter::new(&overflow.folder).map_err(fault(overflow))?;
                file.write(&std::mem::take(&mut self.memory)).map_err(fault(overflow))?;
                file.write(ids).map_err(fault(overflow))?;
                self.file = Some(file);
                Ok(())
            }
            _ => {
                self.memory.extend_from_slice(ids);
                Ok(())
            }
        }
    }

    /// The ids.
    ///
    /// # Errors
    /// As [`TokensWriter::push`].
    pub(super) fn finish(self) -> Result<Tokens> {
        let Self { memory, file, overflow, .. } = self;
        let ids = match (file, &overflow) {
            (Some(file), Some(overflow)) => Ids::File(Arc::new(file.finish().map_err(fault(overflow))?)),
            _ => Ids::Memory(memory.into()),
        };
        Ok(Tokens { ids, overflow })
    }
}

fn fault(overflow: &Overflow) -> impl FnOnce(std::io::Error) -> Error {
    Error::io(&overflow.folder, "write a file of tokens in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tokens_go_to_a_file_and_read_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (above, in_file) in [(0, true), (99, true), (100, false), (1000, false)] {
            let mut writer = TokensWriter::new(Some(Overflow::into_folder(folder.path()).above(above)));
            (0..100u32).collect::<Vec<_>>().chunks(7).for_each(|piece| writer.push(piece).unwrap());
            assert_eq!(writer.len(), 100);
            let tokens = writer.finish().unwrap();
            assert_eq!((tokens.in_file(), &tokens[..]), (in_file, &(0..100).collect::<Vec<u32>>()[..]));
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut writer = TokensWriter::new(Some(Overflow::into_folder("no/such/folder").above(1)));
        let error = writer.push(&[1, 2]).unwrap_err().to_string();
        assert!(error.contains("no/such/folder") && error.contains("tokens"), "{error}");
    }
}
