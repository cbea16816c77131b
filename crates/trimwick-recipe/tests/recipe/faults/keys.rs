//! Unknown, doubled, missing and useless keys.

use super::{answer, check};

#[test]
fn unknown_keys_are_told_what_they_were_meant_to_be() {
    check(&[
        (
            &[(10, "stesp = 100")],
            &[
                "r.toml:9: train.tokens: missing: expected tokens or steps, how long to train, found nothing; add for example tokens = 81920",
                "r.toml:10: train.stesp: unknown key; did you mean `train.steps`?",
            ],
        ),
        (
            &[(11, "lr = 1e-4\nWarmup = 1")],
            &["r.toml:12: train.Warmup: unknown key; did you mean `train.warmup`?"],
        ),
        (
            &[(11, "lr = 1e-4\nbatch_size = 1")],
            &["r.toml:12: train.batch_size: unknown key; did you mean `train.batch`?"],
        ),
        (
            &[(11, "lr = 1e-4\nseed = 1")],
            &["r.toml:12: train.seed: unknown key; did you mean `train.order_seed`?"],
        ),
        (
            &[(11, "lr = 1e-4\npattern = \"2:4\"")],
            &["r.toml:12: train.pattern: unknown key; `pattern` belongs in [prune]; move it there"],
        ),
        (
            &[(8, "pattern = \"2:4\"\nlearning_rate = 1")],
            &["r.toml:9: prune.learning_rate: unknown key; `lr` belongs in [train]; move it there"],
        ),
        (
            &[(8, "pattern = \"2:4\"\nacumulate = 1")],
            &["r.toml:9: prune.acumulate: unknown key; `accumulate` belongs in [train]; move it there"],
        ),
        (
            &[(8, "pattern = \"2:4\"\nout = \"x\"")],
            &[
                "r.toml:9: prune.out: unknown key; `out` belongs at the top, before the first section; move it there",
            ],
        ),
        (
            &[(11, "lr = 1e-4\nepochs = 1")],
            &["r.toml:12: train.epochs: unknown key; say how long to train with train.tokens or train.steps"],
        ),
        (
            &[(1, "epochs = 1")],
            &["r.toml:1: epochs: unknown key; say how long to train with train.tokens or train.steps"],
        ),
        (&[(9, "[trian]")], &["r.toml:9: trian: unknown key; did you mean `train`?"]),
        (
            &[(1, "[zzz]")],
            &[
                "r.toml:1: zzz: unknown key; known here: name, out, seed, model, data, calibration, prune, quantize, train, blockwise, lora, distill, compare, export",
            ],
        ),
        (
            &[(11, "lr = 1e-4\n\"\\u001b[31m\\n\" = 1")],
            &[
                "r.toml:12: train.\\u{1b}[31m\\u{a}: unknown key; known here: tokens, steps, batch, accumulate, lr, warmup, schedule, min_lr, clip, weight_decay, beta1, beta2, eps, save_every, validate_every, order_seed, memory, moments, non_finite, spike, skips, groups",
            ],
        ),
    ]);
}

#[test]
fn duplicates_name_the_first_and_leave_the_rest_checked() {
    check(&[
        (
            &[(11, "lr = 1e-4\nlr = 2e-4\nsteps = 7\nclip = -1")],
            &[
                "r.toml:12: train.lr: given twice, first on line 11; keep one of them",
                "r.toml:13: train.steps: given twice, first on line 10; keep one of them",
                "r.toml:14: train.clip: expected a finite number from 0, found -1; write for example clip = 1.0",
            ],
        ),
        (
            &[(11, "lr = 1e-4\n[prune]")],
            &["r.toml:12: prune: given twice, first on line 7; keep one of them"],
        ),
    ]);
}

#[test]
fn what_has_to_be_there_is_asked_for() {
    assert_eq!(
        answer("", &[]),
        "r.toml: model: missing: expected the section [model], found nothing; add for example [model] with source = \"builtin:tiny-llama\"\n\
         r.toml: data: missing: expected the section [data], found nothing; add for example [data] with eval = \"builtin:sotu-eval\"\n\
         r.toml: prune: missing: expected a section [prune], [quantize] or [train], something to do, found nothing; add for example [prune] with pattern = \"2:4\""
    );
    check(&[
        (
            &[(3, ""), (6, ""), (8, ""), (11, "")],
            &[
                "r.toml:2: model.source: missing: expected a model: builtin:NAME, a folder, a .gguf file or a hub id ORG/NAME, found nothing; add for example source = \"builtin:tiny-llama\"",
                "r.toml:4: data.eval: missing: expected \"builtin:NAME\", a file or glob pattern, or { files = […] }, found nothing; add for example eval = \"builtin:sotu-eval\"",
                "r.toml:7: prune.pattern: missing: expected \"N:M\" with 1 ≤ N < M ≤ 64, or \"unstructured\", found nothing; add for example pattern = \"2:4\"",
                "r.toml:9: train.lr: missing: expected a number above 0 up to 1, found nothing; add for example lr = 1e-4",
            ],
        ),
        (
            &[(5, "")],
            &[
                "r.toml:4: data.train: missing: expected a text, since [train] trains on it, found nothing; add for example train = \"builtin:sotu-train\"",
            ],
        ),
        (
            &[(5, ""), (9, ""), (10, ""), (11, "")],
            &[
                "r.toml:4: data.train: missing: expected a text, since the method calibrates on it, found nothing; add for example train = \"builtin:sotu-train\"",
            ],
        ),
        (
            &[(8, "pattern = \"unstructured\"")],
            &[
                "r.toml:7: prune.sparsity: missing: expected a number above 0 and below 1, found nothing; add for example sparsity = 0.5",
            ],
        ),
        (
            &[(5, "train = {}")],
            &[
                "r.toml:5: data.train.files: missing: expected a list of files and glob patterns, found nothing; add for example files = [\"data/*.txt\"]",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.txt\", \"b.jsonl\"] }")],
            &[
                "r.toml:5: data.train.format: missing: expected one format for files that look like both, found nothing; add for example format = \"text\"",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.parquet\", \"b.txt\"], format = \"parquet\" }")],
            &[
                "r.toml:5: data.train.files: expected patterns that end in .parquet, as the format says, found \"b.txt\"; leave the format out, or name other files",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.parquet\"], format = \"text\" }")],
            &[
                "r.toml:5: data.train.files: expected no pattern that ends in .parquet, unless the format says so, found \"a.parquet\"; write format = \"parquet\"",
            ],
        ),
    ]);
}

#[test]
fn a_key_that_nothing_reads_is_a_fault() {
    check(&[
        (
            &[(8, "pattern = \"2:4\"\nsparsity = 0.5")],
            &[
                "r.toml:9: prune.sparsity: has no effect: 2:4 already fixes the share of weights that go; remove it, or write pattern = \"unstructured\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nmethod = \"wanda\"\nblock = 64\ndamping = 0.1")],
            &[
                "r.toml:10: prune.block: has no effect: method \"wanda\" solves nothing; remove it, or write method = \"sparsegpt\"",
                "r.toml:11: prune.damping: has no effect: method \"wanda\" solves nothing; remove it, or write method = \"sparsegpt\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nrefresh_every = 2\nuntil = 0.5\ndecay = 1e-4")],
            &[
                "r.toml:9: prune.refresh_every: has no effect: schedule \"one-shot\" chooses the mask once; remove it, or write schedule = \"gradual\" or \"refreshed\"",
                "r.toml:10: prune.until: has no effect: schedule \"one-shot\" chooses the mask once; remove it, or write schedule = \"gradual\" or \"refreshed\"",
                "r.toml:11: prune.decay: has no effect: schedule \"one-shot\" gives masked weights no gradient; remove it, or write schedule = \"refreshed\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nschedule = \"gradual\"\ndecay = 1e-4")],
            &[
                "r.toml:10: prune.decay: has no effect: schedule \"gradual\" gives masked weights no gradient; remove it, or write schedule = \"refreshed\"",
            ],
        ),
        (
            &[(11, "lr = 1e-4\nskips = 3")],
            &[
                "r.toml:12: train.skips: has no effect: the first broken step ends the run; remove it, or write non_finite = \"rewind\"",
            ],
        ),
        (
            &[(11, "lr = 1e-4\nschedule = \"constant\"\nmin_lr = 1e-5")],
            &[
                "r.toml:13: train.min_lr: has no effect: schedule \"constant\" does not fall; remove it, or write schedule = \"cosine\" or \"linear\"",
            ],
        ),
        (
            &[(3, "source = \"builtin:tiny-llama\"\nrevision = \"main\"")],
            &[
                "r.toml:4: model.revision: has no effect: a builtin model has no revisions; remove it, or give a hub id ORG/NAME",
            ],
        ),
        (
            &[(3, "source = \"org/name@v1\"\nrevision = \"main\"")],
            &[
                "r.toml:4: model.revision: has no effect: the id has a revision after @ already; keep one of them",
            ],
        ),
        (
            &[(3, "source = \"m/x.gguf\"\nrevision = \"main\"\ntokenizer = { vocab_size = 300 }")],
            &[
                "r.toml:4: model.revision: has no effect: a file has no revisions; remove it, or give a hub id ORG/NAME",
                "r.toml:5: model.tokenizer: has no effect: a trained model brings its tokenizer; remove it, or give [model.config] instead of source",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.txt\"], field = \"x\" }")],
            &[
                "r.toml:5: data.train.field: has no effect: plain text has no fields; remove it, or write format = \"jsonl\"",
            ],
        ),
        (
            &[
                (8, "pattern = \"2:4\"\nmethod = \"magnitude\""),
                (11, "lr = 1e-4\n[calibration]\nwindows = 3"),
            ],
            &[
                "r.toml:13: calibration: has no effect: method \"magnitude\" looks at no activations; remove the section, or write prune.method = \"sparsegpt\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nmethod = \"magnitude\""), (9, ""), (10, ""), (11, "")],
            &[
                "r.toml:5: data.train: has no effect: nothing trains or calibrates; remove it, or add a section [train]",
            ],
        ),
        (
            &[(9, "[distill]"), (10, ""), (11, "")],
            &[
                "r.toml:9: distill: has no effect: nothing is trained; remove the section, or add [train] and [prune] or [quantize] to a trained model",
            ],
        ),
        (
            &[(7, ""), (8, ""), (11, "lr = 1e-4\n[distill]\n[calibration]")],
            &[
                "r.toml:12: distill: has no effect: the model is neither pruned nor quantized, so it would only teach itself; remove the section, or add [train] and [prune] or [quantize] to a trained model",
                "r.toml:13: calibration: has no effect: nothing is pruned or quantized; remove the section, or write prune.method = \"sparsegpt\"",
            ],
        ),
        (
            &[(9, "[compare]"), (10, "arms = [\"dense_tuned\"]"), (11, "")],
            &[
                "r.toml:10: compare.arms: has no effect: dense_tuned has nothing to show, nothing is trained; leave it out",
            ],
        ),
        (
            &[(7, ""), (8, ""), (11, "lr = 1e-4\n[compare]\narms = [\"dense_tuned\", \"pruned_magnitude\"]")],
            &[
                "r.toml:13: compare.arms: has no effect: dense_tuned has nothing to show, without [prune] or [quantize] the run itself is this arm; leave it out",
                "r.toml:13: compare.arms: has no effect: pruned_magnitude has nothing to show, nothing is pruned; leave it out",
            ],
        ),
        (
            &[(
                11,
                "lr = 1e-4\n[compare]\narms = [\"dense\", \"dense_tuned\", \"dense_tuned\", \"dense_tune\", \"x\"]",
            )],
            &[
                "r.toml:13: compare.arms.0: has no effect: the arm \"dense\" is measured in every run that has it; leave it out of the list",
                "r.toml:13: compare.arms.2: has no effect: the arm \"dense_tuned\" is in the list already; leave it out of the list",
                "r.toml:13: compare.arms.3: expected \"dense_tuned\" or \"pruned_magnitude\", found the string \"dense_tune\"; did you mean `dense_tuned`?",
                "r.toml:13: compare.arms.4: expected \"dense_tuned\" or \"pruned_magnitude\", found the string \"x\"; write one of them",
            ],
        ),
        (
            &[(
                11,
                "lr = 1e-4\n[distill]\nteacher = \"dense_tuned\"\n[compare]\narms = [\"pruned_magnitude\"]",
            )],
            &[
                "r.toml:15: compare.arms: expected the arm dense_tuned, which teaches, found a list without it; add it, or write distill.teacher = \"dense\"",
            ],
        ),
    ]);
}
