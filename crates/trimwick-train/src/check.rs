//! What is known about a run before its first step: settings against each other and the model.

use trimwick_nn::Role;

use crate::data::Windows;
use crate::distill::Distillation;
use crate::evaluate::check_context;
use crate::plan::Plan;
use crate::trainer::{TrainConfig, Trainer};
use crate::walk::MemoryPlan;
use crate::{Error, Result};

impl Trainer<'_> {
    /// Checks the settings against each other and the model, and writes down what decides the run's bytes.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let TrainConfig {
            steps,
            batch,
            accumulate,
            clip,
            save_every,
            order_seed,
            fingerprint: _,
            memory,
            guards,
        } = &self.config;
        for (key, value) in [("steps", *steps), ("batch", *batch as u64), ("accumulate", *accumulate as u64)]
        {
            if value == 0 {
                return Err(Error::setting(key, "at least 1", value));
            }
        }
        if let Some(max) = clip
            && !(max.is_finite() && *max > 0.)
        {
            return Err(Error::setting("clip", "a number > 0", max));
        }
        if *memory == MemoryPlan::Lean && *accumulate > 1 {
            let expected =
                "1 with memory = \"lean\", which updates weights on the way back of each micro-batch";
            return Err(Error::setting("accumulate", expected, accumulate));
        }
        guards.check(&self.config, self.checkpoints.is_some())?;
        if self.schedule.steps() != *steps {
            return Err(Error::setting("schedule", format!("one of {steps} steps"), self.schedule.steps()));
        }
        self.check_data(self.windows)?;
        if *batch > self.windows.len() {
            let expected = format!("at most {}, the windows that the data has", self.windows.len());
            return Err(Error::setting("batch", expected, batch));
        }
        if let Some(validation) = &self.validation {
            if validation.every == 0 {
                return Err(Error::setting("validation.every", "at least 1 step", 0));
            }
            self.check_data(&validation.windows)?;
        }
        if let Some(distill) = &self.distill {
            let (student, teacher) = (self.model.vocab_size(), distill.teacher().vocab_size());
            if student != teacher {
                return Err(Error::setting("distill.teacher", format!("a vocabulary of {student}"), teacher));
            }
            check_context(distill.teacher(), self.windows.context())?;
            let (student, teacher) = (self.model.blocks(), distill.teacher().blocks());
            if distill.config().features > 0. && student != teacher {
                return Err(Error::setting(
                    "distill.features",
                    format!("a teacher of {student} blocks"),
                    teacher,
                ));
            }
        }
        let optimized = |name: &str| self.optimizer.params().any(|p| p.name() == name);
        let unknown = self.store.trainable().into_iter().filter(|p| !optimized(p.name()));
        let names: Vec<_> = unknown.map(|p| p.name().to_string()).collect();
        if !names.is_empty() {
            return Err(Error::NotOptimized { names });
        }
        if self.optimizer.params().all(|p| p.role() != Role::Trainable) {
            return Err(Error::AllFrozen);
        }
        Ok(Plan {
            steps: *steps,
            batch: *batch,
            accumulate: *accumulate,
            clip: *clip,
            schedule: self.schedule.clone(),
            optimizer: self.optimizer.config().clone(),
            groups: self
                .optimizer
                .settings()
                .map(|(name, scale, decay)| (name.into(), (scale, decay)))
                .collect(),
            distill: self.distill.as_ref().map(Distillation::config),
            validation: self.validation.as_ref().map(|v| (v.every, (&v.windows).into())),
            data: self.windows.into(),
            order_seed: *order_seed,
            model_seed: self.store.clock().seed(),
            memory: *memory,
            guards: *guards,
            rewind_every: guards.rewinds().then_some(*save_every),
        })
    }

    fn check_data(&self, windows: &Windows) -> Result<()> {
        if windows.is_empty() {
            return Err(Error::TooShort { expected: windows.context(), found: windows.ids().len() });
        }
        check_context(self.model, windows.context())?;
        let (vocab, largest) = (self.model.vocab_size(), windows.ids().iter().max().copied().unwrap_or(0));
        if largest as usize >= vocab {
            let expected = format!("token ids below the model's vocabulary of {vocab}");
            return Err(Error::setting("data", expected, largest));
        }
        Ok(())
    }
}
