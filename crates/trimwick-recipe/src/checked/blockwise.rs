//! `[blockwise]`: each decoder block trained against its dense twin, before any training end to end.

use serde::Serialize;

use super::warmup::{Warmup, WarmupRule};
use crate::raw::{Choice, Count, Key, Number, Section, SectionSpec};
use crate::resolve::{ToToml, Writer};

static WINDOWS: Key<Count> = Key::default(
    "windows",
    Count { min: 1, max: 1 << 20 },
    "128",
    "Windows of data.context tokens, drawn from data.train as those of [calibration] are.",
)
.known_as(&["samples", "nsamples", "num_samples"]);
static EPOCHS: Key<Count> =
    Key::default("epochs", Count { min: 1, max: 1 << 20 }, "2", "Times that each block visits every window.")
        .known_as(&["num_epochs"]);
static BATCH: Key<Count> =
    Key::default("batch", Count { min: 1, max: 1 << 16 }, "4", "Windows in a step of the optimizer.")
        .known_as(&["batch_size"]);
static LR: Key<Number> = Key::default(
    "lr",
    Number::above(0.0).up_to(1.0),
    "1e-4",
    "The highest learning rate, after warmup; half a cosine to 0 follows, in each block anew.",
)
.known_as(&["learning_rate", "max_lr", "peak_lr"]);
static WARMUP: Key<WarmupRule> = Key::default(
    "warmup",
    WarmupRule,
    "0.05",
    "The learning rate climbs from 0 over this fraction (0.05) or number (10) of a block's steps.",
)
.known_as(&["warmup_steps", "warmup_ratio"]);
static CLIP: Key<Number> = Key::default(
    "clip",
    Number::from(0.0),
    "1.0",
    "The gradient of a block is scaled down to this norm; 0 never does.",
)
.known_as(&["grad_clip", "clip_norm", "max_grad_norm", "max_norm"]);
static PARTS: Key<Choice<BlockParts>> = Key::default(
    "parts",
    Choice(&[("block", BlockParts::Block), ("split", BlockParts::Split)]),
    "\"block\"",
    "Train the block as a whole, or its attention first and then its MLP, each against its twin.",
);
static INPUTS: Key<Choice<BlockInputs>> = Key::default(
    "inputs",
    Choice(&[("compressed", BlockInputs::Compressed), ("dense", BlockInputs::Dense)]),
    "\"compressed\"",
    "What a block learns on: the outputs of the compressed blocks before it, or of the dense ones.",
);
static SPILL: Key<Count> = Key::default(
    "spill_mib",
    Count { min: 0, max: 1 << 30 },
    "1024",
    "Hidden states above so many MiB are kept in files in the run's folder; the result is the same.",
)
.known_as(&["spill", "spill_limit", "memory_mib"]);

/// The declaration of `[blockwise]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[&WINDOWS, &EPOCHS, &BATCH, &LR, &WARMUP, &CLIP, &PARTS, &INPUTS, &SPILL],
    foreign: &[],
};

/// How each block is trained against its dense twin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockwiseSpec {
    /// Windows of `data.context` tokens from `data.train`, at least 1.
    pub windows: usize,
    /// Times that each block visits every window, at least 1.
    pub epochs: u64,
    /// Windows in a step of the optimizer, at least 1.
    pub batch: usize,
    /// The highest learning rate, in (0, 1].
    pub lr: f64,
    /// How long the learning rate climbs in each block.
    pub warmup: Warmup,
    /// The largest norm of a block's gradient, above 0; no clipping where there is none.
    pub clip: Option<f64>,
    /// What is trained at a time.
    pub parts: BlockParts,
    /// What a block learns on.
    pub inputs: BlockInputs,
    /// MiB of hidden states that stay in memory.
    pub spill_mib: u64,
}

/// What is trained at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockParts {
    /// The whole block.
    Block,
    /// Attention, then the MLP.
    Split,
}

/// What a block learns on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockInputs {
    /// Outputs of the compressed blocks before it.
    Compressed,
    /// Outputs of the dense blocks before it.
    Dense,
}

impl ToToml for BlockParts {
    fn to_toml(&self) -> String {
        match self {
            BlockParts::Block => "block".to_toml(),
            BlockParts::Split => "split".to_toml(),
        }
    }
}

impl ToToml for BlockInputs {
    fn to_toml(&self) -> String {
        match self {
            BlockInputs::Compressed => "compressed".to_toml(),
            BlockInputs::Dense => "dense".to_toml(),
        }
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<BlockwiseSpec> {
    let windows = section.get(&WINDOWS);
    let epochs = section.get(&EPOCHS);
    let batch = section.get(&BATCH);
    let lr = section.get(&LR);
    let warmup = section.get(&WARMUP);
    let clip = section.get(&CLIP);
    let parts = section.get(&PARTS);
    let inputs = section.get(&INPUTS);
    let spill_mib = section.get(&SPILL);
    section.finish();
    Some(BlockwiseSpec {
        windows: windows? as usize,
        epochs: epochs?,
        batch: batch? as usize,
        lr: lr?,
        warmup: warmup?,
        clip: Some(clip?).filter(|&norm| norm > 0.0),
        parts: parts?,
        inputs: inputs?,
        spill_mib: spill_mib?,
    })
}

impl BlockwiseSpec {
    /// Steps of the optimizer in each part of a block, at least 1.
    pub fn steps(&self) -> u64 {
        (self.epochs * self.windows as u64).div_ceil(self.batch as u64)
    }

    /// Tokens that each block is trained on.
    pub fn tokens(&self, context: usize) -> u64 {
        self.epochs * self.windows as u64 * context as u64
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("blockwise");
        out.put(&WINDOWS, self.windows);
        out.put(&EPOCHS, self.epochs);
        out.put(&BATCH, self.batch);
        out.put(&LR, self.lr);
        out.put(&WARMUP, self.warmup);
        out.put(&CLIP, self.clip.unwrap_or(0.0));
        out.put(&PARTS, self.parts);
        out.put(&INPUTS, self.inputs);
        out.put(&SPILL, self.spill_mib);
    }
}
