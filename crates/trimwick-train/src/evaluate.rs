//! Loss and perplexity of a language model on windows of text.

use candle_core::{Device, Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_nn::{CausalLm, ops};

use crate::data::{Batch, Windows};
use crate::distill::IGNORE;
use crate::{Error, Result};

/// What to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvaluateOptions {
    /// Only the first so many tokens of the windows.
    pub limit: Option<usize>,
    /// Also score the tokens after the last whole window, when there are at least two.
    pub partial: bool,
}

/// The outcome of [`evaluate`]. A perplexity means nothing without its context length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Mean negative log-likelihood in nats per scored token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Tokens of a window: the model never sees more of the past.
    pub context: usize,
    /// Tokens in the windows.
    pub tokens: usize,
    /// Tokens scored: all but the first of each window.
    pub scored: usize,
    /// Mean loss of each window, in order.
    pub window_losses: Vec<f64>,
}

/// Scores tokens 2 to `context` of each window, one window at a time, so that the result does not depend on a batch
/// size. `progress` is told (windows done, windows in all, mean loss so far).
///
/// Dropout must be off: `store.clock().set_training(false)`, which is how a store starts.
///
/// # Errors
/// [`Error::TooShort`] when there is nothing to score, [`Error::Broken`] when a window's loss is not finite, a
/// context or a token id that the model does not take.
pub fn evaluate(
    model: &dyn CausalLm,
    device: &Device,
    windows: &Windows,
    options: EvaluateOptions,
    progress: &mut dyn FnMut(usize, usize, f64),
) -> Result<Evaluation> {
    let found = evaluate_until(model, device, windows, options, progress, &|| false)?;
    // Nothing stops it, so that there is one.
    found.ok_or(Error::TooShort { expected: windows.context(), found: 0 })
}

/// [`evaluate`] that asks `stop` before each window, and gives `None` when that says so.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_until(
    model: &dyn CausalLm,
    device: &Device,
    windows: &Windows,
    options: EvaluateOptions,
    progress: &mut dyn FnMut(usize, usize, f64),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let windows = options.limit.map_or_else(|| windows.clone(), |limit| windows.limit(limit));
    let context = windows.context();
    check_context(model, context)?;
    let rest = Some(windows.rest()).filter(|rest| options.partial && rest.len() > 1);
    let total = windows.len() + usize::from(rest.is_some());
    if total == 0 {
        return Err(Error::TooShort { expected: context, found: windows.ids().len() });
    }
    let (mut sum, mut tokens, mut scored, mut window_losses) = (0., 0, 0, Vec::with_capacity(total));
    let whole = (0..windows.len()).filter_map(|i| windows.window(i));
    for (i, window) in whole.chain(rest).enumerate() {
        if stop() {
            return Ok(None);
        }
        let batch = Batch::new(&[window], device)?;
        let x = infer_blocks(model, &batch.inputs, |_| {})?;
        let head = ops::head_loss(&model.logits(&x)?.detach(), &batch.targets, IGNORE, None)?;
        let loss = head.cross_entropy * batch.targets.len() as f64;
        if !loss.is_finite() {
            return Err(Error::Broken { window: i, value: loss });
        }
        sum += loss;
        tokens += window.len();
        scored += batch.targets.len();
        window_losses.push(head.cross_entropy);
        progress(i + 1, total, sum / scored as f64);
    }
    let loss = sum / scored as f64;
    Ok(Some(Evaluation { loss, perplexity: loss.exp(), context, tokens, scored, window_losses }))
}

/// Logits `[b, t, vocabulary]` of ids `[b, t]`, outside of any autograd graph.
///
/// Candle records a graph whenever a variable is involved. Detaching between blocks lets the activations of a block
/// go as soon as the next one has its input.
///
/// # Errors
/// Ids outside the vocabulary.
pub fn infer(model: &dyn CausalLm, ids: &Tensor) -> CandleResult<Tensor> {
    Ok(model.head(&infer_blocks(model, ids, |_| {})?)?.detach())
}

/// The output of the last block, outside of any autograd graph. Shows the output of every block, `[b, t, hidden]`.
pub(crate) fn infer_blocks(
    model: &dyn CausalLm,
    ids: &Tensor,
    mut see: impl FnMut(&Tensor),
) -> CandleResult<Tensor> {
    let mut x = model.embed(ids)?.detach();
    for index in 0..model.blocks() {
        x = model.block(index, &x)?.detach();
        see(&x);
    }
    Ok(x)
}

pub(crate) fn check_context(model: &dyn CausalLm, context: usize) -> Result<()> {
    // The last token of a window is only a target.
    if context > model.max_context() + 1 {
        let expected = format!("at most the model's {} tokens", model.max_context());
        return Err(Error::setting("context", expected, context));
    }
    Ok(())
}
