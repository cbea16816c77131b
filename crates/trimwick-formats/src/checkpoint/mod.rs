//! Checkpoint folders that survive a crash, a full disk and a flipped bit.
//!
//! A checkpoint is a folder `step-N` of files and a `manifest.json` with their sizes and SHA-256 digests. Saving goes
//!
//! ```text
//! step-N.tmp-…/  →  write, hash, fsync each file  →  manifest, fsync  →  fsync the folder
//!                →  rename to step-N  →  fsync the parent  →  read back, verify  →  only then prune
//! ```
//!
//! so that at every moment an older checkpoint is whole on the disk. Nothing points at the newest one, because a pointer
//! is one more thing that can be wrong: [`CheckpointDir::latest`] takes the newest folder that *verifies*, names the
//! ones it passed over, and falls back to the one before.
//!
//! - A failed `fsync` is final: the kernel may have dropped the pages and marked them clean, so a second `fsync` would
//!   report a success that never happened. The temporary folder is abandoned, and the next save starts another.
//! - A second writer is kept out by a lock on an open file (`flock`), which the kernel releases when its process dies
//!   however it dies. The file that stays behind means nothing, so there is no stale lock.
//! - All of this runs on a [`Fs`]: [`RealFs`], or [`SimFs`], which drops what was not synced and fails where it is told
//!   to. SIGKILL cannot test a missing `fsync`, because the page cache survives it.

mod digest;
mod dir;
mod fs;
mod manifest;
mod sim;
mod sim_disk;
mod verify;

pub use dir::{CheckpointDir, Payload, Rejected, Survey};
pub use fs::{Fs, Kind, Listed, Lock, RealFs, Stat, WriteFile};
pub use sim::{Fault, FaultKind, SimFs, Survival};
pub use verify::Checkpoint;
