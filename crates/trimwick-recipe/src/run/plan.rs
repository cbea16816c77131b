//! What a streamed run needs of memory, from shapes alone; and the parts that any run is made of.

use trimwick_models::LlamaConfig;

use super::blockwise::spill_limit;
use crate::{BlockParts, PassSpec, PruneMethod, Recipe};

/// Bytes of an f32.
const F32: u64 = 4;

/// The most memory that a streamed run takes, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamedPlan {
    /// Bytes at the peak, without the program itself and what its allocator keeps.
    pub peak: u64,
    /// What is done then.
    pub stage: &'static str,
    /// Bytes of a block's weights in f32.
    pub block: u64,
    /// Bytes of hidden states at their most; what exceeds the recipe's limit is in files.
    pub states: u64,
}

/// Plans the memory of a run with `model.stream = true`.
pub fn streamed_plan(recipe: &Recipe, config: &LlamaConfig) -> StreamedPlan {
    let sizes = Sizes::of(recipe, config);
    let stages = [
        ("reading the embedding", 2 * sizes.end),
        ("pruning a block", sizes.pruning(recipe)),
        ("running passes over a block", sizes.passing(recipe)),
        ("training a block", sizes.training(recipe)),
        ("keeping a block", 2 * sizes.block + sizes.held(4)),
        ("measuring", sizes.measuring(recipe)),
        ("writing the model", (3 * sizes.end).max(2 * sizes.block + 2 * sizes.largest)),
    ];
    let (stage, peak) = stages.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
    StreamedPlan { peak: peak + sizes.rotary, stage, block: sizes.block, states: 4 * sizes.stream }
}

/// Bytes of the parts of a model.
pub(super) struct Sizes {
    /// The weights of a block.
    pub(super) block: u64,
    /// Those of its linear layers.
    linear: u64,
    /// Those of its MLP.
    mlp: u64,
    /// Its largest weight.
    largest: u64,
    /// Channels of what its linear layers read: q, k and v one input, gate and up another.
    inputs: [u64; 4],
    /// The embedding; the head is as large.
    end: u64,
    rotary: u64,
    /// What a window's forward pass through a block leaves for the backward pass.
    window: u64,
    /// The hidden states of all windows at one place.
    stream: u64,
    /// The hidden states that stay in memory.
    limit: u64,
}

impl Sizes {
    pub(super) fn of(recipe: &Recipe, config: &LlamaConfig) -> Self {
        let tensors = config.tensors();
        let inside = tensors.iter().filter(|(name, _)| name.starts_with("model.layers.0."));
        let shapes: Vec<Vec<u64>> = inside.map(|(_, s)| s.iter().map(|&n| n as u64).collect()).collect();
        let bytes = |shape: &Vec<u64>| F32 * shape.iter().product::<u64>();
        let linear = || shapes.iter().filter(|shape| shape.len() == 2);
        let (hidden, wide) = (config.hidden_size as u64, config.intermediate_size as u64);
        let q = (config.num_heads * config.head_dim) as u64;
        let kv = (config.num_kv_heads * config.head_dim) as u64;
        let context = recipe.data.context as u64;
        let calibrated = recipe.calibration.as_ref().map_or(0, |spec| spec.windows);
        let windows = recipe.blockwise.as_ref().map_or(0, |spec| spec.windows).max(calibrated) as u64;
        Self {
            block: shapes.iter().map(bytes).sum(),
            linear: linear().map(bytes).sum(),
            mlp: 3 * F32 * hidden * wide,
            largest: shapes.iter().map(bytes).max().unwrap_or(0),
            inputs: [hidden, q, hidden, wide],
            end: F32 * config.vocab_size as u64 * hidden,
            rotary: F32 * context * config.head_dim as u64,
            window: F32 * context * (8 * hidden + 3 * q + 4 * kv + 3 * wide),
            stream: F32 * windows * context * hidden,
            // A model as a whole has its hidden states in memory.
            limit: if recipe.stream { spill_limit(recipe) } else { u64::MAX },
        }
    }

    /// So many streams, as far as they stay in memory.
    fn held(&self, streams: u64) -> u64 {
        (streams * self.stream).min(self.limit)
    }

    pub(super) fn pruning(&self, recipe: &Recipe) -> u64 {
        let Some(spec) = &recipe.prune else { return 0 };
        let squares = || self.inputs.iter().map(|n| n * n);
        match spec.method {
            // The sums over the layers' inputs; of one layer two matrices of f64 while its Hessian is inverted beside
            // its weight before and after, or one and the weight in f64 while columns are pruned.
            PruneMethod::SparseGpt { .. } => {
                let square = 2 * F32 * squares().max().unwrap_or(0);
                let layer = (2 * square + 2 * self.largest).max(square + 4 * self.largest);
                self.block + F32 * squares().sum::<u64>() + layer + self.held(3)
            }
            PruneMethod::Wanda | PruneMethod::Magnitude => self.block + 4 * self.largest + self.held(3),
        }
    }

    /// The block and its weights on the grid; sampled inputs of its layers; sums over inputs and the solver's copies where a
    /// pass solves, else copies of a group of layers that share an input, with outputs.
    pub(super) fn passing(&self, recipe: &Recipe) -> u64 {
        let Some(spec) = recipe.quantize.as_ref().filter(|spec| !spec.passes.is_empty()) else { return 0 };
        let seen = recipe.calibration.as_ref().map_or(0, |c| c.windows * recipe.data.context);
        let tokens = F32 * spec.pass_tokens.min(seen) as u64;
        let squares = || self.inputs.iter().map(|n| n * n);
        let hessian = 4 * 2 * F32 * squares().max().unwrap_or(0);
        let solves = spec.passes.iter().any(|pass| matches!(pass, PassSpec::Gptq(_)));
        let solving = if solves { F32 * squares().sum::<u64>() + 5 * self.largest + hessian } else { 0 };
        let widest = self.inputs.iter().max().copied().unwrap_or(0);
        let trying = 6 * self.largest + 6 * tokens * widest;
        let sampled = tokens * self.inputs.iter().sum::<u64>();
        self.block + self.linear + sampled + solving.max(trying) + self.held(3)
    }

    /// The block; gradients, two moments, and masked and quantized copies, of what is trained at a time; activations of
    /// a step.
    pub(super) fn training(&self, recipe: &Recipe) -> u64 {
        let Some(spec) = &recipe.blockwise else { return 0 };
        let copies = u64::from(recipe.prune.is_some()) + u64::from(recipe.quantize.is_some());
        let (streams, trained) = match spec.parts {
            BlockParts::Block => (3, self.block),
            BlockParts::Split => (5, self.mlp.max(self.block - self.mlp)),
        };
        let activations = spec.batch as u64 * self.window;
        self.block + (3 + copies) * trained + activations + self.largest + self.held(streams)
    }

    /// The head, its weight twice while it is read; or a block and its copies on a grid.
    fn measuring(&self, recipe: &Recipe) -> u64 {
        let copies = u64::from(recipe.quantize.is_some());
        (2 * self.end).max(self.block + copies * self.linear + self.largest + self.window)
    }
}
