//! What a run writes loads in stock candle-transformers and computes the same logits.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama as Stock, LlamaConfig as StockConfig};
use trimwick::models::{Llama, ModelSource, OpenOptions, source};
use trimwick::nn::{CausalLm, ParamStore};
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{RunOutcome, Summary, run};
use trimwick_testkit::assert_close;

const RECIPE: &str = r#"
[model]
source = "builtin:tiny-llama"
[data]
eval = "builtin:sotu-eval"
context = 64
eval_tokens = 256
[prune]
pattern = "2:4"
method = "magnitude"
[compare]
arms = []
"#;

fn written(out: &Path, dtype: &str) -> Summary {
    let overrides = [format!("export.dtype={dtype}")];
    let recipe = Recipe::parse(RECIPE, "stock.toml", &overrides).unwrap();
    match run(&recipe, out, &AtomicBool::new(false), &mut |_| {}).unwrap() {
        RunOutcome::Finished(summary) => *summary,
        RunOutcome::Stopped => panic!("nobody stopped it"),
    }
}

#[test]
fn a_pruned_export_gives_equal_logits_in_stock_candle() {
    for dtype in ["f32", "bf16"] {
        let out = tempfile::tempdir().unwrap();
        let summary = written(out.path(), dtype);
        assert_eq!(summary.groups_violating, 0);
        assert!(summary.groups > 0 && summary.zeros >= 2 * summary.groups);
        let folder = out.path().join("model");

        let files = source::open(&ModelSource::Folder(folder.clone()), &OpenOptions::default()).unwrap();
        let store = ParamStore::from_source(files.weights, DType::F32, &Device::Cpu, 0);
        let ours = Llama::new(&files.config, Some(64), store.var_builder()).unwrap();

        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config: StockConfig = serde_json::from_str(&text).unwrap();
        let config = config.into_config(false);
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
        let stock = Stock::load(vb, &config).unwrap();

        let ids: Vec<u32> = (0..48).map(|i| (i * 37 + 11) % 4096).collect();
        let ids = Tensor::from_vec(ids, (1, 48), &Device::Cpu).unwrap();
        let whole = ours.forward(&ids).unwrap();
        for tokens in [1, 17, 48] {
            // Stock Llama gives the last token's logits alone.
            let mut cache = Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
            let theirs = stock.forward(&ids.i((.., ..tokens)).unwrap(), 0, &mut cache).unwrap();
            assert_close(&whole.i((.., tokens - 1, ..)).unwrap(), &theirs, 1e-4, 1e-4);
        }
    }
}
