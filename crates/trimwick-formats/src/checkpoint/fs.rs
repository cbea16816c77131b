//! The few file system operations that durable writing needs, and the real ones.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

/// The file system under a [`CheckpointDir`](super::CheckpointDir).
pub trait Fs: Send + Sync {
    /// Makes a folder; an error when anything has that name.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file and opens it for writing; an error when anything has that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a regular file for reading from its start.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>>;
    /// What a folder holds, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>>;
    /// Kind and length of what is at `path`; a symbolic link is not followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Gives a file or folder another name, replacing a file of that name in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable. After an error it must not be called again for the same purpose.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that may still be written to the volume of `path`.
    fn available_space(&self, path: &Path) -> io::Result<u64>;
    /// Takes the lock of a file, which is created when it is missing; `None` when another process or handle holds it.
    /// A `note` that is not empty becomes the file's content: it tells people who the holder is.
    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Lock>>;
}

/// A lock on a file, held until it is dropped.
pub type Lock = Box<dyn Send + Sync>;

/// A file that is being written.
pub trait WriteFile: Write {
    /// Makes the bytes written so far durable. After an error the file is lost: it must not be synced again.
    fn sync(&mut self) -> io::Result<()>;
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link, a device, a pipe, a socket.
    Other,
}

/// What [`Fs::stat`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes, for a file.
    pub len: u64,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name, without the folder's path.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl Fs for RealFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(File::create_new(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        // Opening a pipe would wait for its writer.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(File::open(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok(Listed { name: entry.file_name(), kind: kind(entry.file_type()?) })
            })
            .collect()
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Stat { kind: kind(metadata.file_type()), len: metadata.len() })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Windows has no such operation: its journal orders names by itself.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn available_space(&self, path: &Path) -> io::Result<u64> {
        fs4::available_space(path)
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Lock>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                if !note.is_empty() {
                    // Nothing depends on the note, so neither does the lock.
                    let _ = file.set_len(0).and_then(|()| file.write_all(note.as_bytes()));
                }
                Ok(Some(Box::new(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl WriteFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Dir
    } else {
        Kind::Other
    }
}
