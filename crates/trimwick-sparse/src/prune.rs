//! One-shot pruning: of layers, and of a language model block after block.

use candle_core::{DType, Device, Tensor};
use trimwick_kernels as kernels;
use trimwick_nn::{CausalLm, Layer, LayerKind, LayerReport, Layers, Watch, decibels};

use crate::mask;
use crate::method::{Magnitude, Method, Pruned, Weight};
use crate::pattern::Pattern;
use crate::statistics::{Collection, InputStats, Needs};
use crate::{Error, Result};

/// Prunes every layer by a method that looks at weights alone (magnitude) and fixes the masks. Without inputs, the
/// signal-to-noise ratios of the reports are those of the weights.
///
/// # Errors
/// [`Error::NoStatistics`] for a method that needs the layers' inputs (see [`prune_with`]), [`Error::Shape`].
pub fn prune(layers: &Layers, pattern: Pattern, method: &dyn Method) -> Result<Vec<LayerReport>> {
    check(layers, pattern)?;
    layers.iter().map(|layer| prune_layer(layer, pattern, method, None)).collect()
}

/// Prunes every layer by any method, after running `forward` once on calibration data to see the layers' inputs.
///
/// # Errors
/// A layer that sees no data, a shape that the pattern does not divide, whatever `forward` reports.
pub fn prune_with(
    layers: &Layers,
    pattern: Pattern,
    method: &dyn Method,
    forward: impl FnOnce() -> candle_core::Result<()>,
) -> Result<Vec<LayerReport>> {
    if method.needs() == Needs::Nothing {
        return prune(layers, pattern, method);
    }
    check(layers, pattern)?;
    let collection = Collection::start(layers, method.needs(), method.name())?;
    forward()?;
    // Statistics go when the last layer that shares them is done: those of a wide layer are gigabytes.
    let seen = collection.finish(method.name())?;
    seen.into_iter().map(|(layer, stats)| prune_layer(&layer, pattern, method, Some(&stats))).collect()
}

/// On whose outputs the next block's layers are calibrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagate {
    /// On those of the blocks as they were: every statistic is the dense model's.
    Dense,
    /// On those of the blocks as pruned so far: each layer makes up for what the ones before it lost.
    Pruned,
}

/// Prunes the selected layers of a language model, block after block. Only one block's statistics are in memory
/// at a time; beside them the hidden states of the calibration `windows` (ids `[b, t]`, u32).
///
/// `progress` is told each block's index and their number, the head counting as one when it is selected.
///
/// # Errors
/// A layer that sees no data, a shape that the pattern does not divide, tensor operations.
pub fn prune_model(
    model: &dyn CausalLm,
    layers: &Layers,
    pattern: Pattern,
    method: &dyn Method,
    windows: &[Tensor],
    propagate: Propagate,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<LayerReport>> {
    let mut progress = |done: usize, total: usize, _: &[LayerReport]| progress(done, total);
    let watch = Watch { progress: &mut progress, stop: &|| false };
    let reports = prune_model_until(model, layers, pattern, method, windows, propagate, watch)?;
    Ok(reports.unwrap_or_default())
}

/// [`prune_model`] that ends when it is told to, and gives `None` then: some layers are pruned, others are not.
///
/// # Errors
/// As [`prune_model`].
pub fn prune_model_until(
    model: &dyn CausalLm,
    layers: &Layers,
    pattern: Pattern,
    method: &dyn Method,
    windows: &[Tensor],
    propagate: Propagate,
    watch: Watch<'_>,
) -> Result<Option<Vec<LayerReport>>> {
    let Watch { progress, stop } = watch;
    let mut stage = Stage { pattern, method, stop, reports: Vec::new() };
    check(layers, pattern)?;
    if method.needs() == Needs::Nothing {
        for layer in layers {
            if stop() {
                return Ok(None);
            }
            stage.reports.push(prune_layer(layer, pattern, method, None)?);
        }
        progress(1, 1, &stage.reports);
        return Ok(Some(stage.reports));
    }
    let inside = |index: usize| {
        let prefix = format!("{}.", model.block_path(index));
        layers.retain(|l| l.path().starts_with(&prefix))
    };
    let of_head = layers
        .retain(|l| !(0..model.blocks()).any(|i| l.path().starts_with(&format!("{}.", model.block_path(i)))));
    let total = model.blocks() + usize::from(!of_head.is_empty());
    let mut states = windows.iter().map(|ids| Ok(model.embed(ids)?.detach())).collect::<Result<Vec<_>>>()?;
    for index in 0..model.blocks() {
        progress(index, total, &stage.reports);
        match stage.prune(&inside(index), states, propagate, |x| model.block(index, x))? {
            Some(next) => states = next,
            None => return Ok(None),
        }
    }
    if !of_head.is_empty() {
        progress(model.blocks(), total, &stage.reports);
        // The logits of a window are large and nobody reads them: keep none.
        let head = |x: &Tensor| model.head(x).and_then(|y| y.narrow(0, 0, 0));
        if stage.prune(&of_head, states, Propagate::Dense, head)?.is_none() {
            return Ok(None);
        }
    }
    progress(total, total, &stage.reports);
    Ok(Some(stage.reports))
}

/// What the stages of a model have in common.
struct Stage<'a> {
    pattern: Pattern,
    method: &'a dyn Method,
    stop: &'a dyn Fn() -> bool,
    reports: Vec<LayerReport>,
}

impl Stage<'_> {
    /// Prunes one stage of a model and gives the next stage's inputs; `None` when it was told to end.
    fn prune(
        &mut self,
        layers: &Layers,
        states: Vec<Tensor>,
        propagate: Propagate,
        forward: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Option<Vec<Tensor>>> {
        let stop = self.stop;
        let run = |states: &[Tensor]| -> Result<Option<Vec<Tensor>>> {
            let mut out = Vec::with_capacity(states.len());
            for x in states {
                if stop() {
                    return Ok(None);
                }
                out.push(forward(x)?.detach());
            }
            Ok(Some(out))
        };
        if layers.is_empty() {
            return run(&states);
        }
        let name = self.method.name();
        let collection = Collection::start(layers, self.method.needs(), name)?;
        let Some(dense) = run(&states)? else { return Ok(None) };
        for (layer, stats) in collection.finish(name)? {
            if stop() {
                return Ok(None);
            }
            self.reports.push(prune_layer(&layer, self.pattern, self.method, Some(&stats))?);
        }
        match propagate {
            Propagate::Dense => Ok(Some(dense)),
            Propagate::Pruned => {
                drop(dense);
                run(&states)
            }
        }
    }
}

/// Every layer's shape, before the first is touched.
fn check(layers: &Layers, pattern: Pattern) -> Result<()> {
    layers.iter().try_for_each(|l| pattern.check(l.path(), Geometry::of(l).cols))
}

fn prune_layer(
    layer: &Layer,
    pattern: Pattern,
    method: &dyn Method,
    stats: Option<&InputStats>,
) -> Result<LayerReport> {
    let geometry = Geometry::of(layer);
    let dense = geometry.gather(layer)?;
    if let Some(index) = dense.iter().position(|w| !w.is_finite()) {
        return Err(Error::NonFinite { layer: layer.path().into(), what: "weight", index });
    }
    let (path, cols) = (layer.path(), geometry.cols);
    let mut values = dense.clone();
    let weight = Weight { layer: path, values: &mut values, cols };
    let Pruned { bits, damping, retries, dead } = method.prune(weight, pattern, stats)?;
    kernels::apply_mask_inplace(&mut values, &bits);
    let noise = Noise::new(&dense, cols, stats);
    let after = noise.decibels(&values);
    let before = if method.name() == Magnitude.name() {
        after
    } else {
        let mut plain = dense.clone();
        let weight = Weight { layer: path, values: &mut plain, cols };
        let bits = Magnitude.prune(weight, pattern, None)?.bits;
        kernels::apply_mask_inplace(&mut plain, &bits);
        noise.decibels(&plain)
    };
    drop(noise);
    geometry.scatter(layer, values)?;
    mask::fix(layer, &geometry.scatter_bits(&bits))?;
    Ok(LayerReport { damping, retries, dead, ..LayerReport::new(path, method.name(), before, after) })
}

/// What a weight's output is measured against: on the inputs that were kept, or the weight itself without any.
enum Noise<'a> {
    Output { x: &'a [f32], cols: usize, y: Vec<f32> },
    Weight(&'a [f32]),
}

impl<'a> Noise<'a> {
    fn new(dense: &'a [f32], cols: usize, stats: Option<&'a InputStats>) -> Self {
        match stats {
            Some(stats) if !stats.samples.is_empty() => {
                let x = &stats.samples;
                Self::Output { x, cols, y: output(x, dense, cols) }
            }
            _ => Self::Weight(dense),
        }
    }

    fn decibels(&self, values: &[f32]) -> f64 {
        match self {
            Self::Output { x, cols, y } => decibels(y, &output(x, values, *cols)),
            Self::Weight(dense) => decibels(dense, values),
        }
    }
}

/// `x·wᵀ`.
fn output(x: &[f32], w: &[f32], cols: usize) -> Vec<f32> {
    let (tokens, rows) = (x.len() / cols, w.len() / cols);
    let mut y = vec![0f32; tokens * rows];
    kernels::matmul_nt(x, w, &mut y, tokens, cols, rows, false);
    y
}

/// A weight seen as `[rows, inputs]`: groups of a convolution's `[out, in, kh, kw]` run along its input channels.
pub(crate) struct Geometry {
    dims: Vec<usize>,
    /// Inputs.
    pub(crate) cols: usize,
}

impl Geometry {
    pub(crate) fn of(layer: &Layer) -> Self {
        let dims = layer.weight().shape().dims().to_vec();
        Self { cols: dims.get(1).copied().unwrap_or(1), dims }
    }

    fn kernel(&self) -> usize {
        self.dims.iter().skip(2).product()
    }

    /// The values with inputs last, `[out · kh · kw, in]`.
    pub(crate) fn gather(&self, layer: &Layer) -> Result<Vec<f32>> {
        let tensor = layer.weight().tensor().detach();
        if tensor.dtype() != DType::F32 || layer.kind() == LayerKind::Embedding && self.dims.len() != 2 {
            return Err(Error::DType { layer: layer.path().into(), found: tensor.dtype() });
        }
        let (k, cols) = (self.kernel(), self.cols);
        let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        Ok((0..flat.len()).map(|i| flat[self.source(i, k, cols)]).collect())
    }

    /// Writes values with inputs last back to the layer.
    fn scatter(&self, layer: &Layer, values: Vec<f32>) -> Result<()> {
        let (k, cols) = (self.kernel(), self.cols);
        let mut flat = vec![0f32; values.len()];
        for (i, v) in values.into_iter().enumerate() {
            flat[self.source(i, k, cols)] = v;
        }
        let device = layer.weight().device().clone();
        Ok(layer.weight().set(&Tensor::from_vec(flat, self.dims.clone(), &device)?)?)
    }

    /// A bitset over values with inputs last, as one over the weight's own order.
    pub(crate) fn scatter_bits(&self, bits: &[u8]) -> Vec<u8> {
        let (k, cols) = (self.kernel(), self.cols);
        if k == 1 {
            return bits.to_vec();
        }
        let mut out = vec![0u8; bits.len()];
        for i in (0..self.dims.iter().product()).filter(|i| bits[i / 8] >> (i % 8) & 1 == 1) {
            let j = self.source(i, k, cols);
            out[j / 8] |= 1 << (j % 8);
        }
        out
    }

    /// Position in `[out, in, k]` of element `i` of `[out, k, in]`.
    fn source(&self, i: usize, k: usize, cols: usize) -> usize {
        let (out, rest) = (i / (k * cols), i % (k * cols));
        out * k * cols + (rest % cols) * k + rest / cols
    }
}
