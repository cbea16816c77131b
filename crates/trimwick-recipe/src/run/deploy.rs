//! `export.targets`: the trained model in the formats of the runtimes that will serve it.

use trimwick_export::{Dense, DeployOptions, Target, Trained, deploy};

use super::error::{Result, RunError};
use super::event::Event;
use super::origin::Built;
use super::stages::Run;
use crate::{ExportDtype, ExportTarget};

/// The folder of the exports in that of the run.
const EXPORTS: &str = "exports";

impl Run<'_, '_> {
    /// Writes the model in every format that the recipe names, each proved against what the model computes with.
    pub(crate) fn deploy(&mut self, built: &Built) -> Result<()> {
        let (recipe, origin) = (self.recipe, self.origin);
        let spec = &recipe.export;
        if spec.targets.is_empty() {
            return Ok(());
        }
        let folder = self.folder.at(EXPORTS);
        std::fs::create_dir_all(&folder).map_err(|source| RunError::Io { path: folder.clone(), source })?;
        let trained =
            Trained { store: &built.store, config: &origin.config, tokenizer: Some(&origin.tokenizer) };
        for target in &spec.targets {
            self.go_on()?;
            let options = DeployOptions {
                dense: match spec.dense {
                    ExportDtype::F32 => Dense::F32,
                    ExportDtype::F16 => Dense::F16,
                    ExportDtype::BF16 => Dense::BF16,
                },
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
            (self.report)(Event::Note(format!(
                "{}: {:.1} MB, {:.3} bits per parameter, {} values equal to the trained ones",
                target.name(),
                deployed.verified.bytes as f64 / 1e6,
                deployed.verified.bits(),
                deployed.verified.compared,
            )));
            deployed.notes.into_iter().for_each(|note| (self.report)(Event::Note(note)));
        }
        Ok(())
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

fn format_of(target: ExportTarget) -> Target {
    match target {
        ExportTarget::CompressedTensors => Target::CompressedTensors,
        ExportTarget::ModelOpt => Target::ModelOpt,
        ExportTarget::Gguf => Target::Gguf,
        ExportTarget::Sparse24 => Target::Sparse24,
    }
}
