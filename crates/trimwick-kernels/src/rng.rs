//! Counter-based random numbers: Philox4x32-10.
//!
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A block of four 32-bit
//! words is a keyed bijection of a 128-bit counter, so any word of any stream is computed on its own.

use rayon::prelude::*;

use crate::real::Real;

/// Elements one task fills. Even, so that a pair of normals is never split.
const CHUNK: usize = 4096;

/// A stream of random numbers named by (seed, stream, step, name), indexed by a counter.
///
/// The key is a hash of seed, stream and name; the step is the upper half of the counter, so two steps of one stream
/// never share a block. A value is a pure function of these and of the index: there is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
    step: u64,
}

impl Rng {
    /// The stream `stream` (what it is for: "init", "dropout", …) of run `seed`, at `step`, for the object `name`.
    ///
    /// The same four arguments give the same numbers on every machine and in every version.
    pub fn new(seed: u64, stream: &str, step: u64, name: &str) -> Rng {
        let mut hash = Fnv1a::default();
        hash.write(&seed.to_le_bytes());
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        hash.write(&(stream.len() as u64).to_le_bytes());
        hash.write(stream.as_bytes());
        hash.write(&(name.len() as u64).to_le_bytes());
        hash.write(name.as_bytes());
        let key = splitmix64(hash.0);
        Rng { key: [key as u32, (key >> 32) as u32], step }
    }

    /// Four words: block `index` of the stream.
    #[inline]
    fn block(&self, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, self.step as u32, (self.step >> 32) as u32];
        philox4x32_10(counter, self.key)
    }

    /// Word `i` of the stream, uniform over all 2³² values.
    #[inline]
    pub fn u32_at(&self, i: u64) -> u32 {
        self.block(i / 4)[(i % 4) as usize]
    }

    /// The two 64-bit words behind uniforms and normals 2·`pair` and 2·`pair` + 1.
    #[inline]
    fn pair(&self, pair: u64) -> [u64; 2] {
        let [a, b, c, d] = self.block(pair);
        [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32]
    }

    /// Value `i` of the uniform distribution on [0, 1): a multiple of 2⁻⁵³.
    #[inline]
    pub fn uniform_at(&self, i: u64) -> f64 {
        unit(self.pair(i / 2)[(i % 2) as usize])
    }

    /// Value `i` of the standard normal distribution (Box–Muller; values 2j and 2j + 1 are one pair).
    #[inline]
    pub fn normal_at(&self, i: u64) -> f64 {
        self.normal_pair(i / 2)[(i % 2) as usize]
    }

    #[inline]
    fn normal_pair(&self, pair: u64) -> [f64; 2] {
        let [a, b] = self.pair(pair);
        // 1 − u lies in (0, 1], whose logarithm is finite.
        let radius = (-2.0 * (1.0 - unit(a)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * unit(b)).sin_cos();
        [radius * cos, radius * sin]
    }

    /// Fills `out` with `lo + (hi − lo)·uniform_at(i)`, computed in f64 and rounded to `T`.
    ///
    /// Element `i` is the same whatever the number of threads and for `f32` and `f64` but for the rounding, which may
    /// reach `hi` itself.
    pub fn fill_uniform<T: Real>(&self, lo: f64, hi: f64, out: &mut [T]) {
        self.fill_pairs(out, |pair| self.pair(pair).map(|word| T::from_f64(lo + (hi - lo) * unit(word))));
    }

    /// Fills `out` with `mean + std·normal_at(i)`, computed in f64 and rounded to `T`.
    pub fn fill_normal<T: Real>(&self, mean: f64, std: f64, out: &mut [T]) {
        self.fill_pairs(out, |pair| self.normal_pair(pair).map(|z| T::from_f64(mean + std * z)));
    }

    fn fill_pairs<T: Real>(&self, out: &mut [T], value: impl Fn(u64) -> [T; 2] + Sync) {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let first = (chunk * CHUNK / 2) as u64;
            for (pair, out) in (first..).zip(out.chunks_mut(2)) {
                out.copy_from_slice(&value(pair)[..out.len()]);
            }
        });
    }

    /// The words that `u32_at` gives from index 4·`first_block` on, four at a time.
    #[inline]
    pub(crate) fn blocks(&self, first_block: u64) -> impl Iterator<Item = [u32; 4]> + '_ {
        (first_block..).map(|block| self.block(block))
    }
}

/// The upper 53 bits of a word as a fraction of 1.
#[inline]
fn unit(word: u64) -> f64 {
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The FNV-1a hash, 64 bits.
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// One output of the SplitMix64 generator: a bijection that spreads every input bit.
#[inline]
pub(crate) fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The ten-round Philox bijection on four 32-bit words.
#[inline]
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // Random123, tests/kat_vectors: philox4x32 10.
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox4x32_10(counter, key), want, "counter {counter:x?}, key {key:x?}");
        }
    }

    #[test]
    fn splitmix_known_answers() {
        // The first outputs of the reference generator from seed 0 (Vigna, splitmix64.c).
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn fnv_known_answers() {
        for (text, want) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            let mut hash = Fnv1a::default();
            hash.write(text.as_bytes());
            assert_eq!(hash.0, want, "{text:?}");
        }
    }
}
