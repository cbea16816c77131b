//! What quantizing a layer costs the loss.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, DType, Result as CandleResult, Tensor, Var};
use trimwick_nn::{Branch, Feed, Layer, Layers};

use super::{Cost, Group, Sensitivities};
use crate::attach::{attach, detach, input_quantizer, weight_quantizer};
use crate::input;
use crate::observer::Extremes;
use crate::options::Range;
use crate::pass::plain;
use crate::range;
use crate::saved::host;
use crate::scheme::{InputSpec, Scheme};
use crate::seen::linear;
use crate::spec::row_of;
use crate::{Error, Result};

const NAME: &str = "mixed precision";

/// The layers by what they share: the members of each feed together, all others on their own, in the order of the layers.
pub fn groups(layers: &Layers, feeds: &[Feed]) -> Vec<Layers> {
    let feed_of = |layer: &Layer| feeds.iter().position(|f| f.layers.get(layer.path()).is_some());
    let mut out: Vec<(Option<usize>, Vec<Layer>)> = Vec::new();
    for layer in layers {
        let feed = feed_of(layer);
        match out.iter_mut().find(|(f, _)| f.is_some() && *f == feed) {
            Some((_, members)) => members.push(layer.clone()),
            None => out.push((feed, vec![layer.clone()])),
        }
    }
    out.into_iter().map(|(_, members)| members.into_iter().collect()).collect()
}

/// Scores from gradients: Σ (dL/dY)²·(Y_q − Y)² over the outputs Y of the group's layers, each quantized alone. `losses`
/// gives the loss of one calibration window after the other, computed when it is asked for.
///
/// The layers must not be quantized. A static input of a candidate covers the window that is looked at.
///
/// # Errors
/// A layer that is quantized or has a branch already, that cannot take a candidate, or that saw no data; NaN in a loss or
/// a gradient.
pub fn by_gradient(
    groups: &[Layers],
    candidates: &[Scheme],
    losses: impl IntoIterator<Item = CandleResult<Tensor>>,
) -> Result<Sensitivities> {
    check(groups, candidates)?;
    let layers: Vec<&Layer> = groups.iter().flatten().collect();
    let probes: Vec<Probing> = layers.iter().map(|l| Probing::new(l)).collect();
    let weights = layers
        .iter()
        .map(|layer| {
            let w = host(&layer.effective_weight()?)?;
            let of = |scheme: &Scheme| quantized_weight(layer, scheme, &w);
            let quantized = candidates.iter().map(of).collect::<Result<Vec<_>>>()?;
            Ok((w, quantized))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut scores = vec![vec![0f64; candidates.len()]; layers.len()];
    for loss in losses {
        let gradients = loss?.backward()?;
        for ((layer, probing), ((w, quantized), scores)) in
            layers.iter().zip(&probes).zip(weights.iter().zip(&mut scores))
        {
            for (x, output) in probing.take() {
                let Some(g) = gradients.get(output.as_tensor()) else {
                    return Err(Error::NoStatistics { layer: layer.path().into(), what: "gradient" });
                };
                let (x, g) = (host(&x)?, host(g)?);
                finite(layer, "gradient", &g)?;
                let cols = row_of(layer.weight().shape().dims());
                let y = product(&x, w, cols);
                for ((scheme, q), score) in candidates.iter().zip(quantized).zip(scores.iter_mut()) {
                    let x = quantized_input(layer, scheme, &x, cols)?;
                    let found = product(&x, q, cols);
                    let term = |(g, (y, f)): (&f32, (&f32, &f32))| (f64::from(*g) * f64::from(f - y)).powi(2);
                    *score += g.iter().zip(y.iter().zip(&found)).map(term).sum::<f64>();
                }
            }
        }
    }
    if let Some((layer, _)) = layers.iter().zip(&probes).find(|(_, p)| !p.fed()) {
        return Err(Error::NoStatistics { layer: layer.path().into(), what: "input" });
    }
    let mut scores = scores.into_iter();
    let of_group = |group: &Layers| {
        let mut sums = vec![0f64; candidates.len()];
        for of_layer in scores.by_ref().take(group.len()) {
            sums.iter_mut().zip(of_layer).for_each(|(sum, s)| *sum += s);
        }
        sums
    };
    let scores: Vec<Vec<f64>> = groups.iter().map(of_group).collect();
    Ok(collect("gradient", groups, candidates, scores))
}

/// Scores from the model's predictions: the Kullback–Leibler divergence, summed over all positions, of the distribution
/// with one group quantized from that without. `logits` gives `[.., vocabulary]` of a calibration window by its number,
/// below `windows`; it is run once for each candidate, group and window.
///
/// The layers must not be quantized. Static inputs of candidates are taken as dynamic ones.
///
/// # Errors
/// A layer that is quantized already or cannot take a candidate, NaN in the logits, whatever `logits` reports.
pub fn by_divergence(
    groups: &[Layers],
    candidates: &[Scheme],
    windows: usize,
    logits: impl Fn(usize) -> CandleResult<Tensor>,
) -> Result<Sensitivities> {
    check(groups, candidates)?;
    let mut scores = vec![vec![0f64; candidates.len()]; groups.len()];
    for window in 0..windows {
        let reference = log_softmax(&logits(window)?)?;
        for (group, scores) in groups.iter().zip(&mut scores) {
            for (scheme, score) in candidates.iter().zip(scores) {
                let input = scheme.input.map(|input| InputSpec { dynamic: true, ..input });
                let _worn = Worn::new(group, &Scheme { input, ..*scheme })?;
                let found = log_softmax(&logits(window)?)?;
                let sum = (reference.exp()? * (&reference - found)?)?.sum_all()?;
                let sum = f64::from(sum.to_dtype(DType::F32)?.to_scalar::<f32>()?);
                if !sum.is_finite() {
                    let layer = group.iter().next().map_or("", |l| l.path()).into();
                    let (what, found) = ("divergence", sum as f32);
                    return Err(Error::NonFinite { layer, what, found, index: window });
                }
                *score += sum.max(0.);
            }
        }
    }
    Ok(collect("divergence", groups, candidates, scores))
}

fn collect(method: &str, groups: &[Layers], candidates: &[Scheme], scores: Vec<Vec<f64>>) -> Sensitivities {
    let of = |(layers, scores): (&Layers, Vec<f64>)| {
        let count = |l: &Layer| l.weight().elem_count();
        let bits = |scheme: &Scheme| {
            layers.iter().map(|l| scheme.bits(l.weight().shape().dims()) * count(l) as f64).sum()
        };
        let costs = candidates.iter().zip(scores).map(|(s, score)| Cost { score, bits: bits(s) });
        Group {
            layers: layers.iter().map(|l| l.path().into()).collect(),
            weights: layers.iter().map(|l| count(l) as u64).sum(),
            costs: costs.collect(),
        }
    };
    let text = |s: &Scheme| s.name().map_or_else(|| s.to_string(), Into::into);
    Sensitivities {
        method: method.into(),
        schemes: candidates.iter().map(text).collect(),
        groups: groups.iter().zip(scores).map(of).collect(),
    }
}

fn check(groups: &[Layers], candidates: &[Scheme]) -> Result<()> {
    if candidates.is_empty() {
        return Err(Error::Option { what: "candidates", expected: "at least one scheme", found: 0. });
    }
    for layer in groups.iter().flatten() {
        linear(layer, NAME)?;
        plain(layer, NAME)?;
        if weight_quantizer(layer).is_some() || input_quantizer(layer).is_some() || layer.branch().is_some() {
            let problem = "it is quantized or has a branch already; detach it, then choose";
            return Err(Error::Layer { layer: layer.path().into(), spec: NAME.into(), problem });
        }
        for scheme in candidates {
            scheme.check(layer.path(), layer.kind(), layer.weight().shape().dims())?;
        }
    }
    Ok(())
}

fn finite(layer: &Layer, what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => {
            let (layer, found) = (layer.path().into(), values[index]);
            Err(Error::NonFinite { layer, what, found, index })
        }
        None => Ok(()),
    }
}

fn quantized_weight(layer: &Layer, scheme: &Scheme, w: &[f32]) -> Result<Vec<f32>> {
    let Some(spec) = scheme.weight else { return Ok(w.to_vec()) };
    let block = spec.block(w.len(), row_of(layer.weight().shape().dims())).max(1);
    let (scales, _) = range::scales(layer.path(), "weight", &spec, block, w, Range::Max, None)?;
    let mut y = vec![0f32; w.len()];
    let zeros = scales.zeros.as_deref();
    trimwick_kernels::quant::fake_quant(spec.grid(), w, block, &scales.scales, zeros, &mut y);
    Ok(y)
}

fn quantized_input(layer: &Layer, scheme: &Scheme, x: &[f32], row: usize) -> Result<Vec<f32>> {
    let Some(spec) = scheme.input else { return Ok(x.to_vec()) };
    let range = Extremes::of(layer.path(), "input", x)?.unwrap_or(Extremes { least: 0., largest: 0. });
    input::trial(layer.path(), "input", &spec, x, row, range)
}

fn product(x: &[f32], w: &[f32], cols: usize) -> Vec<f32> {
    let (tokens, rows) = (x.len() / cols, w.len() / cols);
    let mut y = vec![0f32; tokens * rows];
    trimwick_kernels::matmul_nt(x, w, &mut y, tokens, cols, rows, false);
    y
}

fn log_softmax(logits: &Tensor) -> CandleResult<Tensor> {
    let logits = logits.detach().to_dtype(DType::F32)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// A branch that adds zeros: their gradient is that of the layer's output.
struct Probe {
    outputs: usize,
    seen: Mutex<Vec<(Tensor, Var)>>,
}

impl Branch for Probe {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.outputs;
        }
        let zeros = Var::zeros(dims, x.dtype(), x.device())?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((x.detach(), zeros.clone()));
        Ok(zeros.as_tensor().clone())
    }

    fn name(&self) -> &'static str {
        "probe"
    }
}

/// A probe on a layer, gone with the value.
struct Probing {
    layer: Layer,
    probe: Arc<Probe>,
    fed: Mutex<bool>,
}

impl Probing {
    fn new(layer: &Layer) -> Self {
        let outputs = layer.weight().shape().dims()[0];
        let probe = Arc::new(Probe { outputs, seen: Mutex::default() });
        layer.set_branch(Some(probe.clone()));
        Self { layer: layer.clone(), probe, fed: Mutex::new(false) }
    }

    /// Inputs and outputs since the last call.
    fn take(&self) -> Vec<(Tensor, Var)> {
        let seen = std::mem::take(&mut *self.probe.seen.lock().unwrap_or_else(PoisonError::into_inner));
        *self.fed.lock().unwrap_or_else(PoisonError::into_inner) |= !seen.is_empty();
        seen
    }

    fn fed(&self) -> bool {
        *self.fed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        let ours = |branch: Arc<dyn Branch>| {
            let any: &dyn Any = branch.as_ref();
            any.is::<Probe>()
        };
        if self.layer.branch().is_some_and(ours) {
            self.layer.set_branch(None);
        }
    }
}

/// A scheme on layers, gone with the value.
struct Worn(Layers);

impl Worn {
    fn new(layers: &Layers, scheme: &Scheme) -> Result<Self> {
        attach(layers, scheme)?;
        Ok(Self(layers.clone()))
    }
}

impl Drop for Worn {
    fn drop(&mut self) {
        detach(&self.0);
    }
}
