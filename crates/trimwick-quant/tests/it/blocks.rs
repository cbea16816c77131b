//! Passes over a language model, block after block.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use trimwick_nn::{
    AttentionConfig, CausalAttention, CausalLm, Embedding, Feed, Init, Layers, Linear, Module, ParamStore,
    RmsNorm, Rotary, SwiGluMlp, SwiGluMlpConfig, embedding, linear_no_bias, rms_norm,
};
use trimwick_quant::{
    AwqClip, AwqScale, Gptq, LayerReport, Options, Pass, ScalePolicy, SmoothQuant, SvdQuant, Watch,
    attach_with, input_quantizer, off_grid, run_pass, run_pass_on_model,
};
use trimwick_testkit::{assert_bits_equal, assert_close, values};

use crate::support::store;

struct Block {
    norms: [RmsNorm; 2],
    attn: CausalAttention,
    mlp: SwiGluMlp,
}

struct Lm {
    embed: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
}

impl Lm {
    fn build(store: &ParamStore) -> Self {
        let vb = store.var_builder();
        let init = Init::Randn { mean: 0., stdev: 0.15 };
        let config = AttentionConfig {
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            qkv_bias: false,
            out_bias: false,
            qk_norm_eps: None,
            window: None,
            init,
        };
        let rotary = Arc::new(Rotary::new(16, 32, 1e4, None, DType::F32, &Device::Cpu).unwrap());
        let mlp = SwiGluMlpConfig { hidden: 64, intermediate: 96, bias: false, init };
        let loud: Vec<f32> = (0..64).map(|i| if i % 17 == 3 { 12. } else { 1. }).collect();
        let loud = Tensor::from_vec(loud, 64, &Device::Cpu).unwrap();
        let norm = |vb| {
            let norm = rms_norm(64, 1e-5, vb).unwrap();
            norm.weight().set(&loud).unwrap();
            norm
        };
        let block = |i: usize| {
            let vb = vb.pp("layers").pp(i);
            Block {
                norms: [norm(vb.pp("n1")), norm(vb.pp("n2"))],
                attn: CausalAttention::new(config.clone(), rotary.clone(), vb.pp("self_attn")).unwrap(),
                mlp: SwiGluMlp::new(&mlp, vb.pp("mlp")).unwrap(),
            }
        };
        Self {
            embed: embedding(40, 64, vb.pp("embed")).unwrap(),
            blocks: (0..3).map(block).collect(),
            norm: norm(vb.pp("norm")),
            head: linear_no_bias(64, 40, vb.pp("head")).unwrap(),
        }
    }

    fn windows() -> Vec<Tensor> {
        let window = |w: u32| {
            let ids: Vec<u32> = (0..24).map(|i| (i * i * 7 + w * 13 + i) % 40).collect();
            Tensor::from_vec(ids, (1, 24), &Device::Cpu).unwrap()
        };
        (0..4).map(window).collect()
    }
}

impl CausalLm for Lm {
    fn vocab_size(&self) -> usize {
        40
    }
    fn max_context(&self) -> usize {
        32
    }
    fn blocks(&self) -> usize {
        3
    }
    fn block_path(&self, index: usize) -> String {
        format!("layers.{index}")
    }
    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.embed.forward(ids)
    }
    fn block(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        let b = &self.blocks[index];
        let x = (x + b.attn.forward(&b.norms[0].forward(x)?)?)?;
        &x + b.mlp.forward(&b.norms[1].forward(&x)?)?
    }
    fn head(&self, x: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.norm.forward(x)?)
    }
    fn feeds(&self, index: usize) -> Vec<Feed> {
        match self.blocks.get(index) {
            Some(b) => vec![
                b.norms[0].feed(b.attn.inputs()),
                b.attn.inner_feed(),
                b.norms[1].feed(b.mlp.inputs()),
                b.mlp.inner_feed(),
            ],
            None => vec![self.norm.feed([self.head.layer().clone()].into_iter().collect())],
        }
    }
}

fn setup(scheme: &str) -> (ParamStore, Lm, Layers) {
    let store = store();
    let model = Lm::build(&store);
    let layers = store.layers().select("{*_proj,head}").unwrap();
    let options = Options { scales: ScalePolicy::Frozen, ..Options::default() };
    attach_with(&layers, &scheme.parse().unwrap(), &options).unwrap();
    (store, model, layers)
}

fn run(model: &Lm, layers: &Layers, pass: &dyn Pass) -> Vec<LayerReport> {
    let watch = Watch { progress: &mut |_, _, _| (), stop: &|| false };
    run_pass_on_model(model, layers, pass, &Lm::windows(), watch).unwrap().unwrap()
}

/// Squared difference of the logits from those of the model in full precision.
fn noise(scheme: &str, passes: &[&dyn Pass]) -> f64 {
    let reference = Lm::build(&store());
    let (_store, model, layers) = setup(scheme);
    passes.iter().for_each(|pass| drop(run(&model, &layers, *pass)));
    if passes.is_empty() {
        let forward = || Lm::windows().iter().try_for_each(|ids| model.forward(ids).map(drop));
        trimwick_quant::calibrate(&layers, forward).unwrap();
    }
    assert_eq!(off_grid(&layers).unwrap(), 0);
    let of = |ids: &Tensor| {
        let difference = (model.forward(ids).unwrap() - reference.forward(ids).unwrap()).unwrap();
        values(&difference).iter().map(|d| d * d).sum::<f64>()
    };
    Lm::windows().iter().map(of).sum()
}

#[test]
fn passes_compose_and_each_helps() {
    let int4 = noise("int4-g32", &[]);
    let (smooth, awq, clip, gptq) =
        (SmoothQuant::default(), AwqScale::default(), AwqClip::default(), Gptq::default());
    assert!(noise("int4-g32", &[&gptq]) < int4, "gptq");
    let scaled = noise("int4-g32", &[&awq]);
    assert!(scaled < int4, "awq: {scaled} of {int4}");
    assert!(noise("int4-g32", &[&awq, &clip]) < int4, "awq and clip");
    assert!(noise("int4-g32", &[&awq, &gptq]) < scaled, "awq, then gptq");
    let svd = SvdQuant { rank: 8, ..SvdQuant::default() };
    assert!(noise("int4-g32", &[&svd]) < int4, "svd");
    let int8 = noise("int8-static", &[]);
    let smoothed = noise("int8-static", &[&smooth]);
    assert!(smoothed < int8, "smooth: {smoothed} of {int8}");
    let w4a8 = noise("w4a8-g32", &[]);
    assert!(noise("w4a8-g32", &[&smooth, &gptq]) < w4a8, "smooth, then gptq");
}

#[test]
fn folding_leaves_the_unquantized_model_as_it_was() {
    let reference = Lm::build(&store());
    let (_store, model, layers) = setup("w4a8-g32");
    let reports = run(&model, &layers, &AwqScale::default());
    assert_eq!(reports.len(), 22);
    trimwick_quant::set_enabled(&layers, false);
    for ids in Lm::windows() {
        assert_close(&model.forward(&ids).unwrap(), &reference.forward(&ids).unwrap(), 1e-5, 1e-4);
    }
    assert!(layers.iter().all(|l| l.input_scale().is_none()), "all of it is folded");
}

#[test]
fn blocks_are_seen_on_the_outputs_of_those_before() {
    // The first block as a pass over the whole model sees it; the second only after the first was rounded.
    let whole = {
        let (store, model, layers) = setup("int4-g32");
        let forward = || Lm::windows().iter().try_for_each(|ids| model.forward(ids).map(drop));
        run_pass(&layers.select("layers.[0-2]*").unwrap(), &[], &Gptq::default(), forward).unwrap();
        store
    };
    let (store, model, layers) = setup("int4-g32");
    let mut seen = Vec::new();
    let mut progress =
        |index: usize, total: usize, done: &[LayerReport]| seen.push((index, total, done.len()));
    let watch = Watch { progress: &mut progress, stop: &|| false };
    run_pass_on_model(&model, &layers, &Gptq::default(), &Lm::windows(), watch).unwrap().unwrap();
    assert_eq!(seen, [(0, 4, 0), (1, 4, 7), (2, 4, 14), (3, 4, 21), (4, 4, 22)]);
    let weight = |s: &ParamStore, name: &str| s.get(&format!("{name}.weight")).unwrap().tensor();
    assert_bits_equal(&weight(&store, "layers.0.mlp.up_proj"), &weight(&whole, "layers.0.mlp.up_proj"));
    let second = "layers.1.mlp.up_proj";
    assert_ne!(values(&weight(&store, second)), values(&weight(&whole, second)));
}

#[test]
fn static_inputs_are_calibrated_on_the_way_and_a_stop_stops() {
    let (_store, model, layers) = setup("nvfp4");
    run(&model, &layers, &Gptq::default());
    for layer in &layers {
        assert!(input_quantizer(layer).unwrap().scale().unwrap().is_some(), "{}", layer.path());
    }
    model.forward(&Lm::windows()[0]).unwrap();

    let (_store, model, layers) = setup("int4-g32");
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 6
    };
    let watch = Watch { progress: &mut |_, _, _| (), stop: &stop };
    let found = run_pass_on_model(&model, &layers, &Gptq::default(), &Lm::windows(), watch).unwrap();
    assert!(found.is_none() && asked.get() == 7);
    assert!(
        layers.iter().all(|l| trimwick_quant::weight_quantizer(l).unwrap().enabled()),
        "quantizers are on again"
    );
}
