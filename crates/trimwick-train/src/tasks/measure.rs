//! How often a model's likeliest choice is the right one.

use serde::Serialize;

use super::encode::Question;
use super::item::Task;
use super::score::Scorer;
use crate::{Error, Result};

/// What a model makes of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskScore {
    /// Questions.
    pub items: usize,
    /// The share in which the right choice has the highest log-likelihood.
    pub acc: f64,
    /// Standard error of `acc`, √(p(1 − p)/(n − 1)); none of a single question.
    pub acc_stderr: Option<f64>,
    /// The share in which the right choice has the highest log-likelihood per character.
    pub acc_norm: f64,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: Option<f64>,
    /// Questions whose context lost its beginning, since the model's window is shorter.
    pub cut: usize,
    /// Tokens of all choices.
    pub tokens: usize,
    /// Every question, in order.
    pub answers: Vec<Answer>,
}

/// A model's answer to a question; choices are counted from 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The question's line in its file, from 1.
    pub line: u64,
    /// The right choice.
    pub gold: usize,
    /// The likeliest choice.
    pub chosen: usize,
    /// The choice that is likeliest per character.
    pub chosen_norm: usize,
    /// The log-likelihood of each choice, in nats.
    pub log_likelihoods: Vec<f64>,
}

impl TaskScore {
    /// Which questions were answered right, by log-likelihood.
    pub fn right(&self) -> Vec<bool> {
        self.answers.iter().map(|a| a.chosen == a.gold).collect()
    }

    /// Which questions were answered right, by log-likelihood per character.
    pub fn right_norm(&self) -> Vec<bool> {
        self.answers.iter().map(|a| a.chosen_norm == a.gold).collect()
    }
}

/// Has `scorer` answer the questions of a task, which [`Task::encode`] made for its model. `progress` is told (questions
/// done, questions in all).
///
/// # Errors
/// [`Error::Scoring`] with file and line where the model fails or a log-likelihood is not finite, [`Error::Setting`] for
/// questions that are not this task's.
pub fn measure(
    task: &Task,
    questions: &[Question],
    scorer: &mut dyn Scorer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskScore> {
    let fits = |(item, question): (&super::Item, &Question)| item.choices.len() == question.requests.len();
    if task.items.len() != questions.len() || !task.items.iter().zip(questions).all(fits) {
        return Err(Error::setting("questions", "those that the task was encoded to", questions.len()));
    }
    let mut answers = Vec::with_capacity(questions.len());
    for (i, (item, question)) in task.items.iter().zip(questions).enumerate() {
        let failed = |source| Error::Scoring { path: task.owned_path(), line: item.line, source };
        let log_likelihoods = scorer.score(&question.requests).map_err(failed)?;
        if let Some(value) = log_likelihoods.iter().find(|value| !value.is_finite()) {
            let advice =
                "the model's weights give no finite logits; check the model, or the training that made it";
            return Err(failed(format!("a log-likelihood is {value}: {advice}").into()));
        }
        let characters = item.choices.iter().map(|choice| choice.chars().count());
        // Of no characters there is no mean, so that an empty choice is never the best.
        let normed = log_likelihoods.iter().zip(characters).map(|(value, n)| match n {
            0 => f64::NEG_INFINITY,
            n => value / n as f64,
        });
        answers.push(Answer {
            line: item.line,
            gold: item.gold,
            chosen: first_best(log_likelihoods.iter().copied()),
            chosen_norm: first_best(normed),
            log_likelihoods,
        });
        progress(i + 1, questions.len());
    }
    let n = answers.len();
    let right = |chosen: fn(&Answer) -> usize| answers.iter().filter(|a| chosen(a) == a.gold).count();
    let (acc, acc_stderr) = share(right(|a| a.chosen), n);
    let (acc_norm, acc_norm_stderr) = share(right(|a| a.chosen_norm), n);
    let tokens = questions.iter().flat_map(|q| &q.requests).map(|r| r.scored).sum();
    let cut = questions.iter().filter(|q| q.cut).count();
    Ok(TaskScore { items: n, acc, acc_stderr, acc_norm, acc_norm_stderr, cut, tokens, answers })
}

/// The index of the highest value, the first of equals.
fn first_best(values: impl Iterator<Item = f64>) -> usize {
    let best = values.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(index, _)| index)
}

/// A share and its standard error: that of a mean of zeros and ones, from their sample deviation.
fn share(right: usize, n: usize) -> (f64, Option<f64>) {
    let p = right as f64 / n.max(1) as f64;
    (p, (n > 1).then(|| (p * (1. - p) / (n - 1) as f64).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_a_mean() {
        // 3 of 4: p = .75, √(.1875/3) = .25. 30 of 100: √(.21/99) = 0.0460566….
        assert_eq!(share(3, 4), (0.75, Some(0.25)));
        let (p, error) = share(30, 100);
        assert!(p == 0.3 && (error.unwrap() - 0.046_056_618_647).abs() < 1e-11, "{error:?}");
        assert_eq!((share(4, 4), share(1, 1)), ((1., Some(0.)), (1., None)));
    }

    #[test]
    fn the_first_of_equals_is_the_best() {
        for (values, expected) in [
            (&[-2., -1., -1.][..], 1),
            (&[-1.], 0),
            (&[f64::NEG_INFINITY, -9.], 1),
            (&[f64::NEG_INFINITY; 2], 0),
        ] {
            assert_eq!(first_best(values.iter().copied()), expected);
        }
    }
}
