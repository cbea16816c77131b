//! Which weights stay: N:M groups and the exact global top k.
//!
//! Both are total orders over the scores: larger first, and of equal scores (+0.0 and −0.0 are equal) the lower index
//! first. A NaN has no place in an order and is refused. The result is a function of the scores alone.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::mask::bits_len;

/// Bytes of the mask one task writes, in [`select_top`].
const CHUNK_BYTES: usize = 4096;

/// Scores one task looks through for NaN.
const NAN_PIECE: usize = 16 * 1024;

/// The digits of a 32-bit key that [`select_top`] counts, most significant first: (shift, bits). A table of 2¹¹
/// counts stays in the first-level cache.
const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)];

/// Groups up to this size are ranked by comparing all pairs, larger ones are sorted.
const PAIRWISE: usize = 32;

pub(crate) fn check_groups(op: &str, len: usize, cols: usize, n: usize, m: usize) {
    assert!(m > 0 && n <= m, "{op}: pattern {n}:{m}");
    assert!(cols.is_multiple_of(m), "{op}: {cols} columns are not a whole number of groups of {m}");
    assert!(len.is_multiple_of(cols), "{op}: {len} elements are not rows of {cols}");
}

fn check_bits(op: &str, n: usize, bits: usize) {
    assert!(bits == bits_len(n), "{op}: mask of {bits} bytes for {n} scores, expected {}", bits_len(n));
}

fn refuse_nan(scores: &[f32]) -> Result<()> {
    // Within a piece there is no early exit, so that the loop vectorizes.
    let has_nan = |piece: &[f32]| piece.iter().fold(false, |found, s| found | s.is_nan());
    let Some(piece) = scores.par_chunks(NAN_PIECE).position_first(has_nan) else {
        return Ok(());
    };
    let start = piece * NAN_PIECE;
    let within = scores[start..].iter().take_while(|s| !s.is_nan()).count();
    Err(Error::NanScore { index: start + within })
}

/// Keeps the `n` largest of each `m` consecutive scores along `cols`; of equal scores the lowest index stays.
///
/// `scores` is `[rows, cols]`; `bits` is the mask of all rows, [`bits_len`]`(rows·cols)` bytes, every bit of which is
/// written (0 after the last element). Infinite scores are ordered like any number.
///
/// # Errors
/// [`Error::NanScore`] with the first NaN; `bits` is then left as it was.
///
/// # Panics
/// When `m` is 0, `n` > `m`, `cols` is not a multiple of `m`, or a slice does not have the length of its shape.
pub fn select_nm(scores: &[f32], cols: usize, n: usize, m: usize, bits: &mut [u8]) -> Result<()> {
    check_groups("select_nm", scores.len(), cols, n, m);
    check_bits("select_nm", scores.len(), bits.len());
    refuse_nan(scores)?;
    // Groups do not straddle rows, so the tensor is one run of groups. A piece of 8·m scores fills m whole bytes.
    let pieces = (4096 / m).max(1);
    (bits.par_chunks_mut(m * pieces), scores.par_chunks(8 * m * pieces)).into_par_iter().for_each_init(
        Vec::new,
        |order, (bits, scores)| match m {
            2 => select_small::<2>(scores, n, bits),
            4 => select_small::<4>(scores, n, bits),
            8 => select_small::<8>(scores, n, bits),
            _ => select_groups(scores, n, m, bits, order),
        },
    );
    Ok(())
}

/// Groups whose size divides eight, so that a byte holds whole groups.
fn select_small<const M: usize>(scores: &[f32], n: usize, bits: &mut [u8]) {
    for (byte, scores) in bits.iter_mut().zip(scores.chunks(8)) {
        *byte = 0;
        for (group, scores) in scores.as_chunks::<M>().0.iter().enumerate() {
            for j in 0..M {
                *byte |= u8::from(rank(scores, j) < n) << (group * M + j);
            }
        }
    }
}

/// Groups of any size. `order` is scratch.
fn select_groups(scores: &[f32], n: usize, m: usize, bits: &mut [u8], order: &mut Vec<usize>) {
    bits.fill(0);
    for (group, scores) in scores.chunks_exact(m).enumerate() {
        let mut keep = |j: usize| bits[(group * m + j) / 8] |= 1 << ((group * m + j) % 8);
        if m <= PAIRWISE {
            (0..m).filter(|&j| rank(scores, j) < n).for_each(&mut keep);
        } else {
            order.clear();
            order.extend(0..m);
            // Stable, so equal scores stay in the order of their indices.
            order.sort_by_key(|&j| !ordered(scores[j]));
            order[..n].iter().copied().for_each(&mut keep);
        }
    }
}

/// How many scores of the group come before score `j`.
#[inline(always)]
fn rank(scores: &[f32], j: usize) -> usize {
    let s = scores[j];
    let (before, after) = scores.split_at(j);
    let not_smaller: usize = before.iter().map(|&o| usize::from(o >= s)).sum();
    let larger: usize = after.iter().map(|&o| usize::from(o > s)).sum();
    not_smaller + larger
}

/// An integer that compares as the score does; −0.0 and +0.0 give the same one.
#[inline(always)]
fn ordered(score: f32) -> u32 {
    let bits = if score == 0.0 { 0 } else { score.to_bits() };
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// Keeps exactly the `keep` largest of all scores; of equal scores the lowest index stays.
///
/// `bits` has [`bits_len`]`(scores.len())` bytes, every bit of which is written (0 after the last element). The
/// threshold is found by counting, digit by digit of the scores' bits: nothing is sorted or copied.
///
/// # Errors
/// [`Error::NanScore`] with the first NaN; `bits` is then left as it was.
///
/// # Panics
/// When `keep` is more than the number of scores or `bits` has another length.
pub fn select_top(scores: &[f32], keep: usize, bits: &mut [u8]) -> Result<()> {
    assert!(keep <= scores.len(), "select_top: {keep} of {} scores", scores.len());
    check_bits("select_top", scores.len(), bits.len());
    refuse_nan(scores)?;
    if keep == 0 {
        bits.fill(0);
        return Ok(());
    }
    // The upper bits of the threshold, and how many scores lie above all that share them.
    let (mut threshold, mut above) = (0u32, 0);
    for (shift, width) in DIGITS {
        let (known, digit) = (u64::from(threshold), (1u32 << width) - 1);
        // In u64, because the first digit has all 32 bits to the left of it.
        let bin = |key: u32| {
            (u64::from(key) >> (shift + width) == known).then_some((key >> shift & digit) as usize)
        };
        let (bin, larger) = find_bin(&histogram(scores, 1 << width, bin), keep - above);
        threshold = threshold << width | bin as u32;
        above += larger;
    }
    let ties = keep - above;

    // How many of the ties lie before each piece decides which of its own it may keep.
    let tied = |piece: &[f32]| piece.iter().filter(|&&s| ordered(s) == threshold).count();
    let mut before: Vec<usize> = scores.par_chunks(CHUNK_BYTES * 8).map(tied).collect();
    let mut sum = 0;
    for b in &mut before {
        sum += std::mem::replace(b, sum);
    }
    (bits.par_chunks_mut(CHUNK_BYTES), scores.par_chunks(CHUNK_BYTES * 8), before).into_par_iter().for_each(
        |(bits, scores, before)| {
            let mut left = ties.saturating_sub(before);
            for (byte, scores) in bits.iter_mut().zip(scores.chunks(8)) {
                *byte = 0;
                for (j, &score) in scores.iter().enumerate() {
                    let key = ordered(score);
                    let tie = key == threshold && left > 0;
                    left -= usize::from(tie);
                    *byte |= u8::from(key > threshold || tie) << j;
                }
            }
        },
    );
    Ok(())
}

/// Counts the scores by `bin` of their ordered bits, in a table of `bins`; `None` is not counted.
fn histogram(scores: &[f32], bins: usize, bin: impl Fn(u32) -> Option<usize> + Sync) -> Vec<usize> {
    let count = |mut table: Vec<usize>, &score: &f32| {
        if let Some(bin) = bin(ordered(score)) {
            table[bin] += 1;
        }
        table
    };
    // Counts are integers: the order in which tables are added does not matter.
    let add = |mut a: Vec<usize>, b: Vec<usize>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    let empty = || vec![0usize; bins];
    scores.par_iter().with_min_len(1 << 18).fold(empty, count).reduce(empty, add)
}

/// The bin that holds the `rank`-th largest score (from 1), and how many scores lie in larger bins.
fn find_bin(table: &[usize], rank: usize) -> (usize, usize) {
    let mut above = 0;
    let mut bin = table.len() - 1;
    // Stops before 0, since the table counts at least `rank` scores; the guard only keeps the index in range.
    while bin > 0 && above + table[bin] < rank {
        above += table[bin];
        bin -= 1;
    }
    (bin, above)
}
