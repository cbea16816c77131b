//! What one-shot passes and a budget ask of schemes, scales and the other sections.

use trimwick_quant::ScalePolicy;

use super::cross::{Report, Sections};
use super::pass_spec::{GptqOrder, GptqSpec, PassSpec};
use super::pattern::Pattern;
use super::prune::{PruneMethod, PruneSchedule};
use super::quantize_spec::QuantizeSpec;
use crate::raw::Slot;

impl Sections<'_> {
    pub(super) fn check_passes(&self, report: &Report<'_>) {
        let Slot::Given(quantize) = &self.quantize else { return };
        for (i, pass) in quantize.passes.iter().enumerate() {
            let key = format!("quantize.passes.{i}");
            check_schemes(quantize, pass, &key, report);
            match pass {
                PassSpec::SvdQuant { .. } => self.check_branch(&key, report),
                PassSpec::Gptq(gptq) if gptq.joint() => self.check_joint(gptq, report),
                _ => {}
            }
        }
        check_fixed(quantize, report);
        if self.stream && quantize.budget.is_some() {
            let expected = "a model that is in memory as a whole, to choose schemes for all of it";
            let advice = "name schemes in [[quantize.rules]], or remove model.stream";
            report.conflict("quantize.budget", expected, "model.stream = true", advice);
        }
    }

    /// A branch stands beside the weight: masks and packed formats know nothing of it.
    fn check_branch(&self, key: &str, report: &Report<'_>) {
        if self.prune.present() {
            let expected = "no [prune] beside \"svdquant\": a residual has no zeros where the mask has";
            report.conflict(key, expected, "both", "leave one of them out");
        }
        if let Some(export) = self.export
            && !export.targets.is_empty()
        {
            let expected = "no format of another runtime beside \"svdquant\": none holds a branch";
            let found = export.targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
            let advice = "remove export.targets; the model's folder holds weight and branch as one";
            report.conflict("export.targets", expected, found, advice);
        }
    }

    /// Pruning and rounding in one pass.
    fn check_joint(&self, gptq: &GptqSpec, report: &Report<'_>) {
        const KEY: &str = "quantize.gptq.joint";
        let prune = match &self.prune {
            Slot::Given(prune) => prune,
            Slot::Faulty => return,
            Slot::Absent => {
                let advice = "add [prune] with a pattern, or remove joint";
                return report.conflict(KEY, "a section [prune], to prune in the same pass", "none", advice);
            }
        };
        if !matches!(prune.method, PruneMethod::SparseGpt { .. }) {
            let found = format!("prune.method = {:?}", prune.method.name());
            let advice = "write method = \"sparsegpt\", or remove joint and have the mask before";
            report.conflict(KEY, "\"sparsegpt\", which the same solver does", found, advice);
        }
        if prune.schedule != PruneSchedule::OneShot {
            return; // [quantize] has reported it.
        }
        if let Pattern::Nm { n, m } = prune.pattern
            && gptq.order == GptqOrder::Activation
        {
            let expected = format!("\"natural\" beside joint and {n}:{m}, whose groups are columns in a row");
            report.conflict(
                "quantize.gptq.order",
                expected,
                "\"activation\"",
                "change the order, or remove joint",
            );
        }
    }
}

/// A pass needs something that it can improve.
fn check_schemes(quantize: &QuantizeSpec, pass: &PassSpec, key: &str, report: &Report<'_>) {
    // Which layers have a bias, the model tells.
    if quantize.schemes().any(|scheme| pass.takes(scheme, true)) {
        return;
    }
    let (needs, example) = match pass {
        PassSpec::SmoothQuant(_) => ("quantizes inputs", "int8"),
        PassSpec::BiasCorrection => ("quantizes layers", "int8"),
        PassSpec::AwqClip => ("has a scale for each row or group of a weight", "int4-g64"),
        PassSpec::AwqScale { .. } | PassSpec::SvdQuant { .. } | PassSpec::Gptq(_) => {
            ("quantizes weights", "int4-g64")
        }
    };
    let expected = format!("a scheme that {needs}, such as {example}, for the pass {:?}", pass.name());
    report.conflict(key, expected, "none", "name one, or leave the pass out");
}

/// Scales that a pass chooses with the weights have to stay.
fn check_fixed(quantize: &QuantizeSpec, report: &Report<'_>) {
    let Some(pass) = quantize.passes.iter().find(|pass| pass.fixes_scales()) else { return };
    if !matches!(quantize.scales, ScalePolicy::Frozen | ScalePolicy::Learned) {
        let expected =
            format!("\"frozen\" or \"learned\" beside the pass {:?}, which chooses the scales", pass.name());
        let found = if quantize.scales == ScalePolicy::Dynamic { "\"dynamic\"" } else { "\"ema\"" };
        report.conflict("quantize.scales", expected, found, "write scales = \"frozen\"");
    }
    if quantize.start > 0 {
        let expected =
            format!("0 beside the pass {:?}, whose scales belong to the weights as they are", pass.name());
        report.conflict("quantize.start", expected, quantize.start.to_string(), "remove it, or the pass");
    }
}
