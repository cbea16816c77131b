//! Files of questions in every layout, whole and broken.

use std::fs;
use std::path::Path;

use trimwick_train::Error;
use trimwick_train::tasks::{Item, Layout, Task};

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

/// Lines of `--log_samples` of lm-evaluation-harness 0.4: today's form and the earlier one.
#[test]
fn what_the_harness_logs_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    let many: Vec<String> =
        (0..11).map(|i| format!(r#""gen_args_{i}": {{"arg_0": "Q:", "arg_1": " c{i}"}}"#)).collect();
    let lines = [
        r#"{"doc_id": 0, "doc": {"q": 1}, "target": "1", "arguments": {"gen_args_0": {"arg_0": "Question: a\nAnswer:", "arg_1": " yes"}, "gen_args_1": {"arg_0": "Question: a\nAnswer:", "arg_1": " no"}}, "resps": [[["-1.5", "False"]], [["-0.5", "True"]]], "acc": 1.0}"#,
        r#"{"target": 0, "arguments": [["one ", "two"], ["one ", "three"]]}"#,
        r#"{"target": " no", "arguments": [["q", " yes"], ["q", "  no"]]}"#,
        &format!(r#"{{"target": 10, "arguments": {{{}}}}}"#, many.join(", ")),
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    let items = Task::read(Layout::Samples, &path, None).unwrap().items;
    assert_eq!(items[0], item(1, "Question: a\nAnswer:", &["yes", "no"], 1));
    assert_eq!(items[1], Item { delimiter: String::new(), ..item(2, "one ", &["two", "three"], 0) });
    assert_eq!(items[2], item(3, "q", &["yes", " no"], 1));
    assert_eq!(
        (items[3].choices[9].as_str(), items[3].choices[10].as_str(), items[3].gold),
        ("c9", "c10", 10)
    );

    for (line, expected) in [
        (
            r#"{"target": 0, "arguments": [["a", " x"], ["b", " x"]]}"#,
            "one context for all choices, found another one, \"b\"",
        ),
        (r#"{"target": 2, "arguments": [["a", " x"], ["a", " y"]]}"#, "target: an index from 0 below 2"),
        (r#"{"target": 0, "arguments": [["a", " x"]]}"#, "at least two choices, found 1"),
        (
            r#"{"target": 0, "arguments": {"gen_args_0": {"arg_0": "a", "arg_1": {"until": []}}}}"#,
            "found another form",
        ),
        (r#"{"query": "a", "choices": ["b", "c"], "gold": 0}"#, "missing field `arguments`"),
        (r#""x""#, "found invalid type: string \"x\" at column"),
    ] {
        fs::write(&path, line).unwrap();
        let found = Task::read(Layout::Samples, &path, None).unwrap_err().to_string();
        assert!(found.contains(expected) && !found.contains("Raw"), "{line}: {found}");
    }
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

#[test]
fn the_mmlu_questions_of_the_tests_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks/mmlu_evals.jsonl");
    let task = Task::read(Layout::Mmlu, &path, None).unwrap();
    assert_eq!(task.items.len(), 48);
    let first = &task.items[0];
    assert!(first.context.starts_with("Which life-style factors") && first.context.contains("?\nA. Smoking"));
    assert_eq!((first.gold, first.choices.as_slice()), (3, &ABCD.map(String::from)[..]));
}
