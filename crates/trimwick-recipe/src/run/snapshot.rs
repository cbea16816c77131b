//! The values of a store as a safetensors file between two stages: every parameter and buffer, bit for bit.

use std::collections::BTreeSet;
use std::path::Path;

use trimwick_formats::safetensors::SafetensorsFile;
use trimwick_nn::{Layers, ParamStore, Role};
use trimwick_sparse::MASK_BUFFER;

use super::error::{Result, RunError};

/// Writes the parameters and buffers of a store that `wanted` names, floats in f32.
pub(crate) fn save(store: &ParamStore, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    Ok(store.save_where(path, wanted)?)
}

/// What a snapshot has to hold, no more and no less: every parameter and buffer of the store, and a mask for each layer
/// of `pruned`.
pub(crate) fn whole(store: &ParamStore, pruned: Option<&Layers>) -> BTreeSet<String> {
    let masks = pruned.into_iter().flatten().map(|layer| format!("{}.{MASK_BUFFER}", layer.path()));
    store.params().iter().map(|p| p.name().to_string()).chain(masks).collect()
}

/// What a snapshot may hold.
#[derive(Clone, Copy)]
pub(crate) enum Expected<'a> {
    /// These tensors, no more and no less.
    Exactly(&'a BTreeSet<String>),
    /// Those, and what belongs to quantizers.
    AndQuantizers(&'a BTreeSet<String>),
    /// Only what belongs to quantizers.
    Quantizers,
}

/// Puts the values of a snapshot back into the store of the same model, masks included.
///
/// # Errors
/// [`RunError::Snapshot`] with the tensor that is missing or one too many.
pub(crate) fn restore(store: &ParamStore, path: &Path, expected: Expected<'_>) -> Result<()> {
    let file = SafetensorsFile::open(path)?;
    let fault =
        |tensor: &str, what| RunError::Snapshot { path: path.into(), tensor: tensor.to_string(), what };
    let (expected, quantizers) = match expected {
        Expected::Exactly(expected) => (Some(expected), false),
        Expected::AndQuantizers(expected) => (Some(expected), true),
        Expected::Quantizers => (None, true),
    };
    let belongs = |name: &String| {
        expected.is_some_and(|expected| expected.contains(name)) || (quantizers && trimwick_quant::owns(name))
    };
    if let Some(name) = file.tensors().keys().find(|name| !belongs(name)) {
        return Err(fault(name, "no part of what was saved"));
    }
    if let Some(name) = expected.into_iter().flatten().find(|name| !file.tensors().contains_key(*name)) {
        return Err(fault(name, "missing"));
    }
    put(store, &file, |_| true)
}

/// Puts the buffers of a snapshot, and what belongs to quantizers, into a store whose weights were read from it already.
pub(crate) fn complete(store: &ParamStore, path: &Path) -> Result<()> {
    let weight = |name: &str| store.get(name).is_some_and(|p| p.role() != Role::Buffer);
    put(store, &SafetensorsFile::open(path)?, |name| !weight(name) || trimwick_quant::owns(name))
}

/// Puts those values of a snapshot back that are `wanted`.
pub(crate) fn restore_part(store: &ParamStore, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    put(store, &SafetensorsFile::open(path)?, wanted)
}

fn put(store: &ParamStore, file: &SafetensorsFile, wanted: impl Fn(&str) -> bool) -> Result<()> {
    store.restore_where(file, wanted)?;
    trimwick_sparse::restore(&store.layers(), None)?;
    Ok(())
}

/// Whether a parameter's name is that of a mask.
pub(crate) fn is_mask(name: &str) -> bool {
    name.rsplit('.').next() == Some(MASK_BUFFER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use trimwick_nn::linear;
    use trimwick_sparse::{Magnitude, Pattern, prune};

    fn store(width: usize) -> ParamStore {
        let store = ParamStore::new(DType::F32, &Device::Cpu);
        for name in ["a", "b"] {
            linear(width, 4, store.var_builder().pp(name)).unwrap();
        }
        store
    }

    #[test]
    fn a_snapshot_that_lost_or_gained_a_tensor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.safetensors");
        let pruned = store(8);
        prune(&pruned.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap();
        let fresh = store(8);
        let expected = whole(&fresh, Some(&fresh.layers()));
        let scale = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();

        save(&pruned, &path, |_| true).unwrap();
        restore(&fresh, &path, Expected::Exactly(&expected)).unwrap();
        assert_eq!(whole(&fresh, None), expected);

        for lost in ["a.weight_mask", "b.weight_mask", "b.bias"] {
            save(&pruned, &path, |name| name != lost).unwrap();
            let message = restore(&store(8), &path, Expected::Exactly(&expected)).unwrap_err().to_string();
            assert!(message.contains(&format!("{lost}: missing; remove the file")), "{message}");
        }
        save(&pruned, &path, |_| true).unwrap();
        let without = whole(&store(8), None);
        let message = restore(&store(8), &path, Expected::Exactly(&without)).unwrap_err().to_string();
        assert!(message.contains("a.weight_mask: no part of what was saved"), "{message}");
        let message = restore(&store(8), &path, Expected::Quantizers).unwrap_err().to_string();
        assert!(message.contains("no part of what was saved"), "{message}");

        // Beside what a model holds, a snapshot of a quantized one holds what its quantizers keep.
        trimwick_quant::attach(&pruned.layers(), &trimwick_quant::Scheme::int8()).unwrap();
        pruned.layers().iter().for_each(|l| drop(l.set_buffer("input_scale", &scale).unwrap()));
        save(&pruned, &path, |_| true).unwrap();
        restore(&store(8), &path, Expected::AndQuantizers(&expected)).unwrap();
        assert!(restore(&store(8), &path, Expected::Exactly(&expected)).is_err());
        assert!(restore(&store(8), &path, Expected::AndQuantizers(&without)).is_err());
    }
}
