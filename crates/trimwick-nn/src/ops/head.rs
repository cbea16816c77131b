//! The loss of a language model over a large vocabulary, without the logits of all tokens at once.
//!
//! ```text
//! loss = (1 − w)·CE(student, targets) + w·T²·KL(softmax(teacher/T) ‖ softmax(student/T))
//! ```
//!
//! Logits are the product of hidden states and a weight of the vocabulary's height. They are made for some tokens, of
//! which the losses are taken; in their place comes their gradient, which the two products of a linear layer's backward
//! carry on at once. What stays are the gradients of the hidden states and of the weight: the loss is a sum, and its own
//! gradient no more than a factor on them.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, DType, Result, Tensor, bail};
use trimwick_kernels::{self as kernels, LossMix};

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use super::linear::linear;
use super::loss::{cross_entropy, kl_divergence};
use crate::grad::{Backward, Inputs, record};

/// Logits that are in memory at a time.
const LOGITS: usize = 12 << 20;
/// Tokens of a piece are a multiple of this.
const ROWS: usize = 16;

/// The logits of a model, one row a token.
#[derive(Debug, Clone)]
pub enum Logits {
    /// All of them, `[.., vocabulary]`.
    Whole(Tensor),
    /// What they are the product of.
    Product {
        /// What enters the head, `[.., hidden]`.
        hidden: Tensor,
        /// The head's weight, `[vocabulary, hidden]`.
        weight: Tensor,
    },
}

impl Logits {
    /// All of them, `[.., vocabulary]`.
    ///
    /// # Errors
    /// Factors that do not fit.
    pub fn whole(&self) -> Result<Tensor> {
        match self {
            Self::Whole(logits) => Ok(logits.clone()),
            Self::Product { hidden, weight } => linear(hidden, weight),
        }
    }

    /// The same outside of any autograd graph.
    pub fn detach(&self) -> Self {
        match self {
            Self::Whole(logits) => Self::Whole(logits.detach()),
            Self::Product { hidden, weight } => {
                Self::Product { hidden: hidden.detach(), weight: weight.detach() }
            }
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Whole(logits) => vec![logits],
            Self::Product { hidden, weight } => vec![hidden, weight],
        }
    }

    /// Tokens and vocabulary.
    fn dims(&self) -> Result<(usize, usize)> {
        let (rows, features, vocabulary) = match self {
            Self::Whole(logits) => (logits, logits.dim(D::Minus1)?, logits.dim(D::Minus1)?),
            Self::Product { hidden, weight } => (hidden, weight.dim(1)?, weight.dim(0)?),
        };
        if rows.dim(D::Minus1)? != features || features == 0 {
            bail!("head loss: hidden states {:?} do not fit a weight of {features} columns", rows.dims());
        }
        Ok((rows.elem_count() / features, vocabulary))
    }

    fn contiguous(&self) -> Result<Self> {
        Ok(match self {
            Self::Whole(logits) => Self::Whole(logits.contiguous()?),
            Self::Product { hidden, weight } => {
                Self::Product { hidden: hidden.contiguous()?, weight: weight.contiguous()? }
            }
        })
    }

    /// Writes the logits of `tokens` to `out`.
    fn fill<T: Elem>(&self, first: usize, tokens: usize, out: &mut [T]) -> Result<()> {
        match self {
            Self::Whole(logits) => with_slices::<T, _, 1>([logits], |[logits]| {
                out.copy_from_slice(&logits[first * (out.len() / tokens)..][..out.len()]);
                Ok(())
            }),
            Self::Product { hidden, weight } => {
                let (v, k) = weight.dims2()?;
                with_slices::<T, _, 2>([hidden, weight], |[x, w]| {
                    kernels::matmul_nt(&x[first * k..][..tokens * k], w, out, tokens, k, v, false);
                    Ok(())
                })
            }
        }
    }
}

/// A model to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Teacher<'a> {
    /// Its logits of the same tokens over the same vocabulary. They get no gradient.
    pub logits: &'a Logits,
    /// Share w of the divergence in the loss, in [0, 1].
    pub weight: f64,
    /// Temperature T, above 0.
    pub temperature: f64,
}

/// What [`head_loss`] finds.
#[derive(Debug)]
pub struct HeadLoss {
    /// The loss, a scalar with a backward.
    pub total: Tensor,
    /// Its value.
    pub value: f64,
    /// Mean cross-entropy of the tokens whose target is not ignored, in nats.
    pub cross_entropy: f64,
    /// Mean divergence of the same tokens from the teacher, in nats, without the factor T².
    pub divergence: Option<f64>,
}

/// Cross-entropy of the next token, mixed with the divergence from a teacher where there is one (arXiv 1503.02531). One
/// target a token; a token whose target is `ignore` has no loss of either kind and no gradient, and both are means of the
/// others.
///
/// On the CPU in f32 and f64 the logits of a [`Logits::Product`] are made for as many tokens at a time as the vocabulary
/// allows, whatever their number. Elsewhere they are made at once.
///
/// # Errors
/// A target outside of the vocabulary, another number of targets than tokens, a teacher of another shape, a temperature
/// that is not positive.
pub fn head_loss(
    student: &Logits,
    targets: &[u32],
    ignore: u32,
    teacher: Option<Teacher<'_>>,
) -> Result<HeadLoss> {
    let (n, v) = student.dims()?;
    if targets.len() != n {
        bail!("head loss: {n} tokens but {} targets", targets.len());
    }
    if let Some(i) = targets.iter().position(|&t| t != ignore && t as usize >= v) {
        bail!("head loss: target {} of token {i} is outside the vocabulary of {v}", targets[i]);
    }
    if let Some(Teacher { logits, temperature, .. }) = teacher {
        let found = logits.dims()?;
        if found != (n, v) {
            bail!("head loss: a student of {n} tokens × {v} but a teacher of {} × {}", found.0, found.1);
        }
        if !(temperature.is_finite() && temperature > 0.) {
            bail!("head loss: expected a temperature > 0, found {temperature}");
        }
    }
    let mut tensors = student.tensors();
    tensors.extend(teacher.iter().flat_map(|t| t.logits.tensors()));
    if !fused(&tensors) {
        return composed(student, targets, ignore, teacher);
    }
    by_dtype!(tensors[0].dtype(), T => in_pieces::<T>(&student.contiguous()?, targets, ignore, teacher))
}

fn composed(
    student: &Logits,
    targets: &[u32],
    ignore: u32,
    teacher: Option<Teacher<'_>>,
) -> Result<HeadLoss> {
    let scalar = |t: &Tensor| t.to_dtype(DType::F64)?.to_scalar::<f64>();
    let flat = |logits: &Logits| logits.whole().and_then(|l| l.reshape(((), l.dim(D::Minus1)?)));
    let logits = flat(student)?;
    let ce = cross_entropy(&logits, targets, ignore)?;
    let Some(Teacher { logits: theirs, weight, temperature }) = teacher else {
        let value = scalar(&ce)?;
        return Ok(HeadLoss { total: ce, value, cross_entropy: value, divergence: None });
    };
    let kl = match of_counted(&logits, &flat(theirs)?, targets, ignore, temperature)? {
        Some(kl) => kl,
        None => ce.zeros_like()?,
    };
    // Candle prunes the graph below a factor of 0, so a weight of 1 costs no backward of the cross-entropy.
    let total = ((&ce * (1. - weight))? + (&kl * (weight * temperature * temperature))?)?;
    let (value, cross_entropy, divergence) = (scalar(&total)?, scalar(&ce)?, Some(scalar(&kl)?));
    Ok(HeadLoss { total, value, cross_entropy, divergence })
}

/// Mean divergence of the tokens whose target is not ignored; none where all are.
fn of_counted(
    student: &Tensor,
    teacher: &Tensor,
    targets: &[u32],
    ignore: u32,
    temperature: f64,
) -> Result<Option<Tensor>> {
    let counted: Vec<u32> =
        targets.iter().zip(0..).filter(|(target, _)| **target != ignore).map(|(_, row)| row).collect();
    if counted.len() == targets.len() {
        return kl_divergence(student, teacher, temperature).map(Some);
    }
    if counted.is_empty() {
        return Ok(None);
    }
    let rows = Tensor::new(counted, student.device())?;
    let [student, teacher] = [student.index_select(&rows, 0)?, teacher.index_select(&rows, 0)?];
    kl_divergence(&student, &teacher, temperature).map(Some)
}

fn in_pieces<T: Elem>(
    student: &Logits,
    targets: &[u32],
    ignore: u32,
    teacher: Option<Teacher<'_>>,
) -> Result<HeadLoss> {
    let (n, v) = student.dims()?;
    let scored = targets.iter().filter(|&&t| t != ignore).count().max(1) as f64;
    let (share, temperature) = teacher.map_or((0., 1.), |t| (t.weight, t.temperature));
    let mix = LossMix {
        cross_entropy: (1. - share) / scored,
        divergence: share * temperature * temperature / scored,
        temperature,
        ignore,
    };
    // A function of the vocabulary alone: the pieces decide in which order gradients are added.
    let rows = (LOGITS / v.max(1) / ROWS * ROWS).max(ROWS);
    let mut grads = Gradients::<T>::of(student);
    let mut room = zeros::<T>(if grads.whole() { 0 } else { rows.min(n) * v });
    let mut theirs = zeros::<T>(if teacher.is_some() { rows.min(n) * v } else { 0 });
    let wanted = grads.wanted();
    let (mut ce, mut kl) = (vec![0.; n], vec![0.; n]);
    for first in (0..n).step_by(rows) {
        let tokens = rows.min(n - first);
        let piece = first..first + tokens;
        let logits = match &mut grads.logits {
            Some(all) => &mut all[first * v..][..tokens * v],
            None => &mut room[..tokens * v],
        };
        student.fill(first, tokens, logits)?;
        let theirs = match teacher {
            Some(teacher) => {
                teacher.logits.fill(first, tokens, &mut theirs[..tokens * v])?;
                Some(&theirs[..tokens * v])
            }
            None => None,
        };
        let (targets, ce, kl) = (&targets[piece.clone()], &mut ce[piece.clone()], &mut kl[piece]);
        if !wanted {
            kernels::token_losses(logits, theirs, targets, &mix, ce, kl);
            continue;
        }
        kernels::token_losses_gradient(logits, theirs, targets, &mix, ce, kl);
        if let Logits::Product { hidden, weight } = student {
            grads.add(hidden, weight, first, tokens, &room[..tokens * v])?;
        }
    }
    let (ce, kl): (f64, f64) = (ce.iter().sum(), kl.iter().sum());
    let value = ce * mix.cross_entropy + kl * mix.divergence;
    let total = record(vec![<T as kernels::Real>::from_f64(value)], (), &student.tensors(), grads.kept())?;
    let divergence = teacher.map(|_| kl / scored);
    Ok(HeadLoss { total, value, cross_entropy: ce / scored, divergence })
}

/// The gradients that somebody wants.
struct Gradients<T> {
    /// Of all logits.
    logits: Option<Vec<T>>,
    hidden: Option<Vec<T>>,
    weight: Option<Vec<T>>,
    product: bool,
}

impl<T: Elem> Gradients<T> {
    fn of(student: &Logits) -> Self {
        let room = |t: &Tensor| t.track_op().then(|| zeros::<T>(t.elem_count()));
        match student {
            Logits::Whole(logits) => {
                Self { logits: room(logits), hidden: None, weight: None, product: false }
            }
            Logits::Product { hidden, weight } => {
                Self { logits: None, hidden: room(hidden), weight: room(weight), product: true }
            }
        }
    }

    /// Whether the gradient of the logits takes the place of the logits for good.
    fn whole(&self) -> bool {
        self.logits.is_some()
    }

    fn wanted(&self) -> bool {
        self.logits.is_some() || self.hidden.is_some() || self.weight.is_some()
    }

    /// Adds what the gradient `g` of the logits of some tokens is for the factors.
    fn add(&mut self, x: &Tensor, w: &Tensor, first: usize, tokens: usize, g: &[T]) -> Result<()> {
        let (v, k) = w.dims2()?;
        with_slices::<T, _, 2>([x, w], |[x, w]| {
            if let Some(dx) = &mut self.hidden {
                kernels::matmul_nn(g, w, &mut dx[first * k..][..tokens * k], tokens, v, k, false);
            }
            if let Some(dw) = &mut self.weight {
                kernels::matmul_tn(g, &x[first * k..][..tokens * k], dw, tokens, v, k, first > 0);
            }
            Ok(())
        })
    }

    /// In the order of [`Logits::tensors`].
    fn kept(self) -> Kept<T> {
        Kept(match self.product {
            false => vec![Mutex::new(self.logits)],
            true => vec![Mutex::new(self.hidden), Mutex::new(self.weight)],
        })
    }
}

/// The gradients of the inputs for a loss whose gradient is 1.
struct Kept<T>(Vec<Mutex<Option<Vec<T>>>>);

impl<T: Elem> Backward<T> for Kept<T> {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        let factor = g[0];
        for (i, kept) in self.0.iter().enumerate() {
            if !to.wants(i) {
                continue;
            }
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if !to.is_last() {
                let Some(grad) = kept.as_ref() else { return gone() };
                let len = grad.len();
                to.write(i, len, |dst, accumulate| kernels::scale_into(grad, factor, dst, accumulate))?;
                continue;
            }
            // No copy of what is as large as the head.
            let Some(mut grad) = kept.take() else { return gone() };
            if factor != T::one() {
                kernels::scale(&mut grad, factor);
            }
            to.give(i, grad)?;
        }
        Ok(())
    }
}

fn gone() -> Result<()> {
    bail!("head loss: its gradients went to a sink in an earlier backward; run the forward pass again")
}
