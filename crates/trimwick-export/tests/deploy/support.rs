//! Small models under a scheme, exported and opened again.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use trimwick_export::{Dense, DeployOptions, Deployed, Planned, Result, Target, Trained, check_fit, deploy};
use trimwick_models::source::{self, ModelFiles, ModelSource, OpenOptions};
use trimwick_models::{Arithmetic, KvFormat, Llama, LlamaConfig, PackedLlama, PackedOptions, Tokenizer};
use trimwick_nn::{CausalLm, ParamStore};
use trimwick_quant::{Scheme, attach, calibrate_all, share_fused};
use trimwick_sparse::{Magnitude, Pattern, prune};

/// Which layers are pruned and quantized.
pub const LAYERS: &str = "model.layers.*_proj";

/// How many blocks the small model has.
pub const LAYERS_OF_TRAINED: usize = 2;

/// A model with its parameters.
pub struct Model {
    pub config: LlamaConfig,
    pub tokenizer: Option<Tokenizer>,
    pub store: ParamStore,
    pub llama: Llama,
}

fn of(files: ModelFiles) -> Model {
    let store = ParamStore::from_source(files.weights, DType::F32, &Device::Cpu, 1);
    let llama = Llama::new(&files.config, Some(64), store.var_builder()).unwrap();
    Model { config: files.config, tokenizer: files.tokenizer, store, llama }
}

pub fn open(path: &Path) -> Model {
    of(files(path))
}

fn builtin_files() -> ModelFiles {
    source::open(&ModelSource::Builtin("tiny-llama".into()), &OpenOptions::default()).unwrap()
}

fn files(path: &Path) -> ModelFiles {
    let source = match path.is_dir() {
        true => ModelSource::Folder(path.into()),
        false => ModelSource::Gguf(path.into()),
    };
    source::open(&source, &OpenOptions::default()).unwrap()
}

/// An export as a model that computes from its packed weights, without rounding activations.
pub fn packed(path: &Path) -> PackedLlama {
    packed_of(&files(path), Arithmetic::Float)
}

/// The built-in model in the same way.
pub fn packed_builtin() -> PackedLlama {
    packed_of(&builtin_files(), Arithmetic::Float)
}

fn packed_of(files: &ModelFiles, arithmetic: Arithmetic) -> PackedLlama {
    let options = PackedOptions { arithmetic, context: Some(64), ..PackedOptions::default() };
    PackedLlama::load(files, options).unwrap()
}

/// An export that rounds activations in blocks of 32.
pub fn packed_in_blocks(path: &Path) -> PackedLlama {
    packed_of(&files(path), Arithmetic::Blocks)
}

/// Fails unless a packed model has these logits (by their bits) on the fixed text: of the whole, and of the last token
/// after a cached prefix. `tolerance` is of the largest logit.
pub fn assert_packed(case: &str, model: &PackedLlama, expected: &[u32], tolerance: f32) {
    let expected: Vec<f32> = expected.iter().map(|&bits| f32::from_bits(bits)).collect();
    let largest = expected.iter().fold(0f32, |a, x| a.max(x.abs()));
    let close = |what: &str, got: &[f32], want: &[f32]| {
        assert_eq!(got.len(), want.len(), "{case}: {what}");
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= tolerance * largest, "{case}: {what} differs by {worst} of {largest}");
    };
    let ids: Vec<u32> = ids().flatten_all().unwrap().to_vec1().unwrap();
    close("the whole text", &model.forward_all(&ids).unwrap(), &expected);
    let vocab = model.config().vocab_size;
    let mut cache = model.new_cache(KvFormat::F32);
    model.forward(&ids[..40], &mut cache).unwrap();
    for (i, &id) in ids.iter().enumerate().skip(40) {
        let got = model.forward(&[id], &mut cache).unwrap();
        close("a token after its past", got, &expected[i * vocab..(i + 1) * vocab]);
    }
    let losses = model.losses(&ids).unwrap();
    assert!(losses.len() == 47 && losses.iter().all(|loss| loss.is_finite()), "{case}");
}

/// The built-in model, whose weights are of bf16.
pub fn builtin() -> Model {
    of(builtin_files())
}

/// Two random layers of the built-in model's kind, pruned where asked for, under a scheme in words.
pub fn trained(scheme: Option<&str>, pruned: bool) -> Model {
    let ModelFiles { config, tokenizer, .. } = builtin_files();
    let config = LlamaConfig {
        hidden_size: 64,
        intermediate_size: 192,
        num_layers: LAYERS_OF_TRAINED,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 32,
        initializer_range: 0.1,
        ..config
    };
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 7);
    let llama = Llama::new(&config, Some(64), store.var_builder()).unwrap();
    let model = Model { config, tokenizer, store, llama };
    let layers = model.store.layers().select(LAYERS).unwrap();
    if pruned {
        prune(&layers, Pattern::TWO_FOUR, &Magnitude).unwrap();
    }
    if let Some(scheme) = scheme {
        quantize(&model, scheme);
    }
    model
}

/// Puts the linear layers of the blocks under a scheme in words.
pub fn quantize(model: &Model, scheme: &str) {
    let layers = model.store.layers().select(LAYERS).unwrap();
    let scheme: Scheme = scheme.parse().unwrap();
    attach(&layers, &scheme).unwrap();
    share_fused(&layers).unwrap();
    calibrate_all(&layers, &model.store.kv_slots(), || model.llama.forward(&ids()).map(drop)).unwrap();
}

fn ids() -> Tensor {
    let ids: Vec<u32> = (0..48).map(|i| (i * i * 7 + 3 * i) % 4096).collect();
    Tensor::from_vec(ids, (1, 48), &Device::Cpu).unwrap()
}

/// The bits of the logits on a fixed text.
pub fn logits(model: &Model) -> Vec<u32> {
    let logits = model.llama.forward(&ids()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(logits.iter().all(|v| v.is_finite()));
    logits.iter().map(|v| v.to_bits()).collect()
}

pub fn options(target: Target, dense: Dense) -> DeployOptions {
    DeployOptions { dense, card: "Perplexity 7.0 at 64 tokens.".into(), ..DeployOptions::new(target, "tiny") }
}

/// Exports a model.
pub fn export(model: &Model, options: &DeployOptions, out: &Path) -> Result<Deployed> {
    let trained = Trained { store: &model.store, config: &model.config, tokenizer: model.tokenizer.as_ref() };
    deploy(&trained, options, out)
}

/// What is known of an export before anything is trained.
pub fn foreseen(model: &Model, scheme: &str, target: Target, dense: Dense) -> Result<()> {
    let tensors = model.config.tensors();
    let layers: Vec<Planned<'_>> = tensors
        .iter()
        .filter_map(|(name, shape)| {
            let path = name.strip_suffix(".weight").filter(|path| path.ends_with("_proj"))?;
            Some(Planned { path, shape, linear: true, scheme: Some(scheme.parse().unwrap()) })
        })
        .collect();
    check_fit(target, dense, &layers)
}

/// The name of an output of a target.
pub fn name(target: Target) -> &'static str {
    if target == Target::Gguf { "model.gguf" } else { "model" }
}
