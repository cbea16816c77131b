//! Run a recipe from Rust: the whole pipeline, resumable, with what happens told to a function.
//!
//! cargo run --release --example 06_recipe
//!
//! The command line does the same for a file: `trimwick run recipe.toml`.

use std::sync::atomic::AtomicBool;

use anyhow::bail;
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Event, RunOutcome, run};

const RECIPE: &str = r#"
[model]
source = "builtin:tiny-llama"

[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
context = 128
eval_tokens = 2048

[quantize]
scheme = "int4-g64"

[train]
steps = 6
batch = 4
lr = 5e-4

[export]
targets = ["gguf"]
"#;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Every fault of the text at once; no weight is read yet.
    let recipe = Recipe::parse(RECIPE, "06_recipe", &[])?;
    let mut report = |event: Event<'_>| match event {
        Event::Measured(arm) => println!("{:22} loss {:.4}", arm.name, arm.loss),
        Event::Note(text) => println!("{text}"),
        _ => {}
    };
    // Set by a signal handler, say: the run saves its state and ends, and the next call goes on.
    let stop = AtomicBool::new(false);
    let out = folder.path().join("run");
    let RunOutcome::Finished(summary) = run(&recipe, &out, &stop, &mut report)? else {
        bail!("nothing stops this run");
    };
    println!("training helped: {:?}; {} export", summary.training_helped, summary.exports.len());
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
