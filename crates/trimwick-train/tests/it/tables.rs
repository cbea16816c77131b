//! Parquet files, as pyarrow writes them (`tests/tables/make.py`), and broken ones.

use std::fs;
use std::path::{Path, PathBuf};

use trimwick_train::{
    BoxError, ChatOptions, ChatSource, Conversation, Overflow, Result, TextFormat, TextSource, Turn, Windows,
};

const TEXTS: &str = "First document.\nTwo lines.|Zweites: ä, 漢字, 🙂|quotes \" and \\ backslashes|the last";

fn table(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables").join(name)
}

fn bytes(text: &str) -> Result<Vec<u32>, BoxError> {
    Ok(text.bytes().map(u32::from).collect())
}

fn texts(path: &Path, field: &str) -> Result<String> {
    let source = TextSource::files([path], TextFormat::Jsonl { field: field.into() }).separator("|");
    let ids = source.encode(&bytes, 256, None)?;
    Ok(String::from_utf8(ids.iter().map(|&id| id as u8).collect()).unwrap())
}

#[test]
fn texts_are_the_same_under_every_compression() {
    for codec in ["none", "snappy", "gzip", "zstd", "lz4"] {
        assert_eq!(texts(&table(&format!("texts_{codec}.parquet")), "text").unwrap(), TEXTS, "{codec}");
    }
}

#[test]
fn bytes_are_text_or_an_error_and_never_something_else() {
    assert_eq!(texts(&table("unmarked.parquet"), "text").unwrap(), TEXTS);
    let message = |name: &str| texts(&table(name), "text").unwrap_err().to_string();
    let found = message("bytes.parquet");
    assert!(
        found.ends_with("bytes.parquet: row 2: expected UTF-8 text, found other bytes in column \"text\""),
        "{found}"
    );
    let found = message("twice.parquet");
    assert!(
        found.contains("expected columns of different names, found two that are called \"text\""),
        "{found}"
    );
}

#[test]
fn a_row_without_text_is_named() {
    let message = |name: &str, field: &str| texts(&table(name), field).unwrap_err().to_string();
    let found = message("null.parquet", "text");
    assert!(found.contains("null.parquet: row 2: ") && found.contains("null in that field"), "{found}");
    let found = message("texts_none.parquet", "txt");
    assert!(found.contains("no such field (the first of 3 is \"id\")"), "{found}");
    let found = message("texts_none.parquet", "id");
    assert!(found.contains("a number in that field"), "{found}");
}

/// Letters as tokens; what the assistant says is the answer.
fn render(turns: &[Turn]) -> std::result::Result<Conversation, BoxError> {
    let (mut ids, mut answers) = (vec![], vec![]);
    for turn in turns {
        let said: Vec<u32> = turn.content.bytes().map(|b| u32::from(b - b'a')).collect();
        answers.extend(said.iter().map(|_| turn.role.name() == "assistant"));
        ids.extend(said);
    }
    Ok(Conversation { ids, answers })
}

#[test]
fn conversations_are_read_from_rows() {
    let options = ChatOptions { context: 8, pad: 20, vocab: 26, answers: true };
    let (windows, counts) = ChatSource::files([table("chats.parquet")]).windows(&render, &options).unwrap();
    assert_eq!((counts.conversations, windows.len()), (2, 2));
    assert_eq!(windows.window(0).unwrap()[..5], [0, 1, 2, 3, 4]);
    assert_eq!(windows.window(1).unwrap()[..7], [5, 6, 7, 8, 9, 10, 11]);
    let trained: Vec<usize> = (0..8).filter(|&i| windows.trained(1).unwrap()[i]).collect();
    assert_eq!(trained, [3, 6]);
}

/// Bytes changed and ends cut off: an error or other words, and nothing else.
#[test]
fn broken_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for name in ["texts_none.parquet", "texts_zstd.parquet", "chats.parquet"] {
        let whole = fs::read(table(name)).unwrap();
        let path = dir.path().join(name);
        let mut read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let chats = ChatSource::files([&path]).contents();
            refused += usize::from(texts(&path, "text").is_err() && chats.is_err());
        };
        for at in (0..whole.len()).step_by(7) {
            for with in [0xff, whole[at] ^ 0x01] {
                let mut mutant = whole.clone();
                mutant[at] = with;
                read(&mutant);
            }
        }
        (0..whole.len()).step_by(31).for_each(|len| read(&whole[..len]));
    }
    assert!(refused > 100, "{refused}");
    let path = dir.path().join("text.parquet");
    fs::write(&path, "{\"text\": \"a line\"}").unwrap();
    let found = texts(&path, "text").unwrap_err().to_string();
    assert!(found.contains("expected a Parquet file") && !found.contains('\n'), "{found}");
}

/// Text of which more tokens come than memory should hold gives the same windows, mixed or not.
#[test]
fn windows_of_tokens_in_a_file_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..5000).map(|i| format!("{} words in line {i}\n", i * 7919 % 1000)).collect();
    let source = || TextSource::memory("lines", text.clone(), TextFormat::Text);
    let inside = source().encode(&bytes, 256, None).unwrap();
    let outside =
        source().overflow(Overflow::into_folder(dir.path()).above(10_000)).encode(&bytes, 256, None).unwrap();
    assert!(!inside.in_file() && outside.in_file());
    assert_eq!(&inside[..], &outside[..]);
    let windows = |ids| Windows::new(ids, 64).unwrap();
    let (inside, outside) = (windows(inside), windows(outside));
    assert_eq!(
        (inside.len(), inside.window(17), inside.rest()),
        (outside.len(), outside.window(17), outside.rest())
    );
    let mix = |windows: &Windows| Windows::mix(&[(windows.clone(), 2), (windows.clone(), 1)]).unwrap();
    assert_eq!(mix(&inside).ids(), mix(&outside).ids());
}
