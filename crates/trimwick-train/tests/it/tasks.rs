//! Multiple choice: files to questions to tokens to accuracies.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use trimwick_nn::CausalLm;
use trimwick_train::tasks::{Dense, Encoder, Item, Layout, Question, Request, Scorer, Task, measure};
use trimwick_train::{BoxError, Error};

fn item(line: u64, context: &str, choices: &[&str], gold: usize) -> Item {
    let choices = choices.iter().map(|c| c.to_string()).collect();
    Item { line, context: context.into(), delimiter: " ".into(), choices, gold }
}

const ABCD: [&str; 4] = ["A", "B", "C", "D"];

#[test]
fn every_layout_becomes_the_prompt_of_the_harness() {
    let ask = "Question: How?\nAnswer:";
    let table: Vec<(Layout, &str, &str, Vec<Item>)> = vec![
        (
            Layout::Choice,
            "a.jsonl",
            "\u{feff}{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1, \"id\": [7]}\n\n  {\"context\": \"c \", \"choices\": [\"x\", \"y\", \"z\"], \"answer\": \"C\"}\r\n",
            vec![item(1, "q", &["a", "b"], 1), item(3, "c ", &["x", "y", "z"], 2)],
        ),
        (
            Layout::Choice,
            "delimiter.jsonl",
            r#"{"query": "q", "choices": ["a", ""], "gold": 0, "delimiter": ""}"#,
            vec![Item { delimiter: String::new(), ..item(1, "q", &["a", ""], 0) }],
        ),
        (
            Layout::HellaSwag,
            "val.jsonl",
            concat!(
                r#"{"ind": 4, "activity_label": "Knitting", "ctx_a": "A [header] man sits.", "ctx_b": "the Man [step]", "ctx": "unused", "endings": [" knits [substeps] well ", "leaves"], "label": 1}"#,
                "\n",
                r#"{"activity_label": "Tea", "ctx": "How to [title] brew", "endings": ["a", "b", "c", "d"], "label": "3"}"#,
            ),
            vec![
                item(1, "Knitting: A man sits. The man ", &["knits well", "leaves"], 1),
                item(2, "Tea: How to. brew", &["a", "b", "c", "d"], 3),
            ],
        ),
        (
            Layout::Arc,
            "ARC.jsonl",
            concat!(
                r#"{"id": "x", "question": {"stem": "How?", "choices": [{"text": "so", "label": "A"}, {"text": "thus", "label": "B"}, {"text": "hence", "label": "C"}]}, "answerKey": "C"}"#,
                "\n",
                r#"{"question": "How?", "choices": {"text": ["so", "thus"], "label": ["1", "2"]}, "answerKey": "1"}"#,
            ),
            vec![item(1, ask, &["so", "thus", "hence"], 2), item(2, ask, &["so", "thus"], 0)],
        ),
        (
            Layout::Piqa,
            "inline.jsonl",
            concat!(
                r#"{"goal": "How?", "sol1": "so", "sol2": "thus", "label": 1}"#,
                "\n",
                r#"{"goal": "How?", "sol1": "so", "sol2": "thus", "label": "0"}"#,
            ),
            vec![item(1, ask, &["so", "thus"], 1), item(2, ask, &["so", "thus"], 0)],
        ),
        (
            Layout::Piqa,
            "valid.jsonl",
            "{\"goal\": \"How?\", \"sol1\": \"so\", \"sol2\": \"thus\"}\n{\"goal\": \"How?\", \"sol1\": \"a\", \"sol2\": \"b\"}\n",
            vec![item(1, ask, &["so", "thus"], 0), item(2, ask, &["a", "b"], 1)],
        ),
        (
            Layout::Mmlu,
            "abstract_algebra_test.csv",
            "\"Is it, \"\"so\"\"\nor not? \",1,2,\"3, 4\",5,C\nWhat?,a,b,c,d,A\n",
            vec![
                item(
                    1,
                    "The following are multiple choice questions (with answers) about abstract algebra.\n\nIs it, \"so\"\nor not?\nA. 1\nB. 2\nC. 3, 4\nD. 5\nAnswer:",
                    &ABCD,
                    2,
                ),
                item(
                    3,
                    "The following are multiple choice questions (with answers) about abstract algebra.\n\nWhat?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
                    &ABCD,
                    0,
                ),
            ],
        ),
        (
            Layout::Mmlu,
            "all.jsonl",
            concat!(
                r#"{"question": " What?\n", "subject": "us_foreign_policy", "choices": ["a", "b", "c", "d"], "answer": 3}"#,
                "\n",
                r#"{"question": "What?", "choices": ["a", "b", "c", "d"], "answer": "B"}"#,
            ),
            vec![
                item(
                    1,
                    "The following are multiple choice questions (with answers) about us foreign policy.\n\nWhat?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
                    &ABCD,
                    3,
                ),
                item(2, "What?\nA. a\nB. b\nC. c\nD. d\nAnswer:", &ABCD, 1),
            ],
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("valid-labels.lst"), "0\n1\n").unwrap();
    for (layout, name, text, expected) in table {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        assert_eq!(Task::read(layout, &path, None).unwrap().items, expected, "{name}");
        assert_eq!(Task::read(layout, &path, Some(1)).unwrap().items, expected[..1], "{name}");
        assert_eq!(Layout::parse(layout.name()), Some(layout));
    }
    assert_eq!(Layout::parse("Arc"), None);
}

#[test]
fn whatever_is_wrong_with_a_file_is_told_with_its_line() {
    let choice =
        |tail: &str| format!("{{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}}\n{tail}");
    let dir = tempfile::tempdir().unwrap();
    let label = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    label("short-labels.lst", "0\n");
    label("long-labels.lst", "0\n1\n0\n");
    label("bad-labels.lst", "0\n2\n");
    let piqa = "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n".repeat(2);
    let swag = |tail: &str| format!("{{\"activity_label\": \"a\", \"endings\": [\"x\", \"y\"], {tail}}}");
    let arc = |choices: &str, key: &str| {
        format!("{{\"question\": \"q\", \"choices\": {choices}, \"answerKey\": \"{key}\"}}")
    };
    let table: Vec<(Layout, &str, Vec<u8>, &str)> = vec![
        (Layout::Choice, "empty.jsonl", vec![], "line 1: expected at least one question: {\"query\""),
        (Layout::Choice, "blank.jsonl", b" \n\n".into(), "line 1: expected at least one question"),
        (
            Layout::Choice,
            "json.jsonl",
            choice("{\"query\": \"q\",,}").into(),
            "line 2: expected {\"query\": text",
        ),
        (Layout::Choice, "deep.jsonl", "[".repeat(9000).into(), "line 1: expected {\"query\""),
        (Layout::Choice, "type.jsonl", choice("[1, 2]").into(), "line 2: expected {\"query\": text"),
        (
            Layout::Choice,
            "typo.jsonl",
            choice(r#"{"query": "q", "chioces": ["a", "b"], "gold": 0}"#).into(),
            "found missing field `choices` at column 48",
        ),
        (
            Layout::Choice,
            "both.jsonl",
            br#"{"query": "q", "context": "q", "choices": ["a", "b"], "gold": 0}"#.into(),
            "found duplicate field `query`",
        ),
        (
            Layout::Choice,
            "one.jsonl",
            br#"{"query": "q", "choices": ["a"], "gold": 0}"#.into(),
            "line 1: expected at least two choices, found 1",
        ),
        (
            Layout::Choice,
            "zero.jsonl",
            br#"{"query": "q", "choices": [], "gold": "A"}"#.into(),
            "line 1: expected at least two choices, found 0",
        ),
        (
            Layout::Choice,
            "range.jsonl",
            br#"{"query": "q", "choices": ["a", "b"], "gold": 2}"#.into(),
            "line 1: expected gold: an index from 0 below 2, or a letter from A to B, found 2",
        ),
        (
            Layout::Choice,
            "minus.jsonl",
            br#"{"query": "q", "choices": ["a", "b"], "gold": -1}"#.into(),
            "a letter from A to B, found \"-1\"",
        ),
        (
            Layout::Choice,
            "digits.jsonl",
            br#"{"query": "q", "choices": ["a", "b"], "gold": "1"}"#.into(),
            "a letter from A to B, found \"1\"",
        ),
        (
            Layout::Choice,
            "float.jsonl",
            br#"{"query": "q", "choices": ["a", "b"], "gold": 0.5}"#.into(),
            "floating point `0.5`, expected an index or a letter",
        ),
        (Layout::Choice, "latin.jsonl", b"{}\n\xe9".into(), "line 1: expected {\"query\""),
        (
            Layout::Choice,
            "utf8.jsonl",
            [choice("").as_bytes(), b"\xe9"].concat(),
            "line 2: expected UTF-8 text, found byte 0xe9 at column 1",
        ),
        (
            Layout::HellaSwag,
            "test.jsonl",
            swag(r#""ctx": "c", "label": """#).into(),
            "expected label: an index from 0 below 2; a split without labels cannot be scored, found \"\"",
        ),
        (
            Layout::HellaSwag,
            "half.jsonl",
            swag(r#""ctx_a": "c", "label": 0"#).into(),
            "found neither ctx_a with ctx_b nor ctx",
        ),
        (
            Layout::Arc,
            "key.jsonl",
            arc(r#"{"text": ["a", "b"], "label": ["A", "B"]}"#, "E").into(),
            "expected answerKey: one of the labels \"A, B\", found \"E\"",
        ),
        (
            Layout::Arc,
            "labels.jsonl",
            arc(r#"{"text": ["a", "b"], "label": ["A"]}"#, "A").into(),
            "expected a label for each choice, found 2 texts and 1 labels",
        ),
        (
            Layout::Arc,
            "none.jsonl",
            br#"{"question": "q", "answerKey": "A"}"#.into(),
            "found a question without choices",
        ),
        (
            Layout::Arc,
            "number.jsonl",
            br#"{"question": 5, "answerKey": "A"}"#.into(),
            "found invalid type: integer `5`, expected a text, or an object with stem and choices",
        ),
        (
            Layout::Piqa,
            "nolabels.jsonl",
            piqa.clone().into(),
            "nolabels-labels.lst with all labels, found neither",
        ),
        (
            Layout::Piqa,
            "short.jsonl",
            piqa.clone().into(),
            "short-labels.lst: line 1: expected a label for each",
        ),
        (Layout::Piqa, "long.jsonl", piqa.clone().into(), "long-labels.lst: line 3: expected 2 labels"),
        (
            Layout::Piqa,
            "bad.jsonl",
            piqa.into(),
            "bad-labels.lst: line 2: expected label: an index from 0 below 2",
        ),
        (Layout::Mmlu, "five.csv", b"q,a,b,c,d,A\nq,a,b,c,A\n".into(), "line 2: expected a row of 6 fields"),
        (
            Layout::Mmlu,
            "head.csv",
            b"question,A,B,C,D,answer\n".into(),
            "expected a letter from A to D in the last field, and no heading above the rows, found \"answer\"",
        ),
        (Layout::Mmlu, "quote.csv", b"\"q,a,b,c,d,A\n".into(), "found 1 fields"),
        (Layout::Mmlu, "latin.csv", b"q,a,b,c,d,A\nq,\xff".into(), "line 2: expected UTF-8 text"),
        (
            Layout::Mmlu,
            "three.jsonl",
            br#"{"question": "q", "choices": ["a", "b", "c"], "answer": 0}"#.into(),
            "line 1: expected four choices, found 3",
        ),
    ];
    for (layout, name, bytes, expected) in table {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = Task::read(layout, &path, None).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Text { .. }), "{name}: {message}");
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    // A file of one endless line is given up after 64 MiB.
    let path = dir.path().join("long.jsonl");
    fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let message = Task::read(Layout::Choice, &path, None).unwrap_err().to_string();
    assert!(message.contains("line 1: expected lines of at most 67108864 bytes"), "{message}");
    let missing = Task::read(Layout::Choice, Path::new("no such file"), None).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }));
}

/// Letters are 1 to 26, a space is 27, and `yz` is one token, 28.
fn encode(text: &str) -> Result<Vec<u32>, BoxError> {
    let mut ids: Vec<u32> = Vec::new();
    for c in text.chars() {
        match (c, ids.last()) {
            ('z', Some(25)) => *ids.last_mut().unwrap() = 28,
            (' ', _) => ids.push(27),
            ('a'..='z', _) => ids.push(c as u32 - 'a' as u32 + 1),
            _ => return Err("a character that is not in the vocabulary".into()),
        }
    }
    Ok(ids)
}

fn questions(text: &str, prefix: Option<u32>, vocab: usize, window: usize) -> Result<Vec<Question>, Error> {
    let task = Task::memory(Layout::Choice, "test", text.to_string(), None).unwrap();
    task.encode(&Encoder { encode: &encode, prefix, vocab, window })
}

#[test]
fn tokens_are_split_as_the_harness_splits_them() {
    let request = |ids: &[u32], scored| Request { ids: ids.into(), scored };
    for (context, choices, window, cut, expected) in [
        ("ab", ["c", "d"], 9, false, [request(&[1, 2, 27, 3], 2), request(&[1, 2, 27, 4], 2)]),
        // White space at the end is the choice's.
        (
            "ab  ",
            ["c", "d"],
            9,
            false,
            [request(&[1, 2, 27, 27, 27, 3], 4), request(&[1, 2, 27, 27, 27, 4], 4)],
        ),
        // Without a context there is the prefix.
        ("", ["c", "de"], 9, false, [request(&[0, 27, 3], 2), request(&[0, 27, 4, 5], 3)]),
        (" ", ["c", "d"], 9, false, [request(&[0, 27, 27, 3], 3), request(&[0, 27, 27, 4], 3)]),
        // Three positions take four tokens, the last of them a target; the longer choice leaves less of the context.
        ("abcd", ["e", "fg"], 3, true, [request(&[3, 4, 27, 5], 2), request(&[4, 27, 6, 7], 3)]),
        ("ab", ["c", "d"], 3, false, [request(&[1, 2, 27, 3], 2), request(&[1, 2, 27, 4], 2)]),
    ] {
        let text = format!("{}", serde_json::json!({ "query": context, "choices": choices, "gold": 0 }));
        let found = questions(&text, Some(0), 29, window).unwrap();
        assert_eq!(found, [Question { requests: expected.into(), cut }], "{context:?}");
    }
    // A token that reaches over the border belongs to neither: the choice is what has more tokens than the context.
    let text = r#"{"query": "ay", "choices": ["zb", "b"], "gold": 0, "delimiter": ""}"#;
    let found = questions(text, None, 29, 9).unwrap();
    assert_eq!(found[0].requests, [request(&[1, 25, 2], 1), request(&[1, 25, 2], 1)]);

    for (text, prefix, vocab, window, expected) in [
        (
            r#"{"query": "ay", "choices": ["z", "b"], "gold": 0, "delimiter": ""}"#,
            None,
            29,
            9,
            "choice 0 (from 0) of 0 tokens",
        ),
        (
            r#"{"query": "a", "choices": ["b", "abcd"], "gold": 0}"#,
            None,
            29,
            4,
            "at most 4 tokens, the model's window, found choice 1",
        ),
        (r#"{"query": "", "choices": ["b", "c"], "gold": 0}"#, None, 29, 9, "expected a context, found none"),
        (
            r#"{"query": "a", "choices": ["b", "c"], "gold": 0}"#,
            None,
            27,
            9,
            "below the model's vocabulary of 27, found id 27",
        ),
        (
            r#"{"query": "a", "choices": ["b", "É"], "gold": 0}"#,
            None,
            29,
            9,
            "test: line 1: the tokenizer failed",
        ),
    ] {
        let message = questions(text, prefix, vocab, window).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

/// A model whose next token depends on the last one alone, by a table of logits.
struct Bigram(Tensor);

/// The logit of `next` after `last`.
fn logit(last: u32, next: u32) -> f64 {
    f64::from(last * 31 + next * 17 + last * next % 13) % 7. - 3.
}

/// The log-likelihood of `next` after `last`, by hand.
fn known(last: u32, next: u32) -> f64 {
    logit(last, next) - (0..29).map(|n| logit(last, n).exp()).sum::<f64>().ln()
}

impl Bigram {
    fn new() -> Self {
        let table: Vec<f32> = (0..29).flat_map(|a| (0..29).map(move |b| logit(a, b) as f32)).collect();
        Self(Tensor::from_vec(table, (29, 29), &Device::Cpu).unwrap())
    }
}

impl CausalLm for Bigram {
    fn vocab_size(&self) -> usize {
        29
    }

    fn max_context(&self) -> usize {
        64
    }

    fn blocks(&self) -> usize {
        0
    }

    fn block_path(&self, index: usize) -> String {
        index.to_string()
    }

    fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t) = ids.dims2()?;
        self.0.index_select(&ids.flatten_all()?, 0)?.reshape((b, t, 29))
    }

    fn block(&self, _: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(x.clone())
    }

    fn head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(x.clone())
    }
}

#[test]
fn log_likelihoods_are_those_of_the_model() {
    let model = Bigram::new();
    let mut dense = Dense::new(&model, &Device::Cpu);
    // Of different lengths, twice the same inputs, and more than one batch holds.
    let long: Vec<u32> = (0..3000).map(|i| i * i % 29).collect();
    let ids = [vec![1, 2, 3], vec![1, 2, 4], vec![5, 1, 2, 3, 9], vec![1, 2], long.clone(), long];
    let requests: Vec<Request> =
        ids.into_iter().zip([1, 1, 3, 1, 2999, 5]).map(|(ids, scored)| Request { ids, scored }).collect();
    let found = dense.score(&requests).unwrap();
    for (request, found) in requests.iter().zip(found) {
        let from = request.ids.len() - request.scored;
        let expected: f64 =
            (from..request.ids.len()).map(|i| known(request.ids[i - 1], request.ids[i])).sum();
        assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} for {expected}");
    }
}

#[test]
fn accuracies_count_what_the_model_finds_likeliest() {
    let text = concat!(
        "{\"query\": \"ab\", \"choices\": [\"c\", \"defg\", \"h\"], \"gold\": 0}\n",
        "{\"query\": \"q\", \"choices\": [\"hello\", \"bye\"], \"gold\": 1}\n",
        "{\"query\": \"no\", \"choices\": [\"yes\", \"perhaps\", \"later\"], \"gold\": 2}\n",
    );
    let task = Task::memory(Layout::Choice, "test", text, None).unwrap();
    let encoder = Encoder { encode: &encode, prefix: None, vocab: 29, window: 8 };
    let questions = task.encode(&encoder).unwrap();
    let model = Bigram::new();
    let mut done = Vec::new();
    let mut progress = |at, of| done.push((at, of));
    let score = measure(&task, &questions, &mut Dense::new(&model, &Device::Cpu), &mut progress).unwrap();
    assert_eq!(done, [(1, 3), (2, 3), (3, 3)]);

    let by_hand = |item: &Item| -> Vec<f64> {
        let last = encode(&item.context).unwrap().pop().unwrap();
        let of = |choice: &String| {
            let ids = [vec![last], encode(&format!(" {choice}")).unwrap()].concat();
            ids.windows(2).map(|pair| known(pair[0], pair[1])).sum()
        };
        item.choices.iter().map(of).collect()
    };
    let best = |values: Vec<f64>| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
    let (mut right, mut right_norm) = (0, 0);
    for (item, answer) in task.items.iter().zip(&score.answers) {
        let values = by_hand(item);
        for (a, b) in answer.log_likelihoods.iter().zip(&values) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        let normed = values.iter().zip(&item.choices).map(|(v, c)| v / c.len() as f64).collect();
        assert_eq!((answer.chosen, answer.chosen_norm), (best(values), best(normed)));
        right += usize::from(answer.chosen == item.gold);
        right_norm += usize::from(answer.chosen_norm == item.gold);
    }
    assert_eq!((score.items, score.acc, score.acc_norm), (3, right as f64 / 3., right_norm as f64 / 3.));
    assert_eq!(score.right().iter().filter(|r| **r).count(), right);
    // "no" with " perhaps" has ten tokens, one more than eight positions take.
    assert_eq!((score.cut, score.tokens), (1, (2 + 5 + 2) + (6 + 4) + (4 + 8 + 6)));
    assert!(measure(&task, &questions[1..], &mut Dense::new(&model, &Device::Cpu), &mut |_, _| {}).is_err());
}

#[test]
fn a_model_without_finite_logits_has_no_accuracy() {
    struct Broken;
    impl Scorer for Broken {
        fn score(&mut self, requests: &[Request]) -> Result<Vec<f64>, BoxError> {
            Ok(vec![f64::NAN; requests.len()])
        }
    }
    let text = r#"{"query": "a", "choices": ["b", "c"], "gold": 0}"#;
    let task = Task::memory(Layout::Choice, "test", text, None).unwrap();
    let encoder = Encoder { encode: &encode, prefix: None, vocab: 29, window: 8 };
    let questions = task.encode(&encoder).unwrap();
    let error = measure(&task, &questions, &mut Broken, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Scoring { line: 1, .. }), "{error}");
    assert!(
        error.to_string().contains("test: line 1: the choices could not be scored: a log-likelihood is NaN")
    );
}

#[test]
fn the_mmlu_questions_of_the_tests_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks/mmlu_evals.jsonl");
    let task = Task::read(Layout::Mmlu, &path, None).unwrap();
    assert_eq!(task.items.len(), 48);
    let first = &task.items[0];
    assert!(first.context.starts_with("Which life-style factors") && first.context.contains("?\nA. Smoking"));
    assert_eq!((first.gold, first.choices.as_slice()), (3, &ABCD.map(String::from)[..]));
}
