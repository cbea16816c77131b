//! What the process ends with: exit codes, and one line of text for each thing that is wrong.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use trimwick_export::Error as ExportError;
use trimwick_formats::Error as FormatError;
use trimwick_models::Error as ModelError;
use trimwick_nn::Error as NnError;
use trimwick_quant::Error as QuantError;
use trimwick_recipe::Faults;
use trimwick_recipe::run::RunError;
use trimwick_report::Error as ReportError;
use trimwick_train::Error as TrainError;

use crate::text::plain;

/// Everything was done.
pub(crate) const DONE: u8 = 0;
/// The work failed.
pub(crate) const FAILED: u8 = 1;
/// The input was bad: usage, a recipe, a file.
pub(crate) const BAD_INPUT: u8 = 2;

/// What the exit codes mean, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the work failed: a full disk, a lost connection, a loss that is not finite, an export that differs
  2    bad input: usage, a recipe, a file that is missing or malformed; nothing was written
  130  stopped by SIGINT (Ctrl-C); `run` has saved a checkpoint, and the same command continues
  143  stopped by SIGTERM, likewise";

/// An input that only the command line can judge.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// A [`BadInput`] as the error of a command: `what: expected …, found …`.
pub(crate) fn bad_input(what: &str, expected: impl fmt::Display, found: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(BadInput(format!("{what}: expected {expected}, found {found}")))
}

/// Says what went wrong on standard error, a line for each fault, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    // Whoever closes the pipe that results go to has seen enough: `trimwick inspect FILE | head`.
    if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return DONE;
    }
    match faults(error) {
        Some(faults) => faults.iter().for_each(|fault| say(&fault.to_string())),
        // Candle appends a backtrace to its messages where one is asked for.
        None => say(error.to_string().lines().next().unwrap_or("unknown")),
    }
    exit_code(error)
}

/// A line on standard error that starts with `error: `, red on a terminal.
pub(crate) fn say(message: &str) {
    let mut stderr = io::stderr().lock();
    let red = stderr.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
    let (on, off) = if red { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
    // With standard error closed there is nobody left to tell.
    let _ = writeln!(stderr, "{on}error:{off} {}", plain(message));
}

fn faults(error: &anyhow::Error) -> Option<&Faults> {
    match error.downcast_ref::<RunError>() {
        Some(RunError::Recipe(faults)) => Some(faults),
        _ => error.downcast_ref::<Faults>(),
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let bad = error.is::<BadInput>()
        || error.is::<Faults>()
        || error.downcast_ref::<RunError>().is_some_and(run)
        || error.downcast_ref::<ModelError>().is_some_and(model)
        || error.downcast_ref::<TrainError>().is_some_and(train)
        || error.downcast_ref::<NnError>().is_some_and(nn)
        || error.downcast_ref::<QuantError>().is_some_and(quant)
        || error.downcast_ref::<ExportError>().is_some_and(export)
        || error.downcast_ref::<ReportError>().is_some_and(page)
        || error.downcast_ref::<FormatError>().is_some_and(format)
        || error.downcast_ref::<candle_core::Error>().is_some_and(candle)
        || error.downcast_ref::<io::Error>().is_some_and(unreadable);
    if bad { BAD_INPUT } else { FAILED }
}

// Whether an error of each crate is about its input.

fn run(error: &RunError) -> bool {
    match error {
        RunError::Proof { .. }
        | RunError::Overflow { .. }
        | RunError::Stopped
        | RunError::Sparse(_)
        | RunError::Quant(_) => false,
        RunError::Io { source, .. } => unreadable(source),
        RunError::Model(e) => model(e),
        RunError::Train(e) => train(e),
        RunError::Nn(e) => nn(e),
        RunError::Format(e) => format(e),
        RunError::Export(e) => export(e),
        RunError::Candle(e) => candle(e),
        _ => true,
    }
}

fn page(error: &ReportError) -> bool {
    match error {
        ReportError::Chart { .. } => false,
        ReportError::Weights(e) => format(e),
        _ => true,
    }
}

fn model(error: &ModelError) -> bool {
    match error {
        // A connection that is lost, for the most part.
        ModelError::Hub { .. } => false,
        ModelError::Io { source, .. } => unreadable(source),
        ModelError::Format(e) => format(e),
        ModelError::Nn(e) => nn(e),
        ModelError::Candle(e) => candle(e),
        _ => true,
    }
}

fn train(error: &TrainError) -> bool {
    match error {
        TrainError::NonFinite { .. }
        | TrainError::Broken { .. }
        | TrainError::Scoring { .. }
        | TrainError::MissingGradient { .. }
        | TrainError::Hook { .. } => false,
        TrainError::Io { source, .. } => unreadable(source),
        TrainError::Nn(e) => nn(e),
        TrainError::Format(e) => format(e),
        TrainError::Candle(e) => candle(e),
        _ => true,
    }
}

fn nn(error: &NnError) -> bool {
    match error {
        NnError::Format(e) => format(e),
        NnError::Candle(e) => candle(e),
        _ => true,
    }
}

fn quant(error: &QuantError) -> bool {
    match error {
        QuantError::Nn(e) => nn(e),
        QuantError::Candle(e) => candle(e),
        _ => true,
    }
}

fn export(error: &ExportError) -> bool {
    match error {
        ExportError::Proof { .. }
        | ExportError::Mismatch { .. }
        | ExportError::Stopped
        | ExportError::Sparse(_) => false,
        ExportError::Model(e) => model(e),
        ExportError::Candle(e) => candle(e),
        ExportError::Quant(e) => quant(e),
        ExportError::Format(e) => format(e),
        _ => true,
    }
}

fn format(error: &FormatError) -> bool {
    match error {
        FormatError::Malformed { .. }
        | FormatError::Refused { .. }
        | FormatError::Missing { .. }
        | FormatError::NoModel { .. } => true,
        FormatError::Io { source, .. } => unreadable(source),
        _ => false,
    }
}

/// The crates below wrap what they find in a file while candle asks for a tensor of it, and candle forgets the type.
fn candle(error: &candle_core::Error) -> bool {
    use candle_core::Error;
    match error {
        Error::Wrapped(_) => true,
        Error::Context { inner, .. } | Error::WithPath { inner, .. } | Error::WithBacktrace { inner, .. } => {
            candle(inner)
        }
        _ => false,
    }
}

/// A path that is wrong, against a disk that is broken or full.
fn unreadable(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidData, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    matches!(
        error.kind(),
        NotFound
            | PermissionDenied
            | NotADirectory
            | IsADirectory
            | InvalidData
            | InvalidInput
            | InvalidFilename
    ) || error.raw_os_error().is_some_and(|code| code == LINK_LOOP)
}

/// Too many symbolic links, which has no stable `ErrorKind`.
const LINK_LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

/// The negative number that clap took for an option, if that is the error.
fn negative(error: &clap::Error) -> Option<&str> {
    use clap::error::{ContextKind, ContextValue};
    let text = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(text) => text.as_str(),
        _ => return None,
    };
    // It names the first letter alone.
    let is_number = text.strip_prefix('-')?.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    (error.kind() == clap::error::ErrorKind::UnknownArgument && is_number).then_some(text)
}

/// A usage error of clap's as one line: message, tips, usage.
pub(crate) fn usage(error: &clap::Error) -> String {
    if let Some(number) = negative(error) {
        return format!("{number} looks like an option; a negative number is given as --OPTION={number}");
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut out = String::new();
    for line in lines.take_while(|line| !line.starts_with("For more information")) {
        if let Some(usage) = line.strip_prefix("Usage: ") {
            out.push_str("; usage: ");
            out.push_str(usage);
        } else {
            // What clap advises for a value with a dash helps arguments alone, and options are what has them here.
            let dashed = line.starts_with("tip: to pass '");
            let line =
                if dashed { "tip: a value that begins with a dash is given as --OPTION=VALUE" } else { line };
            let tip = line.strip_prefix("tip: ");
            out.push_str(if out.is_empty() {
                ""
            } else if tip.is_some() {
                "; "
            } else {
                " "
            });
            out.push_str(tip.unwrap_or(line));
        }
    }
    out.strip_prefix("error: ").unwrap_or(&out).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_work_have_different_codes() {
        let io = |kind| io::Error::from(kind);
        let table: [(anyhow::Error, u8); 10] = [
            (bad_input("--text", "a file", "none"), BAD_INPUT),
            (FormatError::io("f", "open", io(io::ErrorKind::NotFound)).into(), BAD_INPUT),
            (FormatError::io("f", "write", io(io::ErrorKind::StorageFull)).into(), FAILED),
            (RunError::Format(FormatError::missing("f", "tensor", "t")).into(), BAD_INPUT),
            (TrainError::NonFinite { what: "the loss".into(), value: f64::NAN }.into(), FAILED),
            (RunError::Candle(candle_core::Error::wrap("x.gguf: tensor t: NaN")).into(), BAD_INPUT),
            (anyhow::Error::new(io(io::ErrorKind::Other)), FAILED),
            (ExportError::NoWeight { scheme: "nothing".into() }.into(), BAD_INPUT),
            (ExportError::from(FormatError::io("f", "write", io(io::ErrorKind::StorageFull))).into(), FAILED),
            (ExportError::Stopped.into(), FAILED),
        ];
        for (error, expected) in table {
            assert_eq!(exit_code(&error), expected, "{error}");
        }
    }
}
