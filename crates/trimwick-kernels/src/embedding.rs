//! Rows of a table by index.

use rayon::prelude::*;

use crate::real::Real;

/// Elements of the table or of the output one task works on, at least one row.
const CHUNK: usize = 16 * 1024;

/// out\[i\] = weight\[ids\[i\]\].
///
/// `weight` is `[v, d]`, `ids` is `[n]`, `out` is `[n, d]`.
///
/// # Panics
/// When `d` is 0, a slice does not have the length of its shape, or an id is not below v.
pub fn embedding<T: Real>(weight: &[T], ids: &[u32], out: &mut [T], d: usize) {
    assert!(
        d > 0 && weight.len().is_multiple_of(d),
        "embedding: weight is not a whole number of rows of {d}"
    );
    assert!(out.len() == ids.len() * d, "embedding: out must have {}·{d} elements", ids.len());
    check_ids(ids, weight.len() / d);
    let rows = (CHUNK / d).max(1);
    (out.par_chunks_mut(rows * d), ids.par_chunks(rows)).into_par_iter().for_each(|(out, ids)| {
        for (out, &id) in out.chunks_exact_mut(d).zip(ids) {
            out.copy_from_slice(&weight[id as usize * d..][..d]);
        }
    });
}

/// The gradient of [`embedding`] with respect to the table: dweight\[v\] = Σ over i with ids\[i\] = v of g\[i\], in
/// the order of i. Rows that no id names are set to zero; with `accumulate` everything is added to what is there.
///
/// `ids` is `[n]`, `g` is `[n, d]`, `dweight` is `[v, d]`.
///
/// # Panics
/// As [`embedding`].
pub fn embedding_backward<T: Real>(ids: &[u32], g: &[T], dweight: &mut [T], d: usize, accumulate: bool) {
    assert!(
        d > 0 && dweight.len().is_multiple_of(d),
        "embedding_backward: dweight is not a whole number of rows of {d}"
    );
    assert!(g.len() == ids.len() * d, "embedding_backward: g must have {}·{d} elements", ids.len());
    check_ids(ids, dweight.len() / d);
    // Positions grouped by id, each group in its order (the sort is stable): a task that owns some rows of the
    // table finds what it has to add without looking at every token.
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&i| ids[i]);
    let rows = (CHUNK / d).max(1);
    dweight.par_chunks_mut(rows * d).enumerate().for_each(|(chunk, dweight)| {
        if !accumulate {
            dweight.fill(T::ZERO);
        }
        let first_row = chunk * rows;
        let end_row = first_row + dweight.len() / d;
        let start = order.partition_point(|&i| (ids[i] as usize) < first_row);
        for &i in order[start..].iter().take_while(|&&i| (ids[i] as usize) < end_row) {
            let row = &mut dweight[(ids[i] as usize - first_row) * d..][..d];
            for (w, &g) in row.iter_mut().zip(&g[i * d..][..d]) {
                *w += g;
            }
        }
    });
}

fn check_ids(ids: &[u32], v: usize) {
    if let Some(id) = ids.iter().find(|&&id| id as usize >= v) {
        panic!("embedding: id {id} in a table of {v} rows");
    }
}
