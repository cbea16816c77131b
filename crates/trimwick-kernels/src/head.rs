//! The losses of a piece of logits and, in their place, the gradient: what a language model's head is trained by,
//! without a second buffer of the vocabulary's width.

use rayon::prelude::*;

use crate::add::scale_chunk_in_place;
use crate::cpu::wide;
use crate::loss::{Divergence, check_kl, check_targets, divergence, exponentials, max_and_sum, width};
use crate::real::Real;

/// How much each loss of a token counts in the gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossMix {
    /// Factor of a token's cross-entropy.
    pub cross_entropy: f64,
    /// Factor of a token's divergence from the teacher.
    pub divergence: f64,
    /// Temperature T of the divergence.
    pub temperature: f64,
    /// The target of a token that counts for nothing: it has neither loss nor gradient.
    pub ignore: u32,
}

/// The losses of each row of `logits`, in nats: `ce` as of [`crate::cross_entropy`] and `kl` as of
/// [`crate::kl_divergence`], 0 without a teacher; both 0 where the target is ignored.
///
/// `logits` and `teacher` are `[n, v]`; `targets`, `ce` and `kl` are `[n]`. With n = 0 nothing is done.
///
/// # Panics
/// When a slice does not have the length of its shape, a target is neither below v nor ignored, or the temperature is
/// not positive.
pub fn token_losses<T: Real>(
    logits: &[T],
    teacher: Option<&[T]>,
    targets: &[u32],
    mix: &LossMix,
    ce: &mut [f64],
    kl: &mut [f64],
) {
    let Some(v) = check("token_losses", logits.len(), teacher, targets, mix, ce, kl) else { return };
    let scale = T::from_f64(1.0 / mix.temperature);
    (logits.par_chunks_exact(v), targets, ce, kl).into_par_iter().enumerate().for_each(
        |(i, (row, &target, ce, kl))| {
            let teacher = teacher.map(|t| &t[i * v..(i + 1) * v]);
            (*ce, *kl) = (0.0, 0.0);
            if target == mix.ignore {
                return;
            }
            let (m, sum) = max_and_sum(row, T::ONE);
            *ce = nats(row, target, m, sum);
            *kl = teacher
                .map_or(0.0, |teacher| divergence(row, m, teacher, scale).nats(tempered(row, scale, sum)));
        },
    );
}

/// [`token_losses`], after which each row of `logits` is the gradient of
/// `mix.cross_entropy · ce + mix.divergence · kl` with respect to it.
///
/// # Panics
/// As [`token_losses`].
pub fn token_losses_gradient<T: Real>(
    logits: &mut [T],
    teacher: Option<&[T]>,
    targets: &[u32],
    mix: &LossMix,
    ce: &mut [f64],
    kl: &mut [f64],
) {
    const OP: &str = "token_losses_gradient";
    let Some(v) = check(OP, logits.len(), teacher, targets, mix, ce, kl) else { return };
    let scale = T::from_f64(1.0 / mix.temperature);
    (logits.par_chunks_exact_mut(v), targets, ce, kl).into_par_iter().enumerate().for_each(
        |(i, (row, &target, ce, kl))| {
            (*ce, *kl) = (0.0, 0.0);
            if target == mix.ignore {
                row.fill(T::ZERO);
                return;
            }
            let weight = mix.cross_entropy;
            let Some(teacher) = teacher else {
                let logit = row[target as usize].to_f64();
                let (m, sum) = exponentials(row, T::ONE);
                *ce = sum.ln() + (m.to_f64() - logit);
                scale_chunk_in_place(row, T::from_f64(weight / sum));
                row[target as usize] -= T::from_f64(weight);
                return;
            };
            let teacher = &teacher[i * v..(i + 1) * v];
            let (m, sum) = max_and_sum(row, T::ONE);
            let sum_s = tempered(row, scale, sum);
            let Divergence { mt, sum_t, .. } = {
                let found = divergence(row, m, teacher, scale);
                *kl = found.nats(sum_s);
                found
            };
            *ce = nats(row, target, m, sum);
            let pull = mix.divergence / mix.temperature;
            let [a, s, t] = [weight / sum, pull / sum_s, pull / sum_t].map(T::from_f64);
            match scale == T::ONE {
                true => gradient_row(row, m, a + s, teacher, mt, t),
                false => gradient_row_tempered(row, m, a, s, teacher, mt, t, scale),
            }
            row[target as usize] -= T::from_f64(weight);
        },
    );
}

/// The width of the vocabulary, unless there are no rows.
fn check<T>(
    op: &str,
    logits: usize,
    teacher: Option<&[T]>,
    targets: &[u32],
    mix: &LossMix,
    ce: &[f64],
    kl: &[f64],
) -> Option<usize> {
    let n = targets.len();
    assert!(ce.len() == n && kl.len() == n, "{op}: targets, ce and kl differ in length");
    check_kl(op, logits, teacher.map_or(logits, <[T]>::len), mix.temperature);
    if n == 0 {
        return None;
    }
    let v = width(op, logits, n);
    check_targets(op, targets, mix.ignore, v);
    Some(v)
}

/// Cross-entropy of a row with the largest logit m, Σ exp(x − m) given.
fn nats<T: Real>(row: &[T], target: u32, m: T, sum: f64) -> f64 {
    sum.ln() + (m.to_f64() - row[target as usize].to_f64())
}

/// Σ exp((x − m)·scale), of which `sum` is the one of scale 1.
fn tempered<T: Real>(row: &[T], scale: T, sum: f64) -> f64 {
    if scale == T::ONE { sum } else { max_and_sum(row, scale).1 }
}

wide! {
    /// x = s·exp(x − m) − t·exp(teacher − mt).
    fn gradient_row<T: Real>(row: &mut [T], m: T, s: T, teacher: &[T], mt: T, t: T) {
        for (x, &teacher) in row.iter_mut().zip(teacher) {
            *x = (*x - m).exp_fast() * s - (teacher - mt).exp_fast() * t;
        }
    }
}

wide! {
    /// x = a·exp(x − m) + s·exp((x − m)·scale) − t·exp((teacher − mt)·scale).
    fn gradient_row_tempered<T: Real>(
        row: &mut [T],
        m: T,
        a: T,
        s: T,
        teacher: &[T],
        mt: T,
        t: T,
        scale: T,
    ) {
        for (x, &teacher) in row.iter_mut().zip(teacher) {
            let from_top = *x - m;
            let pull = (from_top * scale).exp_fast() * s - ((teacher - mt) * scale).exp_fast() * t;
            *x = from_top.exp_fast() * a + pull;
        }
    }
}
