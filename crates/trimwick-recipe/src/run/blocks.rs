//! The files of finished blocks: each with its digest, and what became of it.

use std::path::PathBuf;

use trimwick_formats::{atomic_write, read_small};
use trimwick_nn::LayerReport;
use trimwick_nn::LoadedBlock;
use trimwick_train::blockwise::BlockReport;

use super::error::{Result, RunError};
use super::folder::{LARGEST, RunFolder};
use super::{kept, snapshot};

/// The finished blocks of a run, by their numbers.
#[derive(Clone)]
pub(crate) struct Blocks {
    folder: PathBuf,
}

impl Blocks {
    /// Those in the run's folder, which may hold none yet.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub(crate) fn open(folder: &RunFolder) -> Result<Self> {
        let folder = folder.at("stages/blocks");
        std::fs::create_dir_all(&folder).map_err(|source| RunError::Io { path: folder.clone(), source })?;
        Ok(Self { folder })
    }

    /// The file of a block: every parameter and buffer, bit for bit.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:04}.safetensors"))
    }

    fn record(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:04}.json"))
    }

    fn passes_record(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:04}.passes.json"))
    }

    /// What one-shot passes did to the layers of a finished block.
    ///
    /// # Errors
    /// A record that is none.
    pub(crate) fn passes(&self, index: usize) -> Result<Vec<LayerReport>> {
        let path = self.passes_record(index);
        let Some(text) = read_small(&path, LARGEST)? else { return Ok(Vec::new()) };
        serde_json::from_slice(&text).map_err(|source| RunError::Record { path, source })
    }

    /// Keeps what passes did to a block: before the block itself, which is finished with its digest.
    pub(crate) fn keep_passes(&self, index: usize, reports: &[LayerReport]) -> Result<()> {
        let path = self.passes_record(index);
        let text = serde_json::to_vec_pretty(reports)
            .map_err(|source| RunError::Record { path: path.clone(), source })?;
        Ok(atomic_write(&path, &text)?)
    }

    /// What became of a finished block.
    ///
    /// # Errors
    /// A file that is not the one that was written; a record that is none.
    pub(crate) fn finished(&self, index: usize) -> Result<Option<BlockReport>> {
        if !kept::sealed(&self.path(index))? {
            return Ok(None);
        }
        let path = self.record(index);
        // Written before the seal: without it, the block is not finished.
        let Some(text) = read_small(&path, LARGEST)? else { return Ok(None) };
        let report = serde_json::from_slice(&text).map_err(|source| RunError::Record { path, source })?;
        Ok(Some(report))
    }

    /// Keeps a block: it is finished when its digest is there.
    pub(crate) fn keep(&self, index: usize, block: &LoadedBlock, report: &BlockReport) -> Result<()> {
        let (path, record) = (self.path(index), self.record(index));
        let text = serde_json::to_vec_pretty(report)
            .map_err(|source| RunError::Record { path: record.clone(), source })?;
        atomic_write(&record, &text)?;
        snapshot::save(&block.store, &path, |name| block.holds(name))?;
        kept::seal(&path)
    }
}
