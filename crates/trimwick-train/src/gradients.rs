//! Gradients of several micro-batches, summed in place, and what is asked of them before they reach a weight.

use std::cell::Cell;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use trimwick_kernels as kernels;
use trimwick_nn::{GradientSink, Param, Role, ops};

use crate::host;
use crate::walk::Collect;
use crate::{Error, Result};

/// Accumulates the gradients of the trainable parameters over micro-batches of equal size; what an optimizer
/// takes is their mean, times the factor of [`Gradients::clip`].
pub struct Gradients {
    /// Sorted by name.
    params: Vec<Param>,
    sink: GradientSink,
    /// Which parameters have a gradient of the micro-batch under way.
    reached: Vec<bool>,
    batches: u32,
    clip: f64,
    norm: Cell<Option<f64>>,
}

impl Gradients {
    /// An empty sum for `params`, of which the frozen ones are left out.
    pub fn new(params: &[Param]) -> Self {
        let mut new = Self {
            params: Vec::new(),
            sink: GradientSink::default(),
            reached: Vec::new(),
            batches: 0,
            clip: 1.,
            norm: Cell::new(None),
        };
        new.reset(params);
        new
    }

    /// Empties the sums, which are of `params` from here on. The memory of those that were there before is used again:
    /// a tensor that [`Gradients::get`] has given changes its values.
    pub fn reset(&mut self, params: &[Param]) {
        self.params = params.iter().filter(|p| p.role() == Role::Trainable).cloned().collect();
        self.params.sort_by(|a, b| a.name().cmp(b.name()));
        self.sink.reset(&self.params);
        self.reached = vec![false; self.params.len()];
        self.batches = 0;
        self.changed();
    }

    /// Runs the backward of one micro-batch's loss and adds its gradients, in the layers of `trimwick-nn` where they
    /// are made. It can be run once for a loss.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when a trainable parameter has none; the sums are of no use then.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.sink.backward(loss)?;
        self.note();
        self.close()
    }

    /// Adds the gradients of one micro-batch from candle's own backward. Drop the loss before: it holds every activation
    /// of the forward pass.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when a trainable parameter has none; nothing has been added then.
    pub fn accumulate(&mut self, grads: GradStore) -> Result<()> {
        refuse_missing(self.params.iter().filter(|p| grads.get(&p.var()).is_none()))?;
        self.sink.absorb(grads)?;
        self.note();
        self.close()
    }

    /// Notes what the last backward has reached.
    fn note(&mut self) {
        for (param, reached) in self.params.iter().zip(&mut self.reached) {
            *reached |= self.sink.reached(param);
        }
    }

    /// Ends a micro-batch.
    ///
    /// # Errors
    /// As [`Gradients::backward`].
    pub(crate) fn close(&mut self) -> Result<()> {
        refuse_missing(self.params.iter().zip(&self.reached).filter(|(_, r)| !**r).map(|(p, _)| p))?;
        self.reached.fill(false);
        self.batches += 1;
        self.changed();
        Ok(())
    }

    fn changed(&mut self) {
        self.clip = 1.;
        self.norm.set(None);
    }

    /// The Euclidean norm of the mean gradient over all parameters, added up in the order of their names.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with the first parameter whose gradient holds a NaN or an infinity.
    pub fn norm(&self) -> Result<f64> {
        if let Some(norm) = self.norm.get() {
            return Ok(norm);
        }
        let mut total = 0.;
        for param in &self.params {
            let Some(sum) = self.sink.get(param) else { continue };
            let squares = sum_squares(sum)?;
            if !squares.is_finite() {
                let what = format!("the gradient of {}", param.name());
                return Err(Error::NonFinite { what, value: squares });
            }
            total += squares;
        }
        let norm = total.sqrt() / f64::from(self.batches.max(1));
        self.norm.set(Some(norm));
        Ok(norm)
    }

    /// Scales the mean gradient down to the norm `max` where it is larger, as `clip_grad_norm_` of PyTorch does
    /// (`max / (norm + 1e-6)`, at most 1), and returns the norm that it had.
    ///
    /// # Errors
    /// As [`Gradients::norm`].
    pub fn clip(&mut self, max: f64) -> Result<f64> {
        let norm = self.norm()?;
        self.clip = clip_factor(max, norm);
        Ok(norm)
    }

    /// The factor from a sum to what the optimizer takes: one over the number of micro-batches, times clipping.
    pub fn scale(&self) -> f64 {
        self.clip / f64::from(self.batches.max(1))
    }

    /// The sum of one parameter's gradients, before [`Gradients::scale`].
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let index = self.params.binary_search_by(|p| p.name().cmp(name)).ok()?;
        self.sink.get(&self.params[index])
    }

    /// Number of micro-batches in the sum.
    pub fn batches(&self) -> u32 {
        self.batches
    }
}

/// One micro-batch, a segment at a time, which [`Gradients::close`] ends.
impl Collect for Gradients {
    fn sink(&mut self) -> &mut GradientSink {
        &mut self.sink
    }

    fn passed(&mut self, _segment: usize) -> Result<()> {
        self.note();
        Ok(())
    }
}

/// What brings a gradient of the norm `norm` to at most `max`.
pub(crate) fn clip_factor(max: f64, norm: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.)
}

/// # Errors
/// [`Error::MissingGradient`] with the names, if there are any.
pub(crate) fn refuse_missing<'a>(missing: impl Iterator<Item = &'a Param>) -> Result<()> {
    let names: Vec<String> = missing.map(|p| p.name().to_string()).collect();
    if names.is_empty() { Ok(()) } else { Err(Error::MissingGradient { names }) }
}

/// Σ x² of a parameter's gradient, which is NaN or infinite exactly when one of its values is: squares of finite f32
/// cannot overflow an f64.
pub(crate) fn sum_squares(t: &Tensor) -> Result<f64> {
    if host::fused(t) {
        return Ok(ops::with_slices::<f32, _, 1>([t], |[x]| Ok(kernels::sum_squares(x)))?);
    }
    Ok(t.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
