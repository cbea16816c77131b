//! A file system in memory that forgets what was not synced, and fails where it is told to.
//!
//! It is as unkind as POSIX lets a file system be: a file's bytes are durable only after its `sync`, a name only after
//! its folder's `sync_dir`, a rename is a change of names like any other, and a `sync` that failed has dropped the bytes
//! and marked them clean, so that the next one succeeds and makes nothing durable.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fs::{Fs, Listed, Lock, Stat, WriteFile};
use super::sim_disk::{Node, Op, State, eio, not_found};

/// An in-memory [`Fs`] for tests of durability. Clones share one disk.
#[derive(Clone)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

/// What goes wrong at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The operation fails with EIO; a `sync` loses what it was to keep.
    Eio,
    /// An operation that needs space fails with ENOSPC.
    NoSpace,
    /// A write takes half of its bytes and says so.
    ShortWrite,
    /// A write takes half of its bytes and then fails with EIO.
    TornWrite,
    /// A write takes all of its bytes and keeps zeros instead of the second half.
    SilentLoss,
    /// A `sync` of a file or folder fails and loses what it was to keep.
    SyncFails,
    /// A rename fails and changes nothing.
    RenameFails,
    /// The machine stops: this operation and all after it fail until [`SimFs::reboot`].
    Crash,
}

/// When something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// At which operation, counted from 0 since [`SimFs::inject`].
    pub at: u64,
    /// Whether it also happens at every operation after.
    pub lasting: bool,
}

/// What of the unsynced survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    SyncedOnly,
    /// Everything, and what was not synced is still to be lost: the process was killed, the machine was not.
    Everything,
    /// Each name and each file by chance, whole, in part, or not.
    Chance(u64),
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFs {
    /// An empty disk.
    pub fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::new())) }
    }

    /// Counts operations from 0 again, with a fault to come or none.
    pub fn inject(&self, fault: Option<Fault>) {
        let mut state = self.lock_state();
        state.ops = 0;
        state.fault = fault;
    }

    /// Operations since [`inject`](Self::inject).
    pub fn operations(&self) -> u64 {
        self.lock_state().ops
    }

    /// What [`Fs::available_space`] tells; at first, no end of it.
    pub fn set_space(&self, bytes: u64) {
        self.lock_state().space = Some(bytes);
    }

    /// Starts the machine again, with what survived. Open files and locks are gone, and so is the fault.
    pub fn reboot(&self, survival: Survival) {
        self.lock_state().reboot(survival);
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fs for SimFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.begin(Op::Make)?;
        state.make(path, Node::empty_dir()).map(drop)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut state = self.lock_state();
        state.begin(Op::Make)?;
        let node = state.make(path, Node::empty_file())?;
        Ok(Box::new(SimFile { fs: self.clone(), node, at: 0, boot: state.boot }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        let mut state = self.lock_state();
        state.begin(Op::Look)?;
        let node = state.find(path)?;
        Ok(Box::new(SimFile { fs: self.clone(), node, at: 0, boot: state.boot }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let mut state = self.lock_state();
        state.begin(Op::Look)?;
        let dir = state.find(path)?;
        let names = state.names(dir)?.iter();
        Ok(names
            .map(|(name, &node)| Listed { name: name.clone(), kind: state.nodes[node].stat().kind })
            .collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let mut state = self.lock_state();
        state.begin(Op::Look)?;
        let node = state.find(path)?;
        Ok(state.nodes[node].stat())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.begin(Op::Rename)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (state.place(from)?, state.place(to)?);
        let node = *state.names(from_dir)?.get(from_name).ok_or_else(not_found)?;
        if let Some(&old) = state.names(to_dir)?.get(to_name)
            && matches!(&state.nodes[old], Node::Dir { live, .. } if !live.is_empty())
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.names_mut(from_dir)?.remove(from_name);
        state.names_mut(to_dir)?.insert(to_name.to_owned(), node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.begin(Op::Remove)?;
        state.remove(path, |node| match node {
            Node::File { .. } => None,
            Node::Dir { .. } => Some(io::ErrorKind::IsADirectory),
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.begin(Op::Remove)?;
        state.remove(path, |node| match node {
            Node::Dir { live, .. } if live.is_empty() => None,
            Node::Dir { .. } => Some(io::ErrorKind::DirectoryNotEmpty),
            Node::File { .. } => Some(io::ErrorKind::NotADirectory),
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let fault = state.begin(Op::Sync)?;
        let dir = state.find(path)?;
        state.sync(dir, fault)
    }

    fn available_space(&self, _path: &Path) -> io::Result<u64> {
        let mut state = self.lock_state();
        state.begin(Op::Look)?;
        Ok(state.space.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Lock>> {
        let mut state = self.lock_state();
        state.begin(Op::Make)?;
        let node = match state.find(path) {
            Ok(node) => node,
            Err(error) if error.kind() == io::ErrorKind::NotFound => state.make(path, Node::empty_file())?,
            Err(error) => return Err(error),
        };
        if !state.locks.insert(node) {
            return Ok(None);
        }
        if let (false, Node::File { live, .. }) = (note.is_empty(), &mut state.nodes[node]) {
            *live = note.as_bytes().to_owned();
        }
        Ok(Some(Box::new(SimLock { fs: self.clone(), node, boot: state.boot })))
    }
}

/// An open file.
struct SimFile {
    fs: SimFs,
    node: usize,
    at: usize,
    boot: u64,
}

impl SimFile {
    /// The file's node, for one more operation.
    fn with<T>(
        &mut self,
        op: Op,
        act: impl FnOnce(&mut Vec<u8>, &mut usize, Option<FaultKind>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.fs.lock_state();
        let fault = state.begin(op)?;
        if state.boot != self.boot {
            return Err(eio());
        }
        match &mut state.nodes[self.node] {
            Node::File { live, .. } => act(live, &mut self.at, fault),
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }
}

impl Read for SimFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.with(Op::Look, |live, at, _| {
            let taken = (&live[(*at).min(live.len())..]).read(out)?;
            *at += taken;
            Ok(taken)
        })
    }
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(Op::Write, |live, at, fault| {
            let half = bytes.len() / 2;
            let taken = match fault {
                Some(FaultKind::ShortWrite) => half.max(1).min(bytes.len()),
                Some(FaultKind::TornWrite) => half,
                _ => bytes.len(),
            };
            live.truncate(*at);
            live.extend_from_slice(&bytes[..taken]);
            if fault == Some(FaultKind::SilentLoss) {
                live[*at + half..].fill(0);
            }
            *at += taken;
            if fault == Some(FaultKind::TornWrite) { Err(eio()) } else { Ok(taken) }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.fs.lock_state();
        let fault = state.begin(Op::Sync)?;
        if state.boot != self.boot {
            return Err(eio());
        }
        state.sync(self.node, fault)
    }
}

/// A lock that ends with its holder.
struct SimLock {
    fs: SimFs,
    node: usize,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.fs.lock_state();
        if state.boot == self.boot {
            state.locks.remove(&self.node);
        }
    }
}
