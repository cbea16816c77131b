//! Reading a checkpoint back, believing nothing that its digests do not confirm.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::read_through;
use super::fs::{Fs, Kind, RealFs};
use super::manifest::{MANIFEST, MAX_MANIFEST, Manifest, ManifestFile};
use crate::error::{Error, Location, Result, quote, reserve};
use crate::safetensors::tensors_in;

/// Tensors that are named when a piece of a file is damaged.
const NAMED: usize = 4;

/// A checkpoint all of whose files have been compared with their digests.
pub struct Checkpoint {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    manifest: Manifest,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.path).field("manifest", &self.manifest).finish()
    }
}

impl Checkpoint {
    /// Opens one checkpoint folder and verifies every file of it, whatever its recipe.
    ///
    /// # Errors
    /// [`Error::Malformed`] that names the file and, in a safetensors file, the damaged tensors; [`Error::Missing`],
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(Arc::new(RealFs), path.as_ref())
    }

    /// The same on any file system.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(fs: Arc<dyn Fs>, path: &Path) -> Result<Self> {
        let manifest = read_manifest(&*fs, path)?;
        Self::verify(fs, path, manifest)
    }

    /// Verifies a folder that must be of this step and recipe.
    pub(super) fn expect(fs: Arc<dyn Fs>, path: &Path, step: u64, fingerprint: &str) -> Result<Self> {
        let manifest = read_manifest(&*fs, path)?;
        let fault = |field: &str, expected: String, found: String| {
            Err(Error::malformed(path.join(MANIFEST), Location::Json(field.into()), field, expected, found))
        };
        if manifest.step != step {
            return fault("step", format!("{step}, as in the folder's name"), manifest.step.to_string());
        }
        if manifest.fingerprint != fingerprint {
            let expected = format!("{}, this recipe's", quote(fingerprint));
            return fault(
                "fingerprint",
                expected,
                format!("{}, another recipe's", quote(&manifest.fingerprint)),
            );
        }
        Self::verify(fs, path, manifest)
    }

    fn verify(fs: Arc<dyn Fs>, path: &Path, manifest: Manifest) -> Result<Self> {
        // All sizes first: they cost nothing, and a file that was cut is the common case.
        for file in &manifest.files {
            check_size(&*fs, path, file)?;
        }
        for file in &manifest.files {
            check_content(&*fs, &path.join(&file.name), file, |_| {})?;
        }
        Ok(Self { fs, path: path.to_owned(), manifest })
    }

    /// The step after which the state was saved.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The recipe that the state belongs to.
    pub fn fingerprint(&self) -> &str {
        &self.manifest.fingerprint
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in the order they were saved, with their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.manifest.files.iter().map(|file| (file.name.as_str(), file.content.bytes))
    }

    /// The path of one file, for what reads files by itself.
    ///
    /// # Errors
    /// [`Error::Missing`] when the checkpoint has no such file.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        self.entry(name).map(|file| self.path.join(&file.name))
    }

    /// One file's bytes, verified once more as they are read.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] when the file changed since the checkpoint was opened;
    /// [`Error::OutOfMemory`], [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.entry(name)?;
        check_size(&*self.fs, &self.path, file)?;
        let path = self.path.join(name);
        let mut bytes =
            reserve(&path, "a checkpoint's file", usize::try_from(file.content.bytes).unwrap_or(usize::MAX))?;
        check_content(&*self.fs, &path, file, |piece| {
            // Never grows past what was reserved: a file that grows meanwhile fails the check anyway.
            let room = bytes.capacity() - bytes.len();
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        })?;
        Ok(bytes)
    }

    fn entry(&self, name: &str) -> Result<&ManifestFile> {
        let found = self.manifest.files.iter().find(|file| file.name == name);
        found.ok_or_else(|| Error::missing(&self.path, "file", name))
    }
}

/// Reads the manifest of a folder; also whether the folder is one.
pub(super) fn read_manifest(fs: &dyn Fs, folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let len = regular_file(fs, folder, MANIFEST)?;
    if len > MAX_MANIFEST {
        let (expected, found) = (format!("at most {MAX_MANIFEST} bytes"), len.to_string());
        return Err(Error::malformed(path, Location::Offset(0), "file length", expected, found));
    }
    let mut bytes = Vec::new();
    fs.open(&path)
        .and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut bytes))
        .map_err(|e| Error::io(&path, "read", e))?;
    Manifest::decode(&path, &bytes)
}

fn regular_file(fs: &dyn Fs, folder: &Path, name: &str) -> Result<u64> {
    let path = folder.join(name);
    match fs.stat(&path) {
        Ok(stat) if stat.kind == Kind::File => Ok(stat.len),
        Ok(_) => {
            let found = "a folder, link, pipe or device";
            Err(Error::malformed(path, Location::Offset(0), "file", "a regular file", found))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::missing(folder, "file", name)),
        Err(error) => Err(Error::io(path, "look at", error)),
    }
}

fn check_size(fs: &dyn Fs, folder: &Path, file: &ManifestFile) -> Result<()> {
    let len = regular_file(fs, folder, &file.name)?;
    if len == file.content.bytes {
        return Ok(());
    }
    let at = Location::Offset(len.min(file.content.bytes));
    let expected = format!("{} bytes, as in {MANIFEST}", file.content.bytes);
    Err(Error::malformed(folder.join(&file.name), at, "file length", expected, len.to_string()))
}

/// Compares a file with its digest, handing its bytes to `each` on the way.
fn check_content(fs: &dyn Fs, path: &Path, file: &ManifestFile, each: impl FnMut(&[u8])) -> Result<()> {
    let read = |fault| Error::io(path, "read", fault);
    let found = fs.open(path).and_then(|mut stream| read_through(&mut *stream, each)).map_err(read)?;
    let expected = &file.content;
    if found == *expected {
        return Ok(());
    }
    let range = expected.first_difference(&found);
    let tensors = if file.name.ends_with(".safetensors") {
        fs.open(path)
            .map(|mut s| tensors_in(&mut *s, expected.bytes, range.clone(), NAMED))
            .unwrap_or_default()
    } else {
        Vec::new()
    };
    let at = tensors.first().map_or(Location::Offset(range.start), |name| Location::Tensor(name.clone()));
    let others = match tensors.len() {
        0 | 1 => String::new(),
        NAMED => " (or a tensor after it)".to_owned(),
        _ => format!(" (or {})", tensors[1..].iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")),
    };
    let found = format!("{}, damaged within bytes {} to {}{others}", found.sha256, range.start, range.end);
    Err(Error::malformed(path, at, "sha256", &expected.sha256, found))
}
