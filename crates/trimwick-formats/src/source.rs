//! Positioned, length-checked reads: the only way bytes enter this crate.
//!
//! Files are read, not mapped. A mapping needs `unsafe`, and a file that shrinks while it is mapped kills the process
//! with SIGBUS where a read returns an error; the page cache makes repeated reads cheap enough.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Location, Result, reserve};

/// A regular file, or bytes in memory, of a length that is fixed when it is opened.
///
/// Reads take an absolute offset and share no cursor, so one source serves many threads.
#[derive(Debug)]
pub struct ByteSource {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Cow<'static, [u8]>),
}

/// The whole of a small regular file; `None` if there is nothing of that name. A pipe in its place is refused rather
/// than waited for, and so is a file of more than `limit` bytes.
///
/// # Errors
/// As [`ByteSource::open`]; [`Error::Malformed`] for a file above the limit.
pub fn read_small(path: impl Into<PathBuf>, limit: u64) -> Result<Option<Vec<u8>>> {
    let path = path.into();
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "look at", error)),
        Ok(_) => {}
    }
    let source = ByteSource::open(path)?;
    if source.len() > limit {
        let (expected, found) = (format!("at most {limit} bytes"), format!("{} bytes", source.len()));
        return Err(Error::malformed(source.path, Location::Offset(limit), "file", expected, found));
    }
    source.read_vec(0, source.len()).map(Some)
}

impl ByteSource {
    /// Opens a regular file, following symbolic links.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened; [`Error::Malformed`] if it is a folder, a pipe, a socket or a device,
    /// which is found out before opening it: opening a pipe would wait for its writer.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let opened = std::fs::metadata(&path).and_then(|meta| match meta.is_file() {
            true => File::open(&path).map(Some),
            false => Ok(None),
        });
        let file = match opened {
            Ok(Some(file)) => file,
            Ok(None) => {
                let found = "a folder, pipe, socket or device";
                return Err(Error::malformed(path, Location::Offset(0), "file", "a regular file", found));
            }
            Err(error) => return Err(Error::io(path, "open", error)),
        };
        match file.metadata() {
            Ok(meta) => Ok(Self { path, len: meta.len(), bytes: Bytes::File(file) }),
            Err(error) => Err(Error::io(path, "ask for the size", error)),
        }
    }

    /// Bytes in memory, for data that is compiled into a binary; `name` stands for the path in messages.
    pub fn memory(bytes: impl Into<Cow<'static, [u8]>>, name: impl Into<PathBuf>) -> Self {
        let bytes = bytes.into();
        Self { path: name.into(), len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// The file's path, or the name that was given to bytes in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes at the time of opening.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes without a copy, if they are in memory already.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::File(_) => None,
            Bytes::Memory(bytes) => Some(bytes),
        }
    }

    /// Fills `out` with the bytes that start at `offset`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the range does not lie in the source (or no longer does: the file was cut after it
    /// was opened), [`Error::Io`] if reading fails.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.check_range(offset, out.len() as u64)?;
        match &self.bytes {
            Bytes::Memory(bytes) => {
                // The range was checked against the length, which is that of a slice and so fits usize.
                let start = offset as usize;
                out.copy_from_slice(&bytes[start..start + out.len()]);
                Ok(())
            }
            Bytes::File(file) => read_file_at(file, offset, out).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::malformed(
                    &self.path,
                    Location::Offset(offset),
                    "file length",
                    format!("{} bytes, as when it was opened", self.len),
                    "a file that was cut since",
                ),
                _ => Error::io(&self.path, format!("read {} bytes at {offset}", out.len()), error),
            }),
        }
    }

    /// The `len` bytes that start at `offset`. The range is checked before memory is reserved.
    ///
    /// # Errors
    /// As [`read_exact_at`](Self::read_exact_at), and [`Error::OutOfMemory`].
    pub fn read_vec(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.check_range(offset, len)?;
        let too_large = || Error::OutOfMemory { path: self.path.clone(), what: "bytes".into(), bytes: len };
        let count = usize::try_from(len).map_err(|_| too_large())?;
        let mut out = reserve(&self.path, "bytes", count)?;
        out.resize(count, 0);
        self.read_exact_at(offset, &mut out)?;
        Ok(out)
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Error::malformed(
                &self.path,
                Location::Offset(offset),
                "file length",
                format!("{len} more bytes"),
                format!("{} of {}", self.len.saturating_sub(offset), self.len),
            )),
        }
    }
}

#[cfg(unix)]
fn read_file_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_file_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                out = &mut out[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same ten bytes from a file and from memory.
    fn sources(dir: &Path) -> [ByteSource; 2] {
        let path = dir.join("ten");
        std::fs::write(&path, b"0123456789").unwrap();
        [ByteSource::open(path).unwrap(), ByteSource::memory(&b"0123456789"[..], "ten")]
    }

    #[test]
    fn ranges_are_checked_before_memory_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        for source in sources(dir.path()) {
            assert_eq!(source.read_vec(3, 4).unwrap(), b"3456");
            assert_eq!(source.read_vec(10, 0).unwrap(), b"");
            for (offset, len) in [(3, 8), (11, 0), (0, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
                let error = source.read_vec(offset, len).unwrap_err();
                assert!(matches!(error, Error::Malformed { .. }), "{offset} {len}: {error}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_after_opening_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let [source, _] = sources(dir.path());
        File::options().write(true).open(source.path()).unwrap().set_len(5).unwrap();
        let message = source.read_vec(3, 4).unwrap_err().to_string();
        assert!(
            message.ends_with("expected 10 bytes, as when it was opened, found a file that was cut since")
        );
    }

    #[test]
    fn a_folder_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let message = ByteSource::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("expected a regular file"), "{message}");
        assert!(matches!(ByteSource::open(dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_not_opened() {
        let message = ByteSource::open("/dev/zero").unwrap_err().to_string();
        assert!(message.contains("expected a regular file"), "{message}");
    }
}
