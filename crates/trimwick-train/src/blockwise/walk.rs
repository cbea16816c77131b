//! The walk from block to block.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use trimwick_nn::{DecoderBlock, LoadedBlock, Module, StreamedLm};

use super::fit::{BlockInputs, BlockTraining, Part, Parts, fit};
use super::states::{Spill, States};
use crate::Error;
use crate::distill::{relative_error, scalar};

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockReport {
    /// Path of the block.
    pub path: String,
    /// Mean over the tokens that are trained on of `‖output − dense output‖² / ‖dense output‖²` as the block was
    /// compressed, on the outputs of the compressed blocks before it.
    pub error_before: f64,
    /// The same after training.
    pub error_after: f64,
    /// Wall-clock seconds from reading the dense block on: the one number that differs from run to run.
    pub seconds: f64,
}

impl BlockReport {
    /// A relative error as a signal-to-noise ratio in decibels, `−10·log₁₀(error)`; infinite where there is no error.
    pub fn decibels(error: f64) -> f64 {
        -10. * error.log10()
    }
}

/// What a walk tells while it goes on.
#[derive(Debug)]
pub enum BlockEvent<'a> {
    /// A block begins: computed through again when it was finished by an earlier process.
    Begin {
        /// Its number, from 0.
        index: usize,
        /// Blocks in all.
        blocks: usize,
        /// Whether an earlier process finished it.
        finished: bool,
    },
    /// A step of training is done.
    Step {
        /// The block.
        index: usize,
        /// Steps done, over all parts of the block.
        step: u64,
        /// Steps of the block.
        steps: u64,
        /// Relative error of the step's windows before it.
        error: f64,
    },
    /// A block is finished and kept.
    Done {
        /// The block.
        index: usize,
        /// What became of it.
        report: &'a BlockReport,
    },
}

/// The inputs of a block: of its dense twin and its own, window by window.
pub struct Streams<'a> {
    /// The block's number, from 0.
    pub index: usize,
    /// Outputs of the dense blocks before it.
    pub dense: &'a States,
    /// Outputs of the compressed blocks before it.
    pub compressed: &'a States,
}

/// What happens to each block of a [`Blockwise`] walk, and where it is kept.
pub trait BlockSteps {
    /// Its errors.
    type Error: From<Error>;

    /// The report of a block that an earlier process finished and kept; `None` when there is none.
    ///
    /// # Errors
    /// What was kept is not what was written.
    fn finished(&mut self, index: usize) -> Result<Option<BlockReport>, Self::Error>;

    /// A block that was finished, as it was.
    ///
    /// # Errors
    /// Reading it.
    fn load(&mut self, index: usize) -> Result<LoadedBlock, Self::Error>;

    /// Makes the compressed block of the dense one: prunes it, attaches quantizers. It may be another block than the one
    /// it is given, which is dropped then. `None` when it was told to stop.
    ///
    /// # Errors
    /// What pruning or quantizing reports.
    fn compress(
        &mut self,
        dense: LoadedBlock,
        streams: &Streams<'_>,
    ) -> Result<Option<LoadedBlock>, Self::Error>;

    /// Is called before each step of training a part of the block, from 0: scales that move do so here.
    ///
    /// # Errors
    /// A weight that is not finite.
    fn before_step(&mut self, block: &LoadedBlock, step: u64) -> Result<(), Self::Error>;

    /// Keeps a block for good.
    ///
    /// # Errors
    /// Writing it.
    fn keep(&mut self, index: usize, block: &LoadedBlock, report: &BlockReport) -> Result<(), Self::Error>;
}

/// A walk through a model, block after block: see the [module's description](crate::blockwise).
pub struct Blockwise<'a> {
    /// The dense model.
    pub dense: &'a dyn StreamedLm,
    /// Windows of token ids that both streams start from, `[1, t]` (u32) each.
    pub windows: &'a [Tensor],
    /// How each block is trained; not at all where there is none.
    pub training: Option<&'a BlockTraining>,
    /// Where hidden states go.
    pub spill: Spill,
    /// Set by a signal handler to end the walk: what the block in hand has learned is lost.
    pub stop: &'a AtomicBool,
}

/// Why a block did not come to its end.
enum Halt<E> {
    Stopped,
    Failed(E),
}

impl<E: From<Error>, F: Into<Error>> From<F> for Halt<E> {
    fn from(error: F) -> Self {
        Self::Failed(E::from(error.into()))
    }
}

impl Blockwise<'_> {
    /// Goes through every block, and gives the report of each; `None` when the stop flag ended the walk.
    ///
    /// # Errors
    /// Settings that no training can have; those of `steps`; [`Error::NonFinite`], [`Error::MissingGradient`]; blocks
    /// that cannot be read, hidden states that cannot be written. Blocks that were kept stay.
    pub fn run<S: BlockSteps>(
        &self,
        steps: &mut S,
        report: &mut dyn FnMut(BlockEvent<'_>),
    ) -> Result<Option<Vec<BlockReport>>, S::Error> {
        match self.walk(steps, report) {
            Ok(reports) => Ok(Some(reports)),
            Err(Halt::Stopped) => Ok(None),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    fn walk<S: BlockSteps>(
        &self,
        steps: &mut S,
        report: &mut dyn FnMut(BlockEvent<'_>),
    ) -> Result<Vec<BlockReport>, Halt<S::Error>> {
        if let Some(training) = self.training {
            training.check(self.windows.len())?;
        }
        let blocks = self.dense.blocks();
        let mut reports = Vec::with_capacity(blocks);
        while reports.len() < blocks
            && let Some(known) = steps.finished(reports.len()).map_err(Halt::Failed)?
        {
            reports.push(known);
        }
        let finished = reports.len();
        if finished == blocks {
            return Ok(reports);
        }
        // Both streams begin with the same states.
        let mut dense = Rc::new(self.embed()?);
        let mut compressed = dense.clone();
        for index in 0..blocks {
            report(BlockEvent::Begin { index, blocks, finished: index < finished });
            if index < finished {
                dense = Rc::new(self.through(&dense, &*self.dense.load_block(index)?.block)?);
                let block = steps.load(index).map_err(Halt::Failed)?;
                compressed = Rc::new(self.through(&compressed, &*block.block)?);
                continue;
            }
            let (next, own, done) = self.block(index, &dense, &compressed, steps, report)?;
            (dense, compressed) = (Rc::new(next), Rc::new(own));
            report(BlockEvent::Done { index, report: &done });
            reports.push(done);
        }
        Ok(reports)
    }

    /// Compresses, trains and keeps a block; gives the inputs of the next and a report.
    fn block<S: BlockSteps>(
        &self,
        index: usize,
        dense: &States,
        compressed: &States,
        steps: &mut S,
        report: &mut dyn FnMut(BlockEvent<'_>),
    ) -> Result<(States, States, BlockReport), Halt<S::Error>> {
        let begun = Instant::now();
        let twin = self.dense.load_block(index)?;
        let split = self.training.is_some_and(|t| t.parts == Parts::Split);
        let (middle, targets) = match split {
            true => {
                let middle = self.map(dense, |x| twin.block.attention(x))?;
                let targets = self.map(&middle, |h| twin.block.mlp(h))?;
                (Some(middle), targets)
            }
            false => (None, self.through(dense, &*twin.block)?),
        };
        let streams = Streams { index, dense, compressed };
        let block = steps.compress(twin, &streams).map_err(Halt::Failed)?.ok_or(Halt::Stopped)?;
        let inner = &*block.block;
        let (mut outputs, error_before) = self.outputs(compressed, &targets, inner)?;
        let mut error_after = error_before;
        if let Some(training) = self.training {
            drop(outputs);
            let inputs = match training.inputs {
                BlockInputs::Compressed => compressed,
                BlockInputs::Dense => dense,
            };
            let mut work = Work { walk: self, training, index, block: &block, steps, report, done: 0 };
            match &middle {
                None => work.fit(inputs, &targets, |_| true, &|x| inner.forward(x))?,
                Some(middle) => {
                    let of_attention = |name: &str| inner.in_attention(name);
                    work.fit(inputs, middle, of_attention, &|x| inner.attention(x))?;
                    let own = match training.inputs {
                        BlockInputs::Compressed => Some(self.map(compressed, |x| inner.attention(x))?),
                        BlockInputs::Dense => None,
                    };
                    let inputs = own.as_ref().unwrap_or(middle);
                    work.fit(inputs, &targets, |name| !of_attention(name), &|h| inner.mlp(h))?;
                }
            }
            (outputs, error_after) = self.outputs(compressed, &targets, inner)?;
        }
        let path = inner.path().to_string();
        let seconds = begun.elapsed().as_secs_f64();
        let done = BlockReport { path, error_before, error_after, seconds };
        steps.keep(index, &block, &done).map_err(Halt::Failed)?;
        Ok((targets, outputs, done))
    }

    fn embed<E: From<Error>>(&self) -> Result<States, Halt<E>> {
        let embedding = self.dense.load_embedding()?.embedding;
        self.collect(self.windows.len(), |i| Ok(embedding.forward(&self.windows[i])?))
    }

    /// The outputs of a block.
    fn through<E: From<Error>>(&self, states: &States, block: &dyn DecoderBlock) -> Result<States, Halt<E>> {
        self.map(states, |x| block.forward(x))
    }

    fn map<E: From<Error>>(
        &self,
        states: &States,
        forward: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<States, Halt<E>> {
        self.collect(states.len(), |i| Ok(forward(&states.get(i)?)?))
    }

    /// The outputs of a compressed block, and their mean error over the windows that are trained on.
    fn outputs<E: From<Error>>(
        &self,
        states: &States,
        targets: &States,
        block: &dyn DecoderBlock,
    ) -> Result<(States, f64), Halt<E>> {
        let (mut sum, scored) = (0., self.training.map_or(states.len(), |training| training.windows));
        let outputs = self.collect(states.len(), |i| {
            let y = block.forward(&states.get(i)?)?.detach();
            if i >= scored {
                return Ok(y);
            }
            let error = scalar(&relative_error(&y, &targets.get(i)?, None)?)?;
            if !error.is_finite() {
                let what = format!("the error of {} on window {i}", block.path());
                return Err(Error::NonFinite { what, value: error });
            }
            sum += error;
            Ok(y)
        })?;
        Ok((outputs, sum / scored as f64))
    }

    fn collect<E: From<Error>>(
        &self,
        count: usize,
        mut of: impl FnMut(usize) -> Result<Tensor, Error>,
    ) -> Result<States, Halt<E>> {
        let states = States::collect::<Error>(&self.spill, count, |i| {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            of(i).map(Some)
        })?;
        states.ok_or(Halt::Stopped)
    }
}

/// A block in training.
struct Work<'a, S> {
    walk: &'a Blockwise<'a>,
    training: &'a BlockTraining,
    index: usize,
    block: &'a LoadedBlock,
    steps: &'a mut S,
    report: &'a mut dyn FnMut(BlockEvent<'_>),
    /// Steps of the parts before.
    done: u64,
}

impl<S: BlockSteps> Work<'_, S> {
    fn fit(
        &mut self,
        inputs: &States,
        targets: &States,
        of_part: impl Fn(&str) -> bool,
        forward: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<(), Halt<S::Error>> {
        let Self { walk, training, index, block, .. } = *self;
        let mut params = block.params();
        params.retain(|p| of_part(p.name()));
        let clock = block.store.clock();
        let part = Part { path: block.block.path(), params, forward, inputs, targets, clock };
        let parts = if training.parts == Parts::Split { 2 } else { 1 };
        let (each, before) = (training.steps(), self.done);
        let (steps, report) = (&mut *self.steps, &mut *self.report);
        let whole = fit(
            &part,
            training,
            walk.stop,
            &mut |step| steps.before_step(block, step),
            &mut |step, error| {
                report(BlockEvent::Step { index, step: before + step, steps: each * parts, error });
            },
        )
        .map_err(Halt::Failed)?;
        self.done += each;
        if whole { Ok(()) } else { Err(Halt::Stopped) }
    }
}
