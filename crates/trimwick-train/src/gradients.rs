//! Gradients of several micro-batches, summed in place, and what is asked of them before they reach a weight.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use trimwick_kernels as kernels;
use trimwick_nn::{Param, ops};

use crate::host;
use crate::{Error, Result};

/// Elements one task adds.
const CHUNK: usize = 16 * 1024;

/// The sum of a parameter's gradients.
pub(crate) enum Sum {
    /// The gradient of one micro-batch as candle made it. It may share its storage, so it is never written to.
    One(Tensor),
    /// The sum of several, in storage of its own.
    Own(Tensor),
}

impl Sum {
    pub(crate) fn tensor(&self) -> &Tensor {
        match self {
            Self::One(t) | Self::Own(t) => t,
        }
    }

    fn into_tensor(self) -> Tensor {
        match self {
            Self::One(t) | Self::Own(t) => t,
        }
    }

    /// Adds `g`, the gradient of one segment or micro-batch, to what there is.
    pub(crate) fn put(old: Option<Self>, g: Tensor) -> Result<Self> {
        // Detached: a gradient that is kept by reference may keep a graph alive.
        let g = g.detach();
        match old {
            Some(sum) => sum.add(g),
            None => Ok(Self::One(g)),
        }
    }

    fn add(self, g: Tensor) -> Result<Self> {
        match self {
            Self::Own(sum) if host::fused(&sum) => {
                ops::with_slices::<f32, _, 1>([&g], |[g]| {
                    host::update(&sum, |sum: &mut [f32]| {
                        sum.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(sum, g)| {
                            sum.iter_mut().zip(g).for_each(|(s, g)| *s += g);
                        });
                        Ok(())
                    })
                })?;
                Ok(Self::Own(sum))
            }
            Self::One(sum) | Self::Own(sum) => Ok(Self::Own((sum + g)?)),
        }
    }
}

/// Accumulates the gradients of the trainable parameters over micro-batches of equal size; what an optimizer
/// takes is their mean, times the factor of [`Gradients::clip`].
pub struct Gradients {
    params: Vec<Param>,
    sums: BTreeMap<String, Sum>,
    /// Parameters that have a gradient of the micro-batch under way.
    seen: BTreeSet<String>,
    /// Parameters that several segments use. Theirs are added up within a micro-batch first, as candle does.
    shared: BTreeSet<String>,
    fresh: BTreeMap<String, Sum>,
    batches: u32,
    clip: f64,
    norm: Cell<Option<f64>>,
}

impl Gradients {
    /// An empty sum for `params`, of which the frozen ones are left out.
    pub fn new(params: &[Param]) -> Self {
        let params = params.iter().filter(|p| p.role() == trimwick_nn::Role::Trainable).cloned().collect();
        Self {
            params,
            sums: BTreeMap::new(),
            seen: BTreeSet::new(),
            shared: BTreeSet::new(),
            fresh: BTreeMap::new(),
            batches: 0,
            clip: 1.,
            norm: Cell::new(None),
        }
    }

    /// Adds the gradients of one micro-batch. Drop the loss before: it holds every activation of the forward pass.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when a trainable parameter has none; nothing has been added then.
    pub fn accumulate(&mut self, mut grads: GradStore) -> Result<()> {
        let missing: Vec<String> = self
            .params
            .iter()
            .filter(|p| grads.get(&p.var()).is_none())
            .map(|p| p.name().to_string())
            .collect();
        if !missing.is_empty() {
            return Err(Error::MissingGradient { names: missing });
        }
        self.collect(&mut grads)?;
        self.close()
    }

    /// Adds the gradients that one segment of the model gives in the micro-batch under way.
    pub(crate) fn collect(&mut self, grads: &mut GradStore) -> Result<()> {
        for param in &self.params {
            let Some(grad) = grads.remove(&param.var()) else { continue };
            let name = param.name().to_string();
            if !self.seen.insert(name.clone()) {
                self.shared.insert(name.clone());
            }
            let of_batch = self.batches > 0 && self.shared.contains(&name);
            let sums = if of_batch { &mut self.fresh } else { &mut self.sums };
            let sum = Sum::put(sums.remove(&name), grad)?;
            sums.insert(name, sum);
        }
        Ok(())
    }

    /// Ends a micro-batch whose segments were [collected](Self::collect).
    pub(crate) fn close(&mut self) -> Result<()> {
        let missing = self.params.iter().map(Param::name).filter(|name| !self.seen.contains(*name));
        let names: Vec<String> = missing.map(str::to_string).collect();
        if !names.is_empty() {
            return Err(Error::MissingGradient { names });
        }
        for (name, fresh) in std::mem::take(&mut self.fresh) {
            let sum = Sum::put(self.sums.remove(&name), fresh.into_tensor())?;
            self.sums.insert(name, sum);
        }
        self.seen.clear();
        self.batches += 1;
        self.clip = 1.;
        self.norm.set(None);
        Ok(())
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
        for (name, sum) in &self.sums {
            let squares = sum_squares(sum.tensor())?;
            if !squares.is_finite() {
                return Err(Error::NonFinite { what: format!("the gradient of {name}"), value: squares });
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
        self.sums.get(name).map(Sum::tensor)
    }

    /// Number of micro-batches in the sum.
    pub fn batches(&self) -> u32 {
        self.batches
    }
}

/// What brings a gradient of the norm `norm` to at most `max`.
pub(crate) fn clip_factor(max: f64, norm: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.)
}

/// Σ x² of a parameter's gradient, which is NaN or infinite exactly when one of its values is: squares of finite f32
/// cannot overflow an f64.
pub(crate) fn sum_squares(t: &Tensor) -> Result<f64> {
    if host::fused(t) {
        return Ok(ops::with_slices::<f32, _, 1>([t], |[x]| Ok(kernels::sum_squares(x)))?);
    }
    Ok(t.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
