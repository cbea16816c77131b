//! What a training step of a Llama costs, in time and memory: with Trimwick, with its quantizers, with each memory plan,
//! in stock candle operations, in PyTorch and in PyTorch with ModelOpt, beside the step's matrix products alone.
//!
//! ```text
//! cargo run --release -p trimwick-benches -- plain products qat stock [--rounds 5] [--tokens 512] [--python PYTHON]
//! ```
//!
//! Every contestant is a process of its own, so that its largest resident set is its own too, and has the same two
//! threads. They take turns, one step each, in an order that turns around every round: what else the machine does hits
//! all of them alike. Ratios are those of the least times. The shape is SmolLM2-135M's; `--layers` changes its depth.

mod attention;
mod contest;
mod contestants;
mod products;
mod shape;
mod stock;

use anyhow::Result;
use clap::Parser;

use shape::Shape;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times training steps beside each other.
#[derive(Parser)]
pub(crate) struct Args {
    /// Who takes part; the first is what the others are compared with.
    #[arg(default_values_t = ["plain", "products", "qat", "stock"].map(String::from))]
    contestants: Vec<String>,
    /// Timed steps of each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Tokens of a step.
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// Decoder blocks.
    #[arg(long, default_value_t = 30)]
    layers: usize,
    /// Threads of each contestant.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The interpreter that has torch (and modelopt) for the contestants of that name.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Be one contestant: a step for each line on standard input.
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let shape = Shape { tokens: args.tokens, layers: args.layers };
    match (args.serve, args.contestants.first()) {
        (true, Some(name)) => contestants::serve(name, shape),
        _ => contest::run(&args),
    }
}
