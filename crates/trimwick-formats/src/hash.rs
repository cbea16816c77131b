//! SHA-256 of files and bytes, as `sha256sum` prints it: 64 hexadecimal digits.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::source::ByteSource;

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// The digest of bytes in memory.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hex(hash)
}

/// The digest of a regular file, read once from beginning to end.
///
/// # Errors
/// As [`ByteSource::open`]: what is no regular file is refused and not waited for.
pub fn sha256_file(path: impl Into<PathBuf>) -> Result<String> {
    let source = ByteSource::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE.min(source.len()) as usize]);
    let mut at = 0;
    while at < source.len() {
        let piece = PIECE.min(source.len() - at);
        source.read_exact_at(at, &mut buffer[..piece as usize])?;
        hash.update(&buffer[..piece as usize]);
        at += piece;
    }
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for len in [0, 3, PIECE as usize, PIECE as usize + 1] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(sha256_file(&path).unwrap(), sha256_bytes(&bytes), "{len} bytes");
        }
        // FIPS 180-2, appendix B.1.
        assert!(sha256_bytes(b"abc").starts_with("ba7816bf8f01cfea414140de5dae2223"));
        assert!(sha256_file(dir.path()).is_err());
    }
}
