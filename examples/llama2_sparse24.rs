//! Prune any Llama-family model 2:4 and recover its accuracy on a text of yours.
//!
//! cargo run --release --features hub --example llama2_sparse24 -- MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]
//!
//! MODEL is a Hugging Face folder, a .gguf file, a hub id such as meta-llama/Llama-2-7b-hf, or
//! builtin:tiny-llama. The last tenth of the text is held out. Training holds the weights, the gradients and two
//! moments in f32: 16 bytes for each parameter, and 4 more for the dense twin that teaches.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use trimwick::formats::safetensors::{Dtype, NewTensor, write};
use trimwick::models::{Llama, ModelSource, OpenOptions, source};
use trimwick::nn::{CausalLm, ParamStore, Role};
use trimwick::sparse::{Pattern, Propagate, SparseGpt, prune_model, violations};
use trimwick::train::{
    AdamW, AdamWConfig, Decay, DistillConfig, Distillation, EvaluateOptions, Progress, Schedule, TrainConfig,
    Trainer, Warmup, Windows, evaluate,
};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: llama2_sparse24 MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]";
    let (model_name, text) = (args.next().context(usage)?, args.next().context(usage)?);
    let out = PathBuf::from(args.next().unwrap_or_else(|| "llama2-sparse24".into()));
    let tokens: u64 = args.next().unwrap_or_else(|| "81920".into()).parse().context("TOKENS")?;
    let context: usize = args.next().unwrap_or_else(|| "512".into()).parse().context("CONTEXT")?;

    let files = source::open(&ModelSource::parse(&model_name)?, &OpenOptions::default())?;
    let tokenizer = files.tokenizer.as_ref().context("the model has no tokenizer.json")?;
    let ids = tokenizer.encode(&std::fs::read_to_string(&text).context(text)?, false)?;
    let (training, held_out) = ids.split_at(ids.len() / 10 * 9);
    let training = Windows::new(training.to_vec(), context)?;
    let held_out = Windows::new(held_out.to_vec(), context)?.limit(24 * context);
    let open = || -> anyhow::Result<(ParamStore, Llama)> {
        let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 42);
        let model = Llama::new(&files.config, Some(context), store.var_builder())?;
        Ok((store, model))
    };
    let tell = |name: &str, model: &dyn CausalLm| -> anyhow::Result<()> {
        let found = evaluate(model, &Device::Cpu, &held_out, EvaluateOptions::default(), &mut |_, _, _| {})?;
        println!("{name:10} perplexity {:8.3} @{context}  loss {:.4}", found.perplexity, found.loss);
        Ok(())
    };

    let (teacher_store, teacher) = open()?;
    // A frozen parameter takes no part in the graph: the teacher's pass keeps nothing.
    teacher_store.params().iter().for_each(|p| p.set_role(Role::Frozen));
    tell("dense", &teacher)?;

    let (store, model) = open()?;
    let layers = store.layers().select("model.layers.*")?;
    let order = training.order(7, 0);
    let calibration = (0..32.min(training.len() as u64))
        .filter_map(|i| training.window(order.at(i) as usize))
        .map(|ids| Tensor::from_slice(ids, (1, context), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let mut block = |done, total| println!("pruning: {done} of {total} blocks");
    let method = SparseGpt::default();
    prune_model(&model, &layers, Pattern::TWO_FOUR, &method, &calibration, Propagate::Pruned, &mut block)?;
    tell("pruned", &model)?;

    let steps = tokens.div_ceil(context as u64);
    Trainer {
        model: &model,
        store: &store,
        windows: &training,
        optimizer: AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?,
        schedule: Schedule::new(Decay::Cosine, 1e-4, 0., Warmup::Fraction(0.05), steps)?,
        distill: Some(Distillation::new(&teacher, DistillConfig::default())?),
        validation: None,
        hooks: vec![],
        config: TrainConfig {
            steps,
            batch: 1,
            accumulate: 1,
            clip: Some(1.),
            save_every: 0,
            order_seed: 42,
            fingerprint: "llama2_sparse24".into(),
        },
        checkpoints: None,
        metrics: None,
        stop: &AtomicBool::new(false),
        report: &mut |progress| {
            if let Progress::Step(s) = progress {
                println!("step {} of {steps}: loss {:.4}, {:.1} s", s.record.step, s.smoothed, s.seconds);
            }
        },
    }
    .run()?;
    tell("recovered", &model)?;
    anyhow::ensure!(violations(&layers, Pattern::TWO_FOUR)? == 0, "a group violates 2:4");

    std::fs::create_dir_all(&out)?;
    let params: Vec<_> = store.params().into_iter().filter(|p| p.role() != Role::Buffer).collect();
    let values = params
        .iter()
        .map(|p| p.tensor().flatten_all()?.to_vec1::<f32>())
        .collect::<candle_core::Result<Vec<_>>>()?;
    let tensors = params
        .iter()
        .zip(&values)
        .map(|(p, v)| NewTensor::floats(p.name(), Dtype::BF16, p.shape().dims(), v));
    write(out.join("model.safetensors"), tensors, &[("format".into(), "pt".into())].into())?;
    std::fs::write(out.join("config.json"), format!("{:#}", files.config.to_hf_json("bfloat16")))?;
    tokenizer.save_json(&out.join("tokenizer.json"))?;
    println!("written to {}", out.display());
    Ok(())
}
