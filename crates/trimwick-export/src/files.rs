//! Where an output may go.

use std::fs;
use std::path::Path;

use trimwick_formats::Error as FormatError;
use trimwick_formats::checkpoint::Fs;

use crate::{Error, Result};

/// Refuses an output that would take something away.
///
/// # Errors
/// [`Error::Occupied`] for a folder, for one of the inputs, and for any other file unless it may be replaced.
pub(crate) fn check_output<'a>(
    output: &Path,
    replace: bool,
    mut inputs: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    let occupied = |what, forcible| Err(Error::Occupied { path: output.into(), what, forcible });
    match fs::symlink_metadata(output) {
        Ok(found) if found.is_dir() => return occupied("a folder is there", false),
        // The new file takes the place of a link, not of what it leads to: that would be a surprise either way.
        Ok(found) if found.is_symlink() => return occupied("a link is there", false),
        Ok(found) if !found.is_file() => return occupied("no regular file is there", false),
        _ => {}
    }
    // What cannot be looked at is not there, as far as this goes; creating the file will tell.
    let Ok(place) = fs::canonicalize(output) else { return Ok(()) };
    if inputs.any(|input| fs::canonicalize(input).is_ok_and(|input| input == place)) {
        return occupied("this is the input itself", false);
    }
    if replace { Ok(()) } else { occupied("a file is there already", true) }
}

/// Whether a file of `needed` bytes fits the disk.
///
/// # Errors
/// [`FormatError::NoSpace`]; [`FormatError::Io`] where there is no such folder.
pub(crate) fn check_space(fs: &dyn Fs, output: &Path, needed: u64) -> Result<()> {
    let folder = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let available = fs.available_space(folder).map_err(|e| FormatError::io(folder, "write into it", e))?;
    match available < needed {
        true => Err(FormatError::NoSpace { path: folder.into(), needed, available }.into()),
        false => Ok(()),
    }
}
