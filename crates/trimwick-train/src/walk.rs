//! Training with the activations of one block in memory: forward over detached boundaries, then back block by block.
//!
//! The model is a row of segments: 0 is the embedding, 1 to n its blocks, n + 1 the head with the loss. Candle has no
//! way to compute without a graph, but a graph goes as soon as its output is detached: the way ahead keeps the output
//! of each block and nothing else. The way back computes each block again on a variable of its input, and starts
//! candle's backward at the gradient of the block's output (arXiv 1604.06174). A block that is computed again gives
//! the same bits, and what watches its inputs does not see them twice ([`Clock::recomputing`]).

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor, Var, WithDType};
use serde::{Deserialize, Serialize};
use trimwick_nn::{CausalLm, Clock, GradientSink};

use crate::data::Batch;
use crate::distill::{Distillation, Loss, at_head, relative_error, scalar};
use crate::{Error, Result};

/// What a step keeps in memory, against what it computes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryPlan {
    /// Every activation and every gradient.
    #[default]
    None,
    /// The outputs of the blocks, the activations of one block at a time, and every gradient. Each block is computed
    /// twice.
    Blocks,
    /// As `Blocks`, but a parameter is updated as soon as the way back has passed the last segment that uses it, and
    /// its gradient given back. So there are gradients of one segment at a time (and of weights that several segments
    /// share), and:
    ///
    /// - One micro-batch is one step: [`TrainConfig::accumulate`](crate::TrainConfig) has to be 1.
    /// - The norm of the whole gradient is known when the step is over. Clipping goes by the norm of the step before,
    ///   which is part of the saved state; the first step of a run walks back twice, once for its norm alone.
    /// - A gradient that is not finite may be found when other weights are updated already. That ends the step with
    ///   [`Error::HalfStep`], which cannot be skipped, only rewound.
    Lean,
}

/// What collects the gradients of a way back.
pub(crate) trait Collect {
    /// Takes those of the segment under way.
    fn sink(&mut self) -> &mut GradientSink;

    /// Is told that the sink has all gradients of a segment.
    ///
    /// # Errors
    /// Whatever ends the way back.
    fn passed(&mut self, segment: usize) -> Result<()>;
}

/// The model and the batch of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub(crate) model: &'a dyn CausalLm,
    pub(crate) clock: &'a Clock,
    /// Token ids, `[b, t]`.
    pub(crate) ids: &'a Tensor,
}

/// The way ahead, as far as the way back needs it.
pub(crate) struct Ahead {
    /// The loss; its `total` is of the head alone.
    pub(crate) loss: Loss,
    /// The last block's output, which the head's graph begins at.
    top: Var,
    /// Inputs of the blocks, `[b, t, hidden]` each; those that the way back has passed are gone.
    inputs: Vec<Tensor>,
    /// Gradient of the feature loss in the output of each block, where features count.
    pulls: Vec<Tensor>,
}

impl Walk<'_> {
    /// The way ahead over a batch.
    ///
    /// # Errors
    /// Tensor operations, ids that a model does not take.
    pub(crate) fn ahead(&self, batch: &Batch, distill: Option<&Distillation<'_>>) -> Result<Ahead> {
        let mut lesson = distill.map(|distill| distill.teach(batch)).transpose()?;
        let mut theirs =
            lesson.as_mut().map(|l| std::mem::take(&mut l.blocks)).unwrap_or_default().into_iter();
        let blocks = self.model.blocks();
        let (factor, share) = (distill.map_or(0., |d| d.config().features), 1. / blocks as f64);
        let (mut inputs, mut pulls, mut errors) = (Vec::with_capacity(blocks), Vec::new(), Vec::new());
        let mut x = self.model.embed(self.ids)?.detach();
        for index in 0..blocks {
            let y = self.model.block(index, &x)?.detach();
            inputs.push(std::mem::replace(&mut x, y));
            if let Some(theirs) = theirs.next() {
                let y = Var::from_tensor(&x)?;
                let error = relative_error(&y, &theirs, batch.counted(y.dtype())?.as_ref())?;
                errors.push(scalar(&error)?);
                // Factors as one graph over all blocks would multiply them.
                let part = ((error * share)? * (factor * batch.weight))?;
                pulls.push(gradient_of(&y, &mut part.backward()?, "a block's error")?);
            }
        }
        let top = Var::from_tensor(&x)?;
        drop(x);
        let mut loss = at_head(self.model, &top, batch, lesson)?;
        if !errors.is_empty() {
            let mean = errors.iter().sum::<f64>() * share;
            loss.value += mean * factor;
            loss.features = Some(mean);
        }
        Ok(Ahead { loss, top, inputs, pulls })
    }

    /// The way back, from the head to the embedding: the gradients of each segment's parameters go to `to`. With
    /// `again` another way back follows, and everything for it is kept.
    ///
    /// # Errors
    /// Whatever `to` reports; [`Error::MissingGradient`] when an operation cuts the graph of a segment.
    pub(crate) fn back(&self, ahead: &mut Ahead, again: bool, to: &mut dyn Collect) -> Result<()> {
        let _recomputing = Recomputing::on(self.clock);
        let blocks = self.model.blocks();
        let pull = ahead.pull(blocks, again);
        let root = with_pull(ahead.loss.total.clone(), &ahead.top, pull)?;
        // A sink would use up what the head keeps.
        let mut grads = if again { root.backward()? } else { to.sink().backward(&root)? };
        let mut g = gradient_of(&ahead.top, &mut grads, "the head's input")?;
        if again {
            to.sink().absorb(grads)?;
        } else {
            // The head's graph goes; its value was read before.
            ahead.loss.total = ahead.loss.total.detach();
        }
        drop(root);
        to.passed(blocks + 1)?;
        for index in (0..blocks).rev() {
            let input =
                if again { ahead.inputs.get(index).cloned() } else { pop_at(&mut ahead.inputs, index) };
            let Some(input) = input else { break };
            let x = Var::from_tensor(&input)?;
            drop(input);
            let root = with_pull(seed(&self.model.block(index, &x)?, g)?, &x, ahead.pull(index, again))?;
            let mut grads = to.sink().backward(&root)?;
            g = gradient_of(&x, &mut grads, &self.model.block_path(index))?;
            drop((root, grads));
            to.passed(index + 1)?;
        }
        let embedded = self.model.embed(self.ids)?;
        if embedded.track_op() {
            to.sink().backward(&seed(&embedded, g)?)?;
            to.passed(0)?;
        }
        Ok(())
    }

    /// Runs every segment on its own, from a gradient of ones, and tells `take` the gradients of its parameters.
    ///
    /// # Errors
    /// As [`Walk::back`].
    pub(crate) fn probe(&self, take: &mut dyn FnMut(usize, &mut GradStore)) -> Result<()> {
        let _recomputing = Recomputing::on(self.clock);
        let mut run = |segment: usize, y: Tensor| -> Result<()> {
            if y.track_op() {
                let ones = y.ones_like()?;
                take(segment, &mut seed(&y, ones)?.backward()?);
            }
            Ok(())
        };
        let embedded = self.model.embed(self.ids)?;
        let mut x = embedded.detach();
        run(0, embedded)?;
        for index in 0..self.model.blocks() {
            let y = self.model.block(index, &x)?;
            x = y.detach();
            run(index + 1, y)?;
        }
        run(self.model.blocks() + 1, self.model.head(&x)?)
    }
}

impl Ahead {
    /// Gradient of the feature loss in the input of block `index`, which is the output of the one before.
    fn pull(&mut self, index: usize, again: bool) -> Option<Tensor> {
        let before = index.checked_sub(1)?;
        if again { self.pulls.get(before).cloned() } else { pop_at(&mut self.pulls, before) }
    }
}

/// Takes element `index` when it is the last one.
fn pop_at(list: &mut Vec<Tensor>, index: usize) -> Option<Tensor> {
    if list.len() == index + 1 { list.pop() } else { None }
}

fn gradient_of(x: &Var, grads: &mut GradStore, name: &str) -> Result<Tensor> {
    let cut = || Error::MissingGradient { names: vec![name.into()] };
    Ok(grads.remove(x).ok_or_else(cut)?.detach())
}

/// `root` of a segment on `x`, whose gradient begins with `pull`: the order in which a graph of the whole model adds it
/// up, so that its bits are the same.
fn with_pull(root: Tensor, x: &Var, pull: Option<Tensor>) -> CandleResult<Tensor> {
    match pull {
        // Candle walks back from the right first.
        Some(pull) => root + seed(x, pull)?,
        None => Ok(root),
    }
}

/// A scalar whose backward gives `y` the gradient `g`.
fn seed(y: &Tensor, g: Tensor) -> CandleResult<Tensor> {
    if y.device().is_cpu() {
        return y.apply_op1(Seed(g));
    }
    (y * g.detach())?.sum_all()
}

struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let zero = match self.0.dtype() {
            candle_core::DType::F64 => f64::to_cpu_storage_owned(vec![0.]),
            _ => f32::to_cpu_storage_owned(vec![0.]),
        };
        Ok((zero, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// Says on the clock that the model computes again, and takes it back on every way out.
struct Recomputing<'a>(&'a Clock);

impl<'a> Recomputing<'a> {
    fn on(clock: &'a Clock) -> Self {
        clock.set_recomputing(true);
        Self(clock)
    }
}

impl Drop for Recomputing<'_> {
    fn drop(&mut self) {
        self.0.set_recomputing(false);
    }
}
