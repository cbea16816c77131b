//! Losses over a vocabulary: cross-entropy and the Kullback–Leibler divergence of distillation, one row per token.
//!
//! Logits may be −∞ (a forbidden token). Sums of exponentials are carried in f64 over pieces of the row, so that a
//! vocabulary of any size keeps f32's accuracy.

use rayon::prelude::*;

use crate::add::scale_chunk_in_place;
use crate::cpu::wide;
use crate::math::{exp_in_place, max, sum_map, sum_pairs};
use crate::real::Real;

/// Logits summed in `T` before the sum moves to f64.
const PIECE: usize = 4096;

wide! {
    /// The largest logit m of a row and Σ exp((x − m)·scale).
    pub(crate) fn max_and_sum<T: Real>(row: &[T], scale: T) -> (T, f64) {
        let m = max(row);
        let mut sum = 0.0;
        for piece in row.chunks(PIECE) {
            sum += sum_map(piece, |x| ((x - m) * scale).exp_fast()).to_f64();
        }
        (m, sum)
    }
}

wide! {
    /// Replaces a row by exp((row − m)·scale), m its largest logit, and returns m and the sum.
    pub(crate) fn exponentials<T: Real>(row: &mut [T], scale: T) -> (T, f64) {
        let m = max(row);
        let mut sum = 0.0;
        for piece in row.chunks_mut(PIECE) {
            sum += exp_in_place(piece, m, scale).to_f64();
        }
        (m, sum)
    }
}

/// The sums that the divergence of a row is made of.
pub(crate) struct Divergence<T> {
    /// The teacher's largest logit.
    pub mt: T,
    /// Σ exp((t − mt)·scale).
    pub sum_t: f64,
    /// Σ exp((t − mt)·scale)·((t − mt) − (s − ms))·scale.
    pub cross: f64,
}

impl<T> Divergence<T> {
    /// In nats, given the sum of the student's exponentials.
    pub(crate) fn nats(&self, sum_s: f64) -> f64 {
        self.cross / self.sum_t + (sum_s.ln() - self.sum_t.ln())
    }
}

wide! {
    /// Of a row whose largest logit is `ms`.
    pub(crate) fn divergence<T: Real>(student: &[T], ms: T, teacher: &[T], scale: T) -> Divergence<T> {
        let mt = max(teacher);
        let (mut sum_t, mut cross) = (0.0, 0.0);
        for (s, t) in student.chunks(PIECE).zip(teacher.chunks(PIECE)) {
            let (p, c) = sum_pairs(s, t, |s, t| {
                let (s, t) = ((s - ms) * scale, (t - mt) * scale);
                let p = t.exp_fast();
                (p, if p == T::ZERO { p } else { p * (t - s) })
            });
            sum_t += p.to_f64();
            cross += c.to_f64();
        }
        Divergence { mt, sum_t, cross }
    }
}

pub(crate) fn check_targets(op: &str, targets: &[u32], ignore: u32, v: usize) {
    if let Some(target) = targets.iter().find(|&&t| t != ignore && t as usize >= v) {
        panic!("{op}: target {target} in a vocabulary of {v}");
    }
}

/// Vocabulary size of `logits` for `n` rows.
pub(crate) fn width(op: &str, logits: usize, n: usize) -> usize {
    assert!(
        n > 0 && logits.is_multiple_of(n) && logits > 0,
        "{op}: {logits} logits are not rows for {n} tokens"
    );
    logits / n
}

/// loss\[i\] = ln Σ exp(logits\[i\]) − logits\[i, targets\[i\]\], in nats; 0 where the target is `ignore`.
///
/// `logits` is `[n, v]`, `targets` and `loss` are `[n]`. With n = 0 nothing is done.
///
/// # Panics
/// When a slice does not have the length of its shape, or a target is neither below v nor `ignore`.
pub fn cross_entropy<T: Real>(logits: &[T], targets: &[u32], ignore: u32, loss: &mut [T]) {
    const OP: &str = "cross_entropy";
    assert!(targets.len() == loss.len(), "{OP}: targets and loss differ in length");
    if loss.is_empty() {
        return;
    }
    let v = width(OP, logits.len(), loss.len());
    check_targets(OP, targets, ignore, v);
    (loss, logits.par_chunks_exact(v), targets).into_par_iter().for_each(|(loss, row, &target)| {
        *loss = T::ZERO;
        if target != ignore {
            let (m, sum) = max_and_sum(row, T::ONE);
            *loss = T::from_f64(sum.ln() + (m.to_f64() - row[target as usize].to_f64()));
        }
    });
}

/// The gradient of Σ g\[i\]·loss\[i\] of [`cross_entropy`]: dlogits\[i\] = g\[i\]·(softmax(logits\[i\]) − onehot),
/// and zeros where the target is `ignore`.
///
/// `logits` and `dlogits` are `[n, v]`, `targets` and `g` are `[n]`.
///
/// # Panics
/// As [`cross_entropy`].
pub fn cross_entropy_backward<T: Real>(
    logits: &[T],
    targets: &[u32],
    ignore: u32,
    g: &[T],
    dlogits: &mut [T],
) {
    const OP: &str = "cross_entropy_backward";
    assert!(targets.len() == g.len(), "{OP}: targets and g differ in length");
    assert!(logits.len() == dlogits.len(), "{OP}: logits and dlogits differ in length");
    if g.is_empty() {
        return;
    }
    let v = width(OP, logits.len(), g.len());
    check_targets(OP, targets, ignore, v);
    (dlogits.par_chunks_exact_mut(v), logits.par_chunks_exact(v), targets, g).into_par_iter().for_each(
        |(drow, row, &target, &g)| {
            if target == ignore {
                drow.fill(T::ZERO);
                return;
            }
            drow.copy_from_slice(row);
            let (_, sum) = exponentials(drow, T::ONE);
            scale_chunk_in_place(drow, T::from_f64(g.to_f64() / sum));
            drow[target as usize] -= g;
        },
    );
}

pub(crate) fn check_kl(op: &str, student: usize, teacher: usize, temperature: f64) {
    assert!(student == teacher, "{op}: student and teacher differ in length");
    assert!(temperature > 0.0 && temperature.is_finite(), "{op}: temperature {temperature} is not positive");
}

/// loss\[i\] = KL(softmax(teacher\[i\]/T) ‖ softmax(student\[i\]/T)) in nats, without the factor T² (Hinton et al.,
/// arXiv 1503.02531), which is the caller's.
///
/// `student` and `teacher` are `[n, v]`, `loss` is `[n]`. A token that the teacher gives no probability adds nothing.
///
/// # Panics
/// When a slice does not have the length of its shape or the temperature is not positive.
pub fn kl_divergence<T: Real>(student: &[T], teacher: &[T], temperature: f64, loss: &mut [T]) {
    const OP: &str = "kl_divergence";
    check_kl(OP, student.len(), teacher.len(), temperature);
    if loss.is_empty() {
        return;
    }
    let v = width(OP, student.len(), loss.len());
    let scale = T::from_f64(1.0 / temperature);
    (loss, student.par_chunks_exact(v), teacher.par_chunks_exact(v)).into_par_iter().for_each(
        |(loss, student, teacher)| {
            let (ms, sum_s) = max_and_sum(student, scale);
            *loss = T::from_f64(divergence(student, ms, teacher, scale).nats(sum_s));
        },
    );
}

/// The gradient of Σ g\[i\]·loss\[i\] of [`kl_divergence`] with respect to the student's logits:
/// dstudent\[i\] = g\[i\]/T·(softmax(student\[i\]/T) − softmax(teacher\[i\]/T)).
///
/// `student`, `teacher` and `dstudent` are `[n, v]`, `g` is `[n]`.
///
/// # Panics
/// As [`kl_divergence`].
pub fn kl_divergence_backward<T: Real>(
    student: &[T],
    teacher: &[T],
    temperature: f64,
    g: &[T],
    dstudent: &mut [T],
) {
    const OP: &str = "kl_divergence_backward";
    check_kl(OP, student.len(), teacher.len(), temperature);
    assert!(student.len() == dstudent.len(), "{OP}: student and dstudent differ in length");
    if g.is_empty() {
        return;
    }
    let v = width(OP, student.len(), g.len());
    let scale = T::from_f64(1.0 / temperature);
    (dstudent.par_chunks_exact_mut(v), student.par_chunks_exact(v), teacher.par_chunks_exact(v), g)
        .into_par_iter()
        .for_each(|(drow, student, teacher, &g)| {
            drow.copy_from_slice(student);
            let (_, sum_s) = exponentials(drow, scale);
            let (mt, sum_t) = max_and_sum(teacher, scale);
            let (cs, ct) = (T::from_f64(1.0 / sum_s), T::from_f64(1.0 / sum_t));
            kl_gradient_row(drow, teacher, mt, scale, cs, ct, g * scale);
        });
}

wide! {
    /// d = g·(d·cs − exp((t − mt)·scale)·ct).
    fn kl_gradient_row<T: Real>(drow: &mut [T], teacher: &[T], mt: T, scale: T, cs: T, ct: T, g: T) {
        for (d, &t) in drow.iter_mut().zip(teacher) {
            *d = g * (*d * cs - ((t - mt) * scale).exp_fast() * ct);
        }
    }
}
