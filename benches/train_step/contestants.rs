//! The contestants in Rust. Each waits for a line, does a step and prints its seconds.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use trimwick::models::{Llama, LlamaConfig};
use trimwick::nn::{CausalLm, ParamStore};
use trimwick::quant::{self, Scheme};
use trimwick::train::{
    AdamW, AdamWConfig, Decay, DistillConfig, Distillation, Guards, MemoryPlan, Moments, Progress, Schedule,
    TrainConfig, Trainer, Warmup, Windows, infer,
};

use crate::attention::{Attention, Optimizer};
use crate::products::Products;
use crate::shape::Shape;
use crate::stock::Stock;

/// What a contestant trains with, besides Trimwick's defaults.
#[derive(Default)]
struct Own {
    scheme: Option<&'static str>,
    teacher: bool,
    memory: MemoryPlan,
    moments: Moments,
}

pub(crate) fn serve(name: &str, shape: Shape) -> Result<()> {
    match name {
        "products" => {
            let mut products = Products::new(shape);
            answer(|| products.step())
        }
        "attention" => {
            let mut attention = Attention::new(shape);
            answer(|| attention.step())
        }
        "optimizer" => {
            let mut optimizer = Optimizer::new(shape);
            answer(|| optimizer.step())
        }
        "stock" => {
            let mut stock = Stock::new(shape)?;
            answer(|| stock.step())
        }
        "plain" => train(shape, &Own::default()),
        "blocks" => train(shape, &Own { memory: MemoryPlan::Blocks, ..Own::default() }),
        "lean" => train(shape, &Own { memory: MemoryPlan::Lean, ..Own::default() }),
        "lean-int8" => {
            let (memory, moments) = (MemoryPlan::Lean, Moments::Int8);
            train(shape, &Own { memory, moments, ..Own::default() })
        }
        "distilled" => train(shape, &Own { teacher: true, ..Own::default() }),
        "qat" => {
            let scheme = Some("weight int4 g32 bf16, input int8 token dynamic");
            train(shape, &Own { scheme, ..Own::default() })
        }
        "qat-int8" => train(shape, &Own { scheme: Some("int8-static"), ..Own::default() }),
        _ => bail!(
            "contestant {name:?}: expected plain, blocks, lean, lean-int8, distilled, qat, qat-int8, products, \
             attention, optimizer, stock, torch or modelopt"
        ),
    }
}

/// Waits for a line; false when there will be none.
fn wait() -> bool {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).is_ok_and(|read| read > 0)
}

fn answer(mut step: impl FnMut() -> Result<()>) -> Result<()> {
    while wait() {
        let begun = Instant::now();
        step()?;
        println!("{}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn model(shape: Shape) -> Result<(ParamStore, Llama)> {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 42);
    let config = LlamaConfig::from_hf_json(&shape.config(), "the bench")?;
    let model = Llama::new(&config, Some(shape.tokens), store.var_builder())?;
    Ok((store, model))
}

/// The real loop, stopped between two steps until it is its turn again.
fn train(shape: Shape, own: &Own) -> Result<()> {
    const STEPS: u64 = 1_000_000;
    let (store, student) = model(shape)?;
    let teacher = if own.teacher { Some(model(shape)?) } else { None };
    let ids = shape.ids();
    if let Some(scheme) = own.scheme {
        let layers = store.layers().select("model.layers.*")?;
        quant::attach(&layers, &scheme.parse::<Scheme>()?)?;
        let inputs = Tensor::from_slice(&ids[..shape.tokens], (1, shape.tokens), &Device::Cpu)?;
        quant::calibrate(&layers, || infer(&student, &inputs).map(drop))?;
    }
    let windows = Windows::new(ids, shape.tokens + 1)?;
    let stop = AtomicBool::new(!wait());
    let trainer = Trainer {
        model: &student,
        store: &store,
        windows: &windows,
        optimizer: AdamW::new(
            store.trainable(),
            &AdamWConfig { moments: own.moments, ..AdamWConfig::default() },
            &[],
        )?,
        schedule: Schedule::new(Decay::Constant, 1e-6, 1e-6, Warmup::Steps(0), STEPS)?,
        distill: match &teacher {
            Some((_, teacher)) => {
                Some(Distillation::new(teacher as &dyn CausalLm, DistillConfig::default())?)
            }
            None => None,
        },
        validation: None,
        hooks: Vec::new(),
        config: TrainConfig {
            steps: STEPS,
            batch: 1,
            accumulate: 1,
            clip: Some(1.),
            save_every: 0,
            order_seed: 0,
            fingerprint: String::new(),
            memory: own.memory,
            guards: Guards::default(),
        },
        checkpoints: None,
        metrics: None,
        stop: &stop,
        report: &mut |progress| {
            if let Progress::Step(report) = progress {
                println!("{}", report.seconds);
                stop.store(!wait(), Ordering::Relaxed);
            }
        },
    };
    trainer.run()?;
    Ok(())
}

/// The largest resident set of a process so far, in bytes (Linux).
pub(crate) fn peak_rss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let kib = fields.get("VmHWM").and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path}: no VmHWM"))? * 1024)
}
