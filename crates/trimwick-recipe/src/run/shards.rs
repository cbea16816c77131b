//! Writing a streamed model: a shard for each of its pieces, proved as soon as it is written.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};
use trimwick_formats::{atomic_write, sha256_file};
use trimwick_nn::{ParamStore, StreamedLm};

use super::error::{Result, RunError};
use super::event::{Event, Report};
use super::export::{Aside, Masked, Written, check_range, dtype_of, fold, prove, texts};
use super::finish::on_grid;
use super::masks::MASKS;
use super::origin::Origin;
use super::quantize::{Quantization, Tally};
use super::snapshot::is_mask;
use super::stored::Stored;
use crate::Recipe;

/// Which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// Where a mask is to be read from.
enum MaskAt {
    /// The file of a block.
    Block(usize),
    /// The ends have few.
    Memory(Vec<u8>),
}

/// What was written so far.
struct Shards<'a> {
    recipe: &'a Recipe,
    masked: &'a Masked,
    written: Written,
    /// Shards by the names of their tensors.
    of: BTreeMap<String, String>,
    masks: BTreeMap<String, MaskAt>,
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
) -> Result<(Written, Option<Quantization>)> {
    let aside = Aside::new(folder)?;
    let (blocks, total) = (stored.blocks(), stored.blocks() + 2);
    let (written, of, masks) = (Written::default(), BTreeMap::new(), BTreeMap::new());
    let mut shards = Shards { recipe, masked, written, of, masks, proved: 0 };
    let mut tally = recipe.quantize.as_ref().map(Tally::new);
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
                let end = if piece == 0 { stored.load_embedding()? } else { stored.load_head()? };
                origin.carried.put_on_part(&end.store.layers())?;
                end.store
            }
        };
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
    Ok((written, quantized))
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
        for mask in store.params().iter().filter(|p| is_mask(p.name())) {
            let at = match block {
                Some(index) => MaskAt::Block(index),
                None => MaskAt::Memory(mask.tensor().to_vec1::<u8>()?),
            };
            self.masks.insert(mask.name().to_string(), at);
        }
        Ok(())
    }

    /// Writes the index and the masks.
    fn close(&self, stored: &Stored<'_>, to: &Path, files: &mut Vec<String>) -> Result<()> {
        if self.proved != self.masked.len() {
            let what = format!("{} of {} pruned layers were written", self.proved, self.masked.len());
            return Err(RunError::Proof { path: to.into(), tensor: "file".into(), what });
        }
        let path = to.join(INDEX);
        let index = json!({ "metadata": { "total_size": self.written.bytes }, "weight_map": self.of });
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|source| RunError::Record { path: path.clone(), source })?;
        atomic_write(&path, &text)?;
        files.push(INDEX.into());
        if self.masks.is_empty() {
            return Ok(());
        }
        let mut tensors = Vec::with_capacity(self.masks.len());
        for (name, at) in &self.masks {
            tensors.push(match at {
                MaskAt::Memory(bits) => NewTensor::bytes(name, Dtype::U8, &[bits.len()], bits),
                MaskAt::Block(index) => {
                    let path = stored.path(*index);
                    let shape = SafetensorsFile::open(&path)?.info(name)?.shape.clone();
                    NewTensor::stream(name, Dtype::U8, &shape, move |out| {
                        let bits = SafetensorsFile::open(&path).and_then(|file| file.read_raw(name));
                        out.write_all(&bits.map_err(std::io::Error::other)?)
                    })
                }
            });
        }
        write(to.join(MASKS), tensors, &BTreeMap::new())?;
        files.push(MASKS.into());
        Ok(())
    }
}
