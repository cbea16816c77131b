//! Where a store takes its values from.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use trimwick_formats::folder::ModelFolder;

/// A set of named tensors that is read when a model asks for them.
pub trait TensorSource: Send + Sync {
    /// What to call the source in an error: a path, a hub id.
    fn origin(&self) -> String;

    /// Every name, sorted.
    fn names(&self) -> Vec<String>;

    /// Shape of a tensor, or `None` when there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Reads one tensor, contiguous, in `dtype`, on `device`.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor>;
}

/// The tensors of a safetensors file or of a folder of them.
pub struct FolderSource {
    path: PathBuf,
    folder: ModelFolder,
}

impl FolderSource {
    /// Opens a `.safetensors` file, or a folder that holds one or an index of shards.
    ///
    /// # Errors
    /// Malformed files, missing shards; see [`trimwick_formats::Error`].
    pub fn open(path: &Path) -> Result<Self, trimwick_formats::Error> {
        Ok(Self { path: path.into(), folder: ModelFolder::open(path)? })
    }
}

impl TensorSource for FolderSource {
    fn origin(&self) -> String {
        self.path.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.folder.names().map(str::to_string).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.folder.info(name).map(|i| i.shape.clone())
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let values = self.folder.read_f32(name).map_err(candle_core::Error::wrap)?;
        let shape = self.shape(name).unwrap_or_default();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }
}
