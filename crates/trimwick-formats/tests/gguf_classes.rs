//! Every known way in which a GGUF file is wrong ends in one typed line which says where, what and how far off.

mod gguf_support;

use std::time::{Duration, Instant};

use gguf_support::{Built, Gguf, Kind, Tensor, Val};
use trimwick_formats::blocks::GgmlType;
use trimwick_formats::gguf::GgufFile;
use trimwick_formats::{ByteSource, Error, Location};

/// A file and the error it must end in. `expected` and `found` are parts of the error's.
struct Case {
    name: String,
    bytes: Vec<u8>,
    at: u64,
    field: String,
    expected: String,
    found: String,
}

fn case(name: &str, file: Built, at: u64, field: &str, expected: &str, found: &str) -> Case {
    raw(name, file.bytes, at, field, expected, found)
}

fn raw(name: &str, bytes: Vec<u8>, at: u64, field: &str, expected: &str, found: &str) -> Case {
    let [name, field, expected, found] = [name, field, expected, found].map(String::from);
    Case { name, bytes, at, field, expected, found }
}

/// The base file with one field overwritten; the fault is reported at that field.
fn patch(name: &str, mark: &str, value: u64, field: &str, expected: &str, found: &str) -> Case {
    let file = Gguf::sample().build();
    let at = file.at(mark);
    case(name, file.with(mark, value), at, field, expected, found)
}

/// A file with one more key; the fault is reported at the given part of it.
fn with_value(name: &str, value: Val, mark: &str, field: &str, expected: &str, found: &str) -> Case {
    let file = Gguf::default().kv("k", value).build();
    let at = file.at(mark);
    case(name, file, at, field, expected, found)
}

/// A file with one tensor of this description (and no data); the fault is reported at the given part of it.
fn with_tensor(name: &str, tensor: Tensor, mark: &str, field: &str, expected: &str, found: &str) -> Case {
    let file = Gguf::default().tensor(tensor).build();
    let at = file.at(mark);
    case(name, file, at, field, expected, found)
}

/// A description without data.
fn described(dims: &[u64], code: u32) -> Tensor {
    Tensor { name: b"w".into(), dims: dims.into(), code, offset: None, data: Vec::new() }
}

fn cases() -> Vec<Case> {
    let mut all = header_cases();
    all.extend(metadata_cases());
    all.extend(array_cases());
    all.extend(tensor_cases());
    all.extend(data_cases());
    all
}

fn header_cases() -> Vec<Case> {
    let most = u64::MAX;
    let one = Gguf::default().kv("k", Val::str("to hold the count")).build();
    let one_end = one.at("kv[0].value") + 17;
    let file = Gguf::sample().build();
    let over = |least: u64| (file.bytes.len() as u64 - file.at("keys") - 8) / least + 1;
    vec![
        raw("empty", vec![], 0, "magic number", "4 more bytes", "0 before the end of the file"),
        raw("short magic", b"GGU".into(), 0, "magic number", "4 more bytes", "3 before the end of the file"),
        raw("short version", b"GGUF\x03".into(), 4, "version", "4 more bytes", "1 before the end"),
        patch("bad magic", "magic", 0x1b5b_4e4f, "magic number", "\"GGUF\"", r#""ON[\x1b""#),
        patch("swapped magic", "magic", 0x4747_5546, "magic number", "\"GGUF\"", "byte-swapped"),
        patch("swapped bytes", "version", 3 << 24, "version", "2 or 3, little-endian", "a big-endian file"),
        patch("version 0", "version", 0, "version", "2 or 3", "0"),
        patch("version 1", "version", 1, "version", "2 or 3", "1, a draft of the format"),
        patch("version 4", "version", 4, "version", "2 or 3", "4"),
        patch("2^64−1 tensors", "tensors", most, "tensor count", "at most ", "18446744073709551615"),
        patch("2^64−1 keys", "keys", most, "key count", "at most ", "18446744073709551615"),
        patch("tensors over the file", "tensors", over(33), "tensor count", "can hold", ""),
        patch("keys over the file", "keys", over(14), "key count", "can hold", ""),
        case(
            "a key more than there is",
            one.with("keys", 2),
            one_end,
            "key",
            "8 more bytes",
            "before the end",
        ),
    ]
}

fn metadata_cases() -> Vec<Case> {
    let most = u64::MAX;
    let base_file = Gguf::sample().build();
    let remaining = base_file.bytes.len() as u64 - base_file.at("kv[0].key");
    let twice = Gguf::default().kv("k", Val::u8(1)).kv("k", Val::u8(2)).build();
    let twice_at = twice.at("kv[1].key.len");
    let bad_key = Gguf::default().kv(b"ab\xff\xfe".as_slice(), Val::u8(1)).build();
    let bad_key_at = bad_key.at("kv[0].key") + 2;
    let long_key = Gguf::default().kv(vec![b'k'; 65_536], Val::u8(1)).build();
    let no_key = Gguf::default().kv("", Val::u32(1)).build();
    let align = |value| Gguf::default().kv("general.alignment", value).build();
    let aligned = |name: &str, value, found: &str| {
        let (field, expected) = ("\"general.alignment\" value", "u32, a power of two up to 1048576");
        case(name, align(value), align(Val::u8(0)).at("kv[0].type"), field, expected, found)
    };
    vec![
        patch("key of 2^64−1 bytes", "kv[0].key.len", most, "key", "18446744073709551615 more bytes", ""),
        patch(
            "key of a byte too many",
            "kv[0].key.len",
            remaining + 1,
            "key",
            "more bytes",
            &remaining.to_string(),
        ),
        case("empty key", no_key, 24, "key", "1 to 65535 bytes", "0 bytes"),
        case("long key", long_key, 24, "key", "1 to 65535 bytes", "65536 bytes"),
        case("key that is not UTF-8", bad_key, bad_key_at, "key", "UTF-8", "byte 0xff"),
        case("key twice", twice, twice_at, "\"k\" key", "each key once", "a second one as number 1"),
        patch("value type 13", "kv[2].type", 13, "\"flag\" value type", "0 to 12", "13"),
        patch("value type 2^32−1", "kv[2].type", most, "\"flag\" value type", "0 to 12", "4294967295"),
        patch("bool 2", "kv[2].value", 2, "\"flag\" value", "0 or 1", "2"),
        patch("long string", "kv[0].value.len", most, "\"general.architecture\" value", "more bytes", ""),
        with_value(
            "string that is not UTF-8",
            Val::Str(b"\xc3".into()),
            "kv[0].value",
            "\"k\" value",
            "UTF-8",
            "byte 0xc3",
        ),
        aligned("alignment 0", Val::u32(0), "u32 0"),
        aligned("alignment 3", Val::u32(3), "u32 3"),
        aligned("alignment 2^31", Val::u32(1 << 31), "u32 2147483648"),
        aligned("alignment of another type", Val::Scalar(10, 32u64.to_le_bytes().into()), "u64 32"),
        aligned("alignment in words", Val::str("32"), "string \"32\""),
    ]
}

fn array_cases() -> Vec<Case> {
    let len = "kv[0].value.len";
    let mut cases = vec![
        with_value(
            "array type 13",
            Val::Array(13, vec![]),
            "kv[0].value.type",
            "\"k\" array type",
            "0 to 12",
            "13",
        ),
        with_value(
            "bool 2 in an array",
            Val::Array(7, vec![Val::Scalar(7, vec![1]), Val::Scalar(7, vec![2])]),
            "kv[0].value[1]",
            "\"k\" array element",
            "0 or 1",
            "2",
        ),
        with_value(
            "string in an array that is not UTF-8",
            Val::Array(8, vec![Val::Str(b"x\x80".into())]),
            "kv[0].value[0]",
            "\"k\" array element",
            "UTF-8",
            "byte 0x80",
        ),
    ];
    if let Some(case) = cases.last_mut() {
        case.at += 1;
    }
    // Of every element type: 2^62 elements, and the counts that wrap to 0 when multiplied by a width.
    for code in 0..=12u32 {
        for shift in [60, 61, 62, 63] {
            let file = Gguf::default().kv("k", Val::Array(code, vec![])).build();
            let (at, found) = (file.at(len), (1u64 << shift).to_string());
            let name = format!("array of 2^{shift} elements of type {code}");
            let file = file.with(len, 1 << shift);
            cases.push(case(
                &name,
                file,
                at,
                "\"k\" array length",
                "which the 15 bytes that follow can hold",
                &found,
            ));
        }
    }
    let nested = (0..65).fold(Val::u8(0), |inner, _| Val::Array(inner.code(), vec![inner]));
    let file = Gguf::default().kv("k", nested).build();
    let at = file.at(&format!("kv[0].value{}.type", "[0]".repeat(64)));
    cases.push(case("nesting 65", file, at, "\"k\" array nesting", "at most 64 levels", "level 65"));
    cases
}

fn tensor_cases() -> Vec<Case> {
    let most = u64::MAX;
    let mut cases = vec![
        patch("n_dims 0", "t[0].rank", 0, "\"norm\" n_dims", "1 to 4", "0"),
        patch("n_dims 5", "t[0].rank", 5, "\"norm\" n_dims", "1 to 4", "5"),
        patch("n_dims 2^32−1", "t[0].rank", most, "\"norm\" n_dims", "1 to 4", "4294967295"),
        patch("a dimension of 0", "t[0].dim[1]", 0, "\"norm\" dims", "at least 1", "0"),
    ];
    let dim0 = "t[0].dim[0]";
    let wraps = "a product of less than 2^64";
    cases.extend([
        with_tensor(
            "dims 2^32×2^32",
            described(&[1 << 32, 1 << 32], 0),
            dim0,
            "\"w\" dims",
            wraps,
            "4294967296×4294967296",
        ),
        with_tensor(
            "dims 4×(2^62+1)",
            described(&[4, (1 << 62) + 1], 0),
            dim0,
            "\"w\" dims",
            wraps,
            "4×4611686018427387905",
        ),
        with_tensor(
            "dims 2^64−1",
            described(&[2, most], 0),
            dim0,
            "\"w\" dims",
            wraps,
            "2×18446744073709551615",
        ),
        with_tensor(
            "dims 2^62 of F32",
            described(&[1 << 62], 0),
            "t[0].type",
            "\"w\" dims",
            "2^64 bytes",
            "4611686018427387904 values of F32",
        ),
        with_tensor(
            "dims 2^63 of F16",
            described(&[1 << 63], 1),
            "t[0].type",
            "\"w\" dims",
            "2^64 bytes",
            "of F16",
        ),
        with_tensor(
            "row of 33 in Q4_0",
            described(&[33, 32], 2),
            "t[0].type",
            "\"w\" row length",
            "a multiple of 32, the block of Q4_0",
            "33",
        ),
        with_tensor(
            "row of 128 in Q4_K",
            described(&[128, 2], 12),
            "t[0].type",
            "\"w\" row length",
            "a multiple of 256",
            "128",
        ),
    ]);
    let types = [
        (4, "4, which is no type"),
        (9, "9, Q8_1"),
        (10, "10, Q2_K; get the model in Q8_0"),
        (26, "26, an integer type"),
        (28, "28, F64"),
        (41, "41, which is no type"),
        (u64::from(u32::MAX), "4294967295, which is no type"),
    ];
    for (code, found) in types {
        let name = format!("tensor type {code}");
        cases.push(patch(&name, "t[1].type", code, "\"q\" type", "one of F32, F16, BF16, Q4_0", found));
    }
    for (name, given, expected, found, shift) in [
        ("empty tensor name", b"".as_slice(), "1 to 1024 bytes", "0 bytes", 0),
        ("long tensor name", [b'n'; 1025].as_slice(), "1 to 1024 bytes", "1025 bytes", 0),
        ("tensor name that is not UTF-8", b"n\xf0".as_slice(), "UTF-8", "byte 0xf0", 9),
    ] {
        let tensor = Tensor { name: given.into(), ..described(&[1, 1, 1, 1], 0) };
        let mut case = with_tensor(name, tensor, "t[0].name.len", "tensor name", expected, found);
        case.at += shift;
        cases.push(case);
    }
    cases
}

fn data_cases() -> Vec<Case> {
    let most = u64::MAX;
    let twice = |offset| {
        let file = Gguf::sample().tensor(Tensor { offset, ..Tensor::of("q", GgmlType::F32, &[8]) }).build();
        let at = file.at("t[3].name.len");
        case("tensor twice", file, at, "\"q\" name", "each tensor once", "a second one as number 3")
    };
    let wraps = Tensor { offset: Some(128), ..described(&[(1 << 62) - 32], 0) };
    vec![
        patch(
            "offset past the end",
            "t[2].offset",
            1 << 20,
            "\"k\" offset",
            "144 bytes of data before byte",
            "offset 1048576",
        ),
        patch("offset odd", "t[1].offset", 33, "\"q\" offset", "a multiple of 32", "33"),
        patch(
            "offset 2^64−1",
            "t[1].offset",
            most,
            "\"q\" offset",
            "a multiple of 32",
            "18446744073709551615",
        ),
        patch(
            "offset 2^64−32",
            "t[1].offset",
            most - 31,
            "\"q\" offset",
            "36 bytes of data",
            "offset 18446744073709551584",
        ),
        patch(
            "data that starts in another's",
            "t[2].offset",
            32,
            "\"k\" offset",
            "behind that of \"q\"",
            "data from byte",
        ),
        patch(
            "data where another's is",
            "t[2].offset",
            0,
            "\"k\" offset",
            "behind that of \"norm\"",
            "data from byte",
        ),
        with_tensor(
            "data whose end wraps",
            wraps,
            "t[0].offset",
            "\"w\" offset",
            "18446744073709551488 bytes of data before byte",
            "offset 128",
        ),
        twice(None),
        twice(Some(0)),
    ]
}

fn open(bytes: &[u8], name: &str) -> Result<GgufFile, Error> {
    GgufFile::from_source(ByteSource::memory(bytes.to_vec(), name))
}

#[test]
fn the_base_of_all_cases_is_right() {
    let file = open(&Gguf::sample().build().bytes, "base").unwrap();
    assert_eq!(file.tensors()["norm"].shape, [2, 3]);
    assert_eq!(file.get_strings("tokens").unwrap().unwrap(), ["a", "", "Ġb"]);
}

#[test]
fn every_class_ends_in_one_line_that_says_where_and_what() {
    let dir = tempfile::tempdir().unwrap();
    for Case { name, bytes, at, field, expected, found } in cases() {
        let on_disk = dir.path().join("case.gguf");
        std::fs::write(&on_disk, &bytes).unwrap();
        for error in [open(&bytes, "case.gguf"), GgufFile::open(&on_disk)].map(|result| result.err()) {
            let Some(error) = error else { panic!("{name}: accepted") };
            let message = error.to_string();
            assert!(!message.contains(['\n', '\u{1b}']) && message.len() < 500, "{name}: {message}");
            assert!(message.contains("case.gguf: byte "), "{name}: {message}");
            let Error::Malformed {
                at: is_at, field: is_field, expected: is_expected, found: is_found, ..
            } = error
            else {
                panic!("{name}: {message}")
            };
            assert_eq!(is_at, Location::Offset(at), "{name}: {message}");
            assert_eq!(*is_field, *field, "{name}: {message}");
            assert!(is_expected.contains(&expected), "{name}: {message} does not expect: {expected}");
            assert!(is_found.contains(&found), "{name}: {message} did not find: {found}");
        }
    }
}

#[test]
fn a_rejection_takes_no_time() {
    for Case { name, bytes, .. } in cases() {
        // The best of three, since the machine may be busy with something else.
        let best = (0..3).map(|_| {
            let start = Instant::now();
            assert!(open(&bytes, "case.gguf").is_err());
            start.elapsed()
        });
        assert!(best.min() < Some(Duration::from_millis(100)), "{name}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let file = Gguf::sample().build();
    for cut in 0..file.data_end {
        let error = open(&file.bytes[..cut], "cut").unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{cut}: {error}");
    }
    for cut in file.data_end..=file.bytes.len() {
        open(&file.bytes[..cut], "cut").unwrap();
    }
}

#[test]
fn no_number_is_believed_at_its_largest() {
    let file = Gguf::sample().build();
    let skipped = [Kind::Scalar, Kind::Text, Kind::Data];
    for mark in file.marks.iter().filter(|mark| !skipped.contains(&mark.kind)) {
        let error = open(&file.clone().with(&mark.name, u64::MAX).bytes, "largest").unwrap_err();
        // Dimensions are wrong together, and reported where the first one stands.
        let here = error.to_string().contains(&format!("byte {}:", mark.at));
        assert!(here || mark.kind == Kind::Dim, "{}: {error}", mark.name);
    }
}

#[test]
fn what_came_before_gguf_is_refused_with_the_way_to_convert() {
    let magics = [b"lmgg", b"fmgg", b"tjgg", b"ggml", b"ggmf", b"ggjt"];
    let mut cases =
        magics.map(|magic| (magic.to_vec(), "model.bin", "convert_llama_ggml_to_gguf.py")).to_vec();
    cases.extend([
        (b"algg\x01\0\0\0".to_vec(), "adapter.bin", "convert_lora_to_gguf.py"),
        (b"\x80\x02}q\0.".to_vec(), "model.gguf", "safetensors.torch.save_file"),
        (b"PK\x03\x04".to_vec(), "model.gguf", "safetensors.torch.save_file"),
        (b"anything".to_vec(), "pytorch_model.bin", "safetensors.torch.save_file"),
    ]);
    for (bytes, name, instead) in cases {
        let error = open(&bytes, name).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains(instead), "{error}");
    }
}
