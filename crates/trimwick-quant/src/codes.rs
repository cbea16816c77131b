//! Weights as codes and scales: what is trained is what is exported, and the proof of it.

use trimwick_kernels::quant as kernels;
use trimwick_nn::{Layer, Layers, Slot};

use crate::Result;
use crate::attach::weight_quantizer;
use crate::options::Range;
use crate::range;
use crate::saved::host;
use crate::spec::{QuantSpec, row_of};

/// A tensor as codes and scales. [`Quantized::dequantize`] gives the values that fake-quantization gives, bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Codes and scales.
    pub spec: QuantSpec,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// Consecutive values that share a scale.
    pub block: usize,
    /// One code a byte, as [`Code::encode`](trimwick_kernels::quant::Code::encode) numbers them, row-major.
    pub codes: Vec<u8>,
    /// Effective scales of the blocks: rounded to their format, [`Quantized::global`] multiplied in.
    pub scales: Vec<f32>,
    /// Integer zero points of the blocks, of an asymmetric code.
    pub zeros: Option<Vec<f32>>,
    /// The scale of the tensor behind e4m3 scales; 1 for every other format.
    pub global: f32,
}

impl Quantized {
    /// The values that the codes stand for.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut values = vec![0f32; self.codes.len()];
        let grid = self.spec.grid();
        kernels::decode(grid, &self.codes, self.block, &self.scales, self.zeros.as_deref(), &mut values);
        values
    }
}

impl QuantSpec {
    /// A tensor of `shape`, row-major, on the grid, with the scales of its largest magnitudes. `name` stands in errors.
    ///
    /// # Errors
    /// A shape that the quantizer cannot take; NaN or infinity.
    pub fn quantize(&self, name: &str, values: &[f32], shape: &[usize]) -> Result<Quantized> {
        self.check_weight(name, shape)?;
        let block = self.block(values.len(), row_of(shape)).max(1);
        let (scales, global) = range::scales(name, "weight", self, block, values, Range::Max, None)?;
        Ok(encode(self, values, shape, block, &scales, global))
    }
}

/// The weight that a layer computes with, as codes and scales; `None` when it has no quantizer. Adapters are merged and
/// masks applied before: this is what an export writes.
///
/// # Errors
/// NaN or infinity in the weight.
pub fn quantized(layer: &Layer) -> Result<Option<Quantized>> {
    let Some(quantizer) = weight_quantizer(layer) else { return Ok(None) };
    let values = host(&layer.weight_before(Slot::FakeQuant)?)?;
    let (scales, global) = quantizer.scales_of(&values)?;
    let shape = layer.weight().shape().dims();
    Ok(Some(encode(quantizer.spec(), &values, shape, quantizer.block(), &scales, global)))
}

fn encode(
    spec: &QuantSpec,
    values: &[f32],
    shape: &[usize],
    block: usize,
    scales: &trimwick_nn::ops::Scales,
    global: f32,
) -> Quantized {
    let mut codes = vec![0u8; values.len()];
    kernels::encode(spec.grid(), values, block, &scales.scales, scales.zeros.as_deref(), &mut codes);
    Quantized {
        spec: *spec,
        shape: shape.to_vec(),
        block,
        codes,
        scales: scales.scales.clone(),
        zeros: scales.zeros.clone(),
        global,
    }
}

/// Number of values, over all layers that have a quantizer of their weight, at which the weight that the layer computes
/// with is not, bit for bit, what its codes stand for. It is not zero when a quantizer is switched off, and must be zero
/// otherwise.
///
/// # Errors
/// NaN or infinity in a weight.
pub fn off_grid(layers: &Layers) -> Result<usize> {
    let mut total = 0;
    for layer in layers {
        let Some(quantizer) = weight_quantizer(layer) else { continue };
        let (scales, global) = quantizer.scales_of(&host(&layer.weight_before(Slot::FakeQuant)?)?)?;
        // The effective weight itself is encoded, with the scales of the stored one.
        let values = host(&layer.effective_weight()?)?;
        let shape = layer.weight().shape().dims();
        let again = encode(quantizer.spec(), &values, shape, quantizer.block(), &scales, global).dequantize();
        total += values.iter().zip(&again).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    }
    Ok(total)
}

/// Whether every value of the weight that a layer computes with is on its grid; `true` without a quantizer.
///
/// # Errors
/// NaN or infinity in the weight.
pub fn on_grid(layer: &Layer) -> Result<bool> {
    let Some(q) = quantized(layer)? else { return Ok(true) };
    let values = host(&layer.effective_weight()?)?;
    Ok(values.iter().zip(q.dequantize()).all(|(a, b)| a.to_bits() == b.to_bits()))
}
