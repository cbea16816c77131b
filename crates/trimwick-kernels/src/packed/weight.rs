//! A weight in the layout of its products.

use rayon::prelude::*;

use super::aligned::Aligned;
use super::element::{E2M1, Element, Groups};
use super::elements::{Bytes, Elements, KeptBytes, KeptNibbles, Nibbles};
use super::input::{Arithmetic, BLOCK};
use super::scales::Scales;
use super::simd::{ROWS, Simd};

/// Inputs of a unit.
pub(super) const UNIT: usize = 16;

/// How codes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bytes,
    Nibbles,
    Table,
    KeptBytes,
    KeptNibbles,
    KeptTable,
    E4m3,
    F32,
    F16,
    Bf16,
}

/// What is subtracted or added for a group.
#[derive(Clone, Debug)]
pub(super) enum Shift {
    None,
    /// `[panels, groups, 16]`.
    Zeros(Aligned),
    Minima(Scales),
}

/// A weight `[rows, cols]` that products read as it is stored; see the [module](crate::packed).
#[derive(Clone, Debug)]
pub struct Packed {
    rows: usize,
    cols: usize,
    pub(super) kind: Kind,
    /// Subtracted from codes.
    pub(super) offset: u8,
    /// `[panels, inputs / 8, unit]`.
    pub(super) codes: Aligned,
    /// Inputs that share a scale.
    pub(super) group: usize,
    pub(super) groups: usize,
    pub(super) scales: Option<Scales>,
    pub(super) shift: Shift,
    arithmetic: Arithmetic,
}

impl Packed {
    /// A weight of codes `[rows, cols]`, one to a byte, all of which are stored.
    ///
    /// # Panics
    /// When a slice does not have the length of its shape, the group's size is neither a multiple of 16 nor all of a
    /// row, or zero points or minima come with signed codes.
    pub fn dense(element: Element, codes: &[u8], rows: usize, cols: usize, groups: &Groups<'_>) -> Self {
        let kind = match element {
            Element::Int8 | Element::Uint8 => Kind::Bytes,
            Element::Int4 | Element::Uint4 => Kind::Nibbles,
            Element::E2M1 => Kind::Table,
            Element::E4M3 => Kind::E4m3,
        };
        let mut packed = Self::coded(kind, element, codes, rows, cols, groups);
        let (unit, zero) = (packed.unit(), element.zero());
        packed.fill(unit, |row, input, unit| {
            let code = |j: usize| match row < rows && input + j < cols {
                true => element.stored(codes[row * cols + input + j]),
                false => zero,
            };
            for j in 0..UNIT {
                let at = 4 * (row % ROWS) + j % 4;
                let quad = j / 4;
                match element.small() {
                    true => unit[at + 64 * (quad / 2)] |= code(j) << (4 * (quad % 2)),
                    false => unit[at + 64 * quad] = code(j),
                }
            }
        });
        packed
    }

    /// A weight of which every four inputs of a row have two codes at most that are not zero: only two are stored,
    /// with their places. `None` for any other, and for codes with zero points, minima or of FP8.
    ///
    /// # Panics
    /// As [`Packed::dense`].
    pub fn kept(
        element: Element,
        codes: &[u8],
        rows: usize,
        cols: usize,
        groups: &Groups<'_>,
    ) -> Option<Self> {
        let kind = match element {
            Element::Int8 => Kind::KeptBytes,
            Element::Int4 => Kind::KeptNibbles,
            Element::E2M1 => Kind::KeptTable,
            _ => return None,
        };
        check_len("codes", codes.len(), rows * cols);
        let is_zero = |code: u8| match element {
            Element::E2M1 => code & 7 == 0,
            Element::Int4 => code & 15 == 0,
            _ => code == 0,
        };
        let fits = |group: &[u8]| group.iter().filter(|&&code| !is_zero(code)).count() <= 2;
        if !cols.is_multiple_of(4) || cols == 0 || !codes.par_chunks(cols).all(|row| row.chunks(4).all(fits))
        {
            return None;
        }
        let mut packed = Self::coded(kind, element, codes, rows, cols, groups);
        let unit = packed.unit();
        let codes_of = unit - 2 * ROWS;
        packed.fill(unit, |row, input, unit| {
            let row_of = row % ROWS;
            for quad in 0..UNIT / 4 {
                let (from, half) = (input + 4 * quad, quad / 2);
                let group: [u8; 4] = match row < rows && from < cols {
                    true => std::array::from_fn(|j| codes[row * cols + from + j]),
                    false => [0; 4],
                };
                let places = places(group.map(|code| !is_zero(code)));
                for (i, &place) in places.iter().enumerate() {
                    let at = 4 * row_of + 2 * (quad % 2) + i;
                    match element.small() {
                        true => unit[at] |= element.stored(group[place]) << (4 * half),
                        false => unit[at + 64 * half] = group[place],
                    }
                    unit[codes_of + 2 * row_of + half] |= (place as u8) << (4 * (quad % 2) + 2 * i);
                }
            }
        });
        Some(packed)
    }

    /// A weight of f32 `[rows, cols]`.
    ///
    /// # Panics
    /// When the slice does not have the length of its shape.
    pub fn f32(values: &[f32], rows: usize, cols: usize) -> Self {
        check_len("values", values.len(), rows * cols);
        Self::plain(Kind::F32, rows, cols, |at, out: &mut [u8]| {
            out.copy_from_slice(&values[at].to_le_bytes())
        })
    }

    /// A weight of the bits of half precision `[rows, cols]`.
    ///
    /// # Panics
    /// As [`Packed::f32`].
    pub fn f16(values: &[u16], rows: usize, cols: usize) -> Self {
        check_len("values", values.len(), rows * cols);
        Self::plain(Kind::F16, rows, cols, |at, out: &mut [u8]| {
            out.copy_from_slice(&values[at].to_le_bytes())
        })
    }

    /// A weight of the bits of bfloat16 `[rows, cols]`.
    ///
    /// # Panics
    /// As [`Packed::f32`].
    pub fn bf16(values: &[u16], rows: usize, cols: usize) -> Self {
        check_len("values", values.len(), rows * cols);
        Self::plain(Kind::Bf16, rows, cols, |at, out: &mut [u8]| {
            out.copy_from_slice(&values[at].to_le_bytes())
        })
    }

    fn plain(kind: Kind, rows: usize, cols: usize, put: impl Fn(usize, &mut [u8]) + Sync) -> Self {
        let mut packed = Self::empty(kind, rows, cols);
        let (unit, size) = (packed.unit(), packed.unit() / (UNIT * ROWS));
        packed.fill(unit, |row, input, unit| {
            for j in 0..UNIT {
                if row < rows && input + j < cols {
                    put(row * cols + input + j, &mut unit[(j * ROWS + row % ROWS) * size..][..size]);
                }
            }
        });
        packed
    }

    /// Without codes, scales and shift.
    fn empty(kind: Kind, rows: usize, cols: usize) -> Self {
        let inputs = cols.next_multiple_of(BLOCK);
        let mut packed = Self {
            rows,
            cols,
            kind,
            offset: 0,
            codes: Aligned::zeros(0),
            group: inputs,
            groups: 1,
            scales: None,
            shift: Shift::None,
            arithmetic: Arithmetic::Float,
        };
        packed.codes = Aligned::zeros(packed.panels() * packed.panel_bytes());
        packed
    }

    fn coded(
        kind: Kind,
        element: Element,
        codes: &[u8],
        rows: usize,
        cols: usize,
        groups: &Groups<'_>,
    ) -> Self {
        check_len("codes", codes.len(), rows * cols);
        let mut packed = Self::empty(kind, rows, cols);
        let whole = groups.size >= cols;
        assert!(
            whole || groups.size.is_multiple_of(UNIT) && groups.size > 0,
            "packed: groups of {}",
            groups.size
        );
        packed.group = if whole { packed.inputs() } else { groups.size };
        // What is behind the last input has no group of its own where groups are longer than the filling.
        packed.groups = packed.inputs().div_ceil(packed.group);
        let given = if whole { 1 } else { cols.div_ceil(groups.size) };
        check_len("scales", groups.scales.len(), rows * given);
        let factor = if element == Element::E2M1 { 0.5 } else { 1. };
        let padded = packed.groups;
        packed.scales = Some(Scales::new(groups.scales, rows, given, padded, groups.global, factor));
        let unsigned = matches!(element, Element::Uint4 | Element::Uint8);
        assert!(
            unsigned || groups.zeros.is_none() && groups.minima.is_none(),
            "packed: zero points with {element:?}"
        );
        packed.shift = match (groups.zeros, groups.minima) {
            (None, None) => Shift::None,
            (_, Some(minima)) => {
                check_len("minima", minima.len(), rows * given);
                Shift::Minima(Scales::new(minima, rows, given, padded, None, 1.))
            }
            (Some(zeros), None) => {
                check_len("zeros", zeros.len(), rows * given);
                let mut data = Aligned::zeros(packed.panels() * padded * ROWS);
                for (row, zeros) in zeros.chunks_exact(given).enumerate() {
                    for (group, &zero) in zeros.iter().enumerate() {
                        data.bytes_mut()[(row / ROWS * padded + group) * ROWS + row % ROWS] = zero;
                    }
                }
                Shift::Zeros(data)
            }
        };
        packed.offset = element.offset();
        packed.arithmetic = if element == Element::E4M3 { Arithmetic::Float } else { Arithmetic::Blocks };
        packed
    }

    /// Calls `put` for every row, also those that fill up the last panel, and every unit of it.
    fn fill(&mut self, unit: usize, put: impl Fn(usize, usize, &mut [u8]) + Sync) {
        let panel = self.panel_bytes().max(1);
        self.codes.bytes_mut().par_chunks_mut(panel).enumerate().for_each(|(i, panel)| {
            for (u, unit) in panel.chunks_exact_mut(unit).enumerate() {
                for row in 0..ROWS {
                    put(i * ROWS + row, u * UNIT, unit);
                }
            }
        });
    }

    /// The same weight with another arithmetic of its products; FP8 and plain floats know [`Arithmetic::Float`] alone.
    #[must_use]
    pub fn with_arithmetic(mut self, arithmetic: Arithmetic) -> Self {
        if !matches!(self.kind, Kind::E4m3 | Kind::F32 | Kind::F16 | Kind::Bf16) {
            self.arithmetic = arithmetic;
        }
        self
    }

    /// How activations enter its products: [`Arithmetic::Blocks`] unless said otherwise.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether only two of four inputs are stored.
    pub fn is_kept(&self) -> bool {
        matches!(self.kind, Kind::KeptBytes | Kind::KeptNibbles | Kind::KeptTable)
    }

    /// Bytes of memory, all of which a product reads.
    pub fn bytes(&self) -> usize {
        let shift = match &self.shift {
            Shift::None => 0,
            Shift::Zeros(zeros) => zeros.len(),
            Shift::Minima(minima) => minima.bytes(),
        };
        self.codes.len() + self.scales.as_ref().map_or(0, Scales::bytes) + shift
    }

    /// Whether groups have minima or zero points.
    pub(super) fn is_shifted(&self) -> bool {
        !matches!(self.shift, Shift::None)
    }

    /// Scales of the groups from `at` = panel · groups + group on; 1 where there are none.
    #[inline(always)]
    pub(super) fn factors<S: Simd>(&self, simd: S, at: usize, out: &mut [[f32; ROWS]]) {
        match &self.scales {
            Some(scales) => scales.read(simd, at, out),
            None => out.fill([1.; ROWS]),
        }
    }

    /// Minima of the same groups, whose scales are `factors`.
    #[inline(always)]
    pub(super) fn minima<S: Simd>(
        &self,
        simd: S,
        at: usize,
        factors: &[[f32; ROWS]],
        out: &mut [[f32; ROWS]],
    ) {
        match &self.shift {
            Shift::None => out.fill([0.; ROWS]),
            Shift::Minima(minima) => minima.read(simd, at, out),
            Shift::Zeros(zeros) => {
                let zeros = &zeros.bytes().as_chunks().0[at..];
                for ((out, factor), zeros) in out.iter_mut().zip(factors).zip(zeros) {
                    let below = simd.sub(simd.splat(0.), simd.convert(simd.widen(zeros)));
                    simd.store(simd.mul(below, simd.floats(factor)), out);
                }
            }
        }
    }

    /// Inputs filled up to whole blocks.
    pub(super) fn inputs(&self) -> usize {
        self.cols.next_multiple_of(BLOCK)
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of a unit.
    pub(super) fn unit(&self) -> usize {
        match self.kind {
            Kind::Bytes | Kind::E4m3 => Bytes::BYTES,
            Kind::Nibbles | Kind::Table => Nibbles::<false>::BYTES,
            Kind::KeptBytes => KeptBytes::BYTES,
            Kind::KeptNibbles | Kind::KeptTable => KeptNibbles::<false>::BYTES,
            Kind::F32 => 4 * UNIT * ROWS,
            Kind::F16 | Kind::Bf16 => 2 * UNIT * ROWS,
        }
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.inputs() / UNIT * self.unit()
    }

    /// The units of a panel.
    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        let bytes = self.panel_bytes();
        &self.codes.bytes()[panel * bytes..][..bytes]
    }
}

/// The table of half bytes.
pub(super) fn table(kind: Kind) -> [u8; 16] {
    if matches!(kind, Kind::Table | Kind::KeptTable) {
        return E2M1;
    }
    std::array::from_fn(|i| i as u8)
}

/// Two places of four that hold what is not zero.
fn places(nonzero: [bool; 4]) -> [usize; 2] {
    let mut chosen = nonzero;
    for place in 0..4 {
        if chosen.iter().filter(|&&c| c).count() < 2 {
            chosen[place] = true;
        }
    }
    let mut at = (0..4).filter(|&i| chosen[i]);
    [at.next().unwrap_or(0), at.next().unwrap_or(1)]
}

fn check_len(name: &str, len: usize, expected: usize) {
    assert!(len == expected, "packed: {name} has {len} elements, expected {expected}");
}
