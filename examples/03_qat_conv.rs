//! Quantization-aware training of a small convolutional network on handwritten digits, with learned scales.
//!
//! cargo run --release --example 03_qat_conv

use candle_core::{DType, Device, Tensor};
use trimwick::nn::{self, Conv2dConfig, Module, ParamStore, VarBuilder, ops};
use trimwick::quant::{self, Options, Range, ScalePolicy, Scheme};
use trimwick::train::{AdamW, AdamWConfig, Gradients};

mod digits;
use digits::Digits;

/// 8×8 → 16 channels of 8×8 → 32 channels of 4×4 → 10.
struct Cnn {
    conv1: nn::Conv2d,
    conv2: nn::Conv2d,
    head: nn::Linear,
}

impl Cnn {
    fn new(vb: VarBuilder) -> trimwick::Result<Self> {
        let same = Conv2dConfig { padding: 1, ..Default::default() };
        let halving = Conv2dConfig { padding: 1, stride: 2, ..Default::default() };
        Ok(Self {
            conv1: nn::conv2d(1, 16, 3, same, vb.pp("conv1"))?,
            conv2: nn::conv2d(16, 32, 3, halving, vb.pp("conv2"))?,
            head: nn::linear(32 * 16, 10, vb.pp("head"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.conv1.forward(&x.reshape(((), 1, 8, 8))?)?.relu()?;
        let x = self.conv2.forward(&x)?.relu()?;
        self.head.forward(&x.flatten_from(1)?)
    }
}

fn train(store: &ParamStore, model: &Cnn, data: &Digits, steps: usize, lr: f64) -> trimwick::Result<()> {
    let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?;
    for step in 0..steps {
        let batch = data.batch(step, 64)?;
        let loss = ops::cross_entropy(&model.forward(&batch.images)?, &batch.labels.to_vec1()?, u32::MAX)?;
        let mut gradients = Gradients::new(&store.trainable());
        gradients.accumulate(loss.backward()?)?;
        optimizer.step(&gradients, lr)?;
    }
    Ok(())
}

fn main() -> trimwick::Result<()> {
    let (training, test) = Digits::split()?;
    let store = ParamStore::new(DType::F32, &Device::Cpu);
    let model = Cnn::new(store.var_builder())?;
    let accuracy = |name: &str| -> trimwick::Result<()> {
        let accuracy = test.accuracy(&model.forward(&test.images)?)?;
        println!("{name:<20} {:.1} % of {} test images", 100. * accuracy, test.labels.elem_count());
        Ok(())
    };
    train(&store, &model, &training, 300, 2e-3)?;
    accuracy("f32")?;

    // Ternary convolutions and an int4 head, inputs in int8. Scales start where the squared error is least, and learn.
    let layers = store.layers();
    let options = Options { scales: ScalePolicy::Learned, range: Range::Mse, ..Default::default() };
    let convs: Scheme = "weight ternary channel f32, input int8 token dynamic".parse()?;
    quant::attach_with(&layers.select("conv*")?, &convs, &options)?;
    quant::attach_with(&layers.select("head")?, &Scheme::preset("w4a8-g64")?, &options)?;
    quant::calibrate(&layers, || model.forward(&training.batch(0, 256)?.images).map(drop))?;
    accuracy("ternary, one-shot")?;

    train(&store, &model, &training, 300, 1e-3)?;
    accuracy("ternary, trained")
}

#[test]
fn it_runs() {
    main().unwrap();
}
