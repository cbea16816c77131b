//! What sixteen rows by sixteen inputs look like in memory, and as registers.
//!
//! Such a unit is four quads of inputs, in halves of two. A quad is 64 bytes, byte 4r + j for row r and input j of the
//! four: what one instruction multiplies with four bytes of activations for all rows. Codes are unsigned, those of
//! [`KeptBytes`] signed.
//!
//! | unit | bytes | |
//! |---|---|---|
//! | [`Bytes`] | 256 | quad after quad |
//! | [`Nibbles`] | 128 | half after half: one quad in the low halves of its bytes, the next in the high ones |
//! | [`KeptBytes`] | 160 | half after half: for each row two bytes of one quad and two of the next; 32 of places |
//! | [`KeptNibbles`] | 96 | the same of the first half in the low halves of 64 bytes, of the second in the high ones; 32 of places |
//!
//! Places are two bytes for each row, one of each half: of the two kept inputs of its first quad, then of its second, the
//! indices 0 to 3, two bits each, lowest first. A product does not spread what is kept over its inputs; it gathers the
//! activations that meet it, so that a half is one multiplication where a dense one is two.

use super::simd::{ROWS, Simd};
use super::weight::UNIT;

/// Units of codes.
pub(super) trait Elements: Copy + Send + Sync {
    /// Bytes of a unit.
    const BYTES: usize;
    /// Whether products are with unsigned codes, the code of zero yet to be taken off, and activations as they are: else
    /// with signed codes, and activations raised by 128.
    const UNSIGNED: bool;

    /// Both quads of a half of a unit, unsigned.
    fn quads<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8]) -> [S::B; 2];

    /// Adds the products of the codes of some units with the activations `x` of M rows.
    fn add<S: Simd, const M: usize>(self, simd: S, codes: &[u8], x: &[[u8; UNIT]], acc: &mut [S::I; M]);
}

/// A byte for each code.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

/// Half a byte for each code, with a table of values where TABLE.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<const TABLE: bool>(pub [u8; 16]);

/// The bytes of two of four.
#[derive(Clone, Copy)]
pub(super) struct KeptBytes;

/// Half a byte for each of two of four, with a table of values where TABLE.
#[derive(Clone, Copy)]
pub(super) struct KeptNibbles<const TABLE: bool> {
    /// Signed values.
    table: [u8; 16],
    /// What makes them unsigned.
    zero: u8,
}

impl<const TABLE: bool> KeptNibbles<TABLE> {
    /// By a table of unsigned values, in which `zero` is that of zero.
    pub fn new(table: [u8; 16], zero: u8) -> Self {
        Self { table: table.map(|value| value.wrapping_sub(zero)), zero }
    }
}

/// N bytes of a unit from `at`. Units are cut to their length, so that this is always there.
#[inline(always)]
fn part<const N: usize>(unit: &[u8], at: usize) -> &[u8; N] {
    match unit[at..].first_chunk() {
        Some(part) => part,
        None => &[0; N],
    }
}

/// The four quads of activations, each as it is in memory, from where a register is filled with it.
#[inline(always)]
fn quads(x: &[u8; UNIT]) -> [&[u8; 4]; 4] {
    match x.as_chunks().0 {
        [a, b, c, d] => [a, b, c, d],
        _ => [&[0; 4]; 4],
    }
}

/// Both quads of a half, made unsigned, with `zero` where nothing is kept.
#[inline(always)]
fn scatter<E: Kept, S: Simd, const HALF: usize>(elements: E, simd: S, unit: &[u8], zero: u8) -> [S::B; 2] {
    let zero = simd.splat_byte(zero);
    let kept = simd.add_bytes(elements.kept(simd, unit)[HALF], zero);
    let at = simd.places(part(unit, E::BYTES - 2 * ROWS))[HALF];
    let (i, j) = ([0, 1, 2, 3].map(|j| j + 8 * HALF as u8), [4, 5, 6, 7].map(|j| j + 8 * HALF as u8));
    let first = simd.pick(simd.spread::<0>(at), i, simd.spread::<0>(kept), zero);
    let second = simd.pick(simd.spread::<2>(at), j, simd.spread::<2>(kept), zero);
    [
        simd.pick(simd.spread::<1>(at), i, simd.spread::<1>(kept), first),
        simd.pick(simd.spread::<3>(at), j, simd.spread::<3>(kept), second),
    ]
}

/// Adds the products of dense units, whose codes are SMALL or not.
#[inline(always)]
fn add_dense<E: Elements, S: Simd, const SMALL: bool, const M: usize>(
    elements: E,
    simd: S,
    codes: &[u8],
    x: &[[u8; UNIT]],
    acc: &mut [S::I; M],
) {
    // With one row a sum would wait for itself: there are two until the end.
    let mut second = simd.splat_int(0);
    for (unit, x) in codes.chunks_exact(E::BYTES).zip(x.chunks_exact(M)) {
        let [a, b] = elements.quads::<S, 0>(simd, unit);
        let [c, d] = elements.quads::<S, 1>(simd, unit);
        for m in 0..M {
            let [x0, x1, x2, x3] = quads(&x[m]);
            acc[m] = simd.dot_if::<SMALL>(simd.dot_if::<SMALL>(acc[m], a, x0), b, x1);
            let to = if M == 1 { &mut second } else { &mut acc[m] };
            *to = simd.dot_if::<SMALL>(simd.dot_if::<SMALL>(*to, c, x2), d, x3);
        }
    }
    if M == 1 {
        acc[0] = simd.add_int(acc[0], second);
    }
}

/// Units of which two of four are kept.
trait Kept: Elements {
    /// What is kept of both halves, signed.
    fn kept<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2];
}

/// Adds the products of units with two of four, whose codes are SMALL or not.
#[inline(always)]
fn add_kept<E: Kept, S: Simd, const SMALL: bool, const M: usize>(
    elements: E,
    simd: S,
    codes: &[u8],
    x: &[[u8; UNIT]],
    acc: &mut [S::I; M],
) {
    let (mut raised, by) = (simd.splat_int(0), simd.splat_byte(128));
    let mut second = simd.splat_int(0);
    for (unit, x) in codes.chunks_exact(E::BYTES).zip(x.chunks_exact(M)) {
        let [a, b] = elements.kept(simd, unit);
        let [at, bt] = simd.places(part(unit, E::BYTES - 2 * ROWS));
        for m in 0..M {
            acc[m] = simd.dot_bytes_if::<SMALL>(acc[m], simd.gather(&x[m], at), a);
            let to = if M == 1 { &mut second } else { &mut acc[m] };
            *to = simd.dot_bytes_if::<SMALL>(*to, simd.gather(&x[m], bt), b);
        }
        raised = match SMALL {
            // So is the sum of two.
            true => simd.dot_bytes_if::<SMALL>(raised, by, simd.add_bytes(a, b)),
            false => simd.dot_bytes_if::<SMALL>(simd.dot_bytes_if::<SMALL>(raised, by, a), by, b),
        };
    }
    if M == 1 {
        acc[0] = simd.add_int(acc[0], second);
    }
    for acc in acc {
        *acc = simd.sub_int(*acc, raised);
    }
}

impl Elements for Bytes {
    const BYTES: usize = 256;
    const UNSIGNED: bool = true;

    #[inline(always)]
    fn quads<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        [simd.bytes(part(unit, 128 * HALF)), simd.bytes(part(unit, 128 * HALF + 64))]
    }

    #[inline(always)]
    fn add<S: Simd, const M: usize>(self, simd: S, codes: &[u8], x: &[[u8; UNIT]], acc: &mut [S::I; M]) {
        add_dense::<_, _, false, M>(self, simd, codes, x, acc);
    }
}

impl<const TABLE: bool> Elements for Nibbles<TABLE> {
    const BYTES: usize = 128;
    const UNSIGNED: bool = true;

    #[inline(always)]
    fn quads<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        let [a, b] = simd.nibbles(part(unit, 64 * HALF));
        if TABLE { [simd.lookup(a, &self.0), simd.lookup(b, &self.0)] } else { [a, b] }
    }

    #[inline(always)]
    fn add<S: Simd, const M: usize>(self, simd: S, codes: &[u8], x: &[[u8; UNIT]], acc: &mut [S::I; M]) {
        add_dense::<_, _, true, M>(self, simd, codes, x, acc);
    }
}

impl Kept for KeptBytes {
    #[inline(always)]
    fn kept<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        [simd.bytes(part(unit, 0)), simd.bytes(part(unit, 64))]
    }
}

impl Elements for KeptBytes {
    const BYTES: usize = 160;
    const UNSIGNED: bool = false;

    #[inline(always)]
    fn quads<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        scatter::<_, S, HALF>(self, simd, unit, 128)
    }

    #[inline(always)]
    fn add<S: Simd, const M: usize>(self, simd: S, codes: &[u8], x: &[[u8; UNIT]], acc: &mut [S::I; M]) {
        add_kept::<_, _, false, M>(self, simd, codes, x, acc);
    }
}

impl<const TABLE: bool> Kept for KeptNibbles<TABLE> {
    #[inline(always)]
    fn kept<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        let [a, b] = simd.nibbles(part(unit, 0));
        if TABLE {
            return [simd.lookup(a, &self.table), simd.lookup(b, &self.table)];
        }
        let below = simd.splat_byte(self.zero.wrapping_neg());
        [simd.add_bytes(a, below), simd.add_bytes(b, below)]
    }
}

impl<const TABLE: bool> Elements for KeptNibbles<TABLE> {
    const BYTES: usize = 96;
    const UNSIGNED: bool = false;

    #[inline(always)]
    fn quads<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        scatter::<_, S, HALF>(self, simd, unit, self.zero)
    }

    #[inline(always)]
    fn add<S: Simd, const M: usize>(self, simd: S, codes: &[u8], x: &[[u8; UNIT]], acc: &mut [S::I; M]) {
        add_kept::<_, _, true, M>(self, simd, codes, x, acc);
    }
}
