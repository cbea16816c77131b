//! A tiny language model, and what the tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use trimwick_formats::checkpoint::CheckpointDir;
use trimwick_kernels::Rng;
use trimwick_nn::{
    CausalLm, Dropout, Embedding, Init, Linear, Module, ParamStore, RmsNorm, Role, SwiGluMlp,
    SwiGluMlpConfig, dropout, embedding, linear, rms_norm,
};
use trimwick_train::{
    AdamW, AdamWConfig, BoxError, Decay, DistillConfig, Distillation, Gradients, Guards, MemoryPlan, Outcome,
    Progress, Schedule, StepHook, TrainConfig, Trainer, Validation, Warmup, Windows,
};

type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

pub const VOCAB: usize = 24;
pub const HIDDEN: usize = 8;

/// Embedding, dropout, two MLP blocks, head: predicts the next token from the last one alone.
pub struct TinyLm {
    embed: Embedding,
    dropout: Dropout,
    blocks: Vec<(RmsNorm, SwiGluMlp)>,
    head: Linear,
}

impl TinyLm {
    pub fn new(store: &ParamStore, p: f64) -> Result<Self> {
        let vb = store.var_builder();
        let init = Init::Randn { mean: 0., stdev: 0.3 };
        let config = SwiGluMlpConfig { hidden: HIDDEN, intermediate: 12, bias: false, init };
        let block = |i: usize| {
            let vb = vb.pp("blocks").pp(i);
            Ok((rms_norm(HIDDEN, 1e-6, vb.pp("norm"))?, SwiGluMlp::new(&config, vb.pp("mlp"))?))
        };
        Ok(Self {
            embed: embedding(VOCAB, HIDDEN, vb.pp("embed"))?,
            dropout: dropout(p, vb.pp("dropout"))?,
            blocks: (0..2).map(block).collect::<Result<_>>()?,
            head: linear(HIDDEN, VOCAB, vb.pp("head"))?,
        })
    }
}

impl CausalLm for TinyLm {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_context(&self) -> usize {
        64
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("blocks.{index}")
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.dropout.forward(&self.embed.forward(ids)?)
    }

    fn block(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        let (norm, mlp) = &self.blocks[index];
        x + mlp.forward(&norm.forward(x)?)?
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        self.head.forward(x)
    }
}

pub fn store(dtype: DType, seed: u64) -> ParamStore {
    ParamStore::with_seed(dtype, &Device::Cpu, seed)
}

/// A predictable text: a walk in which each token mostly decides the next.
pub fn windows(tokens: usize, context: usize) -> Windows {
    let rng = Rng::new(5, "test", 0, "text");
    let mut id = 0u32;
    let ids: Vec<u32> = (0..tokens as u64)
        .map(|i| {
            let jump = if rng.uniform_at(i) < 0.1 { rng.u32_at(i + 1_000_000) } else { 0 };
            id = (id * 5 + 7 + jump % 11) % VOCAB as u32;
            id
        })
        .collect();
    Windows::new(ids, context).unwrap()
}

/// A folder for a run, in memory where the system has such a place: tests of many checkpoints wait for no disk.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(dir) => dir,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

/// The values of every parameter as bits.
pub fn bits(store: &ParamStore) -> BTreeMap<String, Vec<u64>> {
    let bits = |t: &Tensor| {
        let values = t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        values.into_iter().map(f64::to_bits).collect()
    };
    store.params().iter().map(|p| (p.name().to_string(), bits(&p.var()))).collect()
}

/// Gradients that are exactly `of(name)`: those of Σ w·g.
pub fn gradients_of(store: &ParamStore, of: impl Fn(&str) -> Vec<f64>) -> Gradients {
    let mut gradients = Gradients::new(&store.trainable());
    gradients.accumulate(backward(store, of)).unwrap();
    gradients
}

pub fn backward(store: &ParamStore, of: impl Fn(&str) -> Vec<f64>) -> candle_core::backprop::GradStore {
    let term = |p: &trimwick_nn::Param| {
        let g = Tensor::from_vec(of(p.name()), p.shape(), &Device::Cpu)?.to_dtype(p.dtype())?;
        (p.tensor() * g)?.sum_all()
    };
    let terms: Vec<Tensor> = store.trainable().iter().map(|p| term(p).unwrap()).collect();
    let loss = terms.into_iter().reduce(|a, b| (a + b).unwrap()).unwrap();
    loss.backward().unwrap()
}

pub fn adamw(store: &ParamStore) -> AdamW {
    AdamW::new(store.trainable(), &AdamWConfig { weight_decay: 0.1, ..Default::default() }, &[]).unwrap()
}

/// Every file of a folder.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// Keeps the larger half of a weight, chosen anew every third step, as a mask schedule would; and, for the tests,
/// cuts the power before a step.
pub struct Refresh {
    pub store: ParamStore,
    pub refreshed: u64,
    pub weights: f64,
    pub cut_before: Option<u64>,
}

impl Refresh {
    pub const WEIGHT: &str = "blocks.0.mlp.up_proj.weight";

    pub fn new(store: &ParamStore) -> Self {
        Self { store: store.clone(), refreshed: 0, weights: 0.1, cut_before: None }
    }
}

impl StepHook for Refresh {
    fn name(&self) -> &str {
        "refresh"
    }

    fn before_step(&mut self, step: u64) -> Result<(), BoxError> {
        if self.cut_before == Some(step) {
            return Err("power cut".into());
        }
        if step % 3 != 1 {
            return Ok(());
        }
        let param = self.store.get(Self::WEIGHT).ok_or("no such weight")?;
        let values = param.var().flatten_all()?.to_vec1::<f32>()?;
        let mut bits = vec![0; values.len().div_ceil(8)];
        let scores: Vec<f32> = values.iter().map(|v| v.abs()).collect();
        trimwick_kernels::select_top(&scores, values.len() / 2, &mut bits)?;
        self.store.set_buffer("refresh.mask", &Tensor::new(bits.as_slice(), &Device::Cpu)?)?;
        param.set_keep(Some(bits.into()))?;
        self.refreshed += 1;
        self.weights = self.weights.sin();
        Ok(())
    }

    fn save(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "refreshed": self.refreshed, "weights": self.weights }))
    }

    fn restore(&mut self, state: Option<&serde_json::Value>) -> Result<(), BoxError> {
        let state = state.ok_or("no state")?;
        self.refreshed = state["refreshed"].as_u64().ok_or("no count")?;
        self.weights = state["weights"].as_f64().ok_or("no weights")?;
        // The mask was restored with the buffers, and so was the kept set.
        let mask = self.store.get("refresh.mask").ok_or("no mask")?.var().to_vec1::<u8>()?;
        let keep = self.store.get(Self::WEIGHT).ok_or("no such weight")?.keep().ok_or("no kept set")?;
        if *keep != *mask { Err("the mask is not the kept set".into()) } else { Ok(()) }
    }
}

/// A run with everything in it: dropout, accumulation over epochs, a teacher, validation, a hook with state, a kept set,
/// a frozen parameter and a buffer.
pub struct Scenario {
    pub steps: u64,
    pub save_every: u64,
    /// Raises the stop flag once that many steps are done.
    pub stop_after: Option<u64>,
    /// Ends the run with an error before that step.
    pub cut_before: Option<u64>,
    pub change: fn(&mut TrainConfig),
    /// What is trained on, in the place of five windows.
    pub data: Option<Windows>,
    pub dropout: f64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            steps: 12,
            save_every: 0,
            stop_after: None,
            cut_before: None,
            change: |_| {},
            data: None,
            dropout: 0.1,
        }
    }
}

/// What a scenario leaves.
pub struct Ran {
    pub outcome: trimwick_train::Result<Outcome>,
    pub store: ParamStore,
    pub refreshed: u64,
    /// Steps done when the run began.
    pub started: Option<u64>,
    pub rejected: Vec<String>,
    pub losses: Vec<f64>,
}

impl Scenario {
    /// Runs in `dir`, with checkpoints in `dir/checkpoints` and metrics in `dir/metrics.jsonl`.
    pub fn run(&self, dir: &Path) -> Ran {
        let store = self::store(DType::F32, 11);
        let model = TinyLm::new(&store, self.dropout).unwrap();
        store.get("blocks.1.norm.weight").unwrap().set_role(Role::Frozen);
        store.set_buffer("scale", &Tensor::new(&[0.1f64, 0.3], &Device::Cpu).unwrap()).unwrap();
        let theirs = self::store(DType::F32, 12);
        let teacher = TinyLm::new(&theirs, 0.).unwrap();
        // Five windows, so that epochs end within batches.
        let data = self.data.clone().unwrap_or_else(|| windows(5 * 8 + 3, 8));

        let mut hook = Refresh { cut_before: self.cut_before, ..Refresh::new(&store) };
        let stop = AtomicBool::new(self.stop_after == Some(0));
        let (mut started, mut rejected, mut losses) = (None, vec![], vec![]);
        let mut report = |progress: Progress<'_>| match progress {
            Progress::Started { step, rejected: bad } => {
                started = Some(step);
                rejected.extend(bad.iter().map(|r| r.why.to_string()));
            }
            Progress::Step(report) => {
                losses.push(report.record.loss);
                if self.stop_after == Some(report.record.step) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        };
        let mut config = TrainConfig {
            steps: self.steps,
            batch: 2,
            accumulate: 2,
            clip: Some(1.),
            save_every: self.save_every,
            order_seed: 3,
            fingerprint: "scenario".into(),
            memory: MemoryPlan::None,
            guards: Guards::default(),
        };
        (self.change)(&mut config);
        let checkpoints = CheckpointDir::open(dir.join("checkpoints")).unwrap();
        let trainer = Trainer {
            model: &model,
            store: &store,
            windows: &data,
            optimizer: adamw(&store),
            schedule: Schedule::new(Decay::Cosine, 0.02, 0.002, Warmup::Fraction(0.2), config.steps).unwrap(),
            distill: Some(
                Distillation::new(&teacher, DistillConfig { weight: 0.4, temperature: 2., features: 0.5 })
                    .unwrap(),
            ),
            validation: Some(Validation { windows: windows(24, 8), every: 4 }),
            hooks: vec![&mut hook],
            config,
            checkpoints: Some(&checkpoints),
            metrics: Some(dir.join("metrics.jsonl")),
            stop: &stop,
            report: &mut report,
        };
        let outcome = trainer.run();
        Ran { outcome, refreshed: hook.refreshed, store, started, rejected, losses }
    }
}

/// The checkpoint folders of a run, oldest first.
pub fn checkpoints(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("checkpoints")).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<_> = entries.filter(|p| p.is_dir()).collect();
    found.sort();
    found
}
