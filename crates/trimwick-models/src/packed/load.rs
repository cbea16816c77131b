//! From a file's codes to the layout of products, one tensor at a time.

use trimwick_kernels::packed::{Arithmetic, Packed};
use trimwick_nn::inverse_frequencies;

use super::{PackedBlock, PackedLinear, PackedLlama};
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::source::CodedSource;
use crate::source::ModelFiles;
use crate::source::coded::Coded;

/// How a packed model is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedOptions {
    /// How activations enter products with integer and FP4 weights.
    pub arithmetic: Arithmetic,
    /// Positions to make room for; `None` for all that the configuration has.
    pub context: Option<usize>,
    /// Decodes every weight to f32: what packed models are compared with.
    pub as_f32: bool,
}

impl Default for PackedOptions {
    fn default() -> Self {
        Self { arithmetic: Arithmetic::Blocks, context: None, as_f32: false }
    }
}

struct Loader<'a> {
    from: &'a dyn CodedSource,
    options: PackedOptions,
    floats: usize,
}

impl Loader<'_> {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Packed> {
        let coded = self.from.coded(name)?;
        self.floats += usize::from(matches!(coded, Coded::Decoded(_)));
        let packed = coded.pack(rows, cols).with_arithmetic(self.options.arithmetic);
        if !self.options.as_f32 {
            return Ok(packed);
        }
        let mut values = vec![0.; rows * cols];
        values.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| packed.row(row, out));
        Ok(Packed::f32(&values, rows, cols))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let at_most = |values: Vec<u16>, packed: fn(&[u16], usize, usize) -> Packed| {
            let mut out = vec![0.; values.len()];
            packed(&values, 1, values.len()).row(0, &mut out);
            out
        };
        Ok(match self.from.coded(name)? {
            Coded::F32(values) | Coded::Decoded(values) => values,
            Coded::F16(values) => at_most(values, Packed::f16),
            Coded::Bf16(values) => at_most(values, Packed::bf16),
            Coded::Codes(_) => {
                return Err(Error::weights("packed model", name, "floats", "codes"));
            }
        })
    }

    fn linear(&mut self, path: &str, rows: usize, cols: usize, bias: bool) -> Result<PackedLinear> {
        Ok(PackedLinear {
            weight: self.matrix(&format!("{path}.weight"), rows, cols)?,
            bias: if bias { Some(self.vector(&format!("{path}.bias"))?) } else { None },
        })
    }

    fn block(&mut self, config: &LlamaConfig, index: usize) -> Result<PackedBlock> {
        let path = |part: &str| format!("model.layers.{index}.{part}");
        let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let (qkv_bias, out_bias) = (config.attention_bias, config.attention_out_bias);
        let qk_norm = match config.qk_norm {
            true => Some((
                self.vector(&path("self_attn.q_norm.weight"))?,
                self.vector(&path("self_attn.k_norm.weight"))?,
            )),
            false => None,
        };
        Ok(PackedBlock {
            input_norm: self.vector(&path("input_layernorm.weight"))?,
            q: self.linear(&path("self_attn.q_proj"), q, hidden, qkv_bias)?,
            k: self.linear(&path("self_attn.k_proj"), kv, hidden, qkv_bias)?,
            v: self.linear(&path("self_attn.v_proj"), kv, hidden, qkv_bias)?,
            o: self.linear(&path("self_attn.o_proj"), hidden, q, out_bias)?,
            qk_norm,
            post_norm: self.vector(&path("post_attention_layernorm.weight"))?,
            gate: self.linear(&path("mlp.gate_proj"), mlp, hidden, config.mlp_bias)?,
            up: self.linear(&path("mlp.up_proj"), mlp, hidden, config.mlp_bias)?,
            down: self.linear(&path("mlp.down_proj"), hidden, mlp, config.mlp_bias)?,
        })
    }
}

impl PackedLlama {
    /// Reads a model, a tensor at a time.
    ///
    /// # Errors
    /// Weights that cannot be read or are not finite; a context beyond the configuration's.
    pub fn load(files: &ModelFiles, options: PackedOptions) -> Result<Self> {
        let config = &files.config;
        let longest = config.max_position_embeddings;
        let context = options.context.unwrap_or(longest);
        if context > longest {
            let found = context.to_string();
            return Err(Error::config(&files.origin, "context", format!("at most {longest}"), found));
        }
        let mut loader = Loader { from: &*files.coded, options, floats: 0 };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = loader.matrix("model.embed_tokens.weight", vocab, hidden)?;
        // The largest tensors come first, while there is little beside the copies that packing makes of them.
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.matrix("lm_head.weight", vocab, hidden)?),
        };
        let blocks = (0..config.num_layers).map(|i| loader.block(config, i)).collect::<Result<_>>()?;
        let norm = loader.vector("model.norm.weight")?;
        let frequencies =
            inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling.as_ref());
        let angles = || (0..context).flat_map(|t| frequencies.iter().map(move |f| t as f64 * f));
        let rotary = (angles().map(|a| a.cos() as f32).collect(), angles().map(|a| a.sin() as f32).collect());
        let floats = loader.floats;
        Ok(Self { config: config.clone(), embedding, blocks, norm, head, rotary, floats })
    }
}
