//! Put a language model on an int3 grid without training it: rounded to nearest, by AWQ, by GPTQ.
//!
//! cargo run --release --example 04_one_shot
//!
//! `08_llama2_one_shot` does this to any Llama, with any scheme and any order of passes.

mod builtin;

use builtin::Workshop;
use trimwick::quant::{self, AwqScale, Gptq, Options, Pass, ScalePolicy, Scheme, Watch};
use trimwick::train::infer;

fn main() -> anyhow::Result<()> {
    let workshop = Workshop::open()?;
    let (_store, dense) = workshop.model()?;
    println!("dense            loss {:.4}", workshop.loss(&dense)?);
    let passes: [(&str, Option<Box<dyn Pass>>); 3] = [
        ("round to nearest", None),
        ("awq-scale", Some(Box::new(AwqScale::default()))),
        ("gptq", Some(Box::new(Gptq::default()))),
    ];
    for (name, pass) in passes {
        let (store, model) = workshop.model()?;
        let layers = store.layers().select("model.layers.*")?;
        // What a pass chooses a scale for has to keep it.
        let options = Options { scales: ScalePolicy::Frozen, ..Options::default() };
        quant::attach_with(&layers, &Scheme::preset("int3-g64")?, &options)?;
        match pass {
            None => quant::calibrate(&layers, || {
                workshop.calibration().iter().try_for_each(|ids| infer(&model, ids).map(drop))
            })?,
            Some(pass) => {
                // Block after block, each on the outputs of those that are quantized already.
                let watch = Watch { progress: &mut |_, _, _| {}, stop: &|| false };
                quant::run_pass_on_model(&model, &layers, &*pass, workshop.calibration(), watch)?;
            }
        }
        assert_eq!(quant::off_grid(&layers)?, 0);
        println!("{name:16} loss {:.4}", workshop.loss(&model)?);
    }
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
