//! Multiple choice by log-likelihood: which of several continuations of a text a model finds likeliest.
//!
//! The way runs in one direction: a file in a [`Layout`] becomes a [`Task`] of [`Item`]s; [`Task::encode`] makes token
//! ids of it; [`measure`] has a [`Scorer`] give each choice its log-likelihood, and counts; [`mcnemar`] and
//! [`paired_mean`] say whether two models differ on the same questions or the same windows of text.
//!
//! Prompts, the split between context and choice, and both accuracies are those of lm-evaluation-harness (EleutherAI)
//! without examples in the prompt, so that figures can stand beside published ones. A choice follows its context
//! behind a space. A model's answer is the choice with the highest sum of log-likelihoods (`acc`), or with the highest
//! sum divided by the choice's characters (`acc_norm`; characters without the space, as the harness divides, whose
//! documentation says bytes). The first of equals wins. Special tokens are not added; only an empty context becomes the
//! token that begins a text, or else ends one.
//!
//! ```no_run
//! use candle_core::Device;
//! use trimwick_train::tasks::{Dense, Encoder, Layout, Task, measure};
//! # fn load() -> Box<dyn trimwick_nn::CausalLm> { unimplemented!() }
//! # let encode = |_: &str| Ok(Vec::new());
//! let task = Task::read(Layout::Arc, "ARC-Easy-Test.jsonl".as_ref(), Some(100))?;
//! let questions = task.encode(&Encoder { encode: &encode, prefix: Some(0), vocab: 4096, window: 1024 })?;
//! let model = load();
//! let mut scorer = Dense::new(&*model, &Device::Cpu);
//! let score = measure(&task, &questions, &mut scorer, &mut |_, _| {})?;
//! println!("{:.4} of {} right", score.acc, score.items);
//! # Ok::<(), trimwick_train::Error>(())
//! ```

mod arc;
mod choice;
mod encode;
mod hellaswag;
mod item;
mod json;
mod layout;
mod measure;
mod mmlu;
mod paired;
mod piqa;
mod samples;
mod score;

pub use encode::{Encoder, Question, Request};
pub use item::{Item, Task};
pub use layout::Layout;
pub use measure::{Answer, TaskScore, measure};
pub use paired::{McNemar, PairedMean, mcnemar, paired_mean};
pub use score::{Dense, Scorer};
