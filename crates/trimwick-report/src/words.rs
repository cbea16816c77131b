//! What a run's numbers say, in words.

use trimwick_recipe::run::{MeasuredArm, Summary};

use crate::stats::{interval, paired};

/// A sentence, and whether it is good news.
pub(crate) struct Verdict {
    pub(crate) good: bool,
    pub(crate) text: String,
}

/// Whether training helped, said plainly.
pub(crate) fn verdict(summary: &Summary) -> Verdict {
    let perplexity =
        |arm: &MeasuredArm| format!("{:.3} (perplexity at context {})", arm.perplexity, arm.context);
    match (summary.one_shot(), summary.trained()) {
        (Some(before), Some(after)) => {
            let helped =
                summary.training_helped.unwrap_or(after.loss < before.loss) && after.loss < before.loss;
            let sure = match paired(&before.window_losses, &after.window_losses) {
                Some((low, high)) if helped && low <= 0. => {
                    format!(
                        " The difference of the losses lies in [{low:.3}, {high:.3}]: these windows cannot tell it from none."
                    )
                }
                _ => String::new(),
            };
            let text = match helped {
                true => format!(
                    "Training helped: from {:.3} in one shot to {}.{sure}",
                    before.perplexity,
                    perplexity(after)
                ),
                false if after.loss >= before.loss => format!(
                    "Training did not help: it ends at {}, in one shot it is {:.3}.",
                    perplexity(after),
                    before.perplexity
                ),
                false => format!(
                    "Training on the grid did not help: it ends at {}; tuning the dense model and quantizing that in one shot is as good.",
                    perplexity(after)
                ),
            };
            Verdict { good: helped, text }
        }
        (Some(before), None) => Verdict {
            good: true,
            text: format!("Compressed in one shot, without training: {}.", perplexity(before)),
        },
        (None, Some(after)) => Verdict { good: true, text: format!("Trained: {}.", perplexity(after)) },
        (None, None) => Verdict { good: true, text: "Measured; nothing was compressed or trained.".into() },
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
