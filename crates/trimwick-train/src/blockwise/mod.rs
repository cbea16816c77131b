//! Recovery block after block: each decoder block is trained against the outputs of its dense twin, with one block in
//! memory.
//!
//! Two streams of hidden states go through the model side by side, both starting at the embedding of the same windows
//! of text: the dense stream x through the dense blocks, the compressed stream x̂ through those that were compressed and
//! trained. Of block i,
//!
//! ```text
//! xᵢ₊₁ = denseᵢ(xᵢ)                            computed before the block is compressed: one copy of it is enough
//! loss = mean over tokens of ‖blockᵢ(x̂ᵢ) − xᵢ₊₁‖² / ‖xᵢ₊₁‖²
//! x̂ᵢ₊₁ = blockᵢ(x̂ᵢ)                            after training
//! ```
//!
//! so that each block also makes up for what the ones before it lost, as in BRECQ (Li et al., arXiv 2102.05426) and
//! its successors for language models. Masks and fake-quantizers act inside the block's forward pass, as in any other
//! training.
//!
//! [`Blockwise`] is the walk. It knows nothing of pruning or quantization and of files: what happens to a block, and
//! where it is kept, is [`BlockSteps`]. A walk that was stopped continues at the first block that is not finished: the
//! streams are computed anew through the finished ones, so that it ends with the bytes of a walk that was left alone.
//! [`States`] hold the streams in memory up to a limit and in files past it. [`evaluate_streamed`] scores a model that
//! never is in memory as a whole.

mod evaluate;
mod fit;
mod states;
mod walk;

pub use evaluate::evaluate_streamed;
pub use fit::{BlockInputs, BlockTraining, Parts};
pub use states::{Spill, States};
pub use walk::{BlockEvent, BlockReport, BlockSteps, Blockwise, Streams};
