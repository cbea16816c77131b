//! What pruning methods learn about a layer's inputs.

use std::sync::{Arc, OnceLock};

use trimwick_kernels as kernels;
use trimwick_kernels::obs::{Factor, FactorError};
use trimwick_nn::{EvenRows, InputSums, InputWatch, Layer, LayerKind, Layers};

use crate::{Error, Result};

/// Tokens on which the signal-to-noise ratio of a report is taken.
const SAMPLES: usize = 256;
/// Raise the damping this many times, tenfold each, before giving a Hessian up.
const RETRIES: u32 = 3;

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
    /// At most 256 of the rows, evenly spread, `[kept, in]`.
    pub samples: Vec<f32>,
    factor: OnceLock<(f64, Arc<Factor>)>,
}

impl InputStats {
    /// Statistics with a gram, `[in, in]`, over so many tokens.
    pub fn of_gram(gram: Vec<f32>, tokens: u64) -> Self {
        Self { tokens, gram, ..Self::default() }
    }

    /// The factor of the Hessian, which layers that share an input share.
    ///
    /// # Errors
    /// [`FactorError`].
    pub fn factor(&self, cols: usize, damping: f64) -> std::result::Result<Arc<Factor>, FactorError> {
        match self.factor.get() {
            Some((with, factor)) if *with == damping => Ok(factor.clone()),
            _ => {
                let factor = Factor::new(&self.gram, self.tokens, cols, damping, RETRIES, None)?;
                let factor = Arc::new(factor);
                // One of another damping stays where it is.
                let _ = self.factor.set((damping, factor.clone()));
                Ok(factor)
            }
        }
    }
}

#[derive(Clone)]
struct Sums {
    needs: Needs,
    stats: InputStats,
    rows: Option<EvenRows>,
}

impl InputSums for Sums {
    fn see(&mut self, x: &[f32], cols: usize) {
        let Self { needs, stats, rows } = self;
        let rows = rows.get_or_insert_with(|| EvenRows::new(SAMPLES, cols));
        stats.tokens += (x.len() / cols) as u64;
        stats.squares.resize(cols, 0.);
        for row in x.chunks_exact(cols) {
            for (sum, &v) in stats.squares.iter_mut().zip(row) {
                *sum += f64::from(v) * f64::from(v);
            }
            rows.see(row);
        }
        if *needs == Needs::Gram {
            stats.gram.resize(cols * cols, 0.);
            kernels::add_gram(x, &mut stats.gram, cols);
        }
    }
}

/// Statistics being collected: run the model on calibration data, then [`Collection::finish`].
pub struct Collection(InputWatch<Sums>);

impl Collection {
    /// Hooks every layer.
    ///
    /// # Errors
    /// [`Error::Kind`] for a layer that is not linear.
    pub fn start(layers: &Layers, needs: Needs, method: &'static str) -> Result<Self> {
        if let Some(layer) = layers.iter().find(|layer| layer.kind() != LayerKind::Linear) {
            return Err(Error::Kind { layer: layer.path().into(), method });
        }
        let sums = Sums { needs, stats: InputStats::default(), rows: None };
        Ok(Self(InputWatch::start(layers.iter(), sums)))
    }

    /// Unhooks the layers and gives what each saw, in their order; those that share an input share it.
    ///
    /// # Errors
    /// [`Error::NoStatistics`] for a layer that saw nothing, [`Error::NonFinite`] for one that saw a NaN or infinity.
    pub fn finish(self, method: &'static str) -> Result<Vec<(Layer, Arc<InputStats>)>> {
        self.0.finish(|layer, Sums { mut stats, rows, .. }| {
            let layer = || layer.path().to_string();
            if stats.tokens == 0 {
                return Err(Error::NoStatistics { layer: layer(), method });
            }
            if let Some(index) = stats.squares.iter().position(|s| !s.is_finite()) {
                return Err(Error::NonFinite { layer: layer(), what: "input statistic", index });
            }
            kernels::mirror(&mut stats.gram, stats.squares.len());
            stats.samples = rows.map_or_else(Vec::new, EvenRows::into_rows);
            Ok(stats)
        })
    }
}
