//! The Llama family: its shape, its weights, its tokenizers, and the model itself.
//!
//! Llama 2 and 3, SmolLM2, TinyLlama, Mistral, Qwen2 and Qwen3 are one computation with a few switches, and this crate
//! has one [`Llama`] for all of them, made of the layers of `trimwick-nn`, so that each can be masked, quantized and
//! trained. Around it stand the parts that turn what people have into what it needs.
//!
//! **One way in.** [`source::open`] takes a Hugging Face folder (plain or quantized), a `.gguf` file, a hub id or a built-in name, and gives
//! a [`ModelFiles`]: a checked [`LlamaConfig`], the weights as a `trimwick_nn::TensorSource`, and the [`Tokenizer`]. From
//! there on nothing depends on where the model came from. Parameters have their Hugging Face names and layout; a GGUF
//! file's are renamed, decoded, and the rows of q and k put back in order on the way.
//!
//! **Whole, or a piece at a time.** A [`StreamedLlama`] reads embedding, blocks and head one by one from the same
//! sources, each into a store of its own: for models that are larger than memory. Its pieces are those of the whole
//! [`Llama`], names and bits alike.
//!
//! **Packed.** A [`PackedLlama`] computes from the codes of a quantized file, without a copy of its weights in floats:
//! what generates and measures.
//!
//! **Checked before it is believed.** A configuration is held to limits under which no product of sizes can overflow,
//! and every key that would change the computation is honoured or refused by name. The name, shape and type of each tensor
//! are compared with the configuration before the first weight is read, in both directions: a missing bias is as wrong as
//! one too many. Values are looked at as they are read, and NaN or infinity is refused with the tensor's name. Bytes
//! themselves are parsed by `trimwick-formats`; `tokenizer.json`, which the `tokenizers` crate would take on trust, is
//! checked here.
//!
//! **The same tokens as everyone else.** Perplexity means nothing if the tokens differ, so tokenizers are compared id by
//! id with the Python libraries and with sentencepiece. Long texts are cut for speed only where that provably changes
//! nothing.
//!
//! **Conversations as the model was taught them.** A chat template is a stranger's program: it runs under limits, and which of
//! the text it writes is an answer is found by rendering, not by guessing ([`ChatTemplate`]).
//!
//! **No secrets, no surprises.** The hub is reached as Hugging Face's own tools reach it (`HF_HOME`, `HF_HUB_CACHE`,
//! `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`), at one commit, for JSON and safetensors only; no message holds a token. It
//! is behind the feature `hub`, since it brings a network stack.
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use trimwick_models::source::{self, ModelSource, OpenOptions};
//! use trimwick_models::Llama;
//! use trimwick_nn::ParamStore;
//!
//! let files = source::open(&ModelSource::parse("./SmolLM2-135M")?, &OpenOptions::default())?;
//! let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 42);
//! let model = Llama::new(&files.config, Some(512), store.var_builder())?;
//! let ids = files.require_tokenizer()?.encode("The state of the union", true)?;
//! # Ok::<(), trimwick_models::Error>(())
//! ```
#![forbid(unsafe_code)]

mod block;
pub mod builtin;
mod chat;
mod config;
mod error;
#[cfg(test)]
mod gguf_bytes;
mod llama;
mod names;
mod packed;
mod sampling;
pub mod source;
mod streamed;
mod text_file;
mod tokenizer;

pub use block::LlamaBlock;
pub use chat::{ChatTemplate, Conversation, Message, SpecialTokens, TEMPLATES};
pub use config::{Arch, LlamaConfig, MAX_VOCAB};
pub use error::{Error, Result};
pub use llama::Llama;
pub use names::{gguf_to_hf, hf_to_gguf, permute_rows, permuted_heads, unpermute_rows};
pub use packed::{PackedCache, PackedLlama, PackedOptions};
pub use sampling::{Sampler, SamplingOptions};
pub use source::{ModelFiles, ModelSource, OpenOptions};
pub use streamed::StreamedLlama;
pub use tokenizer::{DecodeStream, Tokenizer};
pub use trimwick_kernels::packed::{Arithmetic, KvFormat};
pub use trimwick_nn::RopeScaling;
