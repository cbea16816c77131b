//! What the written weights look like: zeros, masks, the grid, sizes.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::SafetensorsFile;
use trimwick_quant::{Granularity, Scheme};
use trimwick_recipe::run::MASKS;
use trimwick_sparse::MASK_BUFFER;

use crate::{Error, Result};

/// Bins of a histogram over [−1, 1]; odd, so that 0 has one.
pub(crate) const BINS: usize = 241;
/// Rows and columns of a mask that are drawn.
pub(crate) const CORNER: (usize, usize) = (32, 128);
/// Bits of a value of the dense model: bf16.
const DENSE_BITS: f64 = 16.;

/// The tensors of a written model by class: `q_proj`, …, `embed_tokens`, `norms`.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) classes: BTreeMap<String, Class>,
    /// The mask that is drawn, and the layer that it is of.
    pub(crate) corner: Option<(String, Vec<Vec<bool>>)>,
    /// How often each choice of kept places in a group of four occurs, over all masks.
    pub(crate) choices: BTreeMap<[bool; 4], u64>,
    /// Weights under a mask that were on its other side after one-shot pruning, and all of them; where both are known.
    pub(crate) moved: Option<(u64, u64)>,
}

/// Tensors of one kind.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub(crate) tensors: usize,
    pub(crate) parameters: u64,
    pub(crate) zeros: u64,
    /// Bits in bf16, and as a packed format of this scheme and mask would hold them.
    pub(crate) dense_bits: f64,
    pub(crate) packed_bits: f64,
    /// Schemes of the tensors.
    pub(crate) schemes: Vec<String>,
    /// Values over the largest magnitude of what shares a scale with them; zeros of a mask are left out.
    pub(crate) histogram: Vec<u64>,
}

impl Weights {
    /// Reads a run's `model/`, one tensor in memory at a time; `schemes` by the paths of layers, and the masks of one-shot
    /// pruning from a file that may be missing.
    pub(crate) fn read(folder: &Path, schemes: &BTreeMap<String, String>, one_shot: &Path) -> Result<Self> {
        let files = ModelFolder::open(folder)?;
        let beside = folder.join(MASKS);
        let masks = if beside.is_file() { Some(SafetensorsFile::open(&beside)?) } else { None };
        let before = if one_shot.is_file() { Some(SafetensorsFile::open(one_shot)?) } else { None };
        let mut found =
            Self { classes: BTreeMap::new(), corner: None, choices: BTreeMap::new(), moved: None };
        for name in files.names() {
            let Some(info) = files.info(name) else { continue };
            let shape = info.shape.clone();
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            let beside = format!("{layer}.{MASK_BUFFER}");
            let mask = match masks.as_ref().filter(|masks| masks.info(&beside).is_ok()) {
                Some(masks) => Some(masks.read_raw(&beside)?),
                None => None,
            };
            let values = files.read_f32(name)?;
            if let Some(bits) = mask.as_ref().map(Vec::len).filter(|&len| len != values.len().div_ceil(8)) {
                let expected = values.len().div_ceil(8);
                let problem =
                    format!("{beside}: expected {expected} bytes, one bit for each weight, found {bits}");
                return Err(Error::File { path: folder.join(MASKS), problem });
            }
            if let (Some(mask), Some(before)) = (&mask, before.as_ref().filter(|b| b.info(&beside).is_ok())) {
                let was = before.read_raw(&beside)?;
                let changed: u32 = mask.iter().zip(&was).map(|(a, b)| (a ^ b).count_ones()).sum();
                let (moved, all) = found.moved.unwrap_or_default();
                found.moved = Some((moved + u64::from(changed), all + values.len() as u64));
            }
            found.add(layer, &shape, &values, mask.as_deref(), schemes.get(layer));
        }
        Ok(found)
    }

    fn add(
        &mut self,
        layer: &str,
        shape: &[usize],
        values: &[f32],
        mask: Option<&[u8]>,
        scheme: Option<&String>,
    ) {
        let kept = |i: usize| mask.is_none_or(|bits| bits[i / 8] >> (i % 8) & 1 == 1);
        let cols = shape.last().copied().unwrap_or(1).max(1);
        let spec = scheme.and_then(|text| Scheme::from_str(text).ok()?.weight);
        let two_of_four = mask.is_some() && self.look_at_mask(layer, values.len(), cols, &kept);
        let class = self.classes.entry(class_of(layer, shape)).or_default();
        class.tensors += 1;
        class.parameters += values.len() as u64;
        class.zeros += values.iter().filter(|v| **v == 0.).count() as u64;
        class.dense_bits += DENSE_BITS * values.len() as f64;
        let n = values.len() as f64;
        let (bits, code) = match &spec {
            Some(spec) => (spec.bits(shape), f64::from(spec.code.bits())),
            None => (DENSE_BITS, DENSE_BITS),
        };
        class.packed_bits += match two_of_four {
            // Half of the codes, two bits to say where each is, and all scales.
            true => n * (bits - code) + n / 2. * (code + 2.),
            false => n * bits,
        };
        if let Some(scheme) = scheme
            && !class.schemes.contains(scheme)
        {
            class.schemes.push(scheme.clone());
        }
        if shape.len() < 2 {
            return;
        }
        let run = match spec.map(|spec| spec.granularity) {
            Some(Granularity::Group(group)) => group,
            Some(Granularity::Tensor) => values.len(),
            _ => cols,
        };
        class.histogram.resize(BINS, 0);
        for (r, part) in values.chunks(run.max(1)).enumerate() {
            let largest = part.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (_, v) in part.iter().enumerate().filter(|(j, _)| kept(r * run + j)) {
                let at = if largest > 0. { v / largest } else { 0. };
                class.histogram[((at + 1.) / 2. * (BINS - 1) as f32).round() as usize] += 1;
            }
        }
    }

    /// Whether no group of four keeps more than two, which is what formats of 2:4 hold.
    fn look_at_mask(&mut self, layer: &str, len: usize, cols: usize, kept: &dyn Fn(usize) -> bool) -> bool {
        if self.corner.is_none() {
            let rows = (len / cols).min(CORNER.0);
            let row = |r: usize| (0..cols.min(CORNER.1)).map(|c| kept(r * cols + c)).collect();
            self.corner = Some((layer.to_string(), (0..rows).map(row).collect()));
        }
        let mut most = 0;
        for group in (0..len / 4).map(|g| [0, 1, 2, 3].map(|i| kept(4 * g + i))) {
            most = most.max(group.iter().filter(|&&kept| kept).count());
            *self.choices.entry(group).or_default() += 1;
        }
        most <= 2 && cols.is_multiple_of(4)
    }
}

/// What a tensor is, for people.
fn class_of(layer: &str, shape: &[usize]) -> String {
    match (shape.len(), layer.rsplit('.').next()) {
        (0 | 1, _) => "norms, biases".into(),
        (_, Some(last)) => last.to_string(),
        (_, None) => layer.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use trimwick_formats::safetensors::{Dtype, NewTensor, write};

    use super::*;

    /// What is found in a weight `[2, 8]` of ones under a mask and a scheme.
    fn found(bits: &[u8], scheme: Option<&str>) -> Result<Weights> {
        let dir = tempfile::tempdir().unwrap();
        let weight = NewTensor::floats("a.q_proj.weight", Dtype::F32, &[2, 8], &[1.; 16]);
        write(dir.path().join("model.safetensors"), [weight], &BTreeMap::new())?;
        let mask = NewTensor::bytes("a.q_proj.weight_mask", Dtype::U8, &[bits.len()], bits);
        write(dir.path().join(MASKS), [mask], &BTreeMap::new())?;
        let schemes = scheme.map(|scheme| ("a.q_proj".to_string(), scheme.to_string()));
        Weights::read(dir.path(), &schemes.into_iter().collect(), &dir.path().join("none"))
    }

    #[test]
    fn only_two_of_four_is_packed_as_such() {
        for (bits, scheme, expected) in [
            ([0b0101_0011, 0b1100_0110], None, 16. / 2. * 18.),
            ([0b0001_0011, 0b1100_0000], None, 16. / 2. * 18.),
            ([0b0111_0011, 0b1100_0110], None, 16. * 16.),
            // A scale in f32 for each of two rows.
            ([0b0101_0011, 0b1100_0110], Some("int8-weight"), 16. / 2. * 10. + 2. * 32.),
            ([0b1111_0011, 0b1100_0110], Some("int8-weight"), 16. * 8. + 2. * 32.),
        ] {
            let weights = found(&bits, scheme).unwrap();
            let class = &weights.classes["q_proj"];
            assert_eq!((class.dense_bits, class.packed_bits), (256., expected), "{bits:?} {scheme:?}");
        }
    }

    #[test]
    fn a_mask_of_another_weight_is_one_line() {
        let error = found(&[0xff; 3], None).unwrap_err().to_string();
        assert!(
            error.contains(
                "a.q_proj.weight_mask: expected 2 bytes, one bit for each weight, found 3; the run's own"
            ),
            "{error}"
        );
    }
}
