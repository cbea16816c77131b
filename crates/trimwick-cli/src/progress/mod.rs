//! How far the work is: a bar on a terminal, a line now and then elsewhere; always on standard error, so that standard
//! output holds results alone.

mod dashboard;
mod meter;
mod pace;
mod run;
mod show;

pub(crate) use dashboard::{Dashboard, Keys, restore};
pub(crate) use meter::Meter;
pub(crate) use run::RunProgress;
pub(crate) use show::{Lines, Show};

use std::io::{self, IsTerminal, Write};

/// Whether standard error can show a bar.
fn has_bars() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A line on standard error.
pub(crate) fn line(text: &str) {
    // With standard error closed there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{}", crate::text::plain(text));
}
