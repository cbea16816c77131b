//! `trimwick completions` and `trimwick man`: what a shell and `man` know of the command line, made from its declaration.

use std::path::Path;

use anyhow::Result;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::print;
use crate::args::{Cli, ManArgs};
use crate::error::{DONE, bad_input};

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output that cannot be written to.
pub(super) fn completions(shell: Shell) -> Result<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trimwick", &mut out);
    print(&String::from_utf8_lossy(&out))?;
    Ok(DONE)
}

/// Prints the manual page, or writes one for each verb into a folder.
///
/// # Errors
/// A folder that cannot be made, files that cannot be written.
pub(super) fn man(args: &ManArgs) -> Result<u8> {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = &args.out else {
        print(&String::from_utf8_lossy(&page(&command)?))?;
        return Ok(DONE);
    };
    std::fs::create_dir_all(folder).map_err(|error| {
        bad_input("--out", "a folder, or a name for a new one", format!("{} ({error})", folder.display()))
    })?;
    let written = pages(&command, folder)?;
    print(&format!("wrote {written} pages to {}\n", folder.display()))?;
    Ok(DONE)
}

/// Writes the page of a command and those of its own commands; gives their number.
fn pages(command: &Command, folder: &Path) -> Result<usize> {
    // `build` has set the whole name: trimwick-recipes-ls.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    trimwick_formats::atomic_write(folder.join(format!("{name}.1")), &page(command)?)?;
    let own = command.get_subcommands().filter(|c| c.get_name() != "help");
    own.map(|command| pages(command, folder)).try_fold(1, |sum, written| Ok(sum + written?))
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut out)?;
    Ok(out)
}
