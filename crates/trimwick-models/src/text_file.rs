//! Small text files from strangers.

use std::path::Path;

use trimwick_formats::ByteSource;

use crate::error::{Error, Result};

/// Longest `tokenizer.json` that is read, in bytes; the largest published ones have 35 MB.
pub(crate) const MAX_TOKENIZER: u64 = 512 << 20;

/// The text of a regular file of at most `limit` bytes; `None` if it does not exist. A pipe in its place is refused
/// rather than waited for.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "look at", error)),
        Ok(_) => {}
    }
    let source = ByteSource::open(path)?;
    let shown = || path.display().to_string();
    if source.len() > limit {
        return Err(Error::Json {
            origin: shown(),
            reason: format!("{} bytes, above {limit}", source.len()),
        });
    }
    let bytes = source.read_vec(0, source.len())?;
    let text = String::from_utf8(bytes).map_err(|e| Error::Json {
        origin: shown(),
        reason: format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
    })?;
    Ok(Some(text))
}
