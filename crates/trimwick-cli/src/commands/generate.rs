//! `trimwick generate`: the continuation of a prompt, as it comes.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use anyhow::Result;
use trimwick_models::{
    LlamaConfig, ModelSource, PackedLlama, PackedOptions, Sampler, SamplingOptions, Tokenizer,
};

use crate::args::GenerateArgs;
use crate::environment;
use crate::error::{DONE, bad_input};
use crate::model::{self, Hub};
use crate::progress::line;
use crate::text::{count, harmless, speed};

/// Tokens of the prompt that the decoder sees, since spaces can depend on what went before.
const LEAD: usize = 16;

/// Writes the continuation to standard output, and how it ended to standard error.
///
/// # Errors
/// Bad arguments before anything is read; models and tokenizers that cannot be used.
pub(super) fn generate(args: &GenerateArgs) -> Result<u8> {
    // What reading a model leaves behind would stay as long as it runs.
    environment::give_back();
    let GenerateArgs { temperature, top_p, seed, .. } = *args;
    let mut sampler = Sampler::new(SamplingOptions { temperature, top_p, seed })?;
    let files = model::open(&ModelSource::parse(&args.model)?, Hub::Fetch)?;
    let tokenizer = files.require_tokenizer()?;
    let prompt = prompt(&args.prompt, tokenizer, &files.config)?;
    let longest = files.config.max_position_embeddings;
    // The last token that is drawn is never fed back.
    let context =
        longest.min(prompt.len().saturating_add(args.max_tokens).saturating_sub(1)).max(prompt.len());
    let options = PackedOptions { context: Some(context), ..PackedOptions::default() };
    let model = PackedLlama::load(&files, options)?;

    let mut out = Printer::new(tokenizer, &prompt)?;
    let mut cache = model.new_cache(args.kv.format());
    let begun = Instant::now();
    let (mut next, mut made) = (prompt.clone(), 0);
    let ended = loop {
        let token = sampler.sample(model.forward(&next, &mut cache)?)?;
        if tokenizer.eos_ids().contains(&token) {
            break "the model ended the text".to_string();
        }
        out.push(token)?;
        made += 1;
        if made == args.max_tokens {
            break "--max-tokens".to_string();
        }
        if prompt.len() + made > longest {
            break format!("the model has no more than {longest} positions");
        }
        next = vec![token];
    };
    out.end()?;
    let rate = speed(made as f64, begun.elapsed().as_secs_f64());
    line(&format!("{} tokens, {rate}; ended by: {ended}", count(made as u64)));
    Ok(DONE)
}

/// The tokens of the prompt with what the tokenizer puts before a text, at least one and no more than the model takes.
fn prompt(text: &str, tokenizer: &Tokenizer, config: &LlamaConfig) -> Result<Vec<u32>> {
    // What ends a text must not stand before its continuation.
    let mut ids = tokenizer.special_ids().0.to_vec();
    ids.extend(tokenizer.encode(text, false)?);
    if ids.is_empty() {
        ids.extend(config.bos_token_id);
    }
    let longest = config.max_position_embeddings;
    if ids.is_empty() {
        return Err(bad_input("--prompt", "text, since the model has no token to begin with", "none"));
    }
    if ids.len() > longest {
        return Err(bad_input(
            "--prompt",
            format!("at most {longest} tokens, the model's positions"),
            ids.len(),
        ));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
        let expected = format!("tokens below the model's {}", config.vocab_size);
        return Err(bad_input("--prompt", expected, format!("token {id}, which has no embedding")));
    }
    Ok(ids)
}

/// Standard output, text by text.
struct Printer<'a> {
    stream: trimwick_models::DecodeStream<'a>,
    /// Whether what is written could give orders to a terminal.
    guarded: bool,
    ends_line: bool,
}

impl<'a> Printer<'a> {
    fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self> {
        let mut stream = tokenizer.decode_stream(true);
        for &id in &prompt[prompt.len().saturating_sub(LEAD)..] {
            stream.push(id)?;
        }
        Ok(Self { stream, guarded: io::stdout().is_terminal(), ends_line: true })
    }

    fn push(&mut self, id: u32) -> Result<()> {
        let text = self.stream.push(id)?;
        if text.is_empty() {
            return Ok(());
        }
        self.ends_line = text.ends_with('\n');
        super::print(&if self.guarded { harmless(&text) } else { text })
    }

    fn end(&mut self) -> Result<()> {
        let mut stdout = io::stdout().lock();
        if !self.ends_line {
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    }
}
