//! Train a model of your own on the grid it will run on: int4 weights, int8 activations.
//!
//! cargo run --release --example 02_qat_custom_mlp

use candle_core::{DType, Device, Tensor};
use trimwick::nn::{self, Module, ParamStore, VarBuilder, ops}; // was: use candle_nn::{self as nn, Module, VarBuilder};
use trimwick::quant::{self, Scheme};
use trimwick::train::{AdamW, AdamWConfig, Gradients};

mod digits;
use digits::Digits;

struct Mlp {
    fc1: nn::Linear,
    fc2: nn::Linear,
}

impl Mlp {
    fn new(vb: VarBuilder) -> trimwick::Result<Self> {
        Ok(Self { fc1: nn::linear(64, 32, vb.pp("fc1"))?, fc2: nn::linear(32, 10, vb.pp("fc2"))? })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(x)?.relu()?)
    }
}

fn train(store: &ParamStore, model: &Mlp, data: &Digits, steps: usize, lr: f64) -> trimwick::Result<()> {
    let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?;
    for step in 0..steps {
        let batch = data.batch(step, 64)?;
        let loss = ops::cross_entropy(&model.forward(&batch.images)?, &batch.labels.to_vec1()?, u32::MAX)?;
        let mut gradients = Gradients::new(&store.trainable());
        gradients.accumulate(loss.backward()?)?; // a parameter without a gradient is an error
        optimizer.step(&gradients, lr)?;
    }
    Ok(())
}

fn main() -> trimwick::Result<()> {
    let (training, test) = Digits::split()?;
    let store = ParamStore::new(DType::F32, &Device::Cpu);
    let model = Mlp::new(store.var_builder())?;
    let accuracy = |name: &str| -> trimwick::Result<()> {
        let accuracy = test.accuracy(&model.forward(&test.images)?)?;
        println!("{name:<16} {:.1} % of {} test images", 100. * accuracy, test.labels.elem_count());
        Ok(())
    };
    train(&store, &model, &training, 400, 3e-3)?;
    accuracy("f32")?;

    // Every layer registered itself when it was built: pick some, and give them a grid.
    let layers = store.layers().select("fc*")?;
    quant::attach(&layers, &"weight int2 channel, input int8 token dynamic".parse::<Scheme>()?)?;
    accuracy("int2, one-shot")?;

    // Fake-quant acts inside forward(); gradients pass through it to the weights. Train as before.
    train(&store, &model, &training, 400, 1e-3)?;
    accuracy("int2, trained")
}

#[test]
fn it_runs() {
    main().unwrap();
}
