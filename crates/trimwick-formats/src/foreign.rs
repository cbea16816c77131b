//! Files that are recognized in order to be refused, with what to do instead.

use std::ffi::OsStr;

use crate::error::{Error, Result};
use crate::source::ByteSource;

const PICKLE: &str = "a PyTorch pickle, which can run code while it is loaded";
const AS_SAFETENSORS: &str = "load it where you trust it and save it again with safetensors.torch.save_file, \
                              or take the model's .safetensors files";

/// Refuses pickles (also zipped ones, as PyTorch writes them) and the formats of ggml from before GGUF.
///
/// The first bytes decide. The file name is asked only where they say nothing, for `.bin` and its like without a
/// magic number; a GGUF that someone named `.bin` is nobody's pickle.
///
/// # Errors
/// [`Error::Refused`], which says how to convert the file.
pub(crate) fn refuse(source: &ByteSource) -> Result<()> {
    let mut head = [0u8; 4];
    let len = source.len().min(4) as usize;
    source.read_exact_at(0, &mut head[..len])?;
    let refused = |what: &str, instead: &str| Err(Error::refused(source.path(), what, instead));

    let legacy = |what| {
        let instead = "convert it with convert_llama_ggml_to_gguf.py of llama.cpp, or convert the original \
                       weights with its convert_hf_to_gguf.py";
        refused(what, instead)
    };
    // The magic numbers of ggml were written as little-endian words, so that they stand backwards in the file.
    match &head {
        b"GGUF" => return Ok(()),
        b"lmgg" | b"ggml" => return legacy("an unversioned ggml file from before GGUF"),
        b"fmgg" | b"ggmf" => return legacy("a ggmf file from before GGUF"),
        b"tjgg" | b"ggjt" => return legacy("a ggjt file from before GGUF"),
        b"algg" | b"ggla" => {
            let instead = "convert the original adapter with convert_lora_to_gguf.py of llama.cpp";
            return refused("a ggla LoRA adapter from before GGUF", instead);
        }
        // PROTO opcode and protocol number.
        [0x80, 1..=5, ..] => return refused(PICKLE, AS_SAFETENSORS),
        b"PK\x03\x04" => return refused("a zip archive, as PyTorch wraps its pickles in", AS_SAFETENSORS),
        _ => {}
    }
    match source.path().extension().and_then(OsStr::to_str) {
        Some("bin" | "pt" | "pth" | "ckpt" | "pkl" | "pickle") => refused(PICKLE, AS_SAFETENSORS),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_then_the_name() {
        let cases: [(&[u8], &str, &str); 12] = [
            (b"\x80\x02\x8a\x0a", "x.gguf", "a PyTorch pickle"),
            (b"\x80\x05", "x.gguf", "a PyTorch pickle"),
            (b"PK\x03\x04....", "model", "a zip archive"),
            (b"", "pytorch_model.bin", "a PyTorch pickle"),
            (b"ustar", "model.pt", "a PyTorch pickle"),
            (b"lmgg\0\0\0\0", "x", "an unversioned ggml file"),
            (b"ggml", "x", "an unversioned ggml file"),
            (b"fmgg", "x.bin", "a ggmf file"),
            (b"tjgg", "x.bin", "a ggjt file"),
            (b"algg", "x.bin", "a ggla LoRA adapter"),
            (b"GGUF\x03", "ggml-model.bin", ""),
            (b"\x08\0\0\0\0\0\0\0{}", "x.safetensors", ""),
        ];
        for (bytes, name, expected) in cases {
            let found = match refuse(&ByteSource::memory(bytes, name)) {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            assert_eq!(found.is_empty(), expected.is_empty(), "{name}: {found}");
            assert!(found.contains(expected) && !found.contains('\n'), "{name}: {found}");
        }
    }
}
