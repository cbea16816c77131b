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
    /// Tokens scored: all but the first of each window; of conversations those that are trained.
    pub scored: usize,
    /// The loss of each window, in order, weighted by its share of the scored tokens, so that their mean is the loss: where
    /// all windows score as many tokens, the mean of the window's tokens.
    pub window_losses: Vec<f64>,
}

/// Scores tokens 2 to `context` of each window, those that are trained of windows with marks, one window at a time, so that
/// the result does not depend on a batch size. `progress` is told (windows done, windows in all, mean loss so far).
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
    let mut tally = Tally::default();
    for i in 0..total {
        if stop() {
            return Ok(None);
        }
        let batch = match rest {
            Some(rest) if i == windows.len() => Batch::new(&[rest], device)?,
            _ => Batch::of(&windows, &[i], device)?,
        };
        let x = infer_blocks(model, &batch.inputs, |_| {})?;
        let head = ops::head_loss(&model.logits(&x)?.detach(), &batch.targets, IGNORE, None)?;
        tally.add(batch.targets.len() + 1, batch.trained(), head.cross_entropy)?;
        progress(i + 1, total, tally.mean());
    }
    Ok(Some(tally.evaluation(context)))
}

/// [`evaluate_until`] of whatever gives the losses of a window: one for each token after its first, in nats.
///
/// # Errors
/// Those of `losses`; [`Error::TooShort`] without a whole window, [`Error::Broken`] when a window's loss is not finite.
pub fn evaluate_losses<E: From<Error>>(
    windows: &Windows,
    mut losses: impl FnMut(&[u32]) -> std::result::Result<Vec<f64>, E>,
    progress: &mut dyn FnMut(usize, usize, f64),
    stop: &dyn Fn() -> bool,
) -> std::result::Result<Option<Evaluation>, E> {
    let (context, total) = (windows.context(), windows.len());
    if total == 0 {
        return Err(Error::TooShort { expected: context, found: windows.ids().len() }.into());
    }
    let mut tally = Tally::default();
    for (i, window) in (0..total).filter_map(|i| Some((i, windows.window(i)?))) {
        if stop() {
            return Ok(None);
        }
        let all = losses(window)?;
        let counts = |at: usize| windows.trained(i).is_none_or(|trained| trained[at + 1]);
        let scored: Vec<f64> =
            all.iter().enumerate().filter(|(at, _)| counts(*at)).map(|(_, loss)| *loss).collect();
        tally.add(window.len(), scored.len(), scored.iter().sum::<f64>() / scored.len() as f64)?;
        progress(i + 1, total, tally.mean());
    }
    Ok(Some(tally.evaluation(context)))
}

/// The losses of windows, added up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sum: f64,
    tokens: usize,
    scored: usize,
    /// Mean loss and scored tokens of each window.
    windows: Vec<(f64, usize)>,
}

impl Tally {
    /// Takes the next window: its tokens, how many of them were scored, and their mean loss.
    pub(crate) fn add(&mut self, tokens: usize, scored: usize, mean: f64) -> Result<()> {
        if !mean.is_finite() {
            return Err(Error::Broken { window: self.windows.len(), value: mean });
        }
        self.sum += mean * scored as f64;
        self.tokens += tokens;
        self.scored += scored;
        self.windows.push((mean, scored));
        Ok(())
    }

    /// Nats per scored token so far.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.scored as f64
    }

    pub(crate) fn evaluation(self, context: usize) -> Evaluation {
        let loss = self.mean();
        let Self { tokens, scored, windows, .. } = self;
        // As many as a window scores on average.
        let even = scored as f64 / windows.len() as f64;
        let window_losses = windows.iter().map(|(mean, scored)| mean * (*scored as f64 / even)).collect();
        Evaluation { loss, perplexity: loss.exp(), context, tokens, scored, window_losses }
    }
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
