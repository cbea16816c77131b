//! Trained models in the formats of the runtimes that serve them.
//!
//! What a layer trained under a quantizer computes with are codes and scales ([`trimwick_quant::quantized`]); those are
//! what is packed here, never values that would be rounded again. The way of every target is the same:
//!
//! 1. each quantized layer is given its form in the target (`fit`, `blocks`) or refused, before anything is written;
//! 2. tensors are written one after another, beside the final place;
//! 3. the files are opened by the importers of `trimwick-models` and every value compared with what the model computes
//!    with, bit for bit;
//! 4. only then they get their names.

mod blocks;
mod card;
mod companions;
mod config;
mod fit;
mod folder;
mod foresee;
mod fused;
mod gguf;
mod model;
mod part;
mod target;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use trimwick_formats::atomic_write;

pub use foresee::{Planned, check_fit};
pub use model::Trained;
pub use target::{Dense, DeployOptions, Target};
pub use verify::{Verified, verify};

use crate::Result;
use config::Named;

/// An export that was written and proved.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployed {
    /// The folder or file.
    pub path: PathBuf,
    /// The format.
    pub target: Target,
    /// What the proof found.
    pub verified: Verified,
    /// What the format does not hold of the model, a line each; the card has them too.
    pub notes: Vec<String>,
}

/// Exports a model to `out`: a folder, or for [`Target::Gguf`] a file with its card beside it (`.md`).
///
/// Memory is that of the model and of its largest tensor a few times. Whatever fails, nothing is left behind, and what
/// was at `out` is as it was.
///
/// # Errors
/// [`Error::Refused`](crate::Error::Refused) for a layer that the target cannot hold exactly, with what can;
/// [`Error::Occupied`](crate::Error::Occupied); [`Error::Mismatch`](crate::Error::Mismatch) if the written files hold
/// anything else than the model; a full disk.
pub fn deploy(trained: &Trained<'_>, options: &DeployOptions, out: &Path) -> Result<Deployed> {
    let pieces = trained.pieces()?;
    let mut notes = Vec::new();
    if matches!(options.target, Target::Gguf | Target::Hf | Target::Sparse24) {
        let inputs = pieces.iter().filter(|piece| piece.input.is_some()).count();
        if inputs > 0 {
            notes.push(format!(
                "{inputs} layers were trained with quantized inputs; this format has no word for that, and a runtime \
                 rounds them in its own way or not at all"
            ));
        }
    }
    if options.target == Target::Gguf {
        let found = Mutex::new(None);
        let prove = |path: &Path| {
            let verified = verify::against_model(path, trained)?;
            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(verified);
            Ok(())
        };
        gguf::write(trained, options, out, &prove)?;
        let verified = found.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
        let layers = named(&pieces);
        let card = card::text(options, &layers, verified.bits(), verified.bytes, &notes);
        atomic_write(out.with_extension("md"), card.as_bytes())?;
        return Ok(Deployed { path: out.into(), target: options.target, verified, notes });
    }
    let aside = folder::Aside::new(out, options.replace)?;
    let written = folder::write(trained, &pieces, options, &aside.path)?;
    notes.extend(written.notes);
    let verified = verify::against_model(&aside.path, trained)?;
    let layers = if options.target == Target::Hf { named(&pieces) } else { written.layers };
    let card = card::text(options, &layers, verified.bits(), verified.bytes, &notes);
    atomic_write(aside.path.join("README.md"), card.as_bytes())?;
    aside.finish(out)?;
    Ok(Deployed { path: out.into(), target: options.target, verified, notes })
}

/// The quantized layers, for the card.
fn named(pieces: &[model::Piece]) -> Vec<Named> {
    let of = |piece: &model::Piece| {
        Some(Named { path: piece.path.clone(), weight: piece.weight?, input: piece.input, format: "" })
    };
    pieces.iter().filter_map(of).collect()
}
