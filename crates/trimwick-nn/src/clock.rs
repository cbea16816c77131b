//! Where a training run is: what every random decision inside a model is keyed by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trimwick_kernels::Rng;

/// The seed of a model and the step that it is at. Clones share the state.
///
/// Candle's CPU generator cannot be seeded, so nothing here uses it: each random number is a function of
/// (seed, stream, step, name) and a run that is stopped and resumed draws the same numbers.
#[derive(Clone, Debug)]
pub struct Clock(Arc<State>);

#[derive(Debug)]
struct State {
    seed: u64,
    step: AtomicU64,
    training: AtomicBool,
    calibrating: AtomicBool,
    recomputing: AtomicBool,
    non_finite: AtomicBool,
}

impl Clock {
    pub(crate) fn new(seed: u64) -> Self {
        let [training, calibrating, recomputing, non_finite] = [const { AtomicBool::new(false) }; 4];
        let step = AtomicU64::new(0);
        Self(Arc::new(State { seed, step, training, calibrating, recomputing, non_finite }))
    }

    /// The seed of the parameter store.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The forward pass that the model is at; a trainer counts micro-batches here.
    pub fn step(&self) -> u64 {
        self.0.step.load(Ordering::Relaxed)
    }

    /// Moves the clock.
    pub fn set_step(&self, step: u64) {
        self.0.step.store(step, Ordering::Relaxed);
    }

    /// Whether stochastic layers act.
    pub fn training(&self) -> bool {
        self.0.training.load(Ordering::Relaxed)
    }

    /// Switches stochastic layers on or off.
    pub fn set_training(&self, on: bool) {
        self.0.training.store(on, Ordering::Relaxed);
    }

    /// Whether the model runs on calibration data: a quantizer that has no scale yet lets its values pass.
    pub fn calibrating(&self) -> bool {
        self.0.calibrating.load(Ordering::Relaxed)
    }

    /// Says that the model runs on calibration data, or no longer.
    pub fn set_calibrating(&self, on: bool) {
        self.0.calibrating.store(on, Ordering::Relaxed);
    }

    /// Whether the model computes again what it has computed before, for the gradients. Random choices are the same
    /// ones, being functions of the step; what counts or averages its inputs must not take them a second time.
    pub fn recomputing(&self) -> bool {
        self.0.recomputing.load(Ordering::Relaxed)
    }

    /// Says that the model computes again what it has computed before, or no longer.
    pub fn set_recomputing(&self, on: bool) {
        self.0.recomputing.store(on, Ordering::Relaxed);
    }

    /// Notes that a forward pass is about to fail because of a NaN or an infinity. Candle forgets the type of an
    /// error that passes through it, so that a trainer could not tell this failure from any other.
    pub fn note_non_finite(&self) {
        self.0.non_finite.store(true, Ordering::Relaxed);
    }

    /// Whether a NaN or an infinity was noted since the last call.
    pub fn take_non_finite(&self) -> bool {
        self.0.non_finite.swap(false, Ordering::Relaxed)
    }

    /// The generator of one stream (such as `"dropout"`) and one name at the current step.
    pub fn rng(&self, stream: &str, name: &str) -> Rng {
        Rng::new(self.seed(), stream, self.step(), name)
    }
}
