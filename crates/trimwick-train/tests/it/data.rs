//! Text and JSONL sources.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::Path;

use trimwick_train::{BoxError, Error, Result, TextFormat, TextSource};

/// Bytes as ids.
fn bytes(text: &str) -> Result<Vec<u32>, BoxError> {
    Ok(text.bytes().map(u32::from).collect())
}

fn text(ids: &[u32]) -> String {
    String::from_utf8(ids.iter().map(|&id| id as u8).collect()).unwrap()
}

fn jsonl(field: &str) -> TextFormat {
    TextFormat::Jsonl { field: field.into() }
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn documents_are_joined_and_encoded_as_one_text() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        write(dir.path(), "a.txt", "one\r\nline\n"),
        write(dir.path(), "empty.txt", ""),
        write(dir.path(), "b.txt", "déjà"),
    ];
    let calls = RefCell::new(vec![]);
    let encode = |text: &str| {
        calls.borrow_mut().push(text.to_string());
        bytes(text)
    };
    let source = TextSource::files(files.clone(), TextFormat::Text);
    let ids = source.encode(&encode, 256, None).unwrap();
    assert_eq!(text(&ids), "one\r\nline\n\n\ndéjà");
    assert_eq!(calls.borrow().len(), 1, "the joined text is one piece");

    let ids = source.clone().separator("|").encode(&bytes, 256, None).unwrap();
    assert_eq!(text(&ids), "one\r\nline\n|déjà");
    assert_eq!(text(&source.encode(&bytes, 256, Some(5)).unwrap()), "one\r\n");

    calls.borrow_mut().clear();
    let ids = source.eos(0).encode(&encode, 256, None).unwrap();
    assert_eq!(text(&ids), "one\r\nline\n\0déjà\0");
    assert_eq!(*calls.borrow(), ["one\r\nline\n", "déjà"], "each document is encoded on its own");
}

#[test]
fn jsonl_takes_one_field_of_each_line() {
    let lines = "{\"id\": 1, \"text\": \"a\\nb\"}\n\n  {\"text\": \"\"}\n{\"text\": \"c\\u00e9\"}\r\n{\"text\":\"d\"}";
    let source = TextSource::memory("lines", lines, jsonl("text"));
    assert_eq!(text(&source.encode(&bytes, 256, None).unwrap()), "a\nb\n\ncé\n\nd");
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "x.jsonl", lines);
    let source = TextSource::files([&file, &file], jsonl("text")).separator("");
    assert_eq!(text(&source.encode(&bytes, 256, None).unwrap()), "a\nbcéda\nbcéd");
    // Reading ends where the limit is reached: the broken line is never seen.
    let broken = format!("{lines}\nbroken");
    let source = TextSource::memory("lines", broken, jsonl("text")).eos(0);
    assert_eq!(text(&source.encode(&bytes, 256, Some(4)).unwrap()), "a\nb\0");
    assert!(source.encode(&bytes, 256, None).is_err());
}

#[test]
fn a_large_text_is_encoded_in_pieces_cut_inside_paragraphs() {
    let paragraph = "A line of text that goes on for a while.\nAnd its second line.\n\n  An indented one.\n";
    let whole = paragraph.repeat((11 << 20) / paragraph.len());
    let cuts = RefCell::new(vec![]);
    let encode = |piece: &str| {
        cuts.borrow_mut().push((piece.len(), piece.ends_with("while.\n") || piece.ends_with("one.\n")));
        bytes(piece)
    };
    let ids =
        TextSource::memory("large", whole.clone(), TextFormat::Text).encode(&encode, 256, None).unwrap();
    assert!(ids.iter().map(|&id| id as u8).eq(whole.bytes()), "the pieces are not the text");
    let cuts = cuts.into_inner();
    assert_eq!(cuts.len(), 3, "{cuts:?}");
    assert!(cuts.iter().all(|&(len, good)| good && len < (4 << 20) + 100), "{cuts:?}");
    // Where no line offers a good place, any line break will do; where there is none, the end.
    for (unit, pieces) in [("\n", 2), ("  x\n", 2), ("x", 1)] {
        let calls = RefCell::new(0);
        let encode = |piece: &str| {
            *calls.borrow_mut() += 1;
            bytes(piece)
        };
        let large = unit.repeat((9 << 20) / unit.len());
        let n = TextSource::memory("m", large, TextFormat::Text).encode(&encode, 256, None).unwrap().len();
        assert_eq!((n, calls.into_inner()), ((9 << 20) / unit.len() * unit.len(), pieces), "{unit:?}");
    }
}

#[test]
fn each_fault_names_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], TextFormat, u64, &str); 10] = [
        ("utf8.txt", b"fine\nab\xffc\n", TextFormat::Text, 2, "byte 0xff at column 3"),
        (
            "utf8.jsonl",
            b"{\"text\":\"a\"}\n\n{\"text\":\"\xc3(\"}\n",
            jsonl("text"),
            3,
            "byte 0xc3 at column 10",
        ),
        (
            "field.jsonl",
            b"{\"text\":\"a\"}\n{\"texts\":\"a\"}\n",
            jsonl("text"),
            2,
            "no such field (the first of 1 is \"texts\")",
        ),
        ("type.jsonl", b"{\"text\":[1]}\n", jsonl("text"), 1, "an array in that field"),
        ("null.jsonl", b"{\"text\":null}\n", jsonl("text"), 1, "null in that field"),
        ("list.jsonl", b"{\"text\":\"a\"}\n[\"a\"]\n", jsonl("text"), 2, "an array"),
        ("void.jsonl", b"{}\n", jsonl("text"), 1, "an empty object"),
        ("cut.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"a\n", jsonl("text"), 2, "column"),
        (
            "two.jsonl",
            b"{\"text\":\"a\"} {\"text\":\"b\"}\n",
            jsonl("text"),
            1,
            "trailing characters at column 14",
        ),
        ("vocab.txt", b"one\ntwo\nthr{{\n", TextFormat::Text, 3, "id 123"),
    ];
    for (name, content, format, at, want) in cases {
        let path = write(dir.path(), name, content);
        let vocab = 123;
        let got = TextSource::files([&path], format).encode(&bytes, vocab, None);
        match got {
            Err(Error::Text { path: p, line, expected, found }) => {
                assert_eq!((p, line), (path, at), "{name}: {found}");
                assert!(found.contains(want), "{name}: {found}");
                assert!(!expected.contains('\n') && !found.contains('\n'), "{name}: more than one line");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let deep = write(dir.path(), "deep.jsonl", "[".repeat(100_000));
    assert!(matches!(
        TextSource::files([deep], jsonl("text")).encode(&bytes, 256, None),
        Err(Error::Text { line: 1, .. })
    ));
}

#[test]
fn a_line_of_a_gigabyte_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.jsonl");
    File::create(&path).unwrap().set_len(1 << 30).unwrap();
    match TextSource::files([&path], jsonl("text")).encode(&bytes, 256, None) {
        Err(e @ Error::Text { line: 1, .. }) => assert!(e.to_string().contains("67108864"), "{e}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let source = |path: &Path| TextSource::files([path], TextFormat::Text).encode(&bytes, 256, None);
    assert!(matches!(source(&dir.path().join("missing.txt")), Err(Error::Io { doing: "open", .. })));
    assert!(matches!(source(dir.path()), Err(Error::Io { .. })));
    for (case, inputs) in [("none", vec![]), ("empty", vec![write(dir.path(), "e.txt", "")])] {
        let got = TextSource::files(inputs, TextFormat::Text).encode(&bytes, 256, None);
        assert!(matches!(got, Err(Error::Empty { .. })), "{case}: {got:?}");
    }
    let blank = TextSource::memory("blank", "\n \n", jsonl("text")).encode(&bytes, 256, None);
    assert!(matches!(blank, Err(Error::Empty { inputs }) if inputs == "blank"));
}

#[test]
fn a_failing_tokenizer_and_a_foreign_end_token() {
    let source = TextSource::memory("memory", "a\nb", TextFormat::Text);
    let fails = |_: &str| Err("no such merge".into());
    match source.encode(&fails, 256, None) {
        Err(e @ Error::Tokenizer { .. }) => {
            assert_eq!(e.to_string(), "memory: line 1: the tokenizer failed: no such merge")
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(source.eos(256).encode(&bytes, 256, None), Err(Error::Setting { key: "eos", .. })));
}
