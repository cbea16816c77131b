//! The fake-quantizer of activations: a layer's input, or the keys or values of an attention layer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result as CandleResult, Tensor};
use trimwick_kernels::quant as kernels;
use trimwick_nn::ops::{self, Scales};
use trimwick_nn::{Clock, Param, Place, Reparam, Role};

use crate::observer::{Extremes, Observer};
use crate::options::{Range, ScalePolicy};
use crate::saved::{self, Names, host};
use crate::scheme::InputSpec;
use crate::spec::{Granularity, QuantSpec};
use crate::{Error, Result};

/// What the rows of activations are: the runs that a scale per token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// The last dimension.
    Last,
    /// All dimensions but the first: an image of a convolution's input.
    Images,
}

/// Activations on their grid.
pub struct InputQuant {
    place: Place,
    names: &'static Names,
    spec: QuantSpec,
    dynamic: bool,
    policy: ScalePolicy,
    range: Range,
    rows: Rows,
    clock: Option<Clock>,
    enabled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Set while the model runs on calibration data.
    observer: Option<Observer>,
    /// Of a static quantizer whose scales are not learned.
    scales: Option<Arc<Scales>>,
    learned: Option<Param>,
    /// Whether the learned scale, which exists from the start, was ever calibrated.
    calibrated: bool,
    global: Option<f32>,
    /// What the training passes of the step under way brought (ema).
    seen: Option<Extremes>,
    frozen: bool,
}

impl InputQuant {
    /// The codes and scales.
    pub fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    /// Whether every scale is found anew in each forward pass.
    pub fn dynamic(&self) -> bool {
        self.dynamic
    }

    /// How a static scale moves.
    pub fn policy(&self) -> ScalePolicy {
        self.policy
    }

    /// Whether the layer computes with the grid.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// The static scale in use: of the tensor, or the one behind the e4m3 scales of groups. `None` when scales are
    /// dynamic, or not calibrated yet.
    ///
    /// # Errors
    /// Tensor operations.
    pub fn scale(&self) -> Result<Option<f32>> {
        let state = self.lock();
        Ok(match (&state.scales, &state.learned, state.global) {
            (Some(scales), ..) => scales.scales.first().copied(),
            (None, Some(param), _) if state.calibrated => {
                ops::learned_scales(&host(&param.tensor())?, self.spec.grid(), 1.)?.first().copied()
            }
            (None, _, global) => global,
        })
    }

    pub(crate) fn new(
        place: &Place,
        names: &'static Names,
        input: InputSpec,
        policy: ScalePolicy,
        range: Range,
        rows: Rows,
    ) -> Result<Self> {
        let mut state = State::default();
        let learned = !input.dynamic && policy == ScalePolicy::Learned;
        if learned {
            // It has to exist before an optimizer is built; calibration gives it its value.
            state.learned =
                Some(place.add_param(names.log2, &Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?)?);
        }
        Ok(Self {
            place: place.clone(),
            names,
            spec: input.spec,
            dynamic: input.dynamic,
            policy: if input.dynamic { ScalePolicy::Dynamic } else { policy },
            range: if input.dynamic { Range::Max } else { range },
            rows,
            clock: place.clock(),
            enabled: AtomicBool::new(true),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn discard(&self) {
        let n = self.names;
        [n.scale, n.zero_point, n.global, n.range, n.seen, n.histogram]
            .iter()
            .for_each(|suffix| self.place.remove_buffer(suffix));
        self.place.remove_param(n.log2);
    }

    /// What rows of `row` values would be with a static scale that covers `range`, or with dynamic ones.
    pub(crate) fn trial(&self, x: &[f32], row: usize, range: Extremes) -> Result<Vec<f32>> {
        let input = InputSpec { spec: self.spec, dynamic: self.dynamic };
        trial(self.place.path(), self.names.what, &input, x, row, range)
    }

    /// Lets what passes by be observed, not quantized, until [`InputQuant::finish`] or [`InputQuant::stop`].
    pub(crate) fn observe(&self) -> Result<()> {
        if let Some(clock) = &self.clock {
            clock.set_calibrating(true);
        }
        self.lock().observer = Some(Observer::load(&self.place, self.names, self.range)?);
        Ok(())
    }

    pub(crate) fn stop(&self) {
        if let Some(clock) = &self.clock {
            clock.set_calibrating(false);
        }
        self.lock().observer = None;
    }

    /// Saves what was observed and takes the scale from it.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        let Some(observer) = state.observer.take() else { return Ok(()) };
        let range = observer.range(&self.spec, self.range);
        let (true, Some(range)) = (observer.fed, range) else {
            return Err(Error::NoStatistics { layer: self.place.path().into(), what: self.names.what });
        };
        observer.save(&self.place, self.names)?;
        self.set_range(&mut state, range)
    }

    /// Moves the average of an ema policy by what was seen since the last time; does nothing under any other.
    pub(crate) fn refresh(&self) -> Result<()> {
        let mut state = self.lock();
        let (ScalePolicy::Ema(decay), Some(seen)) = (self.policy, state.seen.take()) else { return Ok(()) };
        self.place.remove_buffer(self.names.seen);
        let old = Extremes::load(&self.place, self.names.range)?.ok_or_else(|| self.uncalibrated())?;
        let new = old.toward(seen, decay);
        new.save(&self.place, self.names.range)?;
        self.set_range(&mut state, new)
    }

    /// Takes the scale from the buffers and parameters of the store, after those were loaded.
    pub(crate) fn restore(&self) -> Result<()> {
        let mut state = self.lock();
        let n = self.names;
        *state = State { frozen: state.frozen, ..State::default() };
        state.seen = Extremes::load(&self.place, n.seen)?;
        state.calibrated = self.place.buffer(n.range).is_some();
        if self.dynamic {
            return Ok(());
        }
        if self.spec.has_global() {
            state.global = saved::floats(&self.place, n.global, 1)?.map(|g| g[0]);
        } else if self.policy == ScalePolicy::Learned {
            let param = self.place.buffer(n.log2).ok_or_else(|| self.uncalibrated())?;
            saved::check(&self.place, n.log2, &param, 1)?;
            state.learned = Some(param);
        } else if let Some(scales) = saved::floats(&self.place, n.scale, 1)? {
            let zeros = match self.spec.asymmetric() {
                true => {
                    Some(saved::floats(&self.place, n.zero_point, 1)?.ok_or_else(|| self.uncalibrated())?)
                }
                false => None,
            };
            state.scales = Some(Arc::new(Scales { scales, zeros }));
        }
        Ok(())
    }

    /// Whether there is a scale that calibration data have to give.
    pub(crate) fn wants_data(&self) -> bool {
        !self.dynamic
    }

    /// Switches the quantizer. A learned scale that acts on nothing gets no gradient, so it is frozen while off.
    pub(crate) fn set_enabled(&self, on: bool) {
        self.enabled.store(on, Ordering::Relaxed);
        self.train_scales(on);
    }

    pub(crate) fn train_scales(&self, on: bool) {
        if let Some(param) = &self.lock().learned {
            param.set_role(if on { Role::Trainable } else { Role::Frozen });
        }
    }

    /// Stops or continues to watch training passes (ema).
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.lock().frozen = frozen;
    }

    fn set_range(&self, state: &mut State, range: Extremes) -> Result<()> {
        let (grid, n) = (self.spec.grid(), self.names);
        let one = |v: f32| Tensor::new(&[v], &Device::Cpu);
        state.calibrated = true;
        if self.spec.has_global() {
            let global = grid.global(range.amax());
            self.place.set_buffer(n.global, &one(global)?)?;
            state.global = Some(global);
            return Ok(());
        }
        if let Some(param) = &state.learned {
            let log2 = one(grid.scale(range.amax(), 1.).log2())?;
            return Ok(param.set(&log2.to_device(param.device())?)?);
        }
        let (scale, zero) = match self.spec.asymmetric() {
            true => {
                let (scale, zero) = grid.affine(range.least, range.largest);
                self.place.set_buffer(n.zero_point, &one(zero)?)?;
                (scale, Some(vec![zero]))
            }
            false => (grid.scale(range.amax(), 1.), None),
        };
        self.place.set_buffer(n.scale, &one(scale)?)?;
        state.scales = Some(Arc::new(Scales { scales: vec![scale], zeros: zero }));
        Ok(())
    }

    fn block(&self, x: &Tensor) -> usize {
        let dims = x.dims();
        let row = match self.rows {
            Rows::Last => dims.last().copied().unwrap_or(1),
            Rows::Images => dims.iter().skip(1).product(),
        };
        self.spec.block(x.elem_count(), row)
    }

    fn uncalibrated(&self) -> Error {
        Error::Uncalibrated { layer: self.place.path().into(), what: self.names.what }
    }

    /// Keeps the extremes of a training pass, but not again of one that is computed again for its gradients.
    fn watch(&self, x: &Tensor) -> Result<()> {
        let watched = |clock: &Clock| clock.training() && !clock.recomputing();
        if !matches!(self.policy, ScalePolicy::Ema(_)) || !self.clock.as_ref().is_some_and(watched) {
            return Ok(());
        }
        let mut state = self.lock();
        if state.frozen {
            return Ok(());
        }
        if let Some(now) = Extremes::of(self.place.path(), self.names.what, &host(x)?)? {
            let seen = now.and(state.seen);
            if state.seen != Some(seen) {
                seen.save(&self.place, self.names.seen)?;
                state.seen = Some(seen);
            }
        }
        Ok(())
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.watch(x)?;
        let (grid, block) = (self.spec.grid(), self.block(x));
        if self.dynamic {
            return Ok(ops::fake_quant_dynamic(x, grid, block, None)?);
        }
        let state = self.lock();
        let (scales, learned) = (state.scales.clone(), state.learned.clone().filter(|_| state.calibrated));
        let global = state.global;
        drop(state);
        let grouped = matches!(self.spec.granularity, Granularity::Group(_));
        match (scales, learned, global) {
            (_, _, Some(global)) if grouped => Ok(ops::fake_quant_dynamic(x, grid, block, Some(global))?),
            (Some(scales), ..) => Ok(ops::fake_quant(x, grid, block, &scales)?),
            (None, Some(param), _) => Ok(ops::fake_quant_learned(x, &param.tensor(), grid, block, 1.)?),
            // Its turn comes after that of the quantizers which are calibrated now.
            (None, None, _) if self.clock.as_ref().is_some_and(Clock::calibrating) => Ok(x.clone()),
            (None, None, _) => Err(self.uncalibrated()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What rows of `row` values become with a static scale that covers `range`, or with dynamic ones. `layer` and `what`
/// name them in errors.
pub(crate) fn trial(
    layer: &str,
    what: &'static str,
    input: &InputSpec,
    x: &[f32],
    row: usize,
    range: Extremes,
) -> Result<Vec<f32>> {
    let InputSpec { spec, dynamic } = input;
    let (grid, block) = (spec.grid(), spec.block(x.len(), row).max(1));
    let mut y = vec![0f32; x.len()];
    if !dynamic && !spec.has_global() {
        let (scale, zero) = match spec.asymmetric() {
            true => grid.affine(range.least, range.largest),
            false => (grid.scale(range.amax(), 1.), 0.),
        };
        let zero = [zero];
        kernels::fake_quant(grid, x, block, &[scale], spec.asymmetric().then_some(&zero[..]), &mut y);
        return Ok(y);
    }
    let global = (!dynamic).then(|| grid.global(range.amax()));
    kernels::fake_quant_dynamic(grid, x, block, global, &mut y)
        .map_err(|e| Error::named(candle_core::Error::wrap(e), layer, what, x))?;
    Ok(y)
}

impl Reparam for InputQuant {
    fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        if let Some(observer) = &mut self.lock().observer {
            observer.see(self.place.path(), self.names.what, &host(x)?)?;
            return Ok(x.clone());
        }
        if !self.enabled() || x.elem_count() == 0 {
            return Ok(x.clone());
        }
        self.forward(x).map_err(|e| {
            let e = match (e, host(x)) {
                (Error::Candle(e), Ok(values)) => {
                    Error::named(e, self.place.path(), self.names.what, &values)
                }
                (e, _) => e,
            };
            if let (Error::NonFinite { .. }, Some(clock)) = (&e, &self.clock) {
                clock.note_non_finite();
            }
            e.into()
        })
    }

    fn name(&self) -> &'static str {
        "fake-quant"
    }
}
