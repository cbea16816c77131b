//! The disk under [`SimFs`](super::SimFs): what the running system sees, and what a crash leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use super::fs::{Kind, Stat};
use super::sim::{Fault, FaultKind, Survival};

/// A machine and its disk.
#[derive(Default)]
pub(super) struct State {
    /// Node 0 is the root.
    pub nodes: Vec<Node>,
    pub locks: BTreeSet<usize>,
    pub ops: u64,
    pub fault: Option<Fault>,
    down: bool,
    /// Handles of an earlier boot are dead.
    pub boot: u64,
    pub space: Option<u64>,
}

/// A file or folder, as the running system sees it and as the disk holds it.
pub(super) enum Node {
    Dir { live: Names, kept: Names },
    File { live: Vec<u8>, kept: Vec<u8>, lost: bool },
}

pub(super) type Names = BTreeMap<OsString, usize>;

/// The classes of operation that faults choose among.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Op {
    Look,
    Make,
    Remove,
    Write,
    Sync,
    Rename,
}

impl State {
    /// An empty disk.
    pub fn new() -> Self {
        Self { nodes: vec![Node::empty_dir()], ..Self::default() }
    }

    /// Stops and starts again with what survived.
    pub fn reboot(&mut self, survival: Survival) {
        if let Survival::Chance(mut chance) = survival {
            self.nodes.iter_mut().for_each(|node| node.keep_some(&mut chance));
        }
        if survival != Survival::Everything {
            // A rename is one step: by chance or not, nothing ends up with two names.
            let mut named = BTreeSet::new();
            for node in &mut self.nodes {
                if let Node::Dir { kept, .. } = node {
                    kept.retain(|_, number| named.insert(*number));
                }
                node.forget();
            }
        }
        self.locks.clear();
        self.fault = None;
        self.down = false;
        self.boot += 1;
    }

    /// Counts an operation; an error if it fails, else what is to go wrong inside it.
    pub fn begin(&mut self, op: Op) -> io::Result<Option<FaultKind>> {
        let now = self.ops;
        self.ops += 1;
        if self.down {
            return Err(eio());
        }
        let due = self.fault.filter(|fault| if fault.lasting { now >= fault.at } else { now == fault.at });
        let Some(Fault { kind, .. }) = due else { return Ok(None) };
        match (kind, op) {
            (FaultKind::Crash, _) => {
                self.down = true;
                Err(eio())
            }
            (FaultKind::Eio | FaultKind::SyncFails, Op::Sync) => Ok(Some(FaultKind::SyncFails)),
            (FaultKind::Eio, _) | (FaultKind::RenameFails, Op::Rename) => Err(eio()),
            (FaultKind::NoSpace, Op::Make | Op::Write | Op::Rename) => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            (FaultKind::ShortWrite | FaultKind::TornWrite | FaultKind::SilentLoss, Op::Write) => {
                Ok(Some(kind))
            }
            _ => Ok(None),
        }
    }

    /// The node at `path`.
    pub fn find(&self, path: &Path) -> io::Result<usize> {
        path.components().try_fold(0, |at, component| match component {
            Component::Normal(name) => self.names(at)?.get(name).copied().ok_or_else(not_found),
            Component::RootDir | Component::CurDir => Ok(at),
            Component::ParentDir | Component::Prefix(_) => Err(io::ErrorKind::InvalidInput.into()),
        })
    }

    /// The folder that `path` is in, and its name there.
    pub fn place<'p>(&self, path: &'p Path) -> io::Result<(usize, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub fn names(&self, dir: usize) -> io::Result<&Names> {
        match &self.nodes[dir] {
            Node::Dir { live, .. } => Ok(live),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub fn names_mut(&mut self, dir: usize) -> io::Result<&mut Names> {
        match &mut self.nodes[dir] {
            Node::Dir { live, .. } => Ok(live),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub fn make(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (dir, name) = self.place(path)?;
        if self.names(dir)?.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = self.nodes.len();
        self.nodes.push(node);
        self.names_mut(dir)?.insert(name.to_owned(), number);
        Ok(number)
    }

    pub fn remove(&mut self, path: &Path, removable: fn(&Node) -> Option<io::ErrorKind>) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        let number = *self.names(dir)?.get(name).ok_or_else(not_found)?;
        if let Some(kind) = removable(&self.nodes[number]) {
            return Err(kind.into());
        }
        self.names_mut(dir)?.remove(name);
        Ok(())
    }

    pub fn sync(&mut self, node: usize, fault: Option<FaultKind>) -> io::Result<()> {
        if fault == Some(FaultKind::SyncFails) {
            self.nodes[node].lose();
            return Err(eio());
        }
        self.nodes[node].keep_all();
        Ok(())
    }
}

impl Node {
    pub fn empty_dir() -> Self {
        Self::Dir { live: Names::new(), kept: Names::new() }
    }

    pub fn empty_file() -> Self {
        Self::File { live: Vec::new(), kept: Vec::new(), lost: false }
    }

    /// A sync, which finds nothing dirty in a file that an earlier one lost.
    fn keep_all(&mut self) {
        match self {
            Self::Dir { live, kept } => kept.clone_from(live),
            Self::File { live, kept, lost: false } => kept.clone_from(live),
            Self::File { .. } => {}
        }
    }

    /// Sync that fails: the bytes are dropped, and clean from now on.
    fn lose(&mut self) {
        if let Self::File { lost, .. } = self {
            *lost = true;
        }
    }

    fn keep_some(&mut self, chance: &mut u64) {
        match self {
            Self::Dir { live, kept } => {
                let names: BTreeSet<OsString> = live.keys().chain(kept.keys()).cloned().collect();
                for name in names {
                    match live.get(&name) {
                        _ if draw(chance, 2) == 0 => {}
                        Some(&number) => drop(kept.insert(name, number)),
                        None => drop(kept.remove(&name)),
                    }
                }
            }
            Self::File { live, kept, .. } if live == kept => {}
            Self::File { live, kept, lost } => match draw(chance, 4) {
                0 => {}
                1 if !*lost => kept.clone_from(live),
                // A length that reached the disk before the bytes did.
                2 => kept.resize(live.len(), 0),
                _ if !*lost => live[..draw(chance, live.len() as u64 + 1) as usize].clone_into(kept),
                _ => {}
            },
        }
    }

    /// The running system's view becomes the disk's.
    fn forget(&mut self) {
        match self {
            Self::Dir { live, kept } => live.clone_from(kept),
            Self::File { live, kept, lost } => {
                live.clone_from(kept);
                *lost = false;
            }
        }
    }

    pub fn stat(&self) -> Stat {
        match self {
            Self::Dir { .. } => Stat { kind: Kind::Dir, len: 0 },
            Self::File { live, .. } => Stat { kind: Kind::File, len: live.len() as u64 },
        }
    }
}

pub(super) fn eio() -> io::Error {
    io::Error::other("Input/output error")
}

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// A number below `below` from a stream that `state` walks (splitmix64).
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}
