//! Chat templates against Hugging Face's own rendering (`golden/chat/make.py`), and token spans against the text.

use std::path::{Path, PathBuf};

use serde_json::Value;
use trimwick_models::{ChatTemplate, Message, SpecialTokens, Tokenizer, builtin};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat").join(name)
}

fn cases() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(golden("rendered.json")).unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn template(case: &Value) -> ChatTemplate {
    let token = |name: &str| case["tokens"][name].as_str().map(str::to_string);
    let tokens = SpecialTokens {
        bos: token("bos_token"),
        eos: token("eos_token"),
        unk: token("unk_token"),
        pad: token("pad_token"),
    };
    ChatTemplate::from_file(&golden(&format!("{}.jinja", text(&case["template"]))), tokens).unwrap()
}

fn messages(case: &Value) -> Vec<Message> {
    let list = case["messages"].as_array().unwrap();
    list.iter().map(|m| Message { role: text(&m["role"]), content: text(&m["content"]) }).collect()
}

#[test]
fn templates_give_the_text_and_the_answers_that_transformers_gives() {
    let cases = cases();
    assert_eq!(cases.len(), 25);
    for case in &cases {
        let (name, messages) = (format!("{} {}", case["template"], case["talk"]), messages(case));
        let chat = template(case);
        if let Some(raised) = case["text"]["error"].as_str() {
            let error = chat.conversation(&messages).unwrap_err().to_string();
            assert!(error.contains(raised), "{name}: {error}");
            continue;
        }
        assert_eq!(chat.render(&messages, true).unwrap(), text(&case["prompt"]), "{name}: with the prompt");
        let found = chat.conversation(&messages).unwrap();
        assert_eq!(found.text, text(&case["text"]), "{name}");
        let answers: Vec<&str> = found.answers.iter().map(|r| &found.text[r.clone()]).collect();
        let expected: Vec<String> = case["answers"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(answers, expected, "{name}");
    }
}

#[test]
fn the_tokens_of_an_answer_decode_to_the_answer() {
    let model = builtin::model("tiny-llama").unwrap();
    let tokenizer = Tokenizer::from_json(model.tokenizer, "builtin").unwrap();
    for case in cases().iter().filter(|case| case["text"].is_string()) {
        let found = template(case).conversation(&messages(case)).unwrap();
        let (ids, spans) = tokenizer.encode_spans(&found.text).unwrap();
        assert_eq!(ids, tokenizer.encode(&found.text, false).unwrap());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), found.text);
        // Every byte belongs to a token, and tokens are in order.
        let mut reached = 0;
        for span in &spans {
            assert!(span.start <= reached && span.end >= reached, "{span:?} after {reached}");
            reached = span.end;
        }
        assert_eq!(reached, found.text.len());
        for answer in &found.answers {
            let inside = |(_, span): &(&u32, &std::ops::Range<usize>)| {
                span.start >= answer.start && span.end <= answer.end
            };
            let inner: Vec<u32> = ids.iter().zip(&spans).filter(inside).map(|(id, _)| *id).collect();
            let decoded = tokenizer.decode(&inner, false).unwrap();
            let answer = &found.text[answer.clone()];
            // A token that also holds a part of the prompt is none of the answer.
            assert!(
                answer.ends_with(&decoded) && answer.len() - decoded.len() <= 3,
                "{answer:?} {decoded:?}"
            );
        }
    }
}
