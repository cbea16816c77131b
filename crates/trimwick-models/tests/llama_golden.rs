//! The model against PyTorch transformers on random weights of every kind of the family
//! (tests/golden/make_llama_golden.py), the cache against the whole sequence, and the keystone: every parameter
//! is reached by the gradient in every wrap combination.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use trimwick_models::{Llama, LlamaConfig};
use trimwick_nn::{CausalLm, LayerKind, ParamStore, Reparam, Slot, ops};
use trimwick_testkit::{Golden, assert_close, assert_every_gradient, gradient_faults, values};

const KINDS: [&str; 7] = ["llama2", "llama3", "smollm2", "tinyllama", "mistral", "qwen2", "qwen3"];

struct Case {
    golden: Golden,
    store: ParamStore,
    model: Llama,
}

fn open(kind: &str, dtype: DType) -> Case {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind);
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = LlamaConfig::from_hf_json(&text, "config.json").unwrap();
    let store = ParamStore::load(folder.join("model.safetensors"), dtype, &Device::Cpu).unwrap();
    let model = Llama::new(&config, Some(32), store.var_builder()).unwrap();
    assert_eq!(store.unread(), Vec::<String>::new(), "{kind}: every stored tensor is used");
    Case { golden: Golden::open(folder.join("golden.safetensors")), store, model }
}

fn loss(model: &Llama, ids: &Tensor) -> Tensor {
    let (b, t) = ids.dims2().unwrap();
    let logits = model.forward(ids).unwrap().i((.., ..t - 1, ..)).unwrap().contiguous().unwrap();
    let targets = ids.i((.., 1..)).unwrap().flatten_all().unwrap().to_vec1::<u32>().unwrap();
    ops::cross_entropy(&logits.reshape((b * (t - 1), ())).unwrap(), &targets, u32::MAX).unwrap()
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    for kind in KINDS {
        let Case { golden, store, model } = open(kind, DType::F32);
        let ids = golden.tensor("ids");
        assert_close(&model.forward(&ids).unwrap(), &golden.tensor("logits"), 1e-4, 5e-5);
        let loss = loss(&model, &ids);
        let want = values(&golden.tensor("loss"))[0];
        assert!((values(&loss)[0] - want).abs() < 1e-5, "{kind}: loss {loss} against {want}");
        let grads = loss.backward().unwrap();
        for p in store.trainable() {
            let got = grads.get(p.var().as_tensor()).unwrap();
            let want = golden.tensor(&format!("grad.{}", p.name()));
            let scale = values(&want).iter().fold(0f64, |m, v| m.max(v.abs()));
            assert_close(got, &want, 2e-4, 1e-4 * scale);
        }
    }
}

#[test]
fn a_cached_pass_gives_the_logits_of_the_whole_sequence() {
    for kind in KINDS {
        let Case { golden, model, .. } = open(kind, DType::F32);
        let ids = golden.tensor("ids").i(..1).unwrap();
        let whole = model.forward(&ids).unwrap();
        let mut caches = model.new_caches();
        let tokens = ids.dim(1).unwrap();
        // A prompt of five tokens, then one at a time.
        let mut from = 0;
        for to in std::iter::once(5).chain(6..=tokens) {
            let piece = ids.i((.., from..to)).unwrap();
            let logits = model.forward_cached(&piece, &mut caches).unwrap();
            assert_close(&logits, &whole.i((.., to - 1, ..)).unwrap(), 1e-4, 1e-5);
            from = to;
        }
    }
}

/// A wrap as masks, fake-quantizers and adapters are: it changes the value and keeps the graph.
struct Wrap(f64);

impl Reparam for Wrap {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        base * self.0
    }

    fn name(&self) -> &'static str {
        "wrap"
    }
}

struct Masked;

impl Reparam for Masked {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        let bits: Arc<[u8]> = vec![0b0101_0101; base.elem_count().div_ceil(8)].into();
        ops::mask(base, &bits, None)
    }

    fn name(&self) -> &'static str {
        "mask"
    }
}

#[test]
fn every_parameter_gets_a_finite_non_zero_gradient_in_every_wrap_combination() {
    for kind in KINDS {
        let Case { golden, store, model } = open(kind, DType::F32);
        let ids = golden.tensor("ids");
        for combination in 0..16u32 {
            for layer in &store.layers() {
                for slot in [Slot::Adapter, Slot::Mask, Slot::FakeQuant] {
                    layer.clear(slot);
                }
                layer.set_activation(None);
                if combination & 1 != 0 {
                    layer.set(Slot::Adapter, Arc::new(Wrap(1.1)));
                }
                if combination & 2 != 0 && layer.kind() == LayerKind::Linear {
                    layer.set(Slot::Mask, Arc::new(Masked));
                }
                if combination & 4 != 0 {
                    layer.set(Slot::FakeQuant, Arc::new(Wrap(0.9)));
                }
                if combination & 8 != 0 {
                    layer.set_activation(Some(Arc::new(Wrap(1.05))));
                }
            }
            assert_every_gradient(&store, &loss(&model, &ids));
        }
    }
}

#[test]
fn the_keystone_check_finds_a_cut_graph() {
    struct Cut;
    impl Reparam for Cut {
        fn apply(&self, base: &Tensor) -> Result<Tensor> {
            Ok(base.detach())
        }

        fn name(&self) -> &'static str {
            "cut"
        }
    }
    let Case { golden, store, model } = open("llama3", DType::F32);
    let layers = store.layers();
    layers.get("model.layers.1.mlp.up_proj").unwrap().set(Slot::FakeQuant, Arc::new(Cut));
    let faults = gradient_faults(&store, &loss(&model, &golden.tensor("ids")));
    assert_eq!(faults, ["model.layers.1.mlp.up_proj.weight: no gradient"]);
}

#[test]
fn a_model_in_f64_agrees_with_central_differences() {
    let Case { golden, store, model } = open("qwen3", DType::F64);
    let ids = golden.tensor("ids").i(..1).unwrap();
    let grads = loss(&model, &ids).backward().unwrap();
    for p in store.trainable() {
        let grad = values(grads.get(p.var().as_tensor()).unwrap());
        let base = values(&p.tensor());
        let scale = grad.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        for i in [0, base.len() / 3, base.len() - 1] {
            let at = |delta: f64| {
                let mut moved = base.clone();
                moved[i] += delta;
                p.set(&Tensor::from_vec(moved, p.shape(), &Device::Cpu).unwrap()).unwrap();
                values(&loss(&model, &ids))[0]
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((numeric - grad[i]).abs() / scale < 1e-6, "{} [{i}]: {numeric} {}", p.name(), grad[i]);
        }
        p.set(&Tensor::from_vec(base, p.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

#[test]
fn what_a_checkpoint_lacks_or_misshapes_is_named() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama2");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let build = |from: &str, to: &str| {
        let config = LlamaConfig::from_hf_json(&text.replace(from, to), "config.json").unwrap();
        let store = ParamStore::load(folder.join("model.safetensors"), DType::F32, &Device::Cpu).unwrap();
        Llama::new(&config, None, store.var_builder()).map(|_| store.unread())
    };
    let layers = build("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3").unwrap_err().to_string();
    assert!(layers.contains("model.layers.2") && layers.contains("missing"), "{layers}");
    let unread = build("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1").unwrap();
    assert!(unread.iter().all(|n| n.starts_with("model.layers.1.")) && !unread.is_empty(), "{unread:?}");
    let vocab = build("\"vocab_size\": ", "\"vocab_size\": 1").unwrap_err().to_string();
    assert!(vocab.contains("embed_tokens") && vocab.contains("expected shape"), "{vocab}");
}
