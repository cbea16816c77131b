//! Masks and quantizers that did nothing: what a run warns of at its end.

use trimwick_nn::Layers;
use trimwick_quant::{input_quantizer, weight_quantizer};
use trimwick_sparse::{MASK_BUFFER, count};

use super::error::Result;
use super::export::Masked;

/// Layers whose mask or quantizer is not at work in a model at the end of its run, gathered piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Inactive {
    bare: Vec<String>,
    whole: Vec<String>,
    weights: Vec<String>,
    inputs: Vec<String>,
}

impl Inactive {
    /// Looks at the layers of a model, or of a piece of one. Those in `masked` must have a mask.
    ///
    /// # Errors
    /// A broken mask buffer.
    pub(crate) fn add(&mut self, layers: &Layers, masked: &Masked) -> Result<()> {
        for layer in layers {
            let path = || layer.path().to_string();
            if layer.buffer(MASK_BUFFER).is_some() {
                if count(&[layer.clone()].into_iter().collect())?.dropped == 0 {
                    self.whole.push(path());
                }
            } else if masked.contains_key(layer.path()) {
                self.bare.push(path());
            }
            if weight_quantizer(layer).is_some_and(|q| !q.enabled()) {
                self.weights.push(path());
            }
            if input_quantizer(layer).is_some_and(|q| !q.enabled()) {
                self.inputs.push(path());
            }
        }
        Ok(())
    }

    /// A sentence for each kind that there is.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let kinds = [
            (&self.bare, "was to be pruned and has no mask", "were to be pruned and have no mask"),
            (&self.whole, "has a mask that keeps every weight", "have masks that keep every weight"),
            (&self.weights, "has a weight quantizer that is off", "have weight quantizers that are off"),
            (&self.inputs, "has an input quantizer that is off", "have input quantizers that are off"),
        ];
        kinds.into_iter().filter_map(|(paths, one, many)| sentence(paths, one, many)).collect()
    }
}

/// About the first few of some layers; nothing about none.
fn sentence(paths: &[String], one: &str, many: &str) -> Option<String> {
    const SHOWN: usize = 3;
    let names = paths[..paths.len().min(SHOWN)].join(", ");
    match paths.len() {
        0 => None,
        1 => Some(format!("{names} {one}")),
        2..=SHOWN => Some(format!("{names} {many}")),
        n => Some(format!("{names} and {} more {many}", n - SHOWN)),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use trimwick_nn::{ParamStore, linear_no_bias};
    use trimwick_quant::Scheme;

    use super::*;

    #[test]
    fn what_does_nothing_is_named_and_what_acts_is_not() -> Result<()> {
        let store = ParamStore::new(DType::F32, &Device::Cpu);
        let vb = store.var_builder();
        for name in ["a", "b", "c", "d", "e"] {
            linear_no_bias(8, 4, vb.pp(name))?;
        }
        let layers = store.layers();
        let idle = |masked: &Masked| -> Result<_> {
            let mut inactive = Inactive::default();
            inactive.add(&layers, masked)?;
            Ok(inactive.warnings())
        };
        let none = Masked::new();
        let all: Masked = layers.iter().map(|layer| (layer.path().to_string(), None)).collect();
        assert_eq!(idle(&none)?, Vec::<String>::new());
        assert_eq!(idle(&all)?, ["a, b, c and 2 more were to be pruned and have no mask"]);
        let pick = |glob: &str| layers.select(glob);
        let pattern = trimwick_sparse::Pattern::TWO_FOUR;
        trimwick_sparse::prune(&layers, pattern, &trimwick_sparse::Magnitude)?;
        trimwick_quant::attach(&layers, &Scheme::int8())?;
        assert_eq!(idle(&all)?, Vec::<String>::new());
        for layer in &pick("b")? {
            trimwick_sparse::fix(layer, &[0xff; 4])?;
        }
        assert_eq!(idle(&all)?, ["b has a mask that keeps every weight"]);
        trimwick_quant::set_enabled(&pick("[bcde]")?, false);
        let want = [
            "b has a mask that keeps every weight",
            "b, c, d and 1 more have weight quantizers that are off",
            "b, c, d and 1 more have input quantizers that are off",
        ];
        assert_eq!(idle(&all)?, want);
        Ok(())
    }
}
