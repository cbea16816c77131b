//! Safetensors: a file, an index with its shards, a folder.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::read_small;
use trimwick_models::LlamaConfig;

use super::{Report, Tensor};
use crate::text::count;

pub(super) fn report(path: &Path, zeros: bool) -> Result<Report> {
    let folder = ModelFolder::open(path)?;
    let mut report = Report { format: format(&folder), ..Report::default() };
    if folder.files().len() > 1 {
        let names = folder.files().iter().map(|f| f.path().file_name().unwrap_or_default().to_string_lossy());
        let names: Vec<_> = names.map(|name| name.into_owned()).collect();
        report.facts.push(("shards".into(), names.join(", "), json!(names)));
    }
    if path.is_dir() {
        config(path, &mut report);
    }
    for (key, value) in folder.files().iter().flat_map(|file| file.metadata()) {
        let known = report.metadata.iter().any(|(k, v, _)| k == key && v == value);
        if !known {
            report.metadata.push((key.clone(), value.clone(), json!(value)));
        }
    }
    let tensors = folder.names().filter_map(|name| Some((name, folder.info(name)?)));
    report.tensors = tensors.map(|(name, t)| Tensor::new(name, t.dtype, &t.shape, t.bytes)).collect();
    if zeros {
        report.count_zeros(|name| match folder.info(name).is_some_and(|t| t.dtype.is_numeric()) {
            true => Ok(Some(folder.read_f32(name)?)),
            false => Ok(None),
        })?;
    }
    Ok(report)
}

fn format(folder: &ModelFolder) -> String {
    match folder.files().len() {
        1 => "safetensors".into(),
        shards => format!("safetensors in {shards} shards"),
    }
}

/// What `config.json` says, if it is one of a model that is known here.
fn config(folder: &Path, report: &mut Report) {
    let path = folder.join("config.json");
    const LONGEST: u64 = 64 << 20;
    let Ok(Some(bytes)) = read_small(&path, LONGEST) else { return };
    let Ok(text) = String::from_utf8(bytes) else { return };
    let (shown, value) = match LlamaConfig::from_hf_json(&text, &path.display().to_string()) {
        Ok(config) => {
            (describe(&config), config.to_hf_json(config_dtype(&text).as_deref().unwrap_or("float32")))
        }
        Err(error) => (format!("not used: {error}"), Value::Null),
    };
    report.facts.push(("config".into(), shown, value));
    let tokenizer = folder.join("tokenizer.json").is_file();
    let shown = if tokenizer { "tokenizer.json" } else { "none" };
    report.facts.push(("tokenizer".into(), shown.into(), json!(tokenizer.then_some("tokenizer.json"))));
}

fn config_dtype(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    let dtype = value.get("torch_dtype").or_else(|| value.get("dtype"))?;
    dtype.as_str().map(str::to_string)
}

/// A model's shape in a line.
pub(super) fn describe(config: &LlamaConfig) -> String {
    let number = |n: usize| count(n as u64);
    format!(
        "{}: {} parameters, {} layers, width {}, {} heads ({} for keys), vocabulary {}, {} positions{}",
        config.arch.model_type(),
        count(config.num_parameters()),
        config.num_layers,
        number(config.hidden_size),
        config.num_heads,
        config.num_kv_heads,
        number(config.vocab_size),
        number(config.max_position_embeddings),
        if config.tie_word_embeddings { ", tied embeddings" } else { "" },
    )
}
