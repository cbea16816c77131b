//! `trimwick eval --tasks` and `--against`.

use std::fs;

use serde_json::{Value, json};

use crate::support::{done, json, ran, words, workshop};

/// Questions of the words that the small model of the tests knows.
const QUESTIONS: &str = concat!(
    r#"{"query": "The wick burns the", "choices": ["lamp by night.", "zzq xkj vvv qqq jjj zzz xxx"], "gold": 0}"#,
    "\n",
    r#"{"query": "The keeper trims the", "choices": ["qqq jjj zzz xxx vvv kkk qqq jjj", "candle without a sound.", "%% ## %% ## %% ## %% ## %% ##"], "gold": "B"}"#,
    "\n",
    r#"{"query": "The lamp follows the", "choices": ["harbor again and again.", "%% ## %%"], "gold": 1}"#,
    "\n",
);

#[test]
fn the_built_in_questions_are_answered_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["eval", "builtin:tiny-llama", "--tasks", "choice=builtin:sotu-choice", "--limit", "16"];
    let text = done(dir.path(), &args);
    assert!(text.starts_with("model       builtin:tiny-llama (") && !text.contains("perplexity"), "{text}");
    assert!(
        text.contains("\ntask") && text.contains("\nchoice builtin:sotu-choice          16   0."),
        "{text}"
    );

    let value = json(dir.path(), &[&args[..], &["--json"]].concat());
    let task = &value["tasks"][0];
    assert_eq!((&task["layout"], &task["file"]), (&json!("choice"), &json!("builtin:sotu-choice")));
    assert_eq!((&task["items"], &task["cut"], &value["loss"]), (&json!(16), &json!(0), &Value::Null));
    let answers = task["answers"].as_array().unwrap();
    let right = |key: &str| answers.iter().filter(|a| a[key] == a["gold"]).count() as f64 / 16.;
    assert_eq!(task["acc"].as_f64().unwrap(), right("chosen"));
    assert_eq!(task["acc_norm"].as_f64().unwrap(), right("chosen_norm"));
    let p = right("chosen");
    assert!((task["acc_stderr"].as_f64().unwrap() - (p * (1. - p) / 15.).sqrt()).abs() < 1e-12);
}

#[test]
fn questions_stand_beside_the_perplexity_and_contexts_are_cut_to_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = workshop().join("tiny");
    let tiny = tiny.to_str().unwrap();
    let long = json!({ "query": words(3, 30), "choices": ["The lamp", "%%%%"], "gold": 0 });
    fs::write(dir.path().join("q.jsonl"), format!("{QUESTIONS}{long}\n")).unwrap();
    fs::write(dir.path().join("text.txt"), words(2, 40)).unwrap();
    let args = ["eval", tiny, "--tasks", "choice=q.jsonl", "--text", "text.txt", "--context", "32"];
    let text = done(dir.path(), &args);
    assert!(text.contains("\nperplexity  ") && text.contains(" @ 32\n"), "{text}");
    let row = text.lines().last().unwrap();
    assert!(row.starts_with("choice q.jsonl           4   0.") && row.ends_with(" 1"), "{text}");

    let value = json(dir.path(), &[&args[..], &["--json"]].concat());
    let task = &value["tasks"][0];
    assert_eq!((&value["context"], &task["items"], &task["cut"]), (&json!(32), &json!(4), &json!(1)));
    let lines: Vec<_> = task["answers"].as_array().unwrap().iter().map(|a| a["line"].clone()).collect();
    assert_eq!(lines, [1, 2, 3, 4]);
    // Words it was trained on against more letters, which it has never seen.
    assert_eq!((&task["answers"][0]["chosen"], &task["answers"][1]["chosen"]), (&json!(0), &json!(1)));
}

#[test]
fn two_models_stand_side_by_side_with_paired_tests() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = workshop().join("tiny");
    let tiny = tiny.to_str().unwrap();
    fs::write(dir.path().join("q.jsonl"), QUESTIONS).unwrap();
    fs::write(dir.path().join("text.txt"), words(2, 40)).unwrap();
    let tasks = ["eval", tiny, "--tasks", "choice=q.jsonl", "mmlu=m.csv"];
    fs::write(dir.path().join("m.csv"), "Which?,lamp,wick,\"flame, or\",night,B\n").unwrap();

    let same = [&tasks[..], &["--text", "text.txt", "--against", tiny]].concat();
    let text = done(dir.path(), &same);
    for expected in [
        "\nagainst     ",
        "perplexity @ 64",
        "loss",
        "choice q.jsonl acc ",
        "mmlu m.csv acc_norm",
        "0 : 0 of 3",
        "1.0000",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let value = json(dir.path(), &[&same[..], &["--json"]].concat());
    assert_eq!(value["tasks"], value["against"]["tasks"]);
    assert_eq!(value["window_losses"], value["against"]["window_losses"]);
    let none = json!({ "mean": 0.0, "stderr": 0.0, "p": 1.0 });
    assert_eq!(value["paired"]["loss"], none);

    // Another tokenizer: answers can be compared, perplexities per token cannot.
    let other = [&tasks[..], &["--against", "builtin:tiny-llama"]].concat();
    let value = json(dir.path(), &[&other[..], &["--json"]].concat());
    let paired = &value["paired"]["tasks"][0];
    let acc = |of: &Value| of["tasks"][0]["acc"].as_f64().unwrap();
    assert_eq!(paired["acc_difference"].as_f64().unwrap(), acc(&value) - acc(&value["against"]));
    let counts = &paired["acc"];
    let alone = counts["first_alone"].as_f64().unwrap() - counts["second_alone"].as_f64().unwrap();
    assert!((alone / 3. - (acc(&value) - acc(&value["against"]))).abs() < 1e-12, "{paired}");
    let (code, stdout, stderr) = ran(dir.path(), &[&other[..], &["--text", "text.txt"]].concat());
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
    assert!(stderr.contains("--against: expected a model with the same tokens"), "{stderr}");
}
