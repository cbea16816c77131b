//! Lists of `u32` that may be larger than memory, as slices.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// Words of a temporary file, as a slice of its pages: the system reads them when they are looked at, and drops them when it
/// needs the memory. The file has no name, nobody else can open it, and it is gone when the process is.
pub struct Words {
    map: Mmap,
    len: usize,
}

/// Writes [`Words`], one after the other.
#[derive(Debug)]
pub struct WordsWriter {
    file: BufWriter<File>,
    len: usize,
}

impl WordsWriter {
    /// In a file without a name in `folder`.
    ///
    /// # Errors
    /// A folder that is not there or may not be written to.
    pub fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(folder)?), len: 0 })
    }

    /// Appends words.
    ///
    /// # Errors
    /// Writing: a full disk.
    pub fn write(&mut self, words: &[u32]) -> io::Result<()> {
        words.iter().try_for_each(|word| self.file.write_all(&word.to_ne_bytes()))?;
        self.len += words.len();
        Ok(())
    }

    /// The words that were written.
    ///
    /// # Errors
    /// Writing what is left; a system that maps no files.
    pub fn finish(self) -> io::Result<Words> {
        let Self { file, len } = self;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        // SAFETY: the file was made by `new` without a name, and its only handle ends here: nothing can change or shorten it
        // while it is mapped.
        let map = unsafe { Mmap::map(&file)? };
        if map.len() != len * size_of::<u32>() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file is shorter than what was written",
            ));
        }
        Ok(Words { map, len })
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: `finish` has found `len` words of initialized bytes in the map, which lives as long as the slice and is never
        // written to; a map begins at a page, which is more than the alignment of a word.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words in a file", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        for len in [1usize, 7, 300_001] {
            let all: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let mut writer = WordsWriter::new(folder.path()).unwrap();
            all.chunks(1000).for_each(|piece| writer.write(piece).unwrap());
            let words = writer.finish().unwrap();
            assert_eq!(&words[..], &all[..]);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has a name");
        }
    }

    #[test]
    fn none_at_all_and_nowhere_to_write() {
        let folder = tempfile::tempdir().unwrap();
        // Some systems map no empty file, and say so.
        if let Ok(words) = WordsWriter::new(folder.path()).unwrap().finish() {
            assert!(words.is_empty());
        }
        assert!(WordsWriter::new(&folder.path().join("missing")).is_err());
    }
}
