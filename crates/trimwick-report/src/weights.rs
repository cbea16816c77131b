//! What the written weights look like: zeros, masks, the grid, sizes.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::SafetensorsFile;
use trimwick_quant::{Granularity, Scheme};
use trimwick_recipe::{LayerRule, LayerRules};

use crate::Result;

/// Bins of a histogram over [−1, 1]; odd, so that 0 has one.
pub(crate) const BINS: usize = 241;
/// Rows and columns of a mask that are drawn.
pub(crate) const CORNER: (usize, usize) = (32, 128);
/// The name of a mask beside its layer.
const MASK: &str = ".weight_mask";
/// Bits of a value of the dense model: bf16.
const DENSE_BITS: f64 = 16.;

/// The tensors of a written model by class: `q_proj`, …, `embed_tokens`, `norms`.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) classes: BTreeMap<String, Class>,
    /// The mask that is drawn, and the layer that it is of.
    pub(crate) corner: Option<(String, Vec<Vec<bool>>)>,
    /// How often each choice of kept places in a group of four occurs, of masks that keep two of four.
    pub(crate) choices: BTreeMap<[bool; 4], u64>,
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
    /// Reads a run's `model/`, one tensor in memory at a time.
    pub(crate) fn read(folder: &Path, rules: &LayerRules) -> Result<Self> {
        let files = ModelFolder::open(folder)?;
        let beside = folder.join("masks.safetensors");
        let masks = if beside.is_file() { Some(SafetensorsFile::open(&beside)?) } else { None };
        let mut found = Self { classes: BTreeMap::new(), corner: None, choices: BTreeMap::new() };
        for name in files.names() {
            let Some(info) = files.info(name) else { continue };
            let shape = info.shape.clone();
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            let rule = rules.layers.iter().find(|rule| rule.path == layer);
            let mask = match &masks {
                Some(masks) if masks.info(&format!("{layer}{MASK}")).is_ok() => {
                    Some(masks.read_raw(&format!("{layer}{MASK}"))?)
                }
                _ => None,
            };
            let values = files.read_f32(name)?;
            found.add(layer, &shape, &values, mask.as_deref(), rule);
        }
        Ok(found)
    }

    fn add(
        &mut self,
        layer: &str,
        shape: &[usize],
        values: &[f32],
        mask: Option<&[u8]>,
        rule: Option<&LayerRule>,
    ) {
        let kept = |i: usize| mask.is_none_or(|bits| bits[i / 8] >> (i % 8) & 1 == 1);
        let kept_count = (0..values.len()).filter(|&i| kept(i)).count();
        let cols = shape.last().copied().unwrap_or(1).max(1);
        let scheme = rule.and_then(|rule| rule.quant.as_ref()).map(|quant| quant.scheme.clone());
        let spec = scheme.as_deref().and_then(|text| Scheme::from_str(text).ok()?.weight);
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
        class.packed_bits += match mask {
            // Kept values, two bits to say where each is, and all scales.
            Some(_) => n * (bits - code) + kept_count as f64 * (code + 2.),
            None => n * bits,
        };
        if let Some(scheme) = scheme
            && !class.schemes.contains(&scheme)
        {
            class.schemes.push(scheme);
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
        if mask.is_some() {
            self.look_at_mask(layer, values.len(), cols, &kept);
        }
    }

    fn look_at_mask(&mut self, layer: &str, len: usize, cols: usize, kept: &dyn Fn(usize) -> bool) {
        if self.corner.is_none() {
            let rows = (len / cols).min(CORNER.0);
            let row = |r: usize| (0..cols.min(CORNER.1)).map(|c| kept(r * cols + c)).collect();
            self.corner = Some((layer.to_string(), (0..rows).map(row).collect()));
        }
        for group in (0..len / 4).map(|g| [0, 1, 2, 3].map(|i| kept(4 * g + i))) {
            *self.choices.entry(group).or_default() += 1;
        }
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
