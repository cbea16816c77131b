//! A keyed permutation in constant memory: a Feistel network with cycle walking.
//!
//! Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002). The network permutes 0..2^(2w), the
//! smallest such range that holds 0..n; a value that falls outside of 0..n is permuted again until it falls inside.
//! The range is less than 4n, so that takes fewer than four steps on average.

use crate::rng::splitmix64;

const ROUNDS: u64 = 8;

/// Position `index` of the permutation of 0..`n` that `key` names.
///
/// For fixed `key` and `n` the map from index to result is a bijection of 0..n: visiting samples in the order
/// `permute(key, n, 0)`, `permute(key, n, 1)`, … is a shuffle that needs no memory and can be resumed at any index.
/// Another key (one for each epoch, say) gives an unrelated order. With `n` = 0 the index comes back unchanged.
///
/// # Panics
/// When `n` > 0 and `index` ≥ `n`.
pub fn permute(key: u64, n: u64, index: u64) -> u64 {
    if n == 0 {
        return index;
    }
    assert!(index < n, "permute: index {index} is outside of 0..{n}");
    if n == 1 {
        return 0;
    }
    // Bits of the largest index, rounded up to an even number, cut in halves.
    let half = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2);
    let mut x = index;
    loop {
        x = feistel(key, half, x);
        if x < n {
            return x;
        }
    }
}

/// A bijection of 0..2^(2·half), 1 ≤ half ≤ 32.
fn feistel(key: u64, half: u32, x: u64) -> u64 {
    let mask = (1u64 << half) - 1;
    let (mut left, mut right) = (x >> half, x & mask);
    for round in 0..ROUNDS {
        let f = splitmix64(splitmix64(key ^ round.wrapping_mul(0xd6e8_feb8_6659_fd93)) ^ right);
        (left, right) = (right, (left ^ f) & mask);
    }
    left << half | right
}
