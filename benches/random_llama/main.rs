//! Makes a Llama with random bf16 weights, Llama 2 7B's sizes unless others are given (13.5 GB).
//!
//! cargo run --release -p trimwick-benches --bin random_llama -- FOLDER [hidden=4096] [intermediate=11008]
//! [layers=32] [heads=32] [kv_heads=32] [vocab=32000] [seed=42]

mod make;

use std::time::Instant;

use anyhow::{Context, bail};
use make::{Shape, make};

fn main() -> anyhow::Result<()> {
    let mut shape = Shape::default();
    let mut folder = None;
    for argument in std::env::args().skip(1) {
        let Some((key, value)) = argument.split_once('=') else {
            folder = Some(argument);
            continue;
        };
        let number = || value.parse::<usize>().with_context(|| format!("{argument}: not a whole number"));
        match key {
            "hidden" => shape.hidden = number()?,
            "intermediate" => shape.intermediate = number()?,
            "layers" => shape.layers = number()?,
            "heads" => shape.heads = number()?,
            "kv_heads" => shape.kv_heads = number()?,
            "vocab" => shape.vocab = number()?,
            "seed" => shape.seed = number()? as u64,
            _ => bail!("{argument}: unknown; see the head of benches/random_llama/main.rs"),
        }
    }
    let folder = folder.context("give a folder; see the head of benches/random_llama/main.rs")?;
    let begun = Instant::now();
    let bytes = make(folder.as_ref(), &shape)?;
    println!("{folder}: {:.2} GB in {:.0} s", bytes as f64 / 1e9, begun.elapsed().as_secs_f64());
    Ok(())
}
