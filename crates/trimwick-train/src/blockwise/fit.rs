//! Training one part of a block.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use trimwick_kernels::{Rng, permute};
use trimwick_nn::{Clock, Param};

use super::states::States;
use crate::distill::{relative_error, scalar};
use crate::gradients::Gradients;
use crate::optim::{AdamW, AdamWConfig, ParamGroup, matcher};
use crate::schedule::{Decay, Schedule, Warmup};
use crate::step::Training;
use crate::{Error, Result};

/// What is trained at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parts {
    /// The whole block, against the dense block's output.
    #[default]
    Block,
    /// Attention, against the output of the dense block's attention; then the MLP, against the dense block's output.
    Split,
}

/// What a block sees in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockInputs {
    /// Outputs of the compressed blocks before it: it makes up for what they lost.
    #[default]
    Compressed,
    /// Outputs of the dense blocks before it.
    Dense,
}

/// How each block is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockTraining {
    /// The first so many windows of the walk are trained on.
    pub windows: usize,
    /// Times that all of them are visited.
    pub epochs: u64,
    /// Windows in a step. The last step takes what is left.
    pub batch: usize,
    /// Peak learning rate; half a cosine to 0 follows the warmup.
    pub lr: f64,
    /// Length of the warmup.
    pub warmup: Warmup,
    /// Norm that the gradient is clipped to; `None` for no clipping.
    pub clip: Option<f64>,
    /// What is trained at a time.
    pub parts: Parts,
    /// What a block sees.
    pub inputs: BlockInputs,
    /// Seed of the order in which windows are visited.
    pub seed: u64,
    /// Optimizer settings.
    pub optimizer: AdamWConfig,
    /// Parameters that train differently; a group that governs nothing in a part is left out there.
    pub groups: Vec<ParamGroup>,
}

impl BlockTraining {
    /// Optimizer steps for each part.
    pub fn steps(&self) -> u64 {
        (self.epochs * self.windows as u64).div_ceil(self.batch.max(1) as u64)
    }

    /// Checks what no training can have.
    pub(super) fn check(&self, windows: usize) -> Result<()> {
        let least = [("epochs", self.epochs), ("batch", self.batch as u64), ("windows", self.windows as u64)];
        if let Some((key, value)) = least.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::setting(key, "at least 1", value));
        }
        if self.windows > windows {
            return Err(Error::setting("windows", format!("at most {windows}"), self.windows));
        }
        if let Some(max) = self.clip.filter(|max| !(max.is_finite() && *max > 0.)) {
            return Err(Error::setting("clip", "a number > 0", max));
        }
        self.schedule().map(drop)
    }

    fn schedule(&self) -> Result<Schedule> {
        Schedule::new(Decay::Cosine, self.lr, 0., self.warmup, self.steps())
    }

    /// The windows of step `step`, from 0: a keyed permutation for each epoch.
    fn batch_of(&self, path: &str, step: u64) -> Vec<usize> {
        let (count, batch) = (self.windows as u64, self.batch as u64);
        let end = ((step + 1) * batch).min(self.epochs * count);
        let window = |at: u64| {
            let rng = Rng::new(self.seed, "blockwise", at / count, path);
            let key = u64::from(rng.u32_at(0)) | u64::from(rng.u32_at(1)) << 32;
            permute(key, count, at % count) as usize
        };
        (step * batch..end).map(window).collect()
    }
}

/// What is trained: some parameters and the computation that they are in.
pub(super) struct Part<'a> {
    /// Path of the block.
    pub path: &'a str,
    pub params: Vec<Param>,
    pub forward: &'a dyn Fn(&Tensor) -> candle_core::Result<Tensor>,
    pub inputs: &'a States,
    pub targets: &'a States,
    pub clock: &'a Clock,
}

/// Trains a part to the end. `false` when the stop flag ended it: its parameters are of no use then.
///
/// `before` is called before each step (from 0), `after` with the steps done and the error of the step.
pub(super) fn fit<E: From<Error>>(
    part: &Part<'_>,
    training: &BlockTraining,
    stop: &AtomicBool,
    before: &mut dyn FnMut(u64) -> std::result::Result<(), E>,
    after: &mut dyn FnMut(u64, f64),
) -> std::result::Result<bool, E> {
    let groups = governing(&training.groups, &part.params)?;
    let mut optimizer = AdamW::new(part.params.clone(), &training.optimizer, &groups)?;
    let schedule = training.schedule()?;
    let _training = Training::on(part.clock);
    for step in 0..training.steps() {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        before(step)?;
        part.clock.set_step(step);
        let (gradients, error) = gradients(part, training, step)?;
        optimizer.step(&gradients, schedule.rate(step))?;
        drop(gradients);
        after(step + 1, error);
    }
    Ok(true)
}

/// Gradients of a step, clipped, and its error.
fn gradients(part: &Part<'_>, training: &BlockTraining, step: u64) -> Result<(Gradients, f64)> {
    let windows = training.batch_of(part.path, step);
    let (x, y) = (part.inputs.batch(&windows)?, part.targets.batch(&windows)?);
    let loss = relative_error(&(part.forward)(&x)?, &y, None)?;
    let error = scalar(&loss)?;
    if !error.is_finite() {
        let what = format!("the error of {} in step {}", part.path, step + 1);
        return Err(Error::NonFinite { what, value: error });
    }
    let grads = loss.backward()?;
    drop(loss);
    let mut gradients = Gradients::new(&part.params);
    gradients.accumulate(grads)?;
    if let Some(max) = training.clip {
        gradients.clip(max)?;
    }
    Ok((gradients, error))
}

/// The groups that match one of the parameters.
fn governing(groups: &[ParamGroup], params: &[Param]) -> Result<Vec<ParamGroup>> {
    let mut governing = Vec::new();
    for group in groups {
        let matcher = matcher(group)?;
        if params.iter().any(|p| matcher.is_match(p.name())) {
            governing.push(group.clone());
        }
    }
    Ok(governing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(windows: usize, epochs: u64, batch: usize) -> BlockTraining {
        BlockTraining {
            windows,
            epochs,
            batch,
            lr: 1e-3,
            warmup: Warmup::Steps(0),
            clip: None,
            parts: Parts::Block,
            inputs: BlockInputs::Compressed,
            seed: 3,
            optimizer: AdamWConfig::default(),
            groups: vec![],
        }
    }

    #[test]
    fn each_epoch_visits_every_window_once_whatever_the_batch() {
        let walk = |batch| {
            let t = training(7, 3, batch);
            (0..t.steps()).flat_map(|step| t.batch_of("a", step)).collect::<Vec<_>>()
        };
        for batch in [1, 2, 7, 10, 30] {
            assert_eq!(walk(batch), walk(1), "batch {batch}");
        }
        for epoch in walk(1).chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_eq!((training(7, 3, 2).steps(), training(7, 3, 30).steps()), (11, 1));
        let t = training(64, 1, 64);
        assert_ne!(t.batch_of("a", 0), t.batch_of("b", 0), "each block has an order of its own");
    }

    #[test]
    fn settings_that_no_training_has_are_refused_by_key() {
        let sound = training(4, 1, 2);
        sound.check(4).unwrap();
        let table = [
            ("epochs", BlockTraining { epochs: 0, ..sound.clone() }),
            ("batch", BlockTraining { batch: 0, ..sound.clone() }),
            ("windows", BlockTraining { windows: 0, ..sound.clone() }),
            ("windows", BlockTraining { windows: 5, ..sound.clone() }),
            ("clip", BlockTraining { clip: Some(0.), ..sound.clone() }),
            ("clip", BlockTraining { clip: Some(f64::NAN), ..sound.clone() }),
            ("lr", BlockTraining { lr: 0., ..sound.clone() }),
            ("warmup", BlockTraining { warmup: Warmup::Steps(2), ..sound.clone() }),
        ];
        for (expected, settings) in table {
            match settings.check(4) {
                Err(Error::Setting { key, .. }) => assert_eq!(key, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
