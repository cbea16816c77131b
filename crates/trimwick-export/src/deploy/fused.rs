//! What layers of a file must agree on: those that vLLM and TensorRT-LLM compute as one share what they are quantized by, and
//! ModelOpt has one algorithm for all.

use super::config::Named;
use super::fit::refused;
use super::model::Subject;
use super::target::Target;
use crate::Result;

const FUSED: [&[&str]; 2] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"]];

/// Compares the schemes and the scales of the tensor within every fused group; `quantized` holds the tensors with
/// quantizers and those scales.
pub(crate) fn check(target: Target, quantized: &[(&Subject, f32)], all: &[&Subject]) -> Result<()> {
    for (subject, global) in quantized {
        let (parent, last) = subject.path.rsplit_once('.').unwrap_or(("", &subject.path));
        let Some(group) = FUSED.iter().find(|group| group.contains(&last)) else { continue };
        let members = group.iter().map(|part| format!("{parent}.{part}"));
        for path in members.filter(|path| *path != subject.path) {
            let Some(other) = all.iter().find(|other| other.linear && other.path == path) else {
                continue;
            };
            let nearest = "gguf, sparse24 and hf hold it; or give fused layers one scheme";
            if (other.weight, other.input) != (subject.weight, subject.input) {
                let theirs = match (other.weight, other.input) {
                    (None, None) => "is not quantized".to_string(),
                    _ => format!("has another scheme ({})", other.scheme()),
                };
                let problem = format!("runtimes fuse it with {path}, which {theirs}");
                return Err(refused(target, subject, (problem, nearest)));
            }
            let theirs = quantized.iter().find(|(s, _)| s.path == path).map(|(_, global)| global);
            if theirs.is_some_and(|theirs| theirs != global) {
                let problem = format!("runtimes fuse it with {path}, which has another scale of the tensor");
                let nearest = "call quant::share_fused before training; gguf and sparse24 hold it as it is";
                return Err(refused(target, subject, (problem, nearest)));
            }
        }
    }
    Ok(())
}

/// ModelOpt has one algorithm for all layers of a file; `layers` are those of `quantized`.
pub(crate) fn one_algorithm(target: Target, layers: &[Named], quantized: &[(&Subject, f32)]) -> Result<()> {
    let Some(first) = layers.first().filter(|_| target == Target::ModelOpt) else { return Ok(()) };
    let other = layers.iter().position(|layer| {
        (layer.format, layer.weight.granularity) != (first.format, first.weight.granularity)
    });
    match other {
        None => Ok(()),
        Some(i) => {
            let problem = format!("another algorithm than {} has {}", first.path, first.format);
            Err(refused(target, quantized[i].0, (problem, "compressed-tensors holds mixed schemes")))
        }
    }
}
