//! Files that others wrote: values and metadata are what ggml's Python reference says they are.

use trimwick_formats::blocks::GgmlType;
use trimwick_formats::gguf::{Array, GgufFile, Value};
use trimwick_formats::{ByteSource, Error};

const GOLDEN: &[u8] = include_bytes!("golden/gguf_blocks.gguf");

/// The golden file from disk and from memory, which read along different ways.
fn both_ways() -> [GgufFile; 2] {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf_blocks.gguf");
    [GgufFile::open(path).unwrap(), GgufFile::from_source(ByteSource::memory(GOLDEN, "golden")).unwrap()]
}

#[test]
fn every_type_dequantizes_as_the_reference_does_bit_for_bit() {
    for file in both_ways() {
        for dtype in GgmlType::ALL.into_iter().filter(|&dtype| dtype != GgmlType::F32) {
            let info = file.tensor(dtype.name()).unwrap();
            assert_eq!(info.dtype, dtype);
            let values = file.read_f32(dtype.name()).unwrap();
            let expected = file.read_f32(&format!("{dtype}.expected")).unwrap();
            assert_eq!(info.shape, file.tensors()[&format!("{dtype}.expected")].shape);
            assert_eq!(values.len(), expected.len());
            let mut finite = 0;
            for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
                // Which NaN comes of a NaN scale differs between processors.
                let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
                assert!(same, "{dtype}[{i}]: {value:?} is not {expected:?}");
                finite += usize::from(expected.is_finite() && *expected != 0.0);
            }
            assert!(finite * 3 > values.len(), "{dtype}: {finite} of {} say anything", values.len());
        }
    }
}

#[test]
fn raw_bytes_are_those_of_the_file() {
    for file in both_ways() {
        for info in file.tensors().values() {
            let start = info.offset as usize;
            assert_eq!(file.read_raw(&info.name).unwrap(), GOLDEN[start..start + info.bytes as usize]);
        }
    }
}

#[test]
fn metadata_of_every_type() {
    let expected = [
        ("general.architecture", Value::String("test".into())),
        ("v.u8", Value::U8(255)),
        ("v.i8", Value::I8(-128)),
        ("v.u16", Value::U16(65535)),
        ("v.i16", Value::I16(-32768)),
        ("v.u32", Value::U32(u32::MAX)),
        ("v.i32", Value::I32(i32::MIN)),
        ("v.f32", Value::F32(1.5)),
        ("v.true", Value::Bool(true)),
        ("v.false", Value::Bool(false)),
        ("v.string", Value::String("Grüße, 世界".into())),
        ("v.u64", Value::U64(u64::MAX)),
        ("v.i64", Value::I64(i64::MIN)),
        ("v.f64", Value::F64(-0.1)),
        ("v.strings", Value::Array(Array::String(vec!["".into(), "Ġthe".into(), "\n".into()]))),
        ("v.i32s", Value::Array(Array::I32(vec![-1, 0, i32::MAX]))),
        ("v.f32s", Value::Array(Array::F32(vec![0.25, -1000.0]))),
        ("v.bools", Value::Array(Array::Bool(vec![true, false]))),
        ("v.u8s", Value::Array(Array::U8(vec![0, 0x7f, 0xff]))),
    ];
    for file in both_ways() {
        assert_eq!((file.version(), file.alignment(), file.file_bytes()), (3, 32, GOLDEN.len() as u64));
        assert_eq!(file.metadata().len(), expected.len());
        for (key, value) in &expected {
            assert_eq!(file.metadata().get(*key), Some(value), "{key}");
        }
    }
}

#[test]
fn getters_take_what_fits_and_say_what_does_not() {
    for file in both_ways() {
        assert_eq!(file.get_u32("v.u8").unwrap(), Some(255));
        assert_eq!(file.get_u32("v.u32").unwrap(), Some(u32::MAX));
        assert_eq!(file.get_u64("v.u64").unwrap(), Some(u64::MAX));
        assert_eq!(file.get_f32("v.f32").unwrap(), Some(1.5));
        assert_eq!(file.get_f32("v.f64").unwrap(), Some(-0.1));
        assert_eq!(file.get_bool("v.true").unwrap(), Some(true));
        assert_eq!(file.get_str("v.string").unwrap(), Some("Grüße, 世界"));
        assert_eq!(file.get_strings("v.strings").unwrap().unwrap(), ["", "Ġthe", "\n"]);
        assert_eq!(file.get_i32s("v.i32s").unwrap().unwrap(), [-1, 0, i32::MAX]);
        assert_eq!(file.get_f32s("v.f32s").unwrap().unwrap(), [0.25, -1000.0]);
        assert_eq!(file.get_u32("absent").unwrap(), None);
        assert_eq!(file.get_strings("absent").unwrap(), None);

        let faults: [(Error, &str); 9] = [
            (file.get_u32("v.u64").unwrap_err(), "found u64 18446744073709551615"),
            (file.get_u32("v.i32").unwrap_err(), "found i32 -2147483648"),
            (file.get_u64("v.i8").unwrap_err(), "found i8 -128"),
            (file.get_f32("v.u32").unwrap_err(), "expected a float, found u32 4294967295"),
            (file.get_bool("v.u8").unwrap_err(), "expected a bool, found u8 255"),
            (file.get_str("v.strings").unwrap_err(), "expected a string, found array of 3 strings"),
            (file.get_strings("v.i32s").unwrap_err(), "expected an array of strings, found array of 3 i32"),
            (file.get_i32s("v.f32s").unwrap_err(), "found array of 2 f32"),
            (file.get_f32s("v.string").unwrap_err(), "found string \"Grüße, 世界\""),
        ];
        for (error, end) in faults {
            let message = error.to_string();
            assert!(message.ends_with(end), "{message} does not end with: {end}");
            // The offset is that of the value, whose type is the first thing there.
            let Error::Malformed { at: trimwick_formats::Location::Offset(at), .. } = error else {
                panic!("{message}")
            };
            assert!((24..2000).contains(&at), "{message}");
        }
    }
}

#[test]
fn a_name_that_is_not_there() {
    for file in both_ways() {
        for result in [file.read_f32("Q4_0\n").map(drop), file.read_raw("Q4_0\n").map(drop)] {
            let error = result.unwrap_err();
            assert!(error.to_string().ends_with(r#"no tensor named "Q4_0\n""#), "{error}");
            assert!(matches!(error, Error::Missing { kind: "tensor", .. }));
        }
    }
}

#[test]
fn a_file_that_is_cut_after_opening_is_an_error_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    std::fs::write(&path, GOLDEN).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let last = file.tensors().values().max_by_key(|info| info.offset).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(last.offset + 1).unwrap();
    for result in [file.read_f32(&last.name).map(drop), file.read_raw(&last.name).map(drop)] {
        let message = result.unwrap_err().to_string();
        assert!(message.ends_with("found a file that was cut since"), "{message}");
    }
}
