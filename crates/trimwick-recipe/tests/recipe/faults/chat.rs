//! Faults of conversations and mixes.

use super::check;

#[test]
fn keys_of_conversations_and_of_mixes_are_held_to_what_reads_them() {
    check(&[
        (
            &[(5, "train = { files = [\"a.jsonl\"], loss = \"all\", template = \"chatml\", weight = 2 }")],
            &[
                "r.toml:5: data.train.weight: has no effect: there is one source; remove it, or write a list of sources",
                "r.toml:5: data.train.loss: has no effect: only conversations have it; remove it, or write format = \"chat\"",
                "r.toml:5: data.train.template: has no effect: only conversations have it; remove it, or write format = \"chat\"",
            ],
        ),
        (
            &[(
                5,
                "train = { files = [\"a.jsonl\"], format = \"chat\", field = \"x\", separator = \"\", loss = \"answer\" }",
            )],
            &[
                "r.toml:5: data.train.loss: expected \"answers\" or \"all\", found the string \"answer\"; did you mean `answers`?",
                "r.toml:5: data.train.separator: has no effect: conversations are kept apart; remove it",
                "r.toml:5: data.train.field: has no effect: a conversation says which fields it has; remove it",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.jsonl\"], format = \"chat\", template = \"chatmll\" }")],
            &[
                "r.toml:5: data.train.template: expected \"chatml\" or the path of a Jinja file, found \"chatmll\"; did you mean `chatml`?",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.jsonl\"], format = \"chat\", template = \"llama\" }")],
            &[
                "r.toml:5: data.train.template: expected \"chatml\" or the path of a Jinja file, found \"llama\"; give the path of the file, as ./NAME if it has no ending",
            ],
        ),
        (
            &[(5, "train = { files = [\"a.jsonl\"], format = \"chta\" }")],
            &[
                "r.toml:5: data.train.format: expected \"text\", \"jsonl\", \"parquet\" or \"chat\", found the string \"chta\"; did you mean `chat`?",
            ],
        ),
        (
            &[(6, "eval = { files = [\"a.jsonl\"], format = \"chat\", template = \"llama\", weight = 2 }")],
            &[
                "r.toml:6: data.eval.template: expected \"chatml\" or the path of a Jinja file, found \"llama\"; give the path of the file, as ./NAME if it has no ending",
                "r.toml:6: data.eval.weight: unknown key; `weight` belongs in [data.train]; move it there",
            ],
        ),
        (
            &[(6, "eval = [\"a.txt\"]")],
            &[
                "r.toml:6: data.eval: wrong type: expected \"builtin:NAME\", a file or glob pattern, or { files = […] }, found a list of 1; write for example eval = \"builtin:sotu-eval\"",
            ],
        ),
        (
            &[(5, "train = []")],
            &[
                "r.toml:5: data.train: expected a list of 1 to 64 sources, found an empty list; write for example train = \"builtin:sotu-train\"",
            ],
        ),
        (
            &[(5, "train = [3, { files = [\"a\"], weight = 0 }, { file = \"b\" }, \"builtin:x\"]")],
            &[
                "r.toml:5: data.train.0: wrong type: expected \"builtin:NAME\", a file or glob pattern, or { files = […] }, found 3; write for example train = \"builtin:sotu-train\"",
            ],
        ),
        (
            &[(5, "train = [{ files = [\"a\"], weight = 0 }, { file = \"b\" }, \"sotu-eval\"]")],
            &[
                "r.toml:5: data.train.0.weight: expected a whole number from 1 to 1000, found 0; write for example weight = 1",
                "r.toml:5: data.train.1.file: unknown key; did you mean `data.train.1.files`?",
                "r.toml:5: data.train.2: expected \"builtin:NAME\", a file or glob pattern, or { files = […] }, or a list of them to mix, found the string \"sotu-eval\"; did you mean `builtin:sotu-eval`?",
            ],
        ),
        (
            &[(5, "train = [{ files = [\"a\"], weight = 2 }]")],
            &[
                "r.toml:5: data.train.0.weight: has no effect: there is one source; remove it, or add another source",
            ],
        ),
    ]);
}
