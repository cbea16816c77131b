//! Training an arm.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use globset::Glob;
use serde_json::{Value, json};
use trimwick_formats::checkpoint::CheckpointDir;
use trimwick_nn::{Layers, Param, Role};
use trimwick_quant::{LEARNED_SCALES, ScalePolicy};
use trimwick_sparse::{MaskSchedule, Plan};
use trimwick_train::lora::{self, BaseFormat, LoraConfig};
use trimwick_train::{
    AdamW, AdamWConfig, BoxError, Decay, DistillConfig, Distillation, Outcome, ParamGroup, Schedule,
    StepHook, TrainConfig, Trainer, Validation, Warmup, Windows,
};

use super::error::Result;
use super::event::{Event, Report};
use super::folder::RunFolder;
use super::origin::Built;
use super::prune::{matching, selected};
use super::quantize::QuantHook;
use crate::{
    Base, DistillSpec, LoraSpec, LrSchedule, PruneSchedule, PruneSpec, QuantizeSpec, Recipe, TrainSpec,
    Warmup as RecipeWarmup,
};

/// How an arm is trained, beside the recipe's `[train]`.
pub(crate) struct Job<'a> {
    pub(crate) name: &'a str,
    pub(crate) student: &'a Built,
    /// Its quantized layers, and how their scales move.
    pub(crate) quantizers: Option<(&'a Layers, &'a QuantizeSpec)>,
    /// The dense twin, and how much of the loss it gives.
    pub(crate) teacher: Option<(&'a Built, &'a DistillSpec)>,
    /// Masks that change on the way.
    pub(crate) masks: Option<&'a PruneSpec>,
    pub(crate) windows: &'a Windows,
    pub(crate) held_out: &'a Windows,
    /// The metrics file, in the run's folder.
    pub(crate) metrics: &'a str,
}

/// Trains to the end, from where an earlier process stopped. `false` when the stop flag ended it.
pub(crate) fn train(
    recipe: &Recipe,
    spec: &TrainSpec,
    job: &Job<'_>,
    folder: &RunFolder,
    stop: &AtomicBool,
    report: Report<'_>,
) -> Result<bool> {
    let steps = spec.steps(recipe.data.context);
    let mut masks = match job.masks {
        Some(prune) => mask_hook(job.student, prune, steps)?,
        None => None,
    };
    let mut quantizers = match job.quantizers {
        Some((layers, spec)) => Some(QuantHook::new(job.student, layers, spec)?),
        None => None,
    };
    let masks = masks.as_mut().map(|hook| hook as &mut dyn StepHook);
    let quantizers = quantizers.as_mut().map(|hook| hook as &mut dyn StepHook);
    let checkpoints = CheckpointDir::open(folder.at(&format!("checkpoints/{}", job.name)))?;
    let distill = match job.teacher {
        Some((teacher, d)) => {
            let DistillSpec { teacher: _, weight, temperature, features, storage: _ } = *d;
            let config = DistillConfig { weight, temperature, features };
            Some(Distillation::new(&teacher.model, config)?)
        }
        None => None,
    };
    let trainer = Trainer {
        model: &job.student.model,
        store: &job.student.store,
        windows: job.windows,
        optimizer: optimizer(spec, job)?,
        schedule: schedule(spec, recipe.data.context)?,
        distill,
        validation: spec.validate_every.map(|every| Validation { windows: job.held_out.clone(), every }),
        hooks: masks.into_iter().chain(quantizers).collect(),
        config: TrainConfig {
            steps,
            batch: spec.batch,
            accumulate: spec.accumulate,
            clip: spec.clip,
            save_every: spec.save_every,
            order_seed: spec.order_seed,
            fingerprint: format!("{}/{}", folder.fingerprint(), job.name),
            memory: spec.engine.memory,
            guards: spec.engine.guards,
        },
        checkpoints: Some(&checkpoints),
        metrics: Some(folder.at(job.metrics)),
        stop,
        report: &mut |progress| report(Event::Training(progress)),
    };
    Ok(trainer.run()? == Outcome::Finished)
}

/// Gives the layers of a recipe their adapters, and freezes everything else.
pub(crate) fn adapt(built: &Built, spec: &LoraSpec, seed: u64) -> Result<()> {
    let linear = built.store.layers().of_kind(trimwick_nn::LayerKind::Linear);
    let layers = matching(&linear, &spec.layers)?;
    // Scales that are learned stay trainable.
    let whole = built.store.trainable();
    whole.iter().filter(|p| !trimwick_quant::owns(p.name())).for_each(|p| p.set_role(Role::Frozen));
    let base = match spec.base {
        Base::F32 => BaseFormat::Full,
        Base::Bf16 => BaseFormat::Bf16,
        Base::Int8 => BaseFormat::Int8,
        Base::Nf4 => BaseFormat::Nf4,
    };
    let config = LoraConfig { rank: spec.rank, alpha: spec.alpha, base };
    Ok(lora::adapt(&layers, &config, seed)?)
}

fn optimizer(spec: &TrainSpec, job: &Job<'_>) -> Result<AdamW> {
    let config = AdamWConfig {
        beta1: spec.beta1,
        beta2: spec.beta2,
        eps: spec.eps,
        weight_decay: spec.weight_decay,
        moments: spec.engine.moments,
    };
    let learned = job.quantizers.filter(|(_, q)| q.scales == ScalePolicy::Learned);
    let learned = learned.map(|(_, q)| ParamGroup {
        pattern: LEARNED_SCALES.into(),
        lr_scale: q.scale_lr,
        weight_decay: Some(0.),
    });
    let own = spec.groups.iter().map(|g| ParamGroup {
        pattern: g.pattern.clone(),
        lr_scale: g.lr_scale,
        weight_decay: g.weight_decay,
    });
    let params = job.student.store.trainable();
    let groups = in_order(&params, learned, own);
    Ok(AdamW::new(params, &config, &groups)?)
}

/// The groups that hold for some parameter of an arm: the recipe's own, then that of learned scales, then those of the
/// recipe's that name nothing but scales. Of groups that match, the last holds, so that `*` is no word about scales. The
/// check has found each to match in the recipe's own arm; the control arm trains neither adapters nor scales.
fn in_order(
    params: &[Param],
    learned: Option<ParamGroup>,
    own: impl Iterator<Item = ParamGroup>,
) -> Vec<ParamGroup> {
    let owned = |name: &&str| trimwick_quant::owns(name);
    let mut rest: BTreeSet<&str> = params.iter().map(Param::name).filter(owned).collect();
    let (mut weights, mut scales) = (Vec::new(), Vec::new());
    for group in own {
        let Ok(glob) = Glob::new(&group.pattern).map(|glob| glob.compile_matcher()) else { continue };
        let names: Vec<&str> = params.iter().map(Param::name).filter(|name| glob.is_match(name)).collect();
        match names.iter().all(owned) {
            _ if names.is_empty() => {}
            true => {
                rest.retain(|name| !glob.is_match(name));
                scales.push(group);
            }
            false => weights.push(group),
        }
    }
    weights.into_iter().chain(learned.filter(|_| !rest.is_empty())).chain(scales).collect()
}

fn schedule(spec: &TrainSpec, context: usize) -> Result<Schedule> {
    let (decay, least) = match spec.schedule {
        LrSchedule::Cosine { min_lr } => (Decay::Cosine, min_lr),
        LrSchedule::Linear { min_lr } => (Decay::Linear, min_lr),
        LrSchedule::Constant => (Decay::Constant, spec.lr),
    };
    let warmup = match spec.warmup {
        RecipeWarmup::Fraction(_) => Warmup::Steps(spec.warmup_steps(context)),
        RecipeWarmup::Steps(steps) => Warmup::Steps(steps),
    };
    Ok(Schedule::new(decay, spec.lr, least, warmup, spec.steps(context))?)
}

type HookResult = std::result::Result<(), BoxError>;

/// A mask schedule between the steps of the loop.
struct MaskHook {
    schedule: MaskSchedule,
    /// Steps done.
    step: u64,
}

fn mask_hook(built: &Built, prune: &PruneSpec, steps: u64) -> Result<Option<MaskHook>> {
    let end = prune.schedule.end(steps);
    let plan = match prune.schedule {
        PruneSchedule::OneShot => return Ok(None),
        PruneSchedule::Gradual { refresh_every, .. } => Plan::Gradual { every: refresh_every, end },
        PruneSchedule::Refreshed { refresh_every, decay, .. } => {
            Plan::Refreshed { every: refresh_every, end, decay }
        }
    };
    let (layers, pattern) = selected(&built.store, prune)?;
    Ok(Some(MaskHook { schedule: MaskSchedule::new(layers, pattern, plan)?, step: 0 }))
}

impl StepHook for MaskHook {
    fn name(&self) -> &str {
        "masks"
    }

    // The choice that belongs to the state after `step` is made right after it, so that a checkpoint holds it
    // and the last step's mask is the final one.
    fn before_step(&mut self, step: u64) -> HookResult {
        if step == 1 {
            self.schedule.before_step(0)?;
        }
        Ok(())
    }

    fn after_step(&mut self, step: u64) -> HookResult {
        self.step = step;
        self.schedule.before_step(step)?;
        Ok(())
    }

    fn save(&self) -> Option<Value> {
        Some(json!({ "step": self.step }))
    }

    fn restore(&mut self, state: Option<&Value>) -> HookResult {
        let step = state.and_then(|s| s.get("step")).and_then(Value::as_u64);
        self.step = step.ok_or("the checkpoint holds no mask schedule")?;
        Ok(self.schedule.resume(self.step + 1)?)
    }
}
