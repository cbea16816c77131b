//! `manifest.json`: what a checkpoint is, and what each of its files must be.
//!
//! It is one line of JSON in one canonical form, and ends with the digest of itself: a bit flipped anywhere in it is
//! found, be it in a place that nothing else would miss.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, MARK_EVERY, sha256};
use crate::error::{Error, Location, Result, quote};
use crate::folder::broken_file_name_rule;

/// The manifest's file name.
pub(super) const MANIFEST: &str = "manifest.json";
/// Longest manifest that is read: enough for some terabytes of state.
pub(super) const MAX_MANIFEST: u64 = 64 << 20;

const FORMAT: &str = "trimwick-checkpoint";
const VERSION: u64 = 1;

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    version: u64,
    /// The step after which the state was saved.
    pub step: u64,
    /// The recipe that the state belongs to.
    pub fingerprint: String,
    /// Every other file of the folder, in the order it was saved.
    pub files: Vec<ManifestFile>,
    /// SHA-256 of this JSON with an empty `digest`.
    digest: String,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManifestFile {
    pub name: String,
    pub content: Digest,
}

/// What every version of the manifest has.
#[derive(Deserialize)]
struct Preamble {
    format: String,
    version: u64,
}

impl Manifest {
    pub fn new(step: u64, fingerprint: &str, files: Vec<ManifestFile>) -> Self {
        let digest = String::new();
        let format = FORMAT.to_owned();
        Self { format, version: VERSION, step, fingerprint: fingerprint.to_owned(), files, digest }
    }

    /// The bytes of the file.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut sealed = Self { digest: String::new(), ..self.clone() };
        sealed.digest = sha256(&serde_json::to_vec(&sealed)?);
        let mut bytes = serde_json::to_vec(&sealed)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The manifest that `bytes` of `path` hold.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let syntax = |e: serde_json::Error| {
            let at = Location::Offset(e.column().saturating_sub(1) as u64);
            Error::malformed(
                path,
                at,
                "manifest",
                "a checkpoint manifest of version 1",
                quote(&e.to_string()),
            )
        };
        let fault = |field: &str, expected: String, found: String| {
            Error::malformed(path, Location::Json(field.to_owned()), field, expected, found)
        };

        let preamble: Preamble = serde_json::from_slice(bytes).map_err(syntax)?;
        if preamble.format != FORMAT {
            return Err(fault("format", quote(FORMAT), quote(&preamble.format)));
        }
        if preamble.version != VERSION {
            let expected =
                format!("{VERSION}, the version this program writes (a newer program may read it)");
            return Err(fault("version", expected, preamble.version.to_string()));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        if manifest.encode().map_err(syntax)? != bytes {
            let expected = "the digest of the manifest itself".to_owned();
            return Err(fault(
                "digest",
                expected,
                format!("{}, so it was changed or damaged", quote(&manifest.digest)),
            ));
        }
        for (i, file) in manifest.files.iter().enumerate() {
            let name = || format!("files[{i}].name");
            if let Some(rule) = broken_file_name_rule(&file.name) {
                return Err(fault(&name(), rule.to_owned(), quote(&file.name)));
            }
            if file.name == MANIFEST || manifest.files[..i].iter().any(|before| before.name == file.name) {
                return Err(fault(&name(), "one entry per file".to_owned(), quote(&file.name)));
            }
            if file.content.marks.len() as u64 != file.content.bytes / MARK_EVERY {
                let expected = format!("{} marks", file.content.bytes / MARK_EVERY);
                let found = file.content.marks.len().to_string();
                return Err(fault(&format!("files[{i}].content.marks"), expected, found));
            }
        }
        Ok(manifest)
    }
}
