//! A trained model as the exports see it: tensors by name, each with the quantizer that it was trained under.

use std::ops::Deref;

use candle_core::{DType, Device, Tensor};
use trimwick_models::{LlamaConfig, Tokenizer};
use trimwick_nn::{Layer, ParamStore};
use trimwick_quant::{InputSpec, QuantSpec, Quantized, input_quantizer, kv, quantized, weight_quantizer};

use crate::{Error, Result};

/// A trained model, of which an export is made.
#[derive(Clone, Copy)]
pub struct Trained<'a> {
    /// Its parameters, with masks and quantizers on their layers.
    pub store: &'a ParamStore,
    /// Its shape.
    pub config: &'a LlamaConfig,
    /// Its tokenizer, which GGUF needs.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// What of a tensor decides whether a target can hold it.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The layer's path; the tensor's name less its last part.
    pub path: String,
    pub shape: Vec<usize>,
    /// Whether it is the weight of a linear layer.
    pub linear: bool,
    /// The grids that the layer computes on.
    pub weight: Option<QuantSpec>,
    pub input: Option<InputSpec>,
    /// The static scale of the inputs.
    pub input_scale: Option<f32>,
}

impl Subject {
    /// Both schemes in words.
    pub(crate) fn scheme(&self) -> String {
        trimwick_quant::Scheme { weight: self.weight, input: self.input }.to_string()
    }
}

/// A tensor to be exported.
pub(crate) struct Piece {
    /// Its Hugging Face name.
    pub name: String,
    subject: Subject,
    layer: Option<Layer>,
    param: trimwick_nn::Param,
}

impl Deref for Piece {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}

impl Trained<'_> {
    /// The tensors of the model, in its order.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece>> {
        let layers = self.store.layers();
        let piece = |(name, shape): (String, Vec<usize>)| {
            let param = self.store.get(&name).filter(|param| param.shape().dims() == shape);
            let Some(param) = param else {
                let found = self.store.get(&name).map_or("nothing".into(), |p| format!("{:?}", p.shape()));
                return Err(Error::Store { tensor: name, expected: format!("{shape:?}"), found });
            };
            let layer = layers.iter().find(|layer| layer.weight().name() == name).cloned();
            // No format here has a place for what stands beside a weight.
            let beside = |layer: &Layer| layer.branch().is_some() || layer.input_scale().is_some();
            if layer.as_ref().is_some_and(beside) {
                let expected =
                    "a layer that is its weight alone, without a branch or a scale of its input".into();
                return Err(Error::Store { tensor: name, expected, found: "one of them".into() });
            }
            let on = |layer: &&Layer| weight_quantizer(layer).is_some_and(|q| q.enabled());
            let weight = layer.as_ref().filter(on).and_then(weight_quantizer).map(|q| *q.spec());
            let quantizer = layer.as_ref().and_then(input_quantizer).filter(|q| q.enabled());
            let input_scale = match &quantizer {
                Some(quantizer) if !quantizer.dynamic() => quantizer.scale()?,
                _ => None,
            };
            let input = quantizer.map(|q| InputSpec { spec: *q.spec(), dynamic: q.dynamic() });
            let linear = layer.as_ref().is_some_and(|layer| layer.kind() == trimwick_nn::LayerKind::Linear);
            let path = name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path).to_string();
            let subject = Subject { path, shape, linear, weight, input, input_scale };
            Ok(Piece { name, subject, layer, param })
        };
        self.config.tensors().into_iter().map(piece).collect()
    }

    /// The static scales of keys and values by the path of their attention, where they have them.
    pub(crate) fn kv_scales(&self) -> Result<Vec<(String, QuantSpec, f32, f32)>> {
        let mut out = Vec::new();
        for slot in self.store.kv_slots() {
            if let [k, v] = &kv::quantizers(&slot)[..]
                && let (Some(k_scale), Some(v_scale)) = (k.scale()?, v.scale()?)
            {
                out.push((slot.path().to_string(), *k.spec(), k_scale, v_scale));
            }
        }
        Ok(out)
    }
}

impl Piece {
    /// What the model computes with, row-major.
    pub(crate) fn values(&self) -> Result<Vec<f32>> {
        let tensor: Tensor = match &self.layer {
            Some(layer) => layer.effective_weight()?,
            None => self.param.value()?,
        };
        Ok(tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// Codes and scales of the weight.
    ///
    /// # Errors
    /// [`Error::Store`] where the model does not compute with them, which is a fault of the quantizer.
    pub(crate) fn quantized(&self) -> Result<Quantized> {
        let fault = |found: &str| Error::Store {
            tensor: self.name.clone(),
            expected: "a weight on its grid".into(),
            found: found.into(),
        };
        let layer = self.layer.as_ref().ok_or_else(|| fault("no layer"))?;
        quantized(layer)?.ok_or_else(|| fault("no quantizer"))
    }

    /// The bits of the weight's mask, one for each value, 1 = kept.
    pub(crate) fn mask(&self) -> Result<Option<Vec<u8>>> {
        match &self.layer {
            Some(layer) => Ok(trimwick_sparse::bits(layer)?),
            None => Ok(None),
        }
    }
}
