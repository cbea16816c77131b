//! What a run does about broken steps, and that it does the same when it is killed in the middle.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Tensor};
use trimwick_nn::CausalLm;
use trimwick_train::{Error, GuardRecord, Guards, MemoryPlan, NonFinite, StepRecord, Windows};

use crate::common::{VOCAB, scratch};
use crate::deep::{Deep, Done, End, Job, end};

/// The token that poisons.
const TOKEN: u32 = VOCAB as u32 - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poison {
    /// Logits are NaN.
    Loss,
    /// The loss is as it is, and the gradient of block 1 is NaN.
    Gradient,
    /// Logits are far off.
    Spike,
}

/// Breaks on windows with [`TOKEN`] in them.
struct Poisoned {
    inner: Deep,
    poison: Poison,
    met: AtomicBool,
}

impl Poisoned {
    fn met(&self, poison: Poison) -> bool {
        self.poison == poison && self.met.load(Ordering::Relaxed)
    }
}

impl CausalLm for Poisoned {
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
        let ids_here = ids.flatten_all()?.to_vec1::<u32>()?;
        self.met.store(ids_here.contains(&TOKEN), Ordering::Relaxed);
        self.inner.embed(ids)
    }

    fn block(&self, index: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.inner.block(index, x)?;
        if index == 1 && self.met(Poison::Gradient) {
            // 0, with an infinite slope.
            return &y + (&y - y.detach())?.sqrt()?;
        }
        Ok(y)
    }

    fn head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let logits = self.inner.head(x)?;
        match self.poison {
            Poison::Loss if self.met(Poison::Loss) => logits * f64::NAN,
            Poison::Spike if self.met(Poison::Spike) => logits * 60.,
            _ => Ok(logits),
        }
    }
}

/// Windows of 8 tokens, those at the given positions of the first epoch poisoned.
fn data(positions: &[u64]) -> Windows {
    let clean: Vec<u32> = (0..150 * 8u32).map(|i| (i * 5 + i / 8 * 3) % TOKEN).collect();
    let order = Windows::new(clean.clone(), 8).unwrap().order(3, 0);
    let mut ids = clean;
    for &position in positions {
        ids[order.at(position) as usize * 8 + 3] = TOKEN;
    }
    Windows::new(ids, 8).unwrap()
}

fn run(job: &Job, poison: Poison, data: &Windows, dir: &Path) -> Done {
    let wrap = |inner| Box::new(Poisoned { inner, poison, met: AtomicBool::new(false) }) as Box<dyn CausalLm>;
    job.run_as(Some(dir), wrap, data)
}

fn job(guards: Guards, memory: MemoryPlan) -> Job {
    Job { steps: 24, quantize: Some(4), save_every: 5, guards, memory, ..Job::default() }
}

const REWIND: Guards = Guards { non_finite: NonFinite::Rewind, spike: None, skips: 3 };
const SKIP: Guards = Guards { non_finite: NonFinite::Skip, spike: None, skips: 3 };
const SPIKE: Guards = Guards { non_finite: NonFinite::Abort, spike: Some(3.), skips: 3 };

/// (poison, guards, memory plan, what happens as (step, rewound to))
type Case = (Poison, Guards, MemoryPlan, [(u64, Option<u64>); 2]);

fn cases() -> Vec<Case> {
    // Two windows a step: position 24 is in step 13, and position 37 in step 19 or, after a rewind to 10, in step 16.
    let mut cases = vec![];
    for memory in [MemoryPlan::None, MemoryPlan::Blocks, MemoryPlan::Lean] {
        for poison in [Poison::Loss, Poison::Gradient] {
            cases.push((poison, REWIND, memory, [(13, Some(10)), (16, Some(15))]));
            if memory != MemoryPlan::Lean {
                cases.push((poison, SKIP, memory, [(13, None), (19, None)]));
            }
        }
        cases.push((Poison::Spike, SPIKE, memory, [(13, Some(10)), (16, Some(15))]));
    }
    cases
}

const POISONED: [u64; 2] = [24, 37];

#[test]
fn a_broken_step_is_left_out_or_taken_back() {
    for (poison, guards, memory, want) in cases() {
        let case = format!("{poison:?} {guards:?} {memory:?}");
        let dir = scratch();
        let done = run(&job(guards, memory), poison, &data(&POISONED), dir.path());
        let (_, metrics, weights) = end(dir.path(), &done);
        let told: Vec<_> = done.guarded.iter().map(|g| (g.0, g.2)).collect();
        assert_eq!(told, want, "{case}");
        assert_eq!(done.guarded.iter().map(|g| g.3).collect::<Vec<_>>(), [1, 2], "{case}");
        assert!(done.losses.iter().all(|l| l.is_finite() && *l < 20.), "{case}: {:?}", done.losses);
        assert!(weights.values().flatten().all(|&b| f64::from_bits(b).is_finite()), "{case}");
        // The file tells the same, and the steps after a rewind again.
        let lines: Vec<GuardRecord> = metrics
            .lines()
            .filter(|l| l.contains("cause"))
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.iter().map(|l| (l.step, l.rewound_to)).collect::<Vec<_>>(), want, "{case}");
        let cause = match poison {
            Poison::Loss => "the loss of step 13 is NaN",
            Poison::Gradient => "the gradient of ",
            Poison::Spike => "the loss of step 13 is ",
        };
        assert!(lines[0].cause.starts_with(cause) && lines[0].skips == 1, "{case}: {:?}", lines[0]);
        let is_step = |l: &&str| l.contains("grad_norm");
        let steps: Vec<StepRecord> =
            metrics.lines().filter(is_step).map(|l| serde_json::from_str(l).unwrap()).collect();
        let numbers: Vec<u64> = steps.iter().map(|s| s.step).collect();
        let want: Vec<u64> = match guards.non_finite {
            NonFinite::Skip => (1..=24).filter(|s| ![13, 19].contains(s)).collect(),
            _ => (1..=12).chain(11..=15).chain(16..=24).collect(),
        };
        assert_eq!(numbers, want, "{case}");
    }
}

#[test]
fn killed_before_any_step_it_does_the_same_again() {
    for (poison, guards, memory, _) in cases() {
        // Blocks are as None, but for the walk; what comes after a broken loss is what comes after a broken gradient.
        let alike = memory == MemoryPlan::Lean && poison != Poison::Gradient;
        if memory == MemoryPlan::Blocks || alike {
            continue;
        }
        let (job, data) = (job(guards, memory), data(&POISONED));
        let whole = scratch();
        let want: End = end(whole.path(), &run(&job, poison, &data, whole.path()));
        // Steps that were begun: those around the rewinds, and some before and after.
        for cut in [0, 5, 11, 12, 13, 14, 18, 19, 23] {
            let dir = scratch();
            let killed = run(&Job { calls: Some(cut), ..job.clone() }, poison, &data, dir.path());
            assert!(matches!(killed.outcome, Err(Error::Hook { .. })), "{:?}", killed.outcome);
            let done = run(&job, poison, &data, dir.path());
            assert!(end(dir.path(), &done) == want, "{poison:?} {guards:?} {memory:?}: cut after {cut}");
        }
    }
}

#[test]
fn stopped_after_every_step_it_goes_back_to_where_an_undisturbed_run_goes() {
    for (poison, guards, memory, _) in cases() {
        let (job, data) = (job(guards, memory), data(&POISONED));
        let whole = scratch();
        let want = end(whole.path(), &run(&job, poison, &data, whole.path()));
        let dir = scratch();
        let mut rounds = 0;
        let done = loop {
            // A rewind and the step after it are one process's: a stop before them is the next one's.
            let done = run(&Job { stop_after: Some(3), ..job.clone() }, poison, &data, dir.path());
            rounds += 1;
            assert!(rounds < 40, "it does not end");
            match done.outcome {
                Ok(trimwick_train::Outcome::Stopped { .. }) => {}
                _ => break done,
            }
        };
        assert!(end(dir.path(), &done) == want, "{poison:?} {guards:?} {memory:?}");
    }
}

#[test]
fn enough_is_enough() {
    let data = data(&[10, 20, 30]);
    for (poison, guards) in [(Poison::Loss, REWIND), (Poison::Loss, SKIP), (Poison::Spike, SPIKE)] {
        let dir = scratch();
        let guards = Guards { skips: 1, ..guards };
        let done = run(&Job { quantize: None, ..job(guards, MemoryPlan::None) }, poison, &data, dir.path());
        match done.outcome {
            Err(e @ Error::GaveUp { skips: 1, .. }) => {
                let text = e.to_string();
                assert!(
                    text.starts_with(
                        "after 1 skipped steps and rewinds, as many as are allowed: the loss of"
                    )
                );
            }
            other => panic!("{poison:?}: {other:?}"),
        }
        assert_eq!(done.guarded.len(), 1);
    }
    let dir = scratch();
    let done = run(&job(Guards::default(), MemoryPlan::None), Poison::Loss, &data, dir.path());
    assert!(matches!(done.outcome, Err(Error::NonFinite { .. })), "abort is what is done by default");
}

#[test]
fn a_broken_gradient_of_a_lean_step_is_told_as_what_it_is() {
    let dir = scratch();
    let done = run(&job(Guards::default(), MemoryPlan::Lean), Poison::Gradient, &data(&[10]), dir.path());
    match done.outcome {
        Err(e @ Error::HalfStep { .. }) => assert!(e.to_string().contains("run again"), "{e}"),
        other => panic!("{other:?}"),
    }
    // The first step walks back for its norm before it updates anything.
    let dir = scratch();
    let done = run(&job(Guards::default(), MemoryPlan::Lean), Poison::Gradient, &data(&[0]), dir.path());
    assert!(matches!(done.outcome, Err(Error::NonFinite { .. })), "{:?}", done.outcome);
}

/// An activation that a quantizer cannot take fails inside of the forward pass, where candle forgets what it was.
#[test]
fn a_quantizer_that_meets_an_infinity_is_a_broken_step_too() {
    struct Overflow(Deep, AtomicBool);
    impl CausalLm for Overflow {
        fn vocab_size(&self) -> usize {
            self.0.vocab_size()
        }

        fn max_context(&self) -> usize {
            self.0.max_context()
        }

        fn blocks(&self) -> usize {
            self.0.blocks()
        }

        fn block_path(&self, index: usize) -> String {
            self.0.block_path(index)
        }

        fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
            self.1.store(ids.flatten_all()?.to_vec1::<u32>()?.contains(&TOKEN), Ordering::Relaxed);
            self.0.embed(ids)
        }

        fn block(&self, index: usize, x: &Tensor) -> candle_core::Result<Tensor> {
            match self.1.load(Ordering::Relaxed) {
                true => self.0.block(index, &(x * f64::INFINITY)?.to_dtype(DType::F32)?),
                false => self.0.block(index, x),
            }
        }

        fn head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
            self.0.head(x)
        }
    }
    for (guards, rewound_to) in [(SKIP, None), (REWIND, Some(10))] {
        let dir = scratch();
        let wrap = |inner| Box::new(Overflow(inner, AtomicBool::new(false))) as Box<dyn CausalLm>;
        let done = job(guards, MemoryPlan::None).run_as(Some(dir.path()), wrap, &data(&[24]));
        end(dir.path(), &done);
        assert_eq!(done.guarded.len(), 1);
        let (step, cause, to, _) = &done.guarded[0];
        assert_eq!((*step, *to), (13, rewound_to));
        assert!(cause.contains("input") && cause.contains("NaN"), "{cause}");
    }
}

#[test]
fn guards_that_no_run_can_have() {
    for (guards, dir, want) in [
        (REWIND, false, "non_finite: expected a folder of checkpoints to go back to, found none"),
        (SPIKE, false, "spike: expected a folder of checkpoints to go back to, found none"),
        (Guards { spike: Some(1.), ..SPIKE }, true, "spike: expected a number above 1, found 1"),
        (Guards { spike: Some(f64::NAN), ..SPIKE }, true, "spike: expected a number above 1, found NaN"),
    ] {
        let temp = scratch();
        let done = job(guards, MemoryPlan::None).run(dir.then(|| temp.path()));
        assert_eq!(done.outcome.unwrap_err().to_string(), want);
    }
    // How often to save decides where a rewind goes.
    let dir = scratch();
    let begun = job(REWIND, MemoryPlan::None);
    run(&Job { stop_after: Some(6), ..begun.clone() }, Poison::Loss, &data(&[]), dir.path());
    let done = run(&Job { save_every: 4, ..begun }, Poison::Loss, &data(&[]), dir.path());
    let told = done.outcome.unwrap_err().to_string();
    assert!(told.contains("plan.rewind_every: expected 4, found 5"), "{told}");
}
