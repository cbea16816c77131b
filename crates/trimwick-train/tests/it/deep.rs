//! A model and a run with everything in them that a memory plan could disturb: tied weights, dropout inside of blocks,
//! masks, scales that are learned and scales that are averages of what passed, a teacher and its blocks' outputs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Tensor};
use trimwick_formats::checkpoint::CheckpointDir;
use trimwick_nn::{
    AttentionConfig, CausalAttention, CausalLm, Dropout, Embedding, Init, Linear, Module, ParamStore,
    RmsNorm, Rotary, SwiGluMlp, SwiGluMlpConfig, dropout, embedding_init, linear_init, rms_norm,
};
use trimwick_quant::{Options, QuantSchedule, ScalePolicy, Scheme};
use trimwick_sparse::{Magnitude, Pattern};
use trimwick_train::{
    AdamW, AdamWConfig, BoxError, Decay, DistillConfig, Distillation, Guards, MemoryPlan, Moments, Outcome,
    Progress, Schedule, StepHook, TrainConfig, Trainer, Validation, Warmup,
};

use crate::common::{VOCAB, bits, checkpoints, files, store, windows};

type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

struct Block {
    norm: RmsNorm,
    attention: CausalAttention,
    mlp_norm: RmsNorm,
    mlp: SwiGluMlp,
    dropout: Dropout,
}

/// Three blocks of attention and MLP, with dropout.
pub struct Deep {
    pub store: ParamStore,
    embed: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
}

impl Deep {
    pub fn new(store: &ParamStore, wide: usize, tied: bool, p: f64) -> Result<Self> {
        let vb = store.var_builder();
        let init = Init::Randn { mean: 0., stdev: 0.2 };
        let rotary = Arc::new(Rotary::new(wide / 2, 32, 1e4, None, vb.dtype(), vb.device())?);
        let attention = AttentionConfig {
            hidden: wide,
            heads: 2,
            kv_heads: 1,
            head_dim: wide / 2,
            qkv_bias: true,
            out_bias: false,
            qk_norm_eps: None,
            window: None,
            init,
        };
        let mlp = SwiGluMlpConfig { hidden: wide, intermediate: wide * 3 / 2, bias: false, init };
        let block = |i: usize| {
            let vb = vb.pp("blocks").pp(i);
            Ok(Block {
                norm: rms_norm(wide, 1e-6, vb.pp("norm"))?,
                attention: CausalAttention::new(attention.clone(), rotary.clone(), vb.pp("attn"))?,
                mlp_norm: rms_norm(wide, 1e-6, vb.pp("mlp_norm"))?,
                mlp: SwiGluMlp::new(&mlp, vb.pp("mlp"))?,
                dropout: dropout(p, vb.pp("dropout"))?,
            })
        };
        let embed = embedding_init(VOCAB, wide, init, vb.pp("embed"))?;
        let head = match tied {
            true => Linear::tied(&embed),
            false => linear_init(wide, VOCAB, true, init, vb.pp("head"))?,
        };
        let blocks = (0..3).map(block).collect::<Result<_>>()?;
        Ok(Self { store: store.clone(), embed, blocks, norm: rms_norm(wide, 1e-6, vb.pp("norm"))?, head })
    }
}

impl CausalLm for Deep {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_context(&self) -> usize {
        32
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("blocks.{index}")
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.embed.forward(ids)
    }

    fn block(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        let Block { norm, attention, mlp_norm, mlp, dropout } = &self.blocks[index];
        let x = (x + dropout.forward(&attention.forward(&norm.forward(x)?)?)?)?;
        &x + dropout.forward(&mlp.forward(&mlp_norm.forward(&x)?)?)?
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.norm.forward(x)?)
    }
}

/// Scales that start to act at a step, and may be cut off before one.
pub struct Quantizers {
    pub schedule: Option<QuantSchedule>,
    step: u64,
    /// Calls of `before_step` until the power fails.
    pub calls: Option<u64>,
}

impl StepHook for Quantizers {
    fn name(&self) -> &str {
        "quantizers"
    }

    fn before_step(&mut self, step: u64) -> Result<(), BoxError> {
        if let Some(calls) = &mut self.calls {
            *calls = calls.checked_sub(1).ok_or("power cut")?;
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.before_step(step - 1)?;
        }
        Ok(())
    }

    fn after_step(&mut self, step: u64) -> Result<(), BoxError> {
        self.step = step;
        Ok(())
    }

    fn save(&self) -> Option<serde_json::Value> {
        Some(self.step.into())
    }

    fn restore(&mut self, state: Option<&serde_json::Value>) -> Result<(), BoxError> {
        self.step = state.and_then(serde_json::Value::as_u64).ok_or("no step")?;
        match &mut self.schedule {
            Some(schedule) => Ok(schedule.resume(self.step)?),
            None => Ok(()),
        }
    }
}

/// A run of [`Deep`].
#[derive(Clone)]
pub struct Job {
    pub steps: u64,
    /// Width; from 64 on, larger weights have moments in 8 bits where those are asked for.
    pub wide: usize,
    pub tied: bool,
    /// The step from which quantizers act; none when there are none.
    pub quantize: Option<u64>,
    pub distill: bool,
    pub memory: MemoryPlan,
    pub moments: Moments,
    pub accumulate: usize,
    pub clip: Option<f64>,
    pub guards: Guards,
    pub save_every: u64,
    pub dropout: f64,
    /// Raises the stop flag once that many steps of this process are done.
    pub stop_after: Option<u64>,
    /// Cuts the power before that many steps of this process and one are begun.
    pub calls: Option<u64>,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            steps: 40,
            wide: 16,
            tied: true,
            quantize: Some(10),
            distill: true,
            memory: MemoryPlan::None,
            moments: Moments::F32,
            accumulate: 1,
            clip: Some(1.),
            guards: Guards::default(),
            save_every: 0,
            dropout: 0.1,
            stop_after: None,
            calls: None,
        }
    }
}

/// What a job leaves.
pub struct Done {
    pub outcome: trimwick_train::Result<Outcome>,
    pub store: ParamStore,
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
    /// (step, cause, rewound to, skips)
    pub guarded: Vec<(u64, String, Option<u64>, u32)>,
}

impl Job {
    pub fn run(&self, dir: Option<&Path>) -> Done {
        self.run_as(dir, |model| Box::new(model), &windows(300 * 8, 8))
    }

    /// Runs with a model that `wrap` makes of it, on other data.
    pub fn run_as(
        &self,
        dir: Option<&Path>,
        wrap: impl FnOnce(Deep) -> Box<dyn CausalLm>,
        data: &trimwick_train::Windows,
    ) -> Done {
        let store = store(DType::F32, 3);
        let model = Deep::new(&store, self.wide, self.tied, self.dropout).unwrap();
        let linear = store.layers().of_kind(trimwick_nn::LayerKind::Linear);
        trimwick_sparse::prune(&linear.select("*mlp*").unwrap(), Pattern::TWO_FOUR, &Magnitude).unwrap();
        if self.quantize.is_some() {
            let options = Options {
                scales: ScalePolicy::Learned,
                input_scales: ScalePolicy::Ema(0.9),
                ..Options::default()
            };
            let blocks = linear.select("blocks*").unwrap();
            trimwick_quant::attach_with(&blocks, &Scheme::preset("int8-static").unwrap(), &options).unwrap();
            let sample = trimwick_train::Batch::new(&[data.window(0).unwrap()], store.device()).unwrap();
            let see = || model.forward(&sample.inputs).map(drop);
            trimwick_quant::calibrate(&blocks, see).unwrap();
        }
        let theirs = crate::common::store(DType::F32, 4);
        let teacher = Deep::new(&theirs, self.wide, self.tied, 0.).unwrap();
        let config = AdamWConfig { weight_decay: 0.1, moments: self.moments, ..Default::default() };
        let optimizer = AdamW::new(store.trainable(), &config, &[]).unwrap();
        let schedule = self
            .quantize
            .map(|start| QuantSchedule::new(linear.select("blocks*").unwrap(), start, None).unwrap());
        let mut hook = Quantizers { schedule, step: 0, calls: self.calls };
        let stop = AtomicBool::new(false);
        let (mut losses, mut norms, mut guarded) = (vec![], vec![], vec![]);
        let mut report = |progress: Progress<'_>| match progress {
            Progress::Step(report) => {
                losses.push(report.record.loss);
                norms.push(report.record.grad_norm);
                stop.store(self.stop_after == Some(losses.len() as u64), Ordering::Relaxed);
            }
            Progress::Guarded { step, cause, rewound_to, skips } => {
                guarded.push((step, cause.to_string(), rewound_to, skips));
            }
            _ => {}
        };
        let model = wrap(model);
        let held_out = trimwick_train::Windows::new((0..16).collect::<Vec<u32>>(), 8).unwrap();
        let checkpoints = dir.map(|dir| CheckpointDir::open(dir.join("checkpoints")).unwrap());
        let distill = DistillConfig { weight: 0.4, temperature: 2., features: 0.5 };
        let trainer = Trainer {
            model: &*model,
            store: &store,
            windows: data,
            optimizer,
            schedule: Schedule::new(Decay::Cosine, 0.01, 0.001, Warmup::Fraction(0.1), self.steps).unwrap(),
            distill: self.distill.then(|| Distillation::new(&teacher, distill).unwrap()),
            validation: Some(Validation { windows: held_out, every: 16 }),
            hooks: vec![&mut hook],
            config: TrainConfig {
                steps: self.steps,
                batch: 2,
                accumulate: self.accumulate,
                clip: self.clip,
                save_every: self.save_every,
                order_seed: 3,
                fingerprint: "deep".into(),
                memory: self.memory,
                guards: self.guards,
            },
            checkpoints: checkpoints.as_ref(),
            metrics: dir.map(|dir| dir.join("metrics.jsonl")),
            stop: &stop,
            report: &mut report,
        };
        let outcome = trainer.run();
        Done { outcome, store, losses, norms, guarded }
    }
}

/// The last checkpoint's files, the metrics, the values in memory.
pub type End = (BTreeMap<String, Vec<u8>>, String, BTreeMap<String, Vec<u64>>);

pub fn end(dir: &Path, done: &Done) -> End {
    assert!(matches!(done.outcome, Ok(Outcome::Finished)), "{:?}", done.outcome);
    let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    (files(&checkpoints(dir).pop().unwrap()), metrics, bits(&done.store))
}
