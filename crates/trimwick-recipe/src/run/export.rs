//! Writing the model, and proving that the written bytes are what was trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};
use trimwick_formats::{atomic_write, read_small, sha256_file};
use trimwick_kernels as kernels;
use trimwick_nn::{Param, ParamStore, Role};
use trimwick_sparse::{Pattern, bits};

use super::error::{Result, RunError};
use super::masks::{MASKED_LAYERS, MASKS};
use super::origin::Origin;
use super::snapshot;
use crate::ExportDtype;

/// File of the weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// File that says which shard holds which tensor, of a model in shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// File of what quantizers keep beside the weights: scales, zero points, observed ranges. Scales of static inputs, keys and
/// values are nowhere else.
pub(crate) const QUANTIZERS: &str = "quantizers.safetensors";
/// Files that a fine-tuned model has in common with the one it came from.
const COMPANIONS: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Shape and f32 values of every parameter, by name.
pub(super) type Folded = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// What was written and proved.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    pub(crate) parameters: usize,
    pub(crate) zeros: usize,
    pub(crate) groups: usize,
    pub(crate) groups_violating: usize,
    pub(crate) bytes: u64,
    pub(crate) digests: BTreeMap<String, String>,
}

/// The layers that must have a mask by their paths, and the pattern where it is known.
pub(crate) type Masked = BTreeMap<String, Option<Pattern>>;

/// Writes a folder that transformers, stock candle and this program load, reopens it and proves it. The files get their
/// names in `folder` only then.
pub(crate) fn export(
    store: &ParamStore,
    origin: &Origin,
    dtype: ExportDtype,
    masked: &Masked,
    folder: &Path,
) -> Result<Written> {
    let (dtype, dtype_name) = dtype_of(dtype);
    let folded = fold(store)?;
    check_range(&folded, dtype, dtype_name)?;
    let aside = Aside::new(folder)?;
    let weights = aside.path.join(WEIGHTS);
    let tensors = folded.iter().map(|(name, (shape, values))| NewTensor::floats(name, dtype, shape, values));
    let masks = store.params().iter().filter(|p| snapshot::is_mask(p.name())).count();
    let mut metadata = BTreeMap::from([("format".into(), "pt".into())]);
    if masks > 0 {
        metadata.insert(MASKED_LAYERS.into(), masks.to_string());
    }
    write(&weights, tensors, &metadata)?;
    let mut files = vec![WEIGHTS];
    files.extend(texts(origin, dtype_name, &aside.path)?);
    if masks > 0 {
        snapshot::save(store, &aside.path.join(MASKS), snapshot::is_mask)?;
        files.push(MASKS);
    }
    if store.params().iter().any(|p| trimwick_quant::owns(p.name())) {
        snapshot::save(store, &aside.path.join(QUANTIZERS), trimwick_quant::owns)?;
        files.push(QUANTIZERS);
    }

    let mut written = prove(store, &folded, &weights, masked)?;
    for name in &files {
        written.digests.insert(name.to_string(), sha256_file(aside.path.join(name))?);
    }
    aside.finish(folder, &files)?;
    Ok(written)
}

/// The type of written weights, and what `config.json` calls it.
pub(super) fn dtype_of(dtype: ExportDtype) -> (Dtype, &'static str) {
    match dtype {
        ExportDtype::BF16 => (Dtype::BF16, "bfloat16"),
        ExportDtype::F16 => (Dtype::F16, "float16"),
        ExportDtype::F32 => (Dtype::F32, "float32"),
    }
}

/// Writes configuration and tokenizer, and what the model that the run started from has beside them.
pub(super) fn texts(origin: &Origin, dtype_name: &str, to: &Path) -> Result<Vec<&'static str>> {
    let config = serde_json::to_vec_pretty(&origin.config.to_hf_json(dtype_name))
        .map_err(|source| RunError::Record { path: to.join("config.json"), source })?;
    atomic_write(to.join("config.json"), &config)?;
    origin.tokenizer.save_json(&to.join("tokenizer.json"))?;
    let mut files = vec!["config.json", "tokenizer.json"];
    files.extend(companions(origin, to)?);
    Ok(files)
}

/// Files that other programs read beside the weights, taken over from the model that the run started from.
fn companions(origin: &Origin, to: &Path) -> Result<Vec<&'static str>> {
    const LARGEST: u64 = 16 << 20;
    let mut taken = Vec::new();
    for name in COMPANIONS {
        let Some(folder) = &origin.folder else { break };
        if let Some(bytes) = read_small(folder.join(name), LARGEST)? {
            atomic_write(to.join(name), &bytes)?;
            taken.push(name);
        }
    }
    Ok(taken)
}

/// Refuses weights that the type of the export cannot hold: before hours of training, not after them.
///
/// # Errors
/// [`RunError::Overflow`] with the tensor.
pub(crate) fn check_weights(store: &ParamStore, dtype: ExportDtype) -> Result<()> {
    match dtype {
        ExportDtype::F16 => check_range(&fold(store)?, Dtype::F16, "float16"),
        // Every f32 that trained weights come near fits.
        ExportDtype::BF16 | ExportDtype::F32 => Ok(()),
    }
}

/// A value that is finite now must be finite in the file.
pub(super) fn check_range(folded: &Folded, dtype: Dtype, name: &'static str) -> Result<()> {
    for (tensor, (_, values)) in folded {
        let infinite = |v: &f32| v.is_finite() && rounded(dtype, *v).is_infinite();
        if let Some(index) = values.iter().position(infinite) {
            let (tensor, value) = (tensor.clone(), values[index]);
            return Err(RunError::Overflow { tensor, index, value, dtype: name });
        }
    }
    Ok(())
}

/// A value as a file of the type holds it.
fn rounded(dtype: Dtype, v: f32) -> f32 {
    match dtype {
        Dtype::BF16 => half::bf16::from_f32(v).to_f32(),
        Dtype::F16 => half::f16::from_f32(v).to_f32(),
        _ => v,
    }
}

/// Every parameter as the model computes with it: reparametrized weights folded, what stands beside them included, f32, by
/// name.
pub(super) fn fold(store: &ParamStore) -> Result<Folded> {
    let layers = store.layers();
    let effective = |p: &Param| -> Result<Tensor> {
        let of = layers.iter().find(|l| l.weight().name() == p.name());
        match of {
            Some(layer) => Ok(trimwick_quant::whole_weight(layer)?),
            None => Ok(p.value()?.detach()),
        }
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
pub(super) fn prove(store: &ParamStore, folded: &Folded, path: &Path, masked: &Masked) -> Result<Written> {
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
        let rounded = |v: f32| rounded(info.dtype, v);
        if let Some(i) = (0..read.len()).find(|&i| read[i].to_bits() != rounded(values[i]).to_bits()) {
            return Err(fault(name, format!("element {i} is {}, expected {}", read[i], rounded(values[i]))));
        }
        out.parameters += read.len();
        out.zeros += read.iter().filter(|v| v.to_bits() == 0).count();
        let Some(layer) = layers.iter().find(|l| l.weight().name() == name) else { continue };
        let wanted = masked.get(layer.path());
        let Some(mask) = bits(layer)? else {
            if wanted.is_some() {
                return Err(fault(name, "has no mask, and the layer is pruned".into()));
            }
            continue;
        };
        let dropped = |i: usize| mask[i / 8] >> (i % 8) & 1 == 0;
        if let Some(i) = (0..read.len()).find(|&i| dropped(i) && read[i].to_bits() != 0) {
            return Err(fault(name, format!("element {i} is pruned but holds {}", read[i])));
        }
        match wanted.copied().flatten() {
            Some(Pattern::Nm { n, m }) => {
                let cols = shape.last().copied().unwrap_or(1);
                out.groups += read.len() / m;
                let violating = kernels::violations_nm(&read, cols, n, m);
                if violating > 0 {
                    return Err(fault(name, format!("{violating} groups break the pattern {n}:{m}")));
                }
            }
            Some(Pattern::Unstructured { sparsity }) => {
                let zeros = (0..read.len()).filter(|&i| dropped(i)).count();
                // Rows and blocks round their share one by one.
                let least = sparsity * read.len() as f64 - read.len() as f64 / 16. - 1.;
                if (zeros as f64) < least {
                    return Err(fault(
                        name,
                        format!("{zeros} of {} weights are dropped, expected {sparsity}", read.len()),
                    ));
                }
            }
            None => {}
        }
    }
    let proved = |path: &&String| layers.get(path).is_some_and(|l| folded.contains_key(l.weight().name()));
    if let Some(path) = masked.keys().find(|path| !proved(path)) {
        return Err(fault(path, "the layer is pruned and its weight was not written".into()));
    }
    Ok(out)
}

/// A folder beside the final one, gone with the value.
pub(super) struct Aside {
    pub(super) path: PathBuf,
}

impl Aside {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let mut name = folder.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let path = folder.with_file_name(name);
        let io = |source| RunError::Io { path: path.clone(), source };
        // One that a killed process left; the run's folder is this process's alone.
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(io)?;
        }
        std::fs::create_dir_all(&path).map_err(io)?;
        Ok(Self { path })
    }

    /// Moves the files to where they belong, each as a whole; the folder as a whole where there is none yet.
    pub(super) fn finish(self, folder: &Path, files: &[impl AsRef<str>]) -> Result<()> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| RunError::Io { path, source }
        };
        if !folder.exists() {
            std::fs::rename(&self.path, folder).map_err(io(folder))?;
        }
        for name in files.iter().map(AsRef::as_ref).filter(|_| self.path.exists()) {
            std::fs::rename(self.path.join(name), folder.join(name)).map_err(io(&folder.join(name)))?;
        }
        for written in [folder, folder.parent().unwrap_or(folder)] {
            std::fs::File::open(written).and_then(|folder| folder.sync_all()).map_err(io(written))?;
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Best effort: what is left is removed by the next run.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
