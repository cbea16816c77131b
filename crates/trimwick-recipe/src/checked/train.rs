//! `[train]`: how long, how fast and with what optimizer.

use serde::Serialize;

use super::engine::{self, EngineSpec};
use super::groups::{self, ParameterGroup};
use super::warmup::{Warmup, WarmupRule};
use crate::raw::{Choice, Count, Key, Number, Section, SectionSpec, Slot, Subs};
use crate::resolve::Writer;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Cosine,
    Linear,
    Constant,
}

static TOKENS: Key<Count> = Key::optional(
    "tokens",
    Count { min: 1, max: Count::LARGEST },
    "81920",
    "steps is given",
    "Train on so many tokens, rounded up to whole steps.",
)
.known_as(&["max_tokens", "num_tokens"]);
static STEPS: Key<Count> = Key::optional(
    "steps",
    Count { min: 1, max: Count::LARGEST },
    "200",
    "tokens is given",
    "Train for so many steps of the optimizer.",
)
.known_as(&["max_steps", "num_steps", "iterations", "max_iters"]);
static BATCH: Key<Count> = Key::default(
    "batch",
    Count { min: 1, max: 1 << 16 },
    "4",
    "Windows of data.context tokens computed at once.",
)
.known_as(&["batch_size", "micro_batch", "micro_batch_size", "per_device_train_batch_size"]);
static ACCUMULATE: Key<Count> = Key::default(
    "accumulate",
    Count { min: 1, max: 1 << 16 },
    "1",
    "Batches whose gradients make up one step.",
)
.known_as(&["grad_accum", "gradient_accumulation", "gradient_accumulation_steps"]);
static LR: Key<Number> =
    Key::required("lr", Number::above(0.0).up_to(1.0), "1e-4", "The highest learning rate, after warmup.")
        .known_as(&["learning_rate", "max_lr", "peak_lr"]);
static WARMUP: Key<WarmupRule> = Key::default(
    "warmup",
    WarmupRule,
    "0.05",
    "The learning rate climbs from 0 over this fraction (0.05) or number (10) of the steps.",
)
.known_as(&["warmup_steps", "warmup_ratio", "num_warmup_steps"]);
static SCHEDULE: Key<Choice<Shape>> = Key::default(
    "schedule",
    Choice(&[("cosine", Shape::Cosine), ("linear", Shape::Linear), ("constant", Shape::Constant)]),
    "\"cosine\"",
    "How the learning rate falls after warmup.",
)
.known_as(&["lr_schedule", "lr_scheduler", "lr_scheduler_type"]);
static MIN_LR: Key<Number> = Key::default(
    "min_lr",
    Number::from(0.0).up_to(1.0),
    "0.0",
    "Where it ends, at most lr. Only with schedules \"cosine\" and \"linear\".",
);
static CLIP: Key<Number> = Key::default(
    "clip",
    Number::from(0.0),
    "1.0",
    "The gradient is scaled down to this global norm; 0 never does.",
)
.known_as(&["grad_clip", "clip_norm", "max_grad_norm", "max_norm"]);
static WEIGHT_DECAY: Key<Number> = Key::default(
    "weight_decay",
    Number::from(0.0).up_to(1.0),
    "0.0",
    "AdamW's decoupled decay of weights with two or more axes.",
)
.known_as(&["wd"]);
static BETA1: Key<Number> =
    Key::default("beta1", Number::from(0.0).below(1.0), "0.9", "AdamW's memory of the gradient.")
        .known_as(&["betas", "adam_beta1"]);
static BETA2: Key<Number> =
    Key::default("beta2", Number::from(0.0).below(1.0), "0.999", "AdamW's memory of its square.")
        .known_as(&["adam_beta2"]);
static EPS: Key<Number> =
    Key::default("eps", Number::above(0.0).up_to(1.0), "1e-8", "Added to AdamW's denominator.")
        .known_as(&["epsilon", "adam_epsilon"]);
static SAVE_EVERY: Key<Count> = Key::default(
    "save_every",
    Count { min: 1, max: Count::LARGEST },
    "100",
    "Steps between two checkpoints; a stopped run goes on from the last one.",
)
.known_as(&["save_steps", "checkpoint_every"]);
static VALIDATE_EVERY: Key<Count> = Key::default(
    "validate_every",
    Count { min: 0, max: Count::LARGEST },
    "0",
    "Steps between two measurements on the evaluation text while training; 0 for none.",
)
.known_as(&["eval_every", "eval_steps", "val_every"]);
static ORDER_SEED: Key<Count> = Key::optional(
    "order_seed",
    Count { min: 0, max: Count::LARGEST },
    "0",
    "the recipe's seed",
    "Selects the order of the training windows.",
)
.known_as(&["seed", "data_seed", "shuffle_seed"]);
static GROUPS: Key<Subs> = Key::optional(
    "groups",
    Subs(&groups::SPEC),
    "[[train.groups]]",
    "every parameter trains alike",
    "Parameters that train differently; of several groups that match, the last one holds.",
)
.known_as(&["param_groups", "group"]);

/// The declaration of `[train]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[
        &TOKENS,
        &STEPS,
        &BATCH,
        &ACCUMULATE,
        &LR,
        &WARMUP,
        &SCHEDULE,
        &MIN_LR,
        &CLIP,
        &WEIGHT_DECAY,
        &BETA1,
        &BETA2,
        &EPS,
        &SAVE_EVERY,
        &VALIDATE_EVERY,
        &ORDER_SEED,
        &engine::MEMORY,
        &engine::MOMENTS,
        &engine::NON_FINITE,
        &engine::SPIKE,
        &engine::SKIPS,
        &GROUPS,
    ],
    foreign: &[
        ("epochs", "say how long to train with train.tokens or train.steps"),
        ("num_train_epochs", "say how long to train with train.tokens or train.steps"),
        ("optimizer", "the optimizer is AdamW; remove it"),
    ],
};

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSpec {
    /// When training ends.
    pub length: TrainLength,
    /// Windows of `data.context` tokens in a micro-batch, at least 1.
    pub batch: usize,
    /// Micro-batches per step of the optimizer, at least 1.
    pub accumulate: usize,
    /// The highest learning rate, in (0, 1].
    pub lr: f64,
    /// How long the learning rate climbs.
    pub warmup: Warmup,
    /// How the learning rate falls.
    pub schedule: LrSchedule,
    /// The largest global norm of the gradient, above 0; no clipping where there is none.
    pub clip: Option<f64>,
    /// AdamW's decoupled decay of weights with two or more axes, in [0, 1].
    pub weight_decay: f64,
    /// AdamW's first beta, in [0, 1).
    pub beta1: f64,
    /// AdamW's second beta, in [0, 1).
    pub beta2: f64,
    /// AdamW's epsilon, in (0, 1].
    pub eps: f64,
    /// Steps between two checkpoints, at least 1.
    pub save_every: u64,
    /// Steps between two measurements on the evaluation text, if there are any.
    pub validate_every: Option<u64>,
    /// Selects the order of the training windows.
    pub order_seed: u64,
    /// What a step keeps in memory, and what is done about a broken one.
    #[serde(flatten)]
    pub engine: EngineSpec,
    /// Parameters that train differently; the last group that matches a parameter holds.
    pub groups: Vec<ParameterGroup>,
}

/// When training ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainLength {
    /// After so many tokens, rounded up to whole steps.
    Tokens(u64),
    /// After so many steps of the optimizer.
    Steps(u64),
}

/// How the learning rate falls after warmup.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// Half a cosine down to `min_lr`, which is at most `lr`.
    Cosine {
        /// Where it ends.
        min_lr: f64,
    },
    /// A line down to `min_lr`, which is at most `lr`.
    Linear {
        /// Where it ends.
        min_lr: f64,
    },
    /// It stays.
    Constant,
}

impl TrainSpec {
    /// Tokens in one step: batch × accumulate × context.
    pub fn tokens_per_step(&self, context: usize) -> u64 {
        // Each factor is bounded by its key; the product stays below 2^53.
        self.batch as u64 * self.accumulate as u64 * context as u64
    }

    /// Steps of the optimizer, at least 1.
    pub fn steps(&self, context: usize) -> u64 {
        match self.length {
            TrainLength::Steps(steps) => steps,
            TrainLength::Tokens(tokens) => tokens.div_ceil(self.tokens_per_step(context)),
        }
    }

    /// Steps over which the learning rate climbs, fewer than [`TrainSpec::steps`]. A fraction is rounded up, but never to all of them.
    pub fn warmup_steps(&self, context: usize) -> u64 {
        match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Fraction(fraction) => {
                let steps = self.steps(context);
                ((fraction * steps as f64).ceil() as u64).min(steps - 1)
            }
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("train");
        match self.length {
            TrainLength::Tokens(tokens) => out.put(&TOKENS, tokens),
            TrainLength::Steps(steps) => out.put(&STEPS, steps),
        }
        out.put(&BATCH, self.batch);
        out.put(&ACCUMULATE, self.accumulate);
        out.put(&LR, self.lr);
        out.put(&WARMUP, self.warmup);
        let (schedule, min_lr) = match self.schedule {
            LrSchedule::Cosine { min_lr } => ("cosine", Some(min_lr)),
            LrSchedule::Linear { min_lr } => ("linear", Some(min_lr)),
            LrSchedule::Constant => ("constant", None),
        };
        out.put(&SCHEDULE, schedule);
        out.put_some(&MIN_LR, min_lr);
        out.put(&CLIP, self.clip.unwrap_or(0.0));
        out.put(&WEIGHT_DECAY, self.weight_decay);
        out.put(&BETA1, self.beta1);
        out.put(&BETA2, self.beta2);
        out.put(&EPS, self.eps);
        out.put(&SAVE_EVERY, self.save_every);
        out.put(&VALIDATE_EVERY, self.validate_every.unwrap_or(0));
        out.put(&ORDER_SEED, self.order_seed);
        self.engine.write(out);
        for group in &self.groups {
            group.write(out);
        }
    }
}

pub(crate) fn read(section: Section<'_>, seed: Option<u64>) -> Option<TrainSpec> {
    let length = read_length(&section);
    let batch = section.get(&BATCH);
    let accumulate = section.get(&ACCUMULATE);
    let lr = section.get(&LR);
    let warmup = section.get(&WARMUP);
    let schedule = read_schedule(&section, lr);
    let clip = section.get(&CLIP);
    let weight_decay = section.get(&WEIGHT_DECAY);
    let beta1 = section.get(&BETA1);
    let beta2 = section.get(&BETA2);
    let eps = section.get(&EPS);
    let save_every = section.get(&SAVE_EVERY);
    let validate_every = section.get(&VALIDATE_EVERY);
    let order_seed = section.maybe(&ORDER_SEED);
    let engine = engine::read(&section, accumulate);
    let groups = section.subs(&GROUPS).and_then(|groups| {
        let groups: Vec<_> = groups.into_iter().map(groups::read).collect();
        groups.into_iter().collect()
    });
    section.finish();
    Some(TrainSpec {
        length: length?,
        batch: batch? as usize,
        accumulate: accumulate? as usize,
        lr: lr?,
        warmup: warmup?,
        schedule: schedule?,
        clip: Some(clip?).filter(|&norm| norm > 0.0),
        weight_decay: weight_decay?,
        beta1: beta1?,
        beta2: beta2?,
        eps: eps?,
        save_every: save_every?,
        validate_every: Some(validate_every?).filter(|&steps| steps > 0),
        order_seed: order_seed.sound()?.or(seed)?,
        engine: engine?,
        groups: groups?,
    })
}

fn read_length(section: &Section<'_>) -> Option<TrainLength> {
    match (section.maybe(&TOKENS), section.maybe(&STEPS)) {
        (Slot::Absent, Slot::Absent) => {
            section.missing(&TOKENS, "tokens or steps, how long to train".to_string());
            None
        }
        (tokens, Slot::Absent) => tokens.given().map(TrainLength::Tokens),
        (Slot::Absent, steps) => steps.given().map(TrainLength::Steps),
        _ => {
            section.conflict(
                &STEPS,
                "either tokens or steps",
                "both",
                "keep one; a step is batch x accumulate x context tokens",
            );
            None
        }
    }
}

fn read_schedule(section: &Section<'_>, lr: Option<f64>) -> Option<LrSchedule> {
    let shape = section.get(&SCHEDULE);
    if shape == Some(Shape::Constant) {
        let advice = "remove it, or write schedule = \"cosine\" or \"linear\"";
        section.unused(&MIN_LR, "schedule \"constant\" does not fall", advice);
        return Some(LrSchedule::Constant);
    }
    let min_lr = section.get(&MIN_LR);
    if let (Some(min_lr), Some(lr)) = (min_lr, lr)
        && min_lr > lr
    {
        section.conflict(
            &MIN_LR,
            format!("at most lr = {lr:?}"),
            format!("{min_lr:?}"),
            "lower it, or raise lr",
        );
    }
    match shape? {
        Shape::Linear => Some(LrSchedule::Linear { min_lr: min_lr? }),
        _ => Some(LrSchedule::Cosine { min_lr: min_lr? }),
    }
}
