use serde_json::{Value, json};

use super::*;

/// TinyLlama-1.1B, as published (transformers 4).
fn tiny_llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 32000
    })
}

fn with(mut base: Value, changes: Value) -> Value {
    let map = base.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    base
}

fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().unwrap().remove(key);
    base
}

fn read(value: &Value) -> Result<LlamaConfig> {
    LlamaConfig::from_hf_json(&value.to_string(), "config.json")
}

fn llama3_table() -> Value {
    json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192})
}

const LLAMA3: RopeScaling =
    RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };

#[test]
fn a_published_llama_is_read() {
    let config = read(&tiny_llama()).unwrap();
    assert_eq!(config.arch, Arch::Llama);
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (32, 4, 64));
    assert_eq!((config.rope_theta, &config.rope_scaling), (10_000.0, &None));
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert_eq!(config.num_parameters(), 1_100_048_384);
}

#[test]
fn both_generations_of_rope_keys_mean_the_same() {
    let old = with(tiny_llama(), json!({"rope_theta": 5e5, "rope_scaling": llama3_table()}));
    let new = without(
        with(
            without(tiny_llama(), "rope_theta"),
            json!({"rope_parameters": with(llama3_table(), json!({"rope_theta": 5e5}))}),
        ),
        "rope_scaling",
    );
    let old_name =
        with(tiny_llama(), json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}}));
    let (a, b) = (read(&old).unwrap(), read(&new).unwrap());
    assert_eq!(a, b);
    assert_eq!((a.rope_theta, a.rope_scaling), (5e5, Some(LLAMA3)));
    assert_eq!(read(&old_name).unwrap().rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
    // transformers 5 writes the default type out; θ may stay outside.
    let plain = with(tiny_llama(), json!({"rope_theta": 3e4, "rope_parameters": {"rope_type": "default"}}));
    let plain = read(&plain).unwrap();
    assert_eq!((plain.rope_theta, plain.rope_scaling), (3e4, None));
}

#[test]
fn each_family_has_its_switches() {
    let family = |name: &str, more: Value| read(&with(with(tiny_llama(), json!({"model_type": name})), more));
    let mistral = family("mistral", json!({"sliding_window": 4096, "head_dim": 80})).unwrap();
    assert_eq!((mistral.arch, mistral.sliding_window, mistral.head_dim), (Arch::Mistral, Some(4096), 80));
    assert_eq!(family("mistral", json!({"sliding_window": null})).unwrap().sliding_window, None);
    assert_eq!(family("mistral", json!({})).unwrap().sliding_window, Some(4096), "the class's default");

    let qwen2 = family("qwen2", json!({"sliding_window": 1024, "use_sliding_window": false})).unwrap();
    assert!(qwen2.attention_bias && !qwen2.attention_out_bias && !qwen2.qk_norm);
    assert_eq!(qwen2.sliding_window, None);
    let keys = json!({"sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 20});
    let windowed = family("qwen2", keys).unwrap();
    assert_eq!((windowed.window_of_layer(19), windowed.window_of_layer(20)), (None, Some(1024)));
    let above = json!({"sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 28});
    assert_eq!(family("qwen2", above).unwrap().sliding_window, None, "no layer is above max_window_layers");

    let qwen3 = family("qwen3", json!({"head_dim": 128, "attention_bias": true})).unwrap();
    assert!(qwen3.qk_norm && qwen3.attention_bias && qwen3.attention_out_bias);
    assert_eq!(family("qwen3", json!({})).unwrap().head_dim, 128, "the class's default");
    let llama = family("llama", json!({"attention_bias": true, "mlp_bias": true})).unwrap();
    assert!(llama.attention_bias && llama.attention_out_bias && llama.mlp_bias && !llama.qk_norm);
    assert_eq!(read(&without(tiny_llama(), "model_type")).unwrap().arch, Arch::Llama, "from architectures");
}

#[test]
fn lists_of_ids_and_absent_ids() {
    let many = read(&with(tiny_llama(), json!({"eos_token_id": [2, 7, 9]}))).unwrap();
    assert_eq!(many.eos_token_ids, [2, 7, 9]);
    let none = read(&with(without(tiny_llama(), "bos_token_id"), json!({"eos_token_id": null}))).unwrap();
    assert_eq!((none.bos_token_id, none.eos_token_ids.len()), (None, 0));
}

#[test]
fn what_is_written_reads_back_equal() {
    let base = tiny_llama();
    let cases = [
        base.clone(),
        with(base.clone(), json!({"rope_scaling": llama3_table(), "tie_word_embeddings": true})),
        with(base.clone(), json!({"rope_scaling": {"rope_type": "linear", "factor": 2.5}, "mlp_bias": true})),
        with(base.clone(), json!({"model_type": "mistral", "sliding_window": null, "head_dim": 96})),
        with(base.clone(), json!({"model_type": "mistral", "sliding_window": 77})),
        with(base.clone(), json!({"model_type": "qwen2", "eos_token_id": [2, 3]})),
        with(
            base.clone(),
            json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 9,
                                  "max_window_layers": 3}),
        ),
        with(base.clone(), json!({"model_type": "qwen3", "head_dim": 128, "bos_token_id": null})),
    ];
    for case in cases {
        let config = read(&case).unwrap();
        assert_eq!(read(&config.to_hf_json("bfloat16")).unwrap(), config, "{case}");
    }
    let mut divided = read(&base).unwrap();
    divided.rope_scaling = Some(RopeScaling::Divisors((1..=32).map(|i| 0.1 * f64::from(i)).collect()));
    assert_eq!(read(&divided.to_hf_json("float32")).unwrap(), divided);
}

/// Every class of bad configuration that a file alone can show, with the key the message must name.
#[test]
fn hostile_configurations_are_refused_by_name() {
    let t = tiny_llama;
    let table = [
        ("no heads", with(t(), json!({"num_attention_heads": 0})), "num_attention_heads"),
        ("heads do not divide", with(t(), json!({"num_attention_heads": 33})), "num_attention_heads"),
        (
            "heads do not divide, explicit width",
            with(t(), json!({"num_attention_heads": 33, "head_dim": 64})),
            "num_attention_heads",
        ),
        ("kv heads 0", with(t(), json!({"num_key_value_heads": 0})), "num_key_value_heads"),
        ("kv heads do not divide", with(t(), json!({"num_key_value_heads": 5})), "num_key_value_heads"),
        ("more kv heads than heads", with(t(), json!({"num_key_value_heads": 64})), "num_key_value_heads"),
        ("hidden 2^40", with(t(), json!({"hidden_size": 1u64 << 40})), "hidden_size"),
        ("hidden 0", with(t(), json!({"hidden_size": 0})), "hidden_size"),
        ("hidden negative", with(t(), json!({"hidden_size": -2048})), "hidden_size"),
        ("hidden a string", with(t(), json!({"hidden_size": "2048"})), "hidden_size"),
        ("hidden missing", without(t(), "hidden_size"), "hidden_size"),
        ("intermediate 2^40", with(t(), json!({"intermediate_size": 1u64 << 40})), "intermediate_size"),
        ("layers 2^31", with(t(), json!({"num_hidden_layers": 1u64 << 31})), "num_hidden_layers"),
        ("layers 0", with(t(), json!({"num_hidden_layers": 0})), "num_hidden_layers"),
        ("layers 2^64-1", with(t(), json!({"num_hidden_layers": u64::MAX})), "num_hidden_layers"),
        ("vocab 2^33", with(t(), json!({"vocab_size": 1u64 << 33})), "vocab_size"),
        ("head width odd", with(t(), json!({"head_dim": 63})), "head_dim"),
        ("head width 2^30", with(t(), json!({"head_dim": 1 << 30})), "head_dim"),
        ("theta 0", with(t(), json!({"rope_theta": 0})), "rope_theta"),
        ("theta < 0", with(t(), json!({"rope_theta": -1e4})), "rope_theta"),
        ("theta a string", with(t(), json!({"rope_theta": "NaN"})), "rope_theta"),
        ("eps 0", with(t(), json!({"rms_norm_eps": 0.0})), "rms_norm_eps"),
        ("eps < 0", with(t(), json!({"rms_norm_eps": -1e-6})), "rms_norm_eps"),
        ("eps 1", with(t(), json!({"rms_norm_eps": 1.0})), "rms_norm_eps"),
        ("positions 0", with(t(), json!({"max_position_embeddings": 0})), "max_position_embeddings"),
        (
            "rope factor < 1",
            with(t(), json!({"rope_scaling": {"type": "linear", "factor": 0.5}})),
            "rope_scaling.factor",
        ),
        (
            "rope factor missing",
            with(t(), json!({"rope_scaling": {"type": "linear"}})),
            "rope_scaling.factor",
        ),
        (
            "llama3 bands crossed",
            with(t(), json!({"rope_scaling": with(llama3_table(), json!({"low_freq_factor": 4.0}))})),
            "low_freq_factor",
        ),
        (
            "llama3 original 0",
            with(
                t(),
                json!({"rope_scaling": with(llama3_table(), json!({"original_max_position_embeddings": 0}))}),
            ),
            "original_max_position_embeddings",
        ),
        ("rope not a table", with(t(), json!({"rope_scaling": 2})), "rope_scaling"),
        (
            "yarn",
            with(t(), json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})),
            "rope type \"yarn\"",
        ),
        (
            "mrope",
            with(t(), json!({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}})),
            "rope type \"mrope\"",
        ),
        (
            "rope per layer",
            with(t(), json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})),
            "full_attention",
        ),
        ("partial rotary", with(t(), json!({"partial_rotary_factor": 0.5})), "partial_rotary_factor"),
        ("gelu", with(t(), json!({"hidden_act": "gelu"})), "activation \"gelu\""),
        ("gemma", with(t(), json!({"model_type": "gemma2"})), "architecture \"gemma2\""),
        (
            "unknown class",
            with(without(t(), "model_type"), json!({"architectures": ["GPTNeoXForCausalLM"]})),
            "GPTNeoXForCausalLM",
        ),
        ("no family", without(without(t(), "model_type"), "architectures"), "model_type"),
        (
            "quantized",
            with(t(), json!({"quantization_config": {"quant_method": "bitsandbytes"}})),
            "\"bitsandbytes\"",
        ),
        ("experts", with(t(), json!({"num_local_experts": 8})), "num_local_experts"),
        ("eos outside the vocabulary", with(t(), json!({"eos_token_id": 32000})), "eos_token_id"),
        ("bos negative", with(t(), json!({"bos_token_id": -1})), "bos_token_id"),
        ("eos 2^32", with(t(), json!({"eos_token_id": [1u64 << 32]})), "eos_token_id"),
        ("window 0", with(t(), json!({"model_type": "mistral", "sliding_window": 0})), "sliding_window"),
        (
            "layer types disagree",
            with(t(), json!({"model_type": "qwen3", "layer_types": vec!["sliding_attention"; 22]})),
            "layer_types[0]",
        ),
        (
            "layer types short",
            with(t(), json!({"model_type": "qwen3", "layer_types": ["full_attention"]})),
            "layer_types",
        ),
        ("tie a string", with(t(), json!({"tie_word_embeddings": "yes"})), "tie_word_embeddings"),
        ("a list", json!([1, 2]), "table of keys"),
    ];
    for (case, value, named) in table {
        let error = read(&value).err().unwrap_or_else(|| panic!("{case}: accepted"));
        let message = error.to_string();
        assert!(message.contains(named), "{case}: {message}");
        assert!(message.starts_with("config.json: ") && !message.contains('\n'), "{case}: {message}");
    }
}

#[test]
fn python_nan_is_explained() {
    let text = r#"{"model_type": "llama", "rope_theta": NaN}"#;
    let error = LlamaConfig::from_hf_json(text, "c.json").unwrap_err().to_string();
    assert!(error.contains("line 1 column") && error.contains("NaN"), "{error}");
    for text in ["", "{", "nul", "\u{feff}", "{}extra", "[[[["] {
        assert!(matches!(LlamaConfig::from_hf_json(text, "c"), Err(Error::Json { .. })), "{text:?}");
    }
}

#[test]
fn a_struct_made_by_hand_is_held_to_the_same_rules() {
    let good = read(&tiny_llama()).unwrap();
    type Breaker = fn(&mut LlamaConfig);
    let breakers: [(&str, Breaker); 11] = [
        ("rope_theta", |c| c.rope_theta = f64::NAN),
        ("rope_theta", |c| c.rope_theta = f64::INFINITY),
        ("rms_norm_eps", |c| c.rms_norm_eps = f64::NAN),
        ("initializer_range", |c| c.initializer_range = f64::NAN),
        ("rope_scaling.factor", |c| c.rope_scaling = Some(RopeScaling::Linear { factor: f64::NAN })),
        ("rope_scaling", |c| c.rope_scaling = Some(RopeScaling::Divisors(vec![1.0; 31]))),
        ("rope_scaling", |c| c.rope_scaling = Some(RopeScaling::Divisors(vec![f64::NAN; 32]))),
        ("rope_scaling", |c| c.rope_scaling = Some(RopeScaling::Divisors(vec![0.0; 32]))),
        ("attention_bias", |c| c.attention_bias = true),
        ("qk_norm", |c| c.qk_norm = true),
        ("max_window_layers", |c| c.sliding_from_layer = 2),
    ];
    for (key, breaker) in breakers {
        let mut config = good.clone();
        breaker(&mut config);
        let error = config.validate("recipe").expect_err(key).to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
}
