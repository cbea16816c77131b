//! Files that are right, though no common writer makes them, are read.

mod gguf_support;

use gguf_support::{Gguf, Tensor, Val};
use trimwick_formats::blocks::GgmlType;
use trimwick_formats::gguf::GgufFile;
use trimwick_formats::{ByteSource, Error};

fn open(bytes: &[u8], name: &str) -> Result<GgufFile, Error> {
    GgufFile::from_source(ByteSource::memory(bytes.to_vec(), name))
}

#[test]
fn what_is_unusual_and_right_is_read() {
    let f32s = |name, dims: &[u64]| Tensor::of(name, GgmlType::F32, dims);
    let at = |offset, tensor| Tensor { offset: Some(offset), ..tensor };
    let nested = (0..64).fold(Val::u8(0), |inner, _| Val::Array(inner.code(), vec![inner]));
    let aligned = |n: u32| {
        Gguf { alignment: n as usize, ..Gguf::default() }
            .kv("general.alignment", Val::u32(n))
            .tensor(f32s("a", &[1]))
            .tensor(f32s("b", &[7]))
    };
    let mut trailing = Gguf::sample().build();
    trailing.bytes.extend([0xff; 100]);
    let files = [
        ("nothing at all", Gguf::default().build()),
        ("version 2", Gguf { version: 2, ..Gguf::sample() }.build()),
        ("nesting 64", Gguf::default().kv("k", nested).build()),
        (
            "empty arrays",
            Gguf::default().kv("k", Val::Array(8, vec![])).kv("l", Val::Array(9, vec![])).build(),
        ),
        ("four dimensions", Gguf::default().tensor(f32s("w", &[2, 3, 4, 5])).build()),
        (
            "data in another order",
            Gguf::default().tensor(at(32, f32s("a", &[8]))).tensor(at(0, f32s("b", &[8]))).build(),
        ),
        ("gaps", Gguf::default().tensor(at(320, f32s("a", &[8]))).tensor(at(3200, f32s("b", &[8]))).build()),
        ("alignment 1", aligned(1).build()),
        ("alignment 4096", aligned(4096).build()),
        ("trailing bytes", trailing),
    ];
    for (name, file) in files {
        let open = open(&file.bytes, name).unwrap();
        for (i, tensor) in open.tensors().values().enumerate() {
            let start = tensor.offset as usize;
            let values = open.read_f32(&tensor.name).unwrap();
            assert_eq!(values.len(), tensor.shape.iter().product::<usize>(), "{name} {i}");
            let bytes = &file.bytes[start..start + tensor.bytes as usize];
            assert_eq!(bytes[0], tensor.name.len() as u8, "{name} {i}: not the data that was written");
        }
    }
    let four = Gguf::default().tensor(f32s("w", &[2, 3, 4, 5])).build();
    assert_eq!(open(&four.bytes, "four").unwrap().tensors()["w"].shape, [5, 4, 3, 2]);
}

#[test]
fn a_tensor_of_several_slabs_is_the_same_from_disk_and_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    for dtype in [GgmlType::BF16, GgmlType::Q4_0, GgmlType::Q6_K] {
        let file = Gguf::default().tensor(Tensor::of("w", dtype, &[1 << 10, (1 << 11) + 1])).build();
        std::fs::write(&path, &file.bytes).unwrap();
        let disk = GgufFile::open(&path).unwrap().read_f32("w").unwrap();
        let memory = open(&file.bytes, "large").unwrap().read_f32("w").unwrap();
        assert_eq!(disk.len(), memory.len());
        assert!(disk.iter().zip(&memory).all(|(a, b)| a.to_bits() == b.to_bits()), "{dtype}");
    }
}
