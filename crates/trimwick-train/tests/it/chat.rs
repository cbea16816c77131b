//! Conversations: shapes of lines, masks, faults, gradients of answers alone, and runs that go on.

use std::fs;

use candle_core::{DType, Device, IndexOp};
use trimwick_nn::ParamStore;
use trimwick_train::{
    Batch, BoxError, ChatCounts, ChatOptions, ChatSource, Conversation, DistillConfig, Distillation, Error,
    EvaluateOptions, Gradients, MemoryPlan, Result, Turn, Windows, evaluate, evaluate_losses, infer, loss,
};

use crate::common::*;

/// A letter is a token of its own, by its place in the alphabet; a turn begins with 22 and ends with 23. What the assistant
/// says is the answer, its end included.
fn render(turns: &[Turn]) -> std::result::Result<Conversation, BoxError> {
    let (mut ids, mut answers) = (vec![], vec![]);
    for turn in turns {
        let said = turn.content.bytes().map(|b| u32::from(b - b'a'));
        let tokens: Vec<u32> = std::iter::once(22).chain(said).chain([23]).collect();
        let answer = turn.role.name() == "assistant";
        answers.extend((0..tokens.len()).map(|i| answer && i > 0));
        ids.extend(tokens);
    }
    if ids.contains(&21) {
        return Err("the template says no".into());
    }
    Ok(Conversation { ids, answers })
}

const OPTIONS: ChatOptions = ChatOptions { context: 16, pad: 20, vocab: VOCAB, answers: true };

fn read(lines: &str) -> Result<(Windows, ChatCounts)> {
    ChatSource::memory("lines", lines.to_string()).windows(&render, &OPTIONS)
}

#[test]
fn what_is_measured_of_conversations_are_their_answers() -> Result<()> {
    let said = [("ab", "cde"), ("fghijklm", "i"), ("jklm", "nopqa"), ("b", "cc"), ("c", "abcdefgh")];
    let line = |(a, b): &(&str, &str)| format!("{{\"instruction\": \"{a}\", \"output\": \"{b}\"}}\n");
    let (windows, _) = read(&said.iter().map(line).collect::<String>())?;
    assert!(windows.len() > 1);
    let store = store(DType::F64, 3);
    let model = TinyLm::new(&store, 0.)?;
    // By hand, from the logits of every token.
    let losses = |inputs: &[u32], targets: &[u32]| -> Result<Vec<f64>> {
        let ids = candle_core::Tensor::from_slice(inputs, (1, inputs.len()), &Device::Cpu)?;
        let logits: Vec<Vec<f64>> = infer(&model, &ids)?.i(0)?.to_vec2()?;
        let loss = |(row, target): (&Vec<f64>, &u32)| {
            row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[*target as usize]
        };
        Ok(logits.iter().zip(targets).map(loss).collect())
    };
    let (mut sum, mut answers) = (0., 0);
    for i in 0..windows.len() {
        let (window, trained) = (windows.window(i).unwrap(), windows.trained(i).unwrap());
        let all = losses(&window[..15], &window[1..])?;
        for (loss, _) in all.iter().zip(&trained[1..]).filter(|(_, trained)| **trained) {
            (sum, answers) = (sum + loss, answers + 1);
        }
    }
    assert_eq!(answers, said.iter().map(|(_, answer)| answer.len() + 1).sum::<usize>());
    let mut quiet = |_: usize, _: usize, _: f64| {};
    let found = evaluate(&model, &Device::Cpu, &windows, EvaluateOptions::default(), &mut quiet)?;
    assert_eq!((found.scored, found.tokens), (answers, windows.len() * 16));
    assert!((found.loss - sum / answers as f64).abs() < 1e-12, "{}", found.loss);
    // Windows count by their answers.
    let mean = found.window_losses.iter().sum::<f64>() / found.window_losses.len() as f64;
    assert!((mean - found.loss).abs() < 1e-12, "{mean} {}", found.loss);
    let of = |window: &[u32]| losses(&window[..15], &window[1..]);
    let by_token = evaluate_losses(&windows, of, &mut quiet, &|| false)?.unwrap();
    assert!((by_token.loss - found.loss).abs() < 1e-12);
    assert_eq!((by_token.scored, by_token.window_losses.len()), (answers, windows.len()));
    let nan = |_: &[u32]| Ok::<_, Error>(vec![f64::NAN; 15]);
    assert!(matches!(
        evaluate_losses(&windows, nan, &mut quiet, &|| false),
        Err(Error::Broken { window: 0, .. })
    ));
    assert_eq!(evaluate_losses(&windows, of, &mut quiet, &|| true)?, None);
    Ok(())
}

#[test]
fn every_shape_gives_the_same_tokens_and_marks() -> Result<()> {
    let shapes = [
        r#"{"messages": [{"role": "user", "content": "ab\n\nc"}, {"role": "assistant", "content": "de"}], "id": 1}"#,
        r#"{"instruction": "ab", "input": "c", "output": "de"}"#,
        r#"{"conversations": [{"from": "human", "value": "ab\n\nc"}, {"from": "gpt", "value": "de"}]}"#,
        r#"{"conversations": [{"from": "user", "value": "ab\n\nc"}, {"from": "assistant", "value": "de"}]}"#,
    ];
    // The test's tokenizer has no line breaks: what stands between instruction and input is seen here.
    let seen = |line: &str| {
        let turns = std::sync::Mutex::new(vec![]);
        let keep = |all: &[Turn]| {
            turns.lock().unwrap().extend(all.iter().map(|t| (t.role.name(), t.content.clone())));
            Ok(Conversation { ids: vec![1, 2, 3], answers: vec![false, false, true] })
        };
        ChatSource::memory("lines", line.to_string()).windows(&keep, &OPTIONS).unwrap();
        turns.into_inner().unwrap()
    };
    for line in shapes {
        assert_eq!(seen(line), [("user", "ab\n\nc".to_string()), ("assistant", "de".into())], "{line}");
    }
    for line in
        [r#"{"instruction": "ab", "output": "de"}"#, r#"{"instruction": "ab", "input": "", "output": "de"}"#]
    {
        assert_eq!(seen(line)[0].1, "ab");
        let (windows, counts) = read(&format!("\u{feff}{line}\n\n{line}\n"))?;
        assert_eq!(counts, ChatCounts { conversations: 2, ..ChatCounts::default() });
        let one = [22, 0, 1, 23, 22, 3, 4, 23];
        assert_eq!(windows.ids(), [one, one].concat());
        let marks = [false, false, false, false, false, true, true, true];
        assert_eq!(windows.trained(0), Some(&[marks, marks].concat()[..]));
        let batch = Batch::of(&windows, &[0], &Device::Cpu)?;
        let x = u32::MAX;
        assert_eq!(batch.targets, [x, x, x, x, 3, 4, 23, x, x, x, x, x, 3, 4, 23]);
        assert_eq!(batch.trained(), windows.trained_tokens(0));
    }
    // With the loss of all tokens the first of a conversation is none, and padding is none.
    let all = ChatOptions { answers: false, context: 18, ..OPTIONS };
    let line = r#"{"instruction": "ab", "output": "de"}"#;
    let (windows, _) = ChatSource::memory("l", format!("{line}\n{line}")).windows(&render, &all)?;
    let expected: Vec<bool> = (0..18).map(|i| i < 16 && i % 8 != 0).collect();
    assert_eq!((windows.trained(0), windows.filled(0)), (Some(&expected[..]), 16));
    Ok(())
}

#[test]
fn what_is_longer_than_the_context_is_cut_and_counted() -> Result<()> {
    let line =
        |asked: &str, answer: &str| format!("{{\"instruction\": {asked:?}, \"output\": {answer:?}}}\n");
    let text = line("a", "bbbbbbbbbbbbbbbbbbbb") + &line("aaaaaaaaaaaaaaaaaaaa", "b") + &line("a", "b");
    let (windows, counts) = read(&text)?;
    // 25 tokens of which 16 stay, 25 whose answer is beyond the context, and 6.
    assert_eq!(counts, ChatCounts { conversations: 3, cut: 2, cut_tokens: 18, dropped: 1 });
    assert_eq!((windows.len(), windows.filled(0), windows.filled(1)), (2, 16, 6));
    assert_eq!(windows.window(1).unwrap()[6..], [20; 10]);
    assert_eq!(windows.trained_tokens(0), 12);
    let none = read(&line("aaaaaaaaaaaaaaaaaaaa", "b")).unwrap_err();
    assert!(matches!(none, Error::Setting { key: "context", .. }), "{none}");
    assert!(matches!(read("\n \n"), Err(Error::Empty { .. })));
    Ok(())
}

#[test]
fn bad_lines_are_named_with_what_to_do() {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let messages = |list: &str| format!("{{\"messages\": {list}}}");
    let cases = [
        ("{\"messages\": [".to_string(), "EOF"),
        ("[1]".into(), "an array"),
        (
            "{\"text\": \"a\"}".into(),
            "the key \"messages\", as in the file's first line, found \"text\" first",
        ),
        (messages("3"), "\"messages\" to be a list, found a number"),
        (messages("[]"), "at least one turn in \"messages\", found an empty list"),
        (messages("[\"a\"]"), "messages[0] to be an object"),
        (messages(r#"[{"content": "a"}]"#), "a string messages[0].role, found no such key"),
        (
            messages(r#"[{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]"#),
            "messages[1].role to be \"system\", \"user\" or \"assistant\", found \"bot\"",
        ),
        (
            messages(r#"[{"role": "user", "content": ["a"]}]"#),
            "messages[0].content to be a string, found an array",
        ),
        (messages(r#"[{"role": "user", "content": null}]"#), "found null"),
        (messages(r#"[{"role": "user", "content": "a"}]"#), "a turn of the assistant"),
        (messages(r#"[{"role": "assistant", "content": "v"}]"#), "the template says no"),
        (
            messages(r#"[{"role": "assistant", "content": "z"}]"#),
            "id 25: the tokenizer belongs to another model",
        ),
    ];
    for (bad, expected) in cases {
        let error = read(&format!("{good}\n\n{bad}\n{good}\n")).unwrap_err().to_string();
        assert!(error.starts_with("lines: line 3: ") && error.contains(expected), "{bad}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    for (first, expected) in [
        ("{}", "an empty object"),
        ("{\"text\": \"a\"}", "none of these keys (the first of 1 is \"text\")"),
        ("{\"messages\": [], \"instruction\": \"\"}", "more than one of these keys"),
        ("{\"instruction\": \"a\"}", "a string \"output\", found no such key"),
        (
            "{\"instruction\": \"a\", \"input\": 3, \"output\": \"b\"}",
            "\"input\" to be a string, found a number",
        ),
        (r#"{"conversations": [{"role": "user", "content": "a"}]}"#, "a string conversations[0].from"),
        (r#"{"conversations": [{"from": "bing", "value": "a"}]}"#, "\"human\" (or \"user\")"),
    ] {
        let error = read(first).unwrap_err().to_string();
        assert!(error.starts_with("lines: line 1: ") && error.contains(expected), "{first}: {error}");
    }
    // Each file has a shape of its own.
    let folder = scratch();
    let paths = [("a", good), ("b", r#"{"instruction": "a", "output": "b"}"#)].map(|(name, line)| {
        fs::write(folder.path().join(name), line).unwrap();
        folder.path().join(name)
    });
    assert_eq!(ChatSource::files(paths).windows(&render, &OPTIONS).unwrap().1.conversations, 2);
}

/// Lines of which the answers have different lengths.
fn talks() -> String {
    let line = |i: usize| {
        let word = |n: usize, k: usize| {
            (0..n).map(|j| char::from(b'a' + ((i * k + j * 3) % 20) as u8)).collect::<String>()
        };
        format!("{{\"instruction\": {:?}, \"output\": {:?}}}\n", word(1 + i % 4, 7), word(1 + i % 7, 5))
    };
    (0..40).map(line).collect()
}

#[test]
fn gradients_are_those_of_the_answers_alone() -> Result<()> {
    let (windows, _) = read(&talks())?;
    let store = ParamStore::with_seed(DType::F64, &Device::Cpu, 1);
    let model = TinyLm::new(&store, 0.)?;
    let theirs = ParamStore::with_seed(DType::F64, &Device::Cpu, 2);
    let teacher = TinyLm::new(&theirs, 0.)?;
    let batch = Batch::of(&windows, &[0, 1, 2], &Device::Cpu)?;
    let asked: Vec<usize> = (0..batch.targets.len()).filter(|&i| batch.targets[i] == u32::MAX).collect();
    assert!(asked.len() > 5 && batch.trained() > 5);
    for distill in [None, Some((0.7, 1.5, 0.)), Some((1., 1., 0.3))] {
        let config =
            distill.map(|(weight, temperature, features)| DistillConfig { weight, temperature, features });
        let distill = config.map(|config| Distillation::new(&teacher, config)).transpose()?;
        let of = |batch: &Batch| -> Result<_> {
            let loss = loss(&model, batch, distill.as_ref())?;
            let mut gradients = Gradients::new(&store.trainable());
            gradients.backward(&loss.total)?;
            Ok((loss, gradients))
        };
        let (whole, gradients) = of(&batch)?;
        // TinyLm predicts from the last token alone, so that a token that is not trained can be any other.
        let mut ids = batch.inputs.flatten_all()?.to_vec1::<u32>()?;
        asked.iter().for_each(|&i| ids[i] = (ids[i] + 5) % 20);
        let inputs = candle_core::Tensor::from_vec(ids, batch.inputs.dims2()?, &Device::Cpu)?;
        let (other, others) = of(&Batch { inputs, ..batch.clone() })?;
        assert_eq!(whole.value, other.value, "{config:?}");
        assert_eq!((whole.divergence, whole.features), (other.divergence, other.features));
        for param in store.trainable() {
            let [a, b] = [&gradients, &others].map(|g| g.get(param.name()).unwrap().flatten_all().unwrap());
            assert_eq!(a.to_vec1::<f64>()?, b.to_vec1::<f64>()?, "{config:?}: {}", param.name());
        }
        // And it is the mean over the answers: by hand, from each window alone.
        let (mut sum, mut count) = (0., 0);
        for index in 0..3 {
            let one = Batch::of(&windows, &[index], &Device::Cpu)?;
            sum += loss(&model, &one, distill.as_ref())?.value * one.trained() as f64;
            count += one.trained();
        }
        assert!((whole.value - sum / count as f64).abs() < 1e-12, "{config:?}");
    }
    Ok(())
}

/// Conversations and a text, two windows to one.
fn mixed() -> Windows {
    let (chats, _) = read(&talks()).unwrap();
    Windows::mix(&[(chats, 2), (windows(16 * 7, 16), 1)]).unwrap()
}

#[test]
fn a_run_on_conversations_goes_on_to_the_same_bytes() {
    for memory in [MemoryPlan::None, MemoryPlan::Blocks, MemoryPlan::Lean] {
        let scenario = || Scenario {
            save_every: 3,
            data: Some(mixed()),
            change: match memory {
                MemoryPlan::None => |_| {},
                MemoryPlan::Blocks => |config| config.memory = MemoryPlan::Blocks,
                MemoryPlan::Lean => |config| (config.memory, config.accumulate) = (MemoryPlan::Lean, 1),
            },
            ..Scenario::default()
        };
        let (whole, parts) = (scratch(), scratch());
        let expected = scenario().run(whole.path());
        expected.outcome.unwrap();
        for cut_before in [Some(5), Some(8), Some(12), None] {
            let ran = Scenario { cut_before, ..scenario() }.run(parts.path());
            assert_eq!(ran.outcome.is_ok(), cut_before.is_none());
            if cut_before.is_none() {
                assert_eq!(bits(&ran.store), bits(&expected.store), "{memory:?}");
                let metrics = |dir: &tempfile::TempDir| {
                    let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
                    text.lines()
                        .map(|l| l.split(",\"seconds").next().unwrap().to_string())
                        .collect::<Vec<_>>()
                };
                assert_eq!(metrics(&parts), metrics(&whole), "{memory:?}");
            }
        }
    }
}

#[test]
fn a_token_counts_the_same_in_whichever_micro_batch_it_is() {
    let run = |change: fn(&mut trimwick_train::TrainConfig)| {
        let scenario = Scenario { steps: 4, data: Some(mixed()), dropout: 0., change, ..Scenario::default() };
        let ran = scenario.run(scratch().path());
        ran.outcome.unwrap();
        ran.losses
    };
    let whole = run(|config| (config.batch, config.accumulate) = (4, 1));
    for (i, parts) in [
        run(|config| (config.batch, config.accumulate) = (2, 2)),
        run(|config| (config.batch, config.accumulate) = (1, 4)),
        run(|config| (config.batch, config.accumulate, config.memory) = (1, 4, MemoryPlan::Blocks)),
    ]
    .iter()
    .enumerate()
    {
        for (a, b) in whole.iter().zip(parts) {
            assert!((a - b).abs() < 2e-5 * a.abs(), "{i}: {whole:?} {parts:?}");
        }
    }
}

#[test]
fn other_marks_are_another_run() -> Result<()> {
    let of = |windows: &Windows| trimwick_train::Data::from(windows).hash;
    let lines = "{\"instruction\": \"ab\", \"output\": \"de\"}\n";
    let all = ChatOptions { answers: false, ..OPTIONS };
    let answers = read(lines)?.0;
    let every = ChatSource::memory("lines", lines).windows(&render, &all)?.0;
    assert_eq!(answers.ids(), every.ids());
    let plain = Windows::new(answers.ids().to_vec(), 16)?;
    let mix = |a, b| Windows::mix(&[(plain.clone(), a), (plain.clone(), b)]);
    let hashes = [&answers, &every, &plain, &mix(1, 2)?, &mix(2, 1)?].map(of);
    for (i, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..i].contains(hash), "{hashes:?}");
    }
    assert_eq!(of(&mix(2, 4)?), of(&mix(1, 2)?));
    Ok(())
}
