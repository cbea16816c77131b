//! `trimwick check`: what a recipe would do.

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_recipe::run::{
    DiskPlan, RunError, StreamedPlan, WholePlan, Work, check_place, disk_plan, streamed_plan, whole_plan,
    work,
};
use trimwick_recipe::{
    Arm, BlockwiseSpec, LayerRule, ModelSpec, Pattern, PruneRule, PruneSchedule, PruneSpec, QuantizeRule,
    QuantizeSpec, Recipe, Sizes, TrainSpec,
};

use super::order::{order, under as under_budget};
use super::survey::{Survey, survey};
use super::{print, probe};
use crate::args::CheckArgs;
use crate::error::DONE;
use crate::model::Hub;
use crate::progress::line;
use crate::text::{bytes, count, percent, plain, plain_json};

/// Checks a recipe and says what it would do.
///
/// # Errors
/// [`trimwick_recipe::Faults`]; [`trimwick_models::Error`].
pub(super) fn check(args: &CheckArgs) -> Result<u8> {
    let recipe = Recipe::load(&args.recipe, &args.overrides)?;
    let survey = survey(&recipe, Hub::Cached)?;
    match check_place(&recipe.out, &recipe) {
        // A run of it can be told to go elsewhere.
        Err(other @ RunError::OtherRun { .. }) => line(&format!("note: {other}")),
        place => place?,
    }
    let speed = survey.as_ref().filter(|_| args.time).map(|survey| {
        let config = &survey.config;
        probe::speed(recipe.data.context.min(512), config.hidden_size, config.intermediate_size)
    });
    let plan = Plan::new(&recipe, survey.as_ref(), args.time, speed);
    print(&if args.json { plain_json(&plan.json()) + "\n" } else { plan.text() })?;
    Ok(DONE)
}

/// What a recipe comes to.
struct Plan<'a> {
    recipe: &'a Recipe,
    /// Nothing for a hub model that is not on this machine.
    survey: Option<&'a Survey>,
    parameters: u64,
    /// Weights of the layers that are pruned, and how many of them become zero.
    pruned: u64,
    zeros: u64,
    /// Whether the time was asked for.
    timed: bool,
    /// Operations in a second that this machine does, where it was asked and the model is known.
    speed: Option<f64>,
}

impl<'a> Plan<'a> {
    fn new(recipe: &'a Recipe, survey: Option<&'a Survey>, timed: bool, speed: Option<f64>) -> Self {
        let parameters = survey.map_or(0, |s| s.config.num_parameters());
        let mut plan = Self { recipe, survey, parameters, pruned: 0, zeros: 0, timed, speed };
        for rule in plan.survey.iter().flat_map(|s| &s.rules.layers) {
            if let PruneRule::Pruned { pattern, .. } = &rule.prune {
                let weights = rule.weights();
                plan.pruned += weights;
                plan.zeros += match *pattern {
                    Pattern::Nm { n, m } => weights / m as u64 * (m - n) as u64,
                    Pattern::Unstructured { sparsity } => (weights as f64 * sparsity).round() as u64,
                };
            }
        }
        plan
    }

    fn model(&self) -> String {
        match (self.survey, &self.recipe.model) {
            (Some(survey), _) => survey.origin.clone(),
            (None, ModelSpec::Source(source)) => source.to_string(),
            (None, ModelSpec::Pretrain(_)) => "random weights".into(),
        }
    }

    /// The arms that the run will measure, in the order of its table.
    fn arms(&self) -> Vec<&'static str> {
        let recipe = self.recipe;
        let compares = |arm: Arm| recipe.compare.arms.contains(&arm);
        let (prunes, trains) = (recipe.prune.is_some(), recipe.train.is_some());
        let quantizes = recipe.quantize.is_some();
        let jointly = recipe.quantize.as_ref().is_some_and(QuantizeSpec::joint);
        let tuned = trains && compares(Arm::DenseTuned);
        if recipe.stream {
            let compressed = match (&recipe.blockwise, quantizes) {
                (Some(_), _) => "blockwise",
                (None, true) => "quantized",
                (None, false) => "pruned",
            };
            return vec!["dense", compressed, "exported"];
        }
        let arms = [
            ("dense", !matches!(recipe.model, ModelSpec::Pretrain(_))),
            ("dense_tuned", tuned),
            ("pruned_magnitude", prunes && compares(Arm::PrunedMagnitude)),
            ("pruned", prunes && !jointly),
            ("quantized", quantizes),
            ("dense_tuned_quantized", quantizes && tuned && !prunes),
            ("blockwise", recipe.blockwise.is_some()),
            ("recovered", (prunes || quantizes) && trains),
            ("trained", !prunes && !quantizes && trains),
            ("exported", true),
        ];
        arms.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }

    /// The memory of a run with the whole model in it.
    fn whole(&self) -> Option<WholePlan> {
        self.survey.filter(|_| !self.recipe.stream).map(|s| whole_plan(self.recipe, &s.config, &s.rules))
    }

    /// Bytes at the peak of either kind of run.
    fn peak(&self) -> Option<u64> {
        self.streamed().map(|plan| plan.peak).or(self.whole().map(|plan| plan.peak))
    }

    fn disk(&self) -> Option<DiskPlan> {
        self.survey.map(|s| disk_plan(self.recipe, &s.config, &s.rules))
    }

    /// What to do where the memory of this machine is not enough.
    fn short(&self, needed: u64) -> Option<String> {
        let there = probe::available().filter(|&there| there < needed)?;
        let window = self.whole().map_or(0, |plan| plan.window);
        let levers = probe::levers(self.recipe, self.parameters, window).join("; ");
        Some(format!("{} are free: it does not fit; what helps: {levers}", bytes(there)))
    }

    /// Operations of the run.
    fn work(&self) -> Option<Work> {
        let survey = self.survey.filter(|_| self.speed.is_some())?;
        Some(work(self.recipe, &survey.config, self.arms().len()))
    }

    /// What the weights take on disk.
    fn sizes(&self) -> Option<Sizes> {
        self.survey.map(|survey| survey.rules.sizes(self.parameters))
    }

    /// The memory of a run that holds one block at a time.
    fn streamed(&self) -> Option<StreamedPlan> {
        self.survey.filter(|_| self.recipe.stream).map(|s| streamed_plan(self.recipe, &s.config))
    }

    fn text(&self) -> String {
        let recipe = self.recipe;
        let mut lines = vec![("recipe", format!("{}, seed {}", recipe.name, recipe.seed))];
        match self.survey {
            Some(survey) => {
                let positions = count(survey.config.max_position_embeddings as u64);
                let parameters = count(self.parameters);
                lines.push((
                    "model",
                    format!("{}: {parameters} parameters, {positions} positions", survey.origin),
                ));
                // The table has its own lines.
                let table = survey.rules.to_string().replace('\n', "\n            ");
                lines.push(("layers", table));
            }
            None => lines.push((
                "model",
                format!(
                    "{}: not on this machine; `run` downloads it and checks the layers then",
                    self.model()
                ),
            )),
        }
        if let Some(prune) = &recipe.prune {
            lines.push(("pruning", self.pruning(prune)));
        }
        if let Some(quantize) = &recipe.quantize {
            lines.push(("quantizing", self.quantizing(quantize)));
        }
        let passes = recipe.quantize.iter().any(|spec| !spec.passes.is_empty() || spec.budget.is_some());
        if passes {
            lines.push(("order", order(recipe).join(" → ")));
            if let Some(spec) = &recipe.calibration {
                let tokens = count(spec.windows as u64 * recipe.data.context as u64);
                lines.push((
                    "calibrates",
                    format!("on {tokens} tokens in {} windows, seed {}", spec.windows, spec.seed),
                ));
            }
        }
        if let Some(blockwise) = &recipe.blockwise {
            lines.push(("blockwise", self.blocks(blockwise)));
        }
        if let Some(lora) = &recipe.lora {
            let (rank, base) = (lora.rank, format!("{:?}", lora.base).to_lowercase());
            lines.push((
                "adapters",
                format!("rank {rank}, alpha {:?}, over frozen weights in {base}", lora.alpha),
            ));
        }
        if let Some(train) = &recipe.train {
            lines.push(("training", self.training(train)));
        }
        if let Some(sizes) = self.sizes().filter(|sizes| sizes.packed.or(sizes.sparse).is_some()) {
            lines.push(("size", size(&sizes)));
        }
        lines.push(("arms", self.arms().join(", ")));
        if let Some(plan) = self.streamed() {
            let (peak, block, states) = (bytes(plan.peak), bytes(plan.block), bytes(plan.states));
            let stage = plan.stage;
            lines.push((
                "memory",
                format!("about {peak} while {stage}: a block is {block}, hidden states are at most {states}"),
            ));
        }
        lines.extend(self.whole().map(|plan| ("memory", memory(recipe, &plan))));
        lines.extend(self.peak().and_then(|peak| self.short(peak)).map(|text| ("", text)));
        lines.extend(self.disk().map(|plan| ("disk", disk(&plan, probe::free(&recipe.out)))));
        if self.survey.is_none() && self.timed {
            lines.push(("time", "not known before the model is on this machine".into()));
        }
        if let (Some(work), Some(speed)) = (self.work(), self.speed) {
            lines.push(("time", probe::time(&work, speed)));
        }
        lines.push(("out", recipe.out.display().to_string()));
        let line = |(name, text): (&str, String)| {
            let text: Vec<String> = text.split('\n').map(plain).collect();
            format!("{name:<10}  {}\n", text.join("\n"))
        };
        lines.into_iter().map(line).chain(["the recipe is sound\n".to_string()]).collect()
    }

    fn pruning(&self, prune: &PruneSpec) -> String {
        let schedule = match prune.schedule {
            PruneSchedule::OneShot => "at once",
            PruneSchedule::Gradual { .. } => "gradually, while training",
            PruneSchedule::Refreshed { .. } => "at once, and chosen again while training",
        };
        let what = format!("{} by {}, {schedule}", prune.pattern, prune.method.name());
        if self.survey.is_none() {
            return what;
        }
        let (zeros, pruned) = (count(self.zeros), count(self.pruned));
        let share = percent(self.zeros, self.parameters);
        format!("{what}: {zeros} of {pruned} weights in {} layers become zero, {share} of all", self.layers())
    }

    fn quantizing(&self, quantize: &QuantizeSpec) -> String {
        let mut bits = 0.;
        let mut weights = 0;
        for rule in self.survey.iter().flat_map(|s| &s.rules.layers) {
            if let Some(QuantizeRule { bits: Some(each), .. }) = &rule.quant {
                weights += rule.weights();
                bits += each * rule.weights() as f64;
            }
        }
        let how = format!("scales {}, range {}", words(&quantize.scales), words(&quantize.range));
        let start = match quantize.start {
            0 => String::new(),
            step => format!(", from step {} on", count(step)),
        };
        let mut parts = Vec::new();
        if let Some(budget) = &quantize.budget {
            let under: u64 = self.budgeted().map(LayerRule::weights).sum();
            parts.push(format!("{} weights in {}", count(under), under_budget(budget)));
        }
        if weights > 0 {
            let each = bits / weights as f64;
            parts.push(format!("{} weights in {each:.3} bits each, scales counted", count(weights)));
        }
        parts.push(format!("{how}{start}"));
        parts.join("; ")
    }

    /// The layers whose schemes a budget chooses.
    fn budgeted(&self) -> impl Iterator<Item = &LayerRule> {
        let all = self.survey.iter().flat_map(|s| &s.rules.layers);
        all.filter(|rule| rule.quant.as_ref().is_some_and(QuantizeRule::budgeted))
    }

    fn training(&self, train: &TrainSpec) -> String {
        let context = self.recipe.data.context;
        let (steps, each) = (train.steps(context), train.tokens_per_step(context));
        format!(
            "{} tokens in {} steps of {} (batch {} × accumulate {} × context {context}); rate {:?}, warm-up {}",
            count(steps * each),
            count(steps),
            count(each),
            train.batch,
            train.accumulate,
            train.lr,
            count(train.warmup_steps(context)),
        )
    }

    fn blocks(&self, spec: &BlockwiseSpec) -> String {
        let context = self.recipe.data.context;
        format!(
            "each block on {} tokens in {} steps (batch {} × context {context}); rate {:?}",
            count(spec.tokens(context)),
            count(spec.steps()),
            spec.batch,
            spec.lr,
        )
    }

    fn layers(&self) -> usize {
        self.survey.map_or(0, |s| s.rules.pruned().count())
    }

    fn json(&self) -> Value {
        let recipe = self.recipe;
        let context = recipe.data.context;
        let layer = |rule: &LayerRule| {
            let group = rule.group.map(|group| group.index);
            let pruned = matches!(rule.prune, PruneRule::Pruned { .. });
            let scheme = rule
                .quant
                .as_ref()
                .map(|quant| json!({ "scheme": quant.scheme, "by": quant.by, "bits": quant.bits }));
            json!({ "path": rule.path, "shape": rule.shape, "pruned": pruned, "rule": rule.prune.to_string(), "quantized": scheme, "group": group })
        };
        let training = recipe.train.as_ref().map(|train| {
            let (steps, each) = (train.steps(context), train.tokens_per_step(context));
            json!({
                "steps": steps,
                "tokens_per_step": each,
                "tokens": steps * each,
                "warmup_steps": train.warmup_steps(context),
                "lr": train.lr,
            })
        });
        let known = self.survey.is_some();
        json!({
            "name": recipe.name,
            "fingerprint": recipe.fingerprint(),
            "seed": recipe.seed,
            "out": recipe.out,
            "model": self.model(),
            "parameters": known.then_some(self.parameters),
            "pattern": recipe.prune.as_ref().map(|p| p.pattern.to_string()),
            "pruned_layers": known.then_some(self.layers()),
            "pruned_parameters": known.then_some(self.pruned),
            "zeros": known.then_some(self.zeros),
            "training": training,
            "bytes": self.sizes().map(
                |sizes| json!({ "bf16": sizes.bf16, "packed": sizes.packed, "sparse24": sizes.sparse }),
            ),
            "order": order(recipe),
            "arms": self.arms(),
            "memory_bytes_at_least": self.whole().map(|plan| plan.state),
            "memory_bytes_planned": self.peak(),
            "memory_bytes_available": probe::available(),
            "disk_bytes_at_most": self.disk().map(|plan| plan.most),
            "disk_bytes_left": self.disk().map(|plan| plan.left),
            "disk_bytes_available": probe::free(&recipe.out),
            "time": self.work().zip(self.speed).map(|(work, speed)| json!({
                "seconds": probe::seconds(&work, speed),
                "operations": { "training": work.training, "compressing": work.compressing, "measuring": work.measuring },
                "operations_per_second": speed,
            })),
            "layers": self.survey.map(|s| s.rules.layers.iter().map(layer).collect::<Vec<_>>()),
        })
    }
}

/// `138.0 GB in bf16 → 69.5 GB packed (-49.6 %) → 43.8 GB with 2:4 packed (-36.9 %)`: each beside the one before.
fn size(sizes: &Sizes) -> String {
    let forms = [(sizes.packed, "packed"), (sizes.sparse, "with 2:4 packed")];
    let mut text = format!("{} in bf16", bytes(sizes.bf16));
    let mut before = sizes.bf16;
    for (form, what) in forms {
        let Some(form) = form else { continue };
        let change = 100. * (form as f64 / before as f64 - 1.);
        text += &format!(" → {} {what} ({change:+.1} %)", bytes(form));
        before = form;
    }
    text
}

fn memory(recipe: &Recipe, plan: &WholePlan) -> String {
    let WholePlan { peak, stage, state, window } = plan;
    let step = recipe.train.as_ref().map(|train| {
        let held = if recipe.distill.is_some() { ", moments and teacher" } else { " and moments" };
        format!(
            "; weights, gradients{held} are {}, each of the {} windows of a step about {}",
            bytes(*state),
            train.batch,
            bytes(*window)
        )
    });
    format!("about {} while {stage}{}", bytes(*peak), step.unwrap_or_default())
}

fn disk(plan: &DiskPlan, free: Option<u64>) -> String {
    let DiskPlan { most, left, spare } = plan;
    let there = match free {
        Some(free) if free < *most => {
            format!("; {} are free: that is NOT enough; give --out on another disk", bytes(free))
        }
        Some(free) => format!("; {} are free", bytes(free)),
        None => String::new(),
    };
    format!(
        "about {} at the most, {} when it is done, of which {} are checkpoints and records of stages{there}",
        bytes(*most),
        bytes(*left),
        bytes(*spare)
    )
}

/// The words of an option, as `Percentile(99.9)` has them, in small letters.
fn words(option: &impl std::fmt::Debug) -> String {
    format!("{option:?}").to_lowercase().replace('(', " ").replace(')', "")
}
