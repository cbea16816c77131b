//! Layers that vLLM and TensorRT-LLM compute as one must share what they are quantized by.

use super::fit::refused;
use super::model::Piece;
use super::target::Target;
use crate::Result;

const FUSED: [&[&str]; 2] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"]];

/// Compares the schemes and the scales of the tensor within every fused group; `quantized` holds the pieces with
/// quantizers and those scales.
pub(crate) fn check(target: Target, quantized: &[(&Piece, f32)], pieces: &[Piece]) -> Result<()> {
    for (piece, global) in quantized {
        let (parent, last) = piece.path().rsplit_once('.').unwrap_or(("", piece.path()));
        let Some(group) = FUSED.iter().find(|group| group.contains(&last)) else { continue };
        let members = group.iter().map(|part| format!("{parent}.{part}"));
        for path in members.filter(|path| path != piece.path()) {
            let Some(other) = pieces.iter().find(|other| other.is_linear() && other.path() == path) else {
                continue;
            };
            let nearest = "gguf, sparse24 and hf hold it; or give fused layers one scheme";
            if (other.weight, other.input) != (piece.weight, piece.input) {
                let problem =
                    format!("runtimes fuse it with {path}, which has another scheme ({})", other.scheme());
                return Err(refused(target, piece, (problem, nearest)));
            }
            let theirs = quantized.iter().find(|(p, _)| p.path() == path).map(|(_, global)| global);
            if theirs.is_some_and(|theirs| theirs != global) {
                let problem = format!("runtimes fuse it with {path}, which has another scale of the tensor");
                let nearest = "call quant::share_fused before training; gguf and sparse24 hold it as it is";
                return Err(refused(target, piece, (problem, nearest)));
            }
        }
    }
    Ok(())
}
