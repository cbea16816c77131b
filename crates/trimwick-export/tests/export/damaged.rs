//! Packed files that lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use trimwick_export::{PackedFile, dequantize_file};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};

use crate::support::{Draw, names_in, quantize, workshop};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A packed file of one preset, as what it consists of.
fn parts(dir: &Path, input: &Path, scheme: &str) -> (Tensors, BTreeMap<String, String>) {
    let path = dir.join("whole");
    let how = trimwick_export::QuantizeOptions {
        tensors: vec!["a.weight".into()],
        replace: true,
        ..trimwick_export::QuantizeOptions::new(scheme.parse().unwrap())
    };
    quantize(input, &path, &how).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    let tensors = file
        .tensors()
        .iter()
        .map(|(name, info)| (name.clone(), (info.dtype, info.shape.clone(), file.read_raw(name).unwrap())));
    (tensors.collect(), file.metadata().clone())
}

fn save(path: &Path, tensors: &Tensors, metadata: &BTreeMap<String, String>) {
    let new =
        tensors.iter().map(|(name, (dtype, shape, bytes))| NewTensor::bytes(name, *dtype, shape, bytes));
    write(path, new, metadata).unwrap();
}

#[test]
fn a_part_that_is_not_what_it_should_be_is_named() {
    let (dir, input) = workshop();
    let path = dir.path().join("broken");
    type Change = fn(&mut Tensors, &mut BTreeMap<String, String>);
    let table: &[(&str, Change, &str)] = &[
        ("int8", |t, _| drop(t.remove("a.weight_scale")), "no tensor named \"a.weight_scale\""),
        ("int8", |t, _| drop(t.remove("a.weight")), "no tensor named \"a.weight\""),
        (
            "int8",
            |t, _| t.get_mut("a.weight_scale").unwrap().1 = vec![8],
            "tensor \"a.weight\": scale part: expected F32 [8, 1], found F32 [8]",
        ),
        (
            "int8",
            |t, _| t.get_mut("a.weight_scale").unwrap().2[12..16].copy_from_slice(&(-1f32).to_le_bytes()),
            "scale part: expected positive numbers, found another at element 3",
        ),
        (
            "int4-g128",
            |t, _| t.get_mut("a.weight_packed").unwrap().0 = Dtype::U32,
            "packed part: expected I32 [8, 32], found U32 [8, 32]",
        ),
        (
            "int4-g128",
            |t, _| t.get_mut("a.weight_shape").unwrap().2[..8].copy_from_slice(&(1i64 << 62).to_le_bytes()),
            "shape part: expected at least two dimensions of 1 to 4096 values in all, found [4611686018427387904, 256]",
        ),
        (
            "int4-g128",
            |t, _| t.get_mut("a.weight_shape").unwrap().2[..8].copy_from_slice(&(-8i64).to_le_bytes()),
            "shape part: expected at least two dimensions",
        ),
        (
            "int4-g128",
            |t, _| {
                let shape = t.get_mut("a.weight_shape").unwrap();
                (shape.1, shape.2) = (vec![1], 8i64.to_le_bytes().to_vec());
            },
            "shape part: expected I64 [2] to [32], found I64 [1]",
        ),
        (
            "int4-g128",
            |t, _| t.get_mut("a.weight_shape").unwrap().2[8..].copy_from_slice(&100i64.to_le_bytes()),
            "int4 g128 bf16 needs rows of whole groups",
        ),
        (
            "nvfp4",
            |t, _| t.get_mut("a.weight_scale_2").unwrap().2.copy_from_slice(&f32::NAN.to_le_bytes()),
            "scale_2 part: expected a positive number, found NaN",
        ),
        (
            "nvfp4",
            |t, _| t.get_mut("a.weight_scale").unwrap().2[5] = 0x7f,
            "scale part: expected positive numbers, found another at element 5",
        ),
        (
            "nvfp4",
            |t, _| t.get_mut("a.weight_packed").unwrap().1 = vec![8, 2, 64],
            "packed part: expected U8 of two dimensions, found U8 [8, 2, 64]",
        ),
        (
            "fp8",
            |t, _| t.get_mut("a.weight").unwrap().2[9] = 0x7f,
            "broken: tensor \"a.weight\": packed part: expected codes of finite numbers, found NaN at element 9",
        ),
        (
            "q8_0",
            |t, _| t.get_mut("a.weight_packed").unwrap().2[35] = 0x7c,
            "scale part: expected positive numbers, found another at element 1",
        ),
        (
            "int8",
            |_, m| drop(m.insert("trimwick.scheme".into(), "int9".into())),
            "not a packed file: metadata trimwick.scheme: expected a scheme with a weight quantizer, found \"int9\"",
        ),
        ("int8", |_, m| drop(m.remove("trimwick.scheme")), "metadata trimwick.scheme"),
        ("int8", |_, m| drop(m.remove("trimwick.tensors")), "metadata trimwick.tensors"),
        (
            "int8",
            |_, m| drop(m.insert("trimwick.layout".into(), "packed 2".into())),
            "metadata trimwick.layout: expected \"packed 1\", found \"packed 2\"",
        ),
        (
            "int8",
            |_, m| drop(m.insert("trimwick.tensors".into(), "a.weight\nnorm.weight".into())),
            "shape part: expected at least two dimensions",
        ),
    ];
    for (scheme, change, expected) in table {
        let (mut tensors, mut metadata) = parts(dir.path(), &input, scheme);
        change(&mut tensors, &mut metadata);
        save(&path, &tensors, &metadata);
        let before = names_in(dir.path());
        let error = dequantize_file(&path, dir.path().join("out"), false).unwrap_err().to_string();
        assert!(error.contains(expected), "{scheme}, {expected}: {error}");
        assert_eq!(names_in(dir.path()), before);
    }
    let error = PackedFile::open(&input).unwrap_err().to_string();
    assert!(
        error.contains(
            "in.safetensors: not a packed file: metadata trimwick.layout: expected \"packed 1\", found none"
        ),
        "{error}"
    );
}

#[test]
fn flipped_bytes_never_panic() {
    let (dir, input) = workshop();
    let path = dir.path().join("flipped");
    let mut draw = Draw::new(11);
    for scheme in ["int8", "int3-g32", "weight uint4 g32 f16", "nvfp4", "mxfp6-e2m3", "q4_0", "fp8-e5m2"] {
        let (tensors, metadata) = parts(dir.path(), &input, scheme);
        save(&path, &tensors, &metadata);
        let whole = fs::read(&path).unwrap();
        let (mut read, mut refused) = (0, 0);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            // Headers and shapes at the front are hit as often as all of the rest.
            let end = if draw.below(2) == 0 { bytes.len() } else { 1200.min(bytes.len()) };
            for _ in 0..1 + draw.below(4) {
                bytes[draw.below(end)] ^= 1 << draw.below(8);
            }
            fs::write(&path, &bytes).unwrap();
            let result = PackedFile::open(&path).and_then(|file| {
                let names: Vec<String> = file.names().map(str::to_string).collect();
                names.iter().try_for_each(|name| {
                    let values = file.decode(name)?;
                    assert!(values.iter().all(|v| v.is_finite()));
                    Ok(())
                })
            });
            match result {
                Ok(()) => read += 1,
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
        assert!(read > 30 && refused > 30, "{scheme}: {read} {refused}");
    }
}
