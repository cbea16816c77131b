//! A file gets its name only after it was read back.

use std::io::{self, Read};
use std::path::Path;

use trimwick_formats::checkpoint::{Fs, Listed, Lock, Stat, WriteFile};

use crate::Result;

/// A file system on which a file is proved before it is renamed: the step of an atomic write at which the bytes are
/// synced, and nobody has seen them yet.
pub(crate) struct Proved<'a> {
    pub fs: &'a dyn Fs,
    /// Reads the file at a path, and has the say.
    pub prove: &'a (dyn Fn(&Path) -> Result<()> + Sync),
}

impl Fs for Proved<'_> {
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // A proof takes a while; the lock tells other processes that the file is not a leftover.
        let lock = self.fs.lock(from, "")?;
        (self.prove)(from)?;
        drop(lock);
        self.fs.rename(from, to)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.fs.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        self.fs.open(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        self.fs.list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.fs.stat(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.sync_dir(path)
    }

    fn available_space(&self, path: &Path) -> io::Result<u64> {
        self.fs.available_space(path)
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Lock>> {
        self.fs.lock(path, note)
    }
}
