//! Files that are written: what goes in comes out, here and in ggml's Python package, and nothing is half there.

use std::process::Command;

use trimwick_formats::blocks::{BlockScales, GgmlType, encode, encode_floats};
use trimwick_formats::gguf::{Array, GgufFile, NewTensor, Value, Writer};

fn keys() -> Vec<(String, Value)> {
    let strings = |list: &[&str]| Value::Array(Array::String(list.iter().map(|s| s.to_string()).collect()));
    [
        ("general.architecture", Value::String("llama".into())),
        ("u8", Value::U8(255)),
        ("i8", Value::I8(-128)),
        ("u16", Value::U16(65535)),
        ("i16", Value::I16(-32768)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("f32", Value::F32(1.5)),
        ("true", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("string", Value::String("Grüße, 世界".into())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(-0.1)),
        ("strings", strings(&["", "Ġthe", "\n"])),
        ("none", strings(&[])),
        ("i32s", Value::Array(Array::I32(vec![-1, 0, i32::MAX]))),
        ("f32s", Value::Array(Array::F32(vec![0.25, -1000.0]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("u8s", Value::Array(Array::U8(vec![0, 0x7f, 0xff]))),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect()
}

/// A tensor of each type that is written: name, type, shape, bytes.
fn tensors() -> Vec<(String, GgmlType, Vec<usize>, Vec<u8>)> {
    let floats: Vec<f32> = (0..6).map(|i| i as f32 * 0.3 - 1.).collect();
    let codes: Vec<u8> = (0..128).map(|i| (i * 5 % 16) as u8).map(|c| if c == 8 { 1 } else { c }).collect();
    let halves: Vec<f32> = (1..=4).map(|i| i as f32 / 64.).collect();
    let mins: Vec<f32> = (1..=4).map(|i| i as f32 / -8.).collect();
    let e4m3: Vec<u8> = (8..16).collect();
    let mut out = Vec::new();
    for dtype in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
        out.push((format!("{dtype}.weight"), dtype, vec![2, 3], encode_floats(dtype, &floats).unwrap()));
    }
    for (dtype, scales) in [
        (GgmlType::Q8_0, BlockScales::Half(&halves)),
        (GgmlType::Q4_0, BlockScales::Half(&halves)),
        (GgmlType::Q4_1, BlockScales::HalfMin(&halves, &mins)),
        (GgmlType::MXFP4, BlockScales::E8M0(&[1, 120, 127, 130])),
        (GgmlType::NVFP4, BlockScales::E4M3(&e4m3)),
    ] {
        out.push((format!("{dtype}.weight"), dtype, vec![2, 64], encode(dtype, &codes, scales).unwrap()));
    }
    out
}

fn write(path: &std::path::Path) {
    let tensors = tensors();
    let new = tensors.iter().map(|(name, dtype, shape, bytes)| NewTensor::bytes(name, *dtype, shape, bytes));
    let writer = Writer::new(&keys(), new).unwrap();
    writer.save(path).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().len(), writer.file_len());
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    write(&path);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!((file.version(), file.alignment()), (3, 32));
    assert_eq!(file.metadata(), &keys().into_iter().collect());
    assert_eq!(file.tensors().len(), tensors().len());
    for (name, dtype, shape, bytes) in tensors() {
        let info = file.tensor(&name).unwrap();
        assert_eq!((info.dtype, &info.shape, info.offset % 32), (dtype, &shape, 0), "{name}");
        assert_eq!(file.read_raw(&name).unwrap(), bytes, "{name}");
    }
    let first = std::fs::read(&path).unwrap();
    write(&path);
    assert_eq!(std::fs::read(&path).unwrap(), first, "the same bytes each time");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let tensor = |name: &str, dtype, shape: &[usize]| NewTensor::stream(name, dtype, shape, |_| Ok(()));
    let key = |key: &str, value| vec![(key.to_string(), value)];
    let twice = [key("a", Value::U8(1)), key("a", Value::U8(2))].concat();
    let long = "x".repeat(64);
    let cases = [
        (twice, vec![], "each key once"),
        (key("", Value::U64(1)), vec![], "1 to 65535 bytes"),
        (key("general.alignment", Value::U32(64)), vec![], "general.alignment = 32"),
        (key("general.alignment", Value::U32(33)), vec![], "a power of two"),
        (vec![], vec![tensor("", GgmlType::F32, &[1])], "1 to 63 bytes"),
        (vec![], vec![tensor(&long, GgmlType::F32, &[1])], "1 to 63 bytes"),
        (vec![], vec![tensor("a", GgmlType::F32, &[1]), tensor("a", GgmlType::F32, &[1])], "found a second"),
        (vec![], vec![tensor("a", GgmlType::F32, &[])], "1 to 4 dimensions"),
        (vec![], vec![tensor("a", GgmlType::F32, &[1, 0])], "1 to 4 dimensions"),
        (vec![], vec![tensor("a", GgmlType::F32, &[1; 5])], "1 to 4 dimensions"),
        (vec![], vec![tensor("a", GgmlType::Q8_0, &[2, 48])], "rows of whole blocks of 32"),
        (vec![], vec![tensor("a", GgmlType::NVFP4, &[2, 96])], "rows of whole blocks of 64"),
        (vec![], vec![tensor("a", GgmlType::F32, &[usize::MAX, 2])], "fewer than 2^62 bytes"),
    ];
    for (keys, tensors, what) in cases {
        let message = Writer::new(&keys, tensors).map(drop).unwrap_err().to_string();
        assert!(message.contains(what), "{message} lacks {what}");
    }
}

#[test]
fn a_stream_of_another_length_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    for given in [3, 5] {
        let tensor = NewTensor::stream("a", GgmlType::F32, &[1], move |out| out.write_all(&vec![0; given]));
        let message = Writer::new(&[], [tensor]).unwrap().save(&path).unwrap_err().to_string();
        assert!(message.contains("tensor \"a\": "), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{given} bytes");
    }
}

/// The Python package decodes every block to the bits that this crate does. `TRIMWICK_PYTHON` names the interpreter.
#[test]
fn the_python_package_reads_the_same_values() {
    let python = std::env::var("TRIMWICK_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import gguf.quants; gguf.quants.NVFP4"]).output();
    if !has.is_ok_and(|out| out.status.success()) {
        println!("SKIP: {python} has no gguf >= 0.19 (pip install gguf==0.19.0, or set TRIMWICK_PYTHON)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    write(&path);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/read_gguf.py");
    let out = Command::new(&python).arg(script).arg(&path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let file = GgufFile::open(&path).unwrap();
    let ours: String = file
        .tensors()
        .keys()
        .map(|name| {
            let values = file.read_f32(name).unwrap();
            let bits: Vec<String> = values.iter().map(|v| format!("{:08x}", v.to_bits())).collect();
            format!("{name} {}\n", bits.join(" "))
        })
        .collect();
    assert_eq!(String::from_utf8_lossy(&out.stdout), ours);
}
