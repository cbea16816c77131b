//! The recipe's texts as windows of token ids.

use candle_core::{Device, Tensor};
use trimwick_models::{Tokenizer, builtin};
use trimwick_train::{BoxError, TextFormat, TextSource, Windows};

use super::error::{Result, RunError};
use crate::{CalibrationSpec, FaultKind, Faults, Recipe, TextFormat as Format, TextSource as Text};

/// The windows of the training text, if the recipe has one.
pub(crate) fn training(recipe: &Recipe, tokenizer: &Tokenizer, vocab: usize) -> Result<Option<Windows>> {
    let Some(text) = &recipe.data.train else { return Ok(None) };
    let windows = windows(recipe, text, "data.train", (tokenizer, vocab), None)?;
    at_least(1, &windows, "data.train")?;
    Ok(Some(windows))
}

/// The windows of the held-out text.
pub(crate) fn held_out(recipe: &Recipe, tokenizer: &Tokenizer, vocab: usize) -> Result<Windows> {
    let limit = recipe.data.eval_tokens.map(|n| n as usize);
    let windows = windows(recipe, &recipe.data.eval, "data.eval", (tokenizer, vocab), limit)?;
    at_least(1, &windows, "data.eval")?;
    Ok(windows)
}

/// Whether there are as many windows as calibration and training block by block take.
pub(crate) fn check_drawn(recipe: &Recipe, windows: Option<&Windows>) -> Result<()> {
    let Some(windows) = windows else { return Ok(()) };
    let calibration = recipe.calibration.as_ref().map_or(0, |spec| spec.windows);
    let blockwise = recipe.blockwise.as_ref().map_or(0, |spec| spec.windows);
    for (key, count) in [("calibration.windows", calibration), ("blockwise.windows", blockwise)] {
        if windows.len() < count {
            let expected = format!("at most the {} windows of data.train", windows.len());
            let (found, advice) = (count.to_string(), "lower it, or give more text".to_string());
            let kind = FaultKind::Conflict { expected, found, advice };
            return Err(Faults::from(recipe.fault(key, kind)).into());
        }
    }
    Ok(())
}

/// Token ids `[1, context]` of the calibration windows.
pub(crate) fn calibration(spec: &CalibrationSpec, windows: &Windows) -> Result<Vec<Tensor>> {
    drawn(windows, spec.seed, spec.windows)
}

/// Token ids `[1, context]` of the first `count` windows of a keyed permutation.
pub(crate) fn drawn(windows: &Windows, seed: u64, count: usize) -> Result<Vec<Tensor>> {
    let order = windows.order(seed, 0);
    (0..count.min(windows.len()) as u64)
        .filter_map(|i| windows.window(order.at(i) as usize))
        .map(|ids| Ok(Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu)?))
        .collect()
}

fn windows(
    recipe: &Recipe,
    text: &Text,
    key: &'static str,
    (tokenizer, vocab): (&Tokenizer, usize),
    limit: Option<usize>,
) -> Result<Windows> {
    let encode = |text: &str| tokenizer.encode(text, false).map_err(BoxError::from);
    let ids = source(recipe, text, key)?.encode(&encode, vocab, limit)?;
    Ok(Windows::new(ids, recipe.data.context)?)
}

fn at_least(expected: usize, windows: &Windows, key: &'static str) -> Result<()> {
    if windows.len() < expected {
        let (context, found) = (windows.context(), windows.len());
        return Err(RunError::TooFewWindows { key, context, expected, found });
    }
    Ok(())
}

fn source(recipe: &Recipe, text: &Text, key: &'static str) -> Result<TextSource> {
    match text {
        Text::Builtin(name) => {
            let known = || builtin::TEXTS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
            let short = name.strip_prefix("builtin:").unwrap_or(name);
            let text = builtin::text(short).ok_or_else(|| RunError::UnknownText {
                key,
                found: name.clone(),
                known: known(),
            })?;
            Ok(TextSource::memory(name, text, TextFormat::Text))
        }
        Text::Files(set) => {
            let format = match &set.format {
                Format::Text => TextFormat::Text,
                Format::Jsonl { field } => TextFormat::Jsonl { field: field.clone() },
            };
            Ok(TextSource::files(recipe.expand(key, set)?, format).separator(&set.separator))
        }
    }
}

/// The documents of the training text, for training a tokenizer.
pub(crate) fn raw_texts(recipe: &Recipe) -> Result<Vec<String>> {
    let Some(text) = &recipe.data.train else { return Ok(Vec::new()) };
    let collected = std::cell::RefCell::new(Vec::new());
    // A tokenizer that keeps what it is shown: the source's own reading, its formats and its errors.
    let encode = |text: &str| {
        collected.borrow_mut().push(text.to_string());
        Ok(vec![0])
    };
    source(recipe, text, "data.train")?.encode(&encode, 1, None)?;
    Ok(collected.into_inner())
}
