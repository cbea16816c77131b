//! Reading a header takes at most 64 MiB above the size of the file, whether it is accepted or refused.
//!
//! The only test of its binary: it measures the process.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::SafetensorsFile;

const LIMIT: u64 = 64 << 20;

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// How far `work` raises the process's memory at its highest.
fn peak(work: impl FnOnce()) -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    work();
    status("VmHWM").saturating_sub(before)
}

/// Writes a file whose header is `parts` between braces, and says how long it is.
fn header(path: &Path, parts: impl Iterator<Item = String>) -> u64 {
    let mut out = BufWriter::new(File::create(path).unwrap());
    out.write_all(&[0; 8]).unwrap();
    let mut separator = "{";
    for part in parts {
        write!(out, "{separator}{part}").unwrap();
        separator = ",";
    }
    out.write_all(b"}").unwrap();
    let len = out.stream_position().unwrap();
    out.seek(SeekFrom::Start(0)).unwrap();
    out.write_all(&(len - 8).to_le_bytes()).unwrap();
    out.flush().unwrap();
    len
}

#[test]
fn memory_is_bounded_by_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let tensor = |name: String, shape: &str| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}"#)
    };
    let rank_32 = vec!["0"; 32].join(",");
    type Parts<'a> = Box<dyn Iterator<Item = String> + 'a>;
    let cases: [(&str, bool, Parts<'_>); 8] = [
        ("800 000 empty tensors", false, Box::new((0..800_000).map(|i| tensor(i.to_string(), "0")))),
        (
            "65 536 long names of rank 32",
            true,
            Box::new((0..65_536).map(|i| tensor(format!("{}{i:06}", "n".repeat(250)), &rank_32))),
        ),
        ("a name of 90 MB", false, Box::new(std::iter::once_with(|| tensor("n".repeat(90_000_000), "0")))),
        (
            "an escaped name of 90 MB",
            false,
            Box::new(std::iter::once_with(|| tensor("\\n".repeat(45_000_000), "0"))),
        ),
        (
            "a shape of 40 million",
            false,
            Box::new(std::iter::once_with(|| tensor("a".into(), &"0,".repeat(40_000_000)))),
        ),
        (
            "90 MB of metadata",
            false,
            Box::new(std::iter::once_with(|| {
                format!(r#""__metadata__":{{"k":"{}"}}"#, "v".repeat(90_000_000))
            })),
        ),
        (
            "16 MB of metadata",
            true,
            Box::new(std::iter::once_with(|| {
                format!(r#""__metadata__":{{"k":"{}"}}"#, "v".repeat(16_000_000))
            })),
        ),
        (
            "depth 45 million",
            false,
            Box::new(std::iter::once_with(|| format!("\"a\":{}", "[".repeat(45_000_000)))),
        ),
    ];
    for (case, accepted, parts) in cases {
        let len = header(&path, parts);
        let mut ok = false;
        let used = peak(|| ok = SafetensorsFile::open(&path).is_ok());
        assert_eq!(ok, accepted, "{case}");
        assert!(used <= len + LIMIT, "{case}: {} MiB for a file of {} MiB", used >> 20, len >> 20);
    }

    // An index that names as much as an index may.
    let index = dir.path().join("m.index.json");
    let mut text = String::from("{\"weight_map\":{");
    for i in 0..30_000_000 / 260 {
        text.push_str(&format!("\"{}{i:06}\":\"s\",", "n".repeat(244)));
    }
    text.pop();
    text.push_str("}}");
    std::fs::write(&index, &text).unwrap();
    let len = text.len() as u64;
    drop(text);
    let mut message = String::new();
    let used = peak(|| message = ModelFolder::open(&index).unwrap_err().to_string());
    assert!(message.contains("no shard named \"s\""), "{message}");
    assert!(used <= len + LIMIT, "index: {} MiB for a file of {} MiB", used >> 20, len >> 20);
}
