//! TOML recipes: parsed, checked whole, run as resumable stages, reported.
//!
//! A recipe is the whole of a run: which model, which text, what is pruned, how it is trained, what it is compared with.
//! It is checked before a byte of the model is read, because a mistake found after an hour costs an hour. So
//! [`Recipe::load`] reports **every** fault at once, each as one line with the file, the line, the key, what was expected,
//! what was found and what to do:
//!
//! ```text
//! my.toml:14: train.warmpu: unknown key; did you mean `train.warmup`?
//! my.toml:15: train.lr: expected a number above 0 up to 1, found nan; write for example lr = 1e-4
//! override prune.decay=1: prune.decay: has no effect: schedule "one-shot" gives masked weights no gradient; remove it, …
//! ```
//!
//! That is why the text is not deserialized with serde, which stops at the first fault and has lost the lines by then.
//! The way has four steps:
//!
//! 1. `raw` turns TOML into a tree whose values know their lines, and `overrides` puts the command line's `key=value`
//!    over it, each of which knows that it came from there.
//! 2. Each section declares its keys once: name, rule, default, example, purpose. The declaration reads the value, words
//!    its faults, suggests the key to who mistypes it (also from another section, and under the names other tools
//!    use), and prints [`reference()`].
//! 3. `checked` holds the plain structs that a sound recipe becomes, one file per section, with every default filled in. A
//!    key that is accepted changes something: one that another key makes meaningless is a fault, so that nobody tunes
//!    a number that nothing reads. What one section asks of another is checked last, on sound values only, so that one
//!    mistake is one fault.
//! 4. [`Recipe::check_files`] looks at the files that are named, [`Recipe::check_layers`] at the model's layers, known from
//!    its config alone: a pattern that matches none, a shape that N:M cannot take.
//!
//! [`Recipe::resolve`] writes the recipe back as canonical TOML; reading that gives the same recipe, and its
//! [`Recipe::fingerprint`] tells whether two runs are the same work.
//!
//! A new section is one file in `checked` and a line in `recipe.rs`.

#![forbid(unsafe_code)]

mod checked;
mod error;
mod files;
mod overrides;
mod raw;
mod recipe;
mod reference;
mod resolve;
mod rules;
pub mod run;
mod shapes;
mod shapes_quantize;
mod shapes_targets;
mod sizes;
mod trainable;

pub use checked::blockwise::{BlockInputs, BlockParts, BlockwiseSpec};
pub use checked::budget::{BudgetLimit, BudgetSpec, Score};
pub use checked::calibration::CalibrationSpec;
pub use checked::chat::{CHAT_TEMPLATES, ChatLoss, ChatSpec, TemplateSource};
pub use checked::compare::{Arm, CompareSpec};
pub use checked::data::{BUILTIN_TEXTS, DataSpec, MixedText, TextSource};
pub use checked::distill::{DistillSpec, Storage, Teacher};
pub use checked::engine::EngineSpec;
pub use checked::export::{ExportDtype, ExportSpec, ExportTarget};
pub use checked::file_set::{FileSet, TextFormat};
pub use checked::groups::ParameterGroup;
pub use checked::kv::KvGrid;
pub use checked::lora::{Base, LoraSpec};
pub use checked::model::{BUILTIN_MODELS, ModelSource, ModelSpec};
pub use checked::pass_spec::{GptqOrder, GptqScales, GptqSolver, GptqSpec, PassSpec, SmoothAlpha};
pub use checked::pattern::Pattern;
pub use checked::pretrain::{PretrainSpec, TokenizerSpec};
pub use checked::prune::{PruneMethod, PruneSchedule, PruneSpec};
pub use checked::quantize_rules::{QuantRule, Wanted};
pub use checked::quantize_spec::QuantizeSpec;
pub use checked::train::{LrSchedule, TrainLength, TrainSpec};
pub use checked::warmup::Warmup;
pub use error::{Fault, FaultKind, Faults, Hint, Place};
pub use recipe::Recipe;
pub use reference::{keys, reference};
pub use rules::{GroupRule, LayerRule, LayerRules, PruneRule, QuantizeRule};
pub use shapes::{LayerKind, LayerShape};
pub use sizes::Sizes;
