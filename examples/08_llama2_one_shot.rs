//! Quantize any Llama-family model without training, by one-shot passes over a text of yours.
//!
//! cargo run --release --features hub --example 08_llama2_one_shot -- SCHEME PASSES MODEL TEXT.txt HELD_OUT.txt [CONTEXT]
//!
//! SCHEME is a preset such as int4-g64 or w4a8, or parts such as "weight int3 g64 bf16". PASSES are any of smooth, smooth=0.5
//! (a fixed exponent), awq, clip, svd, gptq, 2:4+gptq (pruned in the same pass) and 2:4 (SparseGPT), in this order and joined
//! by commas; or none; or mse (ranges with the least squared error). Calibration takes 32 windows of TEXT.

use std::time::Instant;

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor};
use trimwick::models::{Llama, ModelSource, OpenOptions, source};
use trimwick::nn::{Layers, ParamStore, Role};
use trimwick::quant::{
    self, Alpha, AwqClip, AwqScale, ColumnOrder, Gptq, Joint, Options, Pass, Range, ScalePolicy, Scheme,
    Select, SmoothQuant, SvdQuant, Watch,
};
use trimwick::sparse::{self, Pattern, Propagate, SparseGpt};
use trimwick::train::{EvaluateOptions, Windows, evaluate, infer};

const USAGE: &str = "usage: 08_llama2_one_shot SCHEME PASSES MODEL TEXT.txt HELD_OUT.txt [CONTEXT]";

fn main() -> anyhow::Result<()> {
    compress(std::env::args().skip(1))
}

fn compress(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut next = || args.next().context(USAGE);
    let (scheme, passes): (Scheme, String) = (next()?.parse()?, next()?);
    let files = source::open(&ModelSource::parse(&next()?)?, &OpenOptions::default())?;
    let (text, held_out) = (next()?, next()?);
    let context: usize = args.next().unwrap_or_else(|| "512".into()).parse().context("CONTEXT")?;
    let tokenizer = files.tokenizer.as_ref().context("the model has no tokenizer.json")?;
    let windows = |path: &str| -> anyhow::Result<Windows> {
        let text = std::fs::read_to_string(path).context(path.to_string())?;
        Ok(Windows::new(tokenizer.encode(&text, false)?, context)?)
    };
    let (training, held_out) = (windows(&text)?, windows(&held_out)?.limit(24 * context));
    let order = training.order(42, 0);
    let calibration = (0..32.min(training.len() as u64))
        .filter_map(|i| training.window(order.at(i) as usize))
        .map(|ids| Tensor::from_slice(ids, (1, context), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;

    let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 42);
    let model = Llama::new(&files.config, Some(context), store.var_builder())?;
    // A frozen parameter takes no part in the graph, so that a pass keeps nothing.
    store.params().iter().for_each(|p| p.set_role(Role::Frozen));
    let layers = store.layers().select("model.layers.*")?;
    let range = if passes == "mse" { Range::Mse } else { Range::Max };
    let options = Options { scales: ScalePolicy::Frozen, range, ..Options::default() };
    quant::attach_with(&layers, &scheme, &options)?;

    let start = Instant::now();
    let fix = |layer: &trimwick::nn::Layer, bits: &[u8]| Ok(sparse::fix(layer, bits)?);
    for name in passes.split(',').filter(|name| !["none", "mse"].contains(name)) {
        if name == "2:4" {
            // On the full-precision model: the grid comes after.
            quant::set_enabled(&layers, false);
            let (method, pruned) = (SparseGpt::default(), Propagate::Pruned);
            let pattern = Pattern::TWO_FOUR;
            sparse::prune_model(&model, &layers, pattern, &method, &calibration, pruned, &mut |_, _| {})?;
            quant::set_enabled(&layers, true);
            continue;
        }
        let joint = Joint { select: Select::Nm { n: 2, m: 4 }, fix: &fix };
        let pass: Box<dyn Pass> = match name.split_once('=') {
            None if name == "smooth" => Box::new(SmoothQuant::default()),
            Some(("smooth", alpha)) => {
                Box::new(SmoothQuant { alpha: Alpha::Fixed(alpha.parse()?), ..Default::default() })
            }
            None if name == "awq" => Box::new(AwqScale::default()),
            None if name == "clip" => Box::new(AwqClip::default()),
            None if name == "svd" => Box::new(SvdQuant::default()),
            None if name == "gptq" => Box::new(Gptq::default()),
            Some(("gptq", "order")) => Box::new(Gptq { order: ColumnOrder::Activation, ..Gptq::default() }),
            None if name == "2:4+gptq" => Box::new(Gptq { joint: Some(joint), ..Gptq::default() }),
            _ => bail!("{name}: unknown pass; {USAGE}"),
        };
        run(&model, &layers, &*pass, &calibration)?;
    }
    if passes.split(',').all(|name| ["none", "mse", "2:4"].contains(&name)) {
        quant::calibrate(&layers, || calibration.iter().try_for_each(|ids| infer(&model, ids).map(drop)))?;
    }
    println!("{:.1} s, {} values off their grids", start.elapsed().as_secs_f64(), quant::off_grid(&layers)?);
    let found = evaluate(&model, &Device::Cpu, &held_out, EvaluateOptions::default(), &mut |_, _, _| {})?;
    println!("{scheme} {passes}: perplexity {:.3} @{context}, loss {:.4}", found.perplexity, found.loss);
    Ok(())
}

fn run(model: &Llama, layers: &Layers, pass: &dyn Pass, windows: &[Tensor]) -> anyhow::Result<()> {
    let mut progress = |done: usize, total: usize, _: &[quant::LayerReport]| {
        eprint!("\r{} {done}/{total}", pass.name());
    };
    let watch = Watch { progress: &mut progress, stop: &|| false };
    let reports = quant::run_pass_on_model(model, layers, pass, windows, watch)?.context("stopped")?;
    eprintln!();
    let mean = |pick: fn(&quant::LayerReport) -> f64| {
        reports.iter().map(pick).sum::<f64>() / reports.len().max(1) as f64
    };
    println!("{}: {:.2} dB before, {:.2} dB after", pass.name(), mean(|r| r.before_db), mean(|r| r.after_db));
    Ok(())
}

#[test]
fn it_runs_on_the_builtin_model() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, &trimwick::models::builtin::text("sotu-eval").unwrap()[..20_000]).unwrap();
    let text = text.to_str().unwrap();
    for passes in ["none", "2:4,awq", "2:4+gptq"] {
        let args = ["int4-g32", passes, "builtin:tiny-llama", text, text, "64"];
        compress(args.into_iter().map(String::from)).unwrap();
    }
}
