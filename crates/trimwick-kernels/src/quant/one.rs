//! One value at a time, for loops in which each depends on the one before.

use super::blocks::Bounds;
use super::code::Code;

/// Rounds single values as [`fake_quant`](super::fake_quant) does, bit for bit.
#[derive(Clone, Copy)]
pub struct Rounder {
    code: Code,
    bounds: Bounds,
}

impl Rounder {
    /// For a code.
    ///
    /// # Panics
    /// When the code has a number of bits that no byte holds.
    pub fn new(code: Code) -> Self {
        code.check("Rounder");
        Self { code, bounds: Bounds::new(code) }
    }

    /// (round(clamp(x / scale + zero)) − zero) · scale. `zero` is 0 where there are no zero points.
    pub fn value(&self, x: f32, scale: f32, zero: f32) -> f32 {
        let block = self.bounds.block(scale, zero, false);
        let quotient = x / scale + zero;
        // Not `clamp`, which panics on bounds that are NaN; a NaN passes both ways.
        let quotient = if quotient < block.lo { block.lo } else { quotient };
        let quotient = if quotient > block.hi { block.hi } else { quotient };
        block.value(self.code.round(quotient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Grid, ScaleFormat, fake_quant};

    #[test]
    fn one_value_is_what_the_loop_gives() {
        let codes = [
            Code::Int { bits: 4 },
            Code::Int { bits: 8 },
            Code::Ternary,
            Code::Uint { bits: 4 },
            Code::E2M1,
            Code::E2M3,
            Code::E3M2,
            Code::E4M3,
            Code::E5M2,
        ];
        let mut x: Vec<f32> = (0..400).map(|i| ((i * 7919) % 401) as f32 * 0.037 - 7.4).collect();
        x.extend([0., -0., 1e30, -1e30, f32::MIN_POSITIVE, 0.25, 0.75, -1.25, 2.5, -3.5, 5.]);
        for code in codes {
            let rounder = Rounder::new(code);
            let grid = Grid { code, scale: ScaleFormat::F32 };
            for scale in [1e-3, 0.1, 0.25, 1., 3.7, 1e38] {
                let asymmetric = matches!(code, Code::Uint { .. });
                let zero = if asymmetric { 3. } else { 0. };
                let zeros = [zero];
                let mut y = vec![0f32; x.len()];
                fake_quant(grid, &x, x.len(), &[scale], asymmetric.then_some(&zeros[..]), &mut y);
                for (x, y) in x.iter().zip(&y) {
                    let found = rounder.value(*x, scale, zero);
                    assert_eq!(found.to_bits(), y.to_bits(), "{code:?} {x} / {scale}: {found}, expected {y}");
                }
            }
        }
    }
}
