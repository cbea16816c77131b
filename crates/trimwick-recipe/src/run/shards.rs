//! Writing a streamed model: a shard for each of its pieces, proved as soon as it is written.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};
use trimwick_formats::{atomic_write, sha256_file};
use trimwick_nn::{ParamStore, StreamedLm};

use super::error::{Result, RunError};
use super::event::{Event, Report};
use super::export::{Aside, INDEX, Masked, QUANTIZERS, Written, check_range, dtype_of, fold, prove, texts};
use super::finish::on_grid;
use super::inactive::Inactive;
use super::masks::{MASKED_LAYERS, MASKS};
use super::origin::Origin;
use super::quantize::{Quantization, Tally};
use super::snapshot::is_mask;
use super::stored::Stored;
use crate::Recipe;

/// Where a mask, or what a quantizer keeps, is to be read from.
enum At {
    /// The file of a block.
    Block(usize),
    /// Masks of the ends are few.
    Memory(Vec<u8>),
}

/// What was written so far.
struct Shards<'a> {
    recipe: &'a Recipe,
    masked: &'a Masked,
    written: Written,
    /// Shards by the names of their tensors.
    of: BTreeMap<String, String>,
    /// Masks and what quantizers keep, by name.
    beside: BTreeMap<String, At>,
    /// Layers of `masked` that were written.
    proved: usize,
}

/// Writes a sharded folder that transformers and this program load; each shard is reopened and proved. The files get their
/// names in `folder` when all are.
///
/// `go_on` is asked before each piece whether to end.
pub(crate) fn export(
    stored: &Stored<'_>,
    origin: &Origin,
    recipe: &Recipe,
    masked: &Masked,
    folder: &Path,
    go_on: &dyn Fn() -> Result<()>,
    report: Report<'_>,
) -> Result<(Written, Option<Quantization>, Inactive)> {
    let aside = Aside::new(folder)?;
    let (blocks, total) = (stored.blocks(), stored.blocks() + 2);
    let (written, of, beside) = (Written::default(), BTreeMap::new(), BTreeMap::new());
    let mut shards = Shards { recipe, masked, written, of, beside, proved: 0 };
    let mut tally = recipe.quantize.as_ref().map(Tally::new);
    let mut inactive = Inactive::default();
    let mut files = Vec::new();
    for piece in 0..total {
        go_on()?;
        report(Event::Part { done: piece, total, loss: None });
        let block = piece.checked_sub(1).filter(|&index| index < blocks);
        let store = match block {
            Some(index) => {
                let block = stored.load(index)?;
                if let (Some(tally), Some(schemes)) = (&mut tally, stored.schemes()) {
                    tally.add(&block.layers(), schemes)?;
                }
                block.store
            }
            None => {
                let store =
                    if piece == 0 { stored.load_embedding()?.store } else { stored.load_head()?.store };
                origin.carried.put_on_part(&store.layers())?;
                store
            }
        };
        inactive.add(&store.layers(), masked)?;
        let name = format!("model-{:05}-of-{total:05}.safetensors", piece + 1);
        shards.piece(&store, block, &aside.path.join(&name), &name)?;
        files.push(name);
    }
    report(Event::Part { done: total, total, loss: None });
    let quantized = tally.map(Tally::finish);
    on_grid(quantized.as_ref(), folder)?;
    shards.close(stored, &aside.path, &mut files)?;
    let (_, dtype_name) = dtype_of(recipe.export.dtype);
    files.extend(texts(origin, dtype_name, &aside.path)?.into_iter().map(str::to_string));
    let mut written = shards.written;
    for name in &files {
        written.digests.insert(name.clone(), sha256_file(aside.path.join(name))?);
    }
    aside.finish(folder, &files)?;
    Ok((written, quantized, inactive))
}

impl Shards<'_> {
    /// Writes and proves what no shard before holds.
    fn piece(&mut self, store: &ParamStore, block: Option<usize>, path: &Path, name: &str) -> Result<()> {
        let (dtype, dtype_name) = dtype_of(self.recipe.export.dtype);
        let mut folded = fold(store)?;
        // A tied head reads the embedding once more.
        folded.retain(|tensor, _| !self.of.contains_key(tensor));
        check_range(&folded, dtype, dtype_name)?;
        let tensors =
            folded.iter().map(|(name, (shape, values))| NewTensor::floats(name, dtype, shape, values));
        write(path, tensors, &BTreeMap::from([("format".into(), "pt".into())]))?;
        let layers = store.layers();
        let mut masked = self.masked.clone();
        masked.retain(|path, _| layers.get(path).is_some_and(|l| folded.contains_key(l.weight().name())));
        let part = prove(store, &folded, path, &masked)?;
        self.proved += masked.len();
        self.written.parameters += part.parameters;
        self.written.zeros += part.zeros;
        self.written.groups += part.groups;
        self.written.groups_violating += part.groups_violating;
        self.written.bytes += part.bytes;
        self.of.extend(folded.into_keys().map(|tensor| (tensor, name.to_string())));
        for kept in store.params().iter().filter(|p| is_mask(p.name()) || trimwick_quant::owns(p.name())) {
            let at = match block {
                Some(index) => At::Block(index),
                None => At::Memory(kept.tensor().to_vec1::<u8>()?),
            };
            self.beside.insert(kept.name().to_string(), at);
        }
        Ok(())
    }

    /// Writes the index, the masks, and what quantizers keep.
    fn close(&self, stored: &Stored<'_>, to: &Path, files: &mut Vec<String>) -> Result<()> {
        if self.proved != self.masked.len() {
            let what = format!("{} of {} pruned layers were written", self.proved, self.masked.len());
            return Err(RunError::Proof { path: to.into(), tensor: "file".into(), what });
        }
        let path = to.join(INDEX);
        let masks = self.beside.keys().filter(|name| is_mask(name)).count();
        let mut metadata = json!({ "total_size": self.written.bytes });
        if masks > 0 {
            metadata[MASKED_LAYERS] = masks.to_string().into();
        }
        let index = json!({ "metadata": metadata, "weight_map": self.of });
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|source| RunError::Record { path: path.clone(), source })?;
        atomic_write(&path, &text)?;
        files.push(INDEX.into());
        self.gather(stored, to, MASKS, is_mask, files)?;
        self.gather(stored, to, QUANTIZERS, trimwick_quant::owns, files)
    }

    /// Writes what is beside the weights into one file, a tensor at a time.
    fn gather(
        &self,
        stored: &Stored<'_>,
        to: &Path,
        file: &str,
        wanted: impl Fn(&str) -> bool,
        files: &mut Vec<String>,
    ) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, at) in self.beside.iter().filter(|(name, _)| wanted(name)) {
            tensors.push(match at {
                At::Memory(bits) => NewTensor::bytes(name, Dtype::U8, &[bits.len()], bits),
                At::Block(index) => {
                    let path = stored.path(*index);
                    let block = SafetensorsFile::open(&path)?;
                    let (dtype, shape) = (block.info(name)?.dtype, block.info(name)?.shape.clone());
                    NewTensor::stream(name, dtype, &shape, move |out| {
                        let bytes = SafetensorsFile::open(&path).and_then(|file| file.read_raw(name));
                        out.write_all(&bytes.map_err(std::io::Error::other)?)
                    })
                }
            });
        }
        if !tensors.is_empty() {
            write(to.join(file), tensors, &BTreeMap::new())?;
            files.push(file.into());
        }
        Ok(())
    }
}
