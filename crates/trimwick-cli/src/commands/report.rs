//! `trimwick report`: finished runs as a page.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use trimwick_report::PAGE;

use super::print;
use crate::args::ReportArgs;
use crate::error::{BadInput, DONE, bad_input};
use crate::progress::line;
use crate::text::{plain, plain_json};

/// Writes the page of one run, or of several side by side, and prints the files written.
///
/// # Errors
/// [`trimwick_report::Error`].
pub(super) fn report(args: &ReportArgs) -> Result<u8> {
    let written = match (&args.tensorboard, args.runs.as_slice()) {
        (Some(to), runs) => events(runs, to)?,
        (None, [run]) => match &args.out {
            Some(page) => {
                free(page, args.force)?;
                trimwick_report::write(run, page)?
            }
            None => trimwick_report::write(run, &run.join(PAGE))?,
        },
        (None, runs) => {
            let page = args.out.clone().unwrap_or_else(|| PAGE.into());
            free(&page, args.force || args.out.is_none())?;
            trimwick_report::compare(runs, &page)?;
            vec![page]
        }
    };
    let names = written.iter().map(|path| path.to_string_lossy());
    if args.json {
        print(&(plain_json(&json!({ "written": names.collect::<Vec<_>>() })) + "\n"))?;
    } else {
        names.into_iter().try_for_each(|name| print(&format!("{}\n", plain(&name))))?;
    }
    Ok(DONE)
}

/// Refuses a page that would take the place of something else: its picture goes beside it under its name with `.png`.
fn free(page: &Path, force: bool) -> Result<()> {
    if !page.extension().is_some_and(|ext| ext == "html" || ext == "htm") {
        return Err(bad_input("--out", "a name that ends in .html", plain(&page.to_string_lossy())));
    }
    for path in [page, &page.with_extension("png")] {
        let Ok(there) = path.symlink_metadata() else { continue };
        let name = plain(&path.to_string_lossy());
        if !there.is_file() {
            return Err(
                BadInput(format!("{name}: something that is no file is there; give another --out")).into()
            );
        }
        if !force {
            let text = format!("{name}: a file is there already; give another --out, or --force");
            return Err(BadInput(text).into());
        }
    }
    Ok(())
}

/// The metrics of runs for TensorBoard: a folder for each arm, in one for each run where there are several.
fn events(runs: &[PathBuf], to: &Path) -> Result<Vec<PathBuf>> {
    let (mut names, mut written): (Vec<OsString>, _) = (Vec::new(), Vec::new());
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
        written.extend(trimwick_report::tensorboard(run, &folder)?);
    }
    Ok(written)
}

/// The page of a run that has just ended. The run is done whatever becomes of it.
pub(super) fn of_run(folder: &Path) -> Vec<PathBuf> {
    trimwick_report::write(folder, &folder.join(PAGE)).unwrap_or_else(|error| {
        line(&format!("no report: {error}"));
        Vec::new()
    })
}
