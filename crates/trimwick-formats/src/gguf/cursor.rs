//! A cursor over the description of a GGUF file which checks each length before it believes it.

use std::borrow::Cow;
use std::fmt;

use super::{MAX_EXTRA_MEMORY, MAX_HEADER_BYTES};
use crate::error::{Error, Location, Result, quote, reserve};
use crate::source::ByteSource;

/// Bytes that are read from a file at a time.
const WINDOW: u64 = 64 << 10;

/// The field that is being read, put into words only when it is wrong.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    /// The key or tensor it belongs to; empty for the header's own.
    pub(super) of: &'a str,
    /// Its name in the specification.
    pub(super) part: &'static str,
}

impl Field<'_> {
    /// A field of the header itself.
    pub(super) fn of_header(part: &'static str) -> Self {
        Self { of: "", part }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            "" => f.write_str(self.part),
            of => write!(f, "{} {}", quote(of), self.part),
        }
    }
}

pub(super) struct Cursor<'a> {
    source: &'a ByteSource,
    /// Bytes of the file from `start`; all of them, borrowed, where they are in memory anyway.
    window: Cow<'a, [u8]>,
    start: u64,
    /// The next byte, counted from the start of the file.
    position: u64,
    /// What is left of [`MAX_EXTRA_MEMORY`].
    spare: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a ByteSource) -> Self {
        let window = Cow::Borrowed(source.as_slice().unwrap_or_default());
        Self { source, window, start: 0, position: 0, spare: MAX_EXTRA_MEMORY }
    }

    pub(super) fn source(&self) -> &'a ByteSource {
        self.source
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn remaining(&self) -> u64 {
        self.source.len().saturating_sub(self.position)
    }

    /// The error of a field that starts at byte `at`.
    pub(super) fn fault(
        &self,
        at: u64,
        field: Field<'_>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        let field = field.to_string();
        Error::malformed(self.source.path(), Location::Offset(at), field, expected, found)
    }

    /// Checks that `count` items of at least `least` bytes each can follow, before any loop or reservation.
    /// `at` is where the count stands in the file.
    pub(super) fn check_count(&self, at: u64, count: u64, least: u64, field: Field<'_>) -> Result<()> {
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.remaining() => Ok(()),
            _ => Err(self.fault(
                at,
                field,
                format!(
                    "at most {}, which the {} bytes that follow can hold",
                    self.remaining() / least,
                    self.remaining()
                ),
                count.to_string(),
            )),
        }
    }

    /// Books memory that is taken on top of what the file itself has, for the field at `at`.
    pub(super) fn charge(&mut self, at: u64, bytes: u64, field: Field<'_>) -> Result<()> {
        match self.spare.checked_sub(bytes) {
            Some(spare) => {
                self.spare = spare;
                Ok(())
            }
            None => Err(self.fault(
                at,
                field,
                format!(
                    "a description that takes at most {} MiB more memory than it has bytes",
                    MAX_EXTRA_MEMORY >> 20
                ),
                "one that takes more",
            )),
        }
    }

    pub(super) fn u8(&mut self, field: Field<'_>) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: Field<'_>) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: Field<'_>) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// The next `N` ≤ 8 bytes.
    pub(super) fn array<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N]> {
        self.check_length(self.position, N as u64, field)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.view(N)?);
        self.position += N as u64;
        Ok(bytes)
    }

    /// `count` little-endian values of `N` bytes each, decoded into a vector of their own type. `at` is where the count
    /// stands in the file.
    pub(super) fn values<const N: usize, T>(
        &mut self,
        at: u64,
        count: u64,
        field: Field<'_>,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        self.check_count(at, count, N as u64, field)?;
        self.check_length(self.position, count * N as u64, field)?;
        let mut values = reserve(self.source.path(), field.part, count as usize)?;
        let mut left = count as usize;
        while left > 0 {
            let now = left.min(WINDOW as usize / N);
            values.extend(self.view(now * N)?.as_chunks::<N>().0.iter().map(|&bytes| decode(bytes)));
            self.position += (now * N) as u64;
            left -= now;
        }
        Ok(values)
    }

    /// A string: its length, then as many bytes of UTF-8.
    pub(super) fn string(&mut self, field: Field<'_>) -> Result<String> {
        let at = self.position;
        let len = self.u64(field)?;
        self.check_length(at, len, field)?;
        let start = self.position;
        let bytes = if len <= WINDOW {
            self.view(len as usize)?.to_vec()
        } else {
            self.source.read_vec(start, len)?
        };
        self.position += len;
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let byte = error.as_bytes().get(valid).copied().unwrap_or_default();
            self.fault(start + valid as u64, field, "UTF-8", format!("byte {byte:#04x}"))
        })
    }

    /// Checks that `len` more bytes lie in the file, and in the part of it that a description may fill.
    fn check_length(&self, at: u64, len: u64, field: Field<'_>) -> Result<()> {
        if len > self.remaining() {
            let found = format!("{} before the end of the file", self.remaining());
            return Err(self.fault(at, field, format!("{len} more bytes"), found));
        }
        if len > MAX_HEADER_BYTES.saturating_sub(self.position) {
            let expected = format!("a description that ends before byte {MAX_HEADER_BYTES}");
            return Err(self.fault(at, field, expected, format!("{len} bytes from byte {}", self.position)));
        }
        Ok(())
    }

    /// `len` ≤ [`WINDOW`] bytes at the position, which were checked to be there.
    fn view(&mut self, len: usize) -> Result<&[u8]> {
        let end = self.start + self.window.len() as u64;
        if self.position + len as u64 > end {
            let bytes = self.source.read_vec(self.position, self.remaining().min(WINDOW))?;
            self.window = Cow::Owned(bytes);
            self.start = self.position;
        }
        let from = (self.position - self.start) as usize;
        Ok(&self.window[from..from + len])
    }
}
