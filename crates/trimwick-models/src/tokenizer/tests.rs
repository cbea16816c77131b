use std::path::PathBuf;

use serde_json::{Value, json};
use trimwick_kernels::Rng;

use super::*;
use crate::gguf_bytes::GgufBytes;

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

/// A `tokenizer.json` of five tokens that can be broken in one place.
fn small() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 4, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": [["a", "b"]]}
    })
}

fn edit(path: &str, value: Value) -> Value {
    let mut file = small();
    *file.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    file
}

#[test]
fn a_small_file_reads() {
    let tokenizer = Tokenizer::from_json(&small().to_string(), "t").unwrap();
    assert_eq!(tokenizer.encode("abc<x>", false).unwrap(), [2, 3, 4]);
    // Old files write merges as strings, and options that change nothing may be missing.
    let old = edit("/model/merges", json!(["#version: 0.2", "a b"]));
    assert_eq!(Tokenizer::from_json(&old.to_string(), "t").unwrap().encode("ab", false).unwrap(), [2]);
    // Texts are never truncated or padded.
    let truncating = edit(
        "/truncation",
        json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}),
    );
    assert_eq!(
        Tokenizer::from_json(&truncating.to_string(), "t").unwrap().encode("abc", false).unwrap(),
        [2, 3]
    );
}

/// Every class of hostile `tokenizer.json`, with what the message must name.
#[test]
fn hostile_files_are_refused_by_name() {
    let regex = |pattern: &str| {
        edit(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
        )
    };
    let mut deep = json!({"type": "NFC"});
    for _ in 0..20 {
        deep = json!({"type": "Sequence", "normalizers": [deep]});
    }
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<y>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<y>": {"id": "<y>", "ids": [4_000_000_000_u32], "tokens": ["<y>"]}}});
    let unigram =
        |vocab: Value, unk: Value| edit("/model", json!({"type": "Unigram", "unk_id": unk, "vocab": vocab}));
    let token = |id: u64, content: &str| json!([{"id": id, "content": content, "special": true}]);
    let long = "ab".repeat(1000);
    let table = [
        ("merge longer than any token", edit("/model/merges", json!([[long, "b"]])), "model.merges[0]"),
        ("merge into no token", edit("/model/merges", json!([["b", "a"]])), "model.merges[0]"),
        ("merge of no token", edit("/model/merges", json!([["a", "b"], ["q", "a"]])), "model.merges[1]"),
        ("merge of three", edit("/model/merges", json!([["a", "b", "c"]])), "merge"),
        ("merge of one", edit("/model/merges", json!([["a"]])), "merge"),
        ("merge without a space", edit("/model/merges", json!(["ab"])), "merge"),
        ("merges a number", edit("/model/merges", json!(7)), "expected a sequence"),
        ("merges missing", edit("/model/merges", Value::Null), "model.merges"),
        (
            "prefix that the right part lacks",
            edit("/model/continuing_subword_prefix", json!("####")),
            "\"####\"",
        ),
        ("duplicate ids", edit("/model/vocab", json!({"a": 0, "b": 0})), "each id once"),
        ("id 2^32-1", edit("/model/vocab", json!({"a": 4_294_967_295_u32})), "id 4294967295"),
        ("id 2^24", edit("/model/vocab", json!({"a": 1 << 24})), "16777216"),
        ("id 2^40", edit("/model/vocab", json!({"a": 1_u64 << 40})), "1099511627776"),
        ("id negative", edit("/model/vocab", json!({"a": -1})), "-1"),
        ("no tokens", edit("/model/vocab", json!({})), "model.vocab"),
        ("vocab a string", edit("/model/vocab", json!("abc")), "table of tokens"),
        ("added token with a foreign id", edit("/added_tokens", token(1, "<x>")), "\"b\""),
        ("added token beyond the next id", edit("/added_tokens", token(9, "<x>")), "added_tokens[0]"),
        ("added token id 2^32-1", edit("/added_tokens", token(4_294_967_295, "<x>")), "added_tokens"),
        ("added token id 2^63", edit("/added_tokens", token(1 << 63, "<x>")), "added_tokens"),
        ("added token empty", edit("/added_tokens", token(4, "")), "added_tokens[0]"),
        ("exponential pattern", regex("(a+)+b"), "pre_tokenizer.pattern.Regex"),
        ("exponential pattern with look-around", regex("(?!x)(?:a*)*b"), "pre_tokenizer.pattern.Regex"),
        ("pattern that does not compile", regex("(a"), "pre_tokenizer"),
        ("nested parts", edit("/normalizer", deep), "normalizer"),
        ("fixed length 0", edit("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})), "length"),
        ("unknown part", edit("/normalizer", json!({"type": "Nonsense"})), "normalizer"),
        ("template with a foreign id", edit("/post_processor", template), "4000000000"),
        ("dropout", edit("/model/dropout", json!(0.1)), "model.dropout"),
        ("other model", edit("/model/type", json!("WordPiece")), "\"WordPiece\""),
        ("other version", edit("/version", json!("2.0")), "version"),
        ("unigram empty token", unigram(json!([["<unk>", 0.0], ["", -1.0]]), json!(0)), "model.vocab[1]"),
        ("unigram duplicate", unigram(json!([["a", 0.0], ["a", -1.0]]), json!(0)), "each token once"),
        ("unigram unk outside", unigram(json!([["a", 0.0]]), json!(9)), "model.unk_id"),
        ("unigram as a table", edit("/model/type", json!("Unigram")), "a list of tokens"),
        ("not a table", json!([1]), "JSON"),
    ];
    for (case, file, named) in table {
        let error = Tokenizer::from_json(&file.to_string(), "tokenizer.json");
        let message = error.err().unwrap_or_else(|| panic!("{case}: accepted")).to_string();
        let one_line = message.starts_with("tokenizer.json: ") && !message.contains('\n');
        assert!(message.contains(named) && one_line, "{case}: {message}");
    }
    for (case, text) in [
        ("nesting 10 000", "[".repeat(10_000)),
        ("nesting 10 000 in an unknown key", format!("{{\"x\":{}", "{\"x\":".repeat(10_000))),
        ("duplicate token", small().to_string().replace("\"b\":1", "\"b\":1,\"a\":7")),
        ("duplicate section", small().to_string().replacen("{", "{\"model\":{\"vocab\":{}},", 1)),
        (
            "unigram score infinite",
            unigram(json!([["a", "inf"]]), json!(0)).to_string().replace("\"inf\"", "1e999"),
        ),
        ("half a file", small().to_string()[..200].to_string()),
        ("empty", String::new()),
    ] {
        let error = Tokenizer::from_json(&text, "t").expect_err(case).to_string();
        assert!(error.starts_with("t: ") && !error.contains('\n'), "{case}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, b"{\"a\": \"\xff\"}").unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("not UTF-8 at byte 7"), "{error}");
}

fn small_bpe() -> GgufBytes {
    GgufBytes::default()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &["<e>", "a", "b", "ab", "Ġ"])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1])
        .strings("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 0)
}

fn small_spm() -> GgufBytes {
    GgufBytes::default()
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"])
        .f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -3.0, -4.0, -5.0, -1.0, -2.0])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.unknown_token_id", 0)
}

#[test]
fn small_gguf_vocabularies_read() {
    let read = |file: GgufBytes| Tokenizer::from_gguf(&file.open(), "g").unwrap();
    let bpe = read(small_bpe());
    assert_eq!(bpe.encode("ab a<e>", true).unwrap(), [3, 4, 1, 0]);
    let with = read(
        small_bpe().bool("tokenizer.ggml.add_bos_token", true).bool("tokenizer.ggml.add_eos_token", true),
    );
    assert_eq!(with.encode("ab", true).unwrap(), [0, 3, 0]);
    assert_eq!(with.special_ids(), (&[0][..], &[0][..]));

    let spm = read(small_spm());
    assert_eq!(spm.encode("ab b", true).unwrap(), [1, 7, 3, 5]);
    assert_eq!(spm.decode(&[1, 7, 3, 5], true).unwrap(), "ab b");
    // An unknown character without byte tokens is one unknown token, however long the run.
    assert_eq!(spm.encode("xyz", false).unwrap(), [3, 0]);
    let bare = read(
        small_spm()
            .bool("tokenizer.ggml.add_space_prefix", false)
            .bool("tokenizer.ggml.add_bos_token", false),
    );
    assert_eq!(bare.encode("ab ab", true).unwrap(), [6, 7]);
    assert_eq!(bare.decode(&[6, 7], true).unwrap(), "ab ab");
    // Text never merges into a control token, even one that its characters spell.
    let control = small_spm()
        .strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 3, 1]);
    let error = Tokenizer::from_gguf(&control.open(), "g").map(|t| t.encode("a b", false).unwrap());
    assert_eq!(error.unwrap(), [3, 4, 3, 5]);
}

#[test]
fn hostile_gguf_vocabularies_are_refused_by_name() {
    let tokens = "tokenizer.ggml.tokens";
    let table = [
        ("no tokenizer", small_bpe().without("tokenizer.ggml.model"), "tokenizer.ggml.model"),
        ("other model", small_bpe().str("tokenizer.ggml.model", "bert"), "\"bert\""),
        ("unknown pre", small_bpe().str("tokenizer.ggml.pre", "poro-chat"), "\"poro-chat\""),
        ("pre of another type", small_bpe().u32("tokenizer.ggml.pre", 3), "tokenizer.ggml.pre"),
        ("no tokens", small_bpe().without(tokens), tokens),
        ("empty list", small_bpe().strings(tokens, &[]), tokens),
        ("duplicate tokens", small_bpe().strings(tokens, &["<e>", "a", "a", "ab", "Ġ"]), "each token once"),
        ("types short", small_bpe().i32s("tokenizer.ggml.token_type", &[3, 1]), "token_type"),
        ("type 9", small_bpe().i32s("tokenizer.ggml.token_type", &[3, 1, 1, 9, 1]), "token_type[3]"),
        ("no merges", small_bpe().without("tokenizer.ggml.merges"), "tokenizer.ggml.merges"),
        ("merge of one", small_bpe().strings("tokenizer.ggml.merges", &["ab"]), "merges[0]"),
        ("merge of an end", small_bpe().strings("tokenizer.ggml.merges", &["a "]), "merges[0]"),
        ("merge of a stranger", small_bpe().strings("tokenizer.ggml.merges", &["a b", "a q"]), "merges[1]"),
        ("merge into no token", small_bpe().strings("tokenizer.ggml.merges", &["b a"]), "merges[0]"),
        ("eos outside", small_bpe().u32("tokenizer.ggml.eos_token_id", 5), "eos_token_id"),
        (
            "bos 2^32-1",
            small_bpe()
                .bool("tokenizer.ggml.add_bos_token", true)
                .u32("tokenizer.ggml.bos_token_id", u32::MAX),
            "bos_token_id",
        ),
        ("no scores", small_spm().without("tokenizer.ggml.scores"), "tokenizer.ggml.scores"),
        ("scores short", small_spm().f32s("tokenizer.ggml.scores", &[0.0]), "tokenizer.ggml.scores"),
        (
            "score NaN",
            small_spm().f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0]),
            "scores[3]",
        ),
        ("unknown id outside", small_spm().u32("tokenizer.ggml.unknown_token_id", 99), "unknown_token_id"),
    ];
    for (case, file, named) in table {
        let message = Tokenizer::from_gguf(&file.open(), "m.gguf").expect_err(case).to_string();
        assert!(message.contains(named) && !message.contains('\n'), "{case}: {message}");
    }
}
