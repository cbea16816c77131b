//! What a run that holds the whole model needs of memory, and any run of disk: from shapes alone.

use trimwick_models::LlamaConfig;
use trimwick_train::{MemoryPlan, Moments};

use super::plan::Sizes;
use crate::{ExportDtype, LayerRule, LayerRules, PruneRule, Recipe, Storage, Teacher};

/// Bytes of an f32.
const F32: u64 = 4;

/// The memory of a run with the whole model in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholePlan {
    /// Bytes at the peak, about, without the program itself.
    pub peak: u64,
    /// What is done then.
    pub stage: &'static str,
    /// Bytes of weights, gradients, AdamW's two moments and the teacher: what training cannot do without.
    pub state: u64,
    /// Bytes that a training step of one window adds: activations, logits.
    pub window: u64,
}

/// Plans the memory of a run without `model.stream`.
pub fn whole_plan(recipe: &Recipe, config: &LlamaConfig, rules: &LayerRules) -> WholePlan {
    let sizes = Sizes::of(recipe, config);
    let weights = F32 * config.num_parameters();
    let beside = |stage: u64| if stage == 0 { 0 } else { weights + stage - sizes.block };
    let (state, window, copies) =
        (state(recipe, config), window(recipe, config), copies(recipe, config, rules));
    let batch = recipe.train.as_ref().map_or(0, |train| train.batch as u64);
    let training = if batch > 0 { state + copies + batch * window } else { 0 };
    // What is written of the moments is a copy, beside freed copies of weights that the allocator keeps.
    let moments = recipe.train.as_ref().filter(|_| recipe.lora.is_none());
    let moments = moments.map_or(0, |train| config.num_parameters() * moments_of(train.engine.moments));
    let saving = if batch > 0 { state + copies + moments } else { 0 };
    let stages = [
        ("reading the model", weights),
        ("pruning", beside(sizes.pruning(recipe))),
        ("running passes", beside(sizes.passing(recipe))),
        ("training block by block", beside(sizes.training(recipe))),
        ("training", training),
        ("saving a checkpoint", saving),
        // A window's logits, and their softmax.
        ("measuring", weights + quantized(rules) * F32 + 2 * logits(recipe, config)),
    ];
    let (stage, peak) = stages.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
    WholePlan { peak, stage, state, window }
}

fn state(recipe: &Recipe, config: &LlamaConfig) -> u64 {
    // Adapters are counted as nothing; what they stand on is frozen.
    let train = recipe.train.as_ref().filter(|_| recipe.lora.is_none());
    let engine = train.map(|train| &train.engine);
    // With the lean plan gradients are those of a block.
    let gradients = engine.map_or(0, |e| if e.memory == MemoryPlan::Lean { 0 } else { F32 });
    let teacher = recipe.distill.as_ref();
    let teacher = teacher.map_or(0, |distill| if distill.storage == Storage::F32 { F32 } else { 2 });
    config.num_parameters() * (F32 + gradients + engine.map_or(0, |e| moments_of(e.moments)) + teacher)
}

/// Bytes of both moments of a parameter.
fn moments_of(moments: Moments) -> u64 {
    if moments == Moments::F32 { 2 * F32 } else { 2 }
}

fn logits(recipe: &Recipe, config: &LlamaConfig) -> u64 {
    F32 * recipe.data.context as u64 * config.vocab_size as u64
}

/// What a step keeps of a window: the activations of every block, or the outputs of all and the activations of one; logits. A token
/// leaves in a block its residual and two normalized inputs, queries and what attention gives, keys and values, gate, up
/// and their product. The loss takes logits in pieces: 1.4 times their bytes, as measured.
fn window(recipe: &Recipe, config: &LlamaConfig) -> u64 {
    let (blocks, hidden) = (config.num_layers as u64, config.hidden_size as u64);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let block = 3 * hidden + (2 * q + 2 * kv + 3 * config.intermediate_size) as u64;
    let none = recipe.train.as_ref().is_none_or(|train| train.engine.memory == MemoryPlan::None);
    let floats = if none { blocks * block } else { blocks * hidden + block };
    F32 * recipe.data.context as u64 * floats + logits(recipe, config) * 7 / 5
}

/// Masked and quantized weights beside the stored ones: those of all blocks, or of one at a time.
fn copies(recipe: &Recipe, config: &LlamaConfig, rules: &LayerRules) -> u64 {
    let all = F32 * (pruned(rules) + quantized(rules));
    match recipe.train.as_ref().map(|train| train.engine.memory) {
        Some(MemoryPlan::None) => all,
        _ => all / config.num_layers.max(1) as u64,
    }
}

fn sum(rules: &LayerRules, of: impl Fn(&&LayerRule) -> bool) -> u64 {
    rules.layers.iter().filter(of).map(LayerRule::weights).sum()
}

fn pruned(rules: &LayerRules) -> u64 {
    sum(rules, |rule| matches!(rule.prune, PruneRule::Pruned { .. }))
}

fn quantized(rules: &LayerRules) -> u64 {
    sum(rules, |rule| rule.quant.is_some())
}

/// What a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPlan {
    /// Bytes at the most, about: while a third checkpoint is written beside two.
    pub most: u64,
    /// Bytes that are left when it is done, checkpoints counted.
    pub left: u64,
    /// Bytes of these that are checkpoints and records of stages, which nobody needs once the run is done.
    pub spare: u64,
}

/// Plans what a run writes into its folder.
pub fn disk_plan(recipe: &Recipe, config: &LlamaConfig, rules: &LayerRules) -> DiskPlan {
    let parameters = config.num_parameters();
    let weights = F32 * parameters;
    let bytes = if recipe.export.dtype == ExportDtype::F32 { F32 } else { 2 };
    let sizes = rules.sizes(parameters);
    let packed = sizes.sparse.or(sizes.packed).unwrap_or(sizes.bf16);
    let model = bytes * parameters + pruned(rules) / 8 + recipe.export.targets.len() as u64 * packed;
    let passes =
        recipe.quantize.as_ref().is_some_and(|spec| !spec.passes.is_empty() || recipe.train.is_none());
    let tuned = recipe.distill.as_ref().is_some_and(|distill| distill.teacher == Teacher::DenseTuned);
    let snapshots = [recipe.prune.is_some() && !recipe.stream, passes && !recipe.stream, tuned];
    let snapshots = snapshots.iter().filter(|there| **there).count() as u64;
    let blocks = if recipe.stream || recipe.blockwise.is_some() { weights } else { 0 };
    let stages = snapshots * weights + blocks;
    let checkpoint = match (&recipe.train, &recipe.lora) {
        (Some(train), None) => parameters * (F32 + moments_of(train.engine.moments)),
        // What adapters stand on is saved with them.
        (Some(_), Some(_)) => weights,
        (None, _) => 0,
    };
    let saves =
        recipe.train.as_ref().map_or(0, |train| train.steps(recipe.data.context).div_ceil(train.save_every));
    let spare = stages + saves.min(2) * checkpoint;
    DiskPlan { most: model + stages + saves.min(3) * checkpoint, left: model + spare, spare }
}
