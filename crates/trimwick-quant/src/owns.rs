//! Which names in a store belong to quantizers.

use crate::saved::{INPUT, KEYS, Names, VALUES};
use crate::{rescale, svd, weight};

/// Whether `name` is that of a buffer or parameter which a quantizer keeps beside a layer: scales, zero points, ranges,
/// histograms, input scales,
/// branches. An export of folded weights leaves them out.
pub fn owns(name: &str) -> bool {
    let suffix = name.rsplit('.').next().unwrap_or(name);
    let activations =
        |n: &Names| [n.scale, n.zero_point, n.global, n.log2, n.range, n.seen, n.histogram].contains(&suffix);
    let passes = [rescale::SCALE, svd::DOWN, svd::UP];
    weight::SUFFIXES.contains(&suffix)
        || passes.contains(&suffix)
        || [INPUT, KEYS, VALUES].iter().any(activations)
}

#[cfg(test)]
mod tests {
    use super::owns;

    #[test]
    fn what_quantizers_keep_is_told_from_the_model() {
        for (name, own) in [
            ("model.layers.0.mlp.up_proj.weight_scale", true),
            ("model.layers.0.mlp.up_proj.weight_log2_scale", true),
            ("fc.input_histogram", true),
            ("input_range", true),
            ("fc.input_channel_scale", true),
            ("fc.svd_up", true),
            ("model.layers.0.self_attn.k_scale", true),
            ("model.layers.0.self_attn.v_zero_point", true),
            ("fc.weight", false),
            ("fc.weight_mask", false),
            ("model.layers.0.self_attn.k_proj.weight", false),
            ("fc.lora_a", false),
        ] {
            assert_eq!(owns(name), own, "{name}");
        }
    }
}
