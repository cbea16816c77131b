//! What `[quantize]` asks of the other sections, and the formats of packed weights of it.

use super::cross::{Report, Sections};
use super::export::ExportDtype;
use crate::raw::Slot;

impl Sections<'_> {
    /// A format of packed weights needs quantizers.
    pub(super) fn check_targets(&self, report: &Report<'_>) {
        let Some(export) = self.export.filter(|_| self.quantize == Slot::Absent) else { return };
        if let Some(target) = export.targets.iter().find(|target| target.needs_quantizers()) {
            let advice = "add a section [quantize], or take gguf or sparse24";
            let expected = format!("a section [quantize] for {}", target.name());
            report.conflict("export.targets", expected, "none", advice);
        }
    }

    pub(super) fn check_quantize(&self, report: &Report<'_>) {
        let Slot::Given(quantize) = &self.quantize else { return };
        if self.pretrain().is_some() {
            let advice = "train the model first, then quantize its folder with a second recipe";
            report.conflict("quantize", "a trained model to quantize", "random weights", advice);
        }
        self.check_mask_stays("[quantize], whose scales follow the mask", report);
        for (key, given) in [("start", quantize.start > 0), ("freeze", quantize.freeze.is_some())] {
            if given && self.train == Slot::Absent {
                let (key, why) = (format!("quantize.{key}"), "there are no training steps");
                report.no_effect(&key, why, "remove it, or add a section [train]");
            }
        }
        // What a pass has chosen stays with such scales, where dynamic ones would follow the weight.
        let chosen = !quantize.passes.is_empty() || quantize.budget.is_some();
        if quantize.moves() && !chosen && self.train == Slot::Absent && self.blockwise == Slot::Absent {
            let advice = "remove it, or add a section [train]";
            report.no_effect("quantize.scales", "scales move in training, and nothing is trained", advice);
        }
        if let Some(export) = self.export
            && export.dtype != ExportDtype::F32
        {
            let found = format!("{:?}", export.dtype.name());
            let advice = "write export.dtype = \"f32\": 16 bits round every value off its grid";
            report.conflict("export.dtype", "\"f32\" beside [quantize]", found, advice);
        }
        let (Slot::Given(train), Some(data)) = (&self.train, self.data) else { return };
        let steps = train.steps(data.context);
        if quantize.start >= steps {
            let expected = format!("fewer than the {steps} steps of training");
            let advice = "lower it: no step would train on the grid";
            report.conflict("quantize.start", expected, quantize.start.to_string(), advice);
        }
        if let Some(freeze) = quantize.freeze {
            if !quantize.moves() {
                let why = "no scale is an average or learned";
                report.no_effect("quantize.freeze", why, "remove it, or write scales = \"learned\"");
            } else if freeze >= steps {
                let expected = format!("fewer than the {steps} steps of training");
                report.conflict("quantize.freeze", expected, freeze.to_string(), "lower it, or remove it");
            } else if freeze <= quantize.start {
                let expected = format!("a step after quantize.start = {}", quantize.start);
                report.conflict(
                    "quantize.freeze",
                    expected,
                    freeze.to_string(),
                    "raise it, or start earlier",
                );
            }
        }
    }
}
