//! What a run's numbers say, in words.

use trimwick_recipe::run::{MeasuredArm, Summary};

use crate::stats::{interval, paired};

/// What a run shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Training helped, or was not asked for.
    Good,
    /// It did not.
    Bad,
    /// The windows cannot tell.
    Even,
}

/// What a run shows, and a sentence that says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it shows.
    pub tone: Tone,
    /// The sentence.
    pub text: String,
}

/// Whether training helped, said plainly.
pub fn verdict(summary: &Summary) -> Verdict {
    let say = |tone, text| Verdict { tone, text };
    let at =
        |arm: &MeasuredArm| format!("{} (perplexity at context {})", number(arm.perplexity), arm.context);
    let (before, after) = match (summary.one_shot(), summary.trained()) {
        (Some(before), Some(after)) => (before, after),
        (Some(before), None) => {
            return say(Tone::Good, format!("Compressed in one shot, without training: {}.", at(before)));
        }
        (None, Some(after)) => return say(Tone::Good, format!("Trained: {}.", at(after))),
        (None, None) => return say(Tone::Good, "Measured; nothing was compressed or trained.".into()),
    };
    let change = format!("from {} in one shot to {}", number(before.perplexity), at(after));
    // Of a quantized model two arms have to be beaten: the model as it was and its tuned twin, each quantized in one shot.
    let rivals = [Some(before), summary.arm("dense_tuned_quantized")];
    let best =
        rivals.into_iter().flatten().reduce(|a, b| if b.loss < a.loss { b } else { a }).unwrap_or(before);
    let beside = match best.name == before.name {
        true => String::new(),
        false => format!("; {} is {}", arm(&best.name), number(best.perplexity)),
    };
    match paired(&best.window_losses, &after.window_losses) {
        Some((low, high)) if low <= 0. && high >= 0. => say(
            Tone::Even,
            format!(
                "Training made no difference that these windows can tell: {change}{beside}. The gain in loss lies in [{low:.3}, {high:.3}]."
            ),
        ),
        _ if after.loss < best.loss => say(Tone::Good, format!("Training helped: {change}{beside}.")),
        _ if after.loss >= before.loss => {
            say(Tone::Bad, format!("Training did NOT help: {change}{beside}. Deploy the better arm."))
        }
        _ => say(
            Tone::Bad,
            format!(
                "Training on the grid did NOT help: {change}{beside}, and that is better. Deploy that arm."
            ),
        ),
    }
}

/// The gap that the run has closed, with what opened it.
pub fn gap(summary: &Summary) -> Option<String> {
    let (share, opened) = (summary.gap_recovered?, summary.gap_opened_by()?);
    let cost = summary.arm("dense").and_then(|dense| paired(&opened.window_losses, &dense.window_losses));
    let none = cost.filter(|(low, high)| *low <= 0. && *high >= 0.);
    let opened = match opened.name.as_str() {
        "pruned_magnitude" => "magnitude pruning",
        "pruned" => "one-shot pruning",
        _ => "one-shot quantization",
    };
    if let Some((low, high)) = none {
        return Some(format!(
            "not given: what {opened} cost lies in [{low:.3}, {high:.3}], and may be nothing"
        ));
    }
    let mut text = format!("{:.1} % of the loss that {opened} cost", 100. * share);
    if let (Some(share), Some(start)) = (summary.gap_recovered_to_tuned, summary.one_shot()) {
        let (share, start) = (100. * share, &start.name);
        text +=
            &format!("; {share:.1} % of the way from one-shot {start} to dense, tuned on the same tokens");
    }
    Some(text)
}

/// How the page shows it.
pub(crate) fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "verdict",
        Tone::Bad => "verdict bad",
        Tone::Even => "verdict even",
    }
}

/// `22.8 … 23.4`: perplexities that the windows allow for.
pub(crate) fn perplexities(arm: &MeasuredArm) -> String {
    match interval(&arm.window_losses) {
        Some((low, high)) => format!("{} … {}", number(low.exp()), number(high.exp())),
        None => "–".into(),
    }
}

/// Four digits or so.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => value.to_string(),
        v if v >= 1e6 => format!("{value:.3e}"),
        v if v >= 1000. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// `81 920`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `8.1 MB`, in powers of 1000.
pub(crate) fn bytes(n: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let power = if n < 1000. { 0 } else { ((n.log10() / 3.) as usize).min(units.len() - 1) };
    let digits = if power == 0 { 0 } else { 2 };
    format!("{:.digits$} {}", n / 1000f64.powi(power as i32), units[power])
}

/// A key that sorts layer 2 before layer 10: the name in parts, numbers as numbers.
pub(crate) fn in_order(name: &str) -> Vec<(u64, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part)).collect()
}

/// An arm's name as people say it.
pub(crate) fn arm(name: &str) -> String {
    match name {
        "dense_tuned" => "dense, tuned on the same tokens".into(),
        "pruned_magnitude" => "pruned by magnitude".into(),
        "pruned" => "pruned in one shot".into(),
        "quantized" => "quantized in one shot".into(),
        "dense_tuned_quantized" => "dense, tuned, then quantized".into(),
        "blockwise" => "trained block by block".into(),
        "exported" => "the written file".into(),
        other => other.replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(bytes(999.), "999 B");
        assert_eq!(bytes(269_030_016.), "269.03 MB");
        assert_eq!(bytes(1e12), "1.00 TB");
        assert_eq!(count(81_920), "81\u{202f}920");
        assert_eq!(number(40_123_456.), "4.012e7");
        assert_eq!(number(22.770_74), "22.771");
    }
}
