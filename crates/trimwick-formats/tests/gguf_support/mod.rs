//! A small GGUF writer that remembers where it put what, so that tests can damage a file at a known place.
#![allow(dead_code, reason = "each test file uses its part")]

use trimwick_formats::blocks::GgmlType;

/// What stands at a [`Mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Magic,
    Version,
    Count,
    /// Of a string or an array.
    Length,
    Text,
    /// Of a value or an array.
    ValueType,
    Scalar,
    Rank,
    Dim,
    TensorType,
    Offset,
    Data,
}

/// A field of the file.
#[derive(Debug, Clone)]
pub struct Mark {
    /// `tensors`, `kv[0].key.len`, `kv[0].value[3]`, `t[1].dim[0]` …
    pub name: String,
    pub kind: Kind,
    pub at: usize,
    pub width: usize,
}

/// A value as it stands in the file.
#[derive(Debug, Clone)]
pub enum Val {
    /// Type and little-endian bytes.
    Scalar(u32, Vec<u8>),
    Str(Vec<u8>),
    /// Element type, elements.
    Array(u32, Vec<Val>),
}

impl Val {
    pub fn u8(v: u8) -> Self {
        Self::Scalar(0, vec![v])
    }

    pub fn u32(v: u32) -> Self {
        Self::Scalar(4, v.to_le_bytes().into())
    }

    pub fn str(v: &str) -> Self {
        Self::Str(v.as_bytes().into())
    }

    pub fn code(&self) -> u32 {
        match self {
            Self::Scalar(code, _) => *code,
            Self::Str(_) => 8,
            Self::Array(..) => 9,
        }
    }
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    /// Fastest first, as in the file.
    pub dims: Vec<u64>,
    pub code: u32,
    /// Where the data goes; behind that of the tensor before if not given.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor with the data its shape asks for.
    pub fn of(name: &str, dtype: GgmlType, dims: &[u64]) -> Self {
        let elements = dims.iter().product::<u64>() as usize;
        let bytes = elements / dtype.block_len() * dtype.block_bytes();
        let data = (0..bytes).map(|i| (i * 37 + name.len()) as u8).collect();
        Self { name: name.into(), dims: dims.into(), code: dtype.code(), offset: None, data }
    }
}

/// A file to write.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub version: u32,
    pub alignment: usize,
    pub kv: Vec<(Vec<u8>, Val)>,
    pub tensors: Vec<Tensor>,
}

/// A file, and where its fields are.
#[derive(Debug, Clone)]
pub struct Built {
    pub bytes: Vec<u8>,
    pub marks: Vec<Mark>,
    /// Where the last tensor's bytes end: what follows is padding.
    pub data_end: usize,
}

impl Default for Gguf {
    fn default() -> Self {
        Self { version: 3, alignment: 32, kv: Vec::new(), tensors: Vec::new() }
    }
}

impl Gguf {
    /// A small file of which everything is right.
    pub fn sample() -> Self {
        Self::default()
            .kv("general.architecture", Val::str("llama"))
            .kv("general.alignment", Val::u32(32))
            .kv("flag", Val::Scalar(7, vec![1]))
            .kv("tokens", Val::Array(8, vec![Val::str("a"), Val::str(""), Val::str("Ġb")]))
            .kv("ids", Val::Array(5, (0..9u8).map(|i| Val::Scalar(5, vec![i, 0, 0, 0])).collect()))
            .tensor(Tensor::of("norm", GgmlType::F32, &[3, 2]))
            .tensor(Tensor::of("q", GgmlType::Q4_0, &[32, 2]))
            .tensor(Tensor::of("k", GgmlType::Q4_K, &[256]))
    }

    pub fn kv(mut self, key: impl Into<Vec<u8>>, value: Val) -> Self {
        self.kv.push((key.into(), value));
        self
    }

    pub fn tensor(mut self, tensor: Tensor) -> Self {
        self.tensors.push(tensor);
        self
    }

    pub fn build(&self) -> Built {
        let mut out = Built { bytes: Vec::new(), marks: Vec::new(), data_end: 0 };
        out.put("magic", Kind::Magic, b"GGUF");
        out.put("version", Kind::Version, &self.version.to_le_bytes());
        out.put("tensors", Kind::Count, &(self.tensors.len() as u64).to_le_bytes());
        out.put("keys", Kind::Count, &(self.kv.len() as u64).to_le_bytes());
        for (i, (key, value)) in self.kv.iter().enumerate() {
            out.put_str(&format!("kv[{i}].key"), key);
            out.put(&format!("kv[{i}].type"), Kind::ValueType, &value.code().to_le_bytes());
            out.put_value(&format!("kv[{i}].value"), value);
        }
        let mut next = 0;
        let mut placed = Vec::new();
        for (i, tensor) in self.tensors.iter().enumerate() {
            let offset = tensor.offset.unwrap_or(next as u64);
            next = (offset as usize).wrapping_add(tensor.data.len()).next_multiple_of(self.alignment);
            placed.push(offset as usize);
            out.put_str(&format!("t[{i}].name"), &tensor.name);
            out.put(&format!("t[{i}].rank"), Kind::Rank, &(tensor.dims.len() as u32).to_le_bytes());
            for (d, dim) in tensor.dims.iter().enumerate() {
                out.put(&format!("t[{i}].dim[{d}]"), Kind::Dim, &dim.to_le_bytes());
            }
            out.put(&format!("t[{i}].type"), Kind::TensorType, &tensor.code.to_le_bytes());
            out.put(&format!("t[{i}].offset"), Kind::Offset, &offset.to_le_bytes());
        }
        let start = out.bytes.len().next_multiple_of(self.alignment);
        out.bytes.resize(start, 0);
        for (i, (tensor, offset)) in self.tensors.iter().zip(placed).enumerate() {
            let (from, to) = (start + offset, start + offset + tensor.data.len());
            if out.bytes.len() < to {
                out.bytes.resize(to, 0);
            }
            out.bytes[from..to].copy_from_slice(&tensor.data);
            let name = format!("t[{i}].data");
            out.marks.push(Mark { name, kind: Kind::Data, at: from, width: tensor.data.len() });
        }
        out.data_end = out.bytes.len();
        out.bytes.resize(out.data_end.next_multiple_of(self.alignment), 0);
        out
    }
}

impl Built {
    /// Where a field stands.
    pub fn at(&self, name: &str) -> u64 {
        self.mark(name).at as u64
    }

    /// The file with one field replaced by little-endian bytes of its own width.
    pub fn with(mut self, name: &str, value: u64) -> Self {
        let Mark { at, width, .. } = *self.mark(name);
        self.bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        self
    }

    fn mark(&self, name: &str) -> &Mark {
        self.marks.iter().find(|mark| mark.name == name).unwrap_or_else(|| panic!("no field {name}"))
    }

    fn put(&mut self, name: &str, kind: Kind, bytes: &[u8]) {
        self.marks.push(Mark { name: name.into(), kind, at: self.bytes.len(), width: bytes.len() });
        self.bytes.extend(bytes);
    }

    fn put_str(&mut self, name: &str, text: &[u8]) {
        self.put(&format!("{name}.len"), Kind::Length, &(text.len() as u64).to_le_bytes());
        self.put(name, Kind::Text, text);
    }

    fn put_value(&mut self, name: &str, value: &Val) {
        match value {
            Val::Scalar(_, bytes) => self.put(name, Kind::Scalar, bytes),
            Val::Str(text) => self.put_str(name, text),
            Val::Array(code, values) => {
                self.put(&format!("{name}.type"), Kind::ValueType, &code.to_le_bytes());
                self.put(&format!("{name}.len"), Kind::Length, &(values.len() as u64).to_le_bytes());
                for (i, value) in values.iter().enumerate() {
                    self.put_value(&format!("{name}[{i}]"), value);
                }
            }
        }
    }
}
