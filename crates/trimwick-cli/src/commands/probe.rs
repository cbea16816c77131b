//! How fast this machine multiplies, and whether a run fits into its memory.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use trimwick_kernels::matmul_nt;
use trimwick_recipe::run::Work;
use trimwick_recipe::{Recipe, Storage};
use trimwick_train::{MemoryPlan, Moments, NonFinite};

use crate::memory::bytes_of;
use crate::text::{bytes, duration};

/// How long the probe runs.
const PROBE: Duration = Duration::from_secs(2);
/// The share of its time that a run spends in products of matrices, about (docs/performance.md).
const PRODUCTS: f64 = 0.8;

/// Multiplies for two seconds; operations in a second. `tokens`, `inputs` and `outputs` are those of a layer of the model.
pub(super) fn speed(tokens: usize, inputs: usize, outputs: usize) -> f64 {
    let fill = |len: usize| (0..len).map(|i| (i * 7919 % 1000) as f32 / 1e3 - 0.5).collect::<Vec<f32>>();
    let (x, w, mut y) = (fill(tokens * inputs), fill(outputs * inputs), vec![0.; tokens * outputs]);
    let each = 2. * (tokens * inputs * outputs) as f64;
    // The first product starts threads and takes memory.
    matmul_nt(&x, &w, &mut y, tokens, inputs, outputs, false);
    let (begun, mut done) = (Instant::now(), 0.);
    while begun.elapsed() < PROBE {
        matmul_nt(&x, &w, black_box(&mut y), tokens, inputs, outputs, false);
        done += each;
    }
    done / begun.elapsed().as_secs_f64()
}

/// `about 3:20: 1.2 TFLOP of training, …, at 96 GFLOP/s`: what a run will take.
pub(super) fn time(work: &Work, speed: f64) -> String {
    let tera = |operations: f64| format!("{:.3} TFLOP", operations / 1e12);
    let seconds = seconds(work, speed);
    format!(
        "about {}: {} of training, {} of pruning and passes, {} of measuring, at the {:.0} GFLOP/s that this machine gave for {} s",
        duration(seconds),
        tera(work.training),
        tera(work.compressing),
        tera(work.measuring),
        speed / 1e9,
        PROBE.as_secs(),
    )
}

/// Seconds that a run will take.
pub(super) fn seconds(work: &Work, speed: f64) -> f64 {
    work.total() / speed / PRODUCTS
}

/// Bytes that this machine has to give, where the system tells (Linux).
pub(super) fn available() -> Option<u64> {
    bytes_of("/proc/meminfo", "MemAvailable:")
}

/// Bytes that are free where a run's folder is, or will be.
pub(super) fn free(out: &Path) -> Option<u64> {
    let there = std::path::absolute(out).ok()?.ancestors().find(|folder| folder.is_dir())?.to_path_buf();
    fs4::available_space(there).ok()
}

/// What a recipe can do to need less memory, the most drastic last; `parameters` are those of its model, `window` is what each
/// window of a step takes.
pub(super) fn levers(recipe: &Recipe, parameters: u64, window: u64) -> Vec<String> {
    let mut levers = Vec::new();
    if let Some(train) = recipe.train.as_ref().filter(|train| train.batch > 1) {
        let (rest, micro) = (train.batch as u64 - 1, train.batch * train.accumulate);
        let saved = bytes(rest * window);
        levers.push(format!(
            "train.batch = 1 with train.accumulate = {micro} (-{saved}, the same tokens a step)"
        ));
    }
    let mut lever = |key: &str, saved: u64| levers.push(format!("{key} (-{})", bytes(saved)));
    if recipe.distill.as_ref().is_some_and(|distill| distill.storage == Storage::F32) {
        lever("distill.storage = \"bf16\"", 2 * parameters);
    }
    // Adapters have few gradients and moments.
    if let Some(train) = recipe.train.as_ref().filter(|_| recipe.lora.is_none()) {
        let refused = train.accumulate > 1 || train.engine.guards.non_finite == NonFinite::Skip;
        if train.engine.memory == MemoryPlan::None {
            levers.push("train.memory = \"blocks\" (activations of one block at a time)".into());
        }
        let mut lever = |key: &str, saved: u64| levers.push(format!("{key} (-{})", bytes(saved)));
        if train.engine.memory != MemoryPlan::Lean && !refused {
            lever("train.memory = \"lean\"", 4 * parameters);
        }
        if train.engine.moments == Moments::F32 {
            lever("train.moments = \"int8\"", 6 * parameters);
        }
    }
    levers.push(match recipe.stream {
        true => "a shorter data.context, fewer calibration.windows, a smaller blockwise.spill_mib".into(),
        false => {
            "model.stream = true with [blockwise] in the place of [train] (one block in memory)".to_string()
        }
    });
    levers
}
