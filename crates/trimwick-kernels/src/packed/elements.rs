//! What sixteen rows by eight inputs look like in memory, and as registers.
//!
//! Such a unit is two quads of inputs. A quad is 64 bytes, byte 4r + j for row r and input j of the four: what one
//! instruction multiplies with four bytes of activations for all rows. Codes are unsigned.
//!
//! | unit | bytes | |
//! |---|---|---|
//! | [`Bytes`] | 128 | the first quad, the second quad |
//! | [`Nibbles`] | 64 | the first quad in the low halves, the second in the high ones |
//! | [`KeptBytes`] | 80 | 32 and 32 bytes, two for each row, and 8 + 8 of places |
//! | [`KeptNibbles`] | 48 | 32 bytes, the first quad's two of each row in the low halves, and 8 + 8 of places |
//!
//! Places are a nibble for each row, low first: bit j is set where input j of the quad is kept, two of the four: as
//! long as two indices of two bits, and what spreads bytes over a register.

use super::simd::Simd;

/// Units of codes.
pub(super) trait Elements: Copy + Send + Sync {
    /// Bytes of a unit.
    const BYTES: usize;
    /// Whether all codes are at most 64.
    const SMALL: bool;

    /// Both quads of a unit.
    fn unit<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2];
}

/// A byte for each code.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

/// Half a byte for each code, with a table of values where TABLE.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<const TABLE: bool>(pub [u8; 16]);

/// The bytes of two of four.
#[derive(Clone, Copy)]
pub(super) struct KeptBytes {
    /// The code of zero.
    pub fill: u8,
}

/// Half a byte for each of two of four, with a table of values.
#[derive(Clone, Copy)]
pub(super) struct KeptNibbles {
    pub table: [u8; 16],
    /// The value of zero.
    pub fill: u8,
}

/// The first N bytes of a unit from `at`. Units are cut to their length, so that this is always there.
#[inline(always)]
fn part<const N: usize>(unit: &[u8], at: usize) -> &[u8; N] {
    match unit[at..].first_chunk() {
        Some(part) => part,
        None => &[0; N],
    }
}

impl Elements for Bytes {
    const BYTES: usize = 128;
    const SMALL: bool = false;

    #[inline(always)]
    fn unit<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        [simd.bytes(part(unit, 0)), simd.bytes(part(unit, 64))]
    }
}

impl<const TABLE: bool> Elements for Nibbles<TABLE> {
    const BYTES: usize = 64;
    const SMALL: bool = true;

    #[inline(always)]
    fn unit<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        let [a, b] = simd.nibbles(part(unit, 0));
        if TABLE { [simd.lookup(a, &self.0), simd.lookup(b, &self.0)] } else { [a, b] }
    }
}

impl Elements for KeptBytes {
    const BYTES: usize = 80;
    const SMALL: bool = false;

    #[inline(always)]
    fn unit<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        let first = simd.expand(part(unit, 0), part(unit, 64), self.fill);
        [first, simd.expand(part(unit, 32), part(unit, 72), self.fill)]
    }
}

impl Elements for KeptNibbles {
    const BYTES: usize = 48;
    const SMALL: bool = true;

    #[inline(always)]
    fn unit<S: Simd>(self, simd: S, unit: &[u8]) -> [S::B; 2] {
        simd.expand_nibbles(part(unit, 0), part(unit, 32), &self.table, self.fill)
    }
}
