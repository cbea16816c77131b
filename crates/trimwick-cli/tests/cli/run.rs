//! `trimwick check` and `trimwick run` from beginning to end.

use std::fs;

use serde_json::{Value, json};

use crate::support::{done, json, prune_recipe, ran, summary, workshop};

const ARMS: [&str; 6] = ["dense", "dense_tuned", "pruned_magnitude", "pruned", "recovered", "exported"];

#[test]
fn a_run_prunes_recovers_proves_and_reports() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("small.toml"), prune_recipe(30)).unwrap();
    let (code, stdout, stderr) = ran(dir.path(), &["run", "small.toml"]);
    assert_eq!(code, 0, "{stderr}");
    let run = dir.path().join("runs/small");
    let found = summary(&run);

    // The numbers.
    let arms = found["arms"].as_array().unwrap();
    assert_eq!(arms.iter().map(|a| a["name"].as_str().unwrap()).collect::<Vec<_>>(), ARMS);
    let loss = |name: &str| arms.iter().find(|a| a["name"] == name).unwrap()["loss"].as_f64().unwrap();
    assert!(loss("dense") < loss("pruned_magnitude"), "{found:#}");
    assert!(loss("recovered") < loss("pruned_magnitude"), "{found:#}");
    assert_eq!(arms[4]["train_tokens"], 30 * 2 * 32);
    assert_eq!((&arms[4]["context"], &arms[4]["eval_tokens"]), (&json!(32), &json!(1024)));
    assert_eq!((&found["pattern"], &found["groups_violating"]), (&json!("2:4"), &json!(0)));
    assert_eq!(found["seed"], 42);
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(run.join("model").join(file).is_file() && found["digests"][file].is_string(), "{file}");
    }
    assert_eq!(fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count(), 30);

    // What is said.
    for expected in [
        "perplexity @ 32   against dense   tokens trained\n",
        "\nrecovered ",
        "gap recovered: ",
        "proof: 0 of ",
        " groups violate 2:4, proved on the written bytes; ",
        "model: runs/small/model (",
        "summary: runs/small/summary.json\n",
    ] {
        assert!(stdout.contains(expected), "no {expected:?} in\n{stdout}");
    }
    for expected in ["dense: loss ", "recovered: training: 30/30, loss ", "perplexity "] {
        assert!(stderr.contains(expected), "no {expected:?} in\n{stderr}");
    }
    assert!(!stderr.contains("continues") && !stderr.contains('\u{1b}'), "{stderr}");

    // Other verbs see the same.
    let files = json(dir.path(), &["inspect", "runs/small/model", "--zeros", "--json"]);
    assert_eq!(files["totals"]["parameters"], found["parameters"]);
    assert_eq!(files["totals"]["zeros"], found["zeros"]);
    let holds = |t: &&Value| t["holds_2_4"] == true;
    assert_eq!(files["tensors"].as_array().unwrap().iter().filter(holds).count(), 2 * 7);
    let eval = format!("{}/eval.txt", workshop().display());
    let args = ["eval", "runs/small/model", "--text", &eval, "--context", "32", "--tokens", "1024", "--json"];
    assert_eq!(json(dir.path(), &args)["loss"].as_f64(), arms[5]["loss"].as_f64());

    // Again: nothing is left to do, and the same is told.
    let before = fs::read(run.join("model/model.safetensors")).unwrap();
    let (code, stdout, stderr) = ran(dir.path(), &["run", "small.toml", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("continues an earlier run of this recipe\n"), "{stderr}");
    assert!(stderr.contains("dense: loss ") && stderr.contains(", from before\n"), "{stderr}");
    assert!(!stderr.contains("training: 1/"), "{stderr}");
    let mut printed: Value = serde_json::from_str(&stdout).unwrap();
    let map = printed.as_object_mut().unwrap();
    assert!(map.remove("seconds").is_some() && map.remove("peak_rss_bytes").is_some());
    assert_eq!(printed, found);
    assert_eq!(fs::read(run.join("model/model.safetensors")).unwrap(), before);

    // The recipe that it leaves behind is the run.
    done(dir.path(), &["run", "runs/small/recipe.toml", "--out", "again"]);
    assert_eq!(summary(&dir.path().join("again"))["digests"], found["digests"]);
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(4)).unwrap();
    let digests = |threads: &str| {
        let mut command = crate::support::trimwick(dir.path(), &["run", "r.toml", "--out", threads]);
        let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        summary(&dir.path().join(threads))
    };
    assert_eq!(digests("1"), digests("3"));
}

#[test]
fn a_check_says_what_a_run_would_do_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(30)).unwrap();
    // The weights are not read: they may be as broken as they like.
    let tiny = dir.path().join("tiny");
    fs::create_dir(&tiny).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(workshop().join("tiny").join(file), tiny.join(file)).unwrap();
    }
    let weights = tiny.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4096..].fill(0xff);
    fs::write(&weights, bytes).unwrap();

    let args = ["check", "r.toml", "model.source=./tiny", "prune.exclude=[\"*.down_proj\"]"];
    let text = done(dir.path(), &args);
    for expected in [
        "model       tiny: ",
        "model.layers.0-1.self_attn.q_proj ",
        "2:4 by prune.layers \"model.layers.*\"",
        "dense by prune.exclude \"*.down_proj\"",
        " weights in 12 layers become zero, ",
        "training    1,920 tokens in 30 steps of 64 (batch 2 × accumulate 1 × context 32); rate 0.003, warm-up 2\n",
        "arms        dense, dense_tuned, pruned_magnitude, pruned, recovered, exported\n",
        "out         runs/r\n",
        "the recipe is sound\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let value = json(dir.path(), &[&args[..], &["--json"]].concat());
    let layers = value["layers"].as_array().unwrap();
    let pruned: u64 = layers
        .iter()
        .filter(|l| l["pruned"] == true)
        .map(|l| l["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>())
        .sum();
    assert_eq!(value["pruned_parameters"], pruned);
    assert_eq!(value["zeros"], pruned / 2);
    assert_eq!(value["training"]["tokens"], 1920);
    assert!(!dir.path().join("runs").exists());

    // What it would do is what it does.
    let args = ["run", "r.toml", "prune.exclude=[\"*.down_proj\"]", "train.steps=2", "compare.arms=[]"];
    done(dir.path(), &args);
    let found = summary(&dir.path().join("runs/r"));
    assert_eq!(found["parameters"], value["parameters"]);
    assert!(found["zeros"].as_u64() >= value["zeros"].as_u64());
}

/// Llama-2-70B in 8 bits, as dense and as 2:4, by arithmetic from its configuration alone: the 37 % that NVIDIA reports.
#[test]
fn the_sizes_of_a_model_are_known_before_its_weights_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("llama");
    fs::create_dir(&model).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": false,
    });
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let recipe = |pattern| {
        format!(
            "[model]\nsource = \"llama\"\n[data]\ntrain = \"builtin:sotu-train\"\neval = \"builtin:sotu-eval\"\n\
             [quantize]\nscheme = \"fp8\"\n{pattern}"
        )
    };
    let pruned = recipe("[prune]\npattern = \"2:4\"\nmethod = \"magnitude\"\n");
    fs::write(dir.path().join("dense.toml"), recipe("")).unwrap();
    fs::write(dir.path().join("sparse.toml"), pruned).unwrap();
    for (file, expected) in [
        ("dense.toml", "size        138.0 GB in bf16 → 69.5 GB packed (-49.6 %)\n"),
        ("sparse.toml", " → 69.5 GB packed (-49.6 %) → 43.8 GB with 2:4 packed (-36.9 %)\n"),
    ] {
        let (code, stdout, stderr) = ran(dir.path(), &["check", file]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(expected), "no {expected:?} in\n{stdout}");
        assert!(
            stderr.contains("llama: no model weights") && stderr.contains("a run needs them"),
            "{stderr}"
        );
    }
    let (code, _, stderr) = ran(dir.path(), &["run", "dense.toml"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(!dir.path().join("runs").exists());

    // What no machine of this kind can train says so, with what would help.
    let train = "[train]\nsteps = 10\nlr = 1e-5\n[distill]\nweight = 0.5\n";
    fs::write(dir.path().join("train.toml"), recipe(train)).unwrap();
    let text = done(dir.path(), &["check", "train.toml"]);
    for lever in [
        "it does not fit; what helps: train.batch = 1 with train.accumulate = ",
        "distill.storage = \"bf16\" (-138.0 GB)",
        "train.memory = \"blocks\"",
        "train.memory = \"lean\" (-",
        "train.moments = \"int8\" (-",
        "model.stream = true",
    ] {
        assert!(text.contains(lever), "no {lever:?} in\n{text}");
    }
    let smaller = ["distill.storage=bf16", "train.memory=lean", "train.moments=int8"];
    let at_least = |more: &[&str]| {
        let value = json(dir.path(), &[&["check", "train.toml", "--json"], more].concat());
        value["memory_bytes_at_least"].as_u64().unwrap()
    };
    // 20 bytes for each parameter, or 8.
    assert_eq!(2 * at_least(&[]), 5 * at_least(&smaller));
    let few = done(dir.path(), &[&["check", "train.toml"], &smaller[..]].concat());
    assert!(!few.contains("what helps: distill") && !few.contains("train.moments ="), "{few}");
}

/// Bytes of all files below a folder.
fn size(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { size(&path) } else { path.metadata().unwrap().len() }).sum()
}

#[test]
fn a_run_takes_about_the_memory_and_the_disk_that_were_planned() {
    // What the program, its threads and what its allocator keeps take beside a model as small as this.
    const PROGRAM: f64 = 150e6;
    let dir = tempfile::tempdir().unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/quickstart.toml");
    for (out, batch) in [("one", "train.batch=1"), ("eight", "train.batch=8")] {
        let args = [
            recipe,
            batch,
            "train.steps=1",
            "data.eval_tokens=512",
            "calibration.windows=2",
            "compare.arms=[]",
            "--json",
            "--out",
            out,
        ];
        let plan = json(dir.path(), &[&["check"], &args[..7], &[&format!("out=\"{out}\"")[..]]].concat());
        let summary = json(dir.path(), &[&["run"], &args[..]].concat());
        let of = |value: &Value, key: &str| value[key].as_f64().unwrap();
        let memory = of(&summary, "peak_rss_bytes") / (of(&plan, "memory_bytes_planned") + PROGRAM);
        assert!((0.6..1.5).contains(&memory), "{batch}: {memory} of what was planned");
        let left = size(&dir.path().join(out)) as f64;
        let disk = left / of(&plan, "disk_bytes_left");
        assert!((0.7..1.3).contains(&disk), "{batch}: {disk} of what was planned");
        // Tokenizer, report and records are not counted.
        assert!(1.1 * of(&plan, "disk_bytes_at_most") >= left);
    }
}

#[test]
fn a_run_s_time_is_guessed_from_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(3)).unwrap();
    let value = json(dir.path(), &["check", "r.toml", "--time", "--json"]);
    let time = &value["time"];
    for key in ["seconds", "operations_per_second"] {
        assert!(time[key].as_f64().is_some_and(|v| v > 0. && v.is_finite()), "{key}: {value:#}");
    }
    for part in ["training", "compressing", "measuring"] {
        assert!(time["operations"][part].as_f64().is_some_and(|v| v > 0.), "{part}: {value:#}");
    }
    assert!(json(dir.path(), &["check", "r.toml", "--json"])["time"].is_null());
    assert!(done(dir.path(), &["check", "r.toml", "--time"]).contains("\ntime        about "));
}

#[test]
fn a_pretraining_recipe_and_a_model_of_the_hub_can_be_checked() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = fs::read_to_string(workshop().join("pretrain.toml")).unwrap();
    fs::write(dir.path().join("p.toml"), recipe).unwrap();
    for file in ["train.txt", "eval.txt"] {
        fs::copy(workshop().join(file), dir.path().join(file)).unwrap();
    }
    let value = json(dir.path(), &["check", "p.toml", "--json"]);
    assert_eq!(value["arms"], json!(["trained", "exported"]));
    let made = json(workshop(), &["inspect", "tiny", "--json"]);
    assert_eq!(value["parameters"], made["totals"]["parameters"]);

    fs::write(dir.path().join("h.toml"), prune_recipe(3)).unwrap();
    let args = ["check", "h.toml", "model.source=org/no-such-model"];
    let text = done(dir.path(), &args);
    assert!(text.contains("org/no-such-model: not on this machine; `run` downloads it"), "{text}");
    assert!(!text.contains("\nlayers ") && text.ends_with("the recipe is sound\n"), "{text}");
}

#[test]
fn a_streamed_run_is_planned_and_told_block_by_block() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.toml"), prune_recipe(3)).unwrap();
    let changes = [
        "s.toml",
        "train=",
        "distill=",
        "compare=",
        "model.stream=true",
        "blockwise.windows=4",
        "blockwise.epochs=1",
    ];
    let text = done(dir.path(), &[&["check"][..], &changes].concat());
    for expected in [
        "\nblockwise   each block on 128 tokens in 1 steps (batch 4 × context 32); rate 0.0001\n",
        "\narms        dense, blockwise, exported\n",
        "\nmemory      about ",
        ": a block is ",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let value = json(dir.path(), &[&["check"][..], &changes, &["--json"]].concat());
    assert!(value["memory_bytes_planned"].is_u64() && value["memory_bytes_at_least"].is_null(), "{value:#}");
    let (code, stdout, stderr) = ran(dir.path(), &[&["run"][..], &changes].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("model.layers.1: error 0.") && stderr.contains(" dB) in "), "{stderr}");
    assert!(stdout.contains("\nblockwise ") && stdout.contains("proof: 0 of "), "{stdout}");
    assert!(dir.path().join("runs/s/model/model-00004-of-00004.safetensors").is_file());
}

#[test]
fn one_shot_passes_are_planned_and_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.toml"), prune_recipe(3)).unwrap();
    let joint = [
        "p.toml",
        "train=",
        "distill=",
        "compare=",
        "quantize.scheme=w4a8-g32",
        "quantize.scales=frozen",
        "quantize.passes=[\"smoothquant\",\"gptq\"]",
        "quantize.gptq.joint=true",
        "prune.exclude=[\"*.down_proj\"]",
    ];
    let text = done(dir.path(), &[&["check"][..], &joint].concat());
    for expected in [
        "\norder       smoothquant (alpha searched in 20 steps) → prune and quantize (2:4 by sparsegpt with gptq (natural \
         order, scales when reached)) → quantize → export\n",
        "\ncalibrates  on 128 tokens in 4 windows, seed 42\n",
        "\narms        dense, pruned_magnitude, quantized, exported\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let value = json(dir.path(), &[&["check"][..], &joint, &["--json"]].concat());
    assert_eq!(value["order"].as_array().unwrap().len(), 4);
    let (code, stdout, stderr) = ran(dir.path(), &[&["run"][..], &joint].concat());
    assert_eq!(code, 0, "{stderr}");
    for expected in [
        "\nsmoothquant: signal to noise ",
        "\ngptq: signal to noise ",
        " dB, the mean of 14 layers\n",
        "proof: 0 of ",
    ] {
        assert!(stdout.contains(expected), "no {expected:?} in\n{stdout}");
    }
    for expected in [
        "note: model.layers.0.mlp.down_proj: gptq: ",
        "model.layers.1.mlp.up_proj: smoothquant: ",
        " dB, exponent ",
    ] {
        assert!(stderr.contains(expected), "no {expected:?} in\n{stderr}");
    }
    assert_eq!(summary(&dir.path().join("runs/p"))["passes"].as_array().unwrap().len(), 28);

    let budget = [
        "p.toml",
        "train=",
        "distill=",
        "compare=",
        "prune=",
        "quantize.budget.bits=5.5",
        "quantize.budget.candidates=[\"int4-g32\",\"int8-weight\"]",
        "--out",
        "mixed",
    ];
    let text = done(dir.path(), &[&["check"][..], &budget[..7]].concat());
    let planned =
        " weights in 5.5 bits each, out of int4-g32, int8-weight, by gradient; scales dynamic, range max\n";
    assert!(text.contains(planned), "{text}");
    assert!(text.contains(
        "\norder       choose schemes (5.5 bits each, out of int4-g32, int8-weight, by gradient) → quantize"
    ));
    let (code, stdout, stderr) = ran(dir.path(), &[&["run"][..], &budget].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\nschemes: chosen by gradient, "), "{stdout}");
    assert!(dir.path().join("mixed/stages/sensitivities.json").is_file());
}
