//! `trimwick verify`: an export read back by its reader, value by value and as a model.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_export::Verified;
use trimwick_recipe::run::{RunError, RunMeasure, measure_file};
use trimwick_train::Evaluation;

use super::print;
use crate::args::VerifyArgs;
use crate::error::DONE;
use crate::progress::{Meter, line};
use crate::text::{bytes, count, percent, perplexity, plain, plain_json};

/// Decodes every tensor of an export and compares it with another model; computes the perplexity from the file, and
/// compares that with what a run found.
///
/// # Errors
/// [`trimwick_export::Error`] for the first thing that differs or cannot be read, [`trimwick_recipe::run::RunError`] for a
/// perplexity that does.
pub(super) fn verify(args: &VerifyArgs) -> Result<u8> {
    let found = trimwick_export::verify(&args.path, args.against.as_deref())?;
    found.notes.iter().for_each(|note| line(note));
    if !args.json {
        print(&text(args, &found))?;
    }
    let measured = match args.against.as_deref() {
        Some(run) if run.join("summary.json").is_file() => measure(&args.path, run)?,
        _ => None,
    };
    match (args.json, &measured) {
        (true, _) => print(&(plain_json(&to_json(args, &found, measured.as_ref())) + "\n"))?,
        (false, Some(measured)) => print(&perplexities(measured))?,
        (false, None) => {}
    }
    Ok(DONE)
}

/// What a file computes on the held-out text of a run, and what the run found there.
struct Measured {
    run: RunMeasure,
    found: Evaluation,
}

/// Nothing where the run's recipe or its text is not here: the values have been compared by then.
fn measure(path: &Path, run: &Path) -> Result<Option<Measured>> {
    let run = match RunMeasure::of(run, path) {
        Err(RunError::Recipe(faults)) => {
            line(&format!("note: the perplexity is not compared: {faults}"));
            return Ok(None);
        }
        run => run?,
    };
    let mut meter = Meter::new("measuring");
    let context = run.windows.context();
    let mut progress = |done: usize, total: usize, loss: f64| meter.windows(done, total, context, loss);
    let found = measure_file(path, &run.windows, &mut progress, &|| false)?;
    // Nothing stops it, so that there is one.
    let found = found.ok_or_else(|| anyhow::anyhow!("measuring was stopped"))?;
    run.compare(path, &found)?;
    Ok(Some(Measured { run, found }))
}

/// One line.
fn text(args: &VerifyArgs, found: &Verified) -> String {
    let sparse = match found.sparse {
        0 => String::new(),
        n => format!(", {n} of them 2:4 in all of {} groups", count(found.groups)),
    };
    let compared = match &args.against {
        Some(other) => {
            let rounded = match found.rounded {
                0 => String::new(),
                n => format!(", and {} equal once rounded to 16 bits", count(n)),
            };
            let exact = count(found.compared - found.rounded);
            format!(
                "{exact} values equal to those of {}, bit for bit{rounded}",
                plain(&other.to_string_lossy())
            )
        }
        None => "every value read and finite; compared with nothing (--against)".into(),
    };
    format!(
        "{}: {} tensors, {} packed{sparse}; {} parameters, {} zeros; {}, {:.3} bits per parameter; {compared}\n",
        plain(&args.path.to_string_lossy()),
        found.tensors,
        found.packed,
        count(found.parameters),
        percent(found.zeros, found.parameters),
        bytes(found.bytes),
        found.bits(),
    )
}

/// One line more, where a perplexity was computed.
fn perplexities(Measured { run, found }: &Measured) -> String {
    let beside = match run.activations {
        false => "as near as sums in another order and 16 bits leave it",
        true => "with inputs, keys and values on their grid, which are in full here",
    };
    format!(
        "perplexity {} @{} from the file over {} tokens; the run's {}: {beside}\n",
        perplexity(found.perplexity),
        found.context,
        count(found.scored as u64),
        perplexity(run.arm.perplexity),
    )
}

fn to_json(args: &VerifyArgs, found: &Verified, measured: Option<&Measured>) -> Value {
    json!({
        "path": args.path.to_string_lossy(),
        "against": args.against.as_ref().map(|path| path.to_string_lossy()),
        "tensors": found.tensors,
        "packed": found.packed,
        "parameters": found.parameters,
        "zeros": found.zeros,
        "bytes": found.bytes,
        "bits_per_parameter": found.bits(),
        "sparse_2_4": found.sparse,
        "groups": found.groups,
        "compared": found.compared,
        "rounded": found.rounded,
        "measured": measured.map(|Measured { run, found }| json!({
            "loss": found.loss,
            "perplexity": found.perplexity,
            "context": found.context,
            "scored": found.scored,
            "run_loss": run.arm.loss,
            "run_perplexity": run.arm.perplexity,
            "compared": !run.activations,
        })),
        "notes": found.notes,
    })
}
