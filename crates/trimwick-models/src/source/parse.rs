//! What a user may write for a model.

use std::fmt;
use std::path::{Path, PathBuf};

use super::ModelSource;
use crate::builtin;
use crate::error::{Error, Result, quote};

impl ModelSource {
    /// Reads `builtin:NAME`, a path of a folder or `.gguf` file, or a hub id `owner/name`, with `@revision` or without.
    ///
    /// Of a folder and a hub id with the same spelling, the folder wins. Text that begins with `.`, `/` or `~`, or has
    /// more than one `/` before any `@`, is always a path. A path need not exist yet.
    ///
    /// ```
    /// use trimwick_models::source::ModelSource;
    ///
    /// assert_eq!(ModelSource::parse("./SmolLM2")?, ModelSource::Folder("./SmolLM2".into()));
    /// assert_eq!(ModelSource::parse("model.Q4_0.gguf")?, ModelSource::Gguf("model.Q4_0.gguf".into()));
    /// assert_eq!(ModelSource::parse("org/model@v1")?, ModelSource::Hub("org/model@v1".into()));
    /// # Ok::<(), trimwick_models::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown built-in name, a file that is no model, or text that is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("builtin:") {
            return match builtin::model(name) {
                Some(_) => Ok(Self::Builtin(name.into())),
                None => Err(no_such_builtin(name)),
            };
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Folder(path.into()));
        }
        if path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf")) {
            return Ok(Self::Gguf(path.into()));
        }
        if path.exists() {
            return Err(not_a_model(path));
        }
        let (id, revision) = split_revision(text);
        // Beside a folder of that name here, a path was meant: what that folder holds is of more help than the hub.
        let here = revision.is_none() && id.split('/').next().is_some_and(|first| Path::new(first).is_dir());
        if here || text.starts_with(['.', '/', '~', '\\']) || id.matches(['/', '\\']).count() > 1 {
            return Ok(Self::Folder(path.into()));
        }
        if is_hub_id(id) && revision.is_none_or(is_revision) {
            return Ok(Self::Hub(text.into()));
        }
        Err(Error::NotFound {
            path: quote(text),
            what: "no such folder or file, and not a hub id (owner/name)".into(),
            hint: listing_near(path),
        })
    }
}

impl fmt::Display for ModelSource {
    /// As [`ModelSource::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::Folder(path) | Self::Gguf(path) => {
                let text = path.to_string_lossy();
                // Without the dot it would be read as something else.
                let folder = matches!(self, Self::Folder(_));
                let hub_like = folder && is_hub_id(split_revision(&text).0);
                let dot = if hub_like || text.starts_with("builtin:") { "./" } else { "" };
                write!(f, "{dot}{text}")
            }
            Self::Hub(text) => f.write_str(text),
        }
    }
}

/// `owner/name@revision` in its two parts.
pub(super) fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (text, None),
    }
}

/// `owner/name` as the hub allows them; nothing that could leave a folder of the cache.
pub(super) fn is_hub_id(text: &str) -> bool {
    let sound = |part: &str| {
        part.len() <= 96
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.contains("..")
            && !part.contains("--")
    };
    text.split_once('/').is_some_and(|(owner, name)| sound(owner) && sound(name))
}

/// A branch, tag or commit; it becomes part of a path in the cache.
pub(super) fn is_revision(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && !text.contains("..")
}

pub(super) fn no_such_builtin(name: &str) -> Error {
    let known: Vec<String> = builtin::MODELS.iter().map(|m| format!("builtin:{}", m.name)).collect();
    Error::NotFound {
        path: format!("builtin:{}", quote(name).trim_matches('"')),
        what: "no such built-in model".into(),
        hint: format!("known: {}", known.join(", ")),
    }
}

/// The error for a file that exists and is no model by itself.
fn not_a_model(path: &Path) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parts = [".safetensors", ".json", ".bin", ".pt", ".pth", ".model"];
    let hint = match parts.iter().any(|ext| name.ends_with(ext)) {
        true => format!("give the folder it is in: {}", quote(&parent.to_string_lossy())),
        false => "give a folder with config.json and safetensors, or a .gguf file".into(),
    };
    Error::NotFound { path: quote(&path.to_string_lossy()), what: "a file that is not a model".into(), hint }
}

/// The error for a folder that is not there.
pub(super) fn no_such_folder(path: &Path) -> Error {
    Error::NotFound {
        path: quote(&path.to_string_lossy()),
        what: "no such folder".into(),
        hint: listing_near(path),
    }
}

/// What the nearest folder above a path holds.
pub(super) fn listing_near(path: &Path) -> String {
    let mut folder: PathBuf = path.parent().unwrap_or(Path::new("")).into();
    while !folder.as_os_str().is_empty() && !folder.is_dir() {
        folder = folder.parent().unwrap_or(Path::new("")).into();
    }
    let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
    format!("{} holds {}", quote(&shown.to_string_lossy()), listing(shown))
}

/// The first few names in a folder, and how many there are.
pub(super) fn listing(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let Ok(entries) = std::fs::read_dir(folder) else { return "nothing that can be listed".into() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quote(name)).collect();
    match names.len() {
        0 => "nothing".into(),
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_write() {
        let dir = tempfile::tempdir().unwrap();
        let existing = dir.path().to_str().unwrap();
        let hub = |text: &str| ModelSource::Hub(text.into());
        let table = [
            (existing, ModelSource::Folder(existing.into())),
            ("./x", ModelSource::Folder("./x".into())),
            ("../x/y", ModelSource::Folder("../x/y".into())),
            ("/x", ModelSource::Folder("/x".into())),
            ("~/models/x", ModelSource::Folder("~/models/x".into())),
            ("models/llama/7b", ModelSource::Folder("models/llama/7b".into())),
            ("a.gguf", ModelSource::Gguf("a.gguf".into())),
            ("dir/a.Q4_0.GGUF", ModelSource::Gguf("dir/a.Q4_0.GGUF".into())),
            ("HuggingFaceTB/SmolLM2-135M", hub("HuggingFaceTB/SmolLM2-135M")),
            ("org/name@refs/pr/1", hub("org/name@refs/pr/1")),
            ("org/na.me_v1-x@0a1b2c", hub("org/na.me_v1-x@0a1b2c")),
        ];
        for (text, expected) in table {
            let source = ModelSource::parse(text).unwrap();
            assert_eq!(source, expected, "{text}");
            assert_eq!(
                ModelSource::parse(&source.to_string()).unwrap(),
                expected,
                "{text}, written and read"
            );
        }
        assert_eq!(ModelSource::Folder("org/name".into()).to_string(), "./org/name");
    }

    #[test]
    fn what_is_no_model_says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("TinyLlama")).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), "x").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        let inside = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let table = [
            (inside("model.safetensors"), "give the folder it is in"),
            (inside("notes.txt"), "a folder with config.json"),
            ("gpt2".into(), "not a hub id (owner/name)"),
            ("".into(), "not a hub id"),
            ("org/".into(), "not a hub id"),
            ("org/na me".into(), "not a hub id"),
            ("org/name@../main".into(), "not a hub id"),
            ("org/name@".into(), "not a hub id"),
            ("-org/name".into(), "not a hub id"),
            ("org/..".into(), "not a hub id"),
            ("builtin:nothing".into(), "no such built-in model"),
            ("builtin:".into(), "no such built-in model"),
        ];
        for (text, expected) in table {
            let error = ModelSource::parse(&text).expect_err(&text).to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
        let error = no_such_folder(&dir.path().join("tinyllama")).to_string();
        assert!(error.contains("\"TinyLlama\", \"model.safetensors\", \"notes.txt\""), "{error}");
    }
}
