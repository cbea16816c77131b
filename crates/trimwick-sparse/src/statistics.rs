//! What pruning methods learn about a layer's inputs.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result as CandleResult, Tensor};
use trimwick_kernels as kernels;
use trimwick_nn::{Capture, CaptureGuard, Layer, LayerKind, Layers, ops};

use crate::{Error, Result};

/// What a method wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Weights alone.
    Nothing,
    /// The sum of squares of every input, `[in]`.
    Norms,
    /// The sum of outer products of the inputs, `[in, in]`.
    Gram,
}

/// Sums over the inputs x `[tokens, in]` that a linear layer saw.
#[derive(Debug, Clone, Default)]
pub struct InputStats {
    /// Rows seen.
    pub tokens: u64,
    /// `Σ x_c²`, `[in]`.
    pub squares: Vec<f64>,
    /// `Σ x xᵀ`, `[in, in]`, empty unless asked for. Sums run in f32, as the products of a layer do.
    pub gram: Vec<f32>,
}

struct Collector {
    needs: Needs,
    stats: Mutex<InputStats>,
}

impl Capture for Collector {
    fn input(&self, layer: &Layer, x: &Tensor) -> CandleResult<()> {
        let cols = layer.weight().shape().dims()[1];
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        ops::with_slices::<f32, _, 1>([x], |[x]| {
            stats.tokens += (x.len() / cols) as u64;
            if stats.squares.is_empty() {
                stats.squares = vec![0.; cols];
            }
            for row in x.chunks_exact(cols) {
                for (sum, &v) in stats.squares.iter_mut().zip(row) {
                    *sum += f64::from(v) * f64::from(v);
                }
            }
            if self.needs == Needs::Gram {
                if stats.gram.is_empty() {
                    stats.gram = vec![0.; cols * cols];
                }
                kernels::matmul_tn(x, x, &mut stats.gram, x.len() / cols, cols, cols, true);
            }
            Ok(())
        })
    }
}

/// Statistics being collected: run the model on calibration data, then [`Collection::finish`].
pub struct Collection(Vec<(Layer, Arc<Collector>, CaptureGuard)>);

impl Collection {
    /// Hooks every layer.
    ///
    /// # Errors
    /// [`Error::Kind`] for a layer that is not linear.
    pub fn start(layers: &Layers, needs: Needs, method: &'static str) -> Result<Self> {
        let hook = |layer: &Layer| {
            if layer.kind() != LayerKind::Linear {
                return Err(Error::Kind { layer: layer.path().into(), method });
            }
            let collector = Arc::new(Collector { needs, stats: Mutex::default() });
            let guard = layer.capture(collector.clone());
            Ok((layer.clone(), collector, guard))
        };
        layers.iter().map(hook).collect::<Result<_>>().map(Self)
    }

    /// Unhooks the layers and gives what each saw, in their order.
    ///
    /// # Errors
    /// [`Error::NoStatistics`] for a layer that saw nothing, [`Error::NonFinite`] for one that saw a NaN or infinity.
    pub fn finish(self, method: &'static str) -> Result<Vec<InputStats>> {
        self.0
            .into_iter()
            .map(|(layer, collector, guard)| {
                drop(guard);
                let stats =
                    std::mem::take(&mut *collector.stats.lock().unwrap_or_else(PoisonError::into_inner));
                if stats.tokens == 0 {
                    return Err(Error::NoStatistics { layer: layer.path().into(), method });
                }
                match stats.squares.iter().position(|s| !s.is_finite()) {
                    Some(index) => {
                        Err(Error::NonFinite { layer: layer.path().into(), what: "input statistic", index })
                    }
                    None => Ok(stats),
                }
            })
            .collect()
    }
}
