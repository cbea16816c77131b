//! Every way a safetensors file is known to lie, and the line that each ends in.

mod safetensors_support;

use std::path::Path;

use safetensors_support::{assert_refused, entries, file, parse};
use trimwick_formats::safetensors::SafetensorsFile;

/// A case, its file, and what the message must say.
struct Case(&'static str, Vec<u8>, &'static str);

const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

fn frame() -> Vec<Case> {
    let length = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    vec![
        Case("empty", vec![], "byte 0: header length: expected 8 bytes, found a file of 0 bytes"),
        Case(
            "seven bytes",
            vec![2, 0, 0, 0, 0, 0, 0],
            "byte 0: header length: expected 8 bytes, found a file of 7 bytes",
        ),
        Case(
            "length 2^64-1",
            length(u64::MAX),
            "byte 0: header length: expected at most 2, what the file holds, found 18446744073709551615",
        ),
        Case(
            "length past the end",
            length(3),
            "header length: expected at most 2, what the file holds, found 3",
        ),
        Case("length 0", file("", b""), "byte 8: header: expected an object, found the end of the header"),
        Case(
            "invalid UTF-8",
            file(b"{\"a\xff\":1}", b""),
            "byte 11: header: expected UTF-8, found the byte 0xff",
        ),
        Case(
            "byte order mark",
            file("\u{feff}{}", b""),
            "byte 8: header: expected JSON without a byte order mark, found the mark U+FEFF",
        ),
        Case("null", file("null", b""), "byte 8: header: expected an object, found \"null\""),
        Case("array", file("[]", b""), "byte 8: header: expected an object, found an array"),
        Case("number", file("12", b""), "byte 8: header: expected an object, found \"12\""),
        Case(
            "unfinished",
            file("{", b""),
            "byte 9: header: expected a key in quotes, found the end of the header",
        ),
        Case(
            "trailing garbage",
            file("{} x", b""),
            "byte 11: header: expected only spaces after the object, found \"x\"",
        ),
        Case("second document", file("{}{}", b""), "byte 10: header: expected only spaces after the object"),
        Case(
            "trailing NUL",
            file("{}\0", b""),
            "byte 10: header: expected only spaces after the object, found \"\\0\"",
        ),
        Case(
            "depth 5000",
            file(format!("{{\"a\":{}", "[".repeat(5000)), b""),
            "byte 13: header[\"a\"]: expected an object, found an array",
        ),
        Case(
            "depth 5000 in a field",
            file(format!("{{\"a\":{{\"shape\":{}", "[".repeat(5000)), b""),
            "byte 23: header[\"a\"][\"shape\"][0]: expected a whole number from 0 to 2^64 - 1, found an array",
        ),
        Case(
            "pickle",
            b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01.".to_vec(),
            "refused: this is a PyTorch pickle",
        ),
        Case(
            "zip of pickles",
            b"PK\x03\x04\x00\x00\x08\x08......".to_vec(),
            "refused: this is a zip archive",
        ),
        Case("GGUF", b"GGUF\x03\x00\x00\x00........".to_vec(), "refused: this is a GGUF file"),
    ]
}

fn names() -> Vec<Case> {
    let named = |name: &str| entries(&[&A.replace("\"a\"", &format!("\"{name}\""))], 8);
    vec![
        Case("name twice", entries(&[A, A], 8), "tensor \"a\": name: expected one entry, found a second"),
        Case(
            "name twice, once escaped",
            entries(&[A, &A.replace("\"a\"", "\"\\u0061\"")], 8),
            "tensor \"a\": name: expected one entry, found a second",
        ),
        Case("empty name", named(""), "header[\"\"]: name: expected a name that is not empty, found \"\""),
        Case(
            "NUL in a name",
            named("a\\u0000b"),
            "expected a name without control characters, found \"a\\0b\"",
        ),
        Case(
            "escape sequence in a name",
            named("\\u001b[31mred"),
            "expected a name without control characters, found \"\\u{1b}[31mred\"",
        ),
        Case(
            "raw control character",
            named("a\u{7}"),
            "expected control characters escaped, found the byte 0x07",
        ),
        Case("path in a name", named("../../etc/passwd"), "expected a name without the path component '..'"),
        Case("backslash path in a name", named("..\\\\x"), "expected a name without the path component '..'"),
        Case("name of 2000 bytes", named(&"n".repeat(2000)), "expected a name of at most 256 bytes"),
        Case("lone surrogate", named("\\ud800"), "expected a valid escape, found \"\\\\ud800\\\""),
        Case(
            "metadata twice",
            entries(&[r#""__metadata__":{}"#, r#""__metadata__":{}"#], 0),
            "header[\"__metadata__\"]: __metadata__: expected one entry, found a second",
        ),
        Case(
            "metadata key twice",
            entries(&[r#""__metadata__":{"k":"1","k":"2"}"#], 0),
            "header[\"__metadata__\"][\"k\"]: key: expected one entry, found a second",
        ),
        Case(
            "metadata number",
            entries(&[r#""__metadata__":{"k":1}"#], 0),
            "header[\"__metadata__\"][\"k\"]: expected a string, found \"1\"",
        ),
        Case("metadata null", entries(&[r#""__metadata__":null"#], 0), "expected an object, found \"null\""),
    ]
}

fn fields() -> Vec<Case> {
    let one = |entry: &str| entries(&[&format!("\"a\":{entry}")], 8);
    vec![
        Case("entry is null", one("null"), "header[\"a\"]: expected an object, found \"null\""),
        Case("entry is empty", one("{}"), "JSON header[\"a\"]: dtype: expected a value, found none"),
        Case(
            "no shape",
            one(r#"{"dtype":"F32","data_offsets":[0,8]}"#),
            "JSON header[\"a\"]: shape: expected a value, found none",
        ),
        Case(
            "no offsets",
            one(r#"{"dtype":"F32","shape":[2]}"#),
            "header[\"a\"]: data_offsets: expected a value, found none",
        ),
        Case(
            "field twice",
            one(r#"{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}"#),
            "JSON header[\"a\"][\"dtype\"]: dtype: expected one entry, found a second",
        ),
        Case(
            "unknown field",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1]}"#),
            "field: expected dtype, shape or data_offsets, found \"strides\"",
        ),
        Case(
            "unsupported dtype",
            one(r#"{"dtype":"Q4_0","shape":[2],"data_offsets":[0,8]}"#),
            "JSON header[\"a\"][\"dtype\"]: dtype: expected a dtype of safetensors 0.8 such as F32 or BF16, found \"Q4_0\"",
        ),
        Case(
            "dtype is a number",
            one(r#"{"dtype":32,"shape":[2],"data_offsets":[0,8]}"#),
            "header[\"a\"][\"dtype\"]: expected the name of a dtype, found \"32\"",
        ),
        Case(
            "negative dimension",
            one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#),
            "header[\"a\"][\"shape\"][0]: expected a whole number from 0 to 2^64 - 1, found \"-2\"",
        ),
        Case(
            "fractional dimension",
            one(r#"{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}"#),
            "header[\"a\"][\"shape\"][0]: expected a whole number from 0 to 2^64 - 1, found \"2.0\"",
        ),
        Case(
            "dimension 2^64",
            one(r#"{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}"#),
            "expected a whole number from 0 to 2^64 - 1, found \"18446744073709551616\"",
        ),
        Case(
            "one offset",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8]}"#),
            "header[\"a\"][\"data_offsets\"]: data_offsets: expected two numbers, found 1",
        ),
        Case(
            "three offsets",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}"#),
            "data_offsets: expected two numbers, found a third",
        ),
        Case(
            "end before begin",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#),
            "JSON header[\"a\"][\"data_offsets\"]: data_offsets: expected begin <= end, found [8, 0]",
        ),
        Case(
            "negative offset",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}"#),
            "header[\"a\"][\"data_offsets\"][0]: expected a whole number from 0 to 2^64 - 1, found \"-8\"",
        ),
        Case(
            "end past the file",
            one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,12]}"#),
            "data_offsets: expected an end within the 8 bytes of data in the file, found [0, 12]",
        ),
        Case(
            "offsets at 2^64",
            one(r#"{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}"#),
            "expected an end within the 8 bytes of data in the file",
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let shaped = |dtype: &str, shape: &str, end: usize| {
        entries(&[&format!(r#""a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}"#)], end)
    };
    let overflow = "shape: expected a whole number of bytes below 2^61, found ";
    vec![
        Case(
            "too few bytes",
            shaped("F32", "[3]", 8),
            "data_offsets: expected 12 bytes, which F32 [3] takes, found 8 bytes",
        ),
        Case(
            "too many bytes",
            shaped("F32", "[1]", 8),
            "data_offsets: expected 4 bytes, which F32 [1] takes, found 8 bytes",
        ),
        Case("product overflow", shaped("F32", "[4294967296,4294967296]", 0), overflow),
        Case("product wraps to 4", shaped("U8", "[4,4611686018427387905]", 4), overflow),
        Case("bits overflow", shaped("F64", "[2305843009213693952]", 0), overflow),
        Case("bits wrap to 32", shaped("F32", "[576460752303423489]", 4), overflow),
        Case("overflow behind a zero", shaped("F32", "[0,4294967296,4294967296]", 0), overflow),
        Case(
            "half a byte",
            shaped("F4", "[3]", 1),
            "shape: expected a whole number of bytes below 2^61, found F4 [3]",
        ),
        Case("six bits", shaped("F6_E2M3", "[2]", 2), overflow),
        Case(
            "rank 10 000",
            shaped("F32", &format!("[{}]", vec!["1"; 10_000].join(",")), 4),
            "header[\"a\"][\"shape\"][32]: shape: expected at most 32 dimensions, found more",
        ),
        Case(
            "sum overflow",
            entries(
                &[
                    r#""a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,9223372036854775808]}"#,
                    r#""b":{"dtype":"U8","shape":[9223372036854775816],"data_offsets":[9223372036854775808,8]}"#,
                ],
                8,
            ),
            "header[\"a\"][\"data_offsets\"]: data_offsets: expected an end within the 8 bytes of data in the file",
        ),
    ]
}

fn layout() -> Vec<Case> {
    let tensor = |name: &str, begin: usize, end: usize| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
    };
    let of = |tensors: &[(&str, usize, usize)], len| {
        let list: Vec<String> = tensors.iter().map(|&(name, begin, end)| tensor(name, begin, end)).collect();
        entries(&list.iter().map(String::as_str).collect::<Vec<_>>(), len)
    };
    vec![
        Case(
            "hole between",
            of(&[("a", 0, 4), ("b", 6, 8)], 8),
            "tensor \"b\": data_offsets: expected to begin at 4, where the tensor before ends, found 6, hole of 2 bytes",
        ),
        Case(
            "hole at the start",
            of(&[("a", 2, 8)], 8),
            "tensor \"a\": data_offsets: expected to begin at 0",
        ),
        Case(
            "overlap",
            of(&[("a", 0, 5), ("b", 4, 8)], 8),
            "tensor \"b\": data_offsets: expected to begin at 5, where the tensor before ends, found 4, overlap of 1 bytes",
        ),
        Case(
            "same range twice",
            of(&[("a", 0, 8), ("b", 0, 8)], 8),
            "tensor \"b\": data_offsets: expected to begin at 8",
        ),
        Case(
            "empty tensor inside another",
            of(&[("a", 0, 8), ("b", 5, 5)], 8),
            "found 5, overlap of 3 bytes",
        ),
        Case(
            "trailing bytes",
            of(&[("a", 0, 4)], 8),
            "data: expected the end of the file, found 4 bytes that belong to no tensor",
        ),
        Case(
            "data and no tensor",
            file("{}", b"abc"),
            "byte 10: data: expected the end of the file, found 3 bytes",
        ),
    ]
}

#[test]
fn every_class_ends_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for Case(case, bytes, want) in [frame(), names(), fields(), sizes(), layout()].into_iter().flatten() {
        std::fs::write(&path, &bytes).unwrap();
        assert_refused(case, &path, want, || SafetensorsFile::open(&path));
        assert_refused(case, Path::new("dir/model.safetensors"), want, || parse(bytes));
    }
}

#[test]
fn a_header_of_100_000_001_bytes_is_refused_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, 100_000_001u64.to_le_bytes()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(200_000_000).unwrap(); // sparse
    let want = "byte 0: header length: expected at most 100000000, the limit of the format, found 100000001";
    assert_refused("length", &path, want, || SafetensorsFile::open(&path));
}

#[test]
fn a_header_of_800_000_empty_tensors_is_refused_in_time() {
    let mut header = String::from("{");
    for i in 0..800_000 {
        header.push_str(&format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#));
    }
    header.pop();
    header.push('}');
    let bytes = file(header, b"");
    let want = "tensors: expected at most 65536, found more";
    assert_refused("800 k tensors", Path::new("dir/model.safetensors"), want, || parse(bytes));
}

#[test]
fn a_million_metadata_entries_are_refused_in_time() {
    let pairs: Vec<String> = (0..1_000_000).map(|i| format!("\"{i}\":\"\"")).collect();
    let bytes = entries(&[&format!("\"__metadata__\":{{{}}}", pairs.join(","))], 0);
    let want = "__metadata__: expected at most 65536 entries, found more";
    assert_refused("metadata", Path::new("dir/model.safetensors"), want, || parse(bytes));
}

/// A file with every kind of field in its header.
fn sample() -> Vec<u8> {
    entries(
        &[
            r#""__metadata__":{"format":"pt","é":"\u00e9\n"}"#,
            r#""w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#,
            r#""h":{"shape":[2],"data_offsets":[24,28],"dtype":"BF16"}"#,
            r#""none":{"dtype":"I64","shape":[0,5],"data_offsets":[28,28]}"#,
            r#""one":{"dtype":"U8","shape":[],"data_offsets":[28,29]}"#,
            r#""f4":{"dtype":"F4","shape":[2,3],"data_offsets":[29,32]}"#,
        ],
        32,
    )
}

#[test]
fn the_sample_is_read() {
    let sample = parse(sample()).unwrap();
    assert_eq!(sample.tensors().keys().collect::<Vec<_>>(), ["f4", "h", "none", "one", "w"]);
    assert_eq!(sample.metadata()["é"], "é\n");
    assert_eq!(sample.info("w").unwrap().shape, [2, 3]);
    assert_eq!(sample.read_f32("w").unwrap(), [0.0; 6]);
    assert_eq!(sample.read_f32("none").unwrap(), [0.0; 0]);
    assert_eq!(sample.read_raw("f4").unwrap(), [0; 3]);
    assert_eq!(sample.total_bytes(), 32);
}

#[test]
fn truncated_or_extended_at_every_byte() {
    let whole = sample();
    for len in 0..whole.len() {
        let cut = whole[..len].to_vec();
        assert_refused(&format!("cut to {len}"), Path::new("model"), "expected", || parse(cut));
    }
    for more in 1..9 {
        let long = [&whole[..], &vec![0; more]].concat();
        let want = format!("found {more} bytes that belong to no tensor");
        assert_refused("longer", Path::new("model"), &want, || parse(long));
    }
}

#[test]
fn a_file_that_is_cut_after_opening_is_an_error_and_no_bus_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, sample()).unwrap();
    let open = SafetensorsFile::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(20).unwrap();
    let want = "found a file that was cut since";
    assert_refused("raw", &path, want, || open.read_raw("w"));
    assert_refused("f32", &path, want, || open.read_f32("w"));
}

#[test]
fn what_is_not_there_or_not_a_number_is_named() {
    let sample = parse(sample()).unwrap();
    let path = Path::new("dir/model.safetensors");
    assert_refused("missing", path, "no tensor named \"W\"", || sample.read_f32("W"));
    let want =
        "tensor \"f4\": dtype: expected F64, F32, F16, BF16, an integer or BOOL to read as f32, found F4";
    assert_refused("codes", path, want, || sample.read_f32("f4"));
    let large = entries(&[r#""i":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}"#], 0);
    let values = [1i64, 16_777_217].map(i64::to_le_bytes).concat();
    let large = parse([large, values].concat()).unwrap();
    let want =
        "tensor \"i\": value: expected an integer that f32 represents, found I64 16777217 at element 1";
    assert_refused("inexact", path, want, || large.read_f32("i"));
}
