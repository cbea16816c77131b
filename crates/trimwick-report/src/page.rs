//! The page of one run.

use maud::{Markup, html};
use trimwick_recipe::run::{BlockReport, MeasuredArm, Summary};

use crate::Result;
use crate::charts::{Axes, histogram, per_layer};
use crate::parts::{figure, losses, norms, page, rates};
use crate::passes::{budget, on_grid, passes};
use crate::run::Run;
use crate::shipped::{exports, speed};
use crate::stats::paired;
use crate::weights::{Class, Weights};
use crate::words::{self, bytes, count, number};

const BLOCKS: Axes = Axes { name: "blocks", x: "block", y: "signal to noise (dB)", size: (900, 260) };
const GRID: Axes = Axes { name: "weights", x: "", y: "", size: (300, 130) };

pub(crate) fn of(run: &Run) -> Result<String> {
    let summary = &run.summary;
    let verdict = words::verdict(summary);
    let runs = std::slice::from_ref(run);
    let body = html! {
        h1 { (summary.name) }
        p.soft { "Started from " code { (summary.model) } " · seed " (summary.seed) }
        p class=(words::class(verdict.tone)) { (verdict.text) }
        @for warning in &summary.warnings { p.verdict.bad { "Warning: " (warning) } }
        (facts(summary))
        h2 { "What was measured" }
        (arms(summary))
        @if !run.curves.is_empty() {
            h2 { "How it was trained" }
            (figure(&losses(runs)?, "Cross-entropy on the training text: each step, and its mean over a twentieth of the steps."))
            (figure(&rates(runs)?, "Learning rate."))
            (figure(&norms(runs)?, "Norm of the gradient before clipping."))
        }
        @if !summary.blocks.is_empty() {
            h2 { "Block by block" }
            (blocks(&summary.blocks)?)
        }
        (passes(summary)?)
        (on_grid(summary)?)
        (budget(run)?)
        @if let Some(weights) = &run.weights {
            h2 { "The written weights" }
            (classes(weights))
            (grids(weights)?)
            (mask(weights))
        }
        (exports(summary))
        (speed(run.bench.as_ref()))
        h2 { "To get this again" }
        (again(run))
    };
    Ok(page(&summary.name, &body))
}

fn facts(summary: &Summary) -> Markup {
    let mut rows = vec![
        ("Parameters", count(summary.parameters as u64)),
        (
            "of them +0.0",
            format!(
                "{} ({:.1} %)",
                count(summary.zeros as u64),
                100. * summary.zeros as f64 / summary.parameters.max(1) as f64
            ),
        ),
        ("Written weights", bytes(summary.bytes as f64)),
    ];
    if let Some(pattern) = &summary.pattern {
        let (groups, bad) = (count(summary.groups as u64), summary.groups_violating);
        rows.push(("Groups that break the pattern", format!("{bad} of {groups} ({pattern})")));
    }
    if let Some(q) = &summary.quantization {
        let schemes: Vec<_> = q.schemes.iter().map(|(scheme, n)| format!("{scheme}: {n} layers")).collect();
        rows.push(("Grid", schemes.join("; ")));
        rows.push(("Bits per quantized weight, scales counted", format!("{:.3}", q.bits_per_weight)));
        rows.push(("Weights off their grid", count(q.off_grid as u64)));
    }
    if let Some(gap) = words::gap(summary) {
        rows.push(("Gap recovered, by the method and by training together", gap));
    }
    rows.push(("Time", format!("{:.0} s", summary.seconds)));
    if let Some(peak) = summary.peak_rss_bytes {
        rows.push(("Largest resident set", bytes(peak as f64)));
    }
    html! { div.wide { table.facts { @for (name, value) in rows { tr { td { (name) } td { (value) } } } } } }
}

/// The arms, each beside the one that compressing in one shot gave.
pub(crate) fn arms(summary: &Summary) -> Markup {
    let dense = summary.arm("dense");
    let main = summary.trained().map(|arm| arm.name.as_str());
    let against = |arm: &MeasuredArm| match dense {
        Some(dense) if dense.name != arm.name => {
            let by = format!("{:+.4}", arm.loss - dense.loss);
            match paired(&arm.window_losses, &dense.window_losses) {
                Some((low, high)) => format!("{by} [{low:+.3}, {high:+.3}]"),
                None => by,
            }
        }
        _ => "–".into(),
    };
    let context = summary.arms.first().map_or(0, |arm| arm.context);
    let tokens = summary.arms.first().map_or(0, |arm| arm.eval_tokens);
    html! {
        div.wide { table {
            caption {
                "Perplexity at context " (context) " on " (count(tokens as u64)) " held-out tokens. Intervals hold 95 % of "
                "resampled windows; differences are taken window by window."
            }
            tr { th { "arm" } th { "loss" } th { "perplexity" } th { "interval" } th { "loss against dense" } th { "tokens trained" } }
            @for arm in &summary.arms {
                tr class=[(main == Some(arm.name.as_str())).then_some("main")] {
                    td { (words::arm(&arm.name)) }
                    td { (format!("{:.4}", arm.loss)) }
                    td { (number(arm.perplexity)) }
                    td { (words::perplexities(arm)) }
                    td { (against(arm)) }
                    td { (count(arm.train_tokens)) }
                }
            }
        } }
    }
}

fn blocks(blocks: &[BlockReport]) -> Result<Markup> {
    let decibels = |of: fn(&BlockReport) -> f64| -> Vec<f64> {
        blocks.iter().map(|block| BlockReport::decibels(of(block))).collect()
    };
    let before = decibels(|block| block.error_before);
    let after = decibels(|block| block.error_after);
    let chart = per_layer(BLOCKS, &[("compressed", before), ("trained", after)])?;
    Ok(figure(&chart, "Each block's output against its dense twin's, in decibels: higher is nearer."))
}

fn classes(weights: &Weights) -> Markup {
    let total = |of: fn(&Class) -> f64| weights.classes.values().map(of).sum::<f64>();
    let row = |class: &Class| {
        html! {
            td { (class.tensors) }
            td { (count(class.parameters)) }
            td { (format!("{:.1} %", 100. * class.zeros as f64 / class.parameters.max(1) as f64)) }
            td { (class.schemes.join(", ")) }
            td { (bytes(class.dense_bits / 8.)) }
            td { (bytes(class.packed_bits / 8.)) }
            td { (format!("{:.2}", class.packed_bits / class.parameters.max(1) as f64)) }
        }
    };
    html! {
        div.wide { table {
            caption {
                "Sizes by arithmetic: in bf16, and packed by scheme and mask (codes, scales, and two bits for the place of each kept weight)."
            }
            tr { th { "tensors" } th { "number" } th { "parameters" } th { "zeros" } th { "grid" } th { "bf16" } th { "packed" } th { "bits per weight" } }
            @for (name, class) in &weights.classes { tr { td { (name) } (row(class)) } }
            tr.main {
                td { "all" } td { } td { (count(weights.classes.values().map(|c| c.parameters).sum())) } td { } td { }
                td { (bytes(total(|c| c.dense_bits) / 8.)) } td { (bytes(total(|c| c.packed_bits) / 8.)) }
                td { (format!("{:.2}", total(|c| c.packed_bits) / total(|c| c.parameters as f64).max(1.))) }
            }
        } }
    }
}

fn grids(weights: &Weights) -> Result<Markup> {
    let drawn = weights.classes.iter().filter(|(_, class)| !class.histogram.is_empty());
    let charts = drawn
        .map(|(name, class)| Ok((histogram(GRID, &class.histogram)?, name)))
        .collect::<Result<Vec<_>>>()?;
    Ok(html! {
        p.soft { "Kept weights over the largest magnitude of their group (of their row, without a grid): a grid shows as lines." }
        div.grid { @for (chart, name) in &charts { (figure(chart, name)) } }
    })
}

/// A corner of a mask, and how often each choice of two of four occurs.
fn mask(weights: &Weights) -> Markup {
    const CELL: usize = 6;
    let Some((layer, rows)) = &weights.corner else { return html! {} };
    let (height, width) = (rows.len() * CELL, rows.first().map_or(0, Vec::len) * CELL);
    let mut path = String::new();
    for (y, row) in rows.iter().enumerate() {
        for x in row.iter().enumerate().filter(|(_, kept)| **kept).map(|(x, _)| x) {
            path.push_str(&format!("M{} {}h{}v{}h-{}z", x * CELL, y * CELL, CELL - 1, CELL - 1, CELL - 1));
        }
    }
    let groups: u64 = weights.choices.values().sum();
    let sign = |kept: &[bool; 4]| kept.iter().map(|&k| if k { '■' } else { '□' }).collect::<String>();
    html! {
        figure {
            svg viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height) role="img" {
                path d=(path) fill="var(--ink)" {}
            }
            figcaption { "Kept weights of " code { (layer) } ": its first rows and columns." }
        }
        div.wide { table {
            caption {
                "What is kept of groups of four, over all masks."
                @if let Some((moved, all)) = weights.moved {
                    " Of " (count(all)) " weights " (count(moved)) " (" (format!("{:.2} %", 100. * moved as f64 / all as f64)) ") changed "
                    "sides since the one-shot mask."
                }
            }
            tr { th { "kept" } th { "groups" } th { "share" } }
            @for (kept, n) in &weights.choices {
                tr { td { (sign(kept)) } td { (count(*n)) } td { (format!("{:.2} %", 100. * *n as f64 / groups as f64)) } }
            }
        } }
    }
}

/// Of what was read and of what was written.
fn digests(summary: &Summary) -> Vec<(String, &String)> {
    let inputs = summary.inputs.iter().map(|(key, digest)| (format!("read: {key}"), digest));
    let model = summary.digests.iter().map(|(name, digest)| (format!("model/{name}"), digest));
    let exports = summary.exports.iter().flat_map(|export| {
        let file = |name: &str| match export.path.ends_with(name) {
            true => export.path.clone(),
            false => format!("{}/{name}", export.path),
        };
        export.digests.iter().map(move |(name, digest)| (file(name), digest))
    });
    inputs.chain(model).chain(exports).collect()
}

fn again(run: &Run) -> Markup {
    html! {
        @if let Some(command) = &run.command { p { "The command was " code { (command) } "." } }
        p {
            "Save the recipe below as " code { "recipe.toml" } " and run " code { "trimwick run recipe.toml --out runs/again" }
            @if !run.summary.version.is_empty() { " with version " (run.summary.version) }
            "; seed " (run.summary.seed) ". On the same inputs the files of the model have the same SHA-256:"
        }
        div.wide { table {
            tr { th { "file" } th { "SHA-256" } }
            @for (name, digest) in digests(&run.summary) { tr { td { (name) } td { code { (digest) } } } }
        } }
        details { summary { "The recipe as it was resolved" } pre { (run.recipe) } }
    }
}
