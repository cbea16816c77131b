//! The loop: it learns, it reports, it refuses.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use trimwick_formats::checkpoint::CheckpointDir;
use trimwick_nn::{CausalLm, Clock, Init, ParamStore, Role};
use trimwick_train::{
    Decay, DistillConfig, Distillation, Error, Guards, MemoryPlan, Outcome, Progress, Result, Schedule,
    StepRecord, TrainConfig, Trainer, Validation, ValidationRecord, Warmup, Windows,
};

use crate::common::{Refresh, Scenario, TinyLm, adamw, bits, store, windows};

fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        batch: 4,
        accumulate: 1,
        clip: Some(1.),
        save_every: 0,
        order_seed: 1,
        fingerprint: String::new(),
        memory: MemoryPlan::None,
        guards: Guards::default(),
    }
}

/// Trains without checkpoints, after `change`.
pub fn train(
    store: &ParamStore,
    model: &TinyLm,
    data: &Windows,
    steps: u64,
    distill: Option<Distillation<'_>>,
    change: impl FnOnce(&mut Trainer<'_>),
) -> Result<Vec<f64>> {
    let stop = AtomicBool::new(false);
    let mut losses = vec![];
    let mut report = |progress: Progress<'_>| {
        if let Progress::Step(report) = progress {
            losses.push(report.record.loss);
        }
    };
    let mut trainer = Trainer {
        model,
        store,
        windows: data,
        optimizer: adamw(store),
        schedule: Schedule::new(Decay::Cosine, 0.03, 0., Warmup::Fraction(0.05), steps).unwrap(),
        distill,
        validation: None,
        hooks: vec![],
        config: config(steps),
        checkpoints: None,
        metrics: None,
        stop: &stop,
        report: &mut report,
    };
    change(&mut trainer);
    trainer.run()?;
    Ok(losses)
}

#[test]
fn the_loss_falls_to_what_the_text_allows() {
    let store = store(DType::F32, 7);
    let model = TinyLm::new(&store, 0.).unwrap();
    let losses = train(&store, &model, &windows(2048, 32), 120, None, |_| {}).unwrap();
    let (first, last) = (losses[0], losses[110..].iter().sum::<f64>() / 10.);
    // Nine of ten tokens follow from the one before: well below the ln 24 = 3.2 of knowing nothing.
    assert!(first > 3. && last < 1., "from {first} to {last}");
    assert!(!store.clock().training(), "dropout stays on");
}

#[test]
fn distillation_teaches_without_a_text_to_learn_from() {
    let theirs = store(DType::F32, 1);
    let teacher = TinyLm::new(&theirs, 0.).unwrap();
    let before = bits(&theirs);
    let mine = store(DType::F32, 2);
    let student = TinyLm::new(&mine, 0.).unwrap();
    let distill =
        Distillation::new(&teacher, DistillConfig { weight: 1., temperature: 2., features: 0. }).unwrap();
    let losses = train(&mine, &student, &windows(512, 16), 150, Some(distill), |_| {}).unwrap();
    assert!(losses[149] < losses[0] / 10., "from {} to {}", losses[0], losses[149]);
    assert_eq!(bits(&theirs), before, "the teacher changed");
}

#[test]
fn metrics_hold_a_line_per_step_and_validation_and_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let ran = Scenario { steps: 5, ..Default::default() }.run(dir.path());
    assert!(matches!(ran.outcome, Ok(Outcome::Finished)));
    let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    let steps: Vec<StepRecord> =
        lines.iter().filter(|l| !l.contains("eval_")).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(steps.iter().map(|s| s.tokens).collect::<Vec<_>>(), [32, 64, 96, 128, 160]);
    // Four windows a step of the five that there are.
    assert_eq!(steps.iter().map(|s| s.epoch).collect::<Vec<_>>(), [0, 1, 2, 3, 3]);
    assert!(steps.iter().map(|s| s.loss).eq(ran.losses.iter().copied()));
    for s in &steps {
        let (kl, features) = (s.divergence.unwrap(), s.features.unwrap());
        assert!(kl > 0. && features > 0.);
        let whole = 0.6 * s.cross_entropy + 0.4 * 4. * kl + 0.5 * features;
        assert!((s.loss - whole).abs() < 1e-5, "{s:?}");
        assert!(s.grad_norm > 0. && s.lr > 0.);
    }
    let validation: ValidationRecord = serde_json::from_str(lines[4]).unwrap();
    assert_eq!((validation.step, validation.eval_context, validation.eval_scored), (4, 8, 21));
    assert_eq!(validation.eval_perplexity, validation.eval_loss.exp());
}

#[test]
fn a_mask_that_a_hook_sets_holds_after_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let ran = Scenario { steps: 8, ..Default::default() }.run(dir.path());
    assert!(matches!(ran.outcome, Ok(Outcome::Finished)));
    let zeros = bits(&ran.store)[Refresh::WEIGHT].iter().filter(|&&b| b == 0).count();
    assert_eq!(zeros, 96 / 2, "half of the weight is +0.0");
    assert_eq!(ran.refreshed, 3);
}

#[test]
fn a_frozen_parameter_stays_as_it_is() {
    let store = store(DType::F32, 7);
    let model = TinyLm::new(&store, 0.).unwrap();
    store.get("embed.weight").unwrap().set_role(Role::Frozen);
    let before = bits(&store);
    train(&store, &model, &windows(256, 16), 3, None, |_| {}).unwrap();
    let after = bits(&store);
    for (name, values) in &before {
        assert_eq!(after[name] == *values, name == "embed.weight", "{name}");
    }
}

#[test]
fn a_parameter_that_the_loss_does_not_see_ends_the_run_with_its_name() {
    let store = store(DType::F32, 7);
    let model = TinyLm::new(&store, 0.).unwrap();
    store.var_builder().pp("unused").get_with_hints(3, "weight", Init::Const(1.)).unwrap();
    let before = bits(&store);
    match train(&store, &model, &windows(256, 16), 3, None, |_| {}) {
        Err(Error::MissingGradient { names }) => assert_eq!(names, ["unused.weight"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(bits(&store), before);
    assert!(!store.clock().training(), "dropout stays on after an error");
}

#[test]
fn a_loss_that_is_not_finite_leaves_the_weights_untouched() {
    let store = store(DType::F32, 7);
    let model = TinyLm::new(&store, 0.).unwrap();
    let head = store.get("head.weight").unwrap();
    head.set(&(head.var().as_detached_tensor() * f64::INFINITY).unwrap()).unwrap();
    let before = bits(&store);
    match train(&store, &model, &windows(256, 16), 3, None, |_| {}) {
        Err(e @ Error::NonFinite { .. }) => {
            assert!(e.to_string().starts_with("the loss of step 1 is "), "{e}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bits(&store), before);
}

#[test]
fn settings_that_no_run_can_have_are_refused_at_once() {
    let store = self::store(DType::F32, 7);
    let model = TinyLm::new(&store, 0.).unwrap();
    let data = windows(256, 16);
    let foreign = Windows::new(vec![24; 64], 16).unwrap();
    let short = windows(15, 16);
    let held_out = |windows: &Windows, every| Some(Validation { windows: windows.clone(), every });
    type Change<'a> = Box<dyn FnOnce(&mut Trainer<'_>) + 'a>;
    let cases: [(&str, &Windows, Change<'_>); 14] = [
        ("steps: expected at least 1", &data, Box::new(|t: &mut Trainer<'_>| t.config.steps = 0)),
        ("batch: expected at least 1", &data, Box::new(|t| t.config.batch = 0)),
        (
            "batch: expected at most 16, the windows that the data has, found 17",
            &data,
            Box::new(|t| t.config.batch = 17),
        ),
        ("accumulate: expected at least 1", &data, Box::new(|t| t.config.accumulate = 0)),
        ("clip: expected a number > 0, found NaN", &data, Box::new(|t| t.config.clip = Some(f64::NAN))),
        ("schedule: expected one of 4 steps, found 3", &data, Box::new(|t| t.config.steps = 4)),
        ("data: expected at least 16 tokens (one window), found 15", &short, Box::new(|_| {})),
        ("data: expected token ids below the model's vocabulary of 24, found 24", &foreign, Box::new(|_| {})),
        ("context: expected at most the model's 64 tokens, found 66", &windows(100, 66), Box::new(|_| {})),
        (
            "validation.every: expected at least 1 step",
            &data,
            Box::new(|t| t.validation = held_out(&data, 0)),
        ),
        ("data: expected at least 16 tokens", &data, Box::new(|t| t.validation = held_out(&short, 1))),
        ("data: expected token ids below", &data, Box::new(|t| t.validation = held_out(&foreign, 1))),
        (
            "trainable but unknown to the optimizer: blocks.0.",
            &data,
            Box::new(|t| t.optimizer = adamw(&small_only())),
        ),
        (
            "nothing to train",
            &data,
            Box::new(|t| {
                t.store.params().iter().for_each(|p| p.set_role(Role::Frozen));
            }),
        ),
    ];
    let before = bits(&store);
    for (want, data, change) in cases {
        match train(&store, &model, data, 3, None, change) {
            Err(e) => assert!(e.to_string().starts_with(want), "{want}: {e}"),
            Ok(_) => panic!("{want}: accepted"),
        }
        store.params().iter().for_each(|p| p.set_role(Role::Trainable));
    }
    assert_eq!(bits(&store), before);

    fn small_only() -> ParamStore {
        let store = crate::common::store(DType::F32, 0);
        store.set_buffer("x", &Tensor::new(1f32, &Device::Cpu).unwrap()).unwrap();
        store.var_builder().get_with_hints(2, "embed.weight", Init::Const(1.)).unwrap();
        store
    }
}

/// Notes where the clock of its store is in each forward pass.
struct Watched {
    inner: TinyLm,
    clock: Clock,
    seen: Mutex<Vec<(u64, bool)>>,
}

impl CausalLm for Watched {
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.inner.max_context()
    }

    fn blocks(&self) -> usize {
        self.inner.blocks()
    }

    fn block_path(&self, index: usize) -> String {
        self.inner.block_path(index)
    }

    fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        self.seen.lock().unwrap().push((self.clock.step(), self.clock.training()));
        self.inner.embed(ids)
    }

    fn block(&self, index: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.block(index, x)
    }

    fn head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.head(x)
    }
}

#[test]
fn the_clock_counts_micro_batches_and_dropout_is_off_in_validation() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointDir::open(dir.path()).unwrap();
    let mut seen = vec![];
    // Stopped after one step, resumed for two.
    for stop_after in [1, 9] {
        let store = store(DType::F32, 7);
        let model = Watched {
            inner: TinyLm::new(&store, 0.5).unwrap(),
            clock: store.clock().clone(),
            seen: Mutex::default(),
        };
        let stop = AtomicBool::new(false);
        let mut report = |progress: Progress<'_>| {
            if let Progress::Step(report) = progress {
                stop.store(report.record.step == stop_after, Ordering::Relaxed);
            }
        };
        let trainer = Trainer {
            model: &model,
            store: &store,
            windows: &windows(64, 8),
            optimizer: adamw(&store),
            schedule: Schedule::new(Decay::Constant, 0.01, 0., Warmup::Steps(0), 3).unwrap(),
            distill: None,
            validation: Some(Validation { windows: windows(8, 8), every: 2 }),
            hooks: vec![],
            config: TrainConfig { accumulate: 2, ..config(3) },
            checkpoints: Some(&checkpoints),
            metrics: None,
            stop: &stop,
            report: &mut report,
        };
        trainer.run().unwrap();
        seen.extend(model.seen.into_inner().unwrap());
    }
    let training: Vec<u64> = seen.iter().filter(|s| s.1).map(|s| s.0).collect();
    assert_eq!(training, [0, 1, 2, 3, 4, 5]);
    assert_eq!(seen.iter().position(|s| !s.1), Some(4), "the validation after step 2: {seen:?}");
    assert_eq!(seen.len(), 7);
}

#[test]
fn a_hooks_failure_names_hook_and_step() {
    let dir = tempfile::tempdir().unwrap();
    let ran = Scenario { cut_before: Some(3), ..Default::default() }.run(dir.path());
    assert_eq!(ran.outcome.unwrap_err().to_string(), "step 3: refresh: power cut");
}
