//! A writer that lets through as many bytes as were promised.

use std::io::{self, Write};

use crate::error::quote;

/// Lets through as many bytes as a tensor has.
struct Exact<'o> {
    inner: &'o mut dyn Write,
    room: u64,
    tensor: &'o str,
}

/// Calls `write`, which is to write the `bytes` bytes of a tensor to `out`.
///
/// # Errors
/// Those of `write` and `out`; [`io::ErrorKind::InvalidData`] when it writes more or less.
pub(crate) fn write_exactly(
    out: &mut dyn Write,
    tensor: &str,
    bytes: u64,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut exact = Exact { inner: out, room: bytes, tensor };
    write(&mut exact)?;
    if exact.room == 0 {
        return Ok(());
    }
    let message = format!("tensor {}: {} of {bytes} bytes missing", quote(tensor), exact.room);
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

impl Write for Exact<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.room {
            let message = format!("tensor {}: more bytes than its shape takes", quote(self.tensor));
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let taken = self.inner.write(bytes)?;
        self.room -= taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
