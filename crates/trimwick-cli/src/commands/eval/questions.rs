//! The questions of `--tasks`: which files, and their tokens.

use std::path::{Path, PathBuf};

use anyhow::Result;
use trimwick_models::{ModelFiles, builtin};
use trimwick_train::BoxError;
use trimwick_train::tasks::{Encoder, Layout, Question, Task};

use super::{text, unused};
use crate::args::EvalArgs;
use crate::error::bad_input;

/// Reads the files of questions.
pub(super) fn read(args: &EvalArgs) -> Result<Vec<Task>> {
    if args.tasks.is_empty() && args.limit.is_some() {
        return Err(unused("--limit", "it is about the files of --tasks, and there are none"));
    }
    let given = args.tasks.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?;
    let files: Vec<PathBuf> = given.iter().map(|(_, file)| file.into()).collect();
    if let Some(file) = text::repeated(&files) {
        return Err(bad_input("--tasks", "each file once", format!("{} twice", file.display())));
    }
    given.into_iter().map(|(layout, file)| open(layout, file, args.limit)).collect()
}

fn parse(text: &str) -> Result<(Layout, &str)> {
    let part = text.split_once('=').filter(|(_, file)| !file.is_empty());
    match part.and_then(|(layout, file)| Some((Layout::parse(layout)?, file))) {
        Some(given) => Ok(given),
        None => {
            let layouts = Layout::ALL.map(Layout::name).join(", ");
            Err(bad_input("--tasks", format!("LAYOUT=FILE with a layout of {layouts}"), text))
        }
    }
}

fn open(layout: Layout, file: &str, limit: Option<usize>) -> Result<Task> {
    let Some(name) = file.strip_prefix("builtin:") else {
        return Ok(Task::read(layout, Path::new(file), limit)?);
    };
    match builtin::task(name) {
        Some(text) => Ok(Task::memory(layout, file, text, limit)?),
        None => {
            let known: Vec<_> = builtin::TASKS.iter().map(|task| format!("builtin:{}", task.name)).collect();
            Err(bad_input("--tasks", format!("a file, or {}", known.join(", ")), file))
        }
    }
}

/// The questions in a model's tokens.
pub(super) fn encode(task: &Task, files: &ModelFiles) -> Result<Vec<Question>> {
    let tokenizer = files.require_tokenizer()?;
    let first = |ids: &[u32]| ids.first().copied();
    let encoder = Encoder {
        encode: &|text| tokenizer.encode(text, false).map_err(BoxError::from),
        prefix: first(tokenizer.special_ids().0)
            .or(files.config.bos_token_id)
            .or_else(|| first(tokenizer.eos_ids())),
        vocab: files.config.vocab_size,
        window: files.config.max_position_embeddings,
    };
    Ok(task.encode(&encoder)?)
}

/// What a task is called: `arc ARC-Easy-Test.jsonl`.
pub(super) fn name(task: &Task) -> String {
    let file = task.path().file_name().unwrap_or(task.path().as_os_str());
    format!("{} {}", task.layout.name(), file.to_string_lossy())
}
