//! Quantize, export to GGUF and compressed-tensors, prove the files, and generate from one of them as it is packed.
//!
//! cargo run --release --example 05_export_and_generate

mod builtin;

use builtin::Workshop;
use trimwick::export::{DeployOptions, Target, Trained, deploy, verify};
use trimwick::models::{
    KvFormat, ModelSource, OpenOptions, PackedLlama, PackedOptions, Sampler, SamplingOptions, source,
};
use trimwick::quant::{self, Options, ScalePolicy, Scheme};
use trimwick::train::infer;

fn main() -> anyhow::Result<()> {
    // 1. A model on a grid. Here its scales are those of its weights; a trained one is exported in the same way.
    let workshop = Workshop::open()?;
    let (store, model) = workshop.model()?;
    let layers = store.layers().select("model.layers.*")?;
    let options = Options { scales: ScalePolicy::Frozen, ..Options::default() };
    quant::attach_with(&layers, &Scheme::preset("int4-g32")?, &options)?;
    quant::calibrate(&layers, || infer(&model, &workshop.calibration()[0]).map(drop))?;
    println!("int4-g32: loss {:.4}", workshop.loss(&model)?);

    // 2. Written, read back and compared with what the layers compute with, before the files get their names.
    let folder = tempfile::tempdir()?;
    let trained = Trained {
        store: &store,
        config: &workshop.files.config,
        tokenizer: workshop.files.tokenizer.as_ref(),
    };
    for (target, name) in [(Target::Gguf, "model.gguf"), (Target::CompressedTensors, "folder")] {
        let out = folder.path().join(name);
        let written = deploy(&trained, &DeployOptions::new(target, "tiny-llama-int4"), &out)?.verified;
        println!("{target}: {} bytes, {:.3} bits per parameter", written.bytes, written.bits());
    }
    let (file, other) = (folder.path().join("model.gguf"), folder.path().join("folder"));
    println!("{} values are the same in both", verify(&file, Some(&other))?.compared);

    // 3. Tokens from the packed weights: no copy of them in floats.
    let files = source::open(&ModelSource::Gguf(file), &OpenOptions::default())?;
    let tokenizer = files.require_tokenizer()?;
    let packed = PackedLlama::load(&files, PackedOptions { context: Some(64), ..PackedOptions::default() })?;
    let mut cache = packed.new_cache(KvFormat::F16);
    let mut sampler = Sampler::new(SamplingOptions::default())?; // greedy
    let mut ids = tokenizer.encode("My fellow citizens", false)?;
    let mut fed = 0;
    for _ in 0..24 {
        let next = sampler.sample(packed.forward(&ids[fed..], &mut cache)?)?;
        fed = ids.len();
        ids.push(next);
    }
    println!("{}", tokenizer.decode(&ids, true)?);
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
