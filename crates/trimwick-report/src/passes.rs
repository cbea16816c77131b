//! What one-shot passes and a budget did, layer by layer.

use std::collections::BTreeMap;

use maud::{Markup, html};
use trimwick_quant::mixed::{Group, Sensitivities};
use trimwick_recipe::run::{LayerReport, MixedChoice, OnGrid, Summary};

use crate::Result;
use crate::charts::{Axes, per_layer};
use crate::parts::figure;
use crate::run::Run;
use crate::words::{self, count};

const LAYERS: Axes = Axes {
    name: "passes",
    x: "layer, in the order of the model",
    y: "signal to noise (dB)",
    size: (900, 260),
};

const GROUPS: Axes = Axes {
    name: "sensitivities",
    x: "layers that are decided together, in the order of the model",
    y: "cost (log₁₀)",
    size: (900, 260),
};

/// A chart for each pass, and every layer in a table; nothing without passes.
pub(crate) fn passes(summary: &Summary) -> Result<Markup> {
    let mut names: Vec<&str> = Vec::new();
    for report in &summary.passes {
        if !names.contains(&report.pass.as_str()) {
            names.push(&report.pass);
        }
    }
    if names.is_empty() {
        return Ok(html! {});
    }
    let charts = names.iter().map(|name| chart(name, &summary.passes)).collect::<Result<Vec<_>>>()?;
    Ok(html! {
        h2 { "One-shot passes" }
        @for chart in &charts { (chart) }
        details {
            summary { "Every layer" }
            div.wide { table {
                tr { th { "pass" } th { "layer" } th { "before (dB)" } th { "after (dB)" } th { "exponent" } th { "damping" } th { "dead inputs" } }
                @for LayerReport { layer, pass, before_db, after_db, alpha, damping, retries, dead } in &summary.passes {
                    tr {
                        td { (pass) } td { code { (layer) } }
                        td { (format!("{before_db:.2}")) } td { (format!("{after_db:.2}")) }
                        td { (alpha.map_or("–".into(), |alpha| format!("{alpha:.2}"))) }
                        td {
                            (damping.map_or("–".into(), |damping| format!("{damping:.3}")))
                            @if *retries > 0 { " (raised " (retries) " times)" }
                        }
                        td { (count(*dead as u64)) }
                    }
                }
            } }
        }
    })
}

/// How near weights are to their grid; nothing where none was off it while it was trained.
pub(crate) fn on_grid(summary: &Summary) -> Result<Markup> {
    let mut layers: Vec<&OnGrid> = summary.quantization.iter().flat_map(|q| &q.layers).collect();
    if layers.is_empty() {
        return Ok(html! {});
    }
    layers.sort_by_cached_key(|found| words::in_order(&found.layer));
    let decibels = layers.iter().map(|found| found.decibels).collect::<Vec<_>>();
    let mean = decibels.iter().sum::<f64>() / decibels.len() as f64;
    let caption = format!(
        "Each layer's weight as it was trained against its place on the grid, in decibels; higher is nearer. The mean is {mean:.2} dB."
    );
    Ok(html! {
        h2 { "Weights on their grid" }
        (figure(&per_layer(LAYERS, &[("weight", decibels)])?, &caption))
        details {
            summary { "Every layer" }
            div.wide { table {
                tr { th { "layer" } th { "signal to noise (dB)" } }
                @for OnGrid { layer, decibels } in layers { tr { td { code { (layer) } } td { (format!("{decibels:.2}")) } } }
            } }
        }
    })
}

fn chart(name: &str, all: &[LayerReport]) -> Result<Markup> {
    let of: Vec<&LayerReport> = all.iter().filter(|report| report.pass == name).collect();
    let values =
        |decibels: fn(&LayerReport) -> f64| of.iter().map(|report| decibels(report)).collect::<Vec<_>>();
    let (before, after) = (values(|r| r.before_db), values(|r| r.after_db));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let caption = format!(
        "{name}: each layer's output on the calibration text against what it was, in decibels; higher is nearer. The mean goes from {:.2} to {:.2} dB.",
        mean(&before),
        mean(&after)
    );
    Ok(figure(&per_layer(LAYERS, &[("before", before), ("after", after)])?, &caption))
}

/// The schemes that a budget has chosen; nothing without one.
pub(crate) fn budget(run: &Run) -> Result<Markup> {
    let Some(MixedChoice { bits, method, score, exact, layers }) = &run.summary.mixed else {
        return Ok(html! {});
    };
    let chart = run.sensitivities.as_ref().map(sensitivities).transpose()?;
    let mut schemes: BTreeMap<&str, usize> = BTreeMap::new();
    layers.values().for_each(|scheme| *schemes.entry(scheme).or_default() += 1);
    Ok(html! {
        h2 { "What the budget bought" }
        p {
            (format!("{bits:.3}")) " bits a weight, scales counted; sensitivities by " (method) ", their sum " (format!("{score:.3e}")) "; "
            @if *exact { "no other choice within the budget has a lower one." } @else { "the best choice that was found in a minute." }
        }
        @if let Some(chart) = &chart { (chart) }
        div.wide { table {
            tr { th { "scheme" } th { "layers" } }
            @for (scheme, layers) in &schemes { tr { td { (scheme) } td { (layers) } } }
        } }
        details {
            summary { "Every layer" }
            div.wide { table { @for (layer, scheme) in layers { tr { td { code { (layer) } } td { (scheme) } } } } }
        }
    })
}

/// What each candidate was thought to cost each group of layers.
fn sensitivities(found: &Sensitivities) -> Result<Markup> {
    // A candidate that costs nothing stands at the bottom.
    let costs = |group: &Group| group.costs.iter().map(|cost| cost.score).collect::<Vec<_>>();
    let positive = found.groups.iter().flat_map(costs).filter(|score| *score > 0.);
    let least = positive.reduce(f64::min).unwrap_or(1.);
    let of = |i: usize| {
        let scores = found.groups.iter().filter_map(|group| group.costs.get(i));
        scores.map(|cost| cost.score.max(least).log10()).collect::<Vec<_>>()
    };
    let series: Vec<(&str, Vec<f64>)> =
        found.schemes.iter().enumerate().map(|(i, scheme)| (scheme.as_str(), of(i))).collect();
    let caption = "What each scheme adds to the loss of a group of layers, or is thought to: the choice has the least sum within the budget.";
    Ok(figure(&per_layer(GROUPS, &series)?, caption))
}
