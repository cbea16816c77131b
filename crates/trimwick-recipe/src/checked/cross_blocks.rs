//! What `[blockwise]` and `model.stream` ask of the other sections.

use super::cross::{Report, Sections};
use super::warmup::Warmup;
use crate::raw::Slot;

impl Sections<'_> {
    pub(super) fn check_blockwise(&self, report: &Report<'_>) {
        if !self.blockwise.present() {
            return;
        }
        let why = if self.pretrain().is_some() {
            Some("a model that starts from random weights has no dense twin")
        } else if !self.compresses() {
            Some("the model is neither pruned nor quantized, so every block is its own twin")
        } else {
            None
        };
        if let Some(why) = why {
            let advice = "remove the section, or add [prune] or [quantize] to a trained model";
            return report.no_effect("blockwise", why, advice);
        }
        self.check_mask_stays("[blockwise], whose masks stay", report);
        if let Slot::Given(quantize) = &self.quantize
            && quantize.start > 0
            && self.train.present()
        {
            let advice = "remove it: the blocks are trained on their grid from the beginning";
            report.conflict("quantize.start", "0 beside [blockwise]", quantize.start.to_string(), advice);
        }
        let Slot::Given(blockwise) = &self.blockwise else { return };
        let steps = blockwise.steps();
        if let Warmup::Steps(warmup) = blockwise.warmup
            && warmup >= steps
        {
            let expected = format!("fewer than the {steps} steps of a block");
            let advice = "lower it, or write a fraction such as 0.05";
            report.conflict("blockwise.warmup", expected, warmup.to_string(), advice);
        }
    }

    /// Of a streamed model one block is in memory at a time: what needs more is refused.
    pub(super) fn check_stream(&self, report: &Report<'_>) {
        if !self.stream {
            return;
        }
        let found = "model.stream = true";
        if self.train.present() {
            let expected = "a model that is in memory as a whole, to train end to end";
            let advice = "write [blockwise] in its place, or remove model.stream";
            report.conflict("train", expected, found, advice);
        }
        if let Slot::Given(arms) = &self.arms
            && !arms.is_empty()
        {
            let expected = "a model that is in memory as a whole, for control arms";
            let advice = "write compare.arms = [], or remove model.stream";
            report.conflict("compare.arms", expected, found, advice);
        }
        if let Some(export) = self.export
            && !export.targets.is_empty()
        {
            let expected = "a model that is in memory as a whole, to pack it";
            let advice = "remove it, or model.stream; the model's folder is written as plain weights";
            report.conflict("export.targets", expected, found, advice);
        }
    }
}
