//! `trimwick eval`: the perplexity of a model, its answers to multiple-choice questions, and both beside another model's.

mod engine;
mod questions;
mod show;
mod text;

use std::time::Instant;

use anyhow::{Error, Result};
use trimwick_models::{ModelFiles, ModelSource};
use trimwick_train::tasks::{Question, Task, TaskScore, measure};
use trimwick_train::{Evaluation, Windows};

use self::engine::Engine;
use crate::args::EvalArgs;
use crate::error::{BadInput, DONE, bad_input};
use crate::model::{self, Hub};
use crate::progress::Meter;
use crate::text::plain;

/// Measures a model, or two, on texts and questions.
///
/// # Errors
/// Bad arguments before anything is read; texts, questions, models and tokenizers that cannot be used.
pub(super) fn eval(args: &EvalArgs) -> Result<u8> {
    let names = [Some(&args.model), args.against.as_ref()];
    let sources = names.into_iter().flatten().map(|name| ModelSource::parse(name));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let text = text::text(args, &sources[0])?;
    let tasks = questions::read(args)?;
    let models = sources.iter().map(|source| model::open(source, Hub::Fetch)).collect::<Result<Vec<_>>>()?;
    let context = text::context(args, &models)?;
    let mut plans = Vec::with_capacity(models.len());
    for files in &models {
        let windows = text
            .as_ref()
            .map(|text| text::windows(text, files, context, args.tokens, args.stride))
            .transpose()?;
        let questions = tasks.iter().map(|task| questions::encode(task, files)).collect::<Result<_>>()?;
        plans.push(Plan { files, windows, stride: args.stride, questions });
    }
    let mut texts = plans.iter().map(|plan| plan.windows.as_ref().map(Windows::ids));
    let first = texts.next();
    if texts.any(|ids| Some(ids) != first) {
        let expected = "a model with the same tokens, since perplexities per token are compared (without --text, answers \
                        to --tasks can be)";
        return Err(bad_input("--against", expected, "another tokenizer"));
    }
    // One after the other, so that memory holds one model.
    let measured = plans.iter().map(|plan| plan.carry_out(&tasks)).collect::<Result<Vec<_>>>()?;
    show::show(args, &tasks, &measured)?;
    Ok(DONE)
}

fn unused(key: &str, why: &str) -> Error {
    Error::new(BadInput(format!("{key}: has no effect: {why}; leave it out")))
}

/// What one model is to be measured on, in its tokens.
struct Plan<'a> {
    files: &'a ModelFiles,
    windows: Option<Windows>,
    stride: Option<usize>,
    questions: Vec<Vec<Question>>,
}

/// What was found of one model.
struct Measured<'a> {
    files: &'a ModelFiles,
    /// On the text, and the seconds that took with reading the weights.
    text: Option<(Evaluation, f64)>,
    /// From one window of the text to the next, where they overlap.
    stride: Option<usize>,
    /// One for each task.
    scores: Vec<TaskScore>,
}

impl<'a> Plan<'a> {
    fn carry_out(&self, tasks: &[Task]) -> Result<Measured<'a>> {
        let begun = Instant::now();
        let engine = Engine::load(self.files, self.positions())?;
        let text = match &self.windows {
            None => None,
            Some(windows) => {
                let mut meter = Meter::new("measuring");
                let context = windows.context();
                let mut progress =
                    |done: usize, total: usize, loss: f64| meter.windows(done, total, context, loss);
                let found = engine.perplexity(windows, &mut progress)?;
                Some((found, begun.elapsed().as_secs_f64()))
            }
        };
        let mut scores = Vec::with_capacity(tasks.len());
        for (task, questions) in tasks.iter().zip(&self.questions) {
            let mut meter = Meter::new(&plain(&questions::name(task)));
            let mut progress = |done: usize, total: usize| {
                let left = meter.seconds() / done as f64 * (total - done) as f64;
                meter.at(done as u64, total as u64, "", Some(left));
            };
            scores.push(measure(task, questions, &mut *engine.scorer(), &mut progress)?);
        }
        Ok(Measured { files: self.files, text, stride: self.stride, scores })
    }

    /// Positions that the model needs room for. A window's last token is only a target, so that a window may have one
    /// more than the model has positions.
    fn positions(&self) -> usize {
        let requests = self.questions.iter().flatten().flat_map(|question| &question.requests);
        let longest = requests.map(|request| request.inputs().len()).max().unwrap_or(0);
        let context = self.windows.as_ref().map_or(0, Windows::context);
        longest.max(context).min(self.files.config.max_position_embeddings)
    }
}
