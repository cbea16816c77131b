//! The trimwick command line: prune, train back, measure, generate, inspect.
//!
//! Each verb is a file in `commands`. Results go to standard output; progress, notes and errors go to standard error, an
//! error being one line that begins with `error: `. What the exit codes mean is in `error` and in `--help`.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod environment;
mod error;
mod memory;
mod model;
mod progress;
mod signals;
mod table;
mod text;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Tensors come and go by the hundred megabytes. glibc maps each of them anew, and the page faults cost more time than much
/// of the arithmetic; mimalloc keeps the pages, once `environment` has told it to.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    print_panics_once();
    let code = match environment::settle().and_then(|()| Ok(signals::report_full_files()?)) {
        Err(e) => error::report(&e),
        Ok(()) => start(),
    };
    ExitCode::from(code)
}

/// A panic of a library that becomes an error of the file that caused it is printed as that error alone.
fn print_panics_once() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !trimwick_formats::is_guarded() {
            print(panic);
        }
    }));
}

/// Takes the command line and carries it out.
fn start() -> u8 {
    match args::Cli::try_parse() {
        Ok(cli) => commands::carry_out(&cli).unwrap_or_else(|e| error::report(&e)),
        Err(e) => refuse(&e),
    }
}

/// Help and version are printed as they are; of anything else there is one line.
fn refuse(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever closed the pipe has seen enough.
            let _ = error.print();
            error::DONE
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            error::BAD_INPUT
        }
        ErrorKind::InvalidUtf8 => {
            let bad = std::env::args_os().find(|arg| arg.to_str().is_none()).unwrap_or_default();
            error::say(&format!("argument {:?}: expected UTF-8, found other bytes", bad.to_string_lossy()));
            error::BAD_INPUT
        }
        _ => {
            error::say(&error::usage(error));
            error::BAD_INPUT
        }
    }
}
