//! Names and layouts of the parameters: Hugging Face's, GGUF's, and the way between them.
//!
//! Inside this crate a parameter has its Hugging Face name. A GGUF file of architecture `llama` also stores the rows of
//! q and k in another order: Hugging Face rotates pairs (i, i + d/2) of a head, ggml's rotary for that architecture
//! rotates neighbours (2i, 2i + 1), and the converter moves the rows so that both give the same scores.

pub(crate) mod rope_freqs;

use crate::config::LlamaConfig;

/// `(Hugging Face, GGUF)` names of the parts of a block, without `.weight` or `.bias`.
const BLOCK: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// `(Hugging Face, GGUF)` names outside the blocks.
const OUTER: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// The Hugging Face name of a GGUF tensor, or `None` for one that no Llama-family model has
/// (`rope_freqs.weight` among them: it is configuration).
///
/// ```
/// assert_eq!(
///     trimwick_models::gguf_to_hf("blk.3.attn_q.weight").as_deref(),
///     Some("model.layers.3.self_attn.q_proj.weight"),
/// );
/// ```
pub fn gguf_to_hf(name: &str) -> Option<String> {
    let (part, kind) = split_kind(name)?;
    if let Some(rest) = part.strip_prefix("blk.") {
        let (layer, part) = split_layer(rest)?;
        let (hf, _) = BLOCK.iter().find(|(_, gguf)| *gguf == part)?;
        return Some(format!("model.layers.{layer}.{hf}.{kind}"));
    }
    let (hf, _) = OUTER.iter().find(|(_, gguf)| *gguf == part)?;
    Some(format!("{hf}.{kind}"))
}

/// The GGUF name of a Hugging Face parameter; the inverse of [`gguf_to_hf`].
pub fn hf_to_gguf(name: &str) -> Option<String> {
    let (part, kind) = split_kind(name)?;
    if let Some(rest) = part.strip_prefix("model.layers.") {
        let (layer, part) = split_layer(rest)?;
        let (_, gguf) = BLOCK.iter().find(|(hf, _)| *hf == part)?;
        return Some(format!("blk.{layer}.{gguf}.{kind}"));
    }
    let (_, gguf) = OUTER.iter().find(|(hf, _)| *hf == part)?;
    Some(format!("{gguf}.{kind}"))
}

fn split_kind(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
}

/// `"3.rest"` → `("3", "rest")`; the number as it must be written, so that names map one to one.
fn split_layer(rest: &str) -> Option<(&str, &str)> {
    let (layer, part) = rest.split_once('.')?;
    let canonical = layer.parse::<u32>().ok()?.to_string() == layer;
    canonical.then_some((layer, part))
}

/// The block that a Hugging Face parameter name belongs to.
pub(crate) fn layer_of(name: &str) -> Option<usize> {
    split_layer(name.strip_prefix("model.layers.")?)?.0.parse().ok()
}

impl LlamaConfig {
    /// Every parameter of a model of this shape, by its Hugging Face name, with its shape: embedding, blocks in order,
    /// last norm, and the output projection unless it is tied. Weights of projections are `[out, in]`.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let mut out = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab_size, d])];
        for layer in 0..self.num_layers {
            let mut put = |part: &str, shape: &[usize]| {
                out.push((format!("model.layers.{layer}.{part}"), shape.to_vec()));
            };
            let projections = [
                ("self_attn.q_proj", q, d, self.attention_bias),
                ("self_attn.k_proj", kv, d, self.attention_bias),
                ("self_attn.v_proj", kv, d, self.attention_bias),
                ("self_attn.o_proj", d, q, self.attention_out_bias),
                ("mlp.gate_proj", f, d, self.mlp_bias),
                ("mlp.up_proj", f, d, self.mlp_bias),
                ("mlp.down_proj", d, f, self.mlp_bias),
            ];
            put("input_layernorm.weight", &[d]);
            for (part, outs, ins, bias) in projections {
                put(&format!("{part}.weight"), &[outs, ins]);
                if bias {
                    put(&format!("{part}.bias"), &[outs]);
                }
            }
            if self.qk_norm {
                put("self_attn.q_norm.weight", &[self.head_dim]);
                put("self_attn.k_norm.weight", &[self.head_dim]);
            }
            put("post_attention_layernorm.weight", &[d]);
        }
        out.push(("model.norm.weight".to_string(), vec![d]));
        if !self.tie_word_embeddings {
            out.push(("lm_head.weight".to_string(), vec![self.vocab_size, d]));
        }
        out
    }
}

/// How the rows of a tensor that a `llama` GGUF file stores permuted are grouped: its number of heads, for the q and k
/// projections and their biases; `None` for every other name.
pub fn permuted_heads(config: &LlamaConfig, hf_name: &str) -> Option<usize> {
    let (part, _) = split_kind(hf_name)?;
    if part.ends_with(".self_attn.q_proj") {
        Some(config.num_heads)
    } else if part.ends_with(".self_attn.k_proj") {
        Some(config.num_kv_heads)
    } else {
        None
    }
}

/// Puts the rows of a q or k projection, `[heads · head_dim, columns]` row-major as a `llama` GGUF file stores it, into
/// Hugging Face's order: within a head, stored row 2j + s becomes row s · head_dim/2 + j. A bias has one column.
///
/// # Panics
/// If `values` is not a whole number of rows of `heads` heads of even width.
pub fn unpermute_rows<T: Copy>(values: &[T], heads: usize, columns: usize) -> Vec<T> {
    permute(values, heads, columns, |half, row| 2 * (row % half) + row / half)
}

/// The inverse of [`unpermute_rows`]: Hugging Face's order to that of a `llama` GGUF file.
///
/// # Panics
/// As [`unpermute_rows`].
pub fn permute_rows<T: Copy>(values: &[T], heads: usize, columns: usize) -> Vec<T> {
    permute(values, heads, columns, |half, row| (row % 2) * half + row / 2)
}

/// Row `row` of a head of the result is row `source(head_dim / 2, row)` of that head.
fn permute<T: Copy>(
    values: &[T],
    heads: usize,
    columns: usize,
    source: impl Fn(usize, usize) -> usize,
) -> Vec<T> {
    assert!(heads > 0 && columns > 0, "no heads or no columns");
    let head_dim = values.len() / columns / heads;
    assert_eq!(values.len(), heads * head_dim * columns, "rows of whole heads");
    assert!(head_dim.is_multiple_of(2), "a head of odd width {head_dim}");
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for row in 0..head_dim {
            let from = (head * head_dim + source(head_dim / 2, row)) * columns;
            out.extend_from_slice(&values[from..from + columns]);
        }
    }
    out
}

#[cfg(test)]
mod tests;
