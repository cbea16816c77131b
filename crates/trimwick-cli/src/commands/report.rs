//! `trimwick report`: finished runs as a page.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use trimwick_report::PAGE;

use super::print;
use crate::args::ReportArgs;
use crate::error::{DONE, bad_input};
use crate::progress::line;
use crate::text::plain;

/// Writes the page of one run, or of several side by side, and prints the files written.
///
/// # Errors
/// [`trimwick_report::Error`].
pub(super) fn report(args: &ReportArgs) -> Result<u8> {
    if let Some(to) = &args.tensorboard {
        return events(&args.runs, to);
    }
    let written = match args.runs.as_slice() {
        [run] => trimwick_report::write(run, &args.out.clone().unwrap_or_else(|| run.join(PAGE)))?,
        runs => {
            let page = args.out.clone().unwrap_or_else(|| PAGE.into());
            trimwick_report::compare(runs, &page)?;
            vec![page]
        }
    };
    written.iter().try_for_each(|path| print(&format!("{}\n", plain(&path.to_string_lossy()))))?;
    Ok(DONE)
}

/// The metrics of runs for TensorBoard: a folder for each arm, in one for each run where there are several.
fn events(runs: &[PathBuf], to: &Path) -> Result<u8> {
    let mut names: Vec<OsString> = Vec::new();
    for run in runs {
        // `.` and `..` have names too.
        let whole = run.canonicalize().unwrap_or_else(|_| run.clone());
        let name = whole.file_name().unwrap_or_default().to_os_string();
        if names.contains(&name) {
            let found = format!("two that are called {}", name.display());
            return Err(bad_input("--tensorboard", "runs of different names", found));
        }
        let folder = if runs.len() == 1 { to.into() } else { to.join(&name) };
        names.push(name);
        for path in trimwick_report::tensorboard(run, &folder)? {
            print(&format!("{}\n", plain(&path.to_string_lossy())))?;
        }
    }
    Ok(DONE)
}

/// The page of a run that has just ended. The run is done whatever becomes of it.
pub(super) fn of_run(folder: &Path) -> Vec<PathBuf> {
    trimwick_report::write(folder, &folder.join(PAGE)).unwrap_or_else(|error| {
        line(&format!("no report: {error}"));
        Vec::new()
    })
}
