//! Folders of packed weights, dequantized as they are read: compressed-tensors, ModelOpt, GPTQ, AWQ, and our container.
//!
//! A packed weight `L.weight` is several tensors under `L`. Which layout it has is told by which of them are there and
//! of what type; the configuration says which writer to expect. Values are (q − z) · s in f32, in the order in which
//! fake-quantization computes them, so that a model that was trained on a grid reads back bit for bit.
//!
//! Every part is compared with every other before a value is read. What activations are rounded to is not taken over:
//! the model computes with its weights alone, and a note says so.

mod coded;
mod container;
mod form;
mod gptq;
mod parts;
mod scales;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trimwick_formats::folder::ModelFolder;

use super::coded::Coded;
use super::weights::Stored;
use crate::error::{Error, Result};
use form::Form;
use parts::Parts;

/// Who packed the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// compressed-tensors and ModelOpt.
    Tensors,
    Gptq {
        bits: u32,
        /// Whether zero points are stored as they are, and not less one.
        v2: bool,
    },
    Awq,
    /// The 2:4 container.
    Container,
}

/// Methods that are read.
pub(crate) const METHODS: [&str; 5] = ["compressed-tensors", "modelopt", "gptq", "awq", "trimwick"];

impl Method {
    /// What `quantization_config` of a `config.json` says, or the whole of a `hf_quant_config.json`; `None` where the
    /// weights are plain.
    pub(super) fn of(config: &Value, origin: &str) -> Result<Option<Self>> {
        let Some(table) = config.get("quantization_config").filter(|v| !v.is_null()) else {
            return Ok(None);
        };
        let key = |name: &str| format!("quantization_config.{name}");
        let text = |name: &str| table.get(name).and_then(Value::as_str);
        let bits = |default: Option<u64>| {
            let found = table.get("bits").or(table.get("w_bit")).and_then(Value::as_u64).or(default);
            match found {
                Some(bits @ (2 | 4 | 8)) => Ok(bits as u32),
                found => {
                    let found = found.map_or("nothing".into(), |bits| bits.to_string());
                    Err(Error::config(origin, key("bits"), "2, 4 or 8", found))
                }
            }
        };
        Ok(Some(match text("quant_method") {
            Some("compressed-tensors") => match text("quantization_status") {
                None | Some("compressed") => Self::Tensors,
                Some(other) => {
                    return Err(Error::config(origin, key("quantization_status"), "compressed", other));
                }
            },
            Some("modelopt") => Self::Tensors,
            Some("trimwick") => Self::Container,
            Some("gptq") => Self::Gptq {
                bits: bits(None)?,
                v2: text("checkpoint_format").is_some_and(|format| format == "gptq_v2"),
            },
            Some("awq") => {
                let version = text("version").unwrap_or("gemm").to_lowercase();
                if version != "gemm" || bits(Some(4))? != 4 {
                    let found = format!("{version}, {} bits", bits(Some(4))?);
                    return Err(Error::unsupported(origin, "AWQ layout", &found, "gemm with 4 bits"));
                }
                Self::Awq
            }
            other => {
                let supported = format!("{}; or the unquantized weights", METHODS.join(", "));
                let found = other.unwrap_or("unnamed");
                return Err(Error::unsupported(origin, "quantized checkpoint of method", found, supported));
            }
        }))
    }
}

/// A folder with weights of which some are packed.
pub(super) struct PackedFolder {
    folder: ModelFolder,
    /// The packed weights, by the names they have unpacked.
    forms: BTreeMap<String, Form>,
    /// Tensors that belong to them.
    parts: BTreeSet<String>,
}

impl PackedFolder {
    /// Finds the packed weights and checks their parts; `notes` is told of what is not taken over.
    pub(super) fn open(
        folder: ModelFolder,
        method: Method,
        origin: &str,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let mut forms = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let mut inputs = 0;
        for base in bases(&folder) {
            let mut parts = Parts::new(&folder, &base, origin);
            if let Some(form) = form::find(&mut parts, method)? {
                forms.insert(format!("{base}.weight"), form);
            }
            inputs += usize::from(parts.takes_inputs());
            taken.extend(parts.taken());
        }
        if forms.is_empty() {
            let expected = "a packed weight, as quantization_config says";
            return Err(Error::weights(origin, "*.weight", expected, "none"));
        }
        if inputs > 0 {
            notes.push(format!(
                "{inputs} layers also say how their inputs, keys or values are rounded: that is not taken over, \
                 and the model computes them in full"
            ));
        }
        if matches!(method, Method::Gptq { .. }) {
            // Old writers gave every layer a bias, zero where the model has none.
            for name in folder.names().filter(|name| name.ends_with(".bias")) {
                if folder.read_f32(name)?.iter().all(|&v| v == 0.) {
                    taken.insert(name.to_string());
                }
            }
        }
        Ok(Self { folder, forms, parts: taken })
    }
}

/// Everything in front of the last dot of a tensor's name.
fn bases(folder: &ModelFolder) -> BTreeSet<String> {
    folder.names().filter_map(|name| Some(name.rsplit_once('.')?.0.to_string())).collect()
}

impl Stored for PackedFolder {
    fn names(&self) -> Vec<String> {
        let plain = self.folder.names().filter(|name| !self.parts.contains(*name)).map(str::to_string);
        plain.chain(self.forms.keys().cloned()).collect()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Option<String>)> {
        match self.forms.get(name) {
            Some(form) => Some((vec![form.rows, form.cols], None)),
            None => Stored::info(&self.folder, name),
        }
    }

    fn coded(&self, name: &str) -> Result<Option<Coded>> {
        match self.forms.get(name) {
            Some(form) => Ok(form.coded(&self.folder)?.map(Coded::Codes)),
            None => Stored::coded(&self.folder, name),
        }
    }

    fn is_packed(&self) -> bool {
        true
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.forms.get(name) {
            Some(form) => form.read(&self.folder),
            None => Ok(self.folder.read_f32(name)?),
        }
    }
}
