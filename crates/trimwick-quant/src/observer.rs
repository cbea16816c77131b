//! What is learned of the values that pass a static quantizer.

use candle_core::{Device, Tensor};
use trimwick_kernels::quant as kernels;
use trimwick_nn::Place;

use crate::histogram::Histogram;
use crate::options::Range;
use crate::saved::{self, Names};
use crate::spec::QuantSpec;
use crate::{Error, Result};

/// The least and the largest value of a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extremes {
    pub(crate) least: f32,
    pub(crate) largest: f32,
}

impl Extremes {
    /// Those of finite values.
    pub(crate) fn of(layer: &str, what: &'static str, values: &[f32]) -> Result<Option<Self>> {
        if values.is_empty() {
            return Ok(None);
        }
        let (mut least, mut largest) = ([0f32], [0f32]);
        kernels::block_range(values, values.len(), &mut least, &mut largest)
            .map_err(|e| Error::named(candle_core::Error::wrap(e), layer, what, values))?;
        Ok(Some(Self { least: least[0], largest: largest[0] }))
    }

    pub(crate) fn and(self, other: Option<Self>) -> Self {
        match other {
            Some(o) => Self { least: self.least.min(o.least), largest: self.largest.max(o.largest) },
            None => self,
        }
    }

    /// `d·self + (1 − d)·new`.
    pub(crate) fn toward(self, new: Self, decay: f64) -> Self {
        let mix = |old: f32, new: f32| (decay * f64::from(old) + (1. - decay) * f64::from(new)) as f32;
        Self { least: mix(self.least, new.least), largest: mix(self.largest, new.largest) }
    }

    /// The largest magnitude.
    pub(crate) fn amax(self) -> f32 {
        self.least.abs().max(self.largest.abs())
    }

    pub(crate) fn load(place: &Place, buffer: &'static str) -> Result<Option<Self>> {
        let pair = saved::floats(place, buffer, 2)?;
        Ok(pair.map(|pair| Self { least: pair[0], largest: pair[1] }))
    }

    pub(crate) fn save(self, place: &Place, buffer: &'static str) -> Result<()> {
        place.set_buffer(buffer, &Tensor::new(&[self.least, self.largest], &Device::Cpu)?)?;
        Ok(())
    }
}

/// Statistics over calibration data: extremes, and a histogram of magnitudes where the range needs one. Saved in
/// buffers, and continued from them.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    extremes: Option<Extremes>,
    histogram: Option<Histogram>,
    /// Whether anything came by since the observer was made or loaded.
    pub(crate) fed: bool,
}

impl Observer {
    pub(crate) fn load(place: &Place, names: &Names, range: Range) -> Result<Self> {
        let extremes = Extremes::load(place, names.range)?;
        if range == Range::Max {
            return Ok(Self { extremes, histogram: None, fed: false });
        }
        let histogram = match place.buffer(names.histogram) {
            None => Histogram::default(),
            Some(param) => {
                let saved = param.tensor().to_device(&Device::Cpu)?.flatten_all()?;
                let saved = saved.to_vec1::<i64>().ok().and_then(|v| Histogram::from_saved(&v));
                saved.ok_or_else(|| Error::Buffer {
                    layer: place.path().into(),
                    buffer: names.histogram,
                    expected: "the counts of a histogram".into(),
                    found: format!("{:?} of {:?}", param.shape().dims(), param.dtype()),
                })?
            }
        };
        Ok(Self { extremes, histogram: Some(histogram), fed: false })
    }

    pub(crate) fn see(&mut self, layer: &str, what: &'static str, values: &[f32]) -> Result<()> {
        let Some(now) = Extremes::of(layer, what, values)? else { return Ok(()) };
        if let Some(histogram) = &mut self.histogram {
            histogram.add(values, now.amax());
        }
        self.extremes = Some(now.and(self.extremes));
        self.fed = true;
        Ok(())
    }

    pub(crate) fn save(&self, place: &Place, names: &Names) -> Result<()> {
        if let Some(extremes) = self.extremes {
            extremes.save(place, names.range)?;
        }
        if let Some(histogram) = &self.histogram {
            let saved = histogram.to_saved();
            place.set_buffer(names.histogram, &Tensor::from_slice(&saved, saved.len(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    /// The range that the codes are spread over.
    pub(crate) fn range(&self, spec: &QuantSpec, range: Range) -> Option<Extremes> {
        let extremes = self.extremes?;
        let (grid, amax) = (spec.grid(), extremes.amax());
        let clipped = match (range, &self.histogram) {
            (Range::Max, _) | (_, None) => return Some(extremes),
            (Range::Percentile(percent), Some(h)) => h.percentile(percent, amax),
            (Range::Mse, Some(h)) => h.least_error(grid, amax),
            (Range::Entropy, Some(h)) => h.least_divergence(grid, amax),
        };
        Some(Extremes { least: -clipped, largest: clipped })
    }
}
