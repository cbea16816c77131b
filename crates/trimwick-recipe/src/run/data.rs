//! The recipe's texts as windows of token ids.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use trimwick_models::{Tokenizer, builtin};
use trimwick_train::{
    BoxError, ChatCounts, ChatOptions, ChatSource, Cursor, Overflow, TextFormat, TextSource, Turn, Windows,
};

use super::chat::{self, Chat};
use super::error::{Result, RunError};
use super::event::{Event, Report};
use crate::{
    CalibrationSpec, ChatLoss, ChatSpec, FaultKind, Faults, Recipe, TextFormat as Format, TextSource as Text,
};

/// The key of the held-out text.
const EVAL: &str = "data.eval";
/// The key of the text that is calibrated on, where it is one of its own.
const CALIBRATION: &str = "calibration.data";

/// What texts are made into tokens with.
#[derive(Clone, Copy)]
pub(crate) struct With<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) vocab: usize,
    pub(crate) chat: &'a Chat,
}

/// A source of the training text.
pub(crate) struct Source {
    pub(crate) key: String,
    pub(crate) weight: u32,
    pub(crate) windows: Windows,
    /// Of conversations.
    pub(crate) counts: Option<ChatCounts>,
}

/// The windows of the training text, if the recipe has one.
pub(crate) fn training(recipe: &Recipe, with: With<'_>, report: Report<'_>) -> Result<Option<Windows>> {
    let sources = sources(recipe, with)?;
    for Source { key, counts, .. } in &sources {
        let Some(ChatCounts { conversations, cut, cut_tokens, dropped }) = *counts else { continue };
        if cut > 0 || dropped > 0 {
            report(Event::Note(format!(
                "{key}: of {conversations} conversations {cut} are longer than data.context and lose their end ({cut_tokens} tokens), {dropped} are left out with nothing to train"
            )));
        }
    }
    mixed(&sources)
}

/// The sources of the training text; none where nothing trains.
pub(crate) fn sources(recipe: &Recipe, with: With<'_>) -> Result<Vec<Source>> {
    let weight = |index: usize| match &recipe.data.train {
        Some(Text::Mix(mix)) => mix[index].weight,
        _ => 1,
    };
    let read = |(index, (key, text)): (usize, (String, &Text))| {
        let (windows, counts) = windows(recipe, text, &key, with, None)?;
        at_least(1, &windows, &key)?;
        Ok(Source { key, weight: weight(index), windows, counts })
    };
    recipe.data.sources().into_iter().enumerate().map(read).collect()
}

/// All sources as one.
pub(crate) fn mixed(sources: &[Source]) -> Result<Option<Windows>> {
    match sources {
        [] => Ok(None),
        [only] => Ok(Some(only.windows.clone())),
        all => {
            let all: Vec<_> = all.iter().map(|source| (source.windows.clone(), source.weight)).collect();
            Ok(Some(Windows::mix(&all)?))
        }
    }
}

/// The windows of one source, and what was done with its conversations.
fn windows(
    recipe: &Recipe,
    text: &Text,
    key: &str,
    with: With<'_>,
    limit: Option<usize>,
) -> Result<(Windows, Option<ChatCounts>)> {
    let With { tokenizer, vocab, chat: of_model } = with;
    let context = recipe.data.context;
    match documents(recipe, text, key)? {
        Documents::Text(source) => {
            let encode = |text: &str| tokenizer.encode(text, false).map_err(BoxError::from);
            let source = source.overflow(Overflow::into_folder(beside(&recipe.out)));
            Ok((Windows::new(source.encode(&encode, vocab, limit)?, context)?, None))
        }
        Documents::Chat(source, spec) => {
            let template = of_model.template(recipe, key, spec)?;
            let answers = spec.loss == ChatLoss::Answers;
            let render = |turns: &[Turn]| chat::tokens(&template, tokenizer, turns, answers);
            let options = ChatOptions { context, pad: of_model.pad, vocab, answers };
            let (windows, counts) = source.windows(&render, &options)?;
            // Conversations are read as a whole.
            let windows = limit.map_or_else(|| windows.clone(), |limit| windows.limit(limit));
            Ok((windows, Some(counts)))
        }
    }
}

/// Where tokens go that are too many for memory: to the disk that the run is on, whose folder may not be there yet.
fn beside(out: &Path) -> PathBuf {
    let there = out.ancestors().find(|folder| folder.is_dir());
    there.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The windows of the held-out text.
pub(crate) fn held_out(recipe: &Recipe, with: With<'_>) -> Result<Windows> {
    let limit = recipe.data.eval_tokens.map(|n| n as usize);
    let (windows, _) = windows(recipe, &recipe.data.eval, EVAL, with, limit)?;
    at_least(1, &windows, EVAL)?;
    Ok(windows)
}

/// The windows of the text that is calibrated on, if the recipe names one of its own.
pub(crate) fn calibrating(recipe: &Recipe, with: With<'_>) -> Result<Option<Windows>> {
    let Some(text) = recipe.calibration.as_ref().and_then(|spec| spec.data.as_ref()) else { return Ok(None) };
    let (windows, _) = windows(recipe, text, CALIBRATION, with, None)?;
    at_least(1, &windows, CALIBRATION)?;
    Ok(Some(windows))
}

/// Whether there are as many windows as calibration and training block by block take.
pub(crate) fn check_drawn(recipe: &Recipe, training: Option<&Windows>, own: Option<&Windows>) -> Result<()> {
    let calibration = recipe.calibration.as_ref().map_or(0, |spec| spec.windows);
    let blockwise = recipe.blockwise.as_ref().map_or(0, |spec| spec.windows);
    let calibrating = if own.is_some() { (own, CALIBRATION) } else { (training, "data.train") };
    for (key, count, (windows, text)) in [
        ("calibration.windows", calibration, calibrating),
        ("blockwise.windows", blockwise, (training, "data.train")),
    ] {
        let Some(windows) = windows else { continue };
        if windows.len() < count {
            let expected = format!("at most the {} windows of {text}", windows.len());
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

/// Token ids `[1, context]` of the first `count` windows in the order of training with a seed; padding of conversations
/// is among them.
pub(crate) fn drawn(windows: &Windows, seed: u64, count: usize) -> Result<Vec<Tensor>> {
    let ids = Cursor::default().take(windows, seed, count.min(windows.len()))?;
    ids.into_iter().map(|ids| Ok(Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu)?)).collect()
}

fn at_least(expected: usize, windows: &Windows, key: &str) -> Result<()> {
    if windows.len() < expected {
        let (context, found) = (windows.context(), windows.len());
        return Err(RunError::TooFewWindows { key: key.into(), context, expected, found });
    }
    Ok(())
}

/// What a source is read by.
enum Documents<'a> {
    Text(TextSource),
    Chat(ChatSource, &'a ChatSpec),
}

fn documents<'a>(recipe: &Recipe, text: &'a Text, key: &str) -> Result<Documents<'a>> {
    let set = match text {
        Text::Builtin(name) => {
            let known = || builtin::TEXTS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
            let short = name.strip_prefix("builtin:").unwrap_or(name);
            let text = builtin::text(short).ok_or_else(|| RunError::UnknownText {
                key: key.into(),
                found: name.clone(),
                known: known(),
            })?;
            return Ok(Documents::Text(TextSource::memory(name, text, TextFormat::Text)));
        }
        Text::Mix(_) => {
            let (expected, found) = ("one source".to_string(), "a list of them".to_string());
            let kind = FaultKind::Conflict { expected, found, advice: "write it as one list".into() };
            return Err(Faults::from(recipe.fault(key, kind)).into());
        }
        Text::Files(set) => set,
    };
    let files = recipe.expand(key, set)?;
    let format = match &set.format {
        Format::Text => TextFormat::Text,
        Format::Jsonl { field } | Format::Parquet { field } => TextFormat::Jsonl { field: field.clone() },
        Format::Chat(spec) => return Ok(Documents::Chat(ChatSource::files(files), spec)),
    };
    Ok(Documents::Text(TextSource::files(files, format).separator(&set.separator)))
}

/// The documents of the training text, for training a tokenizer.
pub(crate) fn raw_texts(recipe: &Recipe) -> Result<Vec<String>> {
    let mut collected = Vec::new();
    for (key, text) in recipe.data.sources() {
        match documents(recipe, text, &key)? {
            Documents::Text(source) => {
                let shown = std::cell::RefCell::new(Vec::new());
                // A tokenizer that keeps what it is shown: the source's own reading, its formats and its errors.
                let encode = |text: &str| {
                    shown.borrow_mut().push(text.to_string());
                    Ok(vec![0])
                };
                source.encode(&encode, 1, None)?;
                collected.append(&mut shown.into_inner());
            }
            Documents::Chat(source, _) => collected.append(&mut source.contents()?),
        }
    }
    Ok(collected)
}
