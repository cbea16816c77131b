//! The parameters that a recipe trains, by name, before any of them exists.

use trimwick_quant::ScalePolicy;

use crate::Recipe;
use crate::rules::QuantizeRule;
use crate::shapes::{LayerKind, LayerShape};
use crate::shapes_quantize::schemes_of;

/// Names of the parameters that train, layer by layer: weights and biases, or in their place the factors of adapters;
/// and the logarithms of learned scales.
pub(crate) fn trainable(
    recipe: &Recipe,
    layers: &[LayerShape],
    quant: &[Option<QuantizeRule>],
) -> Vec<Vec<String>> {
    let adapted: Option<Vec<_>> = recipe.lora.as_ref().map(|lora| {
        let globs = lora.layers.iter().filter_map(|pattern| globset::Glob::new(pattern).ok());
        globs.map(|glob| glob.compile_matcher()).collect()
    });
    let learned = recipe.quantize.as_ref().is_some_and(|q| q.scales == ScalePolicy::Learned);
    let of_layer = |(layer, rule): (&LayerShape, &Option<QuantizeRule>)| {
        let named = |suffix: &str| format!("{}.{suffix}", layer.path);
        let mut names: Vec<String> = match &adapted {
            None => layer.parameters().collect(),
            Some(globs) => {
                let takes = layer.kind == LayerKind::Linear && globs.iter().any(|g| g.is_match(&layer.path));
                if takes { vec![named("lora_a"), named("lora_b")] } else { Vec::new() }
            }
        };
        let schemes =
            recipe.quantize.as_ref().map(|spec| schemes_of(spec, rule.as_ref())).unwrap_or_default();
        if learned && schemes.iter().any(|scheme| scheme.weight.is_some()) {
            names.push(named("weight_log2_scale"));
        }
        if learned && schemes.iter().any(|scheme| scheme.input.is_some_and(|input| !input.dynamic)) {
            names.push(named("input_log2_scale"));
        }
        names
    };
    layers.iter().zip(quant).map(of_layer).collect()
}
