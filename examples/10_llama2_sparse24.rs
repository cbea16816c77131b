//! Prune any Llama-family model 2:4 and recover its accuracy on a text of yours.
//!
//! cargo run --release --features hub --example 10_llama2_sparse24 -- MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]
//!
//! MODEL is a Hugging Face folder, a .gguf file, a hub id such as meta-llama/Llama-2-7b-hf, or
//! builtin:tiny-llama. The last tenth of the text is held out. Training holds the weights, the gradients and two
//! moments in f32: 16 bytes for each parameter, and 4 more for the dense twin that teaches.

use trimwick::formats::safetensors::Dtype;
use trimwick::sparse::{Pattern, Propagate, SparseGpt, prune_model, violations};

mod llama;
use llama::Job;

fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1))
}

fn run(args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let usage = "usage: 10_llama2_sparse24 MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]";
    let job = Job::from_args(args, usage)?;
    let (_teacher_store, teacher) = job.teacher()?;
    job.tell("dense", &teacher)?;

    let student = job.open()?;
    let (store, model) = &student;
    let layers = store.layers().select("model.layers.*")?;
    let (method, calibration) = (SparseGpt::default(), job.calibration()?);
    let mut block = |done, total| println!("pruning: {done} of {total} blocks");
    prune_model(model, &layers, Pattern::TWO_FOUR, &method, &calibration, Propagate::Pruned, &mut block)?;
    job.tell("pruned", model)?;

    job.train(&student, &teacher)?;
    job.tell("recovered", model)?;
    anyhow::ensure!(violations(&layers, Pattern::TWO_FOUR)? == 0, "a group violates 2:4");
    job.save(store, Dtype::BF16, "bfloat16")
}

#[test]
fn it_runs_on_the_builtin_model() {
    let folder = tempfile::tempdir().unwrap();
    let args = llama::builtin(folder.path()).unwrap();
    run(args.into_iter()).unwrap();
    assert!(folder.path().join("out/model.safetensors").is_file());
}
