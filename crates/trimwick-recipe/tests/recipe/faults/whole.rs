//! Whole texts: random starts, overrides, many faults at once, files that are no recipes.

use trimwick_recipe::{FaultKind, Recipe};

use super::{SOUND, answer, with};

#[test]
fn the_recipe_that_the_tables_change_is_sound() {
    assert!(Recipe::parse(SOUND, "r.toml", &[]).is_ok());
}

#[test]
fn a_model_from_random_weights_is_checked_as_one() {
    let pretrain = |config: &str, rest: &str| {
        format!(
            "[model.config]\n{config}\n[model.tokenizer]\nvocab_size = 300\n[data]\ntrain = \"builtin:sotu-train\"\n\
             eval = \"builtin:sotu-eval\"\n{rest}"
        )
    };
    let sizes = "hidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4";
    let train = "[train]\nsteps = 10\nlr = 1e-3\n";
    assert!(Recipe::parse(&pretrain(sizes, train), "r.toml", &[]).is_ok());
    for (text, expected) in [
        (
            pretrain(sizes, ""),
            vec![
                "r.toml: train: missing: expected a section [train]: the model starts from random weights, found nothing; add for example [train] with steps = 1000",
            ],
        ),
        (
            pretrain(sizes, &format!("{train}[prune]\npattern = \"2:4\"\n[distill]\n")),
            vec![
                "r.toml:14: prune: expected a trained model to prune, found random weights; train the model first, then prune its folder with a second recipe",
                "r.toml:16: distill: has no effect: a model that starts from random weights has no dense twin; remove the section, or add [train] and [prune] or [quantize] to a trained model",
            ],
        ),
        (
            pretrain("hidden_size = 0\nnum_attention_heads = 4\nnum_key_value_heads = 3\nhiden = 1", train),
            vec![
                "r.toml:1: model.config.intermediate_size: missing: expected a whole number from 1 to 1048576, found nothing; add for example intermediate_size = 768",
                "r.toml:1: model.config.num_hidden_layers: missing: expected a whole number from 1 to 1024, found nothing; add for example num_hidden_layers = 6",
                "r.toml:2: model.config.hidden_size: expected a whole number from 1 to 131072, found 0; write for example hidden_size = 256",
                "r.toml:4: model.config.num_key_value_heads: expected a divisor of num_attention_heads = 4, found 3; every key head serves as many query heads",
                "r.toml:5: model.config.hiden: unknown key; did you mean `model.config.hidden_size`?",
            ],
        ),
        (
            pretrain(&sizes.replace("= 32", "= 30"), train),
            vec![
                "r.toml:2: model.config.hidden_size: expected a multiple of num_attention_heads = 4, found 30; change either of them",
            ],
        ),
        (
            pretrain(&sizes.replace("= 32", "= 36"), train),
            vec![
                "r.toml:2: model.config.hidden_size: expected an even width of each head, found 36 / 4 = 9; the rotary embedding turns pairs",
            ],
        ),
        (
            pretrain(
                &format!(
                    "{sizes}\nhead_dim = 7\nrope_theta = 0\nrms_norm_eps = nan\nmax_position_embeddings = 64\nvocab_size = 300"
                ),
                train,
            ),
            vec![
                "r.toml:6: model.config.head_dim: expected an even number, found 7; the rotary embedding turns pairs",
                "r.toml:7: model.config.rope_theta: expected a finite number above 0, found 0; write for example rope_theta = 10000.0",
                "r.toml:8: model.config.rms_norm_eps: expected a number above 0 and below 1, found NaN; write for example rms_norm_eps = 1e-5",
                "r.toml:10: model.config.vocab_size: has no effect: the rows are those of the tokenizer that is trained; keep model.tokenizer.vocab_size alone",
            ],
        ),
        (
            pretrain(&format!("{sizes}\nmax_position_embeddings = 64"), train),
            vec![
                "r.toml:9: data.context: expected at most model.config.max_position_embeddings = 64, found 512; lower it, or raise the other",
            ],
        ),
        (
            pretrain(
                &format!(
                    "{sizes}\nmodel_type = \"qwen2\"\nattention_bias = true\nmlp_bias = true\nsliding_window = 8"
                ),
                train,
            ),
            vec![
                "r.toml:7: model.config.attention_bias: has no effect: the model's type decides over these biases; remove it",
                "r.toml:8: model.config.mlp_bias: has no effect: a model of type \"qwen2\" has none; remove it, or write model_type = \"llama\"",
                "r.toml:9: model.config.sliding_window: has no effect: a model of type \"qwen2\" has none; remove it, or write model_type = \"mistral\"",
            ],
        ),
        (
            pretrain(sizes, train).replace("vocab_size = 300", "vocab_size = 256"),
            vec![
                "r.toml:7: model.tokenizer.vocab_size: expected a whole number from 257 to 1048576, found 256; write for example vocab_size = 4096",
            ],
        ),
        (
            pretrain(sizes, train).replace("vocab_size = 300", "vocab_size = 300\nsource = \"t.json\""),
            vec![
                "r.toml:8: model.tokenizer.source: expected either vocab_size or source, found both; keep vocab_size to train a tokenizer, or source to use one",
            ],
        ),
        (
            pretrain(sizes, train).replace("[model.tokenizer]\nvocab_size = 300\n", ""),
            vec![
                "r.toml:1: model.tokenizer: missing: expected a tokenizer for the new model, vocab_size or source, found nothing; add for example [model.tokenizer]",
            ],
        ),
    ] {
        assert_eq!(answer(&text, &[]), expected.join("\n"), "{text}");
    }
}

#[test]
fn faults_of_overrides_name_the_override_and_come_last() {
    for (overrides, expected) in [
        (
            &["train.lr=nan"][..],
            "override train.lr=nan: train.lr: expected a number above 0 up to 1, found NaN; write for example lr = 1e-4",
        ),
        (
            &["train.warmpu=1"],
            "override train.warmpu=1: train.warmpu: unknown key; did you mean `train.warmup`?",
        ),
        (&["trian.lr=1"], "override trian.lr=1: trian: unknown key; did you mean `train`?"),
        (&["lr=1"], "override lr=1: lr: unknown key; `lr` belongs in [train]; move it there"),
        (
            &["train.lr"],
            "override train.lr: expected key=value, found train.lr without `=`; write for example train.lr=1e-4",
        ),
        (
            &["train.lr="],
            "r.toml:9: train.lr: missing: expected a number above 0 up to 1, found nothing; add for example lr = 1e-4",
        ),
        (
            &["distill.weight=2", "prune.pattern=3:2"],
            "override prune.pattern=3:2: prune.pattern: expected \"N:M\" with 1 ≤ N < M ≤ 64, or \"unstructured\", found the string \"3:2\"; write for example pattern = \"2:4\"\n\
             override distill.weight=2: distill.weight: expected a number above 0 up to 1, found 2; write for example weight = 0.5",
        ),
        (
            &["train.schedule=constant", "train.min_lr=0"],
            "override train.min_lr=0: train.min_lr: has no effect: schedule \"constant\" does not fall; remove it, or write schedule = \"cosine\" or \"linear\"",
        ),
        (
            &["name=\u{1b}[31m\n"],
            "override name=\\u{1b}[31m\\u{a}: name: expected a name of 1 to 100 letters, digits, '.', '_' and '-' that does not start with '.', found the string \"\\u{1b}[31m\"; write for example name = \"quickstart\"",
        ),
    ] {
        let mut lines: Vec<&str> = expected.lines().collect();
        // What an override breaks elsewhere is reported where that stands.
        lines.sort_by_key(|line| line.starts_with("override"));
        assert_eq!(answer(SOUND, overrides), lines.join("\n"), "{overrides:?}");
    }
}

#[test]
fn faults_of_every_class_are_reported_together() {
    let text = with(&[
        (1, "nmae = \"t\""),
        (3, "source = 3"),
        (8, "pattern = \"2:4\"\npattern = \"1:4\""),
        (10, "steps = 0"),
        (11, "lr = \"x\"\nmin_lr = -1"),
    ]);
    let overrides = ["train.batch=0".to_string(), "x".to_string()];
    let faults = Recipe::parse(&text, "r.toml", &overrides).unwrap_err();
    let found: Vec<_> = faults.iter().map(|fault| (fault.place.line(), fault.key.as_str())).collect();
    assert_eq!(
        found,
        [
            (Some(1), "nmae"),
            (Some(3), "model.source"),
            (Some(9), "prune.pattern"),
            (Some(11), "train.steps"),
            (Some(12), "train.lr"),
            (Some(13), "train.min_lr"),
            (None, ""),
            (None, "train.batch"),
        ]
    );
    assert_eq!(faults.len(), 8);
    assert!(matches!(
        faults.about("prune.pattern").next().unwrap().kind,
        FaultKind::Duplicate { first: Some(8) }
    ));
    assert!(faults.to_string().lines().count() == faults.len(), "one line each:\n{faults}");
}

#[test]
fn what_is_not_toml_is_reported_for_its_syntax_alone() {
    let answer = answer(&with(&[(1, "name = t"), (8, "pattern = ")]), &["train.lr=x"]);
    let lines: Vec<&str> = answer.lines().collect();
    assert!(lines.len() >= 2, "{answer}");
    assert!(lines[0].starts_with("r.toml:1: not TOML: "), "{answer}");
    assert!(lines.iter().all(|line| line.contains(": not TOML: ")), "{answer}");
    assert!(lines.iter().any(|line| line.starts_with("r.toml:8: ")), "{answer}");
}

#[test]
fn files_that_are_no_recipes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let sound = write("sound.toml", SOUND.as_bytes());
    assert!(Recipe::load(&sound, &[]).is_ok());
    for (path, expected) in [
        (write("latin.toml", b"name = \"\xe9\""), "bytes that are not UTF-8 at offset 8; save it as UTF-8"),
        (
            write("large.toml", &vec![b'#'; (1 << 18) + 1]),
            "a file of more than 262144 bytes; give the recipe, not a model or a text",
        ),
        (dir.path().join("sond.toml"), "did you mean"),
        (dir.path().to_path_buf(), "a directory"),
    ] {
        let answer = Recipe::load(&path, &[]).unwrap_err().to_string();
        assert!(answer.to_lowercase().contains(expected) || answer.contains(expected), "{answer}");
        assert_eq!(answer.lines().count(), 1, "{answer}");
        assert!(answer.starts_with(&*path.to_string_lossy()), "{answer}");
    }
    assert!(
        Recipe::load(&write("nul.toml", b"a = \"\0\""), &[])
            .unwrap_err()
            .to_string()
            .contains("nul.toml:1: not TOML")
    );
}

#[test]
fn deep_nesting_ends_in_a_fault() {
    let dotted = vec!["a"; 79].join(".");
    let both = format!("{}1{}", format!("{{{dotted} = ").repeat(79), "}".repeat(79));
    for (text, expected) in [
        (format!("a = {}", "[".repeat(5000)), "not TOML: "),
        (
            format!("a = {}{}", "[".repeat(60), "]".repeat(60)),
            "r.toml:1: not TOML: nested more than 16 deep; ",
        ),
        (format!("{} = 1", vec!["a"; 50_000].join(".")), "not TOML: "),
        (format!("{dotted} = 1"), "r.toml:1: not TOML: nested more than 16 deep; "),
        (format!("[{dotted}]\n{dotted} = {both}"), "r.toml:1: not TOML: nested more than 16 deep; "),
    ] {
        let answer = answer(&text, &[]);
        assert!(answer.contains(expected), "{}…: {answer}", &text[..20]);
    }
    let path = format!("{}=1", vec!["a"; 50_000].join("."));
    assert!(answer(SOUND, &[&path]).contains("expected a dotted key before `=`"));
    assert!(answer(SOUND, &[&format!("a={both}")]).contains("nested more than 16 deep"));
}

#[test]
fn what_is_long_ends_in_a_short_answer_and_soon() {
    let many = |line: fn(usize) -> String| (0..20_000).map(line).collect::<String>();
    for (text, least, most) in [
        (format!("{} = 1\n{SOUND}", "k".repeat(200_000)), 1, 1),
        (many(|i| format!("key{i} = 1\n")), 21, 30),
        (many(|_| "seed = 1\n".into()), 51, 60),
        (many(|_| "[train]\n".into()), 51, 60),
        (many(|_| "seed =\n".into()), 51, 60),
        (format!("{SOUND}[[train.groups]]\n{}", many(|i| format!("k{i} = 1\n"))), 21, 30),
    ] {
        let start = std::time::Instant::now();
        let answer = answer(&text, &[]);
        let lines = answer.lines().count();
        assert!((least..=most).contains(&lines), "{}…: {lines} lines", &text[..10]);
        assert!(answer.lines().all(|line| line.len() < 700), "{}…", &text[..10]);
        assert!(start.elapsed().as_secs_f64() < 5.0, "{}…: {:?}", &text[..10], start.elapsed());
    }
}
