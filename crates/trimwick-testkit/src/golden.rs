//! Golden tensors, made by a script that lies beside them.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

/// The tensors of a small safetensors file.
pub struct Golden {
    bytes: Vec<u8>,
    path: String,
}

impl Golden {
    /// Reads the whole file.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { bytes, path: path.display().to_string() }
    }

    /// Names, sorted.
    ///
    /// # Panics
    /// When the file is malformed.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.parse().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    /// A tensor in its stored dtype: F32 and F64 as they are, I64 and I32 ids as U32, bool and U8 as U8.
    ///
    /// # Panics
    /// When it is missing or of another dtype.
    pub fn tensor(&self, name: &str) -> Tensor {
        let file = self.parse();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path));
        let (data, shape) = (view.data(), view.shape());
        let built = match view.dtype() {
            Dtype::F32 => Tensor::from_raw_buffer(data, DType::F32, shape, &Device::Cpu),
            Dtype::F64 => Tensor::from_raw_buffer(data, DType::F64, shape, &Device::Cpu),
            Dtype::U8 | Dtype::BOOL => Tensor::from_raw_buffer(data, DType::U8, shape, &Device::Cpu),
            Dtype::I64 => Tensor::from_raw_buffer(data, DType::I64, shape, &Device::Cpu)
                .and_then(|t| t.to_dtype(DType::U32)),
            other => panic!("{}: {name}: dtype {other:?} is not one of golden tensors", self.path),
        };
        built.unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path))
    }

    fn parse(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path))
    }
}
