//! Several runs on one page.

use maud::html;

use crate::Result;
use crate::page::arms;
use crate::parts::{figure, losses, page, rates};
use crate::run::Run;
use crate::words::{self, bytes, number};

pub(crate) fn of(runs: &[Run]) -> Result<String> {
    let share = |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.1} %", 100. * share));
    let of_arm =
        |run: &Run, name: &str| run.summary.arm(name).map_or("–".into(), |arm| number(arm.perplexity));
    let bits = |run: &Run| {
        run.summary.quantization.as_ref().map_or("–".into(), |q| format!("{:.2}", q.bits_per_weight))
    };
    let texts: Vec<_> = runs
        .iter()
        .filter_map(|run| run.summary.arms.first().map(|arm| (arm.context, arm.eval_tokens)))
        .collect();
    let same = texts.windows(2).all(|pair| pair[0] == pair[1]);
    let names: Vec<_> = runs.iter().map(|run| run.name.as_str()).collect();
    let body = html! {
        h1 { (names.join(", ")) }
        @if !same {
            p.verdict.bad { "These runs were measured at different contexts or on texts of different length: their perplexities are not to be compared." }
        }
        div.wide { table {
            caption { "Perplexities; the context of each run is in its own table below." }
            tr {
                th { "run" } th { "dense" } th { "one shot" } th { "trained" } th { "tuned twin" } th { "gap closed to the twin" }
                th { "pattern" } th { "bits" } th { "written" }
            }
            @for run in runs {
                tr {
                    td { (run.name) }
                    td { (of_arm(run, "dense")) }
                    td { (run.summary.one_shot().map_or("–".into(), |arm| number(arm.perplexity))) }
                    td { (run.summary.trained().map_or("–".into(), |arm| number(arm.perplexity))) }
                    td { (of_arm(run, "dense_tuned")) }
                    td { (share(run.summary.gap_recovered_to_tuned)) }
                    td { (run.summary.pattern.as_deref().unwrap_or("–")) }
                    td { (bits(run)) }
                    td { (bytes(run.summary.bytes as f64)) }
                }
            }
        } }
        (figure(&losses(runs)?, "Cross-entropy on the training text."))
        (figure(&rates(runs)?, "Learning rate."))
        @for run in runs {
            h2 { (run.name) }
            p class=(words::class(words::verdict(&run.summary).tone)) { (words::verdict(&run.summary).text) }
            (arms(&run.summary))
        }
    };
    Ok(page(&names.join(", "), &body))
}
