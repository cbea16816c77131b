//! `assets/tasks/sotu_choice.jsonl`: how it was made, and that it is what this makes.

use std::fs;
use std::path::Path;

use trimwick_models::builtin;

/// Questions, and words of a context and of a choice.
const ITEMS: usize = 48;
const CONTEXT: usize = 24;
const CHOICE: usize = 12;

/// Each question is the beginning of four sentences of the held-out addresses, taken at even distances; its choices are the
/// words that follow there and those that follow in three other questions' sentences.
fn made() -> String {
    let text = builtin::text("sotu-eval").unwrap();
    let sentences = text.split_inclusive(['.', '?', '!']).collect::<Vec<_>>();
    let words: Vec<Vec<&str>> = sentences
        .chunks(4)
        .map(|chunk| chunk.iter().flat_map(|s| s.split_whitespace()).collect())
        .filter(|words: &Vec<&str>| {
            words.len() >= CONTEXT + CHOICE && words[0].starts_with(char::is_uppercase)
        })
        .collect();
    let passages: Vec<(String, String)> = (0..ITEMS)
        .map(|i| &words[i * words.len() / ITEMS])
        .map(|w| (w[..CONTEXT].join(" "), w[CONTEXT..CONTEXT + CHOICE].join(" ")))
        .collect();
    let mut out = String::new();
    for (i, (context, right)) in passages.iter().enumerate() {
        let other = |step: usize| passages[(i + step) % ITEMS].1.as_str();
        let gold = i * 7 % 13 % 4;
        let mut choices = vec![other(11), other(23), other(35)];
        choices.insert(gold, right);
        let line = serde_json::json!({ "query": context, "choices": choices, "gold": gold });
        out.push_str(&format!("{line}\n"));
    }
    out
}

#[test]
fn the_set_is_what_this_code_makes() {
    let made = made();
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sotu_choice.jsonl");
    fs::write(&copy, &made).unwrap();
    let shipped = builtin::task("sotu-choice").unwrap();
    assert!(shipped == made, "assets/tasks/sotu_choice.jsonl differs from {}", copy.display());
    assert_eq!(shipped.lines().count(), ITEMS);
}
