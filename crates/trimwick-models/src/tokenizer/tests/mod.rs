//! Tokenizers against reference ids, against themselves, and against everything that can be wrong with their files.

mod hostile;

use std::path::PathBuf;

use serde_json::{Value, json};
use trimwick_kernels::Rng;

use super::*;

fn golden_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers")
}

const GOLDEN: [&str; 7] = ["smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "default", "spm"];

fn golden_tokenizer(name: &str) -> Tokenizer {
    let file = GgufFile::open(golden_dir().join(format!("{name}.gguf"))).unwrap();
    Tokenizer::from_gguf(&file, name).unwrap()
}

fn prose() -> String {
    std::fs::read_to_string(golden_dir().join("../prose.txt")).unwrap()
}

/// Ids by the Python tokenizers library and by sentencepiece; see `make_tokenizer_golden.py`.
#[test]
fn ids_are_those_of_the_reference_tokenizers() {
    let golden: Value =
        serde_json::from_str(&std::fs::read_to_string(golden_dir().join("golden.json")).unwrap()).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    assert!(texts.len() > 80);
    for name in GOLDEN {
        let tokenizer = golden_tokenizer(name);
        for (text, expected) in texts.iter().zip(golden["ids"][name].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            // sentencepiece itself does not recognize control tokens in text.
            let Some(expected) = expected.as_array() else { continue };
            let expected: Vec<u32> = expected.iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn text_comes_back() {
    let text = "It's 1984:  naïve café\n\t日本語 👩‍👩‍👧 <|im_start|> \r\n x ";
    for name in GOLDEN.into_iter().filter(|name| *name != "qwen2") {
        let tokenizer = golden_tokenizer(name);
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
        let mut stream = tokenizer.decode_stream(false);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces.concat(), text, "{name}, as a stream");
        assert!(pieces.len() > 32, "long enough that the stream forgets its beginning");
    }
    // Qwen's normalization form C composes.
    let qwen = golden_tokenizer("qwen2");
    assert_eq!(qwen.decode(&qwen.encode("e\u{301}", false).unwrap(), false).unwrap(), "é");
}

#[test]
fn templates_put_special_tokens_around_a_text() {
    let table = [
        ("smollm", vec![]),
        ("gpt-2", vec![]),
        ("llama-bpe", vec![1]),
        ("tekken", vec![1]),
        ("spm", vec![1]),
    ];
    for (name, before) in table {
        let tokenizer = golden_tokenizer(name);
        let plain = tokenizer.encode("some text", false).unwrap();
        assert_eq!(tokenizer.special_ids(), (&before[..], &[][..]), "{name}");
        assert_eq!(tokenizer.encode("some text", true).unwrap(), [before.clone(), plain].concat(), "{name}");
        assert_eq!(tokenizer.encode("", true).unwrap(), before, "{name}");
    }
    let eos = |name| golden_tokenizer(name).eos_ids().to_vec();
    assert_eq!((eos("smollm"), eos("spm")), (vec![0], vec![2]));
    let skipped = golden_tokenizer("smollm");
    let ids = skipped.encode("a<|endoftext|>b", false).unwrap();
    assert_eq!(skipped.decode(&ids, true).unwrap(), "ab");
}

/// Texts that try to make a cut matter: the alphabet is full of what the rules look at.
fn random_text(seed: u64, parts: usize) -> String {
    const PARTS: [&str; 24] = [
        " ",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "a",
        "b",
        "th",
        "e ",
        "The ",
        " of",
        "'s",
        "1",
        "23",
        ".",
        ", ",
        "é",
        "e\u{301}",
        "▁",
        "日",
        "<|im_start|>",
        "<s>",
        "I'LL ",
    ];
    let rng = Rng::new(seed, "test", 0, "text");
    (0..parts as u64).map(|i| PARTS[rng.u32_at(i) as usize % PARTS.len()]).collect()
}

#[test]
fn cutting_a_text_changes_nothing() {
    for name in GOLDEN {
        let tokenizer = golden_tokenizer(name);
        let cuts = tokenizer.cuts.unwrap_or_else(|| panic!("{name}: its parts are known, so it is cut"));
        let mut cut = 0;
        for seed in 0..300 {
            let text = random_text(seed, 20 + seed as usize % 60) + &prose()[..seed as usize % 200];
            let pieces = cuts.pieces_of(&text, 1 + seed as usize % 7);
            cut += pieces.len() - 1;
            let whole = tokenizer.encode_piece(&text).unwrap();
            let parts: Vec<Vec<u32>> = pieces.iter().map(|p| tokenizer.encode_piece(p).unwrap()).collect();
            assert_eq!(parts.concat(), whole, "{name}: {pieces:?}");
        }
        assert!(cut > 2000, "{name}: {cut} cuts tried");
    }
}

#[test]
fn long_texts_are_cut_and_equal() {
    let text = prose().repeat(60);
    for name in ["llama-bpe", "spm"] {
        let tokenizer = golden_tokenizer(name);
        assert!(tokenizer.cuts.unwrap().pieces(&text).len() > 10);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), tokenizer.encode_piece(&text).unwrap(), "{name}");
    }
}

/// Each of these breaks a condition of [`super::cuts`], and the text shows that cutting would be wrong.
#[test]
fn tokenizers_that_look_across_are_not_cut() {
    let base: Value = serde_json::from_str(&golden_tokenizer("gpt-2").to_json().unwrap()).unwrap();
    let added = |content: &str, more: Value| {
        let mut token = json!({"id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": false, "special": false});
        token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token["id"] = json!(700);
        let mut value = base.clone();
        value["added_tokens"].as_array_mut().unwrap().push(token);
        value
    };
    let with = |key: &str, part: Value| {
        let mut value = base.clone();
        value[key] = part;
        value
    };
    let pattern = json!({"type": "Split", "pattern": {"Regex": "[a-z]+ [a-z]+"}, "behavior": "Isolated", "invert": false});
    let table = [
        ("an added token with a space in it", added("of the", json!({}))),
        ("an added token that takes in spaces after it", added("<x>", json!({"rstrip": true}))),
        (
            "a normalizer that strips",
            with("normalizer", json!({"type": "Strip", "strip_left": true, "strip_right": true})),
        ),
        (
            "an unknown pattern",
            with("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [pattern]})),
        ),
        ("no splitting", with("pre_tokenizer", Value::Null)),
        (
            "a prefix space",
            with(
                "pre_tokenizer",
                json!({"type": "ByteLevel", "add_prefix_space": true,
                                                        "trim_offsets": true, "use_regex": true}),
            ),
        ),
    ];
    for (case, value) in table {
        let tokenizer = Tokenizer::from_json(&value.to_string(), case).unwrap();
        assert_eq!(tokenizer.cuts, None, "{case}");
    }
    assert!(Tokenizer::from_json(&base.to_string(), "as it is").unwrap().cuts.is_some());
}

#[test]
fn what_is_written_reads_back_equal() {
    let text = prose() + "\n x  <|im_start|> 123 日本";
    for name in GOLDEN {
        let tokenizer = golden_tokenizer(name);
        let written = tokenizer.to_json().unwrap();
        let again = Tokenizer::from_json(&written, name).unwrap();
        assert_eq!(again.encode(&text, true).unwrap(), tokenizer.encode(&text, true).unwrap(), "{name}");
        assert_eq!(again.to_json().unwrap(), written, "{name}: the same bytes");
        assert_eq!(again.cuts, tokenizer.cuts, "{name}");
        assert_eq!(again.vocab_size(), tokenizer.vocab_size());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let tokenizer = golden_tokenizer("spm");
    tokenizer.save_json(&path).unwrap();
    let read = Tokenizer::from_file(&path).unwrap();
    assert_eq!(read.encode(&text, true).unwrap(), tokenizer.encode(&text, true).unwrap());
}

#[test]
fn white_space_beyond_the_matcher_is_an_error_and_below_it_is_right() {
    let tokenizer = golden_tokenizer("llama-bpe");
    let run = |n: usize| format!("a b{}c d", " ".repeat(n));
    let error = tokenizer.encode(&run(MAX_WHITE_RUN + 1), false).unwrap_err().to_string();
    assert!(error.contains("white-space"), "{error}");
    // Had the matcher given up, "c d" would be one piece with what precedes it.
    let ids = tokenizer.encode(&run(MAX_WHITE_RUN), false).unwrap();
    assert!(ids.ends_with(&tokenizer.encode(" c d", false).unwrap()));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), run(MAX_WHITE_RUN));
}

#[test]
fn training_depends_on_its_arguments_alone() {
    let text = prose();
    let train = || Tokenizer::train_bpe(&[&text, "a second text"], 500, &["<|endoftext|>", "<pad>"]).unwrap();
    let (a, b) = (train(), train());
    assert_eq!(a.to_json().unwrap(), b.to_json().unwrap());
    assert_eq!((a.vocab_size(), a.eos_ids()), (500, &[0][..]));
    assert_eq!((a.token_to_id("<|endoftext|>"), a.token_to_id("<pad>")), (Some(0), Some(1)));
    let hard = "any bytes: é 日 \u{0} \u{7f} 👩‍👩‍👧\r\n";
    assert_eq!(a.decode(&a.encode(hard, true).unwrap(), false).unwrap(), hard);
    assert!(a.encode(&text, false).unwrap().len() * 2 < text.len(), "it compresses");
    let again = Tokenizer::from_json(&a.to_json().unwrap(), "again").unwrap();
    assert_eq!(again.encode(&text, false).unwrap(), a.encode(&text, false).unwrap());

    let refused: [(&[&str], usize, &[&str], &str); 5] = [
        (&[&text], 256, &["<x>"], "vocab_size"),
        (&[&text], 1 << 25, &[], "vocab_size"),
        (&["tiny"], 400, &[], "smaller vocab_size"),
        (&[&text], 400, &["<x>", "<x>"], "special tokens"),
        (&[&text], 400, &[""], "special tokens"),
    ];
    for (texts, size, specials, named) in refused {
        let error = Tokenizer::train_bpe(texts, size, specials).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
