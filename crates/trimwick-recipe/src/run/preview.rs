//! What a recipe would train on: its first windows as text, with what of them is trained.

use serde::Serialize;
use trimwick_models::Tokenizer;
use trimwick_train::{ChatCounts, Cursor, Windows};

use super::data::{self, Source};
use super::error::{Result, RunError};
use super::event::Report;
use super::origin::Origin;
use crate::{FaultKind, Faults, Recipe};

/// Sources and first windows of a recipe's training text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// Tokens of a window.
    pub context: usize,
    /// The sources, in the order of the recipe.
    pub sources: Vec<PreviewSource>,
    /// The first windows in the order of training.
    pub windows: Vec<PreviewWindow>,
}

/// A source of the training text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreviewSource {
    /// Where the recipe names it.
    pub key: String,
    /// How many windows are taken of it, against the others.
    pub weight: u32,
    /// Windows that it gives.
    pub windows: usize,
    /// Tokens in them, padding left out.
    pub tokens: usize,
    /// Tokens of those that are trained.
    pub trained: usize,
    /// Conversations in its files; none for a text.
    pub conversations: Option<usize>,
    /// Conversations that are longer than a window and lose their end.
    pub cut: usize,
    /// Conversations that are left out with nothing to train.
    pub dropped: usize,
}

/// A window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreviewWindow {
    /// The key of its source.
    pub source: String,
    /// Tokens before the padding.
    pub tokens: usize,
    /// Tokens of those that are trained.
    pub trained: usize,
    /// Tokens of padding, which `parts` leaves out.
    pub padding: usize,
    /// Its text, divided where training begins and ends.
    pub parts: Vec<PreviewPart>,
}

/// Neighbouring tokens that are all trained, or all not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreviewPart {
    /// Whether they are trained.
    pub trained: bool,
    /// How many they are.
    pub tokens: usize,
    /// What they stand for, special tokens included.
    pub text: String,
    /// Their ids.
    pub ids: Vec<u32>,
    /// Each as the vocabulary spells it.
    pub pieces: Vec<String>,
}

/// Reads the training text as a run would, and shows its first `windows` windows in the order of training; in their own
/// order where nothing trains end to end.
///
/// # Errors
/// As [`run`](super::run), for everything before the first stage; a fault at `data.train` where there is none.
pub fn preview(recipe: &Recipe, windows: usize, report: Report<'_>) -> Result<Preview> {
    recipe.check_files()?;
    let origin = Origin::open(recipe, &recipe.out, report)?;
    let sources = data::sources(recipe, origin.with())?;
    let Some(all) = data::mixed(&sources)? else { return Err(no_text(recipe)) };
    let indices = match &recipe.train {
        Some(spec) => Cursor::default().indices(&all, spec.order_seed, windows)?,
        None => (0..windows.min(all.len())).collect(),
    };
    let show = |index: usize| window(&all, index, &sources, &origin.tokenizer);
    Ok(Preview {
        context: all.context(),
        windows: indices.into_iter().map(show).collect::<Result<_>>()?,
        sources: sources.iter().map(of_source).collect(),
    })
}

fn no_text(recipe: &Recipe) -> RunError {
    let expected = "a text to train on, which is what a preview shows".into();
    let example = "train = { files = [\"chat.jsonl\"], format = \"chat\" }".into();
    Faults::from(recipe.fault("data.train", FaultKind::Missing { expected, example })).into()
}

fn of_source(source: &Source) -> PreviewSource {
    let Source { key, weight, windows, counts } = source;
    let sum = |of: &dyn Fn(usize) -> usize| (0..windows.len()).map(of).sum();
    let ChatCounts { conversations: _, cut, cut_tokens: _, dropped } = counts.unwrap_or_default();
    PreviewSource {
        key: key.clone(),
        weight: *weight,
        windows: windows.len(),
        tokens: sum(&|i| windows.filled(i)),
        trained: sum(&|i| windows.trained_tokens(i)),
        conversations: counts.map(|counts| counts.conversations),
        cut,
        dropped,
    }
}

fn window(all: &Windows, index: usize, sources: &[Source], tokenizer: &Tokenizer) -> Result<PreviewWindow> {
    let (ids, filled) = (all.window(index).unwrap_or_default(), all.filled(index));
    let trained = all.trained(index);
    let mut stream = tokenizer.decode_stream(false);
    let mut parts: Vec<PreviewPart> = Vec::new();
    for (at, &id) in ids[..filled].iter().enumerate() {
        // The first token of a window has no past.
        let trained = at > 0 && trained.is_none_or(|trained| trained[at]);
        let text = stream.push(id)?;
        if parts.last().is_none_or(|part| part.trained != trained) {
            parts.push(PreviewPart { trained, tokens: 0, text: String::new(), ids: vec![], pieces: vec![] });
        }
        let Some(part) = parts.last_mut() else { continue };
        part.tokens += 1;
        part.text.push_str(&text);
        part.ids.push(id);
        part.pieces.push(tokenizer.id_to_token(id).unwrap_or_default());
    }
    Ok(PreviewWindow {
        source: sources.get(all.source(index)).map(|source| source.key.clone()).unwrap_or_default(),
        tokens: filled,
        trained: all.trained_tokens(index),
        padding: all.context() - filled,
        parts,
    })
}
