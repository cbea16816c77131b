//! A disk that fails, and one that lies.

use std::fs;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trimwick_formats::checkpoint::{Fs, Listed, Lock, RealFs, Stat, WriteFile};
use trimwick_formats::safetensors::{Dtype, NewTensor, write};

use crate::quantize::quantize_on;
use crate::{Error, QuantizeOptions};

/// The real files, but that operation `at` fails, or that bit 0 of byte `flip` is another.
struct Broken {
    at: usize,
    flip: usize,
    count: Arc<AtomicUsize>,
}

impl Broken {
    fn new(at: usize, flip: usize) -> Self {
        Self { at, flip, count: Arc::default() }
    }

    fn step(&self) -> io::Result<()> {
        step(&self.count, self.at)
    }
}

fn step(count: &AtomicUsize, at: usize) -> io::Result<()> {
    match count.fetch_add(1, Ordering::Relaxed) {
        now if now == at => Err(io::Error::other("a broken disk")),
        _ => Ok(()),
    }
}

impl Fs for Broken {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.step()?;
        let (count, at, flip) = (Arc::clone(&self.count), self.at, self.flip);
        Ok(Box::new(BrokenFile { file: RealFs.create(path)?, written: 0, count, at, flip }))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        RealFs.open(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        RealFs.list(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealFs.stat(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealFs.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.sync_dir(path)
    }
    fn available_space(&self, path: &Path) -> io::Result<u64> {
        self.step()?;
        RealFs.available_space(path)
    }
    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Lock>> {
        self.step()?;
        RealFs.lock(path, note)
    }
}

struct BrokenFile {
    file: Box<dyn WriteFile>,
    written: usize,
    count: Arc<AtomicUsize>,
    at: usize,
    flip: usize,
}

impl Write for BrokenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        step(&self.count, self.at)?;
        // In small pieces, so that there are many places to fail at.
        let mut piece = bytes[..bytes.len().min(1000)].to_vec();
        if let Some(i) = self.flip.checked_sub(self.written).filter(|&i| i < piece.len()) {
            piece[i] ^= 1;
        }
        self.written += piece.len();
        self.file.write_all(&piece)?;
        Ok(piece.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl WriteFile for BrokenFile {
    fn sync(&mut self) -> io::Result<()> {
        step(&self.count, self.at)?;
        self.file.sync()
    }
}

fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..4 * 256).map(|i| (i as f32 * 0.7).sin()).collect();
    let tensors = [
        NewTensor::floats("w", Dtype::F32, &[4, 256], &values),
        NewTensor::floats("norm", Dtype::F32, &[16], &values[..16]),
    ];
    write(dir.path().join("in"), tensors, &Default::default()).unwrap();
    dir
}

fn quantize(dir: &Path, scheme: &str, fake: bool, disk: &Broken) -> crate::Result<()> {
    let options = QuantizeOptions { fake, replace: true, ..QuantizeOptions::new(scheme.parse().unwrap()) };
    let go_on = &mut |_| ControlFlow::Continue(());
    quantize_on(disk, &dir.join("in"), &dir.join("out"), &options, go_on).map(drop)
}

fn listed(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn whatever_fails_nothing_is_left_and_the_old_file_stays() {
    let dir = workshop();
    for fake in [false, true] {
        let mut failed = 0;
        loop {
            fs::write(dir.path().join("out"), "old").unwrap();
            match quantize(dir.path(), "int4-g32", fake, &Broken::new(failed, usize::MAX)) {
                Ok(()) => break,
                Err(error) => assert!(error.to_string().contains("a broken disk"), "{error}"),
            }
            assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"old", "operation {failed}");
            assert_eq!(listed(dir.path()), 2, "operation {failed}");
            failed += 1;
        }
        // Space, file, lock, pieces, sync, the lock of the proof, name.
        assert!(failed > 7, "{failed}");
    }
}

#[test]
fn a_bit_that_turned_on_the_disk_is_found() {
    let dir = workshop();
    for (scheme, fake) in
        [("int4-g32", false), ("nvfp4", false), ("q8_0", false), ("int8", false), ("mxfp4", true)]
    {
        quantize(dir.path(), scheme, fake, &Broken::new(usize::MAX, usize::MAX)).unwrap();
        let whole = fs::read(dir.path().join("out")).unwrap();
        let data = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        fs::write(dir.path().join("out"), "old").unwrap();
        // In the data every bit counts; the header has its own rules.
        for byte in (data..whole.len()).step_by(7) {
            let result = quantize(dir.path(), scheme, fake, &Broken::new(usize::MAX, byte));
            let error = result.expect_err(&format!("{scheme}: byte {byte}"));
            let known = matches!(error, Error::Proof { .. } | Error::Format(_) | Error::Quant(_));
            assert!(known, "{scheme}: byte {byte}: {error}");
            assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"old");
            assert_eq!(listed(dir.path()), 2);
        }
    }
}
