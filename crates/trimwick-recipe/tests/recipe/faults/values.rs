//! Values of the wrong type, out of range, or at odds with others.

use super::{answer, check, with};

#[test]
fn wrong_types_say_what_was_found() {
    check(&[
        (
            &[(11, "lr = \"fast\"")],
            &[
                "r.toml:11: train.lr: wrong type: expected a number above 0 up to 1, found the string \"fast\"; write for example lr = 1e-4",
            ],
        ),
        (
            &[(10, "steps = 1.5")],
            &[
                "r.toml:10: train.steps: wrong type: expected a whole number of 1 or more, found 1.5; write for example steps = 200",
            ],
        ),
        (
            &[(10, "steps = true")],
            &[
                "r.toml:10: train.steps: wrong type: expected a whole number of 1 or more, found true; write for example steps = 200",
            ],
        ),
        (
            &[(8, "pattern = 24")],
            &[
                "r.toml:8: prune.pattern: wrong type: expected \"N:M\" with 1 ≤ N < M ≤ 64, or \"unstructured\", found 24; write for example pattern = \"2:4\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nlayers = [\"a\", 3]\nexclude = {}")],
            &[
                "r.toml:9: prune.layers.1: wrong type: expected a glob pattern, a string, found 3; write for example layers = [\"model.layers.*\"]",
                "r.toml:10: prune.exclude: wrong type: expected a list of glob patterns over layer paths, found a table; write for example exclude = []",
            ],
        ),
        (
            &[(1, "train = 3"), (9, "[calibration]"), (10, ""), (11, "")],
            &["r.toml:1: train: wrong type: expected a section, found 3; write for example [train]"],
        ),
        (
            &[(11, "lr = 1e-4\ngroups = 3")],
            &[
                "r.toml:12: train.groups: wrong type: expected a list of sections, each under [[…]], found 3; write for example [[train.groups]]",
            ],
        ),
        (
            &[(11, "lr = 1e-4\ngroups = [1]")],
            &[
                "r.toml:12: train.groups.0: wrong type: expected a section, found 1; write for example [[train.groups]]",
            ],
        ),
        (
            &[(5, "train = 3")],
            &[
                "r.toml:5: data.train: wrong type: expected \"builtin:NAME\", a file or glob pattern, or { files = […] }, or a list of them to mix, found 3; write for example train = \"builtin:sotu-train\"",
            ],
        ),
        (
            &[(1, "name = 2026-01-02")],
            &[
                "r.toml:1: name: wrong type: expected a name of 1 to 100 letters, digits, '.', '_' and '-' that does not start with '.', found the date 2026-01-02; write for example name = \"quickstart\"",
            ],
        ),
    ]);
}

#[test]
fn values_out_of_range_say_the_range() {
    for (line, key, expected, found) in [
        ("lr = nan", "lr", "a number above 0 up to 1", "nan"),
        ("lr = inf", "lr", "a number above 0 up to 1", "inf"),
        ("lr = -inf", "lr", "a number above 0 up to 1", "-inf"),
        ("lr = 1e400", "lr", "a number above 0 up to 1", "inf"),
        ("lr = 0", "lr", "a number above 0 up to 1", "0"),
        ("lr = -1e-4", "lr", "a number above 0 up to 1", "-0.0001"),
        ("lr = 1.5", "lr", "a number above 0 up to 1", "1.5"),
        ("lr = 1e-4\nbatch = 0", "batch", "a whole number from 1 to 65536", "0"),
        ("lr = 1e-4\naccumulate = -1", "accumulate", "a whole number from 1 to 65536", "-1"),
        ("lr = 1e-4\nsave_every = 0", "save_every", "a whole number of 1 or more", "0"),
        ("lr = 1e-4\nsave_every = inf", "save_every", "a whole number of 1 or more", "inf"),
        (
            "lr = 1e-4\nwarmup = -1",
            "warmup",
            "a fraction of the steps, from 0.0 and below 1.0, or a whole number of steps",
            "-1",
        ),
        (
            "lr = 1e-4\nwarmup = 1.0",
            "warmup",
            "a fraction of the steps, from 0.0 and below 1.0, or a whole number of steps",
            "1.0",
        ),
        (
            "lr = 1e-4\nwarmup = nan",
            "warmup",
            "a fraction of the steps, from 0.0 and below 1.0, or a whole number of steps",
            "nan",
        ),
        ("lr = 1e-4\nbeta1 = 1", "beta1", "a number from 0 and below 1", "1"),
        ("lr = 1e-4\nbeta2 = -0.1", "beta2", "a number from 0 and below 1", "-0.1"),
        ("lr = 1e-4\neps = 0", "eps", "a number above 0 up to 1", "0"),
        ("lr = 1e-4\nweight_decay = 2", "weight_decay", "a number from 0 up to 1", "2"),
        ("lr = 1e-4\nclip = inf", "clip", "a finite number from 0", "inf"),
        ("lr = 1e-4\nclip = nan", "clip", "a finite number from 0", "nan"),
        (
            "lr = 1e-4\norder_seed = 99999999999999999999",
            "order_seed",
            "a whole number of 0 or more",
            "99999999999999999999 (beyond 64 bits)",
        ),
    ] {
        let number = if line.contains('\n') { 12 } else { 11 };
        let start = format!(
            "r.toml:{number}: train.{key}: expected {expected}, found {}; write for example {key} = ",
            found.replace("nan", "NaN")
        );
        let answer = answer(&with(&[(11, line)]), &[]);
        assert!(answer.starts_with(&start) && answer.lines().count() == 1, "{line}:\n{answer}\n{start}");
    }
    check(&[
        (
            &[(10, "steps = 0")],
            &[
                "r.toml:10: train.steps: expected a whole number of 1 or more, found 0; write for example steps = 200",
            ],
        ),
        (
            &[(10, "tokens = 100")],
            &[
                "r.toml:10: train.tokens: expected at least one step, 2048 tokens (batch x accumulate x context), found 100; raise it, or make a step smaller",
            ],
        ),
        (
            &[(6, "eval = \"builtin:sotu-eval\"\ncontext = 1\neval_tokens = 1")],
            &[
                "r.toml:7: data.context: expected a whole number from 2 to 1048576, found 1; write for example context = 512",
                "r.toml:8: data.eval_tokens: expected 0 for all, or 2 and more, found 1; the first token of a text has no prediction to score",
            ],
        ),
        (
            &[(1, "name = \"a/b\"\nseed = -1\nout = \"\"")],
            &[
                "r.toml:1: name: expected a name of 1 to 100 letters, digits, '.', '_' and '-' that does not start with '.', found the string \"a/b\"; write for example name = \"quickstart\"",
                "r.toml:2: seed: expected a whole number of 0 or more, found -1; write for example seed = 42",
                "r.toml:3: out: expected a folder, found the string \"\"; write for example out = \"runs/quickstart\"",
            ],
        ),
        (
            &[(
                11,
                "lr = 1e-4\n[distill]\nweight = 0\ntemperature = 0\n[calibration]\nwindows = 0\n[export]\ndtype = \"f8\"",
            )],
            &[
                "r.toml:13: distill.weight: expected a number above 0 up to 1, found 0; write for example weight = 0.5",
                "r.toml:14: distill.temperature: expected a number above 0 up to 100, found 0; write for example temperature = 1.0",
                "r.toml:16: calibration.windows: expected a whole number from 1 to 1048576, found 0; write for example windows = 32",
                "r.toml:18: export.dtype: expected \"bf16\", \"f16\" or \"f32\", found the string \"f8\"; write one of them",
            ],
        ),
    ]);
}

#[test]
fn patterns_and_globs_are_checked_for_their_syntax() {
    for pattern in
        ["", "2", "4:4", "5:4", "0:4", "2:4:8", "2:65", "+2:4", "2 :4", "-1:4", "2:4 ", "unstructured 0.5"]
    {
        let answer = answer(&with(&[(8, &format!("pattern = \"{pattern}\""))]), &[]);
        let start = "r.toml:8: prune.pattern: expected \"N:M\" with 1 ≤ N < M ≤ 64, or \"unstructured\", found the string ";
        assert!(answer.starts_with(start) && answer.lines().count() == 1, "{pattern}: {answer}");
    }
    check(&[
        (
            &[(8, "pattern = \"2:4\"\nlayers = [\n  \"a[\",\n  \"\",\n]\nexclude = \"{a\"")],
            &[
                "r.toml:10: prune.layers.0: expected a glob pattern (unclosed character class; missing ']'), found the string \"a[\"; write for example layers = [\"model.layers.*\"]",
                "r.toml:11: prune.layers.1: expected a pattern of 1 to 256 bytes, found the string \"\"; write for example layers = [\"model.layers.*\"]",
                "r.toml:13: prune.exclude: expected a glob pattern (unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)), found the string \"{a\"; write for example exclude = []",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nlayers = []")],
            &[
                "r.toml:9: prune.layers: expected a list of glob patterns over layer paths, found an empty list; write for example layers = [\"model.layers.*\"]",
            ],
        ),
        (
            &[(5, "train = { files = [\"a[.txt\", \"b/***\"] }")],
            &[
                "r.toml:5: data.train.files.0: expected a glob pattern (at byte 1: invalid range pattern), found the string \"a[.txt\"; write for example files = [\"data/*.txt\"]",
                "r.toml:5: data.train.files.1: expected a glob pattern (at byte 4: wildcards are either regular `*` or recursive `**`), found the string \"b/***\"; write for example files = [\"data/*.txt\"]",
            ],
        ),
        (
            &[(
                11,
                "lr = 1e-4\n[[train.groups]]\npattern = \"[\"\nlr_scale = -1\n[[train.groups]]\npattern = \"a\"",
            )],
            &[
                "r.toml:13: train.groups.0.pattern: expected a glob pattern (unclosed character class; missing ']'), found the string \"[\"; write for example pattern = \"*norm*\"",
                "r.toml:14: train.groups.0.lr_scale: expected a number from 0 up to 1000, found -1; write for example lr_scale = 1.0",
                "r.toml:15: train.groups.1.lr_scale: missing: expected lr_scale or weight_decay, what differs in this group, found nothing; add for example lr_scale = 1.0",
            ],
        ),
    ]);
}

#[test]
fn values_that_do_not_go_together_are_faults() {
    check(&[
        (
            &[(11, "lr = 1e-4\ntokens = 9999")],
            &[
                "r.toml:10: train.steps: expected either tokens or steps, found both; keep one; a step is batch x accumulate x context tokens",
            ],
        ),
        (
            &[(11, "lr = 1e-4\nmemory = \"lean\"\naccumulate = 4\nnon_finite = \"skip\"\nspike = 1.0")],
            &[
                "r.toml:12: train.memory: expected \"none\" or \"blocks\" with accumulate = 4, found \"lean\"; lean updates weights in each batch: write accumulate = 1, or memory = \"blocks\"",
                "r.toml:14: train.non_finite: expected \"abort\" or \"rewind\" with memory = \"lean\", found \"skip\"; when a gradient is found to be broken, other weights are updated already; write non_finite = \"rewind\"",
                "r.toml:15: train.spike: expected a finite number above 1, found 1.0; write for example spike = 4.0",
            ],
        ),
        (
            &[(11, "lr = 1e-4\nmin_lr = 1e-3")],
            &["r.toml:12: train.min_lr: expected at most lr = 0.0001, found 0.001; lower it, or raise lr"],
        ),
        (
            &[(11, "lr = 1e-4\nwarmup = 100")],
            &[
                "r.toml:12: train.warmup: expected fewer than the 100 steps of training, found 100; lower it, or write a fraction such as 0.05",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nblock = 6")],
            &[
                "r.toml:9: prune.block: expected a multiple of 4, the group of the pattern, found 6; a group is pruned within one block",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nschedule = \"gradual\"\nmethod = \"wanda\"")],
            &[
                "r.toml:10: prune.method: expected \"magnitude\", by which schedule \"gradual\" chooses, found \"wanda\"; change either, or remove this one",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nschedule = \"refreshed\""), (9, ""), (10, ""), (11, "")],
            &[
                "r.toml:9: prune.schedule: expected a section [train] to prune during, found \"refreshed\" without it; add the section, or write schedule = \"one-shot\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nschedule = \"refreshed\"\nrefresh_every = 51")],
            &[
                "r.toml:10: prune.refresh_every: expected at most 50, the steps before the mask is final, found 51; lower it, or train longer",
            ],
        ),
        (
            &[(3, "source = \"m\"\n[model.config]\nhidden_size = 8")],
            &[
                "r.toml:4: model.config: expected either model.source or [model.config], found both; keep source to start from its weights, or [model.config] to start from random ones",
            ],
        ),
        (
            &[(3, "source = \"a/pytorch_model.bin\"")],
            &[
                "r.toml:3: model.source: expected a model: builtin:NAME, a folder, a .gguf file or a hub id ORG/NAME, found \"a/pytorch_model.bin\"; pickle files run code when they are opened: convert the model to safetensors and give its folder",
            ],
        ),
        (
            &[(3, "source = \"model.safetensors\"")],
            &[
                "r.toml:3: model.source: expected a model: builtin:NAME, a folder, a .gguf file or a hub id ORG/NAME, found \"model.safetensors\"; give the folder that holds it beside config.json",
            ],
        ),
        (
            &[(3, "source = \"builtin:tiny\""), (5, "train = \"sotu-train\""), (6, "eval = \"builtin:x\"")],
            &[
                "r.toml:3: model.source: expected builtin:tiny-llama, found the string \"builtin:tiny\"; did you mean `builtin:tiny-llama`?",
                "r.toml:5: data.train: expected \"builtin:NAME\", a file or glob pattern, or { files = […] }, or a list of them to mix, found the string \"sotu-train\"; did you mean `builtin:sotu-train`?",
                "r.toml:6: data.eval: expected builtin:sotu-train or builtin:sotu-eval, found the string \"builtin:x\"; write one of them",
            ],
        ),
    ]);
}
