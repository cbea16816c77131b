//! Training on conversations: previewed, run, killed and run on, refused.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{done, json, ran, summary, trimwick, words};

const TEMPLATE: &str = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

/// A recipe for the built-in model on `talks.jsonl`, beside the text of the builtin.
fn recipe(train: &str) -> String {
    format!(
        r#"
[model]
source = "builtin:tiny-llama"

[data]
train = {train}
eval = "builtin:sotu-eval"
context = 64
eval_tokens = 256

[prune]
pattern = "2:4"
method = "magnitude"

[train]
steps = 8
batch = 2
accumulate = 2
lr = 1e-3
save_every = 2

[distill]
weight = 0.5

[compare]
arms = []
"#
    )
}

const MIX: &str = r#"[{ files = ["talks.jsonl"], format = "chat", template = "t.jinja", weight = 2 }, "builtin:sotu-train"]"#;

fn folder(train: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = words(3, 120);
    let sentences: Vec<&str> = text.split_terminator(". ").collect();
    let line = |pair: &[&str]| {
        let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
        let messages = [message("user", pair[0]), message("assistant", pair[1])];
        serde_json::json!({ "messages": messages }).to_string() + "\n"
    };
    let lines: String = sentences.chunks_exact(2).map(line).collect();
    fs::write(at("talks.jsonl"), lines).unwrap();
    fs::write(at("t.jinja"), TEMPLATE).unwrap();
    fs::write(at("r.toml"), recipe(train)).unwrap();
    dir
}

#[test]
fn a_preview_shows_what_is_trained() {
    let dir = folder(MIX);
    let args = ["preview", "r.toml", "--windows", "6"];
    let text = done(dir.path(), &args);
    let found = json(dir.path(), &[&args[..], &["--json"]].concat());
    let windows = found["windows"].as_array().unwrap();
    let chats = windows.iter().filter(|w| w["source"] == "data.train.0").count();
    assert_eq!((windows.len(), chats), (6, 4), "two windows of conversations to one of text");
    for window in windows {
        let parts = window["parts"].as_array().unwrap();
        let tokens = |of: &dyn Fn(&&Value) -> bool| -> u64 {
            parts.iter().filter(of).map(|p| p["tokens"].as_u64().unwrap()).sum()
        };
        assert_eq!(tokens(&|_| true) + window["padding"].as_u64().unwrap(), 64);
        assert_eq!(tokens(&|p| p["trained"] == true), window["trained"].as_u64().unwrap());
        if window["source"] == "data.train.1" {
            assert_eq!(window["trained"], 63);
            continue;
        }
        let shown: String = parts.iter().map(|p| p["text"].as_str().unwrap()).collect();
        assert!(shown.starts_with("<user>") && shown.ends_with('\n'), "{shown:?}");
        for part in parts {
            let said = part["text"].as_str().unwrap();
            if part["trained"] == true {
                assert!(said.ends_with('\n') && !said.contains('<'), "{said:?}");
                assert!(text.contains(&format!("[[{said}]]")), "{text}");
            } else {
                assert!(said.starts_with("<user>") && said.ends_with("<assistant>"), "{said:?}");
            }
        }
    }
    assert!(
        text.contains("data.train.0: 51 conversations (0 longer than data.context and cut, 0 left out"),
        "{text}"
    );
    assert!(text.ends_with("[[this]] is trained\n"), "{text}");

    // The same token by token.
    let listed = done(dir.path(), &[&args[..], &["--tokens"]].concat());
    let parts = windows[0]["parts"].as_array().unwrap();
    let mut lines = listed.lines().skip(2);
    let mut place = 0;
    for part in parts {
        for (id, piece) in part["ids"].as_array().unwrap().iter().zip(part["pieces"].as_array().unwrap()) {
            let trained = if part["trained"] == true { "trained" } else { "" };
            let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
            let (place_, id, piece) = (place.to_string(), id.to_string(), piece.as_str().unwrap());
            let expected: Vec<&str> =
                [&place_, id.as_str(), trained, piece].into_iter().flat_map(str::split_whitespace).collect();
            assert_eq!(words, expected);
            place += 1;
        }
    }
    assert_eq!(place, windows[0]["tokens"].as_u64().unwrap());
}

#[test]
fn a_run_on_conversations_continues_to_the_same_bytes() {
    let dir = folder(MIX);
    done(dir.path(), &["run", "r.toml", "--out", "whole"]);
    let mut child = trimwick(dir.path(), &["run", "r.toml", "--out", "cut"]).spawn().unwrap();
    let metrics = dir.path().join("cut/metrics.jsonl");
    while child.try_wait().unwrap().is_none() {
        if fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 3) {
            child.kill().unwrap();
        }
    }
    done(dir.path(), &["run", "r.toml", "--out", "cut"]);
    let run = |name: &str| dir.path().join(name);
    assert_eq!(summary(&run("whole")), summary(&run("cut")));
    for file in ["model/model.safetensors", "metrics.jsonl"] {
        let [a, b] = ["whole", "cut"].map(|name| fs::read(run(name).join(file)).unwrap());
        assert!(a == b, "{file}");
    }
    // The same tokens with another loss are other inputs.
    let inputs = |name: &str| fs::read_to_string(run(name).join("stages/inputs.json")).unwrap();
    fs::write(dir.path().join("all.toml"), recipe(&MIX.replace("weight = 2", "weight = 2, loss = \"all\"")))
        .unwrap();
    done(dir.path(), &["run", "all.toml", "train.steps=1", "--out", "all"]);
    assert_ne!(inputs("all"), inputs("whole"));
    assert_eq!(inputs("cut"), inputs("whole"));
}

fn refused(dir: &Path, args: &[&str]) -> String {
    let (code, stdout, stderr) = ran(dir, args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    errors[0].to_string()
}

#[test]
fn what_is_wrong_is_one_line_and_nothing_is_written() {
    let chat = |rest: &str| format!("{{ files = [\"talks.jsonl\"], format = \"chat\"{rest} }}");
    for (train, template, line, expected) in [
        (
            chat(""),
            TEMPLATE,
            "",
            "r.toml:6: data.train.template: missing: expected a chat template, since the model comes without one, found nothing; add for example template = \"chatml\", or template = \"path/to/file.jinja\"",
        ),
        (
            chat(", template = \"u.jinja\""),
            TEMPLATE,
            "",
            "r.toml:6: data.train.template: expected a Jinja file, found nothing at u.jinja; did you mean t.jinja?",
        ),
        (
            chat(", template = \"t.jinja\""),
            "{% if %}",
            "",
            "r.toml:6: data.train.template: expected a Jinja template, found ",
        ),
        (
            chat(", template = \"t.jinja\""),
            "{{ raise_exception('no\nsystem') }}",
            "",
            "talks.jsonl: line 1: t.jinja: chat template: expected messages that the template takes, found \"no system\" (template line 1)",
        ),
        (
            chat(", template = \"t.jinja\""),
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "",
            "talks.jsonl: line 1: t.jinja: chat template: expected a template that ends",
        ),
        (
            chat(", template = \"chatml\""),
            TEMPLATE,
            "{\"messages\": [{\"role\": \"tool\", \"content\": \"\"}]}\n",
            "talks.jsonl: line 52: expected messages[0].role to be \"system\", \"user\" or \"assistant\", found \"tool\"",
        ),
        (
            chat(", template = \"chatml\""),
            TEMPLATE,
            "{\"messages\"\n",
            "talks.jsonl: line 52: expected a JSON object with a conversation, found ",
        ),
    ] {
        let dir = folder(&train);
        fs::write(dir.path().join("t.jinja"), template).unwrap();
        let talks = fs::read_to_string(dir.path().join("talks.jsonl")).unwrap();
        fs::write(dir.path().join("talks.jsonl"), talks + line).unwrap();
        let verbs: &[&str] =
            if expected.starts_with("r.toml") { &["check", "run", "preview"] } else { &["run", "preview"] };
        for verb in verbs {
            let said = refused(dir.path(), &[verb, "r.toml"]);
            assert!(said.starts_with(&format!("error: {expected}")), "{verb}: {said}");
        }
        assert!(!dir.path().join("runs").exists());
    }
}

#[test]
fn a_folder_brings_its_own_template() {
    let dir = folder("{ files = [\"talks.jsonl\"], format = \"chat\" }");
    let tiny = dir.path().join("tiny");
    fs::create_dir(&tiny).unwrap();
    let model = trimwick_models::builtin::model("tiny-llama").unwrap();
    fs::write(tiny.join("config.json"), model.config).unwrap();
    fs::write(tiny.join("tokenizer.json"), model.tokenizer).unwrap();
    fs::write(tiny.join("model.safetensors"), model.weights).unwrap();
    let args = ["preview", "r.toml", "model.source=./tiny"];
    assert!(refused(dir.path(), &args).contains("since the model comes without one"));
    // A template that is given, one of several in the configuration, and a file beside it: the last one wins.
    let named = serde_json::json!([{ "name": "tool_use", "template": "no" }, { "name": "default", "template": TEMPLATE }]);
    fs::write(tiny.join("tokenizer_config.json"), serde_json::json!({ "chat_template": named }).to_string())
        .unwrap();
    assert!(done(dir.path(), &args).contains("<user>"));
    let other = TEMPLATE.replace("'<'", "bos_token + '('");
    fs::write(tiny.join("chat_template.jinja"), other).unwrap();
    let config = serde_json::json!({ "chat_template": named, "bos_token": { "content": "~" } });
    fs::write(tiny.join("tokenizer_config.json"), config.to_string()).unwrap();
    let said = refused(dir.path(), &args);
    assert!(said.contains("a template that only appends"), "{said}");
    fs::write(
        tiny.join("chat_template.jinja"),
        TEMPLATE.replace("'<'", "bos_token + '<'").replace("'<assistant>'", "bos_token + '<assistant>'"),
    )
    .unwrap();
    assert!(done(dir.path(), &args).contains("~<user>"));
}

#[test]
fn conversations_are_measured_by_their_answers() {
    let dir = folder(MIX);
    let eval = |loss: &str| {
        format!(
            "data.eval={{ files = [\"talks.jsonl\"], format = \"chat\", template = \"t.jinja\", loss = \"{loss}\" }}"
        )
    };
    let scored = |loss: &str| {
        let args = ["run", "r.toml", &eval(loss), "data.eval_tokens=128", "train.steps=2", "--out", loss];
        done(dir.path(), &args);
        let found = summary(&dir.path().join(loss));
        assert_eq!(found["arms"][0]["eval_tokens"], 128, "{found}");
        let path = format!("{loss}/model");
        let checked = json(dir.path(), &["verify", &path, "--against", loss, "--json"]);
        assert_eq!(checked["measured"]["compared"], true, "{checked}");
        checked["measured"]["scored"].as_u64().unwrap()
    };
    let (answers, all) = (scored("answers"), scored("all"));
    assert!(0 < answers && answers < all && all < 128, "{answers} of {all}");

    // Another text in the place of the one that the run measured on is no comparison.
    let talks = dir.path().join("talks.jsonl");
    let kept = fs::read_to_string(&talks).unwrap();
    fs::write(&talks, kept.replace("candle", "lamp")).unwrap();
    let (code, _, stderr) = ran(dir.path(), &["verify", "all/model", "--against", "all"]);
    assert!(code == 2 && stderr.contains("data.eval"), "{code}: {stderr}");

    // Where the text is not at hand the values are compared all the same.
    fs::remove_file(&talks).unwrap();
    let (code, stdout, stderr) = ran(dir.path(), &["verify", "all/model", "--against", "all"]);
    assert!(
        code == 0 && stdout.contains("bit for bit") && !stdout.contains("perplexity"),
        "{code}: {stdout}"
    );
    assert!(stderr.contains("note: the perplexity is not compared: "), "{stderr}");
}
