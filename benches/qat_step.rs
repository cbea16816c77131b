//! What fake-quantizers cost in training: a step of a SmolLM2-135M-shaped Llama with int4 weights in groups of 32 and
//! int8 inputs, against the same step of the same model with its quantizers switched off. Both in one run, in turn.
//!
//! RAYON_NUM_THREADS=2 cargo bench --bench qat_step [-- ROUNDS]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use trimwick::models::{Llama, LlamaConfig};
use trimwick::nn::{CausalLm, ParamStore, ops};
use trimwick::quant::{self, Scheme};
use trimwick::train::{AdamW, AdamWConfig, Gradients};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 512;
/// The configuration of HuggingFaceTB/SmolLM2-135M.
const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true}"#;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(5);
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 42);
    let config = LlamaConfig::from_hf_json(CONFIG, "the bench")?;
    let model = Llama::new(&config, Some(TOKENS), store.var_builder())?;
    let layers = store.layers().select("model.layers.*")?;
    let scheme: Scheme = "weight int4 g32 bf16, input int8 token dynamic".parse()?;
    quant::attach(&layers, &scheme)?;
    let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?;
    let ids: Vec<u32> = (0..=TOKENS as u32).map(|i| i * 7919 % 49152).collect();
    let inputs = Tensor::from_slice(&ids[..TOKENS], (1, TOKENS), &Device::Cpu)?;
    let mut step = |on: bool| -> anyhow::Result<f64> {
        quant::set_enabled(&layers, on);
        let begun = Instant::now();
        let logits = model.forward(&inputs)?.flatten_to(1)?;
        let loss = ops::cross_entropy(&logits, &ids[1..], u32::MAX)?;
        let mut gradients = Gradients::new(&store.trainable());
        gradients.accumulate(loss.backward()?)?;
        optimizer.step(&gradients, 1e-6)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    // The first steps touch memory for the first time.
    step(false)?;
    step(true)?;
    let (before, mut plain, mut quantized) = (idle(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (p, q) = match round % 2 {
            0 => (step(false)?, step(true)?),
            _ => {
                let q = step(true)?;
                (step(false)?, q)
            }
        };
        println!("round {round}: plain {p:.2} s, quantized {q:.2} s, ratio {:.3}", q / p);
        plain.push(p);
        quantized.push(q);
    }
    let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let (p, q) = (least(&plain), least(&quantized));
    println!("least of {rounds}: plain {p:.3} s, quantized {q:.3} s, ratio {:.3} (aim: at most 1.10)", q / p);
    if let (Some((idle0, all0)), Some((idle1, all1))) = (before, idle()) {
        let threads = rayon::current_num_threads();
        let share = (idle1 - idle0) as f64 / (all1 - all0).max(1) as f64;
        println!("{threads} threads; the machine was idle for {:.0} % of the time", 100. * share);
    }
    Ok(())
}

/// Ticks that the processors were idle, and all ticks, where the system tells (Linux).
fn idle() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    Some((*ticks.get(3)?, ticks.iter().sum()))
}
