//! Pieces that pages are made of.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::style::RGBColor;

use crate::Result;
use crate::charts::{Axes, INK, Line, Look, RULE, lines};
use crate::run::{Curve, Run};
use crate::words;

const LOSSES: Axes = Axes { name: "losses", x: "tokens", y: "loss (nats per token)", size: (900, 340) };
const RATES: Axes = Axes { name: "learning rates", x: "tokens", y: "learning rate", size: (900, 180) };
const NORMS: Axes = Axes { name: "gradients", x: "tokens", y: "gradient norm", size: (900, 180) };
/// Points of a line: more cannot be seen.
const POINTS: usize = 600;

/// A whole page.
pub(crate) fn page(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// A chart with a caption; nothing for an empty one.
pub(crate) fn figure(svg: &str, caption: &str) -> Markup {
    html! {
        @if !svg.is_empty() {
            figure { (PreEscaped(themed(svg))) figcaption { (caption) } }
        }
    }
}

/// The drawing in the colours of the page.
fn themed(svg: &str) -> String {
    let hex = |RGBColor(r, g, b): RGBColor| format!("\"#{r:02X}{g:02X}{b:02X}\"");
    svg.replace(&hex(INK), "\"var(--ink)\"")
        .replace(&hex(RULE), "\"var(--rule)\"")
        .replace("font-family=\"sans-serif\"", "font-family=\"system-ui, sans-serif\"")
}

/// Cross-entropy of every trained arm: each step's, pale, and its running mean; on held-out text, marked.
pub(crate) fn losses(runs: &[Run]) -> Result<String> {
    let mut drawn = Vec::new();
    for (colour, (run, curve)) in curves(runs).enumerate() {
        let points: Vec<(f64, f64)> =
            curve.steps.iter().map(|s| (s.tokens as f64, s.cross_entropy)).collect();
        let name = named(runs, run, &words::arm(&curve.arm));
        let mut add = |name: String, points, look| drawn.push(Line { name, points, look, colour });
        add(name.clone(), thin(&points), Look::Faint);
        add(name.clone(), thin(&smooth(&points)), Look::Solid);
        let tokens = |step: u64| curve.steps.iter().find(|s| s.step == step).map_or(0., |s| s.tokens as f64);
        let held_out: Vec<_> = curve.validations.iter().map(|v| (tokens(v.step), v.eval_loss)).collect();
        if !held_out.is_empty() {
            add(format!("{name}, held out"), held_out, Look::Marked);
        }
    }
    lines(LOSSES, &drawn)
}

/// Learning rates of every trained arm.
pub(crate) fn rates(runs: &[Run]) -> Result<String> {
    per_step(runs, RATES, |step| step.lr)
}

/// Gradient norms of every trained arm.
pub(crate) fn norms(runs: &[Run]) -> Result<String> {
    per_step(runs, NORMS, |step| step.grad_norm)
}

/// A line for each arm; those that coincide are one, with the names of all.
fn per_step(runs: &[Run], axes: Axes, of: impl Fn(&trimwick_train::StepRecord) -> f64) -> Result<String> {
    let mut drawn: Vec<Line> = Vec::new();
    for (colour, (run, curve)) in curves(runs).enumerate() {
        let points: Vec<_> = curve.steps.iter().map(|s| (s.tokens as f64, of(s))).collect();
        let (name, points) = (named(runs, run, &words::arm(&curve.arm)), thin(&points));
        match drawn.iter_mut().find(|line| line.points == points) {
            Some(line) => line.name += &format!(" = {name}"),
            None => drawn.push(Line { name, points, look: Look::Solid, colour }),
        }
    }
    lines(axes, &drawn)
}

fn curves(runs: &[Run]) -> impl Iterator<Item = (&Run, &Curve)> {
    runs.iter().flat_map(|run| run.curves.iter().map(move |curve| (run, curve)))
}

fn named(runs: &[Run], run: &Run, arm: &str) -> String {
    if runs.len() > 1 { format!("{}: {arm}", run.name) } else { arm.to_string() }
}

/// The running mean over a twentieth of the steps.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let width = (points.len() / 20).max(1);
    (0..points.len())
        .map(|i| {
            let part = &points[(i + 1).saturating_sub(width)..=i];
            (points[i].0, part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64)
        })
        .collect()
}

/// As many points as can be seen, the last one among them.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| *p).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_keeps_its_ends() {
        let points: Vec<_> = (0..5000).map(|i| (f64::from(i), 1.)).collect();
        let thinned = thin(&points);
        assert!(thinned.len() <= POINTS + 1);
        assert_eq!((thinned[0], thinned.last().copied()), ((0., 1.), Some((4999., 1.))));
        assert_eq!(thin(&[]), []);
    }

    #[test]
    fn a_running_mean_is_of_the_past() {
        let points: Vec<_> = (0..40).map(|i| (f64::from(i), f64::from(i))).collect();
        let smoothed = smooth(&points);
        assert_eq!(smoothed[0], (0., 0.));
        assert_eq!(smoothed[10], (10., 9.5));
    }
}
