//! What a run found, as one page that needs nothing but itself.
//!
//! [`write()`] reads a finished run's folder (`summary.json`, the metrics of each trained arm, the resolved recipe, the
//! command, the written weights, and [`BENCH`] where `trimwick bench --into` has measured) and writes `report.html` beside
//! them: no script, no network, charts as SVG, light and dark, fit to print. It says first whether training helped, and says so plainly when it did not. [`compare`] puts several runs on
//! one page.
//!
//! Everything is read from files: an old run can be reported again, and a report cannot say what the files do not.
//! Perplexities come with intervals: the windows of text are resampled (a percentile bootstrap of whole windows, since
//! tokens of one window depend on each other), and arms are compared window by window.
//!
//! A crate of its own above `trimwick-recipe`: whoever embeds recipes has no need for charts and typefaces.

#![forbid(unsafe_code)]

mod charts;
mod compare;
mod error;
mod page;
mod parts;
mod passes;
mod png;
mod run;
mod shipped;
mod stats;
mod tensorboard;
mod weights;
mod words;

use std::path::{Path, PathBuf};

pub use error::{Error, Result};
pub use run::COMMAND;
pub use shipped::BENCH;
pub use tensorboard::tensorboard;
pub use words::{Tone, Verdict, gap, verdict};

use run::Run;

/// The page's name in a run's folder.
pub const PAGE: &str = "report.html";

/// Writes the page of a finished run and, where something was trained, its chart of losses beside it as a `.png`. Gives
/// the files written, the page first.
///
/// # Errors
/// [`Error::NoRun`] for a folder that is none, [`Error::File`] and [`Error::Line`] for broken files, [`Error::Weights`].
pub fn write(folder: &Path, page: &Path) -> Result<Vec<PathBuf>> {
    let run = Run::read(folder)?;
    let mut written = vec![save(page, page::of(&run)?.as_bytes())?];
    let chart = parts::losses(std::slice::from_ref(&run))?;
    if !chart.is_empty() {
        written.push(save(&page.with_extension("png"), &png::png("losses", &chart)?)?);
    }
    Ok(written)
}

/// Writes a page that has several finished runs side by side.
///
/// # Errors
/// As [`write()`]; [`Error::SameName`] for folders of one name.
pub fn compare(folders: &[PathBuf], to: &Path) -> Result<()> {
    let runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    for (i, run) in runs.iter().enumerate() {
        if runs[..i].iter().any(|other| other.name == run.name) {
            return Err(Error::SameName { name: run.name.clone() });
        }
    }
    save(to, compare::of(&runs)?.as_bytes()).map(drop)
}

fn save(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    trimwick_formats::atomic_write(path, bytes)?;
    Ok(path.into())
}
