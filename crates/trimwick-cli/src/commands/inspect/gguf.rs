//! GGUF files, the tokenizer that they carry included.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value as Json, json};
use trimwick_formats::gguf::{GgufFile, Value};
use trimwick_models::{LlamaConfig, Tokenizer};

use super::safetensors::describe;
use super::{Report, Tensor};
use crate::text::count;

pub(super) fn report(path: &Path, zeros: bool) -> Result<Report> {
    let file = GgufFile::open(path)?;
    let mut report = Report { format: format!("GGUF version {}", file.version()), ..Report::default() };
    let alignment = file.alignment();
    report.facts.push(("alignment".into(), format!("{alignment} bytes"), json!(alignment)));
    let size = file.file_bytes();
    report.facts.push(("file".into(), format!("{} bytes", count(size)), json!(size)));
    let origin = path.display().to_string();
    let (shown, value) = match LlamaConfig::from_gguf(&file, &origin) {
        Ok(config) => (describe(&config), config.to_hf_json("float32")),
        Err(error) => (format!("not used: {error}"), Json::Null),
    };
    report.facts.push(("config".into(), shown, value));
    tokenizer(&file, &origin, &mut report);
    report.metadata =
        file.metadata().iter().map(|(key, value)| (key.clone(), value.describe(), to_json(value))).collect();

    let tensors = file.tensors().iter();
    report.tensors = tensors.map(|(name, t)| Tensor::new(name, t.dtype, &t.shape, t.bytes)).collect();
    if zeros {
        report.count_zeros(|name| Ok(Some(file.read_f32(name)?)))?;
    }
    Ok(report)
}

/// What kind of tokenizer there is, whether it can be rebuilt, and its tokens with a meaning.
fn tokenizer(file: &GgufFile, origin: &str, report: &mut Report) {
    let text = |key: &str| file.get_str(key).ok().flatten();
    let Some(kind) = text("tokenizer.ggml.model") else {
        report.facts.push(("tokenizer".into(), "none".into(), Json::Null));
        return;
    };
    let pre = text("tokenizer.ggml.pre");
    let number = |key: &str| file.get_u32(key).ok().flatten();
    let tokens = file.get_strings("tokenizer.ggml.tokens").ok().flatten();
    let spelled = |id: u32| tokens.and_then(|t| t.get(id as usize)).map(String::as_str);
    let [bos, eos] = ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"].map(number);
    let fault = Tokenizer::from_gguf(file, origin).err().map(|error| error.to_string());

    let mut shown = vec![kind.to_string()];
    shown.extend(pre.map(|pre| format!("split as {pre}")));
    shown.extend(tokens.map(|tokens| format!("{} tokens", count(tokens.len() as u64))));
    for (name, id) in [("begins", bos), ("ends", eos)] {
        shown.extend(id.map(|id| format!("{name} with {id} {:?}", spelled(id).unwrap_or_default())));
    }
    shown.extend(fault.iter().map(|fault| format!("not used: {fault}")));
    let token = |id: Option<u32>| id.map(|id| json!({ "id": id, "token": spelled(id) }));
    let value = json!({
        "model": kind,
        "pre": pre,
        "tokens": tokens.map(<[String]>::len),
        "bos": token(bos),
        "eos": token(eos),
        "fault": fault,
    });
    report.facts.push(("tokenizer".into(), shown.join(", "), value));
}

/// Scalars as they are; of an array, its length and type.
fn to_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(_) => json!(value.describe()),
    }
}
