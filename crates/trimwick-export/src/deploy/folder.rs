//! A model as a folder of safetensors: packed or plain, in one file or several.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trimwick_formats::checkpoint::RealFs;
use trimwick_formats::packed::sparse24;
use trimwick_formats::safetensors::{Dtype, NewTensor, Writer};
use trimwick_formats::{Error as FormatError, atomic_write};
use trimwick_kernels::quant::Code;
use trimwick_quant::{Granularity, QuantSpec};

use super::config::{self, Kv, Named};
use super::fit::{self, Form, refused};
use super::model::{Piece, Subject, Trained};
use super::part::{self, Slot, floats_as, matrix};
use super::target::{DeployOptions, Target};
use super::{companions, fused};
use crate::files::check_space;
use crate::{Error, Result};

/// A tensor of the folder.
struct Stored<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    /// Floats of the type.
    Plain(&'a Piece),
    /// Of a 2:4 weight of floats of a type: the kept ones, or their places.
    Kept(&'a Piece, Dtype, bool),
    /// A part of a packed weight.
    Part(&'a Piece, Slot),
    Bytes(Vec<u8>),
}

impl Stored<'_> {
    fn bytes(&self) -> u64 {
        self.dtype.byte_len(&self.shape).unwrap_or(u64::MAX)
    }

    fn write(&self, out: &mut dyn Write) -> Result<()> {
        let bytes = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Plain(piece) => floats_as(self.dtype, &piece.values()?),
            Content::Part(piece, slot) => part::bytes(slot, &piece.quantized()?)?,
            Content::Kept(piece, dtype, meta) => {
                let values = floats_as(*dtype, &piece.values()?);
                let (kept, places) = sparse24::compress(&values, matrix(&piece.shape)[1], dtype.bits() / 8)?;
                if *meta { places } else { kept }
            }
        };
        Ok(out.write_all(&bytes).map_err(|e| FormatError::io(&self.name, "write", e))?)
    }
}

/// What the folder holds, in a few words.
pub(crate) struct Written {
    pub layers: Vec<Named>,
    pub notes: Vec<String>,
}

/// Writes the folder beside its place. It gets its name by [`Aside::finish`].
pub(crate) fn write(
    trained: &Trained<'_>,
    pieces: &[Piece],
    options: &DeployOptions,
    folder: &Path,
) -> Result<Written> {
    let mut notes = Vec::new();
    let mut layers = Vec::new();
    let mut forms: BTreeMap<&str, Form> = BTreeMap::new();
    let mut members = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.weight.is_some()) {
        let (form, global) = form(piece, options)?;
        let (Some(weight), Some(form)) = (piece.weight, form) else { continue };
        layers.push(Named { path: piece.path.clone(), weight, input: piece.input, format: form.format });
        members.push((&**piece, global));
        forms.insert(&piece.name, form);
    }
    let packs = matches!(options.target, Target::CompressedTensors | Target::ModelOpt);
    if packs {
        if layers.is_empty() {
            return Err(Error::NothingQuantized { target: options.target });
        }
        let all: Vec<&Subject> = pieces.iter().map(|piece| &**piece).collect();
        fused::check(options.target, &members, &all)?;
        fused::one_algorithm(options.target, &layers, &members)?;
    }
    let mut tensors = Vec::new();
    for piece in pieces {
        plain_or_packed(piece, forms.remove(piece.name.as_str()), options, &mut tensors)?;
    }
    let kv = if packs { kv_tensors(trained, options.target, &mut tensors, &mut notes)? } else { None };
    let ignored: Vec<String> = pieces
        .iter()
        .filter(|piece| piece.linear && piece.weight.is_none())
        .map(|piece| piece.path.clone())
        .collect();
    let mut config = trained.config.to_hf_json(options.dense.torch());
    match options.target {
        Target::CompressedTensors => {
            config["quantization_config"] = config::compressed(&layers, &ignored, &kv);
        }
        Target::ModelOpt => {
            config["quantization_config"] = config::modelopt(&layers, &ignored, &kv);
            json_file(&folder.join("hf_quant_config.json"), &config::modelopt_file(&layers, &ignored, &kv))?;
        }
        Target::Sparse24 => config["quantization_config"] = config::container(&layers),
        Target::Hf | Target::Gguf => {}
    }
    let total: u64 = tensors.iter().map(Stored::bytes).fold(0, u64::saturating_add);
    check_space(&RealFs, &folder.join("model.safetensors"), total)?;
    shards(&tensors, options.shard_bytes, total, folder)?;
    json_file(&folder.join("config.json"), &config)?;
    if let Some(tokenizer) = trained.tokenizer {
        tokenizer.save_json(&folder.join("tokenizer.json"))?;
    }
    if let Some(from) = &options.companions {
        companions::copy(from, folder)?;
    }
    Ok(Written { layers, notes })
}

/// The packed form of a quantized weight, none where the target keeps plain floats, and its scale of the tensor.
fn form(piece: &Piece, options: &DeployOptions) -> Result<(Option<Form>, f32)> {
    let q = piece.quantized()?;
    let refused = |refusal| refused(options.target, piece, refusal);
    let sparse = options.target == Target::Sparse24 && sparse(piece)?;
    let form = fit::form(options.target, piece, &q, options.dense, sparse).map_err(refused)?;
    if form.is_none() && !q.dequantize().iter().all(|&v| options.dense.holds(v)) {
        let problem = format!("its values are not all numbers of {}", options.dense.torch());
        return Err(refused((problem, "set dense = \"f32\"; compressed-tensors and gguf hold codes")));
    }
    Ok((form, q.global))
}

/// Whether a weight's mask keeps at most two of every four.
fn sparse(piece: &Piece) -> Result<bool> {
    let [_, row] = matrix(&piece.shape);
    if piece.shape.len() != 2 || !row.is_multiple_of(4) {
        return Ok(false);
    }
    let Some(mask) = piece.mask()? else { return Ok(false) };
    let pairs = |byte: &u8| (byte & 15).count_ones() <= 2 && (byte >> 4).count_ones() <= 2;
    Ok(mask.iter().all(pairs))
}

fn plain_or_packed<'a>(
    piece: &'a Piece,
    form: Option<Form>,
    options: &DeployOptions,
    out: &mut Vec<Stored<'a>>,
) -> Result<()> {
    let dtype = options.dense.dtype();
    let path = &piece.path;
    let mut put = |name: String, dtype, shape: &[usize], content| {
        out.push(Stored { name, dtype, shape: shape.into(), content });
    };
    if let Some(form) = form {
        for slot in form.slots {
            let name = format!("{path}.{}", slot.part);
            put(name, slot.dtype, &slot.shape.clone(), Content::Part(piece, slot));
        }
    } else if options.target == Target::Sparse24 && sparse(piece)? {
        let [n, k] = matrix(&piece.shape);
        let shape = [n, k].iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect();
        put(format!("{path}.weight_values"), dtype, &[n, k / 2], Content::Kept(piece, dtype, false));
        put(format!("{path}.weight_meta"), Dtype::U8, &[n, k.div_ceil(8)], Content::Kept(piece, dtype, true));
        put(format!("{path}.weight_shape"), Dtype::I64, &[2], Content::Bytes(shape));
    } else {
        put(piece.name.clone(), dtype, &piece.shape, Content::Plain(piece));
    }
    Ok(())
}

/// The scales of keys and values, where the target has a place for them.
fn kv_tensors<'a>(
    trained: &Trained<'_>,
    target: Target,
    out: &mut Vec<Stored<'a>>,
    notes: &mut Vec<String>,
) -> Result<Kv> {
    let scales = trained.kv_scales()?;
    let slots = trained.store.kv_slots();
    let quantized = slots.iter().filter(|slot| !trimwick_quant::kv::quantizers(slot).is_empty()).count();
    let fits = |spec: &QuantSpec| {
        spec.granularity == Granularity::Tensor
            && (spec.code == Code::E4M3 || spec.code == Code::Int { bits: 8 } && target != Target::ModelOpt)
    };
    let Some((_, spec, ..)) = scales.first().filter(|(_, spec, ..)| fits(spec) && scales.len() == quantized)
    else {
        if quantized > 0 {
            notes.push(
                "keys and values were trained quantized, in a way that this format has no scales for".into(),
            );
        }
        return Ok(None);
    };
    for (path, _, k, v) in &scales {
        let names = match target {
            Target::ModelOpt => [format!("{path}.k_proj.k_scale"), format!("{path}.v_proj.v_scale")],
            _ => [format!("{path}.k_scale"), format!("{path}.v_scale")],
        };
        for (name, scale) in names.into_iter().zip([k, v]) {
            let content = Content::Bytes(scale.to_le_bytes().to_vec());
            out.push(Stored { name, dtype: Dtype::F32, shape: vec![1], content });
        }
    }
    Ok(Some(*spec))
}

/// Writes the tensors in one file, or in several with an index.
fn shards(tensors: &[Stored<'_>], limit: u64, total: u64, folder: &Path) -> Result<()> {
    let mut files: Vec<Vec<&Stored<'_>>> = vec![Vec::new()];
    let mut room = limit;
    for tensor in tensors {
        let bytes = tensor.bytes();
        if bytes > room && files.last().is_some_and(|file| !file.is_empty()) {
            files.push(Vec::new());
            room = limit;
        }
        room = room.saturating_sub(bytes);
        if let Some(file) = files.last_mut() {
            file.push(tensor);
        }
    }
    let count = files.len();
    let mut map = BTreeMap::new();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    for (i, file) in files.iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let streams = file.iter().map(|tensor| {
            NewTensor::stream(tensor.name.clone(), tensor.dtype, &tensor.shape, move |out| {
                Ok(tensor.write(out)?)
            })
        });
        Writer::new(streams, &metadata)?.save(folder.join(&name))?;
        map.extend(file.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        json_file(&folder.join("model.safetensors.index.json"), &index)?;
    }
    Ok(())
}

fn json_file(path: &Path, value: &Value) -> Result<()> {
    let mut text = format!("{value:#}");
    text.push('\n');
    Ok(atomic_write(path, text.as_bytes())?)
}

/// A folder beside the final one, gone with the value.
pub(crate) struct Aside {
    pub path: PathBuf,
}

impl Aside {
    /// # Errors
    /// [`Error::Occupied`] where something is there that may not be replaced.
    pub(crate) fn new(out: &Path, replace: bool) -> Result<Self> {
        let what = match fs::read_dir(out) {
            Ok(mut entries) => {
                (entries.next().is_some() && !replace).then_some("a folder with files is there already")
            }
            Err(_) => out.exists().then_some("a file is there, and this export is a folder"),
        };
        if let Some(what) = what {
            return Err(Error::Occupied { path: out.into(), what, forcible: out.is_dir() });
        }
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".tmp-{}", std::process::id()));
        let path = out.with_file_name(name);
        fs::create_dir_all(&path).map_err(|e| FormatError::io(&path, "create the folder", e))?;
        Ok(Self { path })
    }

    /// Gives the folder its name; what was there goes.
    pub(crate) fn finish(self, out: &Path) -> Result<()> {
        let io = |doing: &'static str| move |e| Error::from(FormatError::io(out, doing, e));
        let mut old = self.path.clone().into_os_string();
        old.push("-old");
        let old = PathBuf::from(old);
        if out.exists() {
            fs::rename(out, &old).map_err(io("put the old folder aside"))?;
        }
        fs::rename(&self.path, out).map_err(io("name the folder"))?;
        let parent = out.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io("sync the folder above"))?;
        // Best effort: the new one is in its place.
        let _ = fs::remove_dir_all(&old);
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Best effort: nothing of it has a name that anyone looks for.
        let _ = fs::remove_dir_all(&self.path);
    }
}
