//! The same model from different sources is the same model.

use candle_core::{DType, Device};
use serde_json::json;

use super::*;
use crate::gguf_bytes::GgufBytes;
use crate::names::{hf_to_gguf, permute_rows, permuted_heads};
use trimwick_nn::{RopeScaling, inverse_frequencies};

fn values(files: &ModelFiles, name: &str, dtype: DType) -> Vec<f32> {
    let tensor = files.weights.load(name, dtype, &Device::Cpu).unwrap();
    assert_eq!(tensor.dtype(), dtype);
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn folders_open_and_give_what_is_in_the_file() {
    for name in MODELS {
        let files = open_folder(&golden(name)).unwrap();
        let direct = ModelFolder::open(golden(name)).unwrap();
        assert_eq!(files.origin, golden(name).display().to_string());
        assert_eq!(files.path, Some(golden(name)));
        let mut expected: Vec<String> = files.config.tensors().into_iter().map(|(n, _)| n).collect();
        expected.sort();
        assert_eq!(files.weights.names(), expected, "{name}");
        assert_eq!(files.notes, Vec::<String>::new());
        assert!(files.tokenizer.is_none());
        let missing = files.require_tokenizer().unwrap_err().to_string();
        assert!(missing.contains("no tokenizer.json"), "{missing}");
        for (tensor, shape) in files.config.tensors() {
            assert_eq!(files.weights.shape(&tensor), Some(shape));
            assert_eq!(
                values(&files, &tensor, DType::F32),
                direct.read_f32(&tensor).unwrap(),
                "{name} {tensor}"
            );
        }
    }
}

/// Has too many bits for BF16 alone.
const FINE: f32 = 1.0 + 1.0 / 512.0;

#[test]
fn values_are_rounded_to_the_dtype_that_is_asked_for() {
    let dir = Draft::of("llama2").value("model.norm.weight", 0, FINE).write();
    let files = open_folder(dir.path()).unwrap();
    let first = |dtype| values(&files, "model.norm.weight", dtype)[0];
    assert_eq!((first(DType::F32), first(DType::F16), first(DType::BF16)), (FINE, FINE, 1.0));
    assert!(files.weights.load("model.norm.weight", DType::U8, &Device::Cpu).is_err());
}

#[test]
fn halves_and_old_extras_are_read() {
    let half = Draft::of("llama2").tensor("model.norm.weight", Dtype::BF16, &[32], vec![0.5; 32]);
    let old = half
        .tensor("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, &[4], vec![1.0; 4])
        .tensor("masks.0", Dtype::U8, &[4], vec![1.0; 4]);
    let files = old.open().unwrap();
    assert_eq!(values(&files, "model.norm.weight", DType::F32), [0.5; 32]);
    assert_eq!(files.notes.len(), 1, "{:?}", files.notes);
    assert!(files.notes[0].contains("\"masks.0\""), "{:?}", files.notes);
}

#[test]
fn a_tied_output_may_be_stored_again() {
    let draft = Draft::of("smollm2");
    let (_, shape, values) = draft.tensors["model.embed_tokens.weight"].clone();
    let files = draft.tensor("lm_head.weight", Dtype::F32, &shape, values).open().unwrap();
    assert!(files.config.tie_word_embeddings);
    assert_eq!(files.weights.shape("lm_head.weight"), None);
}

#[test]
fn built_in_models_pass_the_checks_of_a_strangers() {
    for model in crate::builtin::MODELS {
        let source = ModelSource::parse(&format!("builtin:{}", model.name)).unwrap();
        let files = open(&source, &options()).unwrap();
        assert_eq!((files.origin.as_str(), files.path.as_ref()), (source.to_string().as_str(), None));
        assert_eq!(files.notes, Vec::<String>::new());
        for (tensor, _) in files.config.tensors() {
            assert!(!values(&files, &tensor, DType::F32).is_empty());
        }
        let tokenizer = files.require_tokenizer().unwrap();
        assert!(tokenizer.vocab_size() <= files.config.vocab_size);
        for text in crate::builtin::TEXTS {
            let ids = tokenizer.encode(text.text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.text, "{}", text.name);
        }
    }
    assert!(crate::builtin::model("tiny-llama").is_some() && crate::builtin::text("no such").is_none());
}

#[test]
fn end_tokens_come_from_the_generation_config() {
    let draft = Draft::of("llama2").key("eos_token_id", json!(2));
    let table = [
        (None, vec![2]),
        (Some(json!({"eos_token_id": [5, 7]})), vec![5, 7]),
        (Some(json!({"eos_token_id": 9})), vec![9]),
        (Some(json!({"eos_token_id": null})), vec![2]),
        (Some(json!({})), vec![2]),
    ];
    for (generation, expected) in table {
        let with = match &generation {
            Some(value) => draft.clone().file("generation_config.json", &value.to_string()),
            None => draft.clone(),
        };
        assert_eq!(with.open().unwrap().config.eos_token_ids, expected, "{generation:?}");
    }
}

/// The GGUF file that llama.cpp's converter would write of a golden model.
pub(super) fn to_gguf(name: &str) -> (ModelFiles, GgufBytes) {
    let files = open_folder(&golden(name)).unwrap();
    let c = &files.config;
    let arch = match c.arch {
        crate::Arch::Llama | crate::Arch::Mistral => "llama",
        other => other.model_type(),
    };
    let key = |key: &str| format!("{arch}.{key}");
    let mut gguf = GgufBytes::default()
        .str("general.architecture", arch)
        .u32(&key("embedding_length"), c.hidden_size as u32)
        .u32(&key("block_count"), c.num_layers as u32)
        .u32(&key("feed_forward_length"), c.intermediate_size as u32)
        .u32(&key("context_length"), c.max_position_embeddings as u32)
        .u32(&key("attention.head_count"), c.num_heads as u32)
        .u32(&key("attention.head_count_kv"), c.num_kv_heads as u32)
        .u32(&key("attention.key_length"), c.head_dim as u32)
        .u32(&key("attention.value_length"), c.head_dim as u32)
        .u32(&key("rope.dimension_count"), c.head_dim as u32)
        .f32(&key("rope.freq_base"), c.rope_theta as f32)
        .f32(&key("attention.layer_norm_rms_epsilon"), c.rms_norm_eps as f32);
    for (name, &id) in ["eos_token_id", "eot_token_id", "eom_token_id"].iter().zip(&c.eos_token_ids) {
        gguf = gguf.u32(&format!("tokenizer.ggml.{name}"), id);
    }
    if let Some(id) = c.bos_token_id {
        gguf = gguf.u32("tokenizer.ggml.bos_token_id", id);
    }
    if let Some(window) = c.sliding_window {
        gguf = gguf.u32(&key("attention.sliding_window"), window as u32);
    }
    if let Some(scaling) = &c.rope_scaling {
        let plain = inverse_frequencies(c.head_dim, c.rope_theta, None);
        let stretched = inverse_frequencies(c.head_dim, c.rope_theta, Some(scaling));
        let divisors: Vec<f32> = plain.iter().zip(&stretched).map(|(p, s)| (p / s) as f32).collect();
        gguf = gguf.tensor("rope_freqs.weight", &[divisors.len()], &divisors);
    }
    for (tensor, shape) in c.tensors() {
        let mut data = values(&files, &tensor, DType::F32);
        if let Some(heads) = permuted_heads(c, &tensor).filter(|_| arch == "llama") {
            data = permute_rows(&data, heads, shape.get(1).copied().unwrap_or(1));
        }
        gguf = gguf.tensor(&hf_to_gguf(&tensor).unwrap(), &shape, &data);
    }
    (files, gguf)
}

#[test]
fn a_gguf_file_is_the_model_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS {
        let (folder, gguf) = to_gguf(name);
        let path = dir.path().join(format!("{name}.gguf"));
        std::fs::write(&path, gguf.bytes()).unwrap();
        let file = open(&ModelSource::Gguf(path), &options()).unwrap();
        let mut expected = folder.config.clone();
        if let Some(scaling) = &mut expected.rope_scaling {
            // Not a published Llama's parameters, so the divisors themselves are kept.
            let Some(RopeScaling::Divisors(divisors)) = &file.config.rope_scaling else {
                panic!("{:?}", file.config)
            };
            let stretched = inverse_frequencies(expected.head_dim, expected.rope_theta, Some(scaling));
            let plain = inverse_frequencies(expected.head_dim, expected.rope_theta, None);
            assert!(
                plain.iter().zip(&stretched).zip(divisors).all(|((p, s), d)| (p / s / d - 1.0).abs() < 1e-6)
            );
            *scaling = RopeScaling::Divisors(divisors.clone());
        }
        expected.initializer_range = 0.02;
        assert_eq!(file.config, expected, "{name}");
        assert_eq!(file.weights.names(), folder.weights.names(), "{name}");
        for (tensor, _) in expected.tensors() {
            assert_eq!(
                values(&file, &tensor, DType::F32),
                values(&folder, &tensor, DType::F32),
                "{name} {tensor}"
            );
        }
        let reread = crate::LlamaConfig::from_hf_value(&file.config_json, "written").unwrap();
        assert_eq!(reread, expected, "{name}");
    }
}

#[test]
fn gguf_metadata_that_is_wrong_is_refused_by_name() {
    let read = |file: GgufBytes| crate::LlamaConfig::from_gguf(&file.open(), "m.gguf");
    let llama = |key: &str| format!("llama.{key}");
    read(to_gguf("llama2").1).unwrap();
    let g = || to_gguf("llama2").1;
    let table = [
        ("no architecture", g().without("general.architecture"), "architecture"),
        ("other architecture", g().str("general.architecture", "gemma2"), "\"gemma2\""),
        ("no width", g().without(&llama("embedding_length")), "llama.embedding_length"),
        ("heads 0", g().u32(&llama("attention.head_count"), 0), "head_count"),
        ("kv heads 0", g().u32(&llama("attention.head_count_kv"), 0), "num_key_value_heads"),
        ("kv heads do not divide", g().u32(&llama("attention.head_count_kv"), 3), "num_key_value_heads"),
        ("heads per layer", g().u32s(&llama("attention.head_count"), &[4, 4]), "llama.attention.head_count"),
        ("heads a float", g().f32(&llama("attention.head_count"), 4.0), "head_count"),
        ("layers 2^31", g().u32(&llama("block_count"), 1 << 31), "num_hidden_layers"),
        ("width 2^31", g().u32(&llama("embedding_length"), 1 << 31), "hidden_size"),
        (
            "values of another width",
            g().u32(&llama("attention.value_length"), 4),
            "llama.attention.value_length",
        ),
        ("half of a head rotated", g().u32(&llama("rope.dimension_count"), 4), "llama.rope.dimension_count"),
        ("theta 0", g().f32(&llama("rope.freq_base"), 0.0), "rope_theta"),
        ("theta NaN", g().f32(&llama("rope.freq_base"), f32::NAN), "rope_theta"),
        ("eps NaN", g().f32(&llama("attention.layer_norm_rms_epsilon"), f32::NAN), "rms_norm_eps"),
        ("no eps", g().without(&llama("attention.layer_norm_rms_epsilon")), "layer_norm_rms_epsilon"),
        (
            "yarn",
            g().str(&llama("rope.scaling.type"), "yarn").f32(&llama("rope.scaling.factor"), 2.0),
            "\"yarn\"",
        ),
        (
            "linear without a factor",
            g().str(&llama("rope.scaling.type"), "linear"),
            "llama.rope.scaling.factor",
        ),
        ("experts", g().u32(&llama("expert_count"), 8), "mixture of experts"),
        ("vocabulary of another size", g().u32(&llama("vocab_size"), 95), "llama.vocab_size"),
        ("divisors of another length", g().tensor("rope_freqs.weight", &[3], &[1.0; 3]), "rope_scaling"),
        ("divisor 0", g().tensor("rope_freqs.weight", &[4], &[0.0; 4]), "rope_scaling"),
        ("eos outside", g().u32("tokenizer.ggml.eos_token_id", 96), "eos_token_id"),
    ];
    for (case, file, named) in table {
        let message = read(file).expect_err(case).to_string();
        assert!(message.contains(named) && !message.contains('\n'), "{case}: {message}");
    }
    let linear =
        read(g().str(&llama("rope.scaling.type"), "linear").f32(&llama("rope.scaling.factor"), 4.0)).unwrap();
    assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
}

#[test]
fn gguf_tensors_that_do_not_fit_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let g = || to_gguf("llama2").1;
    let table = [
        ("missing", g().without_tensor("blk.1.ffn_up.weight"), "model.layers.1.mlp.up_proj.weight"),
        ("extra layer", g().tensor("blk.2.attn_norm.weight", &[32], &[0.0; 32]), "layers 0 to 1"),
        ("extra bias", g().tensor("blk.0.ffn_up.bias", &[80], &[0.0; 80]), "no such bias"),
        ("unknown", g().tensor("blk.0.attn_qkv.weight", &[2, 2], &[0.0; 4]), "blk.0.attn_qkv.weight"),
        ("shape", g().tensor("output_norm.weight", &[31], &[0.0; 31]), "model.norm.weight"),
    ];
    for (case, file, named) in table {
        std::fs::write(&path, file.bytes()).unwrap();
        let message = open(&ModelSource::Gguf(path.clone()), &options()).expect_err(case).to_string();
        assert!(message.contains(named) && !message.contains('\n'), "{case}: {message}");
    }
    let nan = g().tensor("output_norm.weight", &[32], &[f32::NAN; 32]);
    std::fs::write(&path, nan.bytes()).unwrap();
    let files = open(&ModelSource::Gguf(path), &options()).unwrap();
    let message = files.weights.load("model.norm.weight", DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("model.norm.weight") && message.contains("NaN at element 0"), "{message}");
}
