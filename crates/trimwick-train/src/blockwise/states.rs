//! Hidden states of many windows: in memory up to a limit, in a file past it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use trimwick_formats::ByteSource;

use crate::{Error, Result};

/// Bytes of a value.
const WIDTH: usize = size_of::<f32>();

struct Budget {
    /// Where files go; nowhere when everything stays in memory.
    folder: Option<PathBuf>,
    limit: u64,
    /// Bytes of states that are in memory.
    held: AtomicU64,
    /// Files that were made.
    files: AtomicU64,
}

/// How much memory hidden states may take, and the folder for what exceeds it. Clones share the limit.
#[derive(Clone)]
pub struct Spill(Arc<Budget>);

impl Spill {
    /// At most `limit` bytes of states in memory, the others in files in `folder`. Files are made when they are needed
    /// and removed with their states; what a killed process left in the folder is removed here.
    ///
    /// # Errors
    /// A folder that cannot be made or cleaned.
    pub fn new(folder: &Path, limit: u64) -> Result<Self> {
        let io = |doing| Error::io(folder, doing);
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(io("remove the hidden states of an earlier process"))?;
        }
        fs::create_dir_all(folder).map_err(io("create the folder of hidden states"))?;
        Ok(Self::of(Some(folder.into()), limit))
    }

    /// Everything in memory.
    pub fn memory() -> Self {
        Self::of(None, u64::MAX)
    }

    fn of(folder: Option<PathBuf>, limit: u64) -> Self {
        let (held, files) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Budget { folder, limit, held, files }))
    }

    /// Bytes of states that are in memory now.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Files made so far.
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// Takes room in memory, if there is enough left.
    fn take(&self, bytes: u64) -> bool {
        let fits = |held: u64| held.checked_add(bytes).filter(|&held| held <= self.0.limit);
        self.0.folder.is_none()
            || self.0.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// Where the states of a window are.
enum Slot {
    Memory(Tensor),
    File { offset: u64, dims: Vec<usize> },
}

/// The hidden states of a list of windows at one place of a model, `[b, t, hidden]` each, f32.
pub struct States {
    slots: Vec<Slot>,
    device: Device,
    file: Option<Scratch>,
    spill: Spill,
    /// Bytes taken from the limit.
    taken: u64,
}

impl States {
    /// The states that `of` gives for each of `count` windows, in order. `None` as soon as `of` gives none.
    ///
    /// # Errors
    /// Those of `of`; a file that cannot be written; states in another dtype than f32.
    pub fn collect<E: From<Error>>(
        spill: &Spill,
        count: usize,
        mut of: impl FnMut(usize) -> std::result::Result<Option<Tensor>, E>,
    ) -> std::result::Result<Option<Self>, E> {
        let mut states =
            Self { slots: Vec::new(), device: Device::Cpu, file: None, spill: spill.clone(), taken: 0 };
        let mut out = None;
        for index in 0..count {
            let Some(x) = of(index)? else { return Ok(None) };
            states.push(x.detach(), &mut out)?;
        }
        if let (Some(out), Some(file)) = (out, &mut states.file) {
            file.finish(out)?;
        }
        Ok(Some(states))
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no windows.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The states of window `index`, detached.
    ///
    /// # Errors
    /// A file that cannot be read.
    ///
    /// # Panics
    /// When `index` is not below the number of windows.
    pub fn get(&self, index: usize) -> Result<Tensor> {
        match (&self.slots[index], &self.file) {
            (Slot::Memory(x), _) => Ok(x.clone()),
            (Slot::File { offset, dims }, Some(file)) => Ok(Tensor::from_vec(
                file.read(*offset, dims.iter().product())?,
                dims.as_slice(),
                &Device::Cpu,
            )?
            .to_device(&self.device)?),
            // A slot in a file is made together with the file.
            (Slot::File { .. }, None) => Err(Error::setting("states", "a file of states", "none")),
        }
    }

    /// The states of several windows of one length, one below the other: `[windows·b, t, hidden]`.
    ///
    /// # Errors
    /// A file that cannot be read, windows of different lengths.
    pub fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        let windows = indices.iter().map(|&i| self.get(i)).collect::<Result<Vec<_>>>()?;
        match windows.as_slice() {
            [one] => Ok(one.clone()),
            windows => Ok(Tensor::cat(windows, 0)?),
        }
    }

    fn push(&mut self, x: Tensor, out: &mut Option<BufWriter<File>>) -> Result<()> {
        if x.dtype() != DType::F32 {
            return Err(Error::DType { name: "hidden states".into(), found: x.dtype() });
        }
        let bytes = (x.elem_count() * WIDTH) as u64;
        if self.spill.take(bytes) {
            self.taken += bytes;
            self.slots.push(Slot::Memory(x));
            return Ok(());
        }
        let (file, out) = match (&mut self.file, out) {
            (Some(file), Some(out)) => (file, out),
            (file, out) => {
                let (scratch, writer) = Scratch::new(&self.spill)?;
                (file.insert(scratch), out.insert(writer))
            }
        };
        self.device = x.device().clone();
        let values = x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let offset = file.write(out, &values)?;
        self.slots.push(Slot::File { offset, dims: x.dims().to_vec() });
        Ok(())
    }
}

impl Drop for States {
    fn drop(&mut self) {
        if self.spill.0.folder.is_some() {
            self.spill.0.held.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}

/// A file that lives as long as its states.
struct Scratch {
    path: PathBuf,
    len: u64,
    source: Option<ByteSource>,
}

impl Scratch {
    fn new(spill: &Spill) -> Result<(Self, BufWriter<File>)> {
        let number = spill.0.files.fetch_add(1, Ordering::Relaxed);
        let folder = spill.0.folder.as_deref().unwrap_or(Path::new("."));
        let path = folder.join(format!("states-{number}.f32"));
        let file = File::create_new(&path).map_err(Error::io(&path, "create a file of hidden states"))?;
        Ok((Self { path, len: 0, source: None }, BufWriter::with_capacity(1 << 20, file)))
    }

    /// Appends values and says where they begin.
    fn write(&mut self, out: &mut BufWriter<File>, values: &[f32]) -> Result<u64> {
        let offset = self.len;
        let mut bytes = Vec::with_capacity(WIDTH << 14);
        for piece in values.chunks(1 << 14) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes()));
            out.write_all(&bytes).map_err(Error::io(&self.path, "write hidden states"))?;
        }
        self.len += (values.len() * WIDTH) as u64;
        Ok(offset)
    }

    fn finish(&mut self, out: BufWriter<File>) -> Result<()> {
        out.into_inner().map_err(|error| Error::io(&self.path, "write hidden states")(error.into_error()))?;
        self.source = Some(ByteSource::open(&self.path)?);
        Ok(())
    }

    fn read(&self, offset: u64, count: usize) -> Result<Vec<f32>> {
        let Some(source) = &self.source else {
            return Err(Error::setting("states", "a file that is written", "one that is being written"));
        };
        let mut values = Vec::with_capacity(count);
        let mut bytes = vec![0; WIDTH << 14];
        let mut at = offset;
        while values.len() < count {
            let piece = &mut bytes[..WIDTH * (count - values.len()).min(1 << 14)];
            source.read_exact_at(at, piece)?;
            values.extend(piece.chunks_exact(WIDTH).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            at += piece.len() as u64;
        }
        Ok(values)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what is left is removed when the folder is used again.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(i: usize) -> Tensor {
        let values: Vec<f32> = (0..12).map(|v| (v as f32 - 5.) / (i as f32 + 0.3)).collect();
        Tensor::from_vec(values, (1, 3, 4), &Device::Cpu).unwrap()
    }

    fn of(spill: &Spill) -> States {
        States::collect::<Error>(spill, 5, |i| Ok(Some(window(i)))).unwrap().unwrap()
    }

    #[test]
    fn states_past_the_limit_are_in_files_and_the_same() {
        let bits = |t: Tensor| {
            let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("states");
        let files = || fs::read_dir(&folder).unwrap().count();
        for (limit, held, count) in [(0, 0, 1), (48 * 2 + 1, 96, 1), (1 << 20, 240, 0)] {
            let spill = Spill::new(&folder, limit).unwrap();
            let states = of(&spill);
            assert_eq!((spill.held(), spill.files(), files()), (held, count, count as usize), "{limit}");
            for i in 0..5 {
                assert_eq!(bits(states.get(i).unwrap()), bits(window(i)), "{limit}: window {i}");
            }
            assert_eq!(states.batch(&[4, 0]).unwrap().dims(), [2, 3, 4]);
            drop(states);
            assert_eq!((spill.held(), files()), (0, 0), "{limit}: everything is given back");
        }
    }

    #[test]
    fn a_new_spill_removes_what_was_left_and_a_stop_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("states-0.f32"), "left").unwrap();
        let spill = Spill::new(dir.path(), 0).unwrap();
        let half = States::collect::<Error>(&spill, 5, |i| Ok((i < 2).then(|| window(i)))).unwrap();
        assert!(half.is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let wide = States::collect::<Error>(&spill, 1, |_| Ok(Some(window(0).to_dtype(DType::F64)?)));
        assert!(matches!(wide.err(), Some(Error::DType { .. })));
    }
}
