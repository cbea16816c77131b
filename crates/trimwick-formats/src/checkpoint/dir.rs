//! The folder of a run's checkpoints: saving, finding the newest that verifies, pruning.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::digest::{HashWriter, Hasher};
use super::fs::{Fs, Kind, Lock, RealFs};
use super::manifest::{MANIFEST, Manifest, ManifestFile};
use super::verify::{Checkpoint, read_manifest};
use crate::atomic::{ASIDE, Produce, aside_name, create_dir_all_on};
use crate::error::{Error, Result, quote};
use crate::folder::broken_file_name_rule;

const LOCK: &str = "lock";
/// Checkpoints that are kept, all of them verified.
const KEPT: usize = 2;
/// Room on the disk beyond the files themselves.
const MARGIN: u64 = 1 << 20;

/// One file of a checkpoint to be saved.
pub struct Payload<'a> {
    name: &'a str,
    bytes: u64,
    write: Box<Produce<'a>>,
}

impl<'a> Payload<'a> {
    /// A file whose bytes are at hand.
    pub fn bytes(name: &'a str, bytes: &'a [u8]) -> Self {
        Self::stream(name, bytes.len() as u64, move |out| out.write_all(bytes))
    }

    /// A file whose bytes are produced while it is written, so that no second copy is in memory. `bytes` is how many
    /// they will be, for the check of the disk's space; a guess is allowed.
    pub fn stream(name: &'a str, bytes: u64, write: impl Fn(&mut dyn Write) -> io::Result<()> + 'a) -> Self {
        Self { name, bytes, write: Box::new(write) }
    }
}

/// A folder of checkpoints that this process alone writes to, until the value is dropped.
pub struct CheckpointDir {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    /// What verified since this value exists, and whose it is, so that pruning need not read it again.
    verified: Mutex<BTreeMap<Name, String>>,
    /// A step whose checkpoint stays whatever is newer.
    pinned: Mutex<Option<u64>>,
    _lock: Lock,
}

impl fmt::Debug for CheckpointDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointDir").field("root", &self.root).finish_non_exhaustive()
    }
}

/// What a folder of checkpoints holds for a recipe.
#[derive(Debug)]
pub struct Survey {
    /// The newest checkpoint that verifies.
    pub checkpoint: Option<Checkpoint>,
    /// The newer ones that do not, newest first.
    pub rejected: Vec<Rejected>,
}

/// A checkpoint that cannot be used.
#[derive(Debug)]
pub struct Rejected {
    /// Its folder.
    pub path: PathBuf,
    /// What is wrong with it: the file, and the tensor where one is damaged.
    pub why: Error,
}

impl CheckpointDir {
    /// Takes a folder for writing, making it if it is missing. What interrupted saves left behind is removed.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it; [`Error::Io`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(Arc::new(RealFs), root.as_ref())
    }

    /// The same on any file system.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(fs: Arc<dyn Fs>, root: &Path) -> Result<Self> {
        create_dir_all_on(&*fs, root)?;
        let lock_file = root.join(LOCK);
        let holder = format!("process {}", std::process::id());
        let lock = fs.lock(&lock_file, &holder).map_err(|e| Error::io(&lock_file, "lock", e))?;
        let Some(lock) = lock else {
            let mut holder = String::new();
            let read = fs.open(&lock_file).and_then(|file| file.take(64).read_to_string(&mut holder));
            let known = read.is_ok() && !holder.trim().is_empty();
            let holder = if known { quote(holder.trim()) } else { "another process".to_owned() };
            return Err(Error::Locked { path: root.to_owned(), holder });
        };
        let dir = Self {
            fs,
            root: root.to_owned(),
            verified: Mutex::default(),
            pinned: Mutex::default(),
            _lock: lock,
        };
        dir.sweep()?;
        Ok(dir)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Saves a checkpoint, verifies it as it stands on the disk, and only then removes the ones before the last two.
    /// Saving a step again makes a second folder of that step, so that the first is never in the way of a crash.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for file names that are repeated or lead elsewhere, [`Error::NoSpace`], [`Error::Io`]. On any of them the
    /// checkpoints from before are untouched. [`Error::Malformed`] when what was written does not read back.
    pub fn save(&self, step: u64, fingerprint: &str, files: &[Payload<'_>]) -> Result<PathBuf> {
        check_names(files)?;
        self.check_space(files)?;
        let name = self.next_name(step)?;
        let path = self.root.join(name.to_string());
        let aside = self.root.join(aside_name(OsStr::new(&name.to_string())));

        let written = self.write_aside(&aside, step, fingerprint, files).and_then(|()| {
            self.fs
                .rename(&aside, &path)
                .map_err(|e| Error::io(&path, "rename the finished checkpoint to", e))
        });
        if let Err(error) = written {
            self.remove_tree(&aside);
            return Err(error);
        }
        self.sync_root()?;
        Checkpoint::expect(self.fs.clone(), &path, step, fingerprint)?;
        self.remember(name, fingerprint);
        self.prune(name, fingerprint)?;
        Ok(path)
    }

    /// The newest checkpoint of a recipe that verifies; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn latest(&self, fingerprint: &str) -> Result<Option<Checkpoint>> {
        self.survey(fingerprint).map(|survey| survey.checkpoint)
    }

    /// The same, with the newer checkpoints that had to be passed over, and why.
    ///
    /// # Errors
    /// As [`latest`](Self::latest).
    pub fn survey(&self, fingerprint: &str) -> Result<Survey> {
        let mut rejected = Vec::new();
        for name in self.names()?.into_iter().rev() {
            let path = self.root.join(name.to_string());
            match Checkpoint::expect(self.fs.clone(), &path, name.step, fingerprint) {
                Ok(checkpoint) => {
                    self.remember(name, fingerprint);
                    return Ok(Survey { checkpoint: Some(checkpoint), rejected });
                }
                Err(why) => {
                    self.lock_verified().remove(&name);
                    rejected.push(Rejected { path, why });
                }
            }
        }
        Ok(Survey { checkpoint: None, rejected })
    }

    /// The newest checkpoint of one step and recipe that verifies; `None` when there is none.
    ///
    /// # Errors
    /// As [`latest`](Self::latest).
    pub fn at(&self, step: u64, fingerprint: &str) -> Result<Option<Checkpoint>> {
        let open = |name: Name| {
            let path = self.root.join(name.to_string());
            Checkpoint::expect(self.fs.clone(), &path, step, fingerprint).ok()
        };
        Ok(self.names()?.into_iter().rev().filter(|name| name.step == step).find_map(open))
    }

    /// Keeps the checkpoints of a step, besides the last two, until another step is pinned or this value is dropped.
    pub fn pin(&self, step: u64) {
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    fn check_space(&self, files: &[Payload<'_>]) -> Result<()> {
        let needed = files.iter().fold(MARGIN, |sum, file| sum.saturating_add(file.bytes));
        let available = self.fs.available_space(&self.root);
        let available = available.map_err(|e| Error::io(&self.root, "ask for the free disk space", e))?;
        if available < needed {
            return Err(Error::NoSpace { path: self.root.clone(), needed, available });
        }
        Ok(())
    }

    /// Writes a whole checkpoint under a temporary name, everything in it durable.
    fn write_aside(&self, aside: &Path, step: u64, fingerprint: &str, files: &[Payload<'_>]) -> Result<()> {
        self.fs.create_dir(aside).map_err(|e| Error::io(aside, "create the folder", e))?;
        let mut entries = Vec::new();
        for file in files {
            let content = self.write_file(&aside.join(file.name), &file.write)?;
            entries.push(ManifestFile { name: file.name.to_owned(), content: content.finish() });
        }
        let path = aside.join(MANIFEST);
        let manifest = Manifest::new(step, fingerprint, entries).encode();
        let manifest = manifest.map_err(|e| Error::io(&path, "write", e.into()))?;
        self.write_file(&path, &|out| out.write_all(&manifest))?;
        self.fs.sync_dir(aside).map_err(|e| Error::io(aside, "sync the folder", e))
    }

    fn write_file(&self, path: &Path, write: &Produce<'_>) -> Result<Hasher> {
        let fault = |doing: &'static str| move |source| Error::io(path, doing, source);
        let file = self.fs.create(path).map_err(fault("create"))?;
        let mut hashed = HashWriter { inner: file, hasher: Hasher::default() };
        let mut out = BufWriter::with_capacity(1 << 20, &mut hashed);
        write(&mut out).and_then(|()| out.flush()).map_err(fault("write"))?;
        drop(out);
        hashed.inner.sync().map_err(fault("sync"))?;
        Ok(hashed.hasher)
    }

    fn sync_root(&self) -> Result<()> {
        self.fs.sync_dir(&self.root).map_err(|e| Error::io(&self.root, "sync the folder", e))
    }

    /// Removes what is older than the two newest checkpoints of this recipe that verify, `newest` being one, but for
    /// the step that is pinned.
    ///
    /// A checkpoint that does not verify protects nothing, so it does not count; other recipes' are left alone.
    fn prune(&self, newest: Name, fingerprint: &str) -> Result<()> {
        let mut kept = 0;
        let pinned = *self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        for name in self.names()?.into_iter().rev().filter(|&name| name <= newest) {
            let path = self.root.join(name.to_string());
            if kept < KEPT {
                let known = self.lock_verified().get(&name).is_some_and(|of| of == fingerprint);
                if known || Checkpoint::expect(self.fs.clone(), &path, name.step, fingerprint).is_ok() {
                    self.remember(name, fingerprint);
                    kept += 1;
                }
                continue;
            }
            if pinned == Some(name.step) {
                continue;
            }
            let ours =
                read_manifest(&*self.fs, &path).is_ok_and(|manifest| manifest.fingerprint == fingerprint);
            if !ours {
                continue;
            }
            // Renamed first, so that a crash on the way leaves no checkpoint that lacks files.
            let aside = self.root.join(aside_name(OsStr::new(&name.to_string())));
            self.fs.rename(&path, &aside).map_err(|e| Error::io(&path, "remove the old checkpoint", e))?;
            self.sync_root()?;
            self.remove_tree(&aside);
            self.lock_verified().remove(&name);
        }
        Ok(())
    }

    /// Removes what interrupted saves and removals left. This process holds the lock, so nobody is at work on it.
    fn sweep(&self) -> Result<()> {
        let listed = self.fs.list(&self.root).map_err(|e| Error::io(&self.root, "list the folder", e))?;
        for entry in listed {
            let name = entry.name.to_string_lossy();
            if entry.kind == Kind::Dir
                && name.split_once(ASIDE).is_some_and(|(name, _)| Name::parse(name).is_some())
            {
                self.remove_tree(&self.root.join(&entry.name));
            }
        }
        Ok(())
    }

    /// Removes a folder of files, as far as that goes: what remains is swept up another time.
    fn remove_tree(&self, path: &Path) {
        for entry in self.fs.list(path).unwrap_or_default() {
            let _ = self.fs.remove_file(&path.join(&entry.name));
        }
        let _ = self.fs.remove_dir(path);
    }

    /// Every folder that is named like a checkpoint, oldest first.
    fn names(&self) -> Result<BTreeSet<Name>> {
        let listed = self.fs.list(&self.root).map_err(|e| Error::io(&self.root, "list the folder", e))?;
        Ok(listed
            .into_iter()
            .filter(|entry| entry.kind == Kind::Dir)
            .filter_map(|entry| Name::parse(entry.name.to_str()?))
            .collect())
    }

    fn next_name(&self, step: u64) -> Result<Name> {
        let again =
            self.names()?.into_iter().filter(|name| name.step == step).map(|name| name.again + 1).max();
        Ok(Name { step, again: again.unwrap_or(0) })
    }

    fn remember(&self, name: Name, fingerprint: &str) {
        self.lock_verified().insert(name, fingerprint.to_owned());
    }

    fn lock_verified(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, String>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `step-000000000120`, or `step-000000000120-1` for the first repetition of that step; ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    step: u64,
    again: u64,
}

impl Name {
    /// The name that prints as `text`, and no other.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("step-")?;
        let (step, again) = digits.split_once('-').unwrap_or((digits, "0"));
        let name = Self { step: step.parse().ok()?, again: again.parse().ok().filter(|&n| n < u64::MAX)? };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.again {
            0 => write!(f, "step-{:012}", self.step),
            again => write!(f, "step-{:012}-{again}", self.step),
        }
    }
}

fn check_names(files: &[Payload<'_>]) -> Result<()> {
    let mut seen = BTreeSet::from([MANIFEST]);
    for file in files {
        let what = || format!("checkpoint file {}", quote(file.name));
        if let Some(rule) = broken_file_name_rule(file.name) {
            return Err(Error::unwritable(what(), rule, quote(file.name)));
        }
        if !seen.insert(file.name) {
            return Err(Error::unwritable(what(), "one file of that name", "a second"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_sort_by_age() {
        let names: Vec<Name> =
            ["step-000000000009", "step-000000000010", "step-000000000010-1", "step-1000000000000"]
                .iter()
                .map(|text| Name::parse(text).unwrap())
                .collect();
        assert!(names.is_sorted());
        for other in
            ["step-9", "step-", "step-000000000010-0", "step-000000000010-01", "step-00000000001x", "stop-1"]
        {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
