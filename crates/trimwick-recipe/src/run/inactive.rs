//! Masks and quantizers that did nothing: what a run warns of at its end.

use trimwick_nn::{Layer, Layers, ParamStore};
use trimwick_quant::{input_quantizer, weight_quantizer};
use trimwick_sparse::{MASK_BUFFER, count};

use super::error::Result;
use super::prune::selected;
use crate::{Recipe, TrainSpec};

/// A sentence for each kind of mask or quantizer that is not at work in a model at the end of its run.
///
/// # Errors
/// A broken mask buffer.
pub(crate) fn warnings(recipe: &Recipe, store: &ParamStore) -> Result<Vec<String>> {
    let all = store.layers();
    let steps = recipe.train.as_ref().map(|train: &TrainSpec| train.steps(recipe.data.context));
    let mut found = idle(&all)?;
    if let Some(spec) = &recipe.prune {
        let bare = selected(store, spec)?.0.retain(|layer| layer.buffer(MASK_BUFFER).is_none());
        found.extend(sentence(
            &bare,
            "was to be pruned and has no mask",
            "were to be pruned and have no mask",
        ));
    }
    if let (Some(spec), Some(steps)) = (&recipe.quantize, steps)
        && spec.start >= steps
    {
        let start = spec.start;
        found.push(format!("quantize.start = {start} is not before the end of training after {steps} steps"));
    }
    Ok(found)
}

/// What is on the layers and does nothing.
fn idle(all: &Layers) -> Result<Vec<String>> {
    let masked = all.retain(|layer| layer.buffer(MASK_BUFFER).is_some());
    let mut whole = Vec::new();
    for layer in &masked {
        if count(&masked.retain(|l| l.path() == layer.path()))?.dropped == 0 {
            whole.push(layer.path().to_string());
        }
    }
    let whole = masked.retain(|layer| whole.iter().any(|path| path == layer.path()));
    let weight_off = |layer: &Layer| weight_quantizer(layer).is_some_and(|q| !q.enabled());
    let input_off = |layer: &Layer| input_quantizer(layer).is_some_and(|q| !q.enabled());
    let keeps = sentence(&whole, "has a mask that keeps every weight", "have masks that keep every weight");
    let weights = all.retain(weight_off);
    let weights =
        sentence(&weights, "has a weight quantizer that is off", "have weight quantizers that are off");
    let inputs = all.retain(input_off);
    let inputs =
        sentence(&inputs, "has an input quantizer that is off", "have input quantizers that are off");
    Ok([keeps, weights, inputs].into_iter().flatten().collect())
}

/// About the first few of some layers; nothing about none.
fn sentence(layers: &Layers, one: &str, many: &str) -> Option<String> {
    const SHOWN: usize = 3;
    let names: Vec<&str> = layers.iter().take(SHOWN).map(Layer::path).collect();
    let names = names.join(", ");
    match layers.len() {
        0 => None,
        1 => Some(format!("{names} {one}")),
        2..=SHOWN => Some(format!("{names} {many}")),
        n => Some(format!("{names} and {} more {many}", n - SHOWN)),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use trimwick_nn::linear_no_bias;
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
        assert_eq!(idle(&layers)?, Vec::<String>::new());
        let pick = |glob: &str| layers.select(glob);
        let pattern = trimwick_sparse::Pattern::TWO_FOUR;
        trimwick_sparse::prune(&layers, pattern, &trimwick_sparse::Magnitude)?;
        trimwick_quant::attach(&layers, &Scheme::int8())?;
        assert_eq!(idle(&layers)?, Vec::<String>::new());
        for layer in &pick("b")? {
            trimwick_sparse::fix(layer, &[0xff; 4])?;
        }
        assert_eq!(idle(&layers)?, ["b has a mask that keeps every weight"]);
        trimwick_quant::set_enabled(&pick("[bcde]")?, false);
        let want = [
            "b has a mask that keeps every weight",
            "b, c, d and 1 more have weight quantizers that are off",
            "b, c, d and 1 more have input quantizers that are off",
        ];
        assert_eq!(idle(&layers)?, want);
        Ok(())
    }
}
