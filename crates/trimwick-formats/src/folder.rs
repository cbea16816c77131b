//! A folder of safetensors files, as the model hubs lay them out.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Location, Result, quote};
use crate::json::Reader;
use crate::safetensors::{SafetensorsFile, TensorInfo, broken_name_rule};
use crate::source::ByteSource;

const SINGLE: &str = "model.safetensors";
/// The file that names the shards of a model.
pub const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read.
const MAX_INDEX: u64 = 32 << 20;
/// Tensors that an index may list; the largest mixture of experts has some 140 thousand.
const MAX_TENSORS: usize = 1 << 18;
/// Files that an index may name; each stays open.
const MAX_SHARDS: usize = 4096;

/// The weights of a model: one safetensors file, or the shards that an index names. Every tensor is in exactly one file.
#[derive(Debug)]
pub struct ModelFolder {
    path: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Which file holds a tensor.
    place: BTreeMap<String, usize>,
}

impl ModelFolder {
    /// Opens `model.safetensors`, else the shards of `model.safetensors.index.json`, else the only `*.safetensors` of
    /// a folder. The path of one `.safetensors` file or of an index opens that. Only headers are read.
    ///
    /// A shard's name in an index must be one plain file name: an index cannot lead out of its folder. The files
    /// themselves may be symbolic links, as they are in the cache of the hub.
    ///
    /// # Errors
    /// [`Error::NoModel`] with what is there instead; [`Error::Refused`] for folders of pickles or GGUF;
    /// [`Error::Missing`] for a shard that is not there; [`Error::Malformed`], [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Self::open_folder(path),
            Ok(_) if path.to_string_lossy().ends_with(".index.json") => Self::open_index(path),
            Ok(_) => Self::from_files(path, vec![SafetensorsFile::open(path)?]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(nothing_at(path)),
            Err(error) => Err(Error::io(path, "open", error)),
        }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let names = names_in(path)?;
        let ending = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).collect::<Vec<_>>();
        let has = |name: &str| names.iter().any(|n| n == name);
        if has(SINGLE) {
            return Self::from_files(path, vec![SafetensorsFile::open(path.join(SINGLE))?]);
        }
        if has(INDEX) {
            return Self::open_index(&path.join(INDEX));
        }
        match ending(".safetensors")[..] {
            [only] => return Self::from_files(path, vec![SafetensorsFile::open(path.join(only))?]),
            [] => {}
            [..] => {
                return Err(Error::NoModel {
                    path: path.to_owned(),
                    expected: format!("{SINGLE}, {INDEX}, or one file named *.safetensors"),
                    found: format!("several and no index: {}", listing(&ending(".safetensors"))),
                });
            }
        }
        if let [first, ..] = ending(".gguf")[..] {
            let instead = format!("give the path of the file itself, such as {}", quote(first));
            return Err(Error::refused(path, "a folder of GGUF files and not of safetensors", instead));
        }
        let pickles: Vec<_> = [".bin", ".pt", ".pth", ".ckpt", ".pkl"].into_iter().flat_map(ending).collect();
        if !pickles.is_empty() {
            let what = format!(
                "a folder of PyTorch pickles ({}), which can run code while they are loaded",
                listing(&pickles)
            );
            let instead = "load the model where you trust it and save it again with save_pretrained(..., \
                           safe_serialization=True), or take the hub's safetensors revision";
            return Err(Error::refused(path, what, instead));
        }
        Err(Error::NoModel {
            path: path.to_owned(),
            expected: format!("{SINGLE} or {INDEX}"),
            found: listing(&names.iter().collect::<Vec<_>>()),
        })
    }

    fn open_index(path: &Path) -> Result<Self> {
        let folder = crate::atomic::folder_of(path);
        let index = Index::read(path)?;
        let mut files = Vec::new();
        for shard in &index.shards {
            files.push(SafetensorsFile::open(folder.join(shard)).map_err(|error| match error {
                Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    Error::missing(folder, "shard", shard)
                }
                error => error,
            })?);
        }
        for (name, &shard) in &index.place {
            if !files[shard].tensors().contains_key(name) {
                return Err(Error::malformed(
                    path,
                    Location::Json(format!("weight_map[{}]", quote(name))),
                    "shard",
                    "the file that holds the tensor",
                    format!("{}, which does not", quote(&index.shards[shard])),
                ));
            }
        }
        Self::from_files(folder, files)
    }

    /// All tensors of all files: also those an index forgot, which is what transformers loads.
    fn from_files(path: &Path, files: Vec<SafetensorsFile>) -> Result<Self> {
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors().keys() {
                if let Some(other) = place.insert(name.clone(), i) {
                    let name_of =
                        |i: usize| files[i].path().file_name().unwrap_or_default().to_string_lossy();
                    return Err(Error::malformed(
                        path,
                        Location::Tensor(name.clone()),
                        "shard",
                        "one file that holds the tensor",
                        format!("two, {} and {}", quote(&name_of(other)), quote(&name_of(i))),
                    ));
                }
            }
        }
        Ok(Self { path: path.to_owned(), files, place })
    }

    /// The folder, or the file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.place.len()
    }

    /// Whether there are no tensors at all.
    pub fn is_empty(&self) -> bool {
        self.place.is_empty()
    }

    /// One tensor's description, or `None` when there is no tensor of that name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.place.get(name)?].tensors().get(name)
    }

    /// A tensor as 32-bit floats; see [`SafetensorsFile::read_f32`].
    ///
    /// # Errors
    /// [`Error::Missing`], and as there.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.file_of(name)?.read_f32(name)
    }

    /// A tensor's bytes as they are in its file; see [`SafetensorsFile::read_raw`].
    ///
    /// # Errors
    /// [`Error::Missing`], and as there.
    pub fn read_raw(&self, name: &str) -> Result<Vec<u8>> {
        self.file_of(name)?.read_raw(name)
    }

    /// Sum of all tensors' bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(SafetensorsFile::total_bytes).sum()
    }

    fn file_of(&self, name: &str) -> Result<&SafetensorsFile> {
        let place = self.place.get(name).ok_or_else(|| Error::missing(&self.path, "tensor", name))?;
        Ok(&self.files[*place])
    }
}

/// The rule for a file name from a manifest or index that `name` breaks, if any: it must stay in its folder on every
/// platform, and print as it is.
pub(crate) fn broken_file_name_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() || name == "." || name == ".." {
        Some("a file name")
    } else if name.contains(['/', '\\', ':']) {
        Some("a file name without '/', '\\' or ':', relative to the folder")
    } else if name.chars().any(char::is_control) {
        Some("a file name without control characters")
    } else if name.len() > 255 {
        Some("a file name of at most 255 bytes")
    } else {
        None
    }
}

/// `model.safetensors.index.json`: `{"metadata": …, "weight_map": {tensor: shard, …}}`.
struct Index {
    shards: Vec<String>,
    /// Tensor → position in `shards`.
    place: BTreeMap<String, usize>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let source = ByteSource::open(path)?;
        if source.len() > MAX_INDEX {
            let (expected, found) = (format!("at most {MAX_INDEX} bytes"), source.len().to_string());
            return Err(Error::malformed(path, Location::Offset(0), "file length", expected, found));
        }
        let text = source.read_vec(0, source.len())?;
        let mut reader = Reader::new(path, "index", &text, 0)?;
        let mut index = None;
        reader.begin_object()?;
        while let Some(key) = reader.next_key()? {
            match &*key {
                "weight_map" if index.is_some() => {
                    return Err(reader.meaning("weight_map", "one entry", "a second"));
                }
                "weight_map" => index = Some(Self::weight_map(&mut reader)?),
                _ => reader.skip()?,
            }
        }
        reader.end()?;
        match index {
            Some(index) if !index.place.is_empty() => Ok(index),
            Some(_) => Err(reader.meaning("weight_map", "at least one tensor", "none")),
            None => Err(reader.meaning("weight_map", "an object", "none")),
        }
    }

    fn weight_map(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut shards, mut place) = (Vec::new(), Vec::new());
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        reader.begin_object()?;
        while let Some(tensor) = reader.next_key()? {
            if let Some(rule) = broken_name_rule(&tensor) {
                return Err(reader.meaning("tensor", rule, quote(&tensor)));
            }
            let shard = reader.string("a shard's file name")?;
            if let Some(rule) = broken_file_name_rule(&shard) {
                return Err(reader.meaning("shard", rule, quote(&shard)));
            }
            if place.len() == MAX_TENSORS {
                return Err(reader.meaning("weight_map", format!("at most {MAX_TENSORS} tensors"), "more"));
            }
            let number = match numbers.get(&*shard) {
                Some(&number) => number,
                None if shards.len() == MAX_SHARDS => {
                    return Err(reader.meaning("weight_map", format!("at most {MAX_SHARDS} shards"), "more"));
                }
                None => {
                    shards.push(shard.clone().into_owned());
                    numbers.insert(shard.into_owned(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            place.push((tensor.into_owned(), number));
        }
        // Sorted once: a tree that grows name by name takes twice the time, and time is what a bad index costs.
        place.sort_unstable();
        if let Some([(twice, _), _]) = place.array_windows().find(|[(a, _), (b, _)]| a == b) {
            return Err(reader.meaning(&format!("weight_map[{}]", quote(twice)), "one entry", "a second"));
        }
        Ok(Self { shards, place: place.into_iter().collect() })
    }
}

fn names_in(path: &Path) -> Result<Vec<String>> {
    let fault = |source| Error::io(path, "list the folder", source);
    let mut names = std::fs::read_dir(path)
        .map_err(fault)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(fault)?;
    names.sort();
    Ok(names)
}

/// The first few names, and how many there are.
fn listing(names: &[&String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| quote(name)).collect();
    match names.len() {
        0 => "an empty folder".into(),
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

/// The error for a path that does not exist, with what the nearest folder above it holds.
fn nothing_at(path: &Path) -> Error {
    let mut folder = crate::atomic::folder_of(path);
    while !folder.is_dir() && folder != crate::atomic::folder_of(folder) {
        folder = crate::atomic::folder_of(folder);
    }
    let names = names_in(folder).unwrap_or_default();
    let listing = listing(&names.iter().collect::<Vec<_>>());
    Error::NoModel {
        path: path.to_owned(),
        expected: "a folder of safetensors or a .safetensors file".into(),
        found: format!("nothing of that name; {} holds {listing}", quote(&folder.to_string_lossy())),
    }
}
