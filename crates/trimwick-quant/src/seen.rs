//! What one-shot algorithms learn about a layer's input.

use std::sync::Arc;

use trimwick_kernels as kernels;
use trimwick_nn::{EvenRows, InputSums, InputWatch, Layer, LayerKind, Layers};

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

/// The sums behind [`InputSeen`].
#[derive(Clone)]
struct Sums {
    needs: Needs,
    seen: InputSeen,
    magnitudes: Vec<f64>,
    rows: Option<EvenRows>,
}

impl Sums {
    fn new(needs: Needs) -> Self {
        Self { needs, seen: InputSeen::default(), magnitudes: Vec::new(), rows: None }
    }

    /// What was seen, or the first channel whose sum is NaN or infinite, with it.
    fn finish(self) -> std::result::Result<InputSeen, (usize, f32)> {
        let Self { mut seen, magnitudes, rows, .. } = self;
        if let Some(index) = magnitudes.iter().position(|sum| !sum.is_finite()) {
            return Err((index, magnitudes[index] as f32));
        }
        kernels::mirror(&mut seen.gram, seen.amax.len());
        seen.mean = magnitudes.iter().map(|sum| (sum / seen.tokens as f64) as f32).collect();
        seen.samples = rows.map_or_else(Vec::new, EvenRows::into_rows);
        Ok(seen)
    }
}

impl InputSums for Sums {
    fn see(&mut self, x: &[f32], cols: usize) {
        if self.magnitudes.is_empty() {
            (self.magnitudes, self.seen.amax) = (vec![0.; cols], vec![0.; cols]);
        }
        let rows = self.rows.get_or_insert_with(|| EvenRows::new(self.needs.samples, cols));
        for row in x.chunks_exact(cols) {
            for ((sum, amax), v) in self.magnitudes.iter_mut().zip(&mut self.seen.amax).zip(row) {
                *sum += f64::from(v.abs());
                *amax = amax.max(v.abs());
            }
            rows.see(row);
        }
        self.seen.tokens += (x.len() / cols) as u64;
        if self.needs.gram {
            self.seen.gram.resize(cols * cols, 0.);
            kernels::add_gram(x, &mut self.seen.gram, cols);
        }
    }
}

/// Inputs being watched: run the model on calibration data, then [`Watching::finish`].
pub(crate) struct Watching(InputWatch<Sums>);

impl Watching {
    /// Hooks every layer.
    ///
    /// # Errors
    /// A layer that is not linear: see [`linear`].
    pub(crate) fn start(layers: &Layers, needs: Needs, name: &'static str) -> Result<Self> {
        layers.iter().try_for_each(|layer| linear(layer, name))?;
        Ok(Self(InputWatch::start(layers.iter(), Sums::new(needs))))
    }

    /// Unhooks the layers and gives what each saw, in their order; those that share an input share it.
    ///
    /// # Errors
    /// [`Error::NoStatistics`] for a layer that saw nothing, [`Error::NonFinite`] for one that saw a NaN or infinity.
    pub(crate) fn finish(self) -> Result<Vec<(Layer, Arc<InputSeen>)>> {
        self.0.finish(|layer, sums| {
            if sums.seen.tokens == 0 {
                return Err(Error::NoStatistics { layer: layer.path().into(), what: WHAT });
            }
            sums.finish().map_err(|(index, found)| {
                let layer = layer.path().into();
                Error::NonFinite { layer, what: WHAT, found, index }
            })
        })
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
    fn sums_are_the_same_however_the_rows_come() {
        let x: Vec<f32> = (0..100).flat_map(|i| [i as f32, -1.]).collect();
        let seen = |pieces: &[usize]| {
            let mut sums = Sums::new(Needs { samples: 8, gram: true });
            let mut from = 0;
            for n in pieces {
                sums.see(&x[from * 2..(from + n) * 2], 2);
                from += n;
            }
            sums.finish().unwrap()
        };
        let whole = seen(&[100]);
        assert_eq!(whole.samples.len(), 7 * 2);
        assert_eq!(whole.samples, seen(&[3, 50, 1, 46]).samples);
        assert_eq!((whole.tokens, &whole.amax[..]), (100, &[99., 1.][..]));
        assert_eq!((whole.mean[0], whole.mean[1]), (49.5, 1.));
        assert_eq!(&whole.gram[1..], [-4950., -4950., 100.]);
    }
}
