//! The model that all contestants train.

/// SmolLM2-135M but for its depth: a Llama with tied embeddings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) tokens: usize,
    pub(crate) layers: usize,
}

impl Shape {
    pub(crate) const HIDDEN: usize = 576;
    pub(crate) const MLP: usize = 1536;
    pub(crate) const HEADS: usize = 9;
    pub(crate) const KV_HEADS: usize = 3;
    pub(crate) const HEAD: usize = 64;
    pub(crate) const VOCAB: usize = 49152;
    pub(crate) const EPS: f64 = 1e-5;
    pub(crate) const THETA: f32 = 100_000.;

    /// `config.json` as Hugging Face has it.
    pub(crate) fn config(self) -> String {
        format!(
            r#"{{"model_type": "llama", "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {},
            "num_attention_heads": {}, "num_key_value_heads": {}, "vocab_size": {}, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true}}"#,
            Self::HIDDEN,
            Self::MLP,
            self.layers,
            Self::HEADS,
            Self::KV_HEADS,
            Self::VOCAB
        )
    }

    /// Token ids of one window and the token after it.
    pub(crate) fn ids(self) -> Vec<u32> {
        (0..=self.tokens as u32).map(|i| i * 7919 % Self::VOCAB as u32).collect()
    }
}
