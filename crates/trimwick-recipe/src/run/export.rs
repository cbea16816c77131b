//! Writing the model, and proving that the written bytes are what was trained.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trimwick_formats::atomic_write;
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};
use trimwick_kernels as kernels;
use trimwick_models::{LlamaConfig, Tokenizer};
use trimwick_nn::{Layer, Param, ParamStore, Role};
use trimwick_sparse::{Pattern, bits};

use super::error::{Result, RunError};
use super::snapshot;
use crate::ExportDtype;

/// File of the masks beside the weights.
const MASKS: &str = "masks.safetensors";
/// File of the weights.
const WEIGHTS: &str = "model.safetensors";

/// Shape and f32 values of every parameter, by name.
type Folded = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// What was written and proved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    pub(crate) parameters: usize,
    pub(crate) zeros: usize,
    pub(crate) groups: usize,
    pub(crate) groups_violating: usize,
    pub(crate) bytes: u64,
    pub(crate) digests: BTreeMap<String, String>,
}

/// Writes a folder that transformers, stock candle and this program load, reopens it and proves it.
pub(crate) fn export(
    store: &ParamStore,
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    dtype: ExportDtype,
    pattern: Option<Pattern>,
    folder: &Path,
) -> Result<Written> {
    std::fs::create_dir_all(folder).map_err(|source| RunError::Io { path: folder.into(), source })?;
    let (dtype, dtype_name) = match dtype {
        ExportDtype::BF16 => (Dtype::BF16, "bfloat16"),
        ExportDtype::F16 => (Dtype::F16, "float16"),
        ExportDtype::F32 => (Dtype::F32, "float32"),
    };
    let weights = folder.join(WEIGHTS);
    let folded = fold(store)?;
    let tensors = folded.iter().map(|(name, (shape, values))| NewTensor::floats(name, dtype, shape, values));
    write(&weights, tensors, &BTreeMap::from([("format".into(), "pt".into())]))?;
    let config = serde_json::to_vec_pretty(&config.to_hf_json(dtype_name))
        .map_err(|source| RunError::Record { path: folder.join("config.json"), source })?;
    atomic_write(folder.join("config.json"), &config)?;
    tokenizer.save_json(&folder.join("tokenizer.json"))?;
    let mut files = vec!["config.json", WEIGHTS, "tokenizer.json"];
    if store.params().iter().any(|p| snapshot::is_mask(p.name())) {
        snapshot::save(store, &folder.join(MASKS), snapshot::is_mask)?;
        files.push(MASKS);
    }

    let mut written = prove(store, &folded, &weights, pattern)?;
    for name in files {
        written.digests.insert(name.into(), digest(&folder.join(name))?);
    }
    Ok(written)
}

/// Every parameter as the model computes with it: reparametrized weights folded, f32, by name.
fn fold(store: &ParamStore) -> Result<Folded> {
    let layers = store.layers();
    let effective = |p: &Param| -> Result<Tensor> {
        let of = layers.iter().find(|l| l.weight().name() == p.name());
        Ok(of.map_or_else(|| p.value(), Layer::effective_weight)?.detach())
    };
    // What belongs to a quantizer is in the weights that it made.
    let params =
        store.params().into_iter().filter(|p| p.role() != Role::Buffer && !trimwick_quant::owns(p.name()));
    params
        .map(|p| {
            let values = effective(&p)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            Ok((p.name().to_string(), (p.shape().dims().to_vec(), values)))
        })
        .collect()
}

/// Reopens the file: every tensor there, of the right shape and with the bits of the fold; every dropped weight
/// +0.0 in the file's own dtype; no group of the pattern violated.
fn prove(store: &ParamStore, folded: &Folded, path: &Path, pattern: Option<Pattern>) -> Result<Written> {
    let fault =
        |tensor: &str, what: String| RunError::Proof { path: path.into(), tensor: tensor.into(), what };
    let file = SafetensorsFile::open(path)?;
    if file.tensors().len() != folded.len() {
        return Err(fault("file", format!("{} tensors, expected {}", file.tensors().len(), folded.len())));
    }
    let layers = store.layers();
    let mut out = Written {
        parameters: 0,
        zeros: 0,
        groups: 0,
        groups_violating: 0,
        bytes: file.total_bytes(),
        digests: BTreeMap::new(),
    };
    for (name, (shape, values)) in folded {
        let info = file.info(name)?;
        if &info.shape != shape {
            return Err(fault(name, format!("shape {:?}, expected {shape:?}", info.shape)));
        }
        let read = file.read_f32(name)?;
        let rounded = |v: f32| match info.dtype {
            Dtype::BF16 => half::bf16::from_f32(v).to_f32(),
            Dtype::F16 => half::f16::from_f32(v).to_f32(),
            _ => v,
        };
        if let Some(i) = (0..read.len()).find(|&i| read[i].to_bits() != rounded(values[i]).to_bits()) {
            return Err(fault(name, format!("element {i} is {}, expected {}", read[i], rounded(values[i]))));
        }
        out.parameters += read.len();
        out.zeros += read.iter().filter(|v| v.to_bits() == 0).count();
        let Some(layer) = layers.iter().find(|l| l.weight().name() == name) else { continue };
        let Some(mask) = bits(layer)? else { continue };
        let dropped = |i: usize| mask[i / 8] >> (i % 8) & 1 == 0;
        if let Some(i) = (0..read.len()).find(|&i| dropped(i) && read[i].to_bits() != 0) {
            return Err(fault(name, format!("element {i} is pruned but holds {}", read[i])));
        }
        if let Some(Pattern::Nm { n, m }) = pattern {
            let cols = shape.last().copied().unwrap_or(1);
            out.groups += read.len() / m;
            let violating = kernels::violations_nm(&read, cols, n, m);
            if violating > 0 {
                return Err(fault(name, format!("{violating} groups break the pattern {n}:{m}")));
            }
        }
    }
    Ok(out)
}

/// SHA-256 of a file, in hex.
fn digest(path: &Path) -> Result<String> {
    let io = |source| RunError::Io { path: PathBuf::from(path), source };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}
