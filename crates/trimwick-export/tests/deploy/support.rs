//! Small models under a scheme, exported and opened again.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use trimwick_export::{Dense, DeployOptions, Deployed, Result, Target, Trained, deploy};
use trimwick_models::source::{self, ModelFiles, ModelSource, OpenOptions};
use trimwick_models::{Llama, LlamaConfig, Tokenizer};
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
    let source = match path.is_dir() {
        true => ModelSource::Folder(path.into()),
        false => ModelSource::Gguf(path.into()),
    };
    of(source::open(&source, &OpenOptions::default()).unwrap())
}

fn builtin_files() -> ModelFiles {
    source::open(&ModelSource::Builtin("tiny-llama".into()), &OpenOptions::default()).unwrap()
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
        let scheme: Scheme = scheme.parse().unwrap();
        attach(&layers, &scheme).unwrap();
        share_fused(&layers).unwrap();
        calibrate_all(&layers, &model.store.kv_slots(), || model.llama.forward(&ids()).map(drop)).unwrap();
    }
    model
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

/// The name of an output of a target.
pub fn name(target: Target) -> &'static str {
    if target == Target::Gguf { "model.gguf" } else { "model" }
}
