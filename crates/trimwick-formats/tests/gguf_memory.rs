//! Reading the description of a file takes at most 64 MiB of memory above the size of the file, whether it is accepted
//! or refused. The peak is what Linux reports of a process of its own for each file.
#![cfg(target_os = "linux")]

mod gguf_support;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gguf_support::{Gguf, Val};
use trimwick_formats::gguf::{Array, GgufFile, Value};

/// Names the file to open; set by this test for the process it starts of itself.
const CHILD: &str = "TRIMWICK_GGUF_MEMORY_TEST";

const MIB: u64 = 1 << 20;

#[test]
fn memory_stays_within_64_mib_above_the_file() {
    if let Some(path) = std::env::var_os(CHILD) {
        return child(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let zeros_of = |code: u32, count: u64, bytes: u64| zeros(dir.path(), code, count, bytes);
    let many = |name: &str, bytes: Vec<u8>| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    // Zeros are empty strings, and empty arrays of u8.
    let files = [
        (zeros_of(0, 100 * MIB, 100 * MIB), true),
        (zeros_of(0, 130 * MIB, 130 * MIB), false),
        (zeros_of(4, 25 * MIB, 100 * MIB), true),
        (zeros_of(7, 100 * MIB, 100 * MIB), true),
        (zeros_of(8, 1_000_000, 8_000_000), true),
        (zeros_of(8, 13_000_000, 104_000_000), false),
        (zeros_of(9, 900_000, 10_800_000), true),
        (zeros_of(9, 8_000_000, 96_000_000), false),
        (many("short strings", strings(1_000_000)), true),
        (many("many strings", strings(1_200_000)), false),
        (many("keys", keys(190_000)), true),
        (many("many keys", keys(400_000)), false),
        (many("tensors", tensors(150_000)), true),
        (many("many tensors", tensors(400_000)), false),
    ];
    for (path, accepted) in files {
        let size = path.metadata().unwrap().len();
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory_stays_within_64_mib_above_the_file", "--nocapture"])
            .env(CHILD, &path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{path:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        let word = |key: &str| text.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap();
        let peak: u64 = word("peak_kib=").parse::<u64>().unwrap() * 1024;
        assert_eq!(word("accepted="), accepted.to_string(), "{path:?}: {text}");
        assert!(peak < size + 64 * MIB, "{path:?}: {peak} for {size}");
    }
}

/// Opens the file and prints the peak of memory.
fn child(path: &Path) {
    let start = Instant::now();
    let result = GgufFile::open(path);
    let took = start.elapsed();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB");
    println!(" peak_kib={peak} accepted={} millis={}", result.is_ok(), took.as_millis());
    match result {
        Ok(file) => {
            if let Some(Value::Array(Array::U8(bytes))) = file.metadata().get("k") {
                assert_eq!(bytes.len() as u64, file.file_bytes() / MIB * MIB);
            }
        }
        Err(error) => {
            println!("{error}");
            // Generous, because the machine may be busy with other tests.
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
    }
}

/// A file with an array of `count` elements that takes `bytes`, all zero (and no blocks on the disk).
fn zeros(dir: &Path, code: u32, count: u64, bytes: u64) -> std::path::PathBuf {
    let head = Gguf::default().kv("k", Val::Array(code, Vec::new())).build().with("kv[0].value.len", count);
    let end = head.at("kv[0].value.len") + 8;
    let path = dir.join(format!("zeros {code} {count}"));
    std::fs::write(&path, &head.bytes[..end as usize]).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(end + bytes).unwrap();
    path
}

/// A file with an array of strings of one letter.
fn strings(count: u64) -> Vec<u8> {
    let head = Gguf::default().kv("k", Val::Array(8, Vec::new())).build().with("kv[0].value.len", count);
    let end = head.at("kv[0].value.len") as usize + 8;
    let mut bytes = head.bytes[..end].to_vec();
    for _ in 0..count {
        bytes.extend(1u64.to_le_bytes());
        bytes.push(b'x');
    }
    bytes
}

/// A file with this many keys, as short as they can be.
fn keys(count: u64) -> Vec<u8> {
    let mut bytes = Gguf::default().build().with("keys", count).bytes[..24].to_vec();
    for i in 0..count {
        name(&mut bytes, i);
        bytes.extend(0u32.to_le_bytes());
        bytes.push(7);
    }
    bytes
}

/// A file with this many tensors of one value.
fn tensors(count: u64) -> Vec<u8> {
    let mut bytes = Gguf::default().build().with("tensors", count).bytes[..24].to_vec();
    for i in 0..count {
        name(&mut bytes, i);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((32 * i).to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + 32 * count as usize, 0);
    bytes
}

fn name(bytes: &mut Vec<u8>, i: u64) {
    let name = format!("{i:x}");
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend(name.as_bytes());
}
