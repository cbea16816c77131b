//! The verbs, a file each.

mod bench;
mod check;
mod eval;
mod generate;
mod inspect;
mod order;
mod preview;
mod probe;
mod quantize;
mod recipes;
mod report;
mod run;
mod shell;
mod survey;
mod verify;

use std::io::Write;

use anyhow::Result;

use crate::args::{Cli, Verb};

/// Carries out a command line and gives the exit code.
///
/// # Errors
/// Whatever ended the command; [`crate::error`] knows what to say and which code it is.
pub(crate) fn carry_out(cli: &Cli) -> Result<u8> {
    match &cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Check(args) => check::check(args),
        Verb::Preview(args) => preview::preview(args),
        Verb::Eval(args) => eval::eval(args),
        Verb::Bench(args) => bench::bench(args),
        Verb::Generate(args) => generate::generate(args),
        Verb::Inspect(args) => inspect::inspect(args),
        Verb::Quantize(args) => quantize::quantize(args),
        Verb::Verify(args) => verify::verify(args),
        Verb::Report(args) => report::report(args),
        Verb::Recipes(args) => recipes::recipes(args),
        Verb::Completions { shell } => shell::completions(*shell),
        Verb::Man(args) => shell::man(args),
    }
}

/// Writes results to standard output. `println!` would panic when the reader of a pipe has gone.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
