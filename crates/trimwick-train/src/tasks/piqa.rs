//! PIQA (arXiv 1911.11641): labels in the lines, or in a file of their own.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::item::Item;
use super::json::{self, Gold, Line};
use crate::Result;
use crate::data::{Input, Next};

pub(super) const FORM: &str = r#"{"goal": text, "sol1": text, "sol2": text, "label": 0 or 1} (without label: a line of NAME-labels.lst beside NAME.jsonl for each)"#;

#[derive(Deserialize)]
struct Raw {
    goal: String,
    sol1: String,
    sol2: String,
    label: Option<Gold>,
}

pub(super) fn items(input: &Input, limit: usize) -> Result<Vec<Item>> {
    let mut labels = None;
    let mut count = 0;
    let items = json::each(input, limit, |line| {
        let raw: Raw = line.parse(FORM)?;
        let gold = match raw.label {
            Some(label) => label.index(&line, "label", 2)?,
            None => {
                if labels.is_none() {
                    labels = Some(Labels::beside(&line)?);
                }
                labels.as_ref().map_or(Ok(0), |labels| labels.get(count))?
            }
        };
        count += 1;
        Ok(line.item(format!("Question: {}\nAnswer:", raw.goal), vec![raw.sol1, raw.sol2], gold))
    })?;
    match labels {
        // With a limit, the rest of the questions was not read.
        Some(labels) if count < limit && labels.found.len() != count => Err(labels.uneven(count)),
        _ => Ok(items),
    }
}

/// The file of labels, a line for each question.
struct Labels {
    input: Input,
    found: Vec<usize>,
}

impl Labels {
    fn beside(line: &Line<'_>) -> Result<Self> {
        let path = match line.input {
            Input::File(path) => labels_of(path),
            Input::Memory { .. } => None,
        };
        let Some(path) = path.filter(|path| path.is_file()) else {
            let file = labels_of(line.input.path()).unwrap_or_default();
            let expected = format!("a label in the line, or the file {} with all labels", file.display());
            return Err(line.fault(expected, "neither"));
        };
        let input = Input::File(path);
        let mut found = Vec::new();
        input.lines(|text, number| {
            let line = Line { input: &input, number, text };
            found.push(Gold::Text(text.trim().into()).index(&line, "label", 2)?);
            Ok(Next::Go)
        })?;
        Ok(Self { input, found })
    }

    fn get(&self, index: usize) -> Result<usize> {
        self.found.get(index).copied().ok_or_else(|| self.uneven(index + 1))
    }

    fn uneven(&self, questions: usize) -> crate::Error {
        let found = self.found.len();
        let expected = match found > questions {
            true => format!("{questions} labels, one for each question"),
            false => format!("a label for each question, at least {questions}"),
        };
        self.input.fault(found.max(1) as u64, expected, format!("{found} labels"))
    }
}

/// `valid-labels.lst` of `valid.jsonl`.
fn labels_of(path: &Path) -> Option<PathBuf> {
    let mut name = path.file_stem()?.to_os_string();
    name.push("-labels.lst");
    Some(path.with_file_name(name))
}
