//! Products of unsigned codes with activations as bytes, summed in i32.
//!
//! With codes u, their offset o, scales s of a group and t of a block of activations x:
//!
//! y = Σ over groups of s · Σ over blocks of t · (Σ u·x − o·Σ x)
//!
//! The inner bracket is an integer, exact whatever the order. The sums outside are f32, in the order of the inputs.
//! Zero points and minima are corrected by t·Σ x of the group.

use std::ops::Range;

use super::elements::Elements;
use super::input::{Arithmetic, BLOCK, Rounded, SUMMED, together};
use super::out::Out;
use super::simd::{Loop, ROWS, Simd};
use super::weight::{Packed, Shift, UNIT};

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
        for panel in self.panels.clone() {
            for (first, size) in together(self.m) {
                match size {
                    8 => self.rows::<S, 8>(simd, panel, first),
                    4 => self.rows::<S, 4>(simd, panel, first),
                    _ => self.rows::<S, 1>(simd, panel, first),
                }
            }
        }
    }
}

impl<E: Elements> Integer<'_, E> {
    /// Inputs that are summed as integers, and those that share a scale of activations.
    #[inline(always)]
    fn step(&self) -> (usize, usize) {
        match self.weight.arithmetic() {
            Arithmetic::Tokens if self.x.k.is_multiple_of(self.weight.group) => (self.weight.group, self.x.k),
            Arithmetic::Tokens => (SUMMED, self.x.k),
            _ if self.weight.group.is_multiple_of(BLOCK) => (BLOCK, BLOCK),
            _ => (SUMMED, BLOCK),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&self, simd: S, panel: usize, first: usize) {
        let (weight, x) = (self.weight, self.x);
        let (step, block) = self.step();
        let (units, pieces) = (step / UNIT, step / SUMMED);
        let mut codes = weight.panel(panel).chunks_exact(units * E::BYTES);
        let mut inputs = x.codes[first * x.k..][..M * x.k].as_chunks::<4>().0.chunks_exact(2 * units * M);
        let mut sums = x.sums[first * (x.k / SUMMED)..][..M * (x.k / SUMMED)].chunks_exact(pieces * M);
        let scales = &x.scales[first * (x.k / block)..][..M * (x.k / block)];
        let offset = i32::from(weight.offset);
        let mut total = [simd.splat(0.); M];
        let mut done = 0;
        for group in 0..weight.groups {
            let mut inner = [simd.splat(0.); M];
            let mut shifts = [0f32; M];
            for _ in 0..weight.group / step {
                let (Some(codes), Some(inputs), Some(sums)) = (codes.next(), inputs.next(), sums.next())
                else {
                    break;
                };
                let scales = &scales[done / block * M..][..M];
                done += step;
                let mut acc = [simd.splat_int(0); M];
                for m in 0..M {
                    let mut sum = 0;
                    for piece in sums.chunks_exact(M) {
                        sum += piece[m];
                    }
                    acc[m] = simd.splat_int(offset.wrapping_mul(-sum));
                    shifts[m] += scales[m] * sum as f32;
                }
                for (unit, x) in codes.chunks_exact(E::BYTES).zip(inputs.chunks_exact(2 * M)) {
                    let quads = self.elements.unit(simd, unit);
                    for (q, quad) in quads.into_iter().enumerate() {
                        for m in 0..M {
                            acc[m] = match E::SMALL {
                                true => simd.dot_small(acc[m], quad, x[q * M + m]),
                                false => simd.dot(acc[m], quad, x[q * M + m]),
                            };
                        }
                    }
                }
                for m in 0..M {
                    inner[m] = simd.add(inner[m], simd.mul(simd.convert(acc[m]), simd.splat(scales[m])));
                }
            }
            let at = panel * weight.groups + group;
            let scale = match &weight.scales {
                Some(scales) => scales.at(simd, at),
                None => simd.splat(1.),
            };
            match &weight.shift {
                Shift::None => {
                    for m in 0..M {
                        total[m] = simd.add(total[m], simd.mul(inner[m], scale));
                    }
                }
                Shift::Zeros(zeros) => {
                    let zero = simd.convert(simd.widen(&zeros.bytes().as_chunks().0[at]));
                    for m in 0..M {
                        let shifted = simd.sub(inner[m], simd.mul(zero, simd.splat(shifts[m])));
                        total[m] = simd.add(total[m], simd.mul(shifted, scale));
                    }
                }
                Shift::Minima(minima) => {
                    let minimum = minima.at(simd, at);
                    for m in 0..M {
                        let shifted = simd.mul(minimum, simd.splat(shifts[m]));
                        total[m] = simd.add(total[m], simd.add(simd.mul(inner[m], scale), shifted));
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
