//! Multiple choice: questions to tokens to accuracies.

use candle_core::{Device, Tensor};
use trimwick_nn::CausalLm;
use trimwick_train::tasks::{Dense, Encoder, Item, Layout, Question, Request, Scorer, Task, measure};
use trimwick_train::{BoxError, Error};

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
