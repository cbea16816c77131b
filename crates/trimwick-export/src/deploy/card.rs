//! The model card: what was done, what came of it, how to serve it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::config::Named;
use super::target::{DeployOptions, Target};

/// The text of `README.md`.
pub(crate) fn text(
    options: &DeployOptions,
    layers: &[Named],
    bits: f64,
    bytes: u64,
    notes: &[String],
) -> String {
    let mut out = format!("# {}\n\n", options.name);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "Exported by trimwick {} as `{}`: {:.1} MB, {bits:.2} bits per parameter. The values in these files are those \
         that the model was trained with, bit for bit; `trimwick verify` reads them back.\n",
        env!("CARGO_PKG_VERSION"),
        options.target,
        bytes as f64 / 1e6,
    );
    if !layers.is_empty() {
        out.push_str("| quantized weights | inputs | layers |\n|---|---|---|\n");
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for layer in layers {
            let input = layer.input.map_or("in full".into(), |input| input.to_string());
            *counts.entry((layer.weight.to_string(), input)).or_default() += 1;
        }
        for ((weight, input), count) in counts {
            let _ = writeln!(out, "| {weight} | {input} | {count} |");
        }
        out.push('\n');
    }
    if !options.card.is_empty() {
        let _ = writeln!(out, "{}\n", options.card.trim_end());
    }
    for note in notes {
        let _ = writeln!(out, "* {note}");
    }
    if !notes.is_empty() {
        out.push('\n');
    }
    let _ = write!(out, "## Serving\n\n```sh\n{}\n```\n", serving(options.target));
    out
}

fn serving(target: Target) -> &'static str {
    match target {
        Target::Hf => "vllm serve .                       # or: trimwick generate . --prompt \"…\"",
        Target::CompressedTensors => "vllm serve .                       # reads quantization_config",
        Target::ModelOpt => {
            "vllm serve . --quantization modelopt   # NVFP4: modelopt_fp4; TensorRT-LLM: trtllm-serve ."
        }
        Target::Gguf => {
            "llama-server -m model.gguf         # or: ollama create NAME -f Modelfile (FROM ./model.gguf)"
        }
        Target::Sparse24 => "trimwick generate . --prompt \"…\"",
    }
}
