//! The text that perplexity is measured on: which files, how they are joined, and their windows of tokens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use trimwick_models::{ModelFiles, ModelSource};
use trimwick_train::{BoxError, Overflow, TextFormat, TextSource, Windows};

use super::unused;
use crate::args::{EvalArgs, Format};
use crate::error::bad_input;
use crate::model;

/// The context where none is asked for.
const CONTEXT: usize = 512;

/// The text to measure on: the files, or the one that comes with a built-in model where nothing else is asked for.
pub(super) fn text(args: &EvalArgs, source: &ModelSource) -> Result<Option<TextSource>> {
    if args.text.is_empty() {
        let given = [
            ("--format", args.format.is_some()),
            ("--field", args.field.is_some()),
            ("--separator", args.separator.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(unused(key, "it is about the files of --text, and there are none"));
        }
        if !args.tasks.is_empty() {
            let given = [
                ("--context", args.context.is_some()),
                ("--stride", args.stride.is_some()),
                ("--tokens", args.tokens.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => {
                    Err(unused(key, "it is about perplexity, and with --tasks alone there is none"))
                }
                None => Ok(None),
            };
        }
        return match model::held_out(source) {
            Some((name, text)) => Ok(Some(TextSource::memory(name, text, TextFormat::Text))),
            None => Err(bad_input(
                "--text",
                "at least one file to measure on",
                "none; --tasks asks questions instead",
            )),
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
    Ok(Some(TextSource::files(&args.text, format).separator(&separator)))
}

/// The first file that is given again, by whatever path: it would count twice.
pub(super) fn repeated(files: &[PathBuf]) -> Option<&Path> {
    let place = |file: &Path| std::fs::canonicalize(file).unwrap_or_else(|_| file.into());
    let mut seen = BTreeSet::new();
    files.iter().find(|file| !seen.insert(place(file))).map(PathBuf::as_path)
}

/// The format that the files' names tell.
fn guess(files: &[impl AsRef<Path>]) -> Result<Format> {
    let is_jsonl = |file: &&_| {
        let file: &Path = AsRef::as_ref(*file);
        file.extension().is_some_and(|ext| ext == "jsonl" || ext == "ndjson" || ext == "parquet")
    };
    match files.iter().filter(is_jsonl).count() {
        0 => Ok(Format::Text),
        n if n == files.len() => Ok(Format::Jsonl),
        n => {
            let found = format!("{n} files of {} that end in .jsonl or .parquet", files.len());
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

/// The tokens of a window, at most one more than every model has positions.
pub(super) fn context(args: &EvalArgs, models: &[ModelFiles]) -> Result<usize> {
    let longest = models.iter().map(|files| files.config.max_position_embeddings).min().unwrap_or(CONTEXT);
    match args.context {
        None => Ok(CONTEXT.min(longest)),
        Some(context) if context > longest.saturating_add(1) => {
            Err(bad_input("--context", format!("at most the model's {longest} positions"), context))
        }
        Some(context) => Ok(context),
    }
}

/// The text in a model's tokens.
pub(super) fn windows(
    text: &TextSource,
    files: &ModelFiles,
    context: usize,
    limit: Option<usize>,
    stride: Option<usize>,
) -> Result<Windows> {
    let tokenizer = files.require_tokenizer()?;
    let encode = |text: &str| tokenizer.encode(text, false).map_err(BoxError::from);
    let text = text.clone().overflow(Overflow::into_folder(std::env::temp_dir()));
    let ids = text.encode(&encode, files.config.vocab_size, limit)?;
    if ids.len() < context {
        let advice = "give more text or a smaller --context";
        let found = format!("{} in the text (and --tokens); {advice}", ids.len());
        return Err(bad_input("tokens", format!("at least {context}, one window"), found));
    }
    match stride.filter(|&stride| stride != context) {
        None => Ok(Windows::new(ids, context)?),
        Some(stride) if stride > context => {
            Err(bad_input("--stride", format!("at most {context}, the tokens of a window"), stride))
        }
        Some(stride) => Ok(Windows::strided(&ids, context, stride)?),
    }
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
        assert_eq!(guess(&["a.jsonl", "b.ndjson", "c.parquet"]).unwrap(), Format::Jsonl);
        assert!(guess(&["a.jsonl", "b.txt"]).is_err());
    }
}
