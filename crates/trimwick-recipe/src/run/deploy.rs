//! `export.targets`: the trained model in the formats of the runtimes that will serve it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use trimwick_export::{Dense, DeployOptions, Target, Trained, Verified, deploy};
use trimwick_formats::sha256_file;

use super::error::{Result, RunError};
use super::event::{Event, Stage};
use super::origin::Built;
use super::proof::{Export, compare, measure_file};
use super::stages::Run;
use crate::{ExportDtype, ExportTarget};

/// The folder of the exports in that of the run.
const EXPORTS: &str = "exports";

impl Run<'_, '_> {
    /// Writes the model in every format that the recipe names, each proved against what the model computes with, value by
    /// value and by its perplexity.
    pub(crate) fn deploy(&mut self, built: &Built) -> Result<Vec<Export>> {
        let (recipe, origin) = (self.recipe, self.origin);
        let spec = &recipe.export;
        let mut exports = Vec::with_capacity(spec.targets.len());
        if spec.targets.is_empty() {
            return Ok(exports);
        }
        let folder = self.folder.at(EXPORTS);
        std::fs::create_dir_all(&folder).map_err(|source| RunError::Io { path: folder.clone(), source })?;
        let trained =
            Trained { store: &built.store, config: &origin.config, tokenizer: Some(&origin.tokenizer) };
        for target in &spec.targets {
            self.go_on()?;
            let options = DeployOptions {
                dense: dense_of(spec.dense),
                companions: origin.folder.clone(),
                card: self.card(),
                replace: true,
                ..DeployOptions::new(format_of(*target), recipe.name.clone())
            };
            let out = match target {
                ExportTarget::Gguf => folder.join("model.gguf"),
                other => folder.join(other.name()),
            };
            let deployed = deploy(&trained, &options, &out)?;
            deployed.notes.into_iter().for_each(|note| (self.report)(Event::Note(note)));
            let export = self.proved(built, *target, &out, &deployed.verified)?;
            (self.report)(Event::Note(format!(
                "{}: {:.1} MB, {:.3} bits per parameter, {} values equal to the trained ones bit for bit and {} once rounded to 16 bits; perplexity {:.4} from the file",
                export.target,
                export.bytes as f64 / 1e6,
                export.bits_per_parameter,
                export.compared - export.rounded,
                export.rounded,
                export.perplexity,
            )));
            exports.push(export);
        }
        Ok(exports)
    }

    /// Measures an export from its file, unless an earlier process did.
    fn proved(
        &mut self,
        built: &Built,
        target: ExportTarget,
        out: &Path,
        verified: &Verified,
    ) -> Result<Export> {
        let name = target.name();
        let record = format!("export-{name}");
        let path = out.strip_prefix(self.folder.root()).unwrap_or(out).to_string_lossy().into_owned();
        let found = Export {
            target: name.into(),
            path,
            dense: self.recipe.export.dense.name().into(),
            digests: digests(out)?,
            bytes: verified.bytes,
            bits_per_parameter: verified.bits(),
            compared: verified.compared,
            rounded: verified.rounded,
            loss: 0.,
            perplexity: 0.,
        };
        if let Some(done) = self.folder.done::<Export>(&record)?
            && done == (Export { loss: done.loss, perplexity: done.perplexity, ..found.clone() })
        {
            return Ok(done);
        }
        (self.report)(Event::Begin(Stage::Evaluate(name)));
        let (report, stop) = (&mut self.report, self.stop);
        let mut progress = |done, total, loss| report(Event::Part { done, total, loss: Some(loss) });
        let stopped = || stop.load(Ordering::Relaxed);
        let evaluation =
            measure_file(out, &self.held_out, &mut progress, &stopped)?.ok_or(RunError::Stopped)?;
        let layers = built.store.layers();
        let grids = layers.iter().any(|layer| layer.activation().is_some())
            || built.store.kv_slots().iter().any(|slot| slot.k().is_some() || slot.v().is_some());
        let exported = self.arms.iter().find(|arm| arm.name == "exported");
        // The arm has its inputs, keys and values on their grid; in a file that says nothing of them they are not.
        if let Some(arm) = exported.filter(|_| !grids) {
            let export = &self.recipe.export;
            compare(out, arm.loss, &evaluation, export.dense == export.dtype)?;
        }
        let export = Export { loss: evaluation.loss, perplexity: evaluation.perplexity, ..found };
        self.folder.finish(&record, &export)?;
        Ok(export)
    }

    /// The recipe and what came of it, for the model's card.
    fn card(&self) -> String {
        let mut out = String::from("## Results\n\n| model | perplexity | context |\n|---|---|---|\n");
        for arm in &self.arms {
            out += &format!("| {} | {:.4} | {} |\n", arm.name, arm.perplexity, arm.context);
        }
        out + &format!("\n## Recipe\n\n```toml\n{}```\n", self.recipe.resolve())
    }
}

/// The type of weights without a quantizer as exports know it.
pub(crate) fn dense_of(dtype: ExportDtype) -> Dense {
    match dtype {
        ExportDtype::F32 => Dense::F32,
        ExportDtype::F16 => Dense::F16,
        ExportDtype::BF16 => Dense::BF16,
    }
}

/// A format as exports know it.
pub(crate) fn format_of(target: ExportTarget) -> Target {
    match target {
        ExportTarget::CompressedTensors => Target::CompressedTensors,
        ExportTarget::ModelOpt => Target::ModelOpt,
        ExportTarget::Gguf => Target::Gguf,
        ExportTarget::Sparse24 => Target::Sparse24,
    }
}

/// SHA-256 of a file, or of each file of a folder, by name.
fn digests(out: &Path) -> Result<BTreeMap<String, String>> {
    let io = |source| RunError::Io { path: out.into(), source };
    let files = match out.is_dir() {
        true => {
            std::fs::read_dir(out).map_err(io)?.map(|e| Ok(e.map_err(io)?.path())).collect::<Result<_>>()?
        }
        false => vec![out.to_path_buf()],
    };
    let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.iter().map(|file| Ok((name(file), sha256_file(file)?))).collect()
}
