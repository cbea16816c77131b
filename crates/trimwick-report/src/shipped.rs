//! What was written for runtimes, and how fast it is where that was measured.

use std::path::Path;

use maud::{Markup, html};
use serde::Deserialize;
use trimwick_recipe::run::{Export, Summary};

use crate::Result;
use crate::run::{broken, text};
use crate::words::{bytes, count, number};

/// What `trimwick bench --into` leaves in a run's folder.
pub const BENCH: &str = "bench.json";

/// The exports of a run; nothing without any.
pub(crate) fn exports(summary: &Summary) -> Markup {
    if summary.exports.is_empty() {
        return html! {};
    }
    let exported = summary.arm("exported").map_or("–".into(), |arm| number(arm.perplexity));
    html! {
        h2 { "Exports" }
        div.wide { table {
            caption {
                "Every value was compared with the trained one: those that are rounded to the file's 16 bits are counted apart, the others are "
                "equal bit for bit. Perplexities are computed from the packed weights of the file with "
                "activations in full; the written model of the arms' table gives " (exported) "."
            }
            tr { th { "format" } th { "file" } th { "tensors" } th { "bits per parameter" } th { "equal bit for bit" } th { "once rounded" } th { "perplexity" } }
            @for Export { target, path, bytes: size, bits_per_parameter, compared, rounded, perplexity, .. } in &summary.exports {
                tr {
                    td { (target) } td { code { (path) } } td { (bytes(*size as f64)) }
                    td { (format!("{bits_per_parameter:.3}")) } td { (count(*compared - *rounded)) } td { (count(*rounded)) } td { (number(*perplexity)) }
                }
            }
        } }
    }
}

/// What `bench` measured; fields that the page does not show are left out.
#[derive(Debug, Deserialize)]
pub(crate) struct Bench {
    threads: usize,
    prompt: usize,
    tokens: usize,
    other_processes: Option<f64>,
    models: Vec<Timed>,
}

#[derive(Debug, Deserialize)]
struct Timed {
    model: String,
    bytes: f64,
    bytes_per_token: f64,
    peak_rss: Option<f64>,
    prompt_tokens_per_second: f64,
    generation_tokens_per_second: f64,
}

impl Bench {
    /// Reads the file, where there is one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(BENCH);
        if !path.is_file() {
            return Ok(None);
        }
        serde_json::from_str(&text(&path)?).map(Some).map_err(|e| broken(&path, &e))
    }
}

/// The speed table; nothing where it was not measured.
pub(crate) fn speed(bench: Option<&Bench>) -> Markup {
    let Some(Bench { threads, prompt, tokens, other_processes, models }) = bench else { return html! {} };
    html! {
        h2 { "Speed" }
        div.wide { table {
            caption {
                (format!("{threads} threads")) ", a prompt of " (prompt) " tokens and " (tokens) " generated ones, best round"
                @if let Some(share) = other_processes { "; other processes had " (format!("{:.0} %", 100. * share)) " of the machine" }
                "."
            }
            tr { th { "model" } th { "weights" } th { "read per token" } th { "prompt (tokens/s)" } th { "generation (tokens/s)" } th { "largest resident set" } }
            @for model in models {
                tr {
                    td { code { (model.model) } } td { (bytes(model.bytes)) } td { (bytes(model.bytes_per_token)) }
                    td { (format!("{:.0}", model.prompt_tokens_per_second)) } td { (format!("{:.1}", model.generation_tokens_per_second)) }
                    td { (model.peak_rss.map_or("–".into(), bytes)) }
                }
            }
        } }
    }
}
