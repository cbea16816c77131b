//! `trimwick run`: a recipe from beginning to end, or from where it was stopped.

use std::path::Path;

use anyhow::Result;
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{
    LayerReport, MeasuredArm, MixedChoice, Quantization, RunOutcome, Summary, check_place, run as run_recipe,
};

use trimwick_report::{COMMAND, Tone, Verdict};

use super::print;
use super::report::of_run;
use super::survey::survey;
use crate::args::RunArgs;
use crate::environment;
use crate::error::{DONE, bad_input};
use crate::model::Hub;
use crate::progress::{Dashboard, Lines, RunProgress, Show, line, restore};
use crate::signals::Signals;
use crate::table::{Side, Table};
use crate::text::{bytes, count, duration, percent, perplexity, plain, quoted};

/// Runs a recipe; 130 or 143 when a signal ended it.
///
/// # Errors
/// [`trimwick_recipe::Faults`] before anything is written; [`trimwick_recipe::run::RunError`].
pub(super) fn run(args: &RunArgs) -> Result<u8> {
    if args.dashboard && !Dashboard::possible() {
        return Err(bad_input("--dashboard", "a terminal to draw on", "none; leave it out"));
    }
    let mut recipe = Recipe::load(&args.recipe, &args.overrides)?;
    if let Some(out) = &args.out {
        recipe.out = out.clone();
    }
    if recipe.stream {
        environment::give_back();
    }
    let signals = if args.dashboard { Signals::watch_on_screen(restore)? } else { Signals::watch()? };
    // Whatever the configuration can tell is told before the run's folder exists.
    check_place(&recipe.out, &recipe)?;
    survey(&recipe, Hub::Fetch)?;
    line(&format!("{}: {}", recipe.name, recipe.out.display()));
    let steps = recipe.train.as_ref().map_or(0, |train| train.steps(recipe.data.context));
    let show: Box<dyn Show> = match args.dashboard {
        true => Box::new(Dashboard::open(&recipe.name, signals.keys())?),
        false => Box::new(Lines::default()),
    };
    let mut progress = RunProgress::new(steps, signals.stop(), show);
    let outcome = run_recipe(&recipe, &recipe.out, signals.stop(), &mut |event| progress.take(event))?;
    let last = progress.last();
    // With it goes the bar, or the screen.
    drop(progress);
    if let RunOutcome::Finished(_) = outcome {
        keep_command(&recipe.out.join(COMMAND))?;
    }
    match outcome {
        RunOutcome::Stopped => {
            let (signal, code) = signals.caught();
            line(&format!("stopped by {signal} ({last}); the same command continues"));
            Ok(code)
        }
        RunOutcome::Finished(summary) if args.json => {
            of_run(&recipe.out);
            print(&(serde_json::to_string_pretty(&summary)? + "\n"))?;
            Ok(DONE)
        }
        RunOutcome::Finished(summary) => {
            print(&describe(&summary, &recipe.out))?;
            if let Some(page) = of_run(&recipe.out).first() {
                print(&format!("report: {}\n", plain(&page.to_string_lossy())))?;
            }
            Ok(DONE)
        }
    }
}

/// Leaves the command of a run in its folder, for its report; the first that came to the end stays.
fn keep_command(path: &Path) -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if !path.exists() {
        let words = arguments.iter().map(|word| quoted(&word.to_string_lossy()));
        let line = std::iter::once("trimwick".into()).chain(words).collect::<Vec<_>>().join(" ") + "\n";
        trimwick_formats::atomic_write(path, line.as_bytes())?;
    }
    Ok(())
}

/// What the run found, for people.
fn describe(summary: &Summary, out: &Path) -> String {
    let mut text = format!("\n{}", arms(summary));
    text.push('\n');
    if let Some(gap) = trimwick_report::gap(summary) {
        text.push_str(&format!("gap recovered: {gap}\n"));
    }
    if summary.one_shot().is_some() && summary.trained().is_some() {
        let Verdict { tone, text: sentence } = trimwick_report::verdict(summary);
        text.push_str(&format!("{}{sentence}\n", if tone == Tone::Bad { "warning: " } else { "" }));
    }
    text.push_str(&passes(&summary.passes));
    if let Some(MixedChoice { bits, method, exact, .. }) = &summary.mixed {
        let proved =
            if *exact { "no better choice fits the budget" } else { "the best choice that was found" };
        text.push_str(&format!("schemes: chosen by {method}, {bits:.3} bits each; {proved}\n"));
    }
    if let Some(quantization) = &summary.quantization {
        text.push_str(&grid(quantization));
    }
    if let Some(pattern) = &summary.pattern {
        let zeros = percent(summary.zeros as u64, summary.parameters as u64);
        if summary.groups > 0 {
            text.push_str(&format!(
                "proof: {} of {} groups violate {pattern}, proved on the written bytes; {zeros} of all parameters are zero\n",
                count(summary.groups_violating as u64),
                count(summary.groups as u64),
            ));
        } else {
            text.push_str(&format!("{pattern}: {zeros} of all parameters are zero in the written bytes\n"));
        }
    }
    let shown = |name: &str| plain(&out.join(name).display().to_string());
    let (parameters, size) = (count(summary.parameters as u64), bytes(summary.bytes));
    text.push_str(&format!("model: {} ({parameters} parameters, {size})\n", shown("model")));
    text.push_str(&format!("summary: {}\n", shown("summary.json")));
    let memory = summary.peak_rss_bytes.map(|b| format!(", at most {} of memory", bytes(b)));
    text.push_str(&format!("took {}{}\n", duration(summary.seconds), memory.unwrap_or_default()));
    text
}

/// What each one-shot pass did to the outputs of its layers.
fn passes(reports: &[LayerReport]) -> String {
    let mut names: Vec<&str> = reports.iter().map(|report| report.pass.as_str()).collect();
    names.dedup();
    let line = |name: &str| {
        let of: Vec<&LayerReport> = reports.iter().filter(|report| report.pass == name).collect();
        let mean =
            |pick: fn(&LayerReport) -> f64| of.iter().map(|r| pick(r)).sum::<f64>() / of.len().max(1) as f64;
        let (before, after) = (mean(|r| r.before_db), mean(|r| r.after_db));
        format!("{name}: signal to noise {before:.2} → {after:.2} dB, the mean of {} layers\n", of.len())
    };
    names.into_iter().map(line).collect()
}

/// What the written weights are quantized to.
fn grid(quantization: &Quantization) -> String {
    let schemes = quantization.schemes.iter().map(|(name, layers)| format!("{name} in {layers} layers"));
    let schemes = schemes.collect::<Vec<_>>().join(", ");
    let Quantization { weights, bits_per_weight, off_grid, .. } = quantization;
    format!(
        "grid: {schemes}; {bits_per_weight:.3} bits a weight with its scales; {} of {} weights are off the grid\n",
        count(*off_grid as u64),
        count(*weights as u64)
    )
}

/// The table of the arms.
fn arms(summary: &Summary) -> Table {
    let context = summary.arms.first().map_or(0, |arm| arm.context);
    let perplexity_at = format!("perplexity @ {context}");
    let mut table = Table::new([
        ("arm", Side::Left),
        ("loss", Side::Right),
        (&perplexity_at, Side::Right),
        ("against dense", Side::Right),
        ("tokens trained", Side::Right),
    ]);
    let dense = summary.arm("dense").map(|arm| arm.loss);
    for arm in &summary.arms {
        let MeasuredArm { name, loss, .. } = arm;
        let change = match dense {
            Some(dense) if name != "dense" => format!("{:+.4}", loss - dense),
            _ => "-".into(),
        };
        table.row([
            name.clone(),
            format!("{loss:.4}"),
            perplexity(arm.perplexity),
            change,
            count(arm.train_tokens),
        ]);
    }
    table
}
