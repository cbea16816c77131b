//! What one section asks of another. Each check looks at sound values only: a faulty section has its own fault already.

use super::blockwise::BlockwiseSpec;
use super::calibration::CalibrationSpec;
use super::compare::{Arm, CompareSpec};
use super::data::DataSpec;
use super::distill::{DistillSpec, Teacher};
use super::export::ExportSpec;
use super::lora::LoraSpec;
use super::model::ModelSpec;
use super::pretrain::{PretrainSpec, TokenizerSpec};
use super::prune::{PruneSchedule, PruneSpec};
use super::quantize_spec::QuantizeSpec;
use super::train::{TrainLength, TrainSpec};
use super::warmup::Warmup;
use crate::error::{Fault, FaultKind};
use crate::raw::{Places, Sink, Slot};

/// The sections as they were read one by one.
pub(crate) struct Sections<'a> {
    pub(crate) model: Option<&'a ModelSpec>,
    /// Whether one block of the model is in memory at a time.
    pub(crate) stream: bool,
    pub(crate) data: Option<&'a DataSpec>,
    pub(crate) calibration: Option<&'a CalibrationSpec>,
    pub(crate) prune: Slot<&'a PruneSpec>,
    pub(crate) quantize: Slot<&'a QuantizeSpec>,
    pub(crate) blockwise: Slot<&'a BlockwiseSpec>,
    pub(crate) train: Slot<&'a TrainSpec>,
    pub(crate) lora: Slot<&'a LoraSpec>,
    pub(crate) distill: Slot<&'a DistillSpec>,
    pub(crate) arms: Slot<&'a Vec<Arm>>,
    pub(crate) export: Option<&'a ExportSpec>,
}

/// Reports faults by the full key.
pub(crate) struct Report<'a> {
    pub(crate) sink: &'a Sink,
    pub(crate) places: &'a Places,
}

impl Report<'_> {
    fn fault(&self, key: &str, kind: FaultKind) {
        self.sink.push(Fault { place: self.places.of(key), key: key.to_string(), kind });
    }

    pub(super) fn conflict(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let (expected, found, advice) = (expected.into(), found.into(), advice.into());
        self.fault(key, FaultKind::Conflict { expected, found, advice });
    }

    pub(super) fn no_effect(&self, key: &str, why: impl Into<String>, advice: impl Into<String>) {
        self.fault(key, FaultKind::NoEffect { why: why.into(), advice: advice.into() });
    }
}

impl Sections<'_> {
    pub(crate) fn check(&self, report: &Report<'_>) {
        self.check_work(report);
        self.check_pretrain(report);
        self.check_data(report);
        self.check_train(report);
        self.check_prune(report);
        self.check_quantize(report);
        self.check_passes(report);
        self.check_blockwise(report);
        self.check_targets(report);
        self.check_lora(report);
        self.check_distill(report);
        self.check_arms(report);
        self.check_stream(report);
    }

    pub(super) fn pretrain(&self) -> Option<&PretrainSpec> {
        match self.model {
            Some(ModelSpec::Pretrain(pretrain)) => Some(pretrain),
            _ => None,
        }
    }

    /// Whether the model is made smaller, which costs accuracy that training can win back.
    pub(super) fn compresses(&self) -> bool {
        self.prune.present() || self.quantize.present()
    }

    /// A recipe has to do something.
    fn check_work(&self, report: &Report<'_>) {
        if self.pretrain().is_none() && !self.compresses() && !self.train.present() {
            let example = "[prune] with pattern = \"2:4\"".to_string();
            let expected = "a section [prune], [quantize] or [train], something to do".to_string();
            report.fault("prune", FaultKind::Missing { expected, example });
        }
    }

    fn check_pretrain(&self, report: &Report<'_>) {
        let Some(pretrain) = self.pretrain() else { return };
        if !self.train.present() {
            let expected = "a section [train]: the model starts from random weights".to_string();
            report.fault(
                "train",
                FaultKind::Missing { expected, example: "[train] with steps = 1000".to_string() },
            );
        }
        if self.prune.present() {
            let advice = "train the model first, then prune its folder with a second recipe";
            report.conflict("prune", "a trained model to prune", "random weights", advice);
        }
        if let (Some(data), Some(positions)) = (self.data, pretrain.max_positions())
            && data.context as u64 > positions
        {
            let expected = format!("at most model.config.max_position_embeddings = {positions}");
            report.conflict(
                "data.context",
                expected,
                data.context.to_string(),
                "lower it, or raise the other",
            );
        }
    }

    /// The training text is there where something reads it, and only there.
    fn check_data(&self, report: &Report<'_>) {
        let calibrates = self.prune.as_ref().given().is_some_and(|prune| prune.method.calibrates())
            || self.quantize.as_ref().given().is_some_and(|quantize| quantize.calibrates());
        let sound = self.prune != Slot::Faulty && self.quantize != Slot::Faulty;
        if report.places.given("calibration") && !calibrates && sound {
            let why = match (&self.prune, &self.quantize) {
                (Slot::Given(prune), _) => {
                    format!("method {:?} looks at no activations", prune.method.name())
                }
                (_, Slot::Given(_)) => "no input has a static scale".to_string(),
                _ => "nothing is pruned or quantized".to_string(),
            };
            report.no_effect("calibration", why, "remove the section, or write prune.method = \"sparsegpt\"");
        }
        let own = calibrates && self.calibration.is_some_and(|calibration| calibration.data.is_some());
        if own && self.stream && self.blockwise.present() {
            let advice = "remove it, or train block by block without model.stream";
            report.conflict(
                "calibration.data",
                "windows of data.train, which a streamed [blockwise] trains on",
                "another text",
                advice,
            );
        }
        let Some(data) = self.data else { return };
        if let Some(tokens) = data.eval_tokens
            && tokens < data.context as u64
        {
            let expected = format!("at least one window, data.context = {}", data.context);
            report.conflict(
                "data.eval_tokens",
                expected,
                tokens.to_string(),
                "raise it, or shorten data.context",
            );
        }
        let trains_tokenizer =
            self.pretrain().is_some_and(|pretrain| matches!(pretrain.tokenizer, TokenizerSpec::Train { .. }));
        let reader = if self.train.present() {
            Some("[train] trains on it")
        } else if self.blockwise.present() {
            Some("[blockwise] trains on it")
        } else if calibrates && !own {
            Some("the method calibrates on it")
        } else if trains_tokenizer {
            Some("the tokenizer is trained on it")
        } else {
            None
        };
        match (&data.train, reader) {
            (None, Some(reader)) => {
                let expected = format!("a text, since {reader}");
                let example = "train = \"builtin:sotu-train\"".to_string();
                report.fault("data.train", FaultKind::Missing { expected, example });
            }
            (Some(_), None) if self.prune != Slot::Faulty && self.model.is_some() => {
                let why =
                    if own { "calibration.data is calibrated on" } else { "nothing trains or calibrates" };
                report.no_effect("data.train", why, "remove it, or add a section [train]");
            }
            _ => {}
        }
    }

    fn check_train(&self, report: &Report<'_>) {
        let (Slot::Given(train), Some(data)) = (&self.train, self.data) else { return };
        let per_step = train.tokens_per_step(data.context);
        if let TrainLength::Tokens(tokens) = train.length
            && tokens < per_step
        {
            let expected = format!("at least one step, {per_step} tokens (batch x accumulate x context)");
            report.conflict("train.tokens", expected, tokens.to_string(), "raise it, or make a step smaller");
            return;
        }
        let steps = train.steps(data.context);
        if let Warmup::Steps(warmup) = train.warmup
            && warmup >= steps
        {
            let expected = format!("fewer than the {steps} steps of training");
            report.conflict(
                "train.warmup",
                expected,
                warmup.to_string(),
                "lower it, or write a fraction such as 0.05",
            );
        }
    }

    fn check_prune(&self, report: &Report<'_>) {
        let Slot::Given(prune) = &self.prune else { return };
        let refresh_every = match prune.schedule {
            PruneSchedule::OneShot => return,
            PruneSchedule::Gradual { refresh_every, .. } | PruneSchedule::Refreshed { refresh_every, .. } => {
                refresh_every
            }
        };
        if self.train == Slot::Absent {
            let found = format!("{:?} without it", prune.schedule.name());
            let advice = "add the section, or write schedule = \"one-shot\"";
            report.conflict("prune.schedule", "a section [train] to prune during", found, advice);
        }
        let (Slot::Given(train), Some(data)) = (&self.train, self.data) else { return };
        let end = prune.schedule.end(train.steps(data.context));
        if refresh_every > end {
            let expected = format!("at most {end}, the steps before the mask is final");
            report.conflict(
                "prune.refresh_every",
                expected,
                refresh_every.to_string(),
                "lower it, or train longer",
            );
        }
    }

    fn check_lora(&self, report: &Report<'_>) {
        if !self.lora.present() {
            return;
        }
        if self.train == Slot::Absent {
            report.no_effect("lora", "nothing is trained", "remove the section, or add [train]");
        }
        if self.pretrain().is_some() {
            let advice = "remove the section: every weight of a fresh model has to learn";
            report.conflict("lora", "a trained model to adapt", "random weights", advice);
        }
        self.check_mask_stays("[lora], whose weights stay", report);
    }

    /// A mask that is chosen again asks for dense weights that train.
    pub(super) fn check_mask_stays(&self, beside: &str, report: &Report<'_>) {
        if let Slot::Given(prune) = &self.prune
            && prune.schedule != PruneSchedule::OneShot
        {
            let (expected, found) =
                (format!("\"one-shot\" beside {beside}"), format!("{:?}", prune.schedule.name()));
            report.conflict(
                "prune.schedule",
                expected,
                found,
                "write prune.schedule = \"one-shot\", or remove the other section",
            );
        }
    }

    fn check_distill(&self, report: &Report<'_>) {
        if !self.distill.present() {
            return;
        }
        let why = if self.pretrain().is_some() {
            "a model that starts from random weights has no dense twin"
        } else if !self.train.present() {
            "nothing is trained"
        } else if !self.compresses() {
            "the model is neither pruned nor quantized, so it would only teach itself"
        } else {
            return self.check_teacher(report);
        };
        report.no_effect(
            "distill",
            why,
            "remove the section, or add [train] and [prune] or [quantize] to a trained model",
        );
    }

    /// A teacher that is trained is an arm, so it is measured like one.
    fn check_teacher(&self, report: &Report<'_>) {
        let (Slot::Given(distill), Slot::Given(arms)) = (&self.distill, &self.arms) else { return };
        if distill.teacher == Teacher::DenseTuned && !arms.contains(&Arm::DenseTuned) {
            let advice = "add it, or write distill.teacher = \"dense\"";
            report.conflict(
                "compare.arms",
                "the arm dense_tuned, which teaches",
                "a list without it",
                advice,
            );
        }
    }

    fn check_arms(&self, report: &Report<'_>) {
        let Slot::Given(arms) = &self.arms else { return };
        for arm in arms.iter() {
            let why = match arm {
                Arm::DenseTuned if !self.train.present() => "nothing is trained",
                Arm::DenseTuned if !self.compresses() => {
                    "without [prune] or [quantize] the run itself is this arm"
                }
                Arm::PrunedMagnitude if !self.prune.present() => "nothing is pruned",
                _ => continue,
            };
            report.no_effect(
                "compare.arms",
                format!("{} has nothing to show, {why}", arm.name()),
                "leave it out",
            );
        }
    }

    /// The arms that are compared where the recipe does not say.
    pub(crate) fn compare(&self) -> Option<CompareSpec> {
        let mut arms = Vec::new();
        if self.compresses() && self.train.present() && !self.stream {
            arms.push(Arm::DenseTuned);
        }
        if self.prune.present() && !self.stream {
            arms.push(Arm::PrunedMagnitude);
        }
        match &self.arms {
            Slot::Absent => Some(CompareSpec { arms }),
            Slot::Faulty => None,
            Slot::Given(arms) => Some(CompareSpec { arms: arms.to_vec() }),
        }
    }
}
