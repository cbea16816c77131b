//! What a run tells while it goes on.

use trimwick_train::Progress;

use super::summary::Arm;

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Training a tokenizer.
    Tokenizer,
    /// Reading the texts into token ids.
    Data,
    /// Pruning the model of an arm.
    Prune(&'a str),
    /// Choosing a scheme for each layer.
    Choose,
    /// A one-shot pass, by its name in the recipe.
    Pass(&'a str),
    /// Quantizing the model of an arm.
    Quantize(&'a str),
    /// Going through the model of an arm block after block.
    Blocks(&'a str),
    /// Training the model of an arm.
    Train(&'a str),
    /// Scoring an arm on the held-out text.
    Evaluate(&'a str),
    /// Writing the model and proving what was written.
    Export,
}

/// Something that happened.
pub enum Event<'a> {
    /// A stage begins.
    Begin(Stage<'a>),
    /// A stage was done in an earlier run of the same recipe.
    Skipped(Stage<'a>),
    /// Part `done` of `total` of the stage is done; the loss so far where there is one.
    Part {
        /// Parts done.
        done: usize,
        /// Parts in all.
        total: usize,
        /// Mean loss so far, in nats per token.
        loss: Option<f64>,
    },
    /// Training goes on.
    Training(Progress<'a>),
    /// An arm was measured.
    Measured(&'a Arm),
    /// A fact worth a line.
    Note(String),
}

/// Takes a run's events.
pub type Report<'r> = &'r mut dyn FnMut(Event<'_>);
