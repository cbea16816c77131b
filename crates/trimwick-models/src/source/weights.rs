//! Weights that were compared with the configuration, and are looked at when they are read.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use trimwick_nn::TensorSource;

use super::coded::Coded;
use crate::config::LlamaConfig;
use crate::error::{Error, Result, quote};
use crate::names::layer_of;

/// Tensors by their Hugging Face names, in that layout.
pub(super) trait Stored: Send + Sync {
    /// Every name. A tensor without one (of a GGUF file) is given as the file has it.
    fn names(&self) -> Vec<String>;

    /// Shape, and the name of the element type if it is none of floating-point weights.
    fn info(&self, name: &str) -> Option<(Vec<usize>, Option<String>)>;

    /// All values.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>>;

    /// Codes or floats as they are stored, where products take them so.
    fn coded(&self, name: &str) -> Result<Option<Coded>>;

    /// Whether any weight is of codes.
    fn is_packed(&self) -> bool;
}

/// Weights as they are stored, by the names that [`TensorSource`] has for them.
pub(crate) trait CodedSource: Send + Sync {
    /// A tensor of the model; its values where it is stored in no form that products take.
    fn coded(&self, name: &str) -> Result<Coded>;

    /// Whether any weight is of codes.
    fn is_packed(&self) -> bool;
}

impl<S: Stored> CodedSource for Weights<S> {
    fn coded(&self, name: &str) -> Result<Coded> {
        if !self.shapes.contains_key(name) {
            return Err(Error::weights(&self.origin, name, "a tensor of the model", "nothing of that name"));
        }
        let coded = match self.stored.coded(name)? {
            Some(coded) => coded,
            None => Coded::Decoded(self.stored.read_f32(name)?),
        };
        match coded.fault() {
            Some(found) => Err(Error::weights(&self.origin, name, "finite values", found)),
            None => Ok(coded),
        }
    }

    fn is_packed(&self) -> bool {
        self.stored.is_packed()
    }
}

/// The [`TensorSource`] of every model source.
pub(super) struct Weights<S> {
    stored: S,
    origin: String,
    shapes: HashMap<String, Vec<usize>>,
}

/// Tensors that files carry and no model needs.
fn is_harmless(name: &str) -> bool {
    // Old checkpoints store the rotary frequencies, which follow from the configuration.
    name.ends_with(".rotary_emb.inv_freq") || name == "rope_freqs.weight"
}

impl<S: Stored> Weights<S> {
    /// Compares what is stored with the tensors of the configuration.
    ///
    /// # Errors
    /// [`Error::Weights`] for the first tensor that is missing, of another shape or type, or that the configuration has
    /// no place for; an output projection beside a tied embedding must equal it.
    pub fn new(stored: S, config: &LlamaConfig, origin: String, notes: &mut Vec<String>) -> Result<Self> {
        let expected = config.tensors();
        for (name, shape) in &expected {
            let Some((found, odd_type)) = stored.info(name) else {
                let found = match name.as_str() {
                    "lm_head.weight" => "nothing, and tie_word_embeddings is false".to_string(),
                    _ => "nothing".to_string(),
                };
                return Err(Error::weights(&origin, name, format!("shape {shape:?}"), found));
            };
            if &found != shape {
                let transposed = found.len() == 2 && found.iter().rev().eq(shape.iter());
                let hint = if transposed { ", which looks transposed" } else { "" };
                return Err(Error::weights(
                    &origin,
                    name,
                    format!("shape {shape:?}"),
                    format!("{found:?}{hint}"),
                ));
            }
            if let Some(dtype) = odd_type {
                return Err(Error::weights(
                    &origin,
                    name,
                    "floating-point values (F32, F16, BF16, F64)",
                    dtype,
                ));
            }
        }
        let shapes: HashMap<String, Vec<usize>> = expected.into_iter().collect();
        let mut foreign = Vec::new();
        for name in stored.names() {
            if shapes.contains_key(&name) || is_harmless(&name) {
                continue;
            }
            if name == "lm_head.weight" {
                check_tied(&stored, &origin)?;
            } else if name.starts_with("model.") || name.starts_with("blk.") || name.starts_with("lm_head.") {
                return Err(Error::weights(&origin, &name, extra(config, &name), "it in the file"));
            } else {
                foreign.push(name);
            }
        }
        if let Some(first) = foreign.first() {
            notes.push(format!(
                "{} tensors that are no part of the model are left unread: {} …",
                foreign.len(),
                quote(first)
            ));
        }
        Ok(Self { stored, origin, shapes })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<Vec<f32>> {
        // From here on a value would round to infinity.
        let limit = match dtype {
            DType::F32 | DType::F64 => f32::INFINITY,
            DType::BF16 => f32::from_bits(0x7f7f_8000),
            DType::F16 => 65_520.0,
            other => {
                let expected = "a request for floating-point values";
                return Err(Error::weights(&self.origin, name, expected, format!("one for {other:?}")));
            }
        };
        let values = self.stored.read_f32(name)?;
        // NaN compares with nothing, so it is not below the limit either.
        let bad = values
            .par_iter()
            .position_first(|x| !matches!(x.abs().partial_cmp(&limit), Some(std::cmp::Ordering::Less)));
        match bad {
            Some(i) => {
                let expected = format!("values that are finite as {dtype:?}");
                Err(Error::weights(&self.origin, name, expected, format!("{} at element {i}", values[i])))
            }
            None => Ok(values),
        }
    }
}

/// Why the configuration has no place for a tensor.
fn extra(config: &LlamaConfig, name: &str) -> String {
    match layer_of(name) {
        Some(layer) if layer >= config.num_layers => {
            format!("layers 0 to {} (num_hidden_layers = {})", config.num_layers - 1, config.num_layers)
        }
        _ if name.ends_with(".bias") => {
            format!("no such bias in a model of type {} with these bias keys", config.arch.model_type())
        }
        _ => format!("no such tensor in a model of type {}", config.arch.model_type()),
    }
}

/// A file may repeat a tied embedding as the output projection, but not contradict it.
fn check_tied(stored: &impl Stored, origin: &str) -> Result<()> {
    let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
    let same_shape =
        stored.info(head).map(|(shape, _)| shape) == stored.info(embedding).map(|(shape, _)| shape);
    let equal = same_shape && {
        let (a, b) = (stored.read_f32(head)?, stored.read_f32(embedding)?);
        a.par_iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    match equal {
        true => Ok(()),
        false => {
            let expected = "the values of model.embed_tokens.weight, since tie_word_embeddings is true";
            Err(Error::weights(
                origin,
                head,
                expected,
                "others; set tie_word_embeddings to false if they count",
            ))
        }
    }
}

impl<S: Stored> TensorSource for Weights<S> {
    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.shapes.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(shape) = self.shapes.get(name) else {
            let error = Error::weights(&self.origin, name, "a tensor of the model", "nothing of that name");
            return Err(candle_core::Error::wrap(error));
        };
        let values = self.read(name, dtype).map_err(candle_core::Error::wrap)?;
        Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }
}
