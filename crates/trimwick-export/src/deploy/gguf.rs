//! A model as one GGUF file.

use std::cell::RefCell;
use std::path::Path;

use trimwick_formats::atomic_write_on;
use trimwick_formats::blocks::{GgmlType, encode_floats};
use trimwick_formats::checkpoint::RealFs;
use trimwick_formats::floats::f32_to_le_bytes;
use trimwick_formats::gguf::{NewTensor, Value, Writer};
use trimwick_models::{hf_to_gguf, permute_rows, permuted_heads};

use super::blocks;
use super::companions::chat_template;
use super::fit::refused;
use super::model::{Piece, Trained};
use super::target::{Dense, DeployOptions, Target};
use crate::files::{check_output, check_space};
use crate::proved::Proved;
use crate::{Error, Result};

/// Writes the file, proves it with `prove`, and gives it its name.
pub(crate) fn write(
    trained: &Trained<'_>,
    options: &DeployOptions,
    out: &Path,
    prove: &(dyn Fn(&Path) -> Result<()> + Sync),
) -> Result<()> {
    check_output(out, options.replace, std::iter::empty())?;
    let pieces = trained.pieces()?;
    let kinds = pieces.iter().map(|piece| kind(piece, options.dense)).collect::<Result<Vec<_>>>()?;
    let keys = keys(trained, options, &pieces, &kinds)?;
    let permuted = trained.config.gguf_architecture() == "llama";
    let heads = |piece: &Piece| permuted_heads(trained.config, &piece.name).filter(|_| permuted);
    let globals: RefCell<Vec<(String, Vec<u8>)>> = RefCell::default();
    for (piece, kind) in pieces.iter().zip(&kinds) {
        // Nothing is written before it is known that every scale fits.
        if piece.weight.is_some() {
            let packed = pack(piece, heads(piece))?;
            debug_assert_eq!(packed.dtype, *kind);
            if let (Some(global), Some(name)) = (packed.global, hf_to_gguf(&piece.name)) {
                let name = name.strip_suffix(".weight").unwrap_or(&name);
                globals.borrow_mut().push((format!("{name}.scale"), f32_to_le_bytes(&[global])));
            }
        }
    }
    let globals = globals.into_inner();
    let divisors = trained.config.rope_divisors().map(|divisors| f32_to_le_bytes(&divisors));
    let mut tensors = Vec::new();
    if let Some(divisors) = &divisors {
        let shape = [trained.config.head_dim / 2];
        tensors.push(NewTensor::bytes("rope_freqs.weight", GgmlType::F32, &shape, divisors));
    }
    for (piece, kind) in pieces.iter().zip(&kinds) {
        let name = hf_to_gguf(&piece.name).ok_or_else(|| Error::Store {
            tensor: piece.name.clone(),
            expected: "a tensor that GGUF has a name for".into(),
            found: "none".into(),
        })?;
        let (heads, kind) = (heads(piece), *kind);
        tensors.push(NewTensor::stream(name, kind, &piece.shape, move |out| {
            let bytes = match piece.weight {
                Some(_) => pack(piece, heads)?.bytes,
                None => {
                    let mut values = piece.values()?;
                    if let Some(heads) = heads {
                        values = permute_rows(&values, heads, piece.shape.get(1).copied().unwrap_or(1));
                    }
                    encode_floats(kind, &values).map_err(Error::from)?
                }
            };
            out.write_all(&bytes)
        }));
    }
    tensors.extend(globals.iter().map(|(name, bytes)| NewTensor::bytes(name, GgmlType::F32, &[1], bytes)));
    let writer = Writer::new(&keys, tensors)?;
    check_space(&RealFs, out, writer.file_len())?;
    atomic_write_on(&Proved { fs: &RealFs, prove }, out, |out| writer.write_to(out))?;
    Ok(())
}

fn pack(piece: &Piece, heads: Option<usize>) -> Result<blocks::Blocks> {
    blocks::pack(&piece.quantized()?, heads).map_err(|refusal| refused(Target::Gguf, piece, refusal))
}

/// How a tensor is stored: norms and biases always in full.
fn kind(piece: &Piece, dense: Dense) -> Result<GgmlType> {
    match piece.weight {
        Some(_) => blocks::dtype(&piece.quantized()?).map_err(|why| refused(Target::Gguf, piece, why)),
        None if piece.shape.len() < 2 => Ok(GgmlType::F32),
        None => Ok(dense.ggml()),
    }
}

fn keys(
    trained: &Trained<'_>,
    options: &DeployOptions,
    pieces: &[Piece],
    kinds: &[GgmlType],
) -> Result<Vec<(String, Value)>> {
    let mut keys = trained.config.to_gguf(&options.name)?;
    keys.insert(1, ("general.name".into(), Value::String(options.name.clone())));
    keys.insert(2, ("general.file_type".into(), Value::U32(file_type(pieces, kinds, options.dense))));
    keys.insert(3, ("general.quantization_version".into(), Value::U32(2)));
    let tokenizer = trained.tokenizer.ok_or_else(|| Error::NoTokenizer { name: options.name.clone() })?;
    let template = options.companions.as_deref().map(chat_template).transpose()?.flatten();
    keys.extend(tokenizer.to_gguf(trained.config, template.as_deref())?);
    Ok(keys)
}

/// `general.file_type`, by the type of most values.
fn file_type(pieces: &[Piece], kinds: &[GgmlType], dense: Dense) -> u32 {
    let matrices = pieces.iter().zip(kinds).filter(|(piece, _)| piece.shape.len() >= 2);
    let mut counts = std::collections::BTreeMap::new();
    for (piece, kind) in matrices {
        *counts.entry(*kind).or_insert(0) += piece.shape.iter().product::<usize>();
    }
    let most = counts.into_iter().max_by_key(|(_, values)| *values).map_or(dense.ggml(), |(kind, _)| kind);
    match most {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::MXFP4 => 38,
        GgmlType::NVFP4 => 39,
        _ => 32,
    }
}
