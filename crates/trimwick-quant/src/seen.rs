//! What one-shot algorithms learn about a layer's input.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result as CandleResult, Tensor};
use trimwick_kernels as kernels;
use trimwick_nn::{Capture, CaptureGuard, Layer, LayerKind, ops};

use crate::{Error, Result};

const WHAT: &str = "input";

/// What a pass wants to know beside sums over each channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Keep at most this many of the tokens, evenly spread.
    pub samples: usize,
    /// Keep the sum of outer products of the inputs, `[in, in]`.
    pub gram: bool,
}

/// What was seen of the inputs x `[tokens, in]` of a linear layer.
#[derive(Debug, Clone, Default)]
pub struct InputSeen {
    /// Rows seen.
    pub tokens: u64,
    /// `max |x_c|`, `[in]`.
    pub amax: Vec<f32>,
    /// The mean of `|x_c|`, `[in]`.
    pub mean: Vec<f32>,
    /// `Σ x xᵀ`, `[in, in]`; empty unless asked for.
    pub gram: Vec<f32>,
    /// Rows kept, `[kept, in]`.
    pub samples: Vec<f32>,
}

#[derive(Default)]
struct State {
    seen: InputSeen,
    sums: Vec<f64>,
    /// Every so many rows one is kept: doubled whenever there are too many.
    stride: u64,
}

struct Collector {
    needs: Needs,
    state: Mutex<State>,
}

impl State {
    fn see(&mut self, x: &[f32], cols: usize, needs: Needs) {
        if self.sums.is_empty() {
            (self.sums, self.seen.amax, self.stride) = (vec![0.; cols], vec![0.; cols], 1);
        }
        for row in x.chunks_exact(cols) {
            for ((sum, amax), v) in self.sums.iter_mut().zip(&mut self.seen.amax).zip(row) {
                *sum += f64::from(v.abs());
                *amax = amax.max(v.abs());
            }
            if needs.samples > 0 && self.seen.tokens.is_multiple_of(self.stride) {
                self.keep(row, cols, needs.samples);
            }
            self.seen.tokens += 1;
        }
        if needs.gram {
            self.seen.gram.resize(cols * cols, 0.);
            kernels::matmul_tn(x, x, &mut self.seen.gram, x.len() / cols, cols, cols, true);
        }
    }

    fn keep(&mut self, row: &[f32], cols: usize, limit: usize) {
        if self.seen.samples.len() == limit * cols {
            let kept = self.seen.samples.chunks_exact(cols).step_by(2).flatten().copied().collect();
            self.seen.samples = kept;
            self.stride *= 2;
            if !self.seen.tokens.is_multiple_of(self.stride) {
                return;
            }
        }
        self.seen.samples.extend_from_slice(row);
    }
}

impl Capture for Collector {
    fn input(&self, layer: &Layer, x: &Tensor) -> CandleResult<()> {
        let cols = layer.weight().shape().dims()[1];
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        ops::with_slices::<f32, _, 1>([x], |[x]| {
            state.see(x, cols, self.needs);
            Ok(())
        })
    }
}

/// Inputs being watched: run the model on calibration data, then [`Watching::finish`].
pub(crate) struct Watching(Vec<(Layer, Arc<Collector>, CaptureGuard)>);

impl Watching {
    /// Hooks every layer.
    ///
    /// # Errors
    /// A layer that is not linear: see [`linear`].
    pub(crate) fn start<'a>(
        layers: impl Iterator<Item = &'a Layer>,
        needs: Needs,
        name: &'static str,
    ) -> Result<Self> {
        let hook = |layer: &Layer| {
            linear(layer, name)?;
            let collector = Arc::new(Collector { needs, state: Mutex::default() });
            let guard = layer.capture(collector.clone());
            Ok((layer.clone(), collector, guard))
        };
        layers.map(hook).collect::<Result<_>>().map(Self)
    }

    /// Unhooks the layers and gives what each saw, in their order.
    ///
    /// # Errors
    /// [`Error::NoStatistics`] for a layer that saw nothing, [`Error::NonFinite`] for one that saw a NaN or infinity.
    pub(crate) fn finish(self) -> Result<Vec<(Layer, InputSeen)>> {
        let unhook = |(layer, collector, guard): (Layer, Arc<Collector>, CaptureGuard)| {
            drop(guard);
            let state = std::mem::take(&mut *collector.state.lock().unwrap_or_else(PoisonError::into_inner));
            let State { mut seen, sums, .. } = state;
            if seen.tokens == 0 {
                return Err(Error::NoStatistics { layer: layer.path().into(), what: WHAT });
            }
            if let Some(index) = sums.iter().position(|s| !s.is_finite()) {
                let found = sums[index] as f32;
                return Err(Error::NonFinite { layer: layer.path().into(), what: WHAT, found, index });
            }
            seen.mean = sums.iter().map(|s| (s / seen.tokens as f64) as f32).collect();
            Ok((layer, seen))
        };
        self.0.into_iter().map(unhook).collect()
    }
}

/// Whether one-shot algorithms can take a layer.
pub(crate) fn linear(layer: &Layer, name: &'static str) -> Result<()> {
    if layer.kind() == LayerKind::Linear {
        return Ok(());
    }
    let problem = "takes linear layers; leave embeddings and convolutions to rounding, or exclude the layer";
    Err(Error::Layer { layer: layer.path().into(), spec: name.into(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_evenly_and_the_same_however_they_come() {
        let x: Vec<f32> = (0..100).flat_map(|i| [i as f32, -1.]).collect();
        let seen = |pieces: &[usize]| {
            let mut state = State::default();
            let mut from = 0;
            for n in pieces {
                state.see(&x[from * 2..(from + n) * 2], 2, Needs { samples: 8, gram: true });
                from += n;
            }
            state.seen
        };
        let whole = seen(&[100]);
        let kept: Vec<f32> = whole.samples.chunks_exact(2).map(|r| r[0]).collect();
        assert_eq!(kept, [0., 16., 32., 48., 64., 80., 96.]);
        assert_eq!(whole.samples, seen(&[3, 50, 1, 46]).samples);
        assert_eq!((whole.tokens, &whole.amax[..]), (100, &[99., 1.][..]));
        assert_eq!(whole.gram[3], 100.);
        assert_eq!(whole.gram[1], -4950.);
    }
}
