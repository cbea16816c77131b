//! `trimwick eval`: the perplexity of a model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Error, Result};
use serde_json::json;
use trimwick_models::{Arithmetic, ModelFiles, ModelSource, PackedLlama, PackedOptions, Tokenizer};
use trimwick_train::{BoxError, EvaluateOptions, Evaluation, TextFormat, TextSource, Windows, evaluate};

use super::print;
use crate::args::{EvalArgs, Format};
use crate::error::{BadInput, DONE, bad_input};
use crate::model::{self, Hub};
use crate::progress::Meter;
use crate::text::{count, perplexity, plain, plain_json, speed};

/// The context where none is asked for.
const CONTEXT: usize = 512;

/// Measures a model on texts.
///
/// # Errors
/// Bad arguments before anything is read; texts, models and tokenizers that cannot be used.
pub(super) fn eval(args: &EvalArgs) -> Result<u8> {
    let source = ModelSource::parse(&args.model)?;
    let text = text(args, &source)?;
    let files = model::open(&source, Hub::Fetch)?;
    let context = context(args, &files)?;
    let tokenizer = files.require_tokenizer()?;
    let windows = windows(&text, tokenizer, files.config.vocab_size, context, args.tokens)?;
    // A window's last token is only a target, so that a window may have one more than the model has positions.
    let positions = context.min(files.config.max_position_embeddings);

    let begun = Instant::now();
    let mut meter = Meter::new("measuring");
    let mut progress = |done: usize, total: usize, loss: f64| {
        let seconds = meter.seconds();
        let facts = format!("loss {loss:.4}, {}", speed((done * context) as f64, seconds));
        let left = seconds / done as f64 * (total - done) as f64;
        meter.at(done as u64, total as u64, &facts, Some(left));
    };
    let measured = match files.is_packed() {
        true => packed(&files, positions, &windows, &mut progress)?,
        false => {
            let (store, model) = model::load(&files, positions)?;
            evaluate(&model, store.device(), &windows, EvaluateOptions::default(), &mut progress)?
        }
    };
    drop(meter);
    show(args, &files, &measured, begun.elapsed().as_secs_f64())?;
    Ok(DONE)
}

/// The measure of [`evaluate`], from packed weights; activations are not rounded.
fn packed(
    files: &ModelFiles,
    positions: usize,
    windows: &Windows,
    progress: &mut dyn FnMut(usize, usize, f64),
) -> Result<Evaluation> {
    let options =
        PackedOptions { arithmetic: Arithmetic::Float, context: Some(positions), ..PackedOptions::default() };
    let model = PackedLlama::load(files, options)?;
    let (mut sum, mut scored, mut window_losses) = (0., 0, Vec::with_capacity(windows.len()));
    for (i, window) in (0..windows.len()).filter_map(|i| Some((i, windows.window(i)?))) {
        let losses = model.losses(window)?;
        let loss: f64 = losses.iter().sum();
        if !loss.is_finite() {
            return Err(trimwick_train::Error::Broken { window: i, value: loss }.into());
        }
        sum += loss;
        scored += losses.len();
        window_losses.push(loss / losses.len() as f64);
        progress(i + 1, windows.len(), sum / scored as f64);
    }
    let (loss, context) = (sum / scored as f64, windows.context());
    let tokens = windows.len() * context;
    Ok(Evaluation { loss, perplexity: loss.exp(), context, tokens, scored, window_losses })
}

fn show(args: &EvalArgs, files: &ModelFiles, measured: &Evaluation, seconds: f64) -> Result<()> {
    let Evaluation { loss, perplexity: ppl, context, tokens, scored, window_losses } = measured;
    let (origin, parameters) = (&files.origin, files.config.num_parameters());
    if args.json {
        let value = json!({
            "model": origin,
            "parameters": parameters,
            "loss": loss,
            "perplexity": ppl,
            "context": context,
            "tokens": tokens,
            "scored": scored,
            "window_losses": window_losses,
            "seconds": seconds,
            "tokens_per_second": *tokens as f64 / seconds,
        });
        return print(&(plain_json(&value) + "\n"));
    }
    print(&format!(
        "model       {} ({} parameters)\n\
         loss        {loss:.5} nats per token\n\
         perplexity  {} @ {context}\n\
         tokens      {} scored of {} in {} windows\n\
         speed       {}\n",
        plain(origin),
        count(parameters),
        perplexity(*ppl),
        count(*scored as u64),
        count(*tokens as u64),
        count(window_losses.len() as u64),
        speed(*tokens as f64, seconds),
    ))
}

/// The text to measure on: the files, or the one that comes with a built-in model.
fn text(args: &EvalArgs, source: &ModelSource) -> Result<TextSource> {
    let unused =
        |key: &str, why: &str| Error::new(BadInput(format!("{key}: has no effect: {why}; leave it out")));
    if args.text.is_empty() {
        let given = [
            ("--format", args.format.is_some()),
            ("--field", args.field.is_some()),
            ("--separator", args.separator.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(unused(key, "it is about the files of --text, and there are none"));
        }
        return match model::held_out(source) {
            Some((name, text)) => Ok(TextSource::memory(name, text, TextFormat::Text)),
            None => Err(bad_input("--text", "at least one file to measure on", "none")),
        };
    }
    if let Some(file) = repeated(&args.text) {
        let found = format!("{} twice", file.display());
        return Err(bad_input("--text", "each file once", found));
    }
    let format = match (args.format.map_or_else(|| guess(&args.text), Ok)?, &args.field) {
        (Format::Text, Some(_)) => return Err(unused("--field", "plain text has no fields")),
        (Format::Text, None) => TextFormat::Text,
        (Format::Jsonl, field) => TextFormat::Jsonl { field: field.clone().unwrap_or_else(|| "text".into()) },
    };
    let separator = args.separator.as_deref().map_or_else(|| Ok("\n\n".into()), unescape)?;
    Ok(TextSource::files(&args.text, format).separator(&separator))
}

/// The first file that is given again, by whatever path: its text would count twice.
fn repeated(files: &[PathBuf]) -> Option<&Path> {
    let place = |file: &Path| std::fs::canonicalize(file).unwrap_or_else(|_| file.into());
    let mut seen = BTreeSet::new();
    files.iter().find(|file| !seen.insert(place(file))).map(PathBuf::as_path)
}

/// The format that the files' names tell.
fn guess(files: &[impl AsRef<Path>]) -> Result<Format> {
    let is_jsonl = |file: &&_| {
        let file: &Path = AsRef::as_ref(*file);
        file.extension().is_some_and(|ext| ext == "jsonl" || ext == "ndjson")
    };
    match files.iter().filter(is_jsonl).count() {
        0 => Ok(Format::Text),
        n if n == files.len() => Ok(Format::Jsonl),
        n => {
            let found = format!("{n} files of {} that end in .jsonl", files.len());
            Err(bad_input("--format", "text or jsonl for files that look like both", found))
        }
    }
}

/// The text of an argument in which a backslash introduces a line break (`\n`), a tab (`\t`) or a backslash.
fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('\\') => out.push('\\'),
                other => {
                    let found = other.map_or_else(|| "nothing".into(), String::from);
                    return Err(bad_input("--separator", "n, t or \\ after a backslash", found));
                }
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// The tokens of a window, at most one more than the model has positions.
fn context(args: &EvalArgs, files: &ModelFiles) -> Result<usize> {
    let longest = files.config.max_position_embeddings;
    match args.context {
        None => Ok(CONTEXT.min(longest)),
        Some(context) if context > longest.saturating_add(1) => {
            Err(bad_input("--context", format!("at most the model's {longest} positions"), context))
        }
        Some(context) => Ok(context),
    }
}

fn windows(
    text: &TextSource,
    tokenizer: &Tokenizer,
    vocab: usize,
    context: usize,
    limit: Option<usize>,
) -> Result<Windows> {
    let encode = |text: &str| tokenizer.encode(text, false).map_err(BoxError::from);
    let ids = text.encode(&encode, vocab, limit)?;
    if ids.len() < context {
        let advice = "give more text or a smaller --context";
        let found = format!("{} in the text (and --tokens); {advice}", ids.len());
        return Err(bad_input("tokens", format!("at least {context}, one window"), found));
    }
    Ok(Windows::new(ids, context)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_written_with_backslashes() {
        for (text, expected) in [("\\n\\n", "\n\n"), ("a\\tb\\\\n", "a\tb\\n"), ("", ""), (" | ", " | ")] {
            assert_eq!(unescape(text).unwrap(), expected);
        }
        assert!(unescape("\\x").is_err() && unescape("a\\").is_err());
    }

    #[test]
    fn the_format_is_told_by_all_names_or_not_at_all() {
        assert_eq!(guess(&["a.txt", "b"]).unwrap(), Format::Text);
        assert_eq!(guess(&["a.jsonl", "b.ndjson"]).unwrap(), Format::Jsonl);
        assert!(guess(&["a.jsonl", "b.txt"]).is_err());
    }
}
