//! The training loop: optimizer, schedules, data, distillation, checkpoints that resume bit for bit.
//!
//! [`Trainer`] is the loop, written to be read from top to bottom. It knows nothing of masks or quantizers: those act
//! inside the model's forward pass, and what they do between steps is a [`StepHook`]. Around it stand parts that work
//! alone in a loop of your own: [`AdamW`], [`Gradients`], [`Schedule`], [`Windows`], [`Distillation`], [`evaluate()`].
//!
//! [`blockwise`] is another loop: it trains a model block after block, with one block in memory. [`tasks`] asks a model
//! multiple-choice questions.
//!
//! Three rules shape the crate.
//!
//! **A run that was stopped gives the same bytes as one that was not.** Whatever the rest of a run depends on is in
//! [`TrainState`], one struct, taken apart field by field where it is saved and where it is restored, so that a new
//! field that is forgotten does not compile. Nothing else remembers: random numbers are functions of (seed, step,
//! name), the order of the data is a keyed permutation that is computed position by position, sums run in the order
//! of names, and the metrics file is part of the checkpoint. Saving goes by the protocol of
//! [`trimwick_formats::checkpoint`]; continuing takes the newest checkpoint that verifies.
//!
//! **Nothing is lost in silence.** Candle drops gradients without an error when an operation has no backward, and the
//! loss falls all the same. Here a trainable parameter without a gradient ends the run with its name. So do a
//! trainable parameter that the optimizer was not given, a group pattern that governs nothing, a NaN, and a checkpoint
//! of other settings. All of them do so before a weight has changed, but for a NaN in the gradient of a
//! [lean](MemoryPlan::Lean) step, which says so.
//!
//! **A mask holds.** A parameter may carry a kept set ([`trimwick_nn::Param::keep`]): after each update the optimizer
//! sets what it drops to +0.0, in the weight and in both of its moments, so that momentum cannot bring a pruned weight
//! back.

#![forbid(unsafe_code)]

mod base;
pub mod blockwise;
mod check;
mod checkpoint;
mod data;
mod distill;
mod error;
mod evaluate;
mod gradients;
mod guards;
mod hooks;
mod host;
mod lean;
pub mod lora;
mod metrics;
mod moments;
mod optim;
mod plan;
mod schedule;
mod state;
mod step;
pub mod tasks;
mod trainer;
mod walk;

pub use base::compact_weights;
pub use data::{
    Batch, ChatCounts, ChatOptions, ChatSource, Conversation, Cursor, Encode, Order, Overflow, Render, Role,
    TextFormat, TextSource, Tokens, Turn, Windows,
};
pub use distill::{DistillConfig, Distillation, Loss, loss};
pub use error::{BoxError, Error, Result};
pub use evaluate::{EvaluateOptions, Evaluation, evaluate, evaluate_losses, evaluate_until, infer};
pub use gradients::Gradients;
pub use guards::{GuardRecord, Guards, NonFinite};
pub use hooks::StepHook;
pub use metrics::{StepRecord, ValidationRecord};
pub use moments::Moments;
pub use optim::{AdamW, AdamWConfig, ParamGroup};
pub use plan::{Data, Plan};
pub use schedule::{Decay, Schedule, Warmup};
pub use state::{Best, Position, SavedRole, TrainState};
pub use trainer::{Outcome, Progress, StepReport, TrainConfig, Trainer, Validation};
pub use walk::MemoryPlan;
