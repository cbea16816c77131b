//! `trimwick verify`: an export read back by its reader.

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_export::Verified;

use super::print;
use crate::args::VerifyArgs;
use crate::error::DONE;
use crate::progress::line;
use crate::text::{bytes, count, percent, plain, plain_json};

/// Decodes every tensor of an export and compares it with another model.
///
/// # Errors
/// [`trimwick_export::Error`] for the first thing that differs or cannot be read.
pub(super) fn verify(args: &VerifyArgs) -> Result<u8> {
    let found = trimwick_export::verify(&args.path, args.against.as_deref())?;
    found.notes.iter().for_each(|note| line(note));
    print(&if args.json { plain_json(&to_json(args, &found)) + "\n" } else { text(args, &found) })?;
    Ok(DONE)
}

/// One line.
fn text(args: &VerifyArgs, found: &Verified) -> String {
    let sparse = match found.sparse {
        0 => String::new(),
        n => format!(", {n} of them 2:4 in all of {} groups", count(found.groups)),
    };
    let compared = match &args.against {
        Some(other) => format!(
            "{} values equal to those of {}, bit for bit",
            count(found.compared),
            plain(&other.to_string_lossy())
        ),
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

fn to_json(args: &VerifyArgs, found: &Verified) -> Value {
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
        "notes": found.notes,
    })
}
