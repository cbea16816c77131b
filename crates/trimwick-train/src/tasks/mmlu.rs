//! MMLU (arXiv 2009.03300): CSV as published, JSON Lines as on the hub.

use serde::Deserialize;

use super::item::Item;
use super::json::{self, Gold, Line, short};
use crate::Result;
use crate::data::{Input, MAX_LINE, Next};

pub(super) const FORM: &str = r#"{"question": text, "choices": [four texts], "answer": index or letter} or, in a .csv file, question,A,B,C,D,letter"#;

#[derive(Deserialize)]
struct Raw {
    question: String,
    choices: Vec<String>,
    answer: Gold,
    subject: Option<String>,
}

pub(super) fn items(input: &Input, limit: usize) -> Result<Vec<Item>> {
    match input.path().extension().is_some_and(|ext| ext.eq_ignore_ascii_case("csv")) {
        true => rows(input, limit),
        false => json::each(input, limit, |line| {
            let raw: Raw = line.parse(FORM)?;
            let [a, b, c, d] = raw.choices.as_slice() else {
                return Err(line.fault("four choices", raw.choices.len().to_string()));
            };
            let gold = raw.answer.index_or_letter(&line, "answer", 4)?;
            let context = prompt(raw.subject.as_deref(), &raw.question, [a, b, c, d]);
            Ok(lettered(line, context, gold))
        }),
    }
}

/// The rows of a CSV file, whose fields may hold line breaks: the file as a whole is held to the size of a line.
fn rows(input: &Input, limit: usize) -> Result<Vec<Item>> {
    let mut text = String::new();
    input.lines(|line, number| {
        text.push_str(if number == 1 { line.trim_start_matches('\u{feff}') } else { line });
        match text.len() > MAX_LINE {
            true => {
                Err(input.fault(number, format!("a CSV file of at most {MAX_LINE} bytes"), "a larger one"))
            }
            false => Ok(Next::Go),
        }
    })?;
    let subject = subject(input);
    let mut items = Vec::new();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    for record in reader.records().take(limit) {
        // The text is UTF-8 and rows may have any number of fields: there is nothing left to fail.
        let record = record.map_err(|e| input.fault(1, FORM, e.to_string()))?;
        let number = record.position().map_or(1, csv::Position::line);
        let line = Line { input, number, text: "" };
        let fields: Vec<&str> = record.iter().collect();
        let [question, a, b, c, d, answer] = fields[..] else {
            let expected = "a row of 6 fields: question,A,B,C,D,letter";
            return Err(line.fault(expected, format!("{} fields", fields.len())));
        };
        let gold = json::letter(answer).filter(|&gold| gold < 4).ok_or_else(|| {
            line.fault("a letter from A to D in the last field, and no heading above the rows", short(answer))
        })?;
        items.push(lettered(line, prompt(subject.as_deref(), question, [a, b, c, d]), gold));
    }
    Ok(items)
}

fn prompt(subject: Option<&str>, question: &str, choices: [&str; 4]) -> String {
    let [a, b, c, d] = choices;
    let about = match subject.filter(|subject| !subject.is_empty()) {
        Some(subject) => {
            let subject = subject.replace('_', " ");
            format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
        }
        None => String::new(),
    };
    format!("{about}{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", question.trim())
}

fn lettered(line: Line<'_>, context: String, gold: usize) -> Item {
    line.item(context, ["A", "B", "C", "D"].map(String::from).into(), gold)
}

/// `abstract_algebra` of `abstract_algebra_test.csv`.
fn subject(input: &Input) -> Option<String> {
    let name = input.path().file_stem()?.to_str()?;
    ["_test", "_val", "_dev"].iter().find_map(|split| name.strip_suffix(split)).map(String::from)
}
