//! Memory plans: the same training, resumed bit for bit, whatever is kept and whatever is computed again.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{Capture, CausalLm, Layer};
use trimwick_sparse::{Magnitude, Pattern};
use trimwick_train::{
    AdamW, AdamWConfig, Batch, Cursor, Decay, Error, Gradients, Guards, MemoryPlan, Moments, NonFinite,
    Outcome, Schedule, Warmup, loss,
};

use crate::common::{bits, scratch, store, windows};
use crate::deep::{Deep, Done, Job, end};

const PLANS: [MemoryPlan; 3] = [MemoryPlan::None, MemoryPlan::Blocks, MemoryPlan::Lean];

#[test]
fn resumed_after_each_of_forty_steps_every_plan_ends_with_the_same_bytes() {
    for memory in PLANS {
        for (tied, moments, wide) in [(true, Moments::F32, 16), (false, Moments::Int8, 64)] {
            let accumulate = if memory == MemoryPlan::Lean { 1 } else { 2 };
            let job = Job { memory, wide, tied, moments, accumulate, ..Job::default() };
            let whole = scratch();
            let want = end(whole.path(), &job.run(Some(whole.path())));
            let dir = scratch();
            for step in 1..job.steps {
                let done = Job { stop_after: Some(1), ..job.clone() }.run(Some(dir.path()));
                assert_eq!(done.outcome.unwrap(), Outcome::Stopped { step }, "{memory:?}");
            }
            let got = end(dir.path(), &job.run(Some(dir.path())));
            assert!(got == want, "{memory:?}, tied {tied}: another end");
        }
    }
}

/// Largest difference of two runs' losses, and of their weights.
fn apart(a: &Done, b: &Done) -> (f64, f64) {
    let losses = a.losses.iter().zip(&b.losses).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
    let weights = a.store.trainable().into_iter().map(|p| {
        let other = b.store.get(p.name()).unwrap();
        let gap = (p.var().as_detached_tensor() - other.var().as_detached_tensor()).unwrap().abs().unwrap();
        f64::from(gap.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap())
    });
    (losses, weights.fold(0., f64::max))
}

#[test]
fn the_plans_agree() {
    for tied in [true, false] {
        for distill in [true, false] {
            for quantize in [None, Some(10)] {
                let [none, blocks, lean] = PLANS.map(|memory| {
                    Job { memory, tied, distill, quantize, clip: None, ..Job::default() }.run(None)
                });
                for (name, other) in [("blocks", &blocks), ("lean", &lean)] {
                    let (losses, weights) = apart(&none, other);
                    // The sums of a gradient are made in one order; a loss's mean over blocks is not.
                    assert!(losses < 1e-5, "{name}, tied {tied}, quantized {quantize:?}: {losses:e}");
                    assert_eq!(weights, 0., "{name}, tied {tied}, quantized {quantize:?}");
                }
            }
        }
    }
}

#[test]
fn accumulated_batches_agree() {
    let job = Job { accumulate: 3, steps: 15, ..Job::default() };
    let (losses, weights) =
        apart(&job.run(None), &Job { memory: MemoryPlan::Blocks, ..job.clone() }.run(None));
    assert!(losses < 1e-5 && weights == 0., "{losses:e} {weights:e}");
}

#[test]
fn every_plan_gives_the_same_bytes_on_any_number_of_threads() {
    for memory in PLANS {
        for (moments, wide) in [(Moments::F32, 16), (Moments::Int8, 64)] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    bits(&Job { memory, moments, wide, steps: 14, ..Job::default() }.run(None).store)
                })
            };
            let one = run(1);
            for threads in [2, 4, 8] {
                assert!(run(threads) == one, "{memory:?} {moments:?}: 1 and {threads} threads differ");
            }
        }
    }
}

/// By hand: the loss times the factor, and no clipping.
#[test]
fn a_lean_step_is_clipped_by_the_norm_of_the_step_before() {
    let job = Job {
        memory: MemoryPlan::Lean,
        distill: false,
        quantize: None,
        dropout: 0.,
        clip: Some(0.5),
        steps: 6,
        ..Job::default()
    };
    let done = job.run(None);
    let by_hand = |own: bool| {
        let store = store(DType::F32, 3);
        let model = Deep::new(&store, job.wide, true, 0.).unwrap();
        let mlp = store.layers().select("*mlp*").unwrap();
        trimwick_sparse::prune(&mlp, Pattern::TWO_FOUR, &Magnitude).unwrap();
        let config = AdamWConfig { weight_decay: 0.1, ..Default::default() };
        let mut optimizer = AdamW::new(store.trainable(), &config, &[]).unwrap();
        let data = windows(300 * 8, 8);
        let mut cursor = Cursor::default();
        let rates = Schedule::new(Decay::Cosine, 0.01, 0.001, Warmup::Fraction(0.1), job.steps).unwrap();
        let mut before = None;
        for step in 0..job.steps {
            let batch = Batch::new(&cursor.take(&data, 3, 2).unwrap(), &Device::Cpu).unwrap();
            let gradients = |factor: f64| {
                let total = (loss(&model, &batch, None).unwrap().total * factor).unwrap();
                let mut gradients = Gradients::new(&store.trainable());
                gradients.accumulate(total.backward().unwrap()).unwrap();
                gradients
            };
            let norm = gradients(1.).norm().unwrap();
            let factor = (0.5 / (before.unwrap_or(norm) + 1e-6)).min(1.);
            assert!(factor < 1., "nothing is clipped");
            assert!(own || (done.norms[step as usize] - norm).abs() < 1e-4 * norm, "step {step}");
            optimizer.step(&gradients(factor), rates.rate(step)).unwrap();
            before = Some(norm).filter(|_| !own);
        }
        let hand =
            Done { outcome: Ok(Outcome::Finished), store, losses: vec![], norms: vec![], guarded: vec![] };
        apart(&hand, &done).1
    };
    let (last, own) = (by_hand(false), by_hand(true));
    assert!(last < 1e-4 && own > 10. * last, "{last:e} by the last norm, {own:e} by its own");
}

/// Counts what passes a layer, and the inputs of each block.
#[derive(Default)]
struct Count(Mutex<Vec<Vec<f32>>>);

impl Capture for Count {
    fn input(&self, _: &Layer, x: &Tensor) -> candle_core::Result<()> {
        self.0.lock().unwrap().push(x.flatten_all()?.to_vec1()?);
        Ok(())
    }
}

/// Index and output of each call of a block.
type Outputs = Arc<Mutex<Vec<(usize, Vec<f32>)>>>;

/// Notes them.
struct Noted {
    inner: Deep,
    outputs: Outputs,
    _guards: Vec<trimwick_nn::CaptureGuard>,
}

impl CausalLm for Noted {
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
        self.inner.embed(ids)
    }

    fn block(&self, index: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.inner.block(index, x)?;
        // Two tokens are the probe's.
        if y.dim(1)? > 2 && self.inner.store.clock().training() {
            self.outputs.lock().unwrap().push((index, y.flatten_all()?.to_vec1()?));
        }
        Ok(y)
    }

    fn head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.head(x)
    }
}

#[test]
fn a_block_computed_again_gives_the_same_bits_and_is_not_seen_twice() {
    for memory in [MemoryPlan::Blocks, MemoryPlan::Lean] {
        let (outputs, capture) = (Outputs::default(), Arc::new(Count::default()));
        let (seen, count) = (outputs.clone(), capture.clone());
        let job = Job { memory, dropout: 0.4, steps: 3, quantize: Some(0), clip: None, ..Job::default() };
        let done = job.run_as(
            None,
            move |inner| {
                let layers = inner.store.layers().select("*mlp.down_proj").unwrap();
                let guards = layers.iter().map(|l| l.capture(count.clone())).collect();
                Box::new(Noted { inner, outputs: seen, _guards: guards })
            },
            &windows(300 * 8, 8),
        );
        assert!(matches!(done.outcome, Ok(Outcome::Finished)), "{:?}", done.outcome);
        let outputs = outputs.lock().unwrap();
        assert_eq!(outputs.len(), 3 * 6, "{memory:?}: three blocks, ahead and back, three steps");
        for step in outputs.chunks(6) {
            let order: Vec<usize> = step.iter().map(|(index, _)| *index).collect();
            assert_eq!(order, [0, 1, 2, 2, 1, 0]);
            (0..3).for_each(|i| {
                assert!(step[i].1 == step[5 - i].1, "{memory:?}: block {i} drops other values")
            });
        }
        assert_eq!(capture.0.lock().unwrap().len(), 9, "{memory:?}: three layers, three steps, once each");
        assert!(!done.store.clock().recomputing());
    }
}

#[test]
fn settings_that_a_lean_run_cannot_have() {
    let dir = scratch();
    let lean = Job { memory: MemoryPlan::Lean, steps: 2, ..Job::default() };
    let skip = Guards { non_finite: NonFinite::Skip, ..Guards::default() };
    let cases = [
        (Job { accumulate: 2, ..lean.clone() }, "accumulate: expected 1 with memory = \"lean\""),
        (
            Job { guards: skip, ..lean.clone() },
            "non_finite: expected \"abort\" or \"rewind\" with memory = \"lean\"",
        ),
    ];
    for (job, want) in cases {
        match job.run(Some(dir.path())).outcome {
            Err(e @ Error::Setting { .. }) => assert!(e.to_string().starts_with(want), "{e}"),
            other => panic!("{want}: {other:?}"),
        }
    }
}

#[test]
fn a_parameter_that_no_segment_uses_ends_the_run_before_a_weight_has_changed() {
    for memory in PLANS {
        let store = store(DType::F32, 7);
        let model = crate::common::TinyLm::new(&store, 0.).unwrap();
        store.var_builder().pp("unused").get_with_hints(3, "weight", trimwick_nn::Init::Const(1.)).unwrap();
        let before = bits(&store);
        let run =
            crate::training::train(&store, &model, &windows(256, 16), 3, None, |t| t.config.memory = memory);
        match run {
            Err(Error::MissingGradient { names }) => assert_eq!(names, ["unused.weight"]),
            other => panic!("{other:?}"),
        }
        assert_eq!(bits(&store), before, "{memory:?}");
    }
}

#[test]
fn a_run_with_8_bit_moments_learns_what_one_in_f32_learns() {
    let train = |moments| {
        let job = Job {
            moments,
            wide: 64,
            quantize: None,
            distill: false,
            dropout: 0.,
            steps: 150,
            ..Job::default()
        };
        let losses = job.run(None).losses;
        let last = losses[140..].iter().sum::<f64>() / 10.;
        assert!(losses[0] > 3. && last < 1.2, "from {} to {last}", losses[0]);
        last
    };
    let (f32, int8) = (train(Moments::F32), train(Moments::Int8));
    assert!(f32 != int8 && (int8 / f32 - 1.).abs() < 0.05, "loss {int8} with 8 bits, {f32} with f32");
}
