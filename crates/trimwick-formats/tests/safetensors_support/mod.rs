//! Safetensors files put together by hand, and what every rejection must look like.
#![allow(dead_code)] // each test file uses its part

use std::path::Path;
use std::time::{Duration, Instant};

use trimwick_formats::safetensors::SafetensorsFile;
use trimwick_formats::{ByteSource, Error, Result};

/// The bytes of a file with this header and this data.
pub fn file(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// A file of `len` data bytes whose header has these entries.
pub fn entries(entries: &[&str], len: usize) -> Vec<u8> {
    file(format!("{{{}}}", entries.join(",")), &vec![0; len])
}

pub fn parse(bytes: Vec<u8>) -> Result<SafetensorsFile> {
    SafetensorsFile::from_source(ByteSource::memory(bytes, "dir/model.safetensors"))
}

/// Time this thread spent computing, where the system tells: other work on the machine is not the reader's fault.
pub fn busy<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let on_cpu = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(Duration::from_nanos(stat.split_whitespace().next()?.parse().ok()?))
    };
    let (start, before) = (Instant::now(), on_cpu());
    let out = work();
    let took = before.zip(on_cpu()).map_or_else(|| start.elapsed(), |(before, after)| after - before);
    (out, took)
}

/// One clear line that names the file and says `want`, within 100 ms.
pub fn assert_refused<T>(case: &str, path: &Path, want: &str, open: impl FnOnce() -> Result<T>) {
    let (result, took) = busy(open);
    let error: Error = match result {
        Ok(_) => panic!("{case}: accepted"),
        Err(error) => error,
    };
    let message = error.to_string();
    assert!(message.contains(want), "{case}\n got: {message}\nwant: {want}");
    assert!(message.contains(&*path.to_string_lossy()), "{case}: the file is not named: {message}");
    assert!(!message.chars().any(char::is_control), "{case}: more than a line: {message:?}");
    assert!(message.len() < 600, "{case}: {} bytes of message: {message}", message.len());
    assert!(took < Duration::from_millis(100), "{case}: took {took:?}");
}
