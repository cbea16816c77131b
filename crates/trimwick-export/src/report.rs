//! What was done to a file.

use trimwick_quant::Scheme;

/// What was done to a file, found in the proof of the written bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The scheme, of which weights take the weight quantizer.
    pub scheme: Scheme,
    /// Whether floats were written in the place of codes.
    pub fake: bool,
    /// The quantized tensors, by name.
    pub tensors: Vec<TensorReport>,
    /// Tensors that were copied byte for byte.
    pub copied: usize,
    /// Bytes of the tensors that were copied.
    pub copied_bytes: u64,
    /// Bytes of all tensors of the input.
    pub bytes_before: u64,
    /// Bytes of all tensors of the output.
    pub bytes_after: u64,
}

/// One quantized tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes in the input.
    pub bytes_before: u64,
    /// Bytes of codes and scales, which `fake` does not write.
    pub bytes_packed: u64,
    /// Σ x².
    pub signal: f64,
    /// Σ (x − y)², y being the quantized x.
    pub noise: f64,
}

impl TensorReport {
    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// Bits of a packed value, scales counted.
    pub fn bits(&self) -> f64 {
        8. * self.bytes_packed as f64 / self.values() as f64
    }

    /// Signal-to-noise ratio in dB; `None` where nothing was lost.
    pub fn snr_db(&self) -> Option<f64> {
        decibels(self.signal, self.noise)
    }
}

impl Report {
    /// Values of all quantized tensors.
    pub fn values(&self) -> u64 {
        self.tensors.iter().map(TensorReport::values).sum()
    }

    /// Bits of a packed value over all quantized tensors, scales counted.
    pub fn bits(&self) -> f64 {
        let bytes: u64 = self.tensors.iter().map(|t| t.bytes_packed).sum();
        8. * bytes as f64 / self.values() as f64
    }

    /// Signal-to-noise ratio over all quantized tensors in dB; `None` where nothing was lost.
    pub fn snr_db(&self) -> Option<f64> {
        let sum = |of: fn(&TensorReport) -> f64| self.tensors.iter().map(of).sum();
        decibels(sum(|t| t.signal), sum(|t| t.noise))
    }
}

fn decibels(signal: f64, noise: f64) -> Option<f64> {
    (noise > 0.).then(|| 10. * (signal / noise).log10())
}
