//! Small text files from strangers.

use std::path::Path;

use trimwick_formats::read_small;

use crate::error::{Error, Result};

/// Longest `tokenizer.json` that is read, in bytes; the largest published ones have 35 MB.
pub(crate) const MAX_TOKENIZER: u64 = 512 << 20;

/// The text of a regular file of at most `limit` bytes; `None` if it does not exist. A pipe in its place is refused
/// rather than waited for.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let Some(bytes) = read_small(path, limit)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|e| Error::Json {
        origin: path.display().to_string(),
        reason: format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
    })?;
    Ok(Some(text))
}
