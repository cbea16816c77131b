//! Causal attention with grouped key/value heads and an optional sliding window.
//!
//! Scores are made for a block of queries and one head at a time, against the keys that the block can see, so memory
//! is [`QUERIES`] × keys for each task instead of heads × queries × keys. A task owns all heads of its block of
//! queries, which is a contiguous piece of the output.

use rayon::prelude::*;

use crate::add::scale_chunk_in_place;
use crate::cpu::wide;
use crate::gemm::{MatMut, MatRef, Threading, matmul_strided};
use crate::math::{exp_in_place, max};
use crate::real::Real;

/// Queries of one block.
pub(crate) const QUERIES: usize = 64;

/// The shapes of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionDims {
    /// Batch size.
    pub b: usize,
    /// Queries: the tokens of this call.
    pub tq: usize,
    /// Keys and values: the cached tokens, then those of this call; at least `tq`.
    pub tk: usize,
    /// Query heads.
    pub h: usize,
    /// Key/value heads; divides `h`. Query head i reads key/value head i / (h / hkv).
    pub hkv: usize,
    /// Elements of a head.
    pub d: usize,
    /// Factor on q·k, usually 1/√d.
    pub scale: f64,
    /// Sliding window: a query sees the last `window` keys up to and including its own. None: all of them.
    pub window: Option<usize>,
}

impl AttentionDims {
    /// Elements of `q` and of the output, `[b, tq, h, d]`.
    pub fn q_len(&self) -> usize {
        self.b * self.tq * self.h * self.d
    }

    /// Elements of `k` and of `v`, `[b, tk, hkv, d]`.
    pub fn kv_len(&self) -> usize {
        self.b * self.tk * self.hkv * self.d
    }

    /// Key/value head of query head `head`.
    pub(crate) fn kv_head(&self, head: usize) -> usize {
        head / (self.h / self.hkv)
    }

    /// The keys query `i` sees.
    pub(crate) fn visible(&self, i: usize) -> std::ops::Range<usize> {
        let end = self.tk - self.tq + i + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }

    pub(crate) fn check(&self, op: &str, q: usize, k: usize, v: usize) {
        assert!(
            self.hkv > 0 && self.h.is_multiple_of(self.hkv),
            "{op}: {} heads in {} groups",
            self.h,
            self.hkv
        );
        assert!(self.tk >= self.tq, "{op}: {} queries for {} keys", self.tq, self.tk);
        assert!(self.window != Some(0), "{op}: a window of 0 keys");
        assert!(q == self.q_len(), "{op}: q has {q} elements, expected {}", self.q_len());
        assert!(k == self.kv_len(), "{op}: k has {k} elements, expected {}", self.kv_len());
        assert!(v == self.kv_len(), "{op}: v has {v} elements, expected {}", self.kv_len());
    }
}

/// A block of queries of one batch and the keys any of them sees.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub queries: std::ops::Range<usize>,
    pub keys: std::ops::Range<usize>,
}

impl Block {
    pub(crate) fn new(dims: &AttentionDims, first: usize) -> Self {
        let queries = first..(first + QUERIES).min(dims.tq);
        let keys = dims.visible(queries.start).start..dims.visible(queries.end - 1).end;
        Block { queries, keys }
    }

    /// The rows of `head` of these queries, in one batch of a `[b, tq, h, d]` tensor.
    pub(crate) fn query_rows<'a, T: Real>(
        &self,
        q: &'a [T],
        dims: &AttentionDims,
        head: usize,
    ) -> MatRef<'a, T> {
        let row = dims.h * dims.d;
        MatRef::new(&q[self.queries.start * row + head * dims.d..], self.queries.len(), dims.d, row, 1)
    }

    /// The rows of the key/value head `kv_head` of these keys, in one batch of a `[b, tk, hkv, d]` tensor.
    pub(crate) fn key_rows<'a, T: Real>(
        &self,
        k: &'a [T],
        dims: &AttentionDims,
        kv_head: usize,
    ) -> MatRef<'a, T> {
        let row = dims.hkv * dims.d;
        MatRef::new(&k[self.keys.start * row + kv_head * dims.d..], self.keys.len(), dims.d, row, 1)
    }

    /// Fills `scores` with exp(scale·q·kᵀ − row maximum), zero where a query does not see a key, and `sums` with the
    /// sums of the rows.
    pub(crate) fn weights<T: Real>(
        &self,
        q: MatRef<'_, T>,
        k: MatRef<'_, T>,
        dims: &AttentionDims,
        scores: &mut [T],
        sums: &mut [T],
    ) {
        let (rows, cols) = (self.queries.len(), self.keys.len());
        let out = MatMut::new(scores, rows, cols, cols, 1);
        matmul_strided(q, k.t(), out, T::from_f64(dims.scale), false, Threading::Single);
        for ((row, sum), i) in scores.chunks_exact_mut(cols).zip(sums).zip(self.queries.clone()) {
            let seen = dims.visible(i);
            let (start, end) = (seen.start - self.keys.start, seen.end - self.keys.start);
            row[..start].fill(T::ZERO);
            row[end..].fill(T::ZERO);
            *sum = softmax_numerators(&mut row[start..end]);
        }
    }
}

wide! {
    /// Replaces x by exp(x − max) and returns the sum of the results.
    fn softmax_numerators<T: Real>(x: &mut [T]) -> T {
        let shift = max(x);
        exp_in_place(x, shift, T::ONE)
    }
}

/// out = softmax(scale·q·kᵀ)·v for each head, causal: query i sits at position tk − tq + i and sees the keys up to
/// and including that one, or the last `window` of them.
///
/// `q` and `out` are `[b, tq, h, d]`; `k` and `v` are `[b, tk, hkv, d]`. With tq < tk the first tk − tq keys are a cache.
///
/// # Panics
/// When a slice does not have the length of its shape, tk < tq, hkv does not divide h, or the window is 0.
pub fn attention<T: Real>(q: &[T], k: &[T], v: &[T], dims: &AttentionDims, out: &mut [T]) {
    const OP: &str = "attention";
    dims.check(OP, q.len(), k.len(), v.len());
    assert!(out.len() == q.len(), "{OP}: out has {} elements, expected {}", out.len(), q.len());
    if out.is_empty() {
        return;
    }
    let row = dims.h * dims.d;
    let kv = dims.tk * dims.hkv * dims.d;
    (
        out.par_chunks_exact_mut(dims.tq * row),
        q.par_chunks_exact(dims.tq * row),
        k.par_chunks_exact(kv),
        v.par_chunks_exact(kv),
    )
        .into_par_iter()
        .for_each(|(out, q, k, v)| {
            out.par_chunks_mut(QUERIES * row).enumerate().for_each_init(Vec::new, |scratch, (block, out)| {
                let block = Block::new(dims, block * QUERIES);
                attend(&block, q, k, v, dims, scratch, out);
            });
        });
}

/// All heads of one block of queries; `q`, `k`, `v` are one batch, `out` is the block's own rows.
fn attend<T: Real>(
    block: &Block,
    q: &[T],
    k: &[T],
    v: &[T],
    dims: &AttentionDims,
    scratch: &mut Vec<T>,
    out: &mut [T],
) {
    let (rows, cols) = (block.queries.len(), block.keys.len());
    let (row, d) = (dims.h * dims.d, dims.d);
    if scratch.len() < rows * cols {
        scratch.resize(rows * cols, T::ZERO);
    }
    let scores = &mut scratch[..rows * cols];
    let mut sums = [T::ZERO; QUERIES];
    for head in 0..dims.h {
        let kv_head = dims.kv_head(head);
        let (q, k) = (block.query_rows(q, dims, head), block.key_rows(k, dims, kv_head));
        block.weights(q, k, dims, scores, &mut sums);
        let p = MatRef::new(scores, rows, cols, cols, 1);
        let o = MatMut::new(&mut out[head * d..], rows, d, row, 1);
        matmul_strided(p, block.key_rows(v, dims, kv_head), o, T::ONE, false, Threading::Single);
        // Dividing d outputs is cheaper than dividing every weight.
        for (out, &sum) in out.chunks_exact_mut(row).zip(&sums) {
            scale_chunk_in_place(&mut out[head * d..][..d], T::ONE / sum);
        }
    }
}
