//! `trimwick quantize`: the tensors of a file on a grid.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_export::{Error, Progress, QuantizeOptions, Report, Stage, TensorReport, quantize_file};
use trimwick_quant::Scheme;

use super::print;
use crate::args::QuantizeArgs;
use crate::error::{DONE, bad_input};
use crate::progress::{Meter, line};
use crate::signals::Signals;
use crate::text::{bytes, count, percent, plain, plain_json};

/// Quantizes a file; 130 or 143 when a signal ended it.
///
/// # Errors
/// [`trimwick_quant::Error`] for the scheme, [`trimwick_export::Error`] for everything else.
pub(super) fn quantize(args: &QuantizeArgs) -> Result<u8> {
    let scheme: Scheme = args.scheme.parse()?;
    if args.output.extension().is_some_and(|ext| ext != "safetensors") {
        let found = plain(&args.output.to_string_lossy());
        return Err(bad_input(
            "OUTPUT",
            "a name that ends in .safetensors, which is what is written, or in nothing",
            found,
        ));
    }
    let options = QuantizeOptions {
        fake: args.fake,
        tensors: args.tensors.clone(),
        skip: args.skip.clone(),
        replace: args.force,
        ..QuantizeOptions::new(scheme)
    };
    let signals = Signals::watch()?;
    let mut meter: Option<(Stage, Meter)> = None;
    let mut progress = |now: Progress| {
        let meter = match &mut meter {
            Some((stage, meter)) if *stage == now.stage => meter,
            other => {
                let label = match now.stage {
                    Stage::Writing => "writing tensors",
                    Stage::Proving => "proving tensors",
                };
                &mut other.insert((now.stage, Meter::new(label))).1
            }
        };
        meter.at(now.done as u64, now.total as u64, "", None);
        match signals.stop().load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let result = quantize_file(&args.input, &args.output, &options, &mut progress);
    // With it goes the bar.
    drop(meter);
    match result {
        Ok(report) => show(args, &report)?,
        Err(Error::Stopped) => {
            let (signal, code) = signals.caught();
            line(&format!("stopped by {signal}; nothing was written"));
            return Ok(code);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(DONE)
}

fn show(args: &QuantizeArgs, report: &Report) -> Result<()> {
    print(&if args.json { plain_json(&to_json(args, report)) + "\n" } else { text(args, report) })
}

/// One line.
fn text(args: &QuantizeArgs, report: &Report) -> String {
    let plural = |n: usize| format!("{} tensor{}", count(n as u64), if n == 1 { "" } else { "s" });
    let scheme = report.scheme.name().map_or_else(|| report.scheme.to_string(), str::to_string);
    format!(
        "{}: {} {} {scheme}, {:.4} bits per weight with scales{}, {} → {} ({}), signal to noise {}; {} copied; \
         proved on the written bytes\n",
        plain(&args.output.to_string_lossy()),
        plural(report.tensors.len()),
        if report.fake { "as if in" } else { "in" },
        report.bits(),
        if report.fake { " if packed" } else { "" },
        bytes(report.bytes_before),
        bytes(report.bytes_after),
        percent(report.bytes_after, report.bytes_before),
        report.snr_db().map_or_else(|| "infinite: nothing lost".into(), |db| format!("{db:.2} dB")),
        plural(report.copied),
    )
}

fn to_json(args: &QuantizeArgs, report: &Report) -> Value {
    let tensor = |t: &TensorReport| {
        json!({
            "name": t.name,
            "shape": t.shape,
            "bits_per_weight": t.bits(),
            "bytes_before": t.bytes_before,
            "bytes_packed": t.bytes_packed,
            "snr_db": t.snr_db(),
        })
    };
    json!({
        "input": args.input.to_string_lossy(),
        "output": args.output.to_string_lossy(),
        "preset": report.scheme.name(),
        "scheme": report.scheme.to_string(),
        "fake": report.fake,
        "weights": report.values(),
        "bits_per_weight": report.bits(),
        "snr_db": report.snr_db(),
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "quantized": report.tensors.len(),
        "copied": report.copied,
        "tensors": report.tensors.iter().map(tensor).collect::<Value>(),
    })
}
