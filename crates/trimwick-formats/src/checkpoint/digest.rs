//! SHA-256 of a file while it is written or read, with a mark after every mebibyte.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Distance between two marks.
pub(super) const MARK_EVERY: u64 = 1 << 20;

/// What a file's content is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Digest {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of all of it, as `sha256sum` prints it.
    pub sha256: String,
    /// The first 16 digits of the SHA-256 of the first 1, 2, 3 … MiB. They cost nothing to compute along the way, and
    /// the first one that differs tells where the damage is.
    pub marks: Vec<String>,
}

impl Digest {
    /// The bytes among which the first difference to `other`, a file of the same length, lies.
    pub fn first_difference(&self, other: &Self) -> std::ops::Range<u64> {
        let same = self.marks.iter().zip(&other.marks).take_while(|(a, b)| a == b).count() as u64;
        let start = same * MARK_EVERY;
        start..(start + MARK_EVERY).min(self.bytes)
    }
}

/// A digest in the making.
#[derive(Default)]
pub(super) struct Hasher {
    sha256: Sha256,
    bytes: u64,
    marks: Vec<String>,
}

impl Hasher {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = MARK_EVERY - self.bytes % MARK_EVERY;
            let take = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (now, rest) = bytes.split_at(take);
            self.sha256.update(now);
            self.bytes += take as u64;
            if self.bytes.is_multiple_of(MARK_EVERY) {
                self.marks.push(hex(&self.sha256.clone().finalize()[..8]));
            }
            bytes = rest;
        }
    }

    pub fn finish(self) -> Digest {
        Digest { bytes: self.bytes, sha256: hex(&self.sha256.finalize()), marks: self.marks }
    }
}

/// Passes bytes on to `inner` and hashes those that it took.
pub(super) struct HashWriter<W> {
    pub inner: W,
    pub hasher: Hasher,
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes a stream to its end, handing every piece to `each`.
pub(super) fn read_through(stream: &mut dyn Read, mut each: impl FnMut(&[u8])) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                each(&buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// SHA-256 of `bytes`, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..MARK_EVERY * 5 / 2).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut whole = Hasher::default();
        whole.update(&bytes);
        let whole = whole.finish();
        assert_eq!(whole.marks.len(), 2);
        assert_eq!(whole.sha256, sha256(&bytes));
        let mut pieces = Hasher::default();
        bytes.chunks(99_991).for_each(|piece| pieces.update(piece));
        assert_eq!(pieces.finish(), whole);
    }

    #[test]
    fn a_known_digest() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_difference_is_found_within_a_mebibyte() {
        let bytes = vec![1u8; (MARK_EVERY * 5 / 2) as usize];
        let digest = |bytes: &[u8]| read_through(&mut &bytes[..], |_| {}).unwrap();
        for (at, want) in [(0, 0), (MARK_EVERY - 1, 0), (MARK_EVERY, 1), (MARK_EVERY * 9 / 4, 2)] {
            let mut other = bytes.clone();
            other[at as usize] ^= 4;
            let range = digest(&bytes).first_difference(&digest(&other));
            assert_eq!(
                range,
                want * MARK_EVERY..((want + 1) * MARK_EVERY).min(bytes.len() as u64),
                "byte {at}"
            );
        }
    }
}
