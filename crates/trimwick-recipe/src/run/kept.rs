//! Files that a stage leaves for later ones, believed only by their digest.
//!
//! The digest stands in a file beside them, `NAME.sha256`, as `sha256sum` writes it. A file without one was not finished:
//! its stage runs again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use trimwick_formats::{atomic_write, read_small, sha256_file};

use super::error::{Result, RunError};

/// A digest, two spaces and a name.
const LARGEST: u64 = 4096;

/// Writes the digest of a file that is done.
pub(crate) fn seal(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = format!("{}  {name}\n", sha256_file(path)?);
    Ok(atomic_write(beside(path), text.as_bytes())?)
}

/// Whether the file is there, finished, and the one that was written.
///
/// # Errors
/// [`RunError::NotWritten`] when it is another one.
pub(crate) fn sealed(path: &Path) -> Result<bool> {
    if let Err(error) = std::fs::symlink_metadata(path)
        && error.kind() == std::io::ErrorKind::NotFound
    {
        return Ok(false);
    }
    let Some(text) = read_small(beside(path), LARGEST)? else { return Ok(false) };
    let found = sha256_file(path)?;
    if text.split(u8::is_ascii_whitespace).next() == Some(found.as_bytes()) {
        Ok(true)
    } else {
        Err(RunError::NotWritten { path: path.into() })
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".sha256");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_believed_by_its_digest_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(!sealed(&path).unwrap());
        std::fs::write(&path, "abc").unwrap();
        assert!(!sealed(&path).unwrap());
        seal(&path).unwrap();
        assert!(sealed(&path).unwrap());
        for changed in ["abd", "ab", "abc ", ""] {
            std::fs::write(&path, changed).unwrap();
            let message = sealed(&path).unwrap_err().to_string();
            assert!(message.contains("not the file that was written; remove it"), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!sealed(&path).unwrap());
    }
}
