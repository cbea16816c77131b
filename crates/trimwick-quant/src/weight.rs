//! The fake-quantizer of a weight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use candle_core::{Device, Result as CandleResult, Tensor};
use trimwick_kernels::quant as kernels;
use trimwick_nn::ops::{self, Scales};
use trimwick_nn::{Layer, Param, Place, Reparam, Role, Slot};

use crate::options::{Options, Range, ScalePolicy};
use crate::range;
use crate::saved::{self, host};
use crate::spec::{Granularity, QuantSpec, row_of};
use crate::{Error, Result};

const SCALE: &str = "weight_scale";
const ZERO_POINT: &str = "weight_zero_point";
const GLOBAL: &str = "weight_global_scale";
const SHARED: &str = "weight_shared_global_scale";
const RANGE: &str = "weight_range";
const LOG2: &str = "weight_log2_scale";
const PINNED: &str = "weight_scale_pinned";
/// Every suffix above.
pub(crate) const SUFFIXES: [&str; 7] = [SCALE, ZERO_POINT, GLOBAL, SHARED, RANGE, LOG2, PINNED];

const WHAT: &str = "weight";

/// A weight on its grid, in the [`Slot::FakeQuant`] of a layer's chain: `FQ(M ⊙ (W + BA))`.
pub struct WeightQuant {
    place: Place,
    spec: QuantSpec,
    policy: ScalePolicy,
    range: Range,
    shape: Vec<usize>,
    block: usize,
    enabled: AtomicBool,
    /// Off while inputs are observed.
    paused: AtomicBool,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Of the frozen and ema policies.
    scales: Option<Arc<Scales>>,
    /// Of the learned policy.
    learned: Option<Param>,
    /// The scale of the tensor, of every policy but the dynamic one.
    global: Option<f32>,
    /// The one that fused layers share, which stays whatever the weight does.
    shared: Option<f32>,
    /// Whether the scales were chosen together with the weight (GPTQ, a clip search), and calibration keeps them.
    pinned: bool,
}

impl State {
    /// The scale of the tensor, unless it follows the values.
    fn global(&self) -> Option<f32> {
        self.shared.or(self.global)
    }
}

impl WeightQuant {
    /// The codes and scales.
    pub fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    /// How the scales move.
    pub fn policy(&self) -> ScalePolicy {
        self.policy
    }

    /// Values that share a scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Whether the layer computes with the grid.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Puts a quantizer into a layer, with scales of the weight as it is.
    pub(crate) fn attach(layer: &Layer, spec: QuantSpec, options: &Options) -> Result<()> {
        let shape = layer.weight().shape().dims().to_vec();
        let len = layer.weight().elem_count();
        let quantizer = Self {
            place: layer.place().clone(),
            spec,
            policy: options.scales,
            range: options.range,
            block: spec.block(len, row_of(&shape)).max(1),
            shape,
            enabled: AtomicBool::new(true),
            paused: AtomicBool::new(false),
            state: RwLock::default(),
        };
        quantizer.calibrate(&layer.weight_before(Slot::FakeQuant)?)?;
        layer.set(Slot::FakeQuant, Arc::new(quantizer));
        Ok(())
    }

    /// Takes the saved scales away with the quantizer.
    pub(crate) fn discard(&self) {
        SUFFIXES.iter().for_each(|suffix| self.place.remove_buffer(suffix));
        self.place.remove_param(LOG2);
    }

    /// Finds the scales of `w`, the weight as it enters the quantizer. Dynamic ones need no finding, but broken values
    /// are an error here as they would be in the forward pass.
    pub(crate) fn calibrate(&self, w: &Tensor) -> Result<()> {
        let values = host(w)?;
        if self.policy == ScalePolicy::Dynamic || self.pinned() {
            return self.scales_of(&values).map(drop);
        }
        let stands = matches!(self.policy, ScalePolicy::Frozen | ScalePolicy::Learned);
        if stands && !values.is_empty() && values.iter().all(|&v| v == 0.) {
            // The scale would be 1, where no step of training is ever rounded away from zero.
            return Err(Error::Layer {
                layer: self.place.path().into(),
                spec: self.spec.to_string(),
                problem: "all weights are zero, so that a frozen or learned scale has nothing to start from; \
                          take dynamic or ema scales, or leave the layer out",
            });
        }
        let mut state = self.write();
        let (scales, global) = self.find(&values, state.shared)?;
        self.keep(&mut state, scales, global)?;
        if matches!(self.policy, ScalePolicy::Ema(_)) {
            let (min, max) = self.ranges(&values)?;
            self.save_ranges(&min, &max)?;
        }
        Ok(())
    }

    /// Whether the scales were chosen together with the weight, by GPTQ or a clip search: calibration keeps them.
    pub fn pinned(&self) -> bool {
        self.read().pinned
    }

    /// Whether scales can be chosen for it: not those that follow the weight.
    pub(crate) fn can_pin(&self) -> bool {
        matches!(self.policy, ScalePolicy::Frozen | ScalePolicy::Learned)
    }

    /// Takes effective scales that were chosen together with the weight. `global` is the scale behind e4m3 scales.
    pub(crate) fn pin(&self, scales: Scales, global: f32) -> Result<()> {
        let mut state = self.write();
        self.keep(&mut state, scales, global)?;
        self.place.set_buffer(PINNED, &Tensor::new(&[1f32], &Device::Cpu)?)?;
        state.pinned = true;
        Ok(())
    }

    /// The scales that calibration would find for `values`, and the scale of the tensor.
    pub(crate) fn found_for(&self, values: &[f32]) -> Result<(Scales, f32)> {
        let shared = self.read().shared;
        self.find(values, shared)
    }

    /// What `values` would be, with the scales that calibration would find for them.
    pub(crate) fn trial(&self, values: &[f32]) -> Result<Vec<f32>> {
        let (scales, _) = self.found_for(values)?;
        let mut y = vec![0f32; values.len()];
        let zeros = scales.zeros.as_deref();
        kernels::fake_quant(self.spec.grid(), values, self.block, &scales.scales, zeros, &mut y);
        Ok(y)
    }

    /// The range that scales are found for.
    pub(crate) fn range(&self) -> Range {
        self.range
    }

    fn keep(&self, state: &mut State, scales: Scales, global: f32) -> Result<()> {
        self.save_global(state, global)?;
        match self.policy {
            ScalePolicy::Learned => {
                let log2: Vec<f32> = scales.scales.iter().map(|s| s.log2()).collect();
                let log2 = Tensor::from_vec(log2, scales.scales.len(), &Device::Cpu)?;
                state.learned = Some(match self.place.buffer(LOG2) {
                    Some(param) => {
                        param.set(&log2.to_device(param.device())?)?;
                        param
                    }
                    None => self.place.add_param(LOG2, &log2)?,
                });
            }
            _ => self.save_scales(state, scales)?,
        }
        Ok(())
    }

    /// Moves the averages of an ema policy one step; does nothing under any other.
    pub(crate) fn refresh(&self, w: &Tensor) -> Result<()> {
        let ScalePolicy::Ema(decay) = self.policy else { return Ok(()) };
        let (min, max) = self.ranges(&host(w)?)?;
        let blocks = min.len();
        let saved = saved::floats(&self.place, RANGE, 2 * blocks)?
            .ok_or_else(|| Error::Uncalibrated { layer: self.place.path().into(), what: WHAT })?;
        let average =
            |old: &f32, new: &f32| (decay * f64::from(*old) + (1. - decay) * f64::from(*new)) as f32;
        let min: Vec<f32> = saved[..blocks].iter().zip(&min).map(|(o, n)| average(o, n)).collect();
        let max: Vec<f32> = saved[blocks..].iter().zip(&max).map(|(o, n)| average(o, n)).collect();
        self.save_ranges(&min, &max)?;
        let grid = self.spec.grid();
        let amax = |(min, max): (&f32, &f32)| min.abs().max(max.abs());
        let mut state = self.write();
        let scales = match self.spec.asymmetric() {
            true => {
                let (scales, zeros) = min.iter().zip(&max).map(|(min, max)| grid.affine(*min, *max)).unzip();
                Scales { scales, zeros: Some(zeros) }
            }
            false => {
                let largest = min.iter().zip(&max).map(amax).fold(0f32, f32::max);
                let global = state.shared.unwrap_or_else(|| grid.global(largest));
                self.save_global(&mut state, global)?;
                let scales = min.iter().zip(&max).map(|pair| grid.scale(amax(pair), global)).collect();
                Scales { scales, zeros: None }
            }
        };
        self.save_scales(&mut state, scales)
    }

    /// Takes the scales from the buffers and parameters of the store, after those were loaded.
    pub(crate) fn restore(&self) -> Result<()> {
        let blocks = self.blocks();
        let mut state = State::default();
        let missing = || Error::Uncalibrated { layer: self.place.path().into(), what: WHAT };
        if self.spec.has_global() {
            state.global = saved::floats(&self.place, GLOBAL, 1)?.map(|g| g[0]);
            state.shared = saved::floats(&self.place, SHARED, 1)?.map(|g| g[0]);
        }
        state.pinned = self.place.buffer(PINNED).is_some();
        match self.policy {
            ScalePolicy::Dynamic => {}
            ScalePolicy::Learned => {
                let param = self.place.buffer(LOG2).ok_or_else(missing)?;
                saved::check(&self.place, LOG2, &param, blocks)?;
                state.learned = Some(param);
            }
            ScalePolicy::Frozen | ScalePolicy::Ema(_) => {
                let scales = saved::floats(&self.place, SCALE, blocks)?.ok_or_else(missing)?;
                let zeros = match self.spec.asymmetric() {
                    true => Some(saved::floats(&self.place, ZERO_POINT, blocks)?.ok_or_else(missing)?),
                    false => None,
                };
                state.scales = Some(Arc::new(Scales { scales, zeros }));
            }
        }
        *self.write() = state;
        Ok(())
    }

    /// Switches the quantizer. A learned scale that acts on nothing gets no gradient, so it is frozen while off.
    pub(crate) fn set_enabled(&self, on: bool) {
        self.enabled.store(on, Ordering::Relaxed);
        self.train_scales(on);
    }

    pub(crate) fn train_scales(&self, on: bool) {
        if let Some(param) = &self.read().learned {
            param.set_role(if on { Role::Trainable } else { Role::Frozen });
        }
    }

    pub(crate) fn pause(&self, on: bool) {
        self.paused.store(on, Ordering::Relaxed);
    }

    /// Fixes the scale of the tensor, which fused layers share, and finds the others anew.
    pub(crate) fn share(&self, global: f32, w: &Tensor) -> Result<()> {
        if self.pinned() {
            let problem =
                "its scales were chosen together with its weight; share the scale of the tensor before that";
            return Err(self.spec.misfit(self.place.path(), problem));
        }
        self.place.set_buffer(SHARED, &Tensor::new(&[global], &Device::Cpu)?)?;
        self.write().shared = Some(global);
        self.calibrate(w)
    }

    /// The scales that `values` are quantized with now, and the scale of the tensor behind them.
    pub(crate) fn scales_of(&self, values: &[f32]) -> Result<(Arc<Scales>, f32)> {
        let state = self.read();
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            let (layer, found) = (self.place.path().into(), values[index]);
            return Err(Error::NonFinite { layer, what: WHAT, found, index });
        }
        match (&state.scales, &state.learned) {
            (Some(scales), _) => Ok((scales.clone(), state.global().unwrap_or(1.))),
            (None, Some(param)) => {
                let global = state.global().unwrap_or(1.);
                let scales = ops::learned_scales(&host(&param.tensor())?, self.spec.grid(), global)?;
                Ok((Arc::new(Scales { scales, zeros: None }), global))
            }
            (None, None) => {
                let (scales, global) = self.find(values, state.shared)?;
                Ok((Arc::new(scales), global))
            }
        }
    }

    fn find(&self, values: &[f32], global: Option<f32>) -> Result<(Scales, f32)> {
        range::scales(self.place.path(), WHAT, &self.spec, self.block, values, self.range, global)
    }

    /// Least and largest value of each block.
    fn ranges(&self, values: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut min, mut max) = (vec![0f32; self.blocks()], vec![0f32; self.blocks()]);
        kernels::block_range(values, self.block, &mut min, &mut max)
            .map_err(|e| Error::named(candle_core::Error::wrap(e), self.place.path(), WHAT, values))?;
        Ok((min, max))
    }

    fn blocks(&self) -> usize {
        self.shape.iter().product::<usize>() / self.block
    }

    /// The shape of the scales: one dimension for each that they vary along.
    fn scale_shape(&self) -> Vec<usize> {
        let out = self.shape.first().copied().unwrap_or(1);
        match self.spec.granularity {
            Granularity::Tensor => vec![1],
            Granularity::Channel | Granularity::Token => vec![out],
            Granularity::Group(_) => vec![out, self.blocks() / out.max(1)],
        }
    }

    fn save_scales(&self, state: &mut State, scales: Scales) -> Result<()> {
        let tensor = |v: &[f32]| Tensor::from_slice(v, self.scale_shape(), &Device::Cpu);
        self.place.set_buffer(SCALE, &tensor(&scales.scales)?)?;
        if let Some(zeros) = &scales.zeros {
            self.place.set_buffer(ZERO_POINT, &tensor(zeros)?)?;
        }
        state.scales = Some(Arc::new(scales));
        Ok(())
    }

    fn save_global(&self, state: &mut State, global: f32) -> Result<()> {
        if self.spec.has_global() {
            self.place.set_buffer(GLOBAL, &Tensor::new(&[global], &Device::Cpu)?)?;
            state.global = Some(global);
        }
        Ok(())
    }

    fn save_ranges(&self, min: &[f32], max: &[f32]) -> Result<()> {
        let both = [min, max].concat();
        self.place.set_buffer(RANGE, &Tensor::from_vec(both, (2, min.len()), &Device::Cpu)?)?;
        Ok(())
    }

    fn forward(&self, w: &Tensor) -> CandleResult<Tensor> {
        let (grid, state) = (self.spec.grid(), self.read());
        let global = state.global();
        match (&state.scales, &state.learned) {
            (Some(scales), _) => ops::fake_quant(w, grid, self.block, scales),
            (None, Some(param)) => {
                ops::fake_quant_learned(w, &param.tensor(), grid, self.block, global.unwrap_or(1.))
            }
            (None, None) => ops::fake_quant_dynamic(w, grid, self.block, global),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reparam for WeightQuant {
    fn apply(&self, base: &Tensor) -> CandleResult<Tensor> {
        if !self.enabled() || self.paused.load(Ordering::Relaxed) {
            return Ok(base.clone());
        }
        self.forward(base).map_err(|e| match host(base) {
            Ok(values) => Error::named(e, self.place.path(), WHAT, &values).into(),
            Err(_) => e,
        })
    }

    fn name(&self) -> &'static str {
        "fake-quant"
    }
}
