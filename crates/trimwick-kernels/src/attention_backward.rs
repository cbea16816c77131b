//! The gradients of causal attention, with the probabilities made again instead of kept.
//!
//! With P = softmax(S), O = P·V and the upstream gradient dO: dV = Pᵀ·dO, dP = dO·Vᵀ,
//! dS = P ⊙ (dP − rowsum(P ⊙ dP)), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
//!
//! A task owns one query head of one batch and writes its dQ, dK and dV to a piece of scratch of its own; afterwards
//! the pieces are put in place, those of the query heads that share a key/value head added in the order of the heads.
//! So no two tasks write to one place, and the sums do not depend on which thread came first.

use rayon::prelude::*;

use crate::add::scale_chunk_in_place;
use crate::attention::{AttentionDims, Block, QUERIES};
use crate::cpu::wide;
use crate::gemm::{MatMut, MatRef, Threading, matmul_strided};
use crate::math::sum_map2;
use crate::real::Real;

/// Gradients of [`crate::attention`] for the upstream gradient `dout`.
///
/// `q`, `dout`, `dq` are `[b, tq, h, d]`; `k`, `v`, `dk`, `dv` are `[b, tk, hkv, d]`.
///
/// # Panics
/// As [`crate::attention`].
pub fn attention_backward<T: Real>(
    q: &[T],
    k: &[T],
    v: &[T],
    dout: &[T],
    dims: &AttentionDims,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    const OP: &str = "attention_backward";
    dims.check(OP, q.len(), k.len(), v.len());
    assert!(dout.len() == q.len() && dq.len() == q.len(), "{OP}: dout and dq must have {} elements", q.len());
    assert!(dk.len() == k.len() && dv.len() == v.len(), "{OP}: dk and dv must have {} elements", k.len());
    if q.is_empty() {
        dk.fill(T::ZERO);
        dv.fill(T::ZERO);
        return;
    }
    let layout = Layout::new(dims);
    let mut pieces = vec![T::ZERO; dims.b * dims.h * layout.piece];
    pieces.par_chunks_exact_mut(layout.piece).enumerate().for_each_init(
        Vec::new,
        |scratch, (task, piece)| {
            let (batch, head) = (task / dims.h, task % dims.h);
            let q_rows = batch * layout.q_batch..(batch + 1) * layout.q_batch;
            let kv_rows = batch * layout.kv_batch..(batch + 1) * layout.kv_batch;
            let (dq, rest) = piece.split_at_mut(layout.dq);
            let (dk, dv) = rest.split_at_mut(layout.dk);
            let grads = HeadGradients { dq, dk, dv };
            let inputs = HeadInputs {
                q: &q[q_rows.clone()],
                k: &k[kv_rows.clone()],
                v: &v[kv_rows],
                dout: &dout[q_rows],
            };
            head_backward(&inputs, dims, head, scratch, grads);
        },
    );
    layout.place(dims, &pieces, 0, dims.tq, dims.h, dq);
    layout.place(dims, &pieces, layout.dq, dims.tk, dims.hkv, dk);
    layout.place(dims, &pieces, layout.dq + layout.dk, dims.tk, dims.hkv, dv);
}

/// Where things lie: elements of one batch of the inputs, and of one task's piece of scratch, dq then dk then dv.
struct Layout {
    q_batch: usize,
    kv_batch: usize,
    dq: usize,
    dk: usize,
    piece: usize,
}

impl Layout {
    fn new(dims: &AttentionDims) -> Self {
        let (dq, dk) = (dims.tq * dims.d, dims.tk * dims.d);
        Layout { q_batch: dims.h * dq, kv_batch: dims.hkv * dk, dq, dk, piece: dq + 2 * dk }
    }

    /// Copies gradients of `[t, d]` for each query head, at `offset` in its piece, into `out`, `[b, t, heads, d]`. With
    /// fewer `heads` than query heads, those of a group are added in their order.
    fn place<T: Real>(
        &self,
        dims: &AttentionDims,
        pieces: &[T],
        offset: usize,
        t: usize,
        heads: usize,
        out: &mut [T],
    ) {
        let (d, group) = (dims.d, dims.h / heads);
        out.par_chunks_exact_mut(heads * d).with_min_len(16).enumerate().for_each(|(token, out)| {
            let (batch, position) = (token / t, token % t);
            for (head, out) in out.chunks_exact_mut(d).enumerate() {
                for member in 0..group {
                    let task = batch * dims.h + head * group + member;
                    let from = &pieces[task * self.piece + offset + position * d..][..d];
                    if member == 0 {
                        out.copy_from_slice(from);
                    } else {
                        out.iter_mut().zip(from).for_each(|(o, &g)| *o += g);
                    }
                }
            }
        });
    }
}

/// One batch of the inputs, all heads.
struct HeadInputs<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    dout: &'a [T],
}

/// Gradients of one query head: dq is `[tq, d]`, dk and dv are `[tk, d]`, zero on entry.
struct HeadGradients<'a, T> {
    dq: &'a mut [T],
    dk: &'a mut [T],
    dv: &'a mut [T],
}

fn head_backward<T: Real>(
    inputs: &HeadInputs<'_, T>,
    dims: &AttentionDims,
    head: usize,
    scratch: &mut Vec<T>,
    grads: HeadGradients<'_, T>,
) {
    let (d, kv_head, single) = (dims.d, dims.kv_head(head), Threading::Single);
    let factor = T::from_f64(dims.scale);
    let mut sums = [T::ZERO; QUERIES];
    for first in (0..dims.tq).step_by(QUERIES) {
        let block = Block::new(dims, first);
        let (rows, cols) = (block.queries.len(), block.keys.len());
        if scratch.len() < 2 * rows * cols {
            scratch.resize(2 * rows * cols, T::ZERO);
        }
        let (p, dp) = scratch[..2 * rows * cols].split_at_mut(rows * cols);
        let q = block.query_rows(inputs.q, dims, head);
        let dout = block.query_rows(inputs.dout, dims, head);
        let k = block.key_rows(inputs.k, dims, kv_head);
        let v = block.key_rows(inputs.v, dims, kv_head);

        block.weights(q, k, dims, p, &mut sums);
        for (p, &sum) in p.chunks_exact_mut(cols).zip(&sums) {
            scale_chunk_in_place(p, T::ONE / sum);
        }
        let dv = MatMut::new(&mut grads.dv[block.keys.start * d..], cols, d, d, 1);
        matmul_strided(MatRef::new(p, rows, cols, cols, 1).t(), dout, dv, T::ONE, true, single);

        matmul_strided(dout, v.t(), MatMut::new(dp, rows, cols, cols, 1), T::ONE, false, single);
        for (dp, p) in dp.chunks_exact_mut(cols).zip(p.chunks_exact(cols)) {
            through_softmax(p, dp);
        }
        let ds = MatRef::new(dp, rows, cols, cols, 1);
        let dq = MatMut::new(&mut grads.dq[block.queries.start * d..], rows, d, d, 1);
        matmul_strided(ds, k, dq, factor, false, single);
        let dk = MatMut::new(&mut grads.dk[block.keys.start * d..], cols, d, d, 1);
        matmul_strided(ds.t(), q, dk, factor, true, single);
    }
}

wide! {
    /// The gradient of a row of scores from that of its probabilities p, in place.
    fn through_softmax<T: Real>(p: &[T], dp: &mut [T]) {
        let mean = sum_map2(dp, p, |dp, p| dp * p);
        for (dp, &p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - mean);
        }
    }
}
