//! What a compressed model takes on disk, by arithmetic from shapes and rules alone.

use crate::checked::pattern::Pattern;
use crate::rules::{LayerRule, LayerRules, PruneRule, QuantizeRule};

/// Bits of a weight that no rule quantizes.
const BF16: f64 = 16.;
/// Bits that the places of the kept two of four take, of each of the four.
const PLACES: f64 = 1.;

/// Bytes of a model's weights in three forms; names and headers of files are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// All in bf16.
    pub bf16: u64,
    /// Quantized layers as codes and scales, the rest in bf16. `None` where nothing is quantized, or a budget has yet
    /// to choose.
    pub packed: Option<u64>,
    /// The same with the kept two of four alone, and their places in two bits each, in layers pruned 2:4: what
    /// `export.targets = ["sparse24"]` writes. `None` where no layer is pruned so, or a budget has yet to choose.
    pub sparse: Option<u64>,
}

impl LayerRules {
    /// The sizes of a model of so many `parameters`, in layers and outside of them.
    pub fn sizes(&self, parameters: u64) -> Sizes {
        let inside: u64 = self.layers.iter().map(LayerRule::weights).sum();
        let outside = parameters.saturating_sub(inside) as f64 * BF16;
        let bytes = |bits: fn(&LayerRule) -> f64| {
            let inside: f64 = self.layers.iter().map(|rule| bits(rule) * rule.weights() as f64).sum();
            ((outside + inside) / 8.).round() as u64
        };
        let quantized = |rule: &LayerRule| rule.quant.as_ref().is_some_and(|quant| quant.bits.is_some());
        let open = self.layers.iter().any(|rule| rule.quant.as_ref().is_some_and(QuantizeRule::budgeted));
        let packed = !open && self.layers.iter().any(quantized);
        let sparse = !open && self.layers.iter().any(halved);
        Sizes {
            bf16: (parameters as f64 * BF16 / 8.) as u64,
            packed: packed.then(|| bytes(bits)),
            sparse: sparse.then(|| bytes(kept_bits)),
        }
    }
}

fn halved(rule: &LayerRule) -> bool {
    matches!(rule.prune, PruneRule::Pruned { pattern: Pattern::Nm { n: 2, m: 4 }, .. })
}

/// Bits of a weight on average, scales counted.
fn bits(rule: &LayerRule) -> f64 {
    rule.quant.as_ref().and_then(|quant| quant.bits).unwrap_or(BF16)
}

/// The same where only what 2:4 keeps is stored.
fn kept_bits(rule: &LayerRule) -> f64 {
    if !halved(rule) {
        return bits(rule);
    }
    let value = rule.quant.as_ref().and_then(|quant| quant.code_bits).map_or(BF16, f64::from);
    bits(rule) - value / 2. + PLACES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::LayerKind;

    fn layer(shape: [usize; 2], pruned: Option<Pattern>, quant: Option<(f64, u32)>) -> LayerRule {
        LayerRule {
            path: "layer".into(),
            kind: LayerKind::Linear,
            shape: shape.to_vec(),
            prune: pruned
                .map_or(PruneRule::Untouched, |pattern| PruneRule::Pruned { pattern, by: "*".into() }),
            quant: quant.map(|(bits, code)| QuantizeRule {
                scheme: "scheme".into(),
                bits: Some(bits),
                code_bits: Some(code),
                by: "*".into(),
            }),
            group: None,
        }
    }

    #[test]
    fn each_form_counts_what_it_stores() {
        let two_four = Some(Pattern::Nm { n: 2, m: 4 });
        let of = |layers: Vec<LayerRule>, parameters| LayerRules { layers }.sizes(parameters);
        let cases = [
            // 64 weights and 6 parameters outside of layers.
            (of(vec![layer([8, 8], None, None)], 70), (140, None, None)),
            // Codes of a byte and half a bit of scales each.
            (of(vec![layer([8, 8], None, Some((8.5, 8)))], 70), (140, Some(80), None)),
            // Half of the codes and a bit for the places: 5.5 bits.
            (of(vec![layer([8, 8], two_four, Some((8.5, 8)))], 70), (140, Some(80), Some(56))),
            // Nothing quantized: half of 16 bits, and a bit.
            (of(vec![layer([8, 8], two_four, None)], 64), (128, None, Some(72))),
            // Other patterns have no packed form.
            (
                of(vec![layer([8, 8], Some(Pattern::Nm { n: 1, m: 4 }), Some((4.5, 4)))], 64),
                (128, Some(36), None),
            ),
        ];
        for (found, (bf16, packed, sparse)) in cases {
            assert_eq!(found, Sizes { bf16, packed, sparse });
        }
    }
}
