//! Loss and perplexity of a model that is never in memory as a whole.

use candle_core::{Device, Tensor};
use trimwick_nn::{Module, StreamedLm, ops};

use super::states::{Spill, States};
use crate::data::{Batch, Windows};
use crate::distill::IGNORE;
use crate::evaluate::{Evaluation, Tally};
use crate::{Error, Result};

/// [`evaluate_until`](crate::evaluate_until) with one piece of the model in memory at a time: all windows go through a
/// piece before the next one is read. The numbers are those of the model as a whole, bit for bit.
///
/// `progress` is told pieces done and pieces in all. `None` when `stop` says so, which is asked before each window.
///
/// # Errors
/// As [`evaluate`](crate::evaluate()); weights that cannot be read, hidden states that cannot be written.
pub fn evaluate_streamed(
    model: &dyn StreamedLm,
    device: &Device,
    windows: &Windows,
    spill: &Spill,
    progress: &mut dyn FnMut(usize, usize),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let context = windows.context();
    // The last token of a window is only a target.
    if context > model.max_context() + 1 {
        let expected = format!("at most the model's {} tokens", model.max_context());
        return Err(Error::setting("context", expected, context));
    }
    if windows.is_empty() {
        return Err(Error::TooShort { expected: context, found: windows.ids().len() });
    }
    let batch = |i: usize| Batch::of(windows, &[i], device);
    let pieces = model.blocks() + 2;
    let each = |of: &mut dyn FnMut(usize) -> Result<Tensor>| {
        States::collect::<Error>(spill, windows.len(), |i| if stop() { Ok(None) } else { of(i).map(Some) })
    };

    progress(0, pieces);
    let embedding = model.load_embedding()?;
    let Some(mut states) = each(&mut |i| Ok(embedding.embedding.forward(&batch(i)?.inputs)?))? else {
        return Ok(None);
    };
    drop(embedding);
    for index in 0..model.blocks() {
        progress(index + 1, pieces);
        let block = model.load_block(index)?.block;
        let Some(next) = each(&mut |i| Ok(block.forward(&states.get(i)?)?))? else { return Ok(None) };
        states = next;
    }
    progress(pieces - 1, pieces);
    let head = model.load_head()?.head;
    let mut tally = Tally::default();
    for i in 0..windows.len() {
        if stop() {
            return Ok(None);
        }
        let batch = batch(i)?;
        let logits = head.logits(&states.get(i)?)?.detach();
        let found = ops::head_loss(&logits, &batch.targets, IGNORE, None)?;
        tally.add(batch.targets.len() + 1, batch.trained(), found.cross_entropy)?;
    }
    progress(pieces, pieces);
    Ok(Some(tally.evaluation(context)))
}
