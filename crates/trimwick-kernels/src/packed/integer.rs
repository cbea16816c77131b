//! Products of codes with activations as bytes, summed in i32.
//!
//! With codes u, their offset o, scales s of a group and t of a block of activations x:
//!
//! y = Σ over groups of s · Σ over blocks of t · (Σ u·x − o·Σ x)
//!
//! The inner bracket is an integer, exact whatever the order. The sums outside are f32, in the order of the inputs.
//! A minimum of a group, which a zero point z is too as −s·z, adds itself times Σ t·Σ x of the group.

use std::ops::Range;

use super::elements::Elements;
use super::input::{BLOCK, Rounded, together};
use super::out::Out;
use super::simd::{Loop, ROWS, Simd};
use super::weight::{Packed, UNIT};

/// Groups whose scales are read at once.
const CHUNK: usize = 16;
/// Bytes between what is multiplied and what is asked for.
const AHEAD: usize = 2048;

/// Asks for bytes that come `ahead` of some others, if the processor knows how; they need not exist.
#[inline(always)]
fn prefetch(bytes: &[u8], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes.len()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead + at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, ahead);
}

/// Of some groups of a panel.
struct Chunk {
    factors: [[f32; ROWS]; CHUNK],
    minima: [[f32; ROWS]; CHUNK],
}

/// Products of some panels.
pub(super) struct Integer<'a, E> {
    pub weight: &'a Packed,
    pub elements: E,
    pub x: &'a Rounded,
    pub m: usize,
    pub panels: Range<usize>,
    /// Columns 16·p and on of a panel p belong to this loop.
    pub out: Out<'a>,
}

impl<E: Elements> Loop for Integer<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // What is known while compiling unrolls: whole blocks but for groups of 16, and no minima but for those who
        // have any.
        match (self.weight.group.is_multiple_of(BLOCK), E::UNSIGNED && self.weight.is_shifted()) {
            (true, false) => self.panels::<S, 2, false>(simd),
            (true, true) => self.panels::<S, 2, true>(simd),
            (false, false) => self.panels::<S, 1, false>(simd),
            (false, true) => self.panels::<S, 1, true>(simd),
        }
    }
}

impl<E: Elements> Integer<'_, E> {
    #[inline(always)]
    fn panels<S: Simd, const UNITS: usize, const SHIFTED: bool>(&self, simd: S) {
        let mut groups = Chunk { factors: [[0.; ROWS]; CHUNK], minima: [[0.; ROWS]; CHUNK] };
        for panel in self.panels.clone() {
            for (first, size) in together(self.m) {
                match size {
                    8 => self.rows::<S, UNITS, SHIFTED, 8>(simd, panel, first, &mut groups),
                    4 => self.rows::<S, UNITS, SHIFTED, 4>(simd, panel, first, &mut groups),
                    _ => self.rows::<S, UNITS, SHIFTED, 1>(simd, panel, first, &mut groups),
                }
            }
        }
    }

    /// M rows from `first` with the weight's sixteen; UNITS are summed as integers.
    #[inline(always)]
    fn rows<S: Simd, const UNITS: usize, const SHIFTED: bool, const M: usize>(
        &self,
        simd: S,
        panel: usize,
        first: usize,
        chunk: &mut Chunk,
    ) {
        let (weight, x) = (self.weight, self.x);
        let step = UNITS * UNIT;
        // Sums and scales of the activations that go with a group of the weight; scales of whole blocks.
        let per = weight.group / step;
        let per_block = BLOCK / step;
        let inputs = if E::UNSIGNED { &x.codes } else { &x.raised };
        let inputs = inputs[first * x.k..][..M * x.k].as_chunks::<UNIT>().0;
        let units = x.k / UNIT;
        let sums = x.sums[first * units..][..M * units].as_chunks::<M>().0;
        let blocks = x.k / BLOCK;
        let scales = x.scales[first * blocks..][..M * blocks].as_chunks::<M>().0;
        let offset = i32::from(weight.offset);
        let codes = weight.panel(panel);
        // Checked here once; the loop below is too short for bounds in it.
        let steps = x.k / step;
        assert!(codes.len() == steps * UNITS * E::BYTES && inputs.len() == steps * UNITS * M);
        assert!(sums.len() == steps * UNITS && scales.len() == steps / per_block);
        let mut total = [simd.splat(0.); M];
        let mut done = 0;
        for from in (0..weight.groups).step_by(CHUNK) {
            let (groups, at) = (CHUNK.min(weight.groups - from), panel * weight.groups + from);
            let (factors, minima) = (&mut chunk.factors[..groups], &mut chunk.minima[..groups]);
            weight.factors(simd, at, factors);
            if SHIFTED {
                weight.minima(simd, at, factors, minima);
            }
            for (factor, minimum) in factors.iter().zip(minima) {
                let mut inner = [simd.splat(0.); M];
                let mut shifts = [0f32; M];
                for i in done..(done + per).min(steps) {
                    // SAFETY: i is below `steps`, and the slices have the lengths asserted above.
                    let (codes, inputs, sums, scales) = unsafe {
                        (
                            codes.get_unchecked(i * UNITS * E::BYTES..(i + 1) * UNITS * E::BYTES),
                            inputs.get_unchecked(i * UNITS * M..(i + 1) * UNITS * M),
                            sums.get_unchecked(i * UNITS..(i + 1) * UNITS),
                            scales.get_unchecked(i / per_block),
                        )
                    };
                    if M == 1 {
                        prefetch(codes, AHEAD);
                    }
                    let mut acc = [simd.splat_int(0); M];
                    if E::UNSIGNED {
                        for m in 0..M {
                            let mut sum = 0;
                            for piece in sums {
                                sum += piece[m];
                            }
                            acc[m] = simd.splat_int(offset.wrapping_mul(-sum));
                            if SHIFTED {
                                shifts[m] += scales[m] * sum as f32;
                            }
                        }
                    }
                    self.elements.add(simd, codes, inputs, &mut acc);
                    for m in 0..M {
                        let sum = simd.mul(simd.convert(acc[m]), simd.splat(scales[m]));
                        inner[m] = simd.add(inner[m], sum);
                    }
                }
                done += per;
                let factor = simd.floats(factor);
                for m in 0..M {
                    total[m] = simd.add(total[m], simd.mul(inner[m], factor));
                    if SHIFTED {
                        let shifted = simd.mul(simd.floats(minimum), simd.splat(shifts[m]));
                        total[m] = simd.add(total[m], shifted);
                    }
                }
            }
        }
        for (m, total) in total.into_iter().enumerate() {
            let mut values = [0.; ROWS];
            simd.store(total, &mut values);
            // SAFETY: the columns of this loop's panels are its own.
            unsafe { self.out.put(first + m, panel * ROWS, &values) };
        }
    }
}
