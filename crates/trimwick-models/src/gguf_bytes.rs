//! For tests: GGUF files of a few keys and f32 tensors.

use std::borrow::Cow;

use trimwick_formats::ByteSource;
use trimwick_formats::gguf::GgufFile;

/// A file under construction.
#[derive(Default)]
pub(crate) struct GgufBytes {
    keys: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl GgufBytes {
    /// Sets a key, replacing one that is there.
    fn put(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self = self.without(key);
        self.keys.push((key.into(), [&kind.to_le_bytes()[..], &value].concat()));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(k, _)| k != key);
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.put(key, 4, value.to_le_bytes().to_vec())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.put(key, 6, value.to_le_bytes().to_vec())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.put(key, 7, vec![u8::from(value)])
    }

    pub fn str(self, key: &str, value: &str) -> Self {
        self.put(key, 8, string(value))
    }

    fn array(self, key: &str, kind: u32, count: usize, values: Vec<u8>) -> Self {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.put(key, 9, [head, values].concat())
    }

    pub fn u32s(self, key: &str, values: &[u32]) -> Self {
        self.array(key, 4, values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.array(key, 5, values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.array(key, 6, values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn strings(self, key: &str, values: &[&str]) -> Self {
        self.array(key, 8, values.len(), values.iter().flat_map(|v| string(v)).collect())
    }

    /// Adds an f32 tensor; the shape is row-major, slowest first.
    pub fn tensor(mut self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        self.tensors.retain(|(n, ..)| n != name);
        self.tensors.push((name.into(), shape.into(), values.into()));
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|(n, ..)| n != name);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let align = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(32), 0);
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(string(key));
            out.extend(value);
        }
        let mut data = Vec::new();
        for (name, shape, values) in &self.tensors {
            out.extend(string(name));
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
            out.extend(0_u32.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            values.iter().for_each(|v| data.extend(v.to_le_bytes()));
            align(&mut data);
        }
        align(&mut out);
        out.extend(data);
        out
    }

    pub fn open(&self) -> GgufFile {
        let source = ByteSource::memory(Cow::Owned(self.bytes()), "test.gguf");
        GgufFile::from_source(source).expect("a well-formed file")
    }
}
