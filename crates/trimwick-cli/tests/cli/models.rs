//! `trimwick eval` and `trimwick generate`.

use std::fs;

use crate::support::{done, json, ran, words, workshop};

#[test]
fn a_perplexity_comes_with_its_context() {
    let text =
        done(workshop(), &["eval", "tiny", "--text", "eval.txt", "--context", "32", "--tokens", "640"]);
    assert!(text.contains("\nperplexity  ") && text.contains(" @ 32\n"), "{text}");
    assert!(text.contains("\ntokens      620 scored of 640 in 20 windows\n"), "{text}");

    let value = json(workshop(), &["eval", "tiny", "--text", "eval.txt", "--tokens", "640", "--json"]);
    // The model has no more than 64 positions.
    assert_eq!((&value["context"], &value["scored"]), (&64.into(), &630.into()));
    let (loss, ppl) = (value["loss"].as_f64().unwrap(), value["perplexity"].as_f64().unwrap());
    assert!((loss.exp() - ppl).abs() < 1e-9 * ppl);
    let windows: Vec<f64> =
        value["window_losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!((windows.iter().sum::<f64>() / windows.len() as f64 - loss).abs() < 1e-12);
    // Far better than chance among 300 tokens: it was trained on such text.
    assert!(ppl < 60., "{ppl}");
}

#[test]
fn files_are_joined_by_a_blank_line_or_what_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = workshop().join("tiny");
    let (a, b) = (words(5, 40), words(6, 40));
    let (a, b) = (a.trim_end(), b.trim_end());
    fs::write(dir.path().join("a.txt"), a).unwrap();
    fs::write(dir.path().join("b.txt"), b).unwrap();
    fs::write(dir.path().join("blank.txt"), format!("{a}\n\n{b}")).unwrap();
    fs::write(dir.path().join("bar.txt"), format!("{a}\t|{b}")).unwrap();
    let line = |key: &str, text: &str| format!("{}\n", serde_json::json!({ key: text }));
    fs::write(dir.path().join("ab.jsonl"), line("text", a) + &line("text", b)).unwrap();
    fs::write(dir.path().join("body.data"), line("body", a) + &line("body", b)).unwrap();
    let loss = |args: &[&str]| {
        let args = [&["eval", tiny.to_str().unwrap(), "--json", "--text"], args].concat();
        json(dir.path(), &args)["loss"].as_f64().unwrap()
    };
    let expected = loss(&["blank.txt"]);
    assert_eq!(loss(&["a.txt", "b.txt"]), expected);
    assert_eq!(loss(&["a.txt", "--text", "b.txt"]), expected);
    assert_eq!(loss(&["ab.jsonl"]), expected);
    assert_eq!(loss(&["body.data", "--format", "jsonl", "--field", "body"]), expected);
    assert_eq!(loss(&["a.txt", "b.txt", "--separator", "\\t|"]), loss(&["bar.txt"]));
    assert_ne!(loss(&["b.txt", "a.txt"]), expected);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let generate = |more: &[&str]| {
        let args = [&["generate", "tiny", "--prompt", "The keeper", "--max-tokens", "40"], more].concat();
        let (code, stdout, stderr) = ran(workshop(), &args);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains(" tokens, ") && stderr.contains("; ended by: "), "{stderr}");
        assert!(stdout.ends_with('\n') && stdout.len() > 10, "{stdout:?}");
        stdout
    };
    assert_eq!(generate(&["--seed", "7"]), generate(&["--seed", "7"]));
    assert_ne!(generate(&["--seed", "7"]), generate(&["--seed", "8"]));
    let greedy = generate(&["--temperature", "0"]);
    assert_eq!(greedy, generate(&["--temperature", "0", "--seed", "9"]));
    // A nucleus that holds one token is greedy.
    assert_eq!(greedy, generate(&["--top-p", "1e-9"]));
}

#[test]
fn generation_ends_where_it_must() {
    let ended = |max: &str| {
        let args = ["generate", "tiny", "--prompt", "The lamp", "--temperature", "2", "--max-tokens", max];
        let (code, _, stderr) = ran(workshop(), &args);
        assert_eq!(code, 0, "{stderr}");
        stderr
    };
    assert!(ended("5").starts_with("5 tokens, ") && ended("5").contains("ended by: --max-tokens"));
    let full = ended("1000");
    assert!(
        full.contains("no more than 64 positions") || full.contains("the model ended the text"),
        "{full}"
    );
}

#[test]
fn windows_that_overlap_give_tokens_a_longer_past() {
    let dir = tempfile::tempdir().unwrap();
    let eval = |more: &[&str]| {
        let args = [&["eval", "builtin:tiny-llama", "--context", "128", "--tokens", "1024", "--json"], more]
            .concat();
        let value = json(dir.path(), &args);
        (value["scored"].as_u64().unwrap(), value["perplexity"].as_f64().unwrap())
    };
    let (side_by_side, overlapping) = (eval(&[]), eval(&["--stride", "64"]));
    assert_eq!((side_by_side.0, overlapping.0), (8 * 127, 1023));
    assert!(overlapping.1 < side_by_side.1, "{overlapping:?} {side_by_side:?}");
    assert_eq!(eval(&["--stride", "128"]), side_by_side);
}
