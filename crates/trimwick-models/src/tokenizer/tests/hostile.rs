//! Files from strangers.

use serde_json::{Value, json};
use trimwick_kernels::Rng;

use super::super::*;
use crate::gguf_bytes::GgufBytes;

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
    let mut undeclared = template.clone();
    undeclared["special_tokens"] = json!({});
    let replace = |pattern: &str| {
        edit("/normalizer", json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}))
    };
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
        ("pattern that matches nothing", replace("a*"), "normalizer.pattern"),
        ("pattern that matches nothing, ahead", replace("(?=a)"), "normalizer.pattern"),
        (
            "replacement of nothing",
            edit("/normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
            "normalizer.pattern.String",
        ),
        (
            "nothing prepended",
            edit("/normalizer", json!({"type": "Prepend", "prepend": ""})),
            "normalizer.prepend",
        ),
        ("a list for a part", edit("/normalizer", json!([""])), "a table or null"),
        (
            "a list for a part of a sequence",
            edit("/normalizer", json!({"type": "Sequence", "normalizers": [[""]]})),
            "normalizer.normalizers",
        ),
        ("template without the token", edit("/post_processor", undeclared), "post_processor.single"),
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

/// The suite's share; three million have been run.
const MUTANTS: usize = 30_000;

/// Files that between them have every part that the checks know something about.
fn seeds() -> Vec<Value> {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let mut spm = small();
    spm["model"] = json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
        "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "<x>": 4, "ab": 5, "▁a": 6}, "merges": ["a b", "▁ a"]});
    spm["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "NFC"}]});
    spm["pre_tokenizer"] = Value::Null;
    spm["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    spm["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<x>": {"id": "<x>", "ids": [4], "tokens": ["<x>"]}}});
    let mut unigram = small();
    unigram["model"] = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["a", -2.0], ["b", -2.5]]});
    unigram["pre_tokenizer"] = metaspace.clone();
    unigram["decoder"] = metaspace;
    let mut split = small();
    split["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": false},
        {"type": "Digits", "individual_digits": true}, {"type": "FixedLength", "length": 3},
        {"type": "Punctuation", "behavior": "Contiguous"}]});
    vec![small(), spm, unigram, split]
}

/// Changes a random place of a document, into something that has broken readers before.
fn mutate(value: &mut Value, rng: &Rng, at: &mut u64) {
    let mut draw = |n: usize| {
        *at += 1;
        rng.u32_at(*at) as usize % n
    };
    let mut place = value;
    loop {
        let size =
            place.as_array().map(Vec::len).or(place.as_object().map(serde_json::Map::len)).unwrap_or(0);
        if size == 0 || draw(5) == 0 {
            break;
        }
        let index = draw(size);
        place = match place {
            Value::Array(items) => &mut items[index],
            Value::Object(map) => map.values_mut().nth(index).unwrap(),
            _ => break,
        };
    }
    let nasty = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(4),
        json!(0.5),
        json!(-1e308),
        json!(4_294_967_295_u32),
        json!(u64::MAX),
        json!(1_u64 << 53),
        json!(""),
        json!("a"),
        json!("▁"),
        json!(" "),
        json!("\u{0}"),
        json!("é"),
        json!("ab a"),
        json!("a".repeat(300)),
        json!("(?!a)(b|"),
        json!("\\p{"),
        json!("Sequence"),
        json!("Always"),
        json!([]),
        json!({}),
        json!([["a", "b"]]),
        json!({"a": 0}),
        json!([["a", -1]]),
        json!({"Regex": ""}),
        json!({"String": ""}),
        json!({"type": "ByteLevel"}),
        json!({"type": "Strip"}),
        json!([{"type": "NFC"}]),
    ];
    match (draw(4), &mut *place) {
        (0, Value::Array(items)) if !items.is_empty() => {
            let index = draw(items.len());
            if draw(2) == 0 {
                items.remove(index);
            } else {
                items.push(items[index].clone());
            }
        }
        (0, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(draw(map.len())).unwrap().clone();
            let old = map.remove(&key).unwrap();
            if draw(2) == 0 {
                map.insert(["a", "", "<x>", "type", "q"][draw(5)].into(), old);
            }
        }
        _ => *place = nasty[draw(nasty.len())].clone(),
    }
}

/// No mutant panics, here or in the library below, and one that is accepted also works.
#[test]
fn mutants_are_refused_or_work() {
    let seeds = seeds();
    for seed in &seeds {
        let tokenizer = Tokenizer::from_json(&seed.to_string(), "seed").unwrap();
        tokenizer.encode("a ab <x> 12", true).unwrap();
    }
    let rng = Rng::new(1, "test", 0, "mutants");
    let (mut at, mut accepted) = (0, 0);
    for i in 0..MUTANTS {
        let mut value = seeds[i % seeds.len()].clone();
        for _ in 0..1 + i % 3 {
            mutate(&mut value, &rng, &mut at);
        }
        let text = value.to_string();
        let outcome = Tokenizer::from_json(&text, "mutant").and_then(|tokenizer| {
            accepted += 1;
            let ids = tokenizer.encode(" a ab<x>\u{0}é 12▁ ", true)?;
            tokenizer.decode(&ids, true)?;
            tokenizer.to_json()
        });
        if let Err(error) = outcome {
            let message = error.to_string();
            assert!(!message.contains("inside the tokenizers library"), "{message}: {text}");
            assert!(!message.contains('\n'), "{message}: {text}");
        }
    }
    assert!(
        accepted > MUTANTS / 20,
        "{accepted} of {MUTANTS} accepted: most of the mutants test the parser alone"
    );
}
