//! Losses over the vocabulary: cross-entropy with an ignore index, Kullback–Leibler divergence from a teacher.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, record};

/// Mean of `−log softmax(logits)[target]` over the rows whose target is not `ignore`: logits `[n, v]`, one
/// target a row. Zero when every row is ignored.
///
/// # Errors
/// A target outside the vocabulary, or another number of targets than rows.
pub fn cross_entropy(logits: &Tensor, targets: &[u32], ignore: u32) -> Result<Tensor> {
    let counted = targets.iter().filter(|&&t| t != ignore).count().max(1);
    cross_entropy_each(logits, targets, ignore)?.sum_all()? / counted as f64
}

/// `−log softmax(logits)[target]` of every row, 0 where the target is `ignore`: logits `[n, v]`, result `[n]`.
///
/// # Errors
/// A target outside the vocabulary, or another number of targets than rows.
pub fn cross_entropy_each(logits: &Tensor, targets: &[u32], ignore: u32) -> Result<Tensor> {
    let (n, v) = logits.dims2()?;
    if targets.len() != n {
        bail!("cross-entropy: {n} rows of logits but {} targets", targets.len());
    }
    if let Some(i) = targets.iter().position(|&t| t != ignore && t as usize >= v) {
        bail!("cross-entropy: target {} of row {i} is outside the vocabulary of {v}", targets[i]);
    }
    if fused(&[logits]) {
        let logits = logits.contiguous()?;
        let op = CrossEntropy { logits: logits.detach(), targets: targets.into(), ignore };
        return by_dtype!(logits.dtype(), T => {
            let mut loss = zeros::<T>(n);
            with_slices::<T, _, 1>([&logits], |[logits]| {
                kernels::cross_entropy(logits, targets, ignore, &mut loss);
                Ok(())
            })?;
            record(loss, n, &[&logits], op)
        });
    }
    cross_entropy_composed(logits, targets, ignore)
}

pub(crate) fn cross_entropy_composed(logits: &Tensor, targets: &[u32], ignore: u32) -> Result<Tensor> {
    let wide = widen(logits)?;
    let log_p = candle_nn::ops::log_softmax(&wide, D::Minus1)?;
    let picked: Vec<u32> = targets.iter().map(|&t| if t == ignore { 0 } else { t }).collect();
    let weight: Vec<f32> = targets.iter().map(|&t| if t == ignore { 0. } else { -1. }).collect();
    let dev = logits.device();
    let picked = Tensor::from_vec(picked, (targets.len(), 1), dev)?;
    let weight =
        Tensor::from_vec(weight, targets.len(), &Device::Cpu)?.to_dtype(wide.dtype())?.to_device(dev)?;
    log_p.gather(&picked, 1)?.squeeze(1)? * weight
}

/// Mean over rows of `KL(softmax(teacher/T) ‖ softmax(student/T))`, both `[n, v]`; only the student gets a
/// gradient. Multiply by `T²` to keep the gradient's size independent of the temperature (arXiv 1503.02531).
///
/// # Errors
/// Shapes that differ.
pub fn kl_divergence(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    if student.shape() != teacher.shape() || student.rank() != 2 {
        bail!(
            "KL divergence: student {:?} and teacher {:?} must be two equal [n, vocabulary] tensors",
            student.dims(),
            teacher.dims()
        );
    }
    let rows = student.dim(0)?.max(1) as f64;
    let each = if fused(&[student, teacher]) {
        let (student, teacher) = (student.contiguous()?, teacher.contiguous()?.detach());
        by_dtype!(student.dtype(), T => {
            let mut loss = zeros::<T>(student.dim(0)?);
            with_slices::<T, _, 2>([&student, &teacher], |[student, teacher]| {
                kernels::kl_divergence(student, teacher, temperature, &mut loss);
                Ok(())
            })?;
            let op = KlDivergence { student: student.detach(), teacher, temperature };
            record(loss, student.dim(0)?, &[&student], op)
        })?
    } else {
        kl_composed(student, teacher, temperature)?
    };
    each.sum_all()? / rows
}

pub(crate) fn kl_composed(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    let log_softmax = |x: &Tensor| candle_nn::ops::log_softmax(&(widen(x)? / temperature)?, D::Minus1);
    let (log_s, log_t) = (log_softmax(student)?, log_softmax(&teacher.detach())?);
    (log_t.exp()? * (log_t - log_s)?)?.sum(D::Minus1)
}

fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::BF16 | DType::F16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

struct CrossEntropy {
    logits: Tensor,
    targets: Box<[u32]>,
    ignore: u32,
}

impl<T: Elem> Backward<T> for CrossEntropy {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        with_slices::<T, _, 1>([&self.logits], |[x]| {
            to.overwrite(0, x.len(), |dx| {
                kernels::cross_entropy_backward(x, &self.targets, self.ignore, g, dx);
            })
        })
    }
}

struct KlDivergence {
    student: Tensor,
    teacher: Tensor,
    temperature: f64,
}

impl<T: Elem> Backward<T> for KlDivergence {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        with_slices::<T, _, 2>([&self.student, &self.teacher], |[s, t]| {
            to.overwrite(0, s.len(), |ds| kernels::kl_divergence_backward(s, t, self.temperature, g, ds))
        })
    }
}
