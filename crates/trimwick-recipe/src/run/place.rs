//! Whether a folder can be a run's, found out before anything is written to it.

use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::path::Path;

use trimwick_formats::read_small;

use super::error::{Result, RunError};
use super::folder::{FINGERPRINT, LARGEST, RECIPE};
use crate::{ModelSource, ModelSpec, Recipe};

/// Folders and files of a run whose kind matters before they are written.
const FOLDERS: [&str; 3] = ["stages", "checkpoints", "model"];
const FILES: [&str; 2] = ["summary.json", RECIPE];

/// Looks at the folder `out` of a run of `recipe` and changes nothing. It must be absent, empty, or the folder of an
/// earlier run of the same recipe, and the model that the run starts from must not be where the run writes its own.
///
/// # Errors
/// [`RunError::Folder`] with what is there; [`RunError::OtherRun`].
pub fn check_place(out: &Path, recipe: &Recipe) -> Result<()> {
    check_source(out, recipe)?;
    if kind(out)?.is_none() {
        return Ok(());
    }
    match fs::metadata(out) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(refuse(out, "a folder or nothing", "a file".into(), "give another with --out")),
        Err(error) => {
            let found = error.to_string();
            return Err(refuse(out, "a folder or nothing", found, "give another with --out"));
        }
    }
    let named = out.join("stages").join(FINGERPRINT);
    let Some(found) = read_small(&named, LARGEST)? else { return check_empty(out) };
    let expected = recipe.fingerprint();
    if found.trim_ascii() != expected.as_bytes() {
        let found = String::from_utf8_lossy(found.trim_ascii()).escape_debug().take(12).collect();
        let keys = differing(out, recipe);
        return Err(RunError::OtherRun { path: out.into(), keys, expected: expected[..12].into(), found });
    }
    let wrong = |name: &&str, expected| kind(&out.join(name)).map(|k| k.is_some_and(|k| !is(k, expected)));
    for (names, expected, found) in
        [(&FOLDERS[..], "a folder or nothing", "no folder"), (&FILES[..], "a file or nothing", "no file")]
    {
        for name in names {
            if wrong(name, expected)? {
                let advice = "move it away, or give another folder with --out";
                return Err(refuse(&out.join(name), expected, found.into(), advice));
            }
        }
    }
    Ok(())
}

fn is(kind: FileType, expected: &str) -> bool {
    if expected.starts_with("a folder") { kind.is_dir() } else { kind.is_file() }
}

/// What is at a path, links not followed; `None` for nothing.
fn kind(path: &Path) -> Result<Option<FileType>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.file_type())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refuse(path, "a folder or nothing", error.to_string(), "give another with --out")),
    }
}

fn refuse(path: &Path, expected: &'static str, found: String, advice: &'static str) -> RunError {
    RunError::Folder { path: path.into(), expected, found, advice }
}

/// A folder that is no run's may hold hidden files, and what a run leaves that is killed while it takes the folder: its
/// empty folder of stages.
fn check_empty(out: &Path) -> Result<()> {
    const SHOWN: usize = 3;
    let visible = |folder: &Path| -> Result<Vec<String>> {
        let io = |source| RunError::Io { path: folder.into(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    let names = visible(out)?;
    let left = |name: &String| name == "lock" || name.contains(".tmp-");
    let stages = out.join("stages");
    if names.is_empty() || names == ["stages"] && stages.is_dir() && visible(&stages)?.iter().all(left) {
        return Ok(());
    }
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    let found = format!("one that holds {}{more}", names[..names.len().min(SHOWN)].join(", "));
    let advice = "give another folder with --out, or move them away";
    Err(refuse(out, "the folder of a run, an empty one or nothing", found, advice))
}

/// The source must not be what the run writes, by whatever path it is reached.
fn check_source(out: &Path, recipe: &Recipe) -> Result<()> {
    let ModelSpec::Source(ModelSource::Folder(source) | ModelSource::Gguf(source)) = &recipe.model else {
        return Ok(());
    };
    let (Ok(source), Ok(model)) = (fs::canonicalize(source), fs::canonicalize(out.join("model"))) else {
        return Ok(());
    };
    if source.starts_with(&model) {
        let found = "model.source, which would be overwritten".to_string();
        return Err(refuse(
            &out.join("model"),
            "a place for the new model",
            found,
            "give another with --out",
        ));
    }
    Ok(())
}

/// The keys in which the recipe of the run in a folder differs from this one.
fn differing(out: &Path, recipe: &Recipe) -> String {
    const SHOWN: usize = 5;
    let values = |text: &str| {
        let mut flat = BTreeMap::new();
        let table: toml::Table = text.parse().ok()?;
        flatten("", &toml::Value::Table(table), &mut flat);
        // What the fingerprint leaves out; `export.targets` counts with some grids.
        flat.retain(|key, _| !["name", "out", "export.dense"].contains(&key.as_str()));
        Some(flat)
    };
    let held = read_small(out.join(RECIPE), LARGEST).ok().flatten();
    let held = held.and_then(|bytes| values(std::str::from_utf8(&bytes).ok()?));
    let (Some(held), Some(asked)) = (held, values(&recipe.resolve())) else { return String::new() };
    let keys: Vec<&str> = asked
        .keys()
        .chain(held.keys())
        .filter(|k| asked.get(*k) != held.get(*k))
        .map(String::as_str)
        .collect();
    let mut keys: Vec<&str> =
        keys.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let more = keys.len().saturating_sub(SHOWN);
    keys.truncate(SHOWN);
    match (keys.as_slice(), more) {
        ([], _) => String::new(),
        ([one], 0) => format!("{one} differs; "),
        (keys, 0) => format!("{} differ; ", keys.join(", ")),
        (keys, more) => format!("{} and {more} more differ; ", keys.join(", ")),
    }
}

fn flatten(path: &str, value: &toml::Value, flat: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, flat);
            }
        }
        value => drop(flat.insert(path.to_string(), value.to_string())),
    }
}
