//! Prune a layer of your own 2:4 and train it on the int4 grid.
//!
//! cargo run --release --example 01_twenty_lines

use candle_core::{DType, Device, Tensor};
use trimwick::nn::{self, Module, ParamStore, ops};
use trimwick::quant::{self, Scheme};
use trimwick::sparse::{self, Magnitude, Pattern};
use trimwick::train::{AdamW, AdamWConfig, Gradients};

fn main() -> anyhow::Result<()> {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 7);
    let layer = nn::linear(64, 4, store.var_builder().pp("fc"))?; // candle_nn::linear before
    let x = Tensor::randn(0f32, 1., (256, 64), &Device::Cpu)?;
    let labels: Vec<u32> = layer.forward(&x)?.argmax(1)?.to_vec1()?; // what it says before
    sparse::prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude)?;
    quant::attach(&store.layers(), &Scheme::preset("int4-g32")?)?;
    let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?;
    for step in 0..60 {
        let loss = ops::cross_entropy(&layer.forward(&x)?, &labels, u32::MAX)?; // u32::MAX: every label counts
        let mut gradients = Gradients::new(&store.trainable());
        gradients.backward(&loss)?; // a parameter without a gradient is an error
        optimizer.step(&gradients, 1e-2)?;
        if step % 20 == 0 {
            println!("step {step:2}: loss {:.4}", loss.to_scalar::<f32>()?);
        }
    }
    let broken = sparse::violations(&store.layers(), Pattern::TWO_FOUR)?;
    println!("{broken} groups violate 2:4, {} weights are off the grid", quant::off_grid(&store.layers())?);
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
