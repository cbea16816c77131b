//! Quantizing an arm's model: which layers take which grid, ranges from calibration data, changes on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trimwick_nn::{Layer, Layers, ParamStore, Slot};
use trimwick_quant::{self as quant, Code, Granularity, QuantSchedule, QuantSpec, Rule, Scheme};
use trimwick_train::{BoxError, StepHook, infer};

use super::error::{Result, RunError};
use super::event::{Event, Report};
use super::origin::Built;
use super::snapshot;
use crate::{KvGrid, QuantizeSpec};

/// What the written model is quantized to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// Layers by the scheme that governs them.
    pub schemes: BTreeMap<String, usize>,
    /// Weights of those layers.
    pub weights: usize,
    /// Bits that each of them takes on average, scales counted.
    pub bits_per_weight: f64,
    /// Those in the written file that are not on their grid; 0, or the run fails.
    pub off_grid: usize,
    /// The grid of keys and values.
    pub kv_cache: KvGrid,
}

/// The layers of one scheme.
struct Share {
    scheme: Scheme,
    layers: Layers,
}

/// The schemes of a recipe over a model's layers.
fn shares(store: &ParamStore, spec: &QuantizeSpec) -> Result<Vec<Share>> {
    let all = store.layers();
    let rules = spec.govern();
    let described = all.iter().map(|l| (l.path(), l.kind(), l.weight().shape().dims()));
    let governed = quant::govern(&rules, described)?;
    let of = |index: usize| {
        let governed = all.iter().zip(&governed).filter(|(_, g)| **g == Some(index));
        let paths: BTreeSet<String> = governed.map(|(l, _)| l.path().to_string()).collect();
        all.retain(|l| paths.contains(l.path()))
    };
    let share = |(i, rule): (usize, &Rule)| Some(Share { scheme: rule.scheme?, layers: of(i) });
    Ok(rules.iter().enumerate().filter_map(share).collect())
}

/// Puts fake-quantizers on a model's layers and attention, not calibrated yet. The layers are given back.
pub(crate) fn attach(built: &Built, spec: &QuantizeSpec) -> Result<Layers> {
    let options = spec.options();
    let shares = shares(&built.store, spec)?;
    for Share { scheme, layers } in &shares {
        quant::attach_with(layers, scheme, &options)?;
    }
    if let Some(code) = kv_code(spec.kv_cache) {
        let spec = QuantSpec::new(code, Granularity::Tensor);
        quant::kv::attach_with(&built.store.kv_slots(), &spec, options.input_range)?;
    }
    let paths: BTreeSet<&str> = shares.iter().flat_map(|s| s.layers.iter().map(Layer::path)).collect();
    Ok(built.store.layers().retain(|l| paths.contains(l.path())))
}

/// Finds every scale that has to be known before the first step: those of weights, and of static inputs by running
/// the model on the calibration windows.
pub(crate) fn calibrate(
    built: &Built,
    layers: &Layers,
    windows: &[Tensor],
    stop: &AtomicBool,
    report: Report<'_>,
) -> Result<()> {
    let total = windows.len();
    let forward = || {
        for (done, window) in windows.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(candle_core::Error::Msg("stopped".into()));
            }
            report(Event::Part { done, total, loss: None });
            infer(&built.model, window)?;
        }
        Ok(())
    };
    match quant::calibrate_all(layers, &built.store.kv_slots(), forward) {
        Err(_) if stop.load(Ordering::Relaxed) => Err(RunError::Stopped),
        done => Ok(done?),
    }
}

/// Takes the scales of an earlier calibration from the store.
pub(crate) fn restore(built: &Built, layers: &Layers) -> Result<()> {
    quant::restore(layers)?;
    Ok(quant::kv::restore(&built.store.kv_slots())?)
}

/// One scale for the keys of a layer and one for its values, as cache formats have them.
fn kv_code(grid: KvGrid) -> Option<Code> {
    match grid {
        KvGrid::None => None,
        KvGrid::Fp8 => Some(Code::E4M3),
        KvGrid::Int8 => Some(Code::Int { bits: 8 }),
    }
}

/// Puts quantizers of inputs, keys and values on a model read from a file, whose weights are on their grids already; what
/// they keep is in the file `kept` beside it, where there is anything to keep.
pub(crate) fn wear_inputs(read: &Built, spec: &QuantizeSpec, kept: &Path) -> Result<()> {
    let layers = attach(read, spec)?;
    if kept.exists() {
        snapshot::restore(&read.store, kept, None)?;
        restore(read, &layers)?;
    }
    layers.iter().for_each(|layer| drop(layer.clear(Slot::FakeQuant)));
    Ok(())
}

/// What the layers of a model hold, proved value by value on the weights that they compute with.
pub(crate) fn describe(store: &ParamStore, spec: &QuantizeSpec) -> Result<Quantization> {
    let mut out = Quantization {
        schemes: BTreeMap::new(),
        weights: 0,
        bits_per_weight: 0.,
        off_grid: 0,
        kv_cache: spec.kv_cache,
    };
    let mut bits = 0.;
    for Share { scheme, layers } in shares(store, spec)? {
        let name = scheme.name().map_or_else(|| scheme.to_string(), str::to_string);
        *out.schemes.entry(name).or_default() += layers.len();
        out.off_grid += quant::off_grid(&layers)?;
        for layer in layers.iter().filter(|_| scheme.weight.is_some()) {
            let shape = layer.weight().shape();
            out.weights += shape.elem_count();
            bits += scheme.bits(shape.dims()) * shape.elem_count() as f64;
        }
    }
    out.bits_per_weight = bits / out.weights.max(1) as f64;
    Ok(out)
}

type HookResult = std::result::Result<(), BoxError>;

/// Delayed start, moving scales and the freeze of observers, between the steps of the loop.
pub(crate) struct QuantHook {
    schedule: QuantSchedule,
    /// Steps done.
    step: u64,
}

impl QuantHook {
    pub(crate) fn new(built: &Built, layers: &Layers, spec: &QuantizeSpec) -> Result<Self> {
        let schedule = QuantSchedule::new(layers.clone(), spec.start, spec.freeze)?;
        Ok(Self { schedule: schedule.with_kv(built.store.kv_slots()), step: 0 })
    }
}

impl StepHook for QuantHook {
    fn name(&self) -> &str {
        "quantizers"
    }

    fn before_step(&mut self, step: u64) -> HookResult {
        self.schedule.before_step(step - 1)?;
        Ok(())
    }

    fn after_step(&mut self, step: u64) -> HookResult {
        self.step = step;
        Ok(())
    }

    fn save(&self) -> Option<Value> {
        Some(json!({ "step": self.step }))
    }

    fn restore(&mut self, state: Option<&Value>) -> HookResult {
        let step = state.and_then(|s| s.get("step")).and_then(Value::as_u64);
        self.step = step.ok_or("the checkpoint holds no quantization schedule")?;
        Ok(self.schedule.resume(self.step)?)
    }
}
