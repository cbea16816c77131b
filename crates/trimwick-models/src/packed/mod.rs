//! The Llama family on packed weights, for generating and measuring.
//!
//! [`PackedLlama`] computes what [`Llama`](crate::Llama) computes, from the codes that a file holds: weights keep the
//! size they were quantized to, and no tensor library and no gradient is in the way. It is made from the same
//! [`ModelFiles`](crate::ModelFiles), one tensor at a time, so that memory holds the packed model and the tensor that is
//! read. Weights that are 2:4 in their codes are held as what was kept.
//!
//! What a weight is held as follows from the file: integers of up to 4 bits and FP4 in 4 bits, of up to 8 bits and
//! FP8 E4M3 in 8 bits, floats of 16 bits as they are. Everything else (FP6, E5M2, llama.cpp's K-quants and 5-bit
//! blocks, ModelOpt's scaled inputs, GPTQ with its inputs out of order) is held in f32, which [`PackedLlama::floats`]
//! counts.
//!
//! [`PackedOptions::arithmetic`] says how activations meet integer weights; see [`trimwick_kernels::packed`].

mod forward;
mod load;

pub use forward::PackedCache;
pub use load::PackedOptions;

use trimwick_kernels::packed::Packed;

use crate::config::LlamaConfig;

/// A linear layer.
#[derive(Debug)]
pub(crate) struct PackedLinear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

/// A decoder block.
#[derive(Debug)]
pub(crate) struct PackedBlock {
    input_norm: Vec<f32>,
    q: PackedLinear,
    k: PackedLinear,
    v: PackedLinear,
    o: PackedLinear,
    /// Of each head's queries and keys.
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    post_norm: Vec<f32>,
    gate: PackedLinear,
    up: PackedLinear,
    down: PackedLinear,
}

impl PackedBlock {
    fn linears(&self) -> [&PackedLinear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

/// A Llama-family language model that computes from its packed weights.
#[derive(Debug)]
pub struct PackedLlama {
    config: LlamaConfig,
    embedding: Packed,
    blocks: Vec<PackedBlock>,
    norm: Vec<f32>,
    /// None: the embedding.
    head: Option<Packed>,
    /// Cosines and sines, `[context, head_dim / 2]`.
    rotary: (Vec<f32>, Vec<f32>),
    /// Matrices held in f32 for want of a packed form.
    floats: usize,
}

impl PackedLlama {
    /// The configuration that the model was built from.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Positions it has room for.
    pub fn context(&self) -> usize {
        self.rotary.0.len() / (self.config.head_dim / 2)
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        self.embedding.bytes() + self.head.as_ref().map_or(0, Packed::bytes) + self.block_bytes()
    }

    /// Bytes of weights that a generated token reads: all but the embedding, of which it is a row.
    pub fn bytes_per_token(&self) -> usize {
        self.head.as_ref().unwrap_or(&self.embedding).bytes() + self.block_bytes()
    }

    /// Linear layers that hold two weights of four.
    pub fn sparse_layers(&self) -> usize {
        self.blocks.iter().flat_map(PackedBlock::linears).filter(|l| l.weight.is_kept()).count()
    }

    /// Matrices that are held in f32, because no packed form holds what the file has.
    pub fn floats(&self) -> usize {
        self.floats
    }

    fn block_bytes(&self) -> usize {
        let linears = self.blocks.iter().flat_map(PackedBlock::linears);
        let linears: usize =
            linears.map(|l| l.weight.bytes() + 4 * l.bias.as_ref().map_or(0, Vec::len)).sum();
        let norms: usize = self
            .blocks
            .iter()
            .map(|b| {
                b.input_norm.len()
                    + b.post_norm.len()
                    + b.qk_norm.as_ref().map_or(0, |(q, k)| q.len() + k.len())
            })
            .sum();
        linears + 4 * (norms + self.norm.len())
    }
}
