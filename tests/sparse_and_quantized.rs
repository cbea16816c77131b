//! Pruned and quantized at once: after every step of training both hold on every layer, with and without adapters, and a
//! run that was cut ends with the bytes of one that was not.

use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use trimwick::models::{Llama, ModelSource, OpenOptions, source};
use trimwick::nn::{Layers, ParamStore, Role};
use trimwick::quant::{self, Options, QuantSchedule, Range, ScalePolicy, Scheme};
use trimwick::sparse::{self, Magnitude, Pattern};
use trimwick::train::lora::{BaseFormat, LoraConfig, adapt};
use trimwick::train::{
    AdamW, AdamWConfig, BoxError, Decay, Guards, MemoryPlan, Outcome, Schedule, StepHook, TrainConfig,
    Trainer, Warmup, Windows,
};

mod support;
use support::finish;

/// Looks at every layer after every step.
struct Watch {
    layers: Layers,
    schedule: QuantSchedule,
    looked: u64,
}

impl StepHook for Watch {
    fn name(&self) -> &str {
        "watch"
    }

    fn before_step(&mut self, step: u64) -> Result<(), BoxError> {
        self.schedule.before_step(step - 1)?;
        Ok(())
    }

    fn after_step(&mut self, _: u64) -> Result<(), BoxError> {
        for layer in &self.layers {
            let cols = layer.weight().shape().dims()[1];
            let values = layer.effective_weight()?.flatten_all()?.to_vec1::<f32>()?;
            let violating = trimwick::kernels::violations_nm(&values, cols, 2, 4);
            if violating > 0 {
                return Err(format!("{}: {violating} groups violate 2:4", layer.path()).into());
            }
        }
        match quant::off_grid(&self.layers)? {
            0 => self.looked += 1,
            off => return Err(format!("{off} values are off their grid").into()),
        }
        Ok(())
    }
}

#[test]
fn pattern_and_grid_hold_after_every_step() {
    let files =
        source::open(&ModelSource::parse("builtin:tiny-llama").unwrap(), &OpenOptions::default()).unwrap();
    let learned = Options { scales: ScalePolicy::Learned, range: Range::Mse, ..Options::default() };
    let frozen = Options { scales: ScalePolicy::Frozen, ..Options::default() };
    let ema = Options { scales: ScalePolicy::Ema(0.9), ..Options::default() };
    for (scheme, options, adapters) in [
        ("int4-g32", Options::default(), false),
        ("int4-g32", learned, false),
        ("w4a8", ema, false),
        ("nvfp4-weight", frozen, false),
        ("mxfp4-weight", Options::default(), true),
        ("q4_0", learned, true),
    ] {
        let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 42);
        let model = Llama::new(&files.config, Some(32), store.var_builder()).unwrap();
        let layers = store.layers().select("model.layers.*").unwrap();
        sparse::prune(&layers, Pattern::TWO_FOUR, &Magnitude).unwrap();
        quant::attach_with(&layers, &Scheme::preset(scheme).unwrap(), &options).unwrap();
        quant::calibrate(&layers, || Ok(())).unwrap();
        if adapters {
            store
                .trainable()
                .iter()
                .filter(|p| !quant::owns(p.name()))
                .for_each(|p| p.set_role(Role::Frozen));
            let config = LoraConfig { rank: 4, alpha: 8., base: BaseFormat::Int8 };
            adapt(&layers, &config, 7).unwrap();
        }
        let windows = Windows::new((0..4096).map(|i| i * 31 % 4000).collect::<Vec<u32>>(), 32).unwrap();
        let schedule = QuantSchedule::new(layers.clone(), 0, None).unwrap();
        let mut watch = Watch { layers: layers.clone(), schedule, looked: 0 };
        let first = || {
            let weight = layers.iter().next().unwrap().effective_weight().unwrap();
            weight.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let before = first();
        let outcome = Trainer {
            model: &model,
            store: &store,
            windows: &windows,
            optimizer: AdamW::new(store.trainable(), &AdamWConfig::default(), &[]).unwrap(),
            schedule: Schedule::new(Decay::Constant, 1e-2, 1e-2, Warmup::Steps(0), 4).unwrap(),
            distill: None,
            validation: None,
            hooks: vec![&mut watch],
            config: TrainConfig {
                steps: 4,
                batch: 2,
                accumulate: 1,
                clip: Some(1.),
                save_every: 0,
                order_seed: 1,
                fingerprint: "test".into(),
                memory: MemoryPlan::None,
                guards: Guards::default(),
            },
            checkpoints: None,
            metrics: None,
            stop: &AtomicBool::new(false),
            report: &mut |_| {},
        }
        .run()
        .unwrap_or_else(|e| panic!("{scheme}: {e}"));
        assert_eq!((outcome, watch.looked), (Outcome::Finished, 4), "{scheme}");
        assert!(before != first(), "{scheme}: nothing was trained");
    }
}

const RECIPE: &str = r#"
[model]
source = "builtin:tiny-llama"
[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
context = 64
eval_tokens = 512
[calibration]
windows = 4
[prune]
pattern = "2:4"
method = "magnitude"
[quantize]
scheme = "int4-g32"
[train]
steps = 4
batch = 2
lr = 1e-3
save_every = 2
[distill]
weight = 0.5
[compare]
arms = ["dense_tuned"]
"#;

#[test]
fn interrupted_runs_on_a_grid_end_with_the_same_bytes() {
    let cases: [&[&str]; 4] = [
        &["calibration="],
        &["prune=", "quantize.scheme=int8-static", "quantize.kv_cache=fp8", "quantize.start=1"],
        &["prune=", "calibration=", "quantize.scheme=w4a8-g32", "quantize.scales=ema", "quantize.freeze=3"],
        &[
            "calibration=",
            "quantize.scales=learned",
            "quantize.range=mse",
            "lora={rank=4,base=\"nf4\"}",
            "quantize.rules=[{layers=\"*.mlp.*\",scheme=\"int3-g64\"},{layers=\"*.0.mlp.up_proj\",scheme=\"none\"}]",
        ],
    ];
    // Every moment of the first, the first moments of the others: what is saved differs, not when.
    for (overrides, cuts) in cases.into_iter().zip([8, 3, 3, 3]) {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b) =
            (finish(RECIPE, whole.path(), overrides, 0), finish(RECIPE, cut.path(), overrides, cuts));
        assert_eq!((&a.arms, &a.digests), (&b.arms, &b.digests), "{overrides:?}");
        let pruned = a.pattern.is_some();
        let loss = |name: &str| a.arm(name).unwrap_or_else(|| panic!("{overrides:?}: no {name}")).loss;
        assert!(loss("quantized") > loss("dense"), "{overrides:?}");
        assert_eq!(loss("exported"), loss("recovered"), "{overrides:?}: the file is not what was trained");
        assert_eq!(a.arm("dense_tuned_quantized").is_some(), !pruned, "{overrides:?}");
        assert!(a.training_helped.is_some() && a.gap_recovered.is_some());
        let grid = a.quantization.unwrap();
        assert_eq!((grid.off_grid, a.groups_violating), (0, 0), "{overrides:?}");
        assert!(grid.weights > 0 && grid.bits_per_weight < 9.);
        assert_eq!(pruned, a.groups > 0);
    }
}
