//! The files a recipe names: there, of the right kind, and not empty.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::checked::chat::{ChatSpec, TemplateSource};
use crate::checked::data::TextSource;
use crate::checked::file_set::{FileSet, TextFormat};
use crate::checked::model::{ModelSource, ModelSpec};
use crate::error::{FaultKind, Faults, Plain};
use crate::raw::nearest;
use crate::recipe::Recipe;

/// What a file or pattern failed at: expected, found, and what to do.
type Complaint = (String, String, String);
/// The same for each pattern that matches no file, with its index.
type Unmatched = Vec<(usize, String, String, String)>;

impl FileSet {
    /// The files of all patterns: pattern by pattern, sorted by path within one, each file once. [`Recipe::expand`]
    /// words what is wrong as faults.
    ///
    /// # Errors
    ///
    /// For each pattern that matches no file: its index, what was expected, what was found, and what to do.
    pub fn expand(&self) -> Result<Vec<PathBuf>, Unmatched> {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut complaints = Vec::new();
        for (i, pattern) in self.files.iter().enumerate() {
            match matches(pattern) {
                // Patterns may overlap; a text that is read twice would count twice.
                Ok(paths) => {
                    files.extend(paths.into_iter().filter(|path| !files.contains(path)).collect::<Vec<_>>())
                }
                Err((expected, found, advice)) => complaints.push((i, expected, found, advice)),
            }
        }
        if complaints.is_empty() { Ok(files) } else { Err(complaints) }
    }
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>, Complaint> {
    let quoted = format!("\"{}\"", Plain(pattern));
    let paths = glob::glob(pattern).map_err(|error| {
        let found = format!("{quoted} (at byte {}: {})", error.pos, error.msg);
        ("a glob pattern".to_string(), found, "change the pattern".to_string())
    })?;
    let mut files = Vec::new();
    let mut folder = None;
    for path in paths {
        match path {
            Ok(path) if path.is_dir() => folder = Some(path),
            Ok(path) => files.push(path),
            Err(error) => {
                let found = format!("{} ({})", Plain(&error.path().to_string_lossy()), error.error());
                return Err((
                    "a folder that can be read".to_string(),
                    found,
                    "change its permissions".to_string(),
                ));
            }
        }
    }
    files.sort();
    match (files.is_empty(), folder) {
        (false, _) => Ok(files),
        (true, Some(folder)) => {
            let advice = format!("write for example {}/*.txt", Plain(&folder.to_string_lossy()));
            Err(("a file".to_string(), format!("the folder {quoted}"), advice))
        }
        (true, None) => {
            Err(("a file that matches".to_string(), format!("none for {quoted}"), lost(Path::new(pattern))))
        }
    }
}

/// What to do about a path that leads nowhere: the first part of it that is missing, and what is there instead.
fn lost(path: &Path) -> String {
    let mut sound = PathBuf::new();
    for part in path.components() {
        let next = sound.join(part);
        let name = part.as_os_str().to_string_lossy();
        if next.exists() {
            sound = next;
            continue;
        }
        let here = if sound.as_os_str().is_empty() { Path::new(".") } else { &sound };
        let shown =
            if here == Path::new(".") { "the current directory".into() } else { here.to_string_lossy() };
        let mut names: Vec<String> = fs::read_dir(here)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .take(1000)
            .collect();
        names.sort();
        if name == "~" {
            return "`~` is not expanded here; write the whole path".to_string();
        }
        if let Some(near) = nearest(&name, names.iter().map(String::as_str)) {
            return format!("did you mean {}?", Plain(&sound.join(near).to_string_lossy()));
        }
        let rest = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
        names.truncate(5);
        let holds =
            if names.is_empty() { "nothing".to_string() } else { Plain(&names.join(", ")).to_string() };
        return format!("{} holds {holds}{rest}", Plain(&shown));
    }
    "give another path".to_string()
}

impl Recipe {
    /// Checks the files and folders that the recipe names: models, tokenizers and texts are there, every pattern
    /// matches a file, and no text is empty. Reads no more of a text than it takes to find something in it.
    ///
    /// # Errors
    ///
    /// All faults at once, at the key or list element that names the file.
    pub fn check_files(&self) -> Result<(), Faults> {
        let mut faults = Vec::new();
        match &self.model {
            ModelSpec::Source(source) => {
                if let Err((expected, found, advice)) = check_source(source) {
                    faults.push(self.fault("model.source", FaultKind::Files { expected, found, advice }));
                }
            }
            ModelSpec::Pretrain(pretrain) => {
                if let Some(file) = pretrain.tokenizer.file()
                    && let Err((expected, found, advice)) = check_tokenizer(&file)
                {
                    faults.push(
                        self.fault("model.tokenizer.source", FaultKind::Files { expected, found, advice }),
                    );
                }
            }
        }
        for (key, text) in self.texts() {
            let TextSource::Files(set) = text else { continue };
            match self.expand(&key, set) {
                Ok(files) => {
                    if let Err((expected, found, advice)) = check_text(&files) {
                        faults.push(self.fault(&key, FaultKind::Files { expected, found, advice }));
                    }
                }
                Err(unmatched) => faults.extend(unmatched),
            }
            if let TextFormat::Chat(ChatSpec { template: Some(TemplateSource::File(path)), .. }) = &set.format
                && !path.is_file()
            {
                let (expected, found, advice) = absent("a Jinja file", path);
                let key = format!("{key}.template");
                faults.push(self.fault(&key, FaultKind::Files { expected, found, advice }));
            }
        }
        Faults::check(faults)
    }

    /// Every text with its key: the sources of `data.train`, `calibration.data` and `data.eval`.
    pub(crate) fn texts(&self) -> Vec<(String, &TextSource)> {
        let mut texts = self.data.sources();
        let calibration = self.calibration.as_ref().and_then(|spec| spec.data.as_ref());
        texts.extend(calibration.map(|text| ("calibration.data".into(), text)));
        texts.push(("data.eval".into(), &self.data.eval));
        texts
    }

    /// The files of one of the recipe's texts, as [`FileSet::expand`] lists them; `key` is `data.train`, an element of it,
    /// `calibration.data` or `data.eval`.
    ///
    /// # Errors
    ///
    /// A fault for each pattern that matches no file.
    pub fn expand(&self, key: &str, set: &FileSet) -> Result<Vec<PathBuf>, Faults> {
        set.expand().map_err(|unmatched| {
            let fault = |(i, expected, found, advice)| {
                self.fault(&self.file_key(key, i), FaultKind::Files { expected, found, advice })
            };
            Faults::sorted(unmatched.into_iter().map(fault).collect())
        })
    }

    /// The key of a file pattern, as it was written: alone, as a single string, or in a list.
    fn file_key(&self, text: &str, index: usize) -> String {
        let files = format!("{text}.files");
        let element = format!("{files}.{index}");
        [element, files].into_iter().find(|key| self.places.given(key)).unwrap_or_else(|| text.to_string())
    }
}

fn check_source(source: &ModelSource) -> Result<(), Complaint> {
    match source {
        ModelSource::Builtin(_) => Ok(()),
        ModelSource::Hub { id, .. } if cfg!(not(feature = "hub")) => {
            let advice = "build with the feature hub, or give a folder".to_string();
            Err((
                "a folder or a .gguf file".to_string(),
                format!("the hub id {id}, in a build without hub"),
                advice,
            ))
        }
        ModelSource::Hub { .. } => Ok(()),
        ModelSource::Gguf(path) if path.is_file() => Ok(()),
        ModelSource::Gguf(path) => Err(absent("a .gguf file", path)),
        ModelSource::Folder(path) if !path.is_dir() => Err(absent("the folder of a model", path)),
        ModelSource::Folder(path) if !path.join("config.json").is_file() => {
            let found = format!("none in {}", Plain(&path.to_string_lossy()));
            Err(("a folder with config.json".to_string(), found, lost(&path.join("config.json"))))
        }
        ModelSource::Folder(_) => Ok(()),
    }
}

fn check_tokenizer(file: &Path) -> Result<(), Complaint> {
    if file.is_file() { Ok(()) } else { Err(absent("a tokenizer.json", file)) }
}

fn absent(expected: &str, path: &Path) -> Complaint {
    let shown = Plain(&path.to_string_lossy()).to_string();
    match fs::metadata(path) {
        Ok(data) if data.is_dir() => {
            (expected.to_string(), format!("the folder {shown}"), "name the file".to_string())
        }
        Ok(_) => (expected.to_string(), format!("the file {shown}"), "give another path".to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            (expected.to_string(), format!("a file on the way to {shown}"), "give another path".to_string())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (expected.to_string(), format!("nothing at {shown}"), lost(path))
        }
        Err(error) => {
            (expected.to_string(), format!("{shown} ({error})"), "change its permissions".to_string())
        }
    }
}

/// A text is not empty if any file holds anything but white space.
fn check_text(files: &[PathBuf]) -> Result<(), Complaint> {
    for file in files {
        let shown = Plain(&file.to_string_lossy()).to_string();
        // A pipe or a device would block, or never end.
        if !file.is_file() {
            let found = format!("{shown}, which is none");
            return Err(("a regular file".to_string(), found, "leave it out of the pattern".to_string()));
        }
        match holds_text(file) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                return Err((
                    "a file that can be read".to_string(),
                    format!("{shown} ({error})"),
                    "change its permissions".to_string(),
                ));
            }
        }
    }
    let found = match files {
        [only] => format!("white space or nothing in {}", Plain(&only.to_string_lossy())),
        _ => format!("white space or nothing in all {}", files.len()),
    };
    Err(("files with text".to_string(), found, "name files that hold some".to_string()))
}

fn holds_text(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut buffer = [0; 8192];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(false),
            count if buffer[..count].iter().any(|byte| !byte.is_ascii_whitespace()) => return Ok(true),
            _ => {}
        }
    }
}
