//! Sound recipes: defaults, what is resolved, and that reading it again gives the same.

use std::path::PathBuf;

use trimwick_recipe::{
    Arm, CHAT_TEMPLATES, ChatLoss, ChatSpec, ExportTarget, FileSet, LrSchedule, ModelSource, ModelSpec,
    Pattern, PruneMethod, PruneSchedule, Recipe, TemplateSource, TextFormat, TextSource, TrainLength, Warmup,
};

pub const SHORT: &str = r#"
[model]
source = "builtin:tiny-llama"
[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
[prune]
pattern = "2:4"
[train]
tokens = 81920
lr = 1e-4
"#;

fn parse(text: &str, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    match Recipe::parse(text, "configs/short one.toml", &overrides) {
        Ok(recipe) => recipe,
        Err(faults) => panic!("{faults}"),
    }
}

#[test]
fn defaults_are_filled_in() {
    let recipe = parse(SHORT, &[]);
    assert_eq!(recipe.name, "short-one");
    assert_eq!(recipe.out, PathBuf::from("runs/short-one"));
    assert_eq!(recipe.seed, 42);
    assert_eq!(recipe.model, ModelSpec::Source(ModelSource::Builtin("tiny-llama".into())));
    assert_eq!((recipe.data.context, recipe.data.eval_tokens), (512, None));
    let calibration = recipe.calibration.as_ref().unwrap();
    assert_eq!((calibration.windows, calibration.seed), (32, 42));
    let prune = recipe.prune.as_ref().unwrap();
    assert_eq!(prune.pattern, Pattern::Nm { n: 2, m: 4 });
    assert_eq!(prune.method, PruneMethod::SparseGpt { damping: 0.01, block: 128 });
    assert_eq!(prune.schedule, PruneSchedule::OneShot);
    assert_eq!((prune.layers.as_slice(), prune.exclude.len()), (&["model.layers.*".to_string()][..], 0));
    let train = recipe.train.as_ref().unwrap();
    assert_eq!(train.length, TrainLength::Tokens(81920));
    assert_eq!((train.batch, train.accumulate, train.save_every, train.order_seed), (4, 1, 100, 42));
    assert_eq!((train.warmup, train.clip), (Warmup::Fraction(0.05), Some(1.0)));
    assert_eq!(train.schedule, LrSchedule::Cosine { min_lr: 0.0 });
    assert_eq!((train.steps(512), train.warmup_steps(512), train.tokens_per_step(512)), (40, 2, 2048));
    assert_eq!(recipe.distill, None);
    assert_eq!(recipe.compare.arms, [Arm::DenseTuned, Arm::PrunedMagnitude]);
    assert_eq!(recipe.export.dtype.name(), "bf16");
}

#[test]
fn formats_of_other_runtimes_are_written_in_one_order() {
    let recipe = parse(SHORT, &["export.targets=[\"sparse24\", \"gguf\"]"]);
    assert_eq!(recipe.export.targets, [ExportTarget::Gguf, ExportTarget::Sparse24]);
    let text = recipe.resolve();
    assert!(text.ends_with("targets = [\"gguf\", \"sparse24\"]\ndense = \"bf16\"\n"), "{text}");
    assert_eq!(parse(&text, &[]), recipe);
    // A recipe without them is the recipe that it was.
    assert!(!parse(SHORT, &[]).resolve().contains("targets"));
    assert_eq!(parse(SHORT, &["export.targets=gguf"]).export.targets, [ExportTarget::Gguf]);
}

#[test]
fn the_resolved_text_is_stable() {
    let expected = r#"name = "short-one"
out = "runs/short-one"
seed = 42

[model]
source = "builtin:tiny-llama"

[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
context = 512
eval_tokens = 0

[calibration]
windows = 32
seed = 42

[prune]
pattern = "2:4"
method = "sparsegpt"
layers = ["model.layers.*"]
exclude = []
damping = 0.01
block = 128
schedule = "one-shot"

[train]
tokens = 81920
batch = 4
accumulate = 1
lr = 0.0001
warmup = 0.05
schedule = "cosine"
min_lr = 0.0
clip = 1.0
weight_decay = 0.0
beta1 = 0.9
beta2 = 0.999
eps = 1e-8
save_every = 100
validate_every = 0
order_seed = 42
memory = "none"
moments = "f32"
non_finite = "abort"

[compare]
arms = ["dense_tuned", "pruned_magnitude"]

[export]
dtype = "bf16"
"#;
    assert_eq!(parse(SHORT, &[]).resolve(), expected);
}

#[test]
fn the_fingerprint_is_of_the_work_and_not_of_its_place() {
    let recipe = parse(SHORT, &[]);
    let print = recipe.fingerprint();
    assert_eq!(print.len(), 64);
    assert!(print.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(parse(SHORT, &["name=other", "out=/tmp/x"]).fingerprint(), print);
    assert_eq!(parse(SHORT, &["train.beta1=0.9"]).fingerprint(), print, "a default that is written out");
    for change in [
        "seed=1",
        "train.lr=2e-4",
        "data.context=256",
        "distill.weight=0.5",
        "export.dtype=f32",
        "compare.arms=[]",
    ] {
        assert_ne!(parse(SHORT, &[change]).fingerprint(), print, "{change}");
    }
}

#[test]
fn overrides_change_what_they_name() {
    let recipe =
        parse(SHORT, &["train.tokens=", "train.steps=1e3", "model.source=./a/b", "name=7", "train.clip=0"]);
    let train = recipe.train.unwrap();
    assert_eq!((train.length, train.clip), (TrainLength::Steps(1000), None));
    assert_eq!(recipe.model, ModelSpec::Source(ModelSource::Folder("a/b".into())));
    assert_eq!((recipe.name.as_str(), recipe.out), ("7", PathBuf::from("runs/7")));
    let recipe = parse(SHORT, &["prune.method=magnitude", "train=", "data.train="]);
    assert_eq!((recipe.train, recipe.calibration, recipe.data.train), (None, None, None));
    assert_eq!(recipe.compare.arms, [Arm::PrunedMagnitude]);
}

#[test]
fn a_model_is_told_by_its_spelling() {
    let source = |text: &str, more: &[&str]| {
        let mut overrides = vec![format!("model.source={text}")];
        overrides.extend(more.iter().map(ToString::to_string));
        match Recipe::parse(SHORT, "r.toml", &overrides).unwrap().model {
            ModelSpec::Source(source) => source,
            ModelSpec::Pretrain(_) => panic!("not a source"),
        }
    };
    let hub = |id: &str, revision: Option<&str>| ModelSource::Hub {
        id: id.into(),
        revision: revision.map(Into::into),
    };
    assert_eq!(source("org/Name-1.5", &[]), hub("org/Name-1.5", None));
    assert_eq!(source("org/name", &["model.revision=123456"]), hub("org/name", Some("123456")));
    assert_eq!(source("org/name@v1.5", &[]), hub("org/name", Some("v1.5")));
    assert_eq!(source("./org/name", &[]), ModelSource::Folder("org/name".into()));
    assert_eq!(source("/m/x", &[]), ModelSource::Folder("/m/x".into()));
    assert_eq!(source("x", &[]), ModelSource::Folder("x".into()));
    assert_eq!(source("a/b/c/", &[]), ModelSource::Folder("a/b/c".into()));
    assert_eq!(source("a/M.Q4_1.GGUF", &[]), ModelSource::Gguf("a/M.Q4_1.GGUF".into()));
    assert_eq!(source(".//x/y", &[]).to_string(), ".//x/y");
}

#[test]
fn texts_are_told_by_their_spelling() {
    let text = |value: &str| parse(SHORT, &[&format!("data.eval={value}")]).data.eval;
    let set = |value: &str| match text(value) {
        TextSource::Files(set) => set,
        other => panic!("{other:?}"),
    };
    assert_eq!(text("builtin:sotu-train"), TextSource::Builtin("sotu-train".into()));
    assert_eq!(set("a/*.txt").files, ["a/*.txt"]);
    assert_eq!(set("a/*.txt").separator, "\n\n");
    assert_eq!(set("a/*.jsonl").format, TextFormat::Jsonl { field: "text".into() });
    assert_eq!(
        set("{files=[\"a\"],format=\"jsonl\",field=\"x\",separator=\"\"}").format,
        TextFormat::Jsonl { field: "x".into() }
    );
    assert_eq!(set("{files=\"a\"}").format, TextFormat::Text);
    assert_eq!(set("{files=[\"a.ndjson\",\"b.jsonl\"]}").format, TextFormat::Jsonl { field: "text".into() });
    assert_eq!(set("a/*.parquet").format, TextFormat::Parquet { field: "text".into() });
    assert_eq!(
        set("{files=[\"a.parquet\"],format=\"parquet\",field=\"x\"}").format,
        TextFormat::Parquet { field: "x".into() }
    );
}

#[test]
fn conversations_and_mixes_are_read_and_written() {
    let train = |value: &str| {
        let recipe = parse(SHORT, &[&format!("data.train={value}")]);
        let again = trimwick_recipe::Recipe::parse(&recipe.resolve(), "again.toml", &[]).unwrap();
        assert_eq!((again.fingerprint(), &again.data), (recipe.fingerprint(), &recipe.data));
        recipe
    };
    let spec = |value: &str| match train(value).data.train {
        Some(TextSource::Files(FileSet { format: TextFormat::Chat(spec), .. })) => spec,
        other => panic!("{other:?}"),
    };
    let plain = spec("{files=\"a.jsonl\",format=\"chat\"}");
    assert_eq!(plain, ChatSpec { loss: ChatLoss::Answers, template: None });
    let all = spec("{files=\"a.txt\",format=\"chat\",loss=\"all\",template=\"t/x.jinja\"}");
    let file = TemplateSource::File("t/x.jinja".into());
    assert_eq!(all, ChatSpec { loss: ChatLoss::All, template: Some(file) });
    let named = spec("{files=\"a\",format=\"chat\",template=\"chatml\"}").template;
    assert_eq!(named, Some(TemplateSource::Named("chatml".into())));
    assert_eq!(CHAT_TEMPLATES, trimwick_models::TEMPLATES.iter().map(|(name, _)| *name).collect::<Vec<_>>());

    let mixed = train("[{files=\"a\",format=\"chat\",weight=3},\"builtin:sotu-train\",\"b.jsonl\"]");
    let Some(TextSource::Mix(mix)) = &mixed.data.train else { panic!("{:?}", mixed.data) };
    assert_eq!(mix.iter().map(|m| m.weight).collect::<Vec<_>>(), [3, 1, 1]);
    let keys: Vec<_> = mixed.data.sources().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["data.train.0", "data.train.1", "data.train.2"]);
    // A list of one is that one.
    let one = |value: &str| train(value).fingerprint();
    assert_eq!(one("[\"a.txt\"]"), one("\"a.txt\""));
    assert_ne!(one("[\"a.txt\",{files=\"b\"}]"), one("[\"a.txt\",{files=\"b\",weight=2}]"));

    // Recipes from before there were conversations resolve to what they did.
    let old = train("{files=[\"a.jsonl\"]}").resolve();
    let line = "train = { files = [\"a.jsonl\"], format = \"jsonl\", field = \"text\", separator = \"\"\"\n\n\n\"\"\" }\n";
    assert!(old.contains(line), "{old}");
    assert!(
        train("\"builtin:sotu-train\"").resolve().contains("[data]\ntrain = \"builtin:sotu-train\"\neval = ")
    );
}

#[test]
fn schedules_carry_their_keys() {
    let schedule = |overrides: &[&str]| parse(SHORT, overrides).prune.unwrap();
    let gradual = schedule(&["prune.schedule=gradual"]);
    assert_eq!(gradual.schedule, PruneSchedule::Gradual { refresh_every: 10, until: 0.5 });
    assert_eq!(gradual.method, PruneMethod::Magnitude, "the only one that schedule takes");
    assert_eq!(gradual.schedule.end(40), 20);
    let refreshed =
        schedule(&["prune.schedule=refreshed", "prune.refresh_every=1", "prune.until=1", "prune.decay=0"]);
    assert_eq!(refreshed.schedule, PruneSchedule::Refreshed { refresh_every: 1, until: 1.0, decay: 0.0 });
    let odd = schedule(&["prune.pattern=3:5"]);
    assert_eq!(odd.method, PruneMethod::SparseGpt { damping: 0.01, block: 125 }, "whole groups in a block");
    let free = schedule(&["prune.pattern=unstructured", "prune.sparsity=0.7", "prune.method=wanda"]);
    assert_eq!((free.pattern, free.method), (Pattern::Unstructured { sparsity: 0.7 }, PruneMethod::Wanda));
    let constant = parse(SHORT, &["train.schedule=constant", "train.warmup=0"]).train.unwrap();
    assert_eq!((constant.schedule, constant.warmup), (LrSchedule::Constant, Warmup::Steps(0)));
}

#[test]
fn steps_are_rounded_up_and_warmup_leaves_one() {
    let train = |overrides: &[&str]| parse(SHORT, overrides).train.unwrap();
    assert_eq!(train(&["train.tokens=2049"]).steps(512), 2);
    assert_eq!(train(&["train.tokens=2048"]).steps(512), 1);
    assert_eq!(train(&["train.tokens=2048", "train.warmup=0.9"]).warmup_steps(512), 0);
    assert_eq!(train(&["train.warmup=0.01"]).warmup_steps(512), 1);
}

#[test]
fn memory_and_guards_carry_their_keys() {
    use trimwick_recipe::{EngineSpec, Storage};
    use trimwick_train::{Guards, MemoryPlan, Moments, NonFinite};
    let engine = |overrides: &[&str]| {
        let recipe = parse(SHORT, overrides);
        // What is resolved is read again, the optional keys included.
        assert_eq!(parse(&recipe.resolve(), &[]).train, recipe.train);
        recipe.train.unwrap().engine
    };
    assert_eq!(engine(&[]), EngineSpec::default());
    let guards = Guards { non_finite: NonFinite::Rewind, spike: Some(4.0), skips: 1 };
    assert_eq!(
        engine(&[
            "train.memory=lean",
            "train.moments=int8",
            "train.non_finite=rewind",
            "train.spike=4",
            "train.skips=1"
        ]),
        EngineSpec { memory: MemoryPlan::Lean, moments: Moments::Int8, guards }
    );
    let skip = engine(&["train.memory=blocks", "train.non_finite=skip", "train.accumulate=2"]);
    assert_eq!(
        (skip.memory, skip.guards.non_finite, skip.guards.skips),
        (MemoryPlan::Blocks, NonFinite::Skip, 3)
    );
    assert_eq!(engine(&["train.spike=2.5", "train.skips=0"]).guards.spike, Some(2.5));
    let distill = |overrides: &[&str]| parse(SHORT, overrides).distill.unwrap().storage;
    assert_eq!(distill(&["distill.weight=0.5"]), Storage::F32);
    assert_eq!(distill(&["distill.storage=bf16"]), Storage::Bf16);
}

#[test]
fn recipes_become_json() {
    let json =
        serde_json::to_value(parse(SHORT, &["train.groups=[{pattern=\"*norm*\",lr_scale=0.1}]"])).unwrap();
    assert_eq!(json["model"]["source"]["builtin"], "tiny-llama");
    assert_eq!(json["train"]["groups"][0]["lr_scale"], 0.1);
    assert_eq!(json["compare"]["arms"][0], "dense_tuned");
    assert!(json.get("places").is_none());
}

#[test]
fn the_reference_names_every_section() {
    let text = trimwick_recipe::reference();
    for section in
        ["[model.config]", "[data.train]", "[prune]", "[train.groups]", "[distill]", "[compare]", "[export]"]
    {
        assert!(text.contains(&format!("## `{section}`")), "{section}");
    }
    assert!(text.contains("| `lr` | a number above 0 up to 1 | required, as `1e-4` |"), "{text}");
}

#[test]
fn formats_are_no_part_of_a_run_but_where_they_change_what_is_trained() {
    let fingerprint = |scheme: &str, targets: &str, more: &[&str]| {
        let quantize = format!("quantize.scheme={scheme}");
        let targets = format!("export.targets={targets}");
        let all = [&[quantize.as_str(), targets.as_str()], more].concat();
        let all: Vec<String> = all.iter().map(|text| text.to_string()).collect();
        Recipe::parse(SHORT, "r.toml", &all).unwrap().fingerprint()
    };
    let none = fingerprint("int4-g64", "[]", &[]);
    for targets in ["[\"gguf\"]", "[\"compressed-tensors\"]", "[\"gguf\", \"modelopt\"]"] {
        assert_eq!(fingerprint("int4-g64", targets, &[]), none, "{targets}");
        assert_eq!(fingerprint("int4-g64", targets, &["export.dense=f32"]), none, "{targets}");
    }
    assert_ne!(fingerprint("int4-g64", "[]", &["seed=7"]), none);
    // Layers that these formats fuse share NVFP4's scale of the tensor from the start.
    let none = fingerprint("nvfp4-weight", "[]", &[]);
    assert_eq!(fingerprint("nvfp4-weight", "[\"gguf\"]", &[]), none);
    let shared = fingerprint("nvfp4-weight", "[\"compressed-tensors\"]", &[]);
    assert_ne!(shared, none);
    assert_eq!(fingerprint("nvfp4-weight", "[\"modelopt\", \"gguf\"]", &[]), shared);
}
