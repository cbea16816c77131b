//! Replacing a file as a whole: whatever happens, the old bytes or the new ones are there.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::checkpoint::{Fs, Kind, RealFs};
use crate::error::{Error, Result};

/// Something that writes the bytes of a file, the same ones each time.
pub(crate) type Produce<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

/// Replaces the file at `path` with `bytes`: written beside it, synced, renamed over it, and the folder synced.
///
/// What earlier processes left beside it when they were killed is removed.
///
/// # Errors
/// [`Error::Io`]; the file at `path` is as it was.
pub fn atomic_write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    atomic_write_with(path, |out| out.write_all(bytes))
}

/// The same for bytes that `write` produces.
///
/// # Errors
/// [`Error::Io`], of which `write`'s own errors are one kind; the file at `path` is as it was.
pub fn atomic_write_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    atomic_write_on(&RealFs, path.as_ref(), write)
}

/// The same on any file system.
///
/// # Errors
/// [`Error::Io`]; the file at `path` is as it was, or, when only the last sync failed, may be the new one.
pub fn atomic_write_on(
    fs: &dyn Fs,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let fault = |doing: &'static str| move |source| Error::io(path, doing, source);
    let Some(name) = path.file_name() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name");
        return Err(fault("write")(source));
    };
    let folder = folder_of(path);
    remove_leftovers(fs, folder, name);

    let aside = folder.join(aside_name(name));
    let result = write_aside(fs, &aside, write)
        .and_then(|()| fs.rename(&aside, path).map_err(|e| ("rename over the old file", e)))
        .map_err(|(doing, source)| fault(doing)(source));
    if result.is_err() {
        // Best effort: the error that is on its way matters more.
        let _ = fs.remove_file(&aside);
        return result;
    }
    fs.sync_dir(folder).map_err(fault("sync the folder after writing"))
}

fn write_aside(
    fs: &dyn Fs,
    aside: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> std::result::Result<(), (&'static str, io::Error)> {
    let mut file = fs.create(aside).map_err(|e| ("create a file beside it", e))?;
    // Held while the file is written, so that another process can tell it from a leftover.
    let _lock = fs.lock(aside, "").map_err(|e| ("lock a file beside it", e))?;
    let mut out = BufWriter::with_capacity(1 << 20, &mut file);
    write(&mut out).and_then(|()| out.flush()).map_err(|e| ("write", e))?;
    drop(out);
    file.sync().map_err(|e| ("sync", e))
}

/// Removes files that a killed process left beside `name`: those whose lock is free.
fn remove_leftovers(fs: &dyn Fs, folder: &Path, name: &OsStr) {
    let prefix = [name.as_encoded_bytes(), ASIDE.as_bytes()].concat();
    for listed in fs.list(folder).unwrap_or_default() {
        let leftover = listed.kind == Kind::File && listed.name.as_encoded_bytes().starts_with(&prefix);
        if leftover && let Ok(Some(_lock)) = fs.lock(&folder.join(&listed.name), "") {
            let _ = fs.remove_file(&folder.join(&listed.name));
        }
    }
}

/// What marks the name of something unfinished.
pub(crate) const ASIDE: &str = ".tmp-";

/// A name beside `name` that no other process or thread uses.
pub(crate) fn aside_name(name: &OsStr) -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut aside = name.to_owned();
    aside.push(format!("{ASIDE}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    aside
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a folder and those above it that are missing, each durable in its parent.
pub(crate) fn create_dir_all_on(fs: &dyn Fs, path: &Path) -> Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = path;
    while let Err(error) = fs.stat(at) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(Error::io(at, "look at", error));
        }
        missing.push(at.to_owned());
        at = folder_of(at);
    }
    // Also those that are there may not be durable: a process that was killed may have made them a moment ago. Whoever
    // made the far ones long ago may not let us sync them, so that is an attempt.
    for folder in at.ancestors() {
        let _ = fs.sync_dir(folder_of(folder));
    }
    for folder in missing.iter().rev() {
        match fs.create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(folder, "create the folder", error));
            }
            _ => fs.sync_dir(folder_of(folder)).map_err(|e| Error::io(folder, "sync the folder above", e))?,
        }
    }
    Ok(())
}
