//! Packed weights as f32: products with activations as they are, and rows read back.

use std::ops::Range;

use super::elements::{Bytes, Elements};
use super::out::Out;
use super::simd::{Loop, ROWS, Simd};
use super::weight::{Packed, Shift, UNIT};

/// Inputs that are decoded at once, half a unit.
const EIGHT: usize = UNIT / 2;

/// Eight inputs of sixteen rows as numbers, before scales: those of a half of a unit.
pub(super) trait Floats: Copy + Send + Sync {
    fn half<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8], zero: S::F) -> [S::F; EIGHT];
}

/// Codes less their zero.
#[derive(Clone, Copy)]
pub(super) struct Coded<E>(pub E);

/// FP8.
#[derive(Clone, Copy)]
pub(super) struct Fp8;

/// Plain floats of so many bytes, and whether two are bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Plain<const BYTES: usize, const BF16: bool>;

impl<E: Elements> Floats for Coded<E> {
    #[inline(always)]
    fn half<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8], zero: S::F) -> [S::F; EIGHT] {
        let [a, b] = self.0.quads::<S, HALF>(simd, unit);
        let bytes = [
            simd.byte::<0>(a),
            simd.byte::<1>(a),
            simd.byte::<2>(a),
            simd.byte::<3>(a),
            simd.byte::<0>(b),
            simd.byte::<1>(b),
            simd.byte::<2>(b),
            simd.byte::<3>(b),
        ];
        let mut out = [zero; EIGHT];
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = simd.sub(simd.convert(byte), zero);
        }
        out
    }
}

impl Floats for Fp8 {
    #[inline(always)]
    fn half<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8], _zero: S::F) -> [S::F; EIGHT] {
        let [a, b] = Bytes.quads::<S, HALF>(simd, unit);
        [
            simd.fp8::<0>(a),
            simd.fp8::<1>(a),
            simd.fp8::<2>(a),
            simd.fp8::<3>(a),
            simd.fp8::<0>(b),
            simd.fp8::<1>(b),
            simd.fp8::<2>(b),
            simd.fp8::<3>(b),
        ]
    }
}

impl<const BYTES: usize, const BF16: bool> Floats for Plain<BYTES, BF16> {
    #[inline(always)]
    fn half<S: Simd, const HALF: usize>(self, simd: S, unit: &[u8], _zero: S::F) -> [S::F; EIGHT] {
        let mut out = [simd.splat(0.); EIGHT];
        let unit = &unit[HALF * EIGHT * BYTES * ROWS..];
        for (out, x) in out.iter_mut().zip(unit.chunks_exact(BYTES * ROWS)) {
            *out = match BYTES {
                4 => simd.f32(&x.as_chunks().0[0]),
                _ if BF16 => simd.bf16(&x.as_chunks().0[0]),
                _ => simd.f16(&x.as_chunks().0[0]),
            };
        }
        out
    }
}

/// Eight products added as a tree.
#[inline(always)]
fn tree<S: Simd>(simd: S, w: [S::F; EIGHT], x: &[f32]) -> S::F {
    let mut p = w;
    for (p, x) in p.iter_mut().zip(x) {
        *p = simd.mul(*p, simd.splat(*x));
    }
    let a = simd.add(simd.add(p[0], p[1]), simd.add(p[2], p[3]));
    let b = simd.add(simd.add(p[4], p[5]), simd.add(p[6], p[7]));
    simd.add(a, b)
}

/// A scale of 1 where there are none.
#[inline(always)]
fn scale<S: Simd>(weight: &Packed, simd: S, at: usize) -> S::F {
    match &weight.scales {
        Some(scales) => scales.at(simd, at),
        None => simd.splat(1.),
    }
}

#[inline(always)]
fn zero<S: Simd>(weight: &Packed, simd: S, at: usize) -> S::F {
    match &weight.shift {
        Shift::Zeros(zeros) => simd.convert(simd.widen(&zeros.bytes().as_chunks().0[at])),
        _ => simd.splat(f32::from(weight.offset)),
    }
}

/// The product with one row of activations: y = Σ over groups of s · Σ (u − z)·x, eight inputs added as a tree.
pub(super) struct Single<'a, W> {
    pub weight: &'a Packed,
    pub floats: W,
    /// Of all inputs, filled up.
    pub x: &'a [f32],
    pub row: usize,
    pub panels: Range<usize>,
    /// Columns 16·p and on of a panel p belong to this loop.
    pub out: Out<'a>,
}

impl<W: Floats> Loop for Single<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weight = self.weight;
        let bytes = weight.unit();
        for panel in self.panels.clone() {
            let mut units = weight.panel(panel).chunks_exact(bytes);
            let mut inputs = self.x.as_chunks::<UNIT>().0.iter();
            let mut total = simd.splat(0.);
            for group in 0..weight.groups {
                let at = panel * weight.groups + group;
                let zero = zero(weight, simd, at);
                let mut inner = simd.splat(0.);
                let from = group * weight.group;
                for _ in 0..weight.group / UNIT {
                    let (Some(unit), Some(x)) = (units.next(), inputs.next()) else { break };
                    let (a, b) = x.split_at(EIGHT);
                    inner = simd.add(inner, tree(simd, self.floats.half::<S, 0>(simd, unit, zero), a));
                    inner = simd.add(inner, tree(simd, self.floats.half::<S, 1>(simd, unit, zero), b));
                }
                inner = simd.mul(inner, scale(weight, simd, at));
                if let Shift::Minima(minima) = &weight.shift {
                    let x = &self.x[from..(from + weight.group).min(self.x.len())];
                    let sum: f32 = x.iter().sum();
                    inner = simd.add(inner, simd.mul(minima.at(simd, at), simd.splat(sum)));
                }
                total = simd.add(total, inner);
            }
            let mut values = [0.; ROWS];
            simd.store(total, &mut values);
            // SAFETY: the columns of this loop's panels are its own.
            unsafe { self.out.put(self.row, panel * ROWS, &values) };
        }
    }
}

/// Panels as numbers: what fake-quantization gives, bit for bit.
pub(super) struct Decode<'a, W> {
    pub weight: &'a Packed,
    pub floats: W,
    pub panels: Range<usize>,
    /// `[inputs, 16·panels]`.
    pub out: &'a mut [f32],
}

impl<W: Floats> Loop for Decode<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weight = self.weight;
        let (bytes, width) = (weight.unit(), ROWS * self.panels.len());
        for (i, panel) in self.panels.clone().enumerate() {
            let units = weight.panel(panel).chunks_exact(bytes);
            let mut rows = self.out.chunks_exact_mut(width);
            for (u, unit) in units.enumerate() {
                let at = panel * weight.groups + u * UNIT / weight.group;
                let (zero, scale) = (zero(weight, simd, at), scale(weight, simd, at));
                let minimum = match &weight.shift {
                    Shift::Minima(minima) => Some(minima.at(simd, at)),
                    _ => None,
                };
                let halves =
                    [self.floats.half::<S, 0>(simd, unit, zero), self.floats.half::<S, 1>(simd, unit, zero)];
                for w in halves.as_flattened() {
                    let mut value = simd.mul(*w, scale);
                    if let Some(minimum) = minimum {
                        value = simd.add(value, minimum);
                    }
                    let to = rows.next().and_then(|row| row[i * ROWS..].first_chunk_mut());
                    if let Some(to) = to {
                        simd.store(value, to);
                    }
                }
            }
        }
    }
}
