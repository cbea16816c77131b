//! The folder of a run: recipe, records of finished stages, checkpoints, results.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trimwick_formats::checkpoint::CheckpointDir;
use trimwick_formats::{atomic_write, read_small};

use super::error::{Result, RunError};
use super::place::check_place;
use super::summary::ARMS;
use crate::Recipe;

/// No record of a stage is as long, in bytes.
pub(crate) const LARGEST: u64 = 1 << 20;
/// Says whose the folder is; in `stages`.
pub(crate) const FINGERPRINT: &str = "fingerprint";
/// The recipe with every default written out.
pub(crate) const RECIPE: &str = "recipe.toml";

/// A stage that is done: what it found, and what it cost.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<T> {
    fingerprint: String,
    seconds: f64,
    peak_rss_bytes: Option<u64>,
    result: T,
}

/// What the finished stages cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) peak_rss_bytes: Option<u64>,
}

/// The folder of a run, held by one process at a time.
pub(crate) struct RunFolder {
    path: PathBuf,
    fingerprint: String,
    // Holds the folder's lock for as long as the run lasts.
    _lock: CheckpointDir,
    cost: Cost,
    /// When the last stage of this process ended.
    mark: Instant,
}

impl RunFolder {
    /// Takes the folder for `recipe`, making it if it is missing.
    ///
    /// # Errors
    /// As [`check_place`]; [`trimwick_formats::Error::Locked`].
    pub(crate) fn open(path: &Path, recipe: &Recipe) -> Result<Self> {
        check_place(path, recipe)?;
        let fingerprint = recipe.fingerprint();
        let lock = CheckpointDir::open(path.join("stages"))?;
        // Another process may have taken it for another recipe in between.
        check_place(path, recipe)?;
        let named = path.join("stages").join(FINGERPRINT);
        if read_small(&named, LARGEST)?.is_none() {
            atomic_write(&named, fingerprint.as_bytes())?;
        }
        // The same run may be asked for other formats.
        let (written, resolved) = (path.join(RECIPE), recipe.resolve());
        if read_small(&written, LARGEST)?.as_deref() != Some(resolved.as_bytes()) {
            atomic_write(&written, resolved.as_bytes())?;
        }
        Ok(Self { path: path.into(), fingerprint, _lock: lock, cost: Cost::default(), mark: Instant::now() })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.path
    }

    /// Whether any arm is measured.
    pub(crate) fn has_records(&self) -> bool {
        ARMS.iter().any(|arm| self.record(arm).exists())
    }

    /// A path in the folder.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Fingerprint of the recipe.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What the stages so far cost, those of earlier processes included.
    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }

    /// The result of a stage that is done.
    pub(crate) fn done<T: DeserializeOwned>(&mut self, stage: &str) -> Result<Option<T>> {
        let path = self.record(stage);
        let Some(text) = read_small(&path, LARGEST)? else { return Ok(None) };
        let record: Record<T> = serde_json::from_slice(&text)
            .map_err(|source| RunError::Record { path: path.clone(), source })?;
        if record.fingerprint != self.fingerprint {
            let short = |text: &str| text.escape_debug().take(12).collect::<String>();
            let (expected, found) = (short(&self.fingerprint), short(&record.fingerprint));
            return Err(RunError::Stale { path, what: "fingerprint", expected, found });
        }
        if !(record.seconds.is_finite() && record.seconds >= 0.) {
            let (expected, found) = ("a time".to_string(), record.seconds.to_string());
            return Err(RunError::Stale { path, what: "seconds", expected, found });
        }
        self.add(record.seconds, record.peak_rss_bytes);
        Ok(Some(record.result))
    }

    /// Records a stage as done: from here on no run of the recipe repeats it. All time since the stage before
    /// counts as its own.
    pub(crate) fn finish<T: Serialize>(&mut self, stage: &str, result: &T) -> Result<()> {
        let path = self.record(stage);
        let (seconds, peak_rss_bytes) = (self.mark.elapsed().as_secs_f64(), peak_rss_bytes());
        self.mark = Instant::now();
        let record = Record { fingerprint: self.fingerprint.clone(), seconds, peak_rss_bytes, result };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|source| RunError::Record { path: path.clone(), source })?;
        atomic_write(&path, &text)?;
        self.add(seconds, peak_rss_bytes);
        Ok(())
    }

    fn add(&mut self, seconds: f64, peak_rss_bytes: Option<u64>) {
        self.cost.seconds += seconds;
        self.cost.peak_rss_bytes = self.cost.peak_rss_bytes.max(peak_rss_bytes);
    }

    /// The record of a stage.
    pub(crate) fn record(&self, stage: &str) -> PathBuf {
        self.path.join("stages").join(format!("{stage}.json"))
    }
}

/// Largest resident set of this process so far, where the system tells (Linux).
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
