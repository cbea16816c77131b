//! Quantizing an arm's model: which layers take which grid, ranges from calibration data, changes on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trimwick_nn::{KvSlot, Layer, LayerKind, Layers, LoadedBlock, ParamStore, Slot};
use trimwick_quant::{self as quant, Code, Granularity, QuantSchedule, QuantSpec, Rule, Scheme};
use trimwick_train::{BoxError, StepHook, infer};

use super::error::{Result, RunError};
use super::event::{Event, Report};
use super::origin::Built;
use super::snapshot::{self, Expected};
use crate::{KvGrid, QuantizeSpec};

/// What the written model is quantized to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// Layers by the scheme that governs them.
    pub schemes: BTreeMap<String, usize>,
    /// Weights of those layers.
    pub weights: usize,
    /// Bits that each of them takes on average, scales and branches counted.
    pub bits_per_weight: f64,
    /// Those that the model computes with and that are not on their grid; 0, or the run fails. The written file holds just
    /// them, but where a pass has left a branch: there the sum of both.
    pub off_grid: usize,
    /// The grid of keys and values.
    pub kv_cache: KvGrid,
    /// Of each layer whose weight was not on its grid already: how near the weight of training was to its place there.
    #[serde(default)]
    pub layers: Vec<OnGrid>,
}

/// A layer's weight on its grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnGrid {
    /// The layer's path.
    pub layer: String,
    /// Signal to noise: ten times the logarithm (base 10) of Σ w² / Σ (w − q)², over the weight w as it was trained and its place q.
    pub decibels: f64,
}

/// The layers of one scheme.
struct Share {
    scheme: Scheme,
    layers: Layers,
}

/// The schemes of a recipe, and the paths that each governs.
pub(crate) struct Schemes(Vec<(Scheme, BTreeSet<String>)>);

impl Schemes {
    /// Those over layers that are described by path, kind and shape of the weight.
    ///
    /// # Errors
    /// A rule that governs none of them, a layer that cannot take its scheme.
    pub(crate) fn over<'a>(
        layers: impl Iterator<Item = (&'a str, LayerKind, &'a [usize])>,
        spec: &QuantizeSpec,
    ) -> Result<Self> {
        let (rules, described) = (spec.govern(), layers.collect::<Vec<_>>());
        let governed = quant::govern(&rules, described.iter().copied())?;
        let of = |index: usize| {
            let governed = described.iter().zip(&governed).filter(move |(_, g)| **g == Some(index));
            governed.map(|((path, ..), _)| path.to_string()).collect()
        };
        let share = |(i, rule): (usize, &Rule)| Some((rule.scheme?, of(i)));
        Ok(Self(rules.iter().enumerate().filter_map(share).collect()))
    }

    /// Those over all layers of a store.
    fn of(store: &ParamStore, spec: &QuantizeSpec) -> Result<Self> {
        let all = store.layers();
        Self::over(all.iter().map(|l| (l.path(), l.kind(), l.weight().shape().dims())), spec)
    }

    /// The layers whose schemes a budget chooses.
    pub(crate) fn budgeted(store: &ParamStore, spec: &QuantizeSpec) -> Result<Layers> {
        let (all, rules) = (store.layers(), spec.govern());
        let based = rules.len() - spec.rules.len();
        let described = all.iter().map(|l| (l.path(), l.kind(), l.weight().shape().dims()));
        let governed = quant::govern(&rules, described)?;
        let under = all.iter().zip(governed).filter(|(_, rule)| rule.is_some_and(|rule| rule < based));
        Ok(under.map(|(layer, _)| layer.clone()).collect())
    }

    /// What each scheme has of some layers.
    fn shares(&self, layers: &Layers) -> impl Iterator<Item = Share> {
        let share = |(scheme, paths): &(Scheme, BTreeSet<String>)| {
            let layers = layers.retain(|l| paths.contains(l.path()));
            (!layers.is_empty()).then_some(Share { scheme: *scheme, layers })
        };
        self.0.iter().filter_map(share)
    }

    /// Puts fake-quantizers on layers and attention, not calibrated yet. The layers that have one are given back.
    pub(crate) fn attach(&self, layers: &Layers, slots: &[KvSlot], spec: &QuantizeSpec) -> Result<Layers> {
        let options = spec.options();
        let mut paths = BTreeSet::new();
        for Share { scheme, layers } in self.shares(layers) {
            quant::attach_with(&layers, &scheme, &options)?;
            paths.extend(layers.iter().map(|l| l.path().to_string()));
        }
        if let Some(code) = kv_code(spec.kv_cache) {
            let spec = QuantSpec::new(code, Granularity::Tensor);
            quant::kv::attach_with(slots, &spec, options.input_range)?;
        }
        Ok(layers.retain(|l| paths.contains(l.path())))
    }
}

/// Puts fake-quantizers on a model's layers and attention, not calibrated yet. The layers are given back.
pub(crate) fn attach(built: &Built, spec: &QuantizeSpec) -> Result<Layers> {
    let schemes = Schemes::of(&built.store, spec)?;
    schemes.attach(&built.store.layers(), &built.store.kv_slots(), spec)
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
        snapshot::restore(&read.store, kept, Expected::Quantizers)?;
        restore(read, &layers)?;
        // The file's weights hold what stands beside them.
        layers.iter().try_for_each(quant::take_apart)?;
    }
    layers.iter().for_each(|layer| drop(layer.clear(Slot::FakeQuant)));
    Ok(())
}

/// [`wear_inputs`] for one block of a model.
pub(crate) fn wear_block(
    read: &LoadedBlock,
    spec: &QuantizeSpec,
    schemes: &Schemes,
    kept: &Path,
) -> Result<()> {
    let slots = read.kv_slots();
    let layers = schemes.attach(&read.layers(), &slots, spec)?;
    if kept.exists() {
        snapshot::restore_part(&read.store, kept, |name| read.holds(name))?;
        quant::restore(&layers)?;
        quant::kv::restore(&slots)?;
        layers.iter().try_for_each(quant::take_apart)?;
    }
    layers.iter().for_each(|layer| drop(layer.clear(Slot::FakeQuant)));
    Ok(())
}

/// What the layers of a model hold, proved value by value on the weights that they compute with.
pub(crate) fn describe(store: &ParamStore, spec: &QuantizeSpec) -> Result<Quantization> {
    let mut tally = Tally::new(spec);
    tally.add(&store.layers(), &Schemes::of(store, spec)?)?;
    Ok(tally.finish())
}

/// `None` where the weight is on its grid already, as one-shot passes leave it, or is zero.
fn on_grid(layer: &Layer) -> Result<Option<OnGrid>> {
    let values = |w: &Tensor| w.flatten_all()?.to_vec1::<f32>();
    let (w, q) = (values(&layer.weight_before(Slot::FakeQuant)?)?, values(&layer.effective_weight()?)?);
    let square = |x: f32| f64::from(x) * f64::from(x);
    let signal: f64 = w.iter().map(|w| square(*w)).sum();
    let noise: f64 = w.iter().zip(&q).map(|(w, q)| square(w - q)).sum();
    let decibels = 10. * (signal / noise).log10();
    Ok(decibels.is_finite().then(|| OnGrid { layer: layer.path().into(), decibels }))
}

/// A [`Quantization`] that is put together from parts of a model.
pub(crate) struct Tally {
    out: Quantization,
    bits: f64,
}

impl Tally {
    pub(crate) fn new(spec: &QuantizeSpec) -> Self {
        let out = Quantization {
            schemes: BTreeMap::new(),
            weights: 0,
            bits_per_weight: 0.,
            off_grid: 0,
            kv_cache: spec.kv_cache,
            layers: Vec::new(),
        };
        Self { out, bits: 0. }
    }

    /// Counts, and proves, some layers.
    pub(crate) fn add(&mut self, layers: &Layers, schemes: &Schemes) -> Result<()> {
        for Share { scheme, layers } in schemes.shares(layers) {
            let name = scheme.name().map_or_else(|| scheme.to_string(), str::to_string);
            *self.out.schemes.entry(name).or_default() += layers.len();
            self.out.off_grid += quant::off_grid(&layers)?;
            for layer in layers.iter().filter(|_| scheme.weight.is_some()) {
                let shape = layer.weight().shape();
                self.out.weights += shape.elem_count();
                self.bits += scheme.bits(shape.dims()) * shape.elem_count() as f64;
                self.bits += quant::branch_bits(layer) as f64;
                self.out.layers.extend(on_grid(layer)?);
            }
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Quantization {
        self.out.bits_per_weight = self.bits / self.out.weights.max(1) as f64;
        self.out
    }
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
