//! `trimwick bench`: models beside each other, in turns.

mod machine;

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_models::{ModelSource, PackedLlama, PackedOptions};
use trimwick_report::{BENCH, PAGE};

use self::machine::{Processors, bandwidth, peak_resident, reset_peak, resident};
use super::print;
use crate::args::BenchArgs;
use crate::environment;
use crate::error::{DONE, bad_input};
use crate::model::{self, Hub};
use crate::progress::line;
use crate::table::{Side, Table};
use crate::text::{bytes, plain, plain_json};

/// A model and what was seen of it.
struct Entry {
    name: String,
    model: PackedLlama,
    /// Resident memory at most while it was read and ran once, less what there was before.
    peak: Option<u64>,
    /// Bytes of keys and values at the end of a turn.
    cache: usize,
    /// Tokens in a second, the best of all turns.
    prompt: f64,
    generation: f64,
}

/// Measures models and prints a table, or JSON.
///
/// # Errors
/// Bad arguments before anything is read; models that cannot be used.
pub(super) fn bench(args: &BenchArgs) -> Result<u8> {
    let sources =
        args.models.iter().map(|model| Ok(ModelSource::parse(model)?)).collect::<Result<Vec<_>>>()?;
    if let Some(run) = args.into.as_ref().filter(|run| !run.join("summary.json").is_file()) {
        return Err(bad_input("--into", "the folder of a finished run", plain(&run.to_string_lossy())));
    }
    environment::give_back(); // as generating does
    let mut entries = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        entries.push(Entry::open(source, args, false)?);
        if i == 0 && args.f32 {
            entries.push(Entry::open(source, args, true)?);
        }
    }
    let before = Processors::now();
    let speed = bandwidth();
    for round in 0..args.rounds {
        line(&format!("round {} of {}", round + 1, args.rounds));
        for entry in &mut entries {
            entry.turn(args)?;
        }
    }
    let others = Processors::used_by_others(before, Processors::now());
    let found = plain_json(&to_json(args, &entries, speed, others)) + "\n";
    if let Some(run) = &args.into {
        trimwick_formats::atomic_write(run.join(BENCH), found.as_bytes())?;
    }
    print(&if args.json { found } else { text(args, &entries, speed, others) })?;
    if let Some(run) = &args.into {
        trimwick_report::write(run, &run.join(PAGE))?;
        line(&format!("the speed table is in {}", plain(&run.join(PAGE).to_string_lossy())));
    }
    Ok(DONE)
}

impl Entry {
    fn open(source: &ModelSource, args: &BenchArgs, as_f32: bool) -> Result<Self> {
        let files = model::open(source, Hub::Fetch)?;
        let longest = files.config.max_position_embeddings;
        let context = args.prompt.saturating_add(args.tokens);
        if context > longest {
            let expected = format!("at most the model's {longest} positions together");
            return Err(bad_input("--prompt and --tokens", expected, context));
        }
        let before = resident();
        reset_peak();
        let options = PackedOptions { context: Some(context), as_f32, ..PackedOptions::default() };
        let model = PackedLlama::load(&files, options)?;
        if model.floats() > 0 {
            line(&format!("note: {} of {} matrices are held in f32", model.floats(), plain(&files.origin)));
        }
        let name = if as_f32 { format!("{}, in f32", files.origin) } else { files.origin.clone() };
        let mut entry = Self { name, model, peak: None, cache: 0, prompt: 0., generation: 0. };
        entry.turn(args)?;
        (entry.prompt, entry.generation) = (0., 0.);
        entry.peak = peak_resident().zip(before).map(|(peak, before)| peak.saturating_sub(before));
        Ok(entry)
    }

    /// A prompt, then tokens one by one.
    fn turn(&mut self, args: &BenchArgs) -> Result<()> {
        let vocab = self.model.config().vocab_size as u64;
        // Any tokens will do, as long as they are not all the same; in u64 no length overflows.
        let ids: Vec<u32> = (0..args.prompt as u64).map(|i| ((i * i * 7 + 3 * i) % vocab) as u32).collect();
        let mut cache = self.model.new_cache(args.kv.format());
        let begun = Instant::now();
        self.model.forward(&ids, &mut cache)?;
        let prompt = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for i in 0..args.tokens as u64 {
            self.model.forward(&[(i * 31 % vocab) as u32], &mut cache)?;
        }
        let generation = begun.elapsed().as_secs_f64();
        self.cache = cache.bytes();
        self.prompt = self.prompt.max(args.prompt as f64 / prompt);
        self.generation = self.generation.max(args.tokens as f64 / generation);
        Ok(())
    }

    /// Bytes in a second, of weights and of the keys and values that there are in the end.
    fn rate(&self) -> f64 {
        self.generation * (self.model.bytes_per_token() + self.cache) as f64
    }
}

fn text(args: &BenchArgs, entries: &[Entry], speed: f64, others: Option<f64>) -> String {
    let mut table = Table::new([
        ("model", Side::Left),
        ("weights", Side::Right),
        ("per token", Side::Right),
        ("peak RSS", Side::Right),
        ("prompt", Side::Right),
        ("generation", Side::Right),
        ("of memory", Side::Right),
    ]);
    for entry in entries {
        table.row([
            plain(&entry.name),
            bytes(entry.model.bytes() as u64),
            bytes(entry.model.bytes_per_token() as u64),
            entry.peak.map_or("unknown".into(), bytes),
            format!("{:.1} tokens/s", entry.prompt),
            format!("{:.1} tokens/s", entry.generation),
            format!("{:.0} %", 100. * entry.rate() / speed),
        ]);
    }
    let others = others.map_or("unknown".into(), |share| format!("{:.0} %", 100. * share));
    format!(
        "{table}\n{} threads, prompt of {} tokens, {} generated, best of {} rounds; memory {}/s; other processes had {others} of the \
         machine\n",
        rayon::current_num_threads(),
        args.prompt,
        args.tokens,
        args.rounds,
        bytes(speed as u64),
    )
}

fn to_json(args: &BenchArgs, entries: &[Entry], speed: f64, others: Option<f64>) -> Value {
    let models: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!({
                "model": entry.name,
                "bytes": entry.model.bytes(),
                "bytes_per_token": entry.model.bytes_per_token(),
                "kv_bytes": entry.cache,
                "peak_rss": entry.peak,
                "sparse_layers": entry.model.sparse_layers(),
                "matrices_in_f32": entry.model.floats(),
                "prompt_tokens_per_second": entry.prompt,
                "generation_tokens_per_second": entry.generation,
                "memory_share": entry.rate() / speed,
            })
        })
        .collect();
    json!({
        "threads": rayon::current_num_threads(),
        "prompt": args.prompt,
        "tokens": args.tokens,
        "rounds": args.rounds,
        "memory_bytes_per_second": speed,
        "other_processes": others,
        "models": models,
    })
}
