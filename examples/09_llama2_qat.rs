//! Quantize any Llama-family model and train it on its grid, on a text of yours.
//!
//! cargo run --release --features hub --example 09_llama2_qat -- SCHEME MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]
//!
//! SCHEME is a preset such as int4-g32, w4a8 or nvfp4, or parts such as "weight int3 g64 bf16"; the rest is as for
//! 10_llama2_sparse24. The folder that is written holds the values of the grid in f32, which any runtime loads.

use anyhow::Context;
use trimwick::formats::safetensors::Dtype;
use trimwick::nn::Role;
use trimwick::quant::{self, Scheme};
use trimwick::train::infer;

mod llama;
use llama::Job;

fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1))
}

fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let usage = "usage: 09_llama2_qat SCHEME MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]";
    let scheme: Scheme = args.next().context(usage)?.parse()?;
    let job = Job::from_args(args, usage)?;
    let (_teacher_store, teacher) = job.teacher()?;
    job.tell("dense", &teacher)?;

    let student = job.open()?;
    let (store, model) = &student;
    let layers = store.layers().select("model.layers.*")?;
    quant::attach(&layers, &scheme)?;
    let windows = job.calibration()?;
    quant::calibrate(&layers, || windows.iter().try_for_each(|ids| infer(model, ids).map(drop)))?;
    job.tell("one-shot", model)?;

    job.train(&student, &teacher)?;
    job.tell("trained", model)?;
    store.trainable().iter().for_each(|p| p.set_role(Role::Frozen));
    for layer in &layers {
        anyhow::ensure!(quant::on_grid(layer)?, "{}: a weight is not on its grid", layer.path());
    }
    job.save(store, Dtype::F32, "float32")
}

#[test]
fn it_runs_on_the_builtin_model() {
    let folder = tempfile::tempdir().unwrap();
    let args = llama::builtin(folder.path()).unwrap();
    run(std::iter::once("int4-g32".to_string()).chain(args)).unwrap();
    assert!(folder.path().join("out/model.safetensors").is_file());
}
