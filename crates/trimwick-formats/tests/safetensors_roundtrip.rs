//! What is written comes back, the same bytes every time, also in the `safetensors` crate.

use std::collections::BTreeMap;
use std::io;

use half::{bf16, f16};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, Writer, write};
use trimwick_formats::{ByteSource, Error};

fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn encode<'a>(tensors: impl IntoIterator<Item = NewTensor<'a>>, pairs: &[(&str, &str)]) -> Vec<u8> {
    let writer = Writer::new(tensors, &metadata(pairs)).unwrap();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, writer.file_len());
    bytes
}

/// Bytes enough for a tensor of `dtype` and `shape`.
fn fill(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
    (0..dtype.byte_len(shape).unwrap()).map(|i| (i * 37 + dtype.bits() as u64) as u8).collect()
}

#[test]
fn every_dtype_loads_in_the_safetensors_crate() {
    let shapes: [&[usize]; 4] = [&[], &[4], &[2, 0, 3], &[3, 8]];
    let mut kept = BTreeMap::new();
    for dtype in Dtype::ALL {
        for shape in shapes {
            if dtype.byte_len(shape).is_some() {
                kept.insert(format!("é\"\\{dtype}.{shape:?}"), (dtype, shape, fill(dtype, shape)));
            }
        }
    }
    let tensors =
        kept.iter().map(|(name, (dtype, shape, bytes))| NewTensor::bytes(name, *dtype, shape, bytes));
    let bytes = encode(tensors, &[("format", "pt"), ("note", "two\nlines \u{1} \"quoted\" é")]);

    let peer = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(peer.len(), kept.len());
    let (_, peer_header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let peer_metadata = peer_header.metadata().as_ref().unwrap();
    assert_eq!(peer_metadata["note"], "two\nlines \u{1} \"quoted\" é");
    let ours = SafetensorsFile::from_source(ByteSource::memory(bytes.clone(), "memory")).unwrap();
    assert_eq!(ours.metadata().len(), 2);
    assert_eq!(ours.tensors().keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (name, (dtype, shape, bytes)) in &kept {
        let view = peer.tensor(name).unwrap();
        assert_eq!(
            (format!("{:?}", view.dtype()), view.shape(), view.data()),
            (dtype.to_string(), *shape, &bytes[..])
        );
        let info = ours.info(name).unwrap();
        assert_eq!((info.dtype, &info.shape[..], &ours.read_raw(name).unwrap()), (*dtype, *shape, bytes));
        assert_eq!(info.offset % (dtype.bits() as u64 / 8).max(1), 0, "{name} is aligned to its elements");
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_order() {
    let values: Vec<f32> = (0..64).map(|i| i as f32 / 7.0).collect();
    let tensor = |i: usize| {
        let dtype = [Dtype::F32, Dtype::BF16, Dtype::F16][i % 3];
        NewTensor::floats(format!("layer.{i}"), dtype, &[8, 8], &values)
    };
    let forward = encode((0..30).map(tensor), &[("b", "2"), ("a", "1")]);
    let backward = encode((0..30).rev().map(tensor), &[("a", "1"), ("b", "2")]);
    assert_eq!(forward, backward);
    let header = std::str::from_utf8(&forward[8..])
        .unwrap_or_else(|e| std::str::from_utf8(&forward[8..8 + e.valid_up_to()]).unwrap());
    assert!(
        header.starts_with(r#"{"__metadata__":{"a":"1","b":"2"},"layer.0":{"dtype":"F32","shape":[8,8],"#)
    );
}

#[test]
fn the_exact_bytes_of_a_small_file() {
    let bytes = encode(
        [
            NewTensor::bytes("b", Dtype::U8, &[3], &[1, 2, 3]),
            NewTensor::floats("a", Dtype::BF16, &[1], &[1.0]),
            NewTensor::floats("c", Dtype::F32, &[], &[-2.0]),
        ],
        &[],
    );
    let header = concat!(
        r#"{"a":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},"#,
        r#""b":{"dtype":"U8","shape":[3],"data_offsets":[6,9]},"#,
        r#""c":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#,
    );
    let padded = header.len().next_multiple_of(8);
    let mut want = (padded as u64).to_le_bytes().to_vec();
    want.extend(format!("{header:<padded$}").bytes());
    want.extend([0, 0, 0, 0xc0, 0x80, 0x3f, 1, 2, 3]);
    assert_eq!(bytes, want);
}

#[test]
fn no_tensors_make_a_file_too() {
    let bytes = encode([], &[]);
    assert_eq!(bytes, [&8u64.to_le_bytes()[..], b"{}      "].concat());
    assert!(safetensors::SafeTensors::deserialize(&bytes).unwrap().is_empty());
    assert!(SafetensorsFile::from_source(ByteSource::memory(bytes, "m")).unwrap().tensors().is_empty());
}

#[test]
fn numbers_of_every_numeric_dtype_read_as_f32() {
    let floats = [0.0f32, -1.5, 3.25, f32::INFINITY, 65504.0, -0.0];
    let le = |bits: usize| -> Vec<u8> {
        let narrow = |v: f32| match bits {
            64 => f64::from(v).to_le_bytes().to_vec(),
            32 => v.to_le_bytes().to_vec(),
            16 => f16::from_f32(v).to_le_bytes().to_vec(),
            _ => bf16::from_f32(v).to_le_bytes().to_vec(),
        };
        floats.iter().flat_map(|&v| narrow(v)).collect()
    };
    let (f64s, f32s, f16s, bf16s) = (le(64), le(32), le(16), le(0));
    let bytes = encode(
        [
            NewTensor::bytes("f64", Dtype::F64, &[6], &f64s),
            NewTensor::bytes("f32", Dtype::F32, &[6], &f32s),
            NewTensor::bytes("f16", Dtype::F16, &[6], &f16s),
            NewTensor::bytes("bf16", Dtype::BF16, &[6], &bf16s),
            NewTensor::bytes("bool", Dtype::BOOL, &[2], &[0, 1]),
            NewTensor::bytes("u8", Dtype::U8, &[2], &[0, 255]),
            NewTensor::bytes("i8", Dtype::I8, &[2], &[127, 128]),
            NewTensor::bytes("u16", Dtype::U16, &[1], &[255, 255]),
            NewTensor::bytes("i16", Dtype::I16, &[1], &[0, 128]),
            NewTensor::bytes("u32", Dtype::U32, &[1], &[0, 0, 0, 128]),
            NewTensor::bytes("i32", Dtype::I32, &[1], &[0, 0, 0, 128]),
            NewTensor::bytes("u64", Dtype::U64, &[1], &[0, 0, 0, 0, 0, 0, 0, 128]),
            NewTensor::bytes("i64", Dtype::I64, &[1], &[255; 8]),
        ],
        &[],
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    for file in [
        SafetensorsFile::open(&path).unwrap(),
        SafetensorsFile::from_source(ByteSource::memory(bytes, "memory")).unwrap(),
    ] {
        for name in ["f64", "f32", "f16"] {
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&file.read_f32(name).unwrap()), bits(&floats), "{name}");
        }
        assert_eq!(file.read_f32("bf16").unwrap()[..3], [0.0, -1.5, 3.25]);
        for (name, want) in [
            ("bool", vec![0.0, 1.0]),
            ("u8", vec![0.0, 255.0]),
            ("i8", vec![127.0, -128.0]),
            ("u16", vec![65535.0]),
            ("i16", vec![-32768.0]),
            ("u32", vec![2147483648.0]),
            ("i32", vec![-2147483648.0]),
            ("u64", vec![9223372036854775808.0]),
            ("i64", vec![-1.0]),
        ] {
            assert_eq!(file.read_f32(name).unwrap(), want, "{name}");
        }
    }
}

#[test]
fn a_large_tensor_is_converted_piece_by_piece() {
    let values: Vec<f32> = (0..1_500_001).map(|i| (i % 2039) as f32 / 16.0).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.safetensors");
    for dtype in [Dtype::F32, Dtype::F16] {
        write(&path, [NewTensor::floats("x", dtype, &[values.len()], &values)], &BTreeMap::new()).unwrap();
        assert!(SafetensorsFile::open(&path).unwrap().read_f32("x").unwrap() == values, "{dtype}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the file");
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let u8s = |name: &str, shape: &[usize]| NewTensor::bytes(name, Dtype::U8, shape, &[1, 2]);
    let rank = vec![1; 33];
    for (case, tensors, want) in [
        (
            "twice",
            vec![u8s("a", &[2]), u8s("a", &[2])],
            "tensor \"a\": expected one tensor of that name, found a second",
        ),
        (
            "twice in two dtypes",
            vec![u8s("a", &[2]), NewTensor::floats("a", Dtype::F32, &[1], &[1.0])],
            "tensor \"a\": expected one tensor of that name",
        ),
        ("empty name", vec![u8s("", &[2])], "tensor \"\": expected a name that is not empty"),
        (
            "control character",
            vec![u8s("a\n", &[2])],
            "tensor \"a\\n\": expected a name without control characters",
        ),
        (
            "reserved name",
            vec![u8s("__metadata__", &[2])],
            "expected another name, found the key of the file's metadata",
        ),
        ("length", vec![u8s("a", &[3])], "tensor \"a\": expected 3 bytes, which U8 [3] takes, found 2"),
        (
            "overflow",
            vec![u8s("a", &[usize::MAX, 2])],
            "expected a shape of a whole number of bytes below 2^61",
        ),
        ("rank", vec![u8s("a", &rank)], "expected at most 32 dimensions, found 33"),
        (
            "floats as I8",
            vec![NewTensor::floats("a", Dtype::I8, &[1], &[1.0])],
            "expected F32, F16 or BF16 for floats, found I8",
        ),
    ] {
        let error = write(&path, tensors, &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }), "{case}");
        let message = error.to_string();
        assert!(
            message.starts_with("cannot write ") && message.contains(want),
            "{case}\n got: {message}\nwant: {want}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_stream_of_another_length_or_that_fails_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, "old").unwrap();
    for (case, given, want) in [
        ("short", Ok(3), "cannot write: tensor \"s\": 5 of 8 bytes missing"),
        ("long", Ok(9), "cannot write: tensor \"s\": more bytes than its shape takes"),
        ("failing", Err("the source is gone"), "cannot write: the source is gone"),
    ] {
        let stream = NewTensor::stream("s", Dtype::F32, &[2], move |out| match given {
            Ok(n) => (0..n).try_for_each(|_| out.write_all(&[7])),
            Err(message) => Err(io::Error::other(message)),
        });
        let message = write(&path, [stream], &BTreeMap::new()).unwrap_err().to_string();
        assert!(message.ends_with(want), "{case}\n got: {message}\nwant: {want}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old", "{case}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{case}");
    }
}

/// A header of 640 bytes begins with the first bytes of a pickle.
#[test]
fn a_header_length_that_looks_like_a_pickle_is_read() {
    for want in [0x180u64, 0x280, 0x380] {
        let note = "n".repeat(want as usize - r#"{"__metadata__":{"n":""}}"#.len());
        let bytes = encode([], &[("n", &note)]);
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()), want);
        assert!(SafetensorsFile::from_source(ByteSource::memory(bytes, "memory.bin")).is_ok());
    }
}
