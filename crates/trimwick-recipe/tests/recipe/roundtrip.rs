//! Properties: a resolved recipe reads as the same recipe, and no text panics.

use proptest::prelude::*;
use trimwick_recipe::Recipe;

use crate::sound::SHORT;

/// A file name or a word, with what TOML has to escape.
fn word() -> impl Strategy<Value = String> {
    "[a-z][ a-z\"\\\\\u{e9}\t.-]{0,8}[a-z]"
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn model() -> impl Strategy<Value = String> {
    let config = (
        1u64..64,
        prop::sample::select(vec!["llama", "mistral", "qwen2", "qwen3"]),
        1e-9..1e-2f64,
        any::<bool>(),
    );
    prop_oneof![
        Just("[model]\nsource = \"builtin:tiny-llama\"\n".to_string()),
        word().prop_map(|name| format!("[model]\nsource = {}\n", quoted(&name))),
        word().prop_map(|name| format!("[model]\nsource = {}\n", quoted(&format!("./{name}/{name}.gguf")))),
        ("[a-zA-Z0-9]{1,8}/[a-z0-9][a-zA-Z0-9_]{1,8}(-[a-z]{1,3})?", prop::option::of("[a-f0-9]{7,40}"))
            .prop_map(|(id, revision)| {
                let revision = revision.map(|r| format!("revision = \"{r}\"\n")).unwrap_or_default();
                format!("[model]\nsource = \"{id}\"\n{revision}")
            }),
        ("[a-z]{1,8}/[a-z]{1,8}(@[a-z]{1,3})?").prop_map(|path| format!("[model]\nsource = \"./{path}\"\n")),
        config.prop_map(|(heads, kind, eps, tie)| {
            let window = if kind == "mistral" && tie { "sliding_window = 9\n" } else { "" };
            format!(
                "[model.config]\nmodel_type = \"{kind}\"\nhidden_size = {}\nintermediate_size = 64\n\
                 num_hidden_layers = 2\nnum_attention_heads = {heads}\nrms_norm_eps = {eps:?}\n\
                 tie_word_embeddings = {tie}\n{window}[model.tokenizer]\nvocab_size = 400\n",
                heads * 8
            )
        }),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"builtin:sotu-eval\"".to_string()),
        word().prop_map(|file| quoted(&file)),
        (prop::collection::vec(word(), 1..4), any::<bool>(), word()).prop_map(|(files, jsonl, extra)| {
            let files: Vec<String> = files.iter().map(|file| quoted(file)).collect();
            let format =
                if jsonl { format!("\"jsonl\", field = {}", quoted(&extra)) } else { "\"text\"".to_string() };
            format!("{{ files = [{}], format = {format}, separator = {} }}", files.join(", "), quoted(&extra))
        }),
    ]
}

fn prune() -> impl Strategy<Value = String> {
    let pattern = prop_oneof![
        (1u32..32, 1u32..33).prop_map(|(n, more)| format!("pattern = \"{n}:{}\"", n + more)),
        (0.001..0.999f64).prop_map(|share| format!("pattern = \"unstructured\"\nsparsity = {share:?}")),
    ];
    let method = prop_oneof![
        Just("method = \"magnitude\"".to_string()),
        Just("method = \"wanda\"".to_string()),
        (1e-6..1.0f64).prop_map(|damping| format!("damping = {damping:?}")),
    ];
    let schedule = prop_oneof![
        Just(String::new()),
        (1u64..4, 0.6..1.0f64, 0.0..1.0f64).prop_map(|(every, until, decay)| {
            format!("schedule = \"refreshed\"\nrefresh_every = {every}\nuntil = {until:?}\ndecay = {decay:?}")
        }),
    ];
    (pattern, method, schedule, word()).prop_map(|(pattern, method, schedule, layer)| {
        format!("[prune]\n{pattern}\n{method}\n{schedule}\nlayers = [{}]\n", quoted(&layer.replace('\\', "")))
    })
}

fn train() -> impl Strategy<Value = String> {
    let warmup =
        prop_oneof![(0u64..9).prop_map(|n| n.to_string()), (0.0..1.0f64).prop_map(|f| format!("{f:?}"))];
    let schedule = prop_oneof![
        Just("schedule = \"constant\"\n"),
        Just("schedule = \"linear\"\n"),
        Just("min_lr = 1e-9\n")
    ];
    let group = prop::option::of((0.0..9.0f64, prop::option::of(0.0..1.0f64)));
    (10u64..1_000_000, 1e-8..1.0f64, warmup, schedule, 0.0..10.0f64, 0.0..0.999f64, group).prop_map(
        |(steps, lr, warmup, schedule, clip, beta, group)| {
            let group = group.map_or(String::new(), |(scale, decay)| {
                let decay = decay.map(|decay| format!("weight_decay = {decay:?}\n")).unwrap_or_default();
                format!("[[train.groups]]\npattern = \"*norm*\"\nlr_scale = {scale:?}\n{decay}")
            });
            format!(
                "[train]\nsteps = {steps}\nlr = {lr:?}\nwarmup = {warmup}\n{schedule}clip = {clip:?}\nbeta1 = {beta:?}\n{group}"
            )
        },
    )
}

fn recipe() -> impl Strategy<Value = String> {
    (model(), text(), text(), any::<u32>(), 2usize..4096, prune(), train(), any::<[bool; 3]>()).prop_map(
        |(model, trained, measured, seed, context, prune, train, [pruned, distilled, compared])| {
            let mut parts = vec![format!("seed = {seed}\n"), model.clone()];
            parts.push(format!("[data]\ntrain = {trained}\neval = {measured}\ncontext = {context}\n"));
            let pruned = pruned && !model.contains("config");
            parts.push(train);
            let blocks = pruned && compared && !prune.contains("refreshed");
            if pruned {
                parts.push(prune);
            }
            if pruned && distilled {
                parts.push("[distill]\nweight = 0.25\n".to_string());
            }
            if blocks {
                parts.push(format!("[blockwise]\nepochs = {}\nparts = \"split\"\n", seed % 9 + 1));
            }
            if pruned && compared {
                parts.push("[compare]\narms = [\"pruned_magnitude\"]\n".to_string());
            }
            parts.concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_resolved_text_reads_as_the_same_recipe(text in recipe()) {
        let first = Recipe::parse(&text, "a.toml", &[]).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        let resolved = first.resolve();
        let second = Recipe::parse(&resolved, "b.toml", &[]).unwrap_or_else(|faults| panic!("{faults}\n{resolved}"));
        prop_assert_eq!(&second, &first, "\n{}\n{}", text, resolved);
        prop_assert_eq!(second.resolve(), resolved);
        prop_assert_eq!(second.fingerprint(), first.fingerprint());
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]{}=.,\"'#a-c0-9\n -]{0,60}", cut in 0usize..400, put in "[\u{0}-\u{ff}]{0,3}") {
        let _ = Recipe::parse(&text, "a.toml", std::slice::from_ref(&text));
        let at = SHORT.char_indices().map(|(at, _)| at).nth(cut % SHORT.len()).unwrap_or(0);
        let broken = format!("{}{put}{}", &SHORT[..at], &SHORT[at..]);
        if let Err(faults) = Recipe::parse(&broken, "a.toml", &[]) {
            prop_assert_eq!(faults.to_string().lines().count(), faults.len());
        }
    }
}
