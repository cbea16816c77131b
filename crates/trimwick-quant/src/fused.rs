//! Layers that runtimes fuse into one, and scales that every deployment format can write.

use std::collections::BTreeMap;

use trimwick_nn::{Layer, Layers};

use crate::Result;
use crate::attach::{share_as, weight_quantizer};

/// Last parts of the paths of layers that vLLM and TensorRT-LLM compute as one.
const FUSED: [&[&str]; 2] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"]];

/// The layers of each fused group with e4m3 scales, those that stand alone included, by the path of the first.
pub fn fused_groups(layers: &Layers) -> Vec<Layers> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let with_global = |layer: &&Layer| weight_quantizer(layer).is_some_and(|q| q.spec().has_global());
    for layer in layers.iter().filter(with_global) {
        let (parent, last) = layer.path().rsplit_once('.').unwrap_or(("", layer.path()));
        let first = FUSED.iter().find(|group| group.contains(&last)).map_or(last, |group| group[0]);
        groups.entry(format!("{parent}.{first}")).or_default().push(layer.path().into());
    }
    groups.values().map(|paths| layers.retain(|layer| paths.iter().any(|p| p == layer.path()))).collect()
}

/// Gives every group of [`fused_groups`] one scale of the tensor, which is fixed from here on: the largest of theirs,
/// enlarged, by a thousandth at most, to one that [`has_divisor`]. compressed-tensors writes the inverse of that
/// scale; without this step dividing by it would not give the trained values.
///
/// # Errors
/// NaN or infinity in a weight.
pub fn share_fused(layers: &Layers) -> Result<()> {
    fused_groups(layers).iter().try_for_each(|group| share_as(group, with_divisor))
}

/// The smallest number from `global` up whose products with E4M3 numbers are quotients by another; see [`has_divisor`].
pub fn with_divisor(global: f32) -> f32 {
    let mut candidate = global;
    // About every fifth number is one, and every power of two; near √2 · 2ⁿ thousands in a row are not.
    for _ in 0..1 << 14 {
        if has_divisor(candidate).is_some() {
            return candidate;
        }
        candidate = candidate.next_up();
    }
    global
}

/// The number d for which m/d = m·`global`, both rounded, for every E4M3 number m; `None` where there is none.
pub fn has_divisor(global: f32) -> Option<f32> {
    let inverse = 1. / global;
    if !(inverse.is_normal() && global.is_normal()) {
        return None;
    }
    // E4M3 numbers are one of eight times a power of two.
    let exact = |d: &f32| (8..16u8).all(|m| f32::from(m) / d == f32::from(m) * global);
    let near = [inverse, inverse.next_up(), inverse.next_down()];
    let further = [near[1].next_up(), near[2].next_down()];
    near.into_iter().chain(further).find(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divisor_is_near_every_scale() {
        let mut moved = 0;
        for i in 1..2000u32 {
            let global = 1e-4 * i as f32 / 7.;
            let found = with_divisor(global);
            let divisor = has_divisor(found).unwrap();
            assert!(found >= global && f64::from(found) / f64::from(global) < 1. + 1e-3, "{global}");
            moved += usize::from(found != global);
            for m in [1., 9., 13., 15.] {
                for e in [-9, 0, 5] {
                    let m = m * 2f32.powi(e);
                    assert_eq!((m / divisor).to_bits(), (m * found).to_bits(), "{global} {m}");
                }
            }
        }
        assert!((200..1999).contains(&moved), "{moved}");
        assert_eq!(with_divisor(0.25), 0.25);
        assert_eq!(has_divisor(0.), None);
        assert_eq!(has_divisor(f32::MAX), None);
    }
}
