//! Why there is no report.

use std::path::PathBuf;

/// Why a report was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder that is no finished run.
    #[error("{}: no summary.json here; found {found}: give the folder of a finished run, or finish it with `trimwick run`", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A file of a run that cannot be read.
    #[error("{}: {problem}; the run's own command writes its results anew", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A line of a metrics file that is none.
    #[error("{}:{line}: expected a step or a validation of a run, found {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is there.
        found: String,
    },
    /// The weights of a run.
    #[error(transparent)]
    Weights(#[from] trimwick_formats::Error),
    /// A chart that could not be drawn.
    #[error("chart {name:?}: {problem}")]
    Chart {
        /// What it shows.
        name: &'static str,
        /// What its library says.
        problem: String,
    },
    /// Two runs of one name, which a comparison could not tell apart.
    #[error("two runs are called {name:?}: give folders of other names")]
    SameName {
        /// The name.
        name: String,
    },
}

/// A report, or why there is none.
pub type Result<T> = std::result::Result<T, Error>;
