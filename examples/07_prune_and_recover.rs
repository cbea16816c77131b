//! Prune a language model 2:4 and train the accuracy back, with the library alone.
//!
//! cargo run --release --example 07_prune_and_recover
//!
//! The built-in model and its texts need no download. A recipe does the same in one command and adds control
//! arms, exports and proofs: `cargo run --release -- run configs/quickstart.toml`.

use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device, Tensor};
use trimwick::models::{Llama, ModelSource, OpenOptions, builtin, source};
use trimwick::nn::{CausalLm, ParamStore};
use trimwick::sparse::{Pattern, Propagate, SparseGpt, prune_model, violations};
use trimwick::train::{
    AdamW, AdamWConfig, Decay, DistillConfig, Distillation, EvaluateOptions, Guards, MemoryPlan, Progress,
    Schedule, TrainConfig, Trainer, Warmup, Windows, evaluate,
};

const CONTEXT: usize = 256;
const STEPS: u64 = if cfg!(test) { 4 } else { 60 };

fn main() -> anyhow::Result<()> {
    // 1. A model and its texts. Any Llama-family folder, .gguf file or hub id opens the same way.
    let files = source::open(&ModelSource::parse("builtin:tiny-llama")?, &OpenOptions::default())?;
    let open = || -> anyhow::Result<(ParamStore, Llama)> {
        let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 42);
        let model = Llama::new(&files.config, Some(CONTEXT), store.var_builder())?;
        Ok((store, model))
    };
    let tokenizer = files.tokenizer.as_ref().ok_or_else(|| anyhow::anyhow!("the model has no tokenizer"))?;
    let windows = |name| -> anyhow::Result<Windows> {
        let text = builtin::text(name).ok_or_else(|| anyhow::anyhow!("no built-in text {name}"))?;
        Ok(Windows::new(tokenizer.encode(text, false)?, CONTEXT)?)
    };
    let (training, held_out) = (windows("sotu-train")?, windows("sotu-eval")?.limit(32 * CONTEXT));
    let loss = |model: &dyn CausalLm| -> anyhow::Result<f64> {
        let options = EvaluateOptions::default();
        Ok(evaluate(model, &Device::Cpu, &held_out, options, &mut |_, _, _| {})?.loss)
    };
    let (_dense_store, dense) = open()?;
    let (store, model) = open()?;
    println!("dense      loss {:.4}", loss(&dense)?);

    // 2. Prune every linear layer of every block, each calibrated on the outputs of the blocks before it.
    let layers = store.layers().select("model.layers.*")?;
    let order = training.order(7, 0);
    let calibration = (0..32)
        .filter_map(|i| training.window(order.at(i) as usize))
        .map(|ids| Tensor::from_slice(ids, (1, CONTEXT), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let (method, propagate) = (SparseGpt::default(), Propagate::Pruned);
    prune_model(&model, &layers, Pattern::TWO_FOUR, &method, &calibration, propagate, &mut |_, _| {})?;
    println!("pruned 2:4 loss {:.4}", loss(&model)?);

    // 3. Train: the masks act in the forward pass, in the gradient and in the optimizer; the dense twin teaches.
    Trainer {
        model: &model,
        store: &store,
        windows: &training,
        optimizer: AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?,
        schedule: Schedule::new(Decay::Cosine, 1e-3, 0., Warmup::Fraction(0.05), STEPS)?,
        distill: Some(Distillation::new(&dense, DistillConfig::default())?),
        validation: None,
        hooks: vec![],
        config: TrainConfig {
            steps: STEPS,
            batch: 8,
            accumulate: 1,
            clip: Some(1.),
            save_every: 0,
            order_seed: 42,
            fingerprint: "07_prune_and_recover".into(),
            memory: MemoryPlan::None,
            guards: Guards::default(),
        },
        checkpoints: None,
        metrics: None,
        stop: &AtomicBool::new(false),
        report: &mut |progress| {
            if let Progress::Step(step) = progress
                && step.record.step.is_multiple_of(10)
            {
                println!("step {:3} of {STEPS}: loss {:.4}", step.record.step, step.smoothed);
            }
        },
    }
    .run()?;
    println!("recovered  loss {:.4}", loss(&model)?);
    println!("groups that violate 2:4: {}", violations(&layers, Pattern::TWO_FOUR)?);
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
