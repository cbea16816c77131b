//! `[blockwise]`.

use super::{answer, check, with};

#[test]
fn blocks_are_trained_only_beside_what_compresses_them() {
    check(&[
        (
            &[(9, "[blockwise]\nwindow = 3\nlr = 0\nparts = \"halves\"\n[train]")],
            &[
                "r.toml:10: blockwise.window: unknown key; did you mean `blockwise.windows`?",
                "r.toml:11: blockwise.lr: expected a number above 0 up to 1, found 0; write for example lr = 1e-4",
                "r.toml:12: blockwise.parts: expected \"block\" or \"split\", found the string \"halves\"; write one of them",
            ],
        ),
        (
            &[(9, "[blockwise]\nwindows = 6\nepochs = 2\nbatch = 5\nwarmup = 3\n[train]")],
            &[
                "r.toml:13: blockwise.warmup: expected fewer than the 3 steps of a block, found 3; lower it, or write a fraction such as 0.05",
            ],
        ),
        (
            &[(7, "[blockwise]"), (8, "")],
            &[
                "r.toml:7: blockwise: has no effect: the model is neither pruned nor quantized, so every block is its own twin; remove the section, or add [prune] or [quantize] to a trained model",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nschedule = \"refreshed\"\n[blockwise]")],
            &[
                "r.toml:9: prune.schedule: expected \"one-shot\" beside [blockwise], whose masks stay, found \"refreshed\"; write prune.schedule = \"one-shot\", or remove the other section",
            ],
        ),
        (
            &[(7, "[export]\ndtype = \"f32\"\n[quantize]"), (8, "scheme = \"int8\"\nstart = 5\n[blockwise]")],
            &[
                "r.toml:11: quantize.start: expected 0 beside [blockwise], found 5; remove it: the blocks are trained on their grid from the beginning",
            ],
        ),
    ]);
}

#[test]
fn blocks_need_a_text_and_no_training_end_to_end() {
    let alone: &[(usize, &str)] = &[(9, "[blockwise]"), (10, ""), (11, "")];
    assert!(answer(&with(alone), &[]).starts_with("accepted"));
    assert_eq!(
        answer(&with(&[alone, &[(5, ""), (8, "pattern = \"2:4\"\nmethod = \"magnitude\"")]].concat()), &[]),
        "r.toml:4: data.train: missing: expected a text, since [blockwise] trains on it, found nothing; add for example train = \"builtin:sotu-train\""
    );
}

#[test]
fn a_streamed_model_takes_what_one_block_at_a_time_allows() {
    let streamed = (3, "source = \"builtin:tiny-llama\"\nstream = true");
    let alone: &[(usize, &str)] = &[streamed, (9, "[blockwise]"), (10, ""), (11, "")];
    let accepted = answer(&with(alone), &[]);
    assert!(accepted.starts_with("accepted") && accepted.contains("stream: true"), "{accepted}");
    assert!(accepted.contains("compare: CompareSpec { arms: [] }"), "{accepted}");
    check(&[
        (
            &[streamed],
            &[
                "r.toml:10: train: expected a model that is in memory as a whole, to train end to end, found model.stream = true; write [blockwise] in its place, or remove model.stream",
            ],
        ),
        (
            &[streamed, (9, "[compare]\narms = [\"pruned_magnitude\"]"), (10, ""), (11, "")],
            &[
                "r.toml:11: compare.arms: expected a model that is in memory as a whole, for control arms, found model.stream = true; write compare.arms = [], or remove model.stream",
            ],
        ),
        (
            &[streamed, (9, "[export]\ntargets = [\"gguf\"]"), (10, ""), (11, "")],
            &[
                "r.toml:11: export.targets: expected a model that is in memory as a whole, to pack it, found model.stream = true; remove it, or model.stream; the model's folder is written as plain weights",
            ],
        ),
        (
            &[streamed, (9, "[lora]"), (10, ""), (11, "")],
            &["r.toml:10: lora: has no effect: nothing is trained; remove the section, or add [train]"],
        ),
        // One mistake is one fault.
        (
            &[(3, "sorce = \"builtin:tiny-llama\"")],
            &["r.toml:3: model.sorce: unknown key; did you mean `model.source`?"],
        ),
        (
            &[(3, "source = \"builtin:tiny-llama\"\nstreem = 1")],
            &["r.toml:4: model.streem: unknown key; did you mean `model.stream`?"],
        ),
    ]);
    let pretrain = "[model]\nstream = true\n[model.config]\nhidden_size = 32\nintermediate_size = 64\n\
         num_hidden_layers = 2\nnum_attention_heads = 4\n[model.tokenizer]\nvocab_size = 300\n[data]\n\
         train = \"builtin:sotu-train\"\neval = \"builtin:sotu-eval\"\n[train]\nsteps = 9\nlr = 1e-3\n";
    let answer = answer(pretrain, &[]);
    assert!(
        answer.starts_with(
            "r.toml:2: model.stream: expected a trained model to read block by block, found random weights"
        ),
        "{answer}"
    );
}
