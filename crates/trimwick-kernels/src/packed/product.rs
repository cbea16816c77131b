//! y = x·Wᵀ for packed weights.

use std::ops::Range;

use super::crew::Crew;
use super::elements::{Bytes, KeptBytes, KeptNibbles, Nibbles};
use super::float::{Coded, Decode, Fp8, Plain, Single};
use super::input::{Activations, Arithmetic};
use super::integer::Integer;
use super::out::Out;
use super::simd::{Level, ROWS};
use super::weight::{Kind, Packed, table};
use crate::gemm::{MatMut, MatRef, Threading, matmul_strided};

/// Rows of activations from which a tile of the weight is worth decoding for a float product.
const TILED: usize = 4;
/// Panels of a tile.
const TILE: usize = 8;
/// Panels of a piece of work with one row, at least.
const PANELS: usize = 1;

/// Runs `$value` with `$e` as the elements of a kind of codes.
macro_rules! with_elements {
    ($weight:expr, $e:ident => $value:expr, else $other:expr) => {
        match $weight.kind {
            Kind::Bytes => {
                let $e = Bytes;
                $value
            }
            Kind::Nibbles => {
                let $e = Nibbles::<false>(table($weight.kind));
                $value
            }
            Kind::Table => {
                let $e = Nibbles::<true>(table($weight.kind));
                $value
            }
            Kind::KeptBytes => {
                let $e = KeptBytes;
                $value
            }
            Kind::KeptNibbles => {
                let $e = KeptNibbles::<false>::new(table($weight.kind), $weight.offset);
                $value
            }
            Kind::KeptTable => {
                let $e = KeptNibbles::<true>::new(table($weight.kind), $weight.offset);
                $value
            }
            _ => $other,
        }
    };
}

/// Runs `$value` with `$w` as the numbers of any kind.
macro_rules! with_floats {
    ($weight:expr, $w:ident => $value:expr) => {
        with_elements!($weight, elements => {
            let $w = Coded(elements);
            $value
        }, else match $weight.kind {
            Kind::F32 => {
                let $w = Plain::<4, false>;
                $value
            }
            Kind::F16 => {
                let $w = Plain::<2, false>;
                $value
            }
            Kind::Bf16 => {
                let $w = Plain::<2, true>;
                $value
            }
            _ => {
                let $w = Fp8;
                $value
            }
        })
    };
}

/// y = x·Wᵀ for each pair of a weight `[n, k]` and its y `[m, n]`, all with the same x `[m, k]`, which must have been
/// prepared for the weights' arithmetics. Threads take panels of rows; the result does not depend on their number.
///
/// # Panics
/// When shapes do not fit or the activations were not prepared.
pub fn product(crew: &Crew<'_>, x: &Activations, products: &mut [(&Packed, &mut [f32])]) {
    product_at(Level::detect(), crew, x, products);
}

pub(super) fn product_at(
    level: Level,
    crew: &Crew<'_>,
    x: &Activations,
    products: &mut [(&Packed, &mut [f32])],
) {
    let m = x.rows();
    if m == 0 {
        return;
    }
    let outs: Vec<(&Packed, Out<'_>)> = products
        .iter_mut()
        .map(|(weight, y)| {
            assert!(
                weight.cols() == x.inputs(),
                "product: {} inputs, expected {}",
                x.inputs(),
                weight.cols()
            );
            (*weight, Out::new(y, m, weight.rows()))
        })
        .collect();
    let total: usize = outs.iter().map(|(weight, _)| weight.panels()).sum();
    // Several pieces for each thread, so that none waits long for another.
    let per = match m < TILED {
        true => (total / (32 * crew.size())).clamp(PANELS, 64),
        false => TILE,
    };
    let pieces: Vec<(usize, Range<usize>)> = outs
        .iter()
        .enumerate()
        .flat_map(|(i, (weight, _))| {
            let panels = weight.panels();
            (0..panels).step_by(per).map(move |from| (i, from..(from + per).min(panels)))
        })
        .collect();
    crew.each(pieces.len(), |piece| {
        let (i, panels) = pieces[piece].clone();
        let (weight, out) = outs[i];
        some_panels(level, weight, x, panels, out);
    });
}

/// The columns of some panels, which nobody else computes.
fn some_panels(level: Level, weight: &Packed, x: &Activations, panels: Range<usize>, out: Out<'_>) {
    let m = x.rows();
    if weight.arithmetic() != Arithmetic::Float {
        let x = x.rounded(weight.arithmetic());
        with_elements!(weight, elements => {
            level.run(Integer { weight, elements, x, m, panels: panels.clone(), out });
        }, else ());
        return;
    }
    let inputs = x.padded();
    if m < TILED {
        for (row, x) in x.floats().chunks_exact(inputs).enumerate() {
            with_floats!(weight, floats => {
                level.run(Single { weight, floats, x, row, panels: panels.clone(), out });
            });
        }
        return;
    }
    let width = ROWS * panels.len();
    let mut tile = vec![0.; inputs * width];
    decode(level, weight, panels.clone(), &mut tile);
    let mut y = vec![0.; m * width];
    matmul_strided(
        MatRef::new(x.floats(), m, inputs, inputs, 1),
        MatRef::new(&tile, inputs, width, width, 1),
        MatMut::new(&mut y, m, width, width, 1),
        1.,
        false,
        Threading::Single,
    );
    for (row, y) in y.chunks_exact(width).enumerate() {
        // SAFETY: the columns of these panels are this piece's own.
        unsafe { out.put(row, panels.start * ROWS, y) };
    }
}

pub(super) fn decode(level: Level, weight: &Packed, panels: Range<usize>, out: &mut [f32]) {
    with_floats!(weight, floats => level.run(Decode { weight, floats, panels, out }));
}

impl Packed {
    /// A row as fake-quantization has it: the embedding of a token.
    ///
    /// # Panics
    /// When there is no such row or `out` does not have as many elements as the weight has inputs.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows(), "packed: row {row} of {}", self.rows());
        assert!(out.len() == self.cols(), "packed: {} elements for {} inputs", out.len(), self.cols());
        let panel = row / ROWS;
        let mut tile = vec![0.; self.inputs() * ROWS];
        decode(Level::detect(), self, panel..panel + 1, &mut tile);
        for (out, values) in out.iter_mut().zip(tile.chunks_exact(ROWS)) {
            *out = values[row % ROWS];
        }
    }
}
