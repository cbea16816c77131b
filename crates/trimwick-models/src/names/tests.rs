use super::*;
use crate::config::Arch;

#[test]
fn names_map_both_ways() {
    let table = [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
        ("blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"),
        ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
        ("blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"),
        ("blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
        ("blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
    ];
    for (gguf, hf) in table {
        assert_eq!(gguf_to_hf(gguf).as_deref(), Some(hf));
        assert_eq!(hf_to_gguf(hf).as_deref(), Some(gguf));
    }
}

#[test]
fn foreign_names_map_to_nothing() {
    let foreign = [
        "",
        "blk",
        "blk.",
        "blk.0",
        "blk.0.attn_q",
        "blk.x.attn_q.weight",
        "blk.00.attn_q.weight",
        "blk.-1.attn_q.weight",
        "blk.99999999999.attn_q.weight",
        "blk.0.attn_qkv.weight",
        "rope_freqs.weight",
        "blk.0.attn_q.scale",
        "../blk.0.attn_q.weight",
    ];
    for name in foreign {
        assert_eq!(gguf_to_hf(name), None, "{name:?}");
    }
    assert_eq!(hf_to_gguf("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
}

#[test]
fn rows_go_where_the_definition_says_and_back() {
    let (heads, head_dim, columns) = (3, 8, 5);
    let hf: Vec<f32> = (0..heads * head_dim * columns).map(|i| i as f32).collect();
    // reshape(heads, 2, head_dim/2, columns) → swap the middle two → back, written out.
    let mut stored = vec![0.0; hf.len()];
    for h in 0..heads {
        for s in 0..2 {
            for j in 0..head_dim / 2 {
                for c in 0..columns {
                    let from = ((h * 2 + s) * (head_dim / 2) + j) * columns + c;
                    let to = ((h * (head_dim / 2) + j) * 2 + s) * columns + c;
                    stored[to] = hf[from];
                }
            }
        }
    }
    assert_eq!(permute_rows(&hf, heads, columns), stored);
    assert_eq!(unpermute_rows(&stored, heads, columns), hf);
    assert_ne!(stored, hf);
}

#[test]
fn the_tensors_of_a_shape_are_those_of_the_published_models() {
    // SmolLM2-135M: 134 515 008 parameters.
    let smol = LlamaConfig {
        arch: Arch::Llama,
        vocab_size: 49152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 1e5,
        rope_scaling: None,
        max_position_embeddings: 8192,
        tie_word_embeddings: true,
        attention_bias: false,
        attention_out_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_window: None,
        sliding_from_layer: 0,
        initializer_range: 0.02,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    assert_eq!(smol.num_parameters(), 134_515_008);
    assert_eq!(smol.tensors().len(), 2 + 30 * 9);
    // Qwen2.5-0.5B: 494 032 768 parameters, biases on q, k, v.
    let qwen = LlamaConfig {
        arch: Arch::Qwen2,
        vocab_size: 151_936,
        hidden_size: 896,
        intermediate_size: 4864,
        num_layers: 24,
        num_heads: 14,
        num_kv_heads: 2,
        attention_bias: true,
        ..smol.clone()
    };
    assert_eq!(qwen.num_parameters(), 494_032_768);
    // Qwen3-0.6B: 596 049 920 parameters, norms on q and k, heads wider than the residual stream.
    let qwen3 = LlamaConfig {
        arch: Arch::Qwen3,
        vocab_size: 151_936,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_layers: 28,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        qk_norm: true,
        ..smol
    };
    assert_eq!(qwen3.num_parameters(), 596_049_920);
    assert_eq!(layer_of("model.layers.27.mlp.up_proj.weight"), Some(27));
    assert_eq!(layer_of("model.norm.weight"), None);
}
