//! Keys and values of the past, and the attention of one token to them.

use std::ops::Range;

use half::f16;

use super::crew::Crew;
use super::out::Out;
use crate::cpu::wide;
use crate::math::{exp_in_place, max, sum_map2};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KvFormat {
    /// As they are.
    F32,
    /// Half precision; beyond ±65504 saturated.
    #[default]
    F16,
    /// int8 with a scale amax / 127 for each position and head.
    Int8,
}

#[derive(Clone, Debug)]
enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8 { codes: Vec<i8>, scales: Vec<f32> },
}

/// Keys or values of one layer, `[positions, heads, d]`.
#[derive(Clone, Debug)]
pub struct Cached {
    heads: usize,
    d: usize,
    data: Data,
}

impl Cached {
    /// Nothing yet, with room for `positions`.
    pub fn new(format: KvFormat, heads: usize, d: usize, positions: usize) -> Self {
        let n = positions * heads * d;
        let data = match format {
            KvFormat::F32 => Data::F32(Vec::with_capacity(n)),
            KvFormat::F16 => Data::F16(Vec::with_capacity(n)),
            KvFormat::Int8 => {
                Data::Int8 { codes: Vec::with_capacity(n), scales: Vec::with_capacity(positions * heads) }
            }
        };
        Self { heads, d, data }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        let elements = match &self.data {
            Data::F32(x) => x.len(),
            Data::F16(x) => x.len(),
            Data::Int8 { codes, .. } => codes.len(),
        };
        elements / (self.heads * self.d).max(1)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every position from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        let n = positions * self.heads * self.d;
        match &mut self.data {
            Data::F32(x) => x.truncate(n),
            Data::F16(x) => x.truncate(n),
            Data::Int8 { codes, scales } => {
                codes.truncate(n);
                scales.truncate(positions * self.heads);
            }
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(x) => 4 * x.len(),
            Data::F16(x) => 2 * x.len(),
            Data::Int8 { codes, scales } => codes.len() + 4 * scales.len(),
        }
    }

    /// Takes the next positions, `[t, heads, d]`.
    ///
    /// # Panics
    /// When `x` is not whole positions.
    pub fn push(&mut self, x: &[f32]) {
        assert!(x.len().is_multiple_of(self.heads * self.d), "cache: {} elements", x.len());
        match &mut self.data {
            Data::F32(to) => to.extend_from_slice(x),
            Data::F16(to) => to.extend(x.iter().map(|x| f16::from_f32(x.clamp(-65504., 65504.)))),
            Data::Int8 { codes, scales } => {
                for x in x.chunks_exact(self.d) {
                    let amax = x.iter().fold(0f32, |a, x| a.max(x.abs()));
                    let inverse = if amax > 1e-30 { 127. / amax } else { 0. };
                    codes.extend(x.iter().map(|x| (x * inverse).round_ties_even() as i8));
                    scales.push(amax / 127.);
                }
            }
        }
    }

    /// All positions as f32, `[positions, heads, d]`, in `buffer` unless they are kept so.
    pub fn floats<'a>(&'a self, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        if let Data::F32(x) = &self.data {
            return x;
        }
        buffer.resize(self.len() * self.heads * self.d, 0.);
        for (i, to) in buffer.chunks_exact_mut(self.d).enumerate() {
            self.read(i, to);
        }
        buffer
    }

    /// Head `i % heads` of position `i / heads`.
    #[inline(always)]
    fn read(&self, i: usize, to: &mut [f32]) {
        let at = i * self.d..(i + 1) * self.d;
        match &self.data {
            Data::F32(x) => to.copy_from_slice(&x[at]),
            Data::F16(x) => {
                // The exponent's bias is 112 less than that of f32; nothing infinite is in here.
                let shift = f32::from_bits((112 + 127) << 23);
                for (to, x) in to.iter_mut().zip(&x[at]) {
                    let bits = u32::from(x.to_bits());
                    *to = f32::from_bits((bits & 0x7fff) << 13 | (bits & 0x8000) << 16) * shift;
                }
            }
            Data::Int8 { codes, scales } => {
                let scale = scales[i];
                for (to, &code) in to.iter_mut().zip(&codes[at]) {
                    *to = f32::from(code) * scale;
                }
            }
        }
    }
}

/// out = softmax(scale·q·kᵀ)·v of one token, the last of those cached, which sees the last `window` of them or all.
///
/// `q` and `out` are `[heads, d]`; a head of keys is shared by as many as divide them. Threads take heads of keys.
///
/// # Panics
/// When shapes do not fit or nothing is cached.
pub fn attend(
    crew: &Crew<'_>,
    q: &[f32],
    keys: &Cached,
    values: &Cached,
    scale: f32,
    window: Option<usize>,
    out: &mut [f32],
) {
    let (len, heads, d) = (keys.len(), keys.heads, keys.d);
    assert!(len > 0 && values.len() == len, "attend: {len} keys, {} values", values.len());
    assert!(values.heads == heads && values.d == d, "attend: keys and values differ in shape");
    assert!(q.len().is_multiple_of(heads * d) && q.len() == out.len(), "attend: q has {} elements", q.len());
    let width = q.len() / heads;
    let seen = window.map_or(0, |window| len.saturating_sub(window))..len;
    let out = Out::new(out, 1, heads * width);
    crew.each(heads, |head| {
        let mut result = vec![0.; width];
        one_head(&q[head * width..][..width], keys, values, head, seen.clone(), scale, &mut result);
        // SAFETY: the columns of a head are those of its piece.
        unsafe { out.put(0, head * width, &result) };
    });
}

wide! {
    fn one_head(
        q: &[f32],
        keys: &Cached,
        values: &Cached,
        head: usize,
        seen: Range<usize>,
        scale: f32,
        out: &mut [f32],
    ) {
        let (d, n) = (keys.d, seen.len());
        let mut scores = vec![0.; q.len() / d * n];
        let mut row = vec![0.; d];
        for (i, position) in seen.clone().enumerate() {
            keys.read(position * keys.heads + head, &mut row);
            for (q, scores) in q.chunks_exact(d).zip(scores.chunks_exact_mut(n)) {
                scores[i] = sum_map2(q, &row, |a, b| a * b) * scale;
            }
        }
        for scores in scores.chunks_exact_mut(n) {
            let sum = exp_in_place(scores, max(scores), 1.);
            let inverse = 1. / sum;
            for score in scores {
                *score *= inverse;
            }
        }
        for (i, position) in seen.enumerate() {
            values.read(position * values.heads + head, &mut row);
            for (out, scores) in out.chunks_exact_mut(d).zip(scores.chunks_exact(n)) {
                let p = scores[i];
                for (out, &v) in out.iter_mut().zip(&row) {
                    *out += p * v;
                }
            }
        }
    }
}
