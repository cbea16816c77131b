//! Runs with one-shot passes and budgets on models of two blocks: what they report, what they leave, and that a run which
//! was stopped anywhere ends with the bytes of one that was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Event, RunOutcome, Summary, run};

/// Runs a recipe; stops at its `cut`-th stage. Nothing when it was stopped.
fn attempt(text: &str, out: &Path, cut: usize) -> Option<Summary> {
    let recipe = Recipe::parse(text, "job.toml", &[]).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let (stop, mut begun) = (AtomicBool::new(false), 0);
    let mut report = |event: Event<'_>| {
        if let Event::Begin(_) = event {
            begun += 1;
            stop.store(begun >= cut, Ordering::Relaxed);
        }
    };
    match run(&recipe, out, &stop, &mut report).unwrap_or_else(|error| panic!("{error}\n{text}")) {
        RunOutcome::Finished(summary) => Some(*summary),
        RunOutcome::Stopped => None,
    }
}

fn finish(text: &str, out: &Path) -> Summary {
    attempt(text, out, usize::MAX).expect("nothing stops it")
}

/// A folder with two models of two blocks, trained for a moment: `llama`, and `qwen2`, which has biases.
fn workshop() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train.txt"), words(1, 500)).unwrap();
        fs::write(dir.path().join("eval.txt"), words(2, 100)).unwrap();
        for kind in ["llama", "qwen2"] {
            let data = data(dir.path());
            let text = format!(
                "[model.config]\nmodel_type = \"{kind}\"\nhidden_size = 32\nintermediate_size = 64\n\
                 num_hidden_layers = 2\nnum_attention_heads = 4\nnum_key_value_heads = 2\n\
                 max_position_embeddings = 64\ninitializer_range = 0.2\n[model.tokenizer]\nvocab_size = 300\n\
                 {data}eval_tokens = 256\n[train]\nsteps = 12\nbatch = 2\nlr = 1e-2\n[export]\ndtype = \"f32\"\n"
            );
            finish(&text, &dir.path().join(kind));
        }
        dir
    });
    made.path()
}

/// Sentences by a generator that always does the same.
fn words(seed: u64, sentences: usize) -> String {
    const NOUNS: [&str; 8] = ["wick", "lamp", "candle", "flame", "winter", "keeper", "harbor", "letter"];
    const VERBS: [&str; 6] = ["burns", "trims", "carries", "remembers", "follows", "lights"];
    let mut state = seed;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    (0..sentences)
        .map(|_| format!("The {} {} the {}. ", NOUNS[draw(8)], VERBS[draw(6)], NOUNS[draw(8)]))
        .collect()
}

fn data(folder: &Path) -> String {
    let folder = folder.display();
    format!("[data]\ntrain = \"{folder}/train.txt\"\neval = \"{folder}/eval.txt\"\ncontext = 32\n")
}

fn job(kind: &str, more: &str) -> String {
    let (model, data) = (workshop().join(kind).join("model"), data(workshop()));
    let model = model.display();
    format!("[model]\nsource = \"{model}\"\n{data}eval_tokens = 512\n[calibration]\nwindows = 4\n{more}\n")
}

/// The files of the written model.
fn written(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
    };
    fs::read_dir(out.join("model")).unwrap().map(file).collect()
}

/// A summary without what depends on the machine.
fn told(summary: &Summary) -> serde_json::Value {
    let mut value = serde_json::to_value(summary).unwrap();
    let map = value.as_object_mut().unwrap();
    map.remove("seconds").unwrap();
    map.remove("peak_rss_bytes").unwrap();
    for block in map["blocks"].as_array_mut().unwrap() {
        block.as_object_mut().unwrap().remove("seconds").unwrap();
    }
    value
}

/// Layers of the two blocks, all linear; of those with biases.
const LAYERS: usize = 2 * 7;
const BIASED: usize = 2 * 3;

#[test]
fn every_pass_runs_reports_and_survives_the_export() {
    let dir = tempfile::tempdir().unwrap();
    let frozen = "scales = \"frozen\"\npasses";
    // A model, a recipe's sections, and how many layers each pass takes.
    type Case = (&'static str, String, &'static [(&'static str, usize)]);
    let cases: &[Case] = &[
        (
            "llama",
            "[quantize]\nscheme = \"int8-static\"\npasses = [\"smoothquant\"]\n".into(),
            &[("smoothquant", LAYERS)],
        ),
        (
            "llama",
            format!("[quantize]\nscheme = \"int4-g32\"\n{frozen} = [\"awq-scale\", \"awq-clip\"]"),
            &[("awq-scale", LAYERS), ("awq-clip", LAYERS)],
        ),
        (
            "llama",
            "[quantize]\nscheme = \"int4-g32\"\nscales = \"learned\"\npasses = [\"gptq\"]\nkv_cache = \"fp8\"\n\
             [quantize.gptq]\norder = \"activation\"\n"
                .into(),
            &[("gptq", LAYERS)],
        ),
        (
            "llama",
            format!(
                "[quantize]\nscheme = \"nvfp4\"\n{frozen} = [\"awq-scale\", \"gptq\"]\n[export]\ntargets = [\"compressed-tensors\"]"
            ),
            &[("awq-scale", LAYERS), ("gptq", LAYERS)],
        ),
        (
            "qwen2",
            "[quantize]\nscheme = \"w4a8-g32\"\npasses = [\"smoothquant\", \"bias-correction\"]\n\
             [quantize.smoothquant]\nalpha = 0.5\n"
                .into(),
            &[("smoothquant", LAYERS), ("bias-correction", BIASED)],
        ),
        (
            "llama",
            format!(
                "[prune]\npattern = \"2:4\"\nexclude = [\"*.down_proj\"]\n[quantize]\nscheme = \"w4a8-g32\"\n\
                 {frozen} = [\"smoothquant\", \"gptq\"]\n[quantize.gptq]\njoint = true\n[compare]\narms = []"
            ),
            &[("smoothquant", LAYERS), ("gptq", LAYERS)],
        ),
        (
            "llama",
            format!(
                "[prune]\npattern = \"2:4\"\n[quantize]\nscheme = \"int4-g32\"\n{frozen} = [\"awq-scale\", \"gptq\"]\n\
                 pass_tokens = 32\n[[quantize.rules]]\nlayers = \"*.down_proj\"\nscheme = \"none\"\n[compare]\narms = []"
            ),
            &[("awq-scale", LAYERS - 2), ("sparsegpt", LAYERS), ("gptq", LAYERS - 2)],
        ),
    ];
    for (i, (kind, quantize, expected)) in cases.iter().enumerate() {
        let (text, out) = (job(kind, quantize), dir.path().join(i.to_string()));
        let summary = finish(&text, &out);
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for report in &summary.passes {
            assert!(report.before_db.is_finite() && report.after_db.is_finite(), "{report:?}");
            match counts.last_mut() {
                Some((name, count)) if *name == report.pass => *count += 1,
                _ => counts.push((&report.pass, 1)),
            }
        }
        assert_eq!(&counts, expected, "{quantize}");
        let gained = |r: &trimwick_recipe::run::LayerReport| r.after_db - r.before_db;
        let gain = |name: &str| summary.passes.iter().filter(|r| r.pass == name).map(gained).sum::<f64>();
        // Of a search that may choose nothing, nothing is lost.
        if quantize.contains("\"smoothquant\"]") {
            assert!(gain("smoothquant") >= 0., "{quantize}");
        }
        let quantization = summary.quantization.as_ref().unwrap();
        assert_eq!((quantization.off_grid, summary.groups_violating), (0, 0), "{quantize}");
        let loss = |arm: &str| summary.arm(arm).unwrap_or_else(|| panic!("{arm}: {quantize}")).loss;
        assert_eq!(loss("exported").to_bits(), loss("quantized").to_bits(), "{quantize}");
        assert!(loss("quantized") != loss("dense"), "{quantize}");
        if quantize.contains("joint") {
            assert!(summary.arm("pruned").is_none() && summary.groups > 0, "{quantize}");
        }

        // Nothing is done twice, and the same is told.
        let files = written(&out);
        assert_eq!(told(&finish(&text, &out)), told(&summary), "{quantize}");
        assert_eq!(written(&out), files, "{quantize}");
    }
}

/// The branch is part of the written weight, for programs that know of none, and taken apart again by ours.
#[test]
fn a_branch_is_written_into_the_weight() {
    let dir = tempfile::tempdir().unwrap();
    for (name, scheme) in [("weights", "int4-g32"), ("inputs", "nvfp4")] {
        let quantize = format!(
            "[quantize]\nscheme = \"{scheme}\"\nscales = \"frozen\"\npasses = [\"awq-scale\", \"svdquant\", \"gptq\"]\n[quantize.svdquant]\nrank = 4"
        );
        let (text, out) = (job("llama", &quantize), dir.path().join(name));
        let summary = finish(&text, &out);
        let loss = |summary: &Summary, arm: &str| summary.arm(arm).unwrap().loss;
        let trained = loss(&summary, "quantized");
        assert_eq!(loss(&summary, "exported").to_bits(), trained.to_bits(), "{scheme}");
        assert!(summary.passes.iter().filter(|r| r.pass == "svdquant").all(|r| r.after_db > r.before_db));
        let plain: f64 = scheme.parse::<trimwick_quant::Scheme>().unwrap().bits(&[64, 32]);
        assert!(summary.quantization.as_ref().unwrap().bits_per_weight > plain + 1., "the branch is counted");
        assert_eq!(told(&finish(&text, &out)), told(&summary));

        // Whatever reads the weights alone computes the same, but for quantized inputs.
        let model = out.join("model");
        let data: String =
            data(workshop()).lines().filter(|l| !l.starts_with("train")).map(|l| format!("{l}\n")).collect();
        let again = format!(
            "[model]\nsource = \"{}\"\n{data}eval_tokens = 512\n[quantize]\nscheme = \"int8\"\n",
            model.display()
        );
        let plain = loss(&finish(&again, &dir.path().join(format!("{name}-again"))), "dense");
        let close = (plain - trained).abs() < 1e-5 * trained;
        assert_eq!(close, name == "weights", "{plain}, trained {trained}");
        assert!((plain - trained).abs() < 0.2, "{plain}, trained {trained}");
    }
}

#[test]
fn a_run_that_was_stopped_at_any_stage_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let train = "[train]\nsteps = 3\nbatch = 2\nlr = 1e-3\nsave_every = 1\n[distill]\nweight = 0.5\n";
    let cases = [
        // Smooth, prune, quantize, train.
        format!(
            "[prune]\npattern = \"2:4\"\n[quantize]\nscheme = \"w4a8-g32\"\nscales = \"frozen\"\n\
             passes = [\"smoothquant\", \"awq-clip\", \"gptq\"]\n{train}[compare]\narms = []\n"
        ),
        // The twin takes the same passes.
        format!(
            "[quantize]\nscheme = \"int8-static\"\nscales = \"learned\"\npasses = [\"smoothquant\", \"gptq\"]\n{train}"
        ),
        format!(
            "[prune]\npattern = \"2:4\"\n[quantize]\nscheme = \"int4-g32\"\nscales = \"frozen\"\npasses = [\"gptq\"]\n\
             [quantize.gptq]\njoint = true\n{train}[compare]\narms = []\n[blockwise]\nwindows = 4\nepochs = 1\n"
        ),
    ];
    for (i, more) in cases.iter().enumerate() {
        let text = job("llama", more);
        let (whole, cut) = (dir.path().join(format!("{i}-whole")), dir.path().join(format!("{i}-cut")));
        let expected = finish(&text, &whole);
        assert!(expected.arm("recovered").is_some() && !expected.passes.is_empty());
        let mut stops = 0;
        let found = (1..60).find_map(|at| {
            let found = attempt(&text, &cut, at);
            stops += usize::from(found.is_none());
            found
        });
        assert!(stops > 5, "only {stops} stops");
        assert_eq!(told(&found.expect("it ends")), told(&expected), "{more}");
        assert_eq!(written(&cut), written(&whole), "{more}");
    }
}

/// One block in memory at a time: the same passes on the same blocks, and whole blocks are never repeated.
#[test]
fn a_streamed_model_takes_passes_block_by_block() {
    let dir = tempfile::tempdir().unwrap();
    for (i, quantize) in [
        "[prune]\npattern = \"2:4\"\n[quantize]\nscheme = \"w4a8-g32\"\nscales = \"frozen\"\n\
         passes = [\"smoothquant\", \"gptq\"]\n[quantize.gptq]\njoint = true\n[compare]\narms = []",
        "[quantize]\nscheme = \"nvfp4\"\nkv_cache = \"int8\"\npasses = [\"awq-scale\", \"svdquant\"]\n[quantize.svdquant]\nrank = 4",
    ]
    .iter()
    .enumerate()
    {
        let whole = finish(&job("llama", quantize), &dir.path().join(format!("{i}-memory")));
        let text = job("llama", quantize).replace("[data]", "stream = true\n[data]");
        let out = dir.path().join(i.to_string());
        let summary = finish(&text, &out);
        let named = |s: &Summary| s.passes.iter().map(|r| (r.pass.clone(), r.layer.clone())).collect::<Vec<_>>();
        assert_eq!(named(&summary), named(&whole), "{quantize}");
        // The first block sees the same inputs either way.
        for (a, b) in summary.passes.iter().zip(&whole.passes).filter(|(a, _)| a.layer.contains("layers.0.self_attn.q")) {
            assert!((a.after_db - b.after_db).abs() < 0.05, "{a:?} {b:?}");
        }
        let loss = |s: &Summary, arm: &str| s.arm(arm).unwrap().loss;
        let quantized = loss(&summary, "quantized");
        // Scales that follow the weight follow its last bit too, which the sum with a branch may have cost.
        let rounding = if quantize.contains("svdquant") { 1e-6 } else { 0. };
        assert!((quantized - loss(&summary, "exported")).abs() <= rounding, "{quantize}");
        assert!((quantized - loss(&whole, "quantized")).abs() < 0.05, "{quantize}");
        let cut = dir.path().join(format!("{i}-cut"));
        let mut found = None;
        for at in 2..9 {
            found = found.or_else(|| attempt(&text, &cut, at));
        }
        let found = found.unwrap_or_else(|| finish(&text, &cut));
        assert_eq!(told(&found), told(&summary), "{quantize}");
        assert_eq!(written(&cut), written(&out), "{quantize}");
    }
}

#[test]
fn a_budget_chooses_schemes_once() {
    let dir = tempfile::tempdir().unwrap();
    for (score, passes) in
        [("gradient", "scales = \"frozen\"\npasses = [\"awq-scale\", \"gptq\"]"), ("kl", "")]
    {
        let quantize = format!(
            "[quantize]\n{passes}\n[quantize.budget]\nbits = 5.5\nscore = \"{score}\"\n\
             candidates = [\"int4-g32\", \"weight int6 g32 bf16\", \"int8-weight\"]\n\
             [[quantize.rules]]\nlayers = \"*.1.mlp.down_proj\"\nscheme = \"int8-weight\"\n"
        );
        let (text, out) = (job("llama", &quantize), dir.path().join(score));
        assert!(attempt(&text, &out, 4).is_none(), "stopped while choosing");
        let summary = finish(&text, &out);
        let mixed = summary.mixed.as_ref().unwrap();
        assert!(mixed.bits <= 5.5 && mixed.bits > 4.5 && mixed.exact, "{mixed:?}");
        assert_eq!((mixed.layers.len(), mixed.method == "gradient"), (LAYERS - 1, score == "gradient"));
        for block in 0..2 {
            let of = |name: &str| &mixed.layers[&format!("model.layers.{block}.{name}")];
            assert!(
                of("self_attn.q_proj") == of("self_attn.k_proj")
                    && of("self_attn.q_proj") == of("self_attn.v_proj")
            );
            assert_eq!(of("mlp.gate_proj"), of("mlp.up_proj"));
        }
        assert!(mixed.layers.values().any(|scheme| scheme != "int4-g32"), "{mixed:?}");
        let schemes = &summary.quantization.as_ref().unwrap().schemes;
        assert_eq!(schemes.values().sum::<usize>(), LAYERS, "{schemes:?}");
        assert_eq!(
            summary.arm("exported").unwrap().loss.to_bits(),
            summary.arm("quantized").unwrap().loss.to_bits()
        );

        // Sensitivities and choice are kept, and taken as they are.
        let kept = |name: &str| fs::read(out.join("stages").join(name)).unwrap();
        let (sensitivities, choice) = (kept("sensitivities.json"), kept("schemes.json"));
        fs::remove_file(out.join("stages/quantized.json")).unwrap();
        assert_eq!(told(&finish(&text, &out)), told(&summary));
        assert_eq!((kept("sensitivities.json"), kept("schemes.json")), (sensitivities, choice));
    }
}

/// What is seen decides, not where the recipe names it; in memory and streamed.
#[test]
fn calibration_takes_a_text_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let texts = workshop().display().to_string();
    let train = format!("train = \"{texts}/train.txt\"\n");
    for (name, stream) in [("memory", ""), ("streamed", "stream = true\n")] {
        let passes = "[quantize]\nscheme = \"int4-g32\"\nscales = \"frozen\"\npasses = [\"gptq\"]\n";
        let of_training = job("llama", passes).replace("[data]", &format!("{stream}[data]"));
        let own = |text: &str| {
            let key = format!("[calibration]\ndata = \"{texts}/{text}.txt\"");
            of_training.replace(&train, "").replace("[calibration]", &key)
        };
        let run = |kind: &str, text: &str| {
            let out = dir.path().join(format!("{name}-{kind}"));
            finish(text, &out);
            (written(&out), fs::read_to_string(out.join("stages/inputs.json")).unwrap())
        };
        let (expected, beside) = run("train", &of_training);
        assert!(!beside.contains("calibration.data"), "{beside}");
        let (same, beside) = run("same", &own("train"));
        assert!(same == expected, "{name}: the same windows gave another model");
        assert!(beside.contains("calibration.data"), "{beside}");
        assert!(run("other", &own("eval")).0 != expected, "{name}: other windows gave the same model");
    }
    // Another text under the same name is another run.
    let own = format!("[calibration]\ndata = \"{}/own.txt\"", dir.path().display());
    let text = job("llama", "[quantize]\nscheme = \"int8-static\"\n").replace("[calibration]", &own);
    let text = text.replace(&train, "");
    let (file, out) = (dir.path().join("own.txt"), dir.path().join("changed"));
    fs::write(&file, words(3, 100)).unwrap();
    assert!(attempt(&text, &out, 2).is_none());
    fs::write(&file, words(4, 100)).unwrap();
    let recipe = Recipe::parse(&text, "job.toml", &[]).unwrap();
    let error = run(&recipe, &out, &AtomicBool::new(false), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("calibration.data changed since the run began"), "{error}");
}
