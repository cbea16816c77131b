//! What was found, as text and as JSON: of one model, or of two side by side.

use anyhow::Result;
use serde_json::{Value, json};
use trimwick_train::Evaluation;
use trimwick_train::tasks::{McNemar, Task, TaskScore, mcnemar, paired_mean};

use super::{Measured, questions};
use crate::args::EvalArgs;
use crate::commands::print;
use crate::table::{Side, Table};
use crate::text::{count, perplexity, plain, plain_json, speed};

pub(super) fn show(args: &EvalArgs, tasks: &[Task], measured: &[Measured<'_>]) -> Result<()> {
    let text = match (args.json, measured) {
        (true, [first]) => plain_json(&to_json(first, tasks)) + "\n",
        (true, [first, second, ..]) => {
            let mut value = to_json(first, tasks);
            value["against"] = to_json(second, tasks);
            value["paired"] = paired(first, second, tasks);
            plain_json(&value) + "\n"
        }
        (false, [first]) => one(first, tasks),
        (false, [first, second, ..]) => two(first, second, tasks),
        (_, []) => String::new(),
    };
    print(&text)
}

fn to_json(measured: &Measured<'_>, tasks: &[Task]) -> Value {
    let files = measured.files;
    let mut value = json!({ "model": files.origin, "parameters": files.config.num_parameters() });
    if let Some((found, seconds)) = &measured.text {
        value["loss"] = json!(found.loss);
        value["perplexity"] = json!(found.perplexity);
        value["context"] = json!(found.context);
        value["stride"] = json!(measured.stride);
        value["tokens"] = json!(found.tokens);
        value["scored"] = json!(found.scored);
        value["window_losses"] = json!(found.window_losses);
        value["seconds"] = json!(seconds);
        value["tokens_per_second"] = json!(found.tokens as f64 / seconds);
    }
    if !tasks.is_empty() {
        let task = |(task, score): (&Task, &TaskScore)| {
            let mut value = named(task);
            if let (Some(value), Value::Object(score)) = (value.as_object_mut(), json!(score)) {
                value.extend(score);
            }
            value
        };
        value["tasks"] = tasks.iter().zip(&measured.scores).map(task).collect();
    }
    value
}

fn named(task: &Task) -> Value {
    json!({ "layout": task.layout.name(), "file": task.path().to_string_lossy() })
}

/// The tests of two models: differences are the first's less the second's.
fn paired(first: &Measured<'_>, second: &Measured<'_>, tasks: &[Task]) -> Value {
    let mut value = json!({});
    if let (Some((a, _)), Some((b, _))) = (&first.text, &second.text) {
        value["loss"] = json!(paired_mean(&a.window_losses, &b.window_losses));
    }
    if !tasks.is_empty() {
        let scores = first.scores.iter().zip(&second.scores);
        let task = |(task, (a, b)): (&Task, (&TaskScore, &TaskScore))| {
            let mut value = named(task);
            value["acc_difference"] = json!(a.acc - b.acc);
            value["acc"] = json!(mcnemar(&a.right(), &b.right()));
            value["acc_norm_difference"] = json!(a.acc_norm - b.acc_norm);
            value["acc_norm"] = json!(mcnemar(&a.right_norm(), &b.right_norm()));
            value
        };
        value["tasks"] = tasks.iter().zip(scores).map(task).collect();
    }
    value
}

fn model_line(label: &str, measured: &Measured<'_>) -> String {
    let files = measured.files;
    let parameters = count(files.config.num_parameters());
    format!("{label:<12}{} ({parameters} parameters)\n", plain(&files.origin))
}

/// `512`, or `512, stride 64`.
fn windows_of(context: usize, stride: Option<usize>) -> String {
    stride.map_or_else(|| context.to_string(), |stride| format!("{context}, stride {stride}"))
}

fn one(measured: &Measured<'_>, tasks: &[Task]) -> String {
    let mut out = model_line("model", measured);
    if let Some((found, seconds)) = &measured.text {
        let Evaluation { loss, perplexity: ppl, context, tokens, scored, window_losses } = found;
        out += &format!(
            "loss        {loss:.5} nats per token\n\
             perplexity  {} @ {}\n\
             tokens      {} scored of {} in {} windows\n\
             speed       {}\n",
            perplexity(*ppl),
            windows_of(*context, measured.stride),
            count(*scored as u64),
            count(*tokens as u64),
            count(window_losses.len() as u64),
            speed(*tokens as f64, *seconds),
        );
    }
    if tasks.is_empty() {
        return out;
    }
    let mut table = Table::new([
        ("task", Side::Left),
        ("questions", Side::Right),
        ("acc", Side::Left),
        ("acc_norm", Side::Left),
        ("contexts cut", Side::Right),
    ]);
    for (task, score) in tasks.iter().zip(&measured.scores) {
        table.row([
            plain(&questions::name(task)),
            count(score.items as u64),
            share(score.acc, score.acc_stderr),
            share(score.acc_norm, score.acc_norm_stderr),
            count(score.cut as u64),
        ]);
    }
    format!("{out}\n{table}")
}

fn two(first: &Measured<'_>, second: &Measured<'_>, tasks: &[Task]) -> String {
    let mut table = Table::new([
        ("measure", Side::Left),
        ("model", Side::Left),
        ("against", Side::Left),
        ("difference", Side::Left),
        ("p", Side::Right),
        ("pairs", Side::Left),
    ]);
    if let (Some((a, _)), Some((b, _))) = (&first.text, &second.text) {
        let test = paired_mean(&a.window_losses, &b.window_losses);
        let windows = format!("{} windows", count(a.window_losses.len() as u64));
        table.row([
            format!("perplexity @ {}", windows_of(a.context, first.stride)),
            perplexity(a.perplexity),
            perplexity(b.perplexity),
            format!("{:+.3}", a.perplexity - b.perplexity),
            String::new(),
            String::new(),
        ]);
        table.row([
            "loss".into(),
            format!("{:.5}", a.loss),
            format!("{:.5}", b.loss),
            test.map_or_else(String::new, |t| difference(t.mean, t.stderr)),
            test.map_or_else(String::new, |t| probability(t.p)),
            windows,
        ]);
    }
    for (task, (a, b)) in tasks.iter().zip(first.scores.iter().zip(&second.scores)) {
        let name = plain(&questions::name(task));
        let row =
            |measure: &str, a: (f64, Option<f64>), b: (f64, Option<f64>), test: McNemar, items: usize| {
                [
                    format!("{name} {measure}"),
                    share(a.0, a.1),
                    share(b.0, b.1),
                    difference(a.0 - b.0, None),
                    probability(test.p),
                    format!("{} : {} of {}", test.first_alone, test.second_alone, count(items as u64)),
                ]
            };
        let test = mcnemar(&a.right(), &b.right());
        table.row(row("acc", (a.acc, a.acc_stderr), (b.acc, b.acc_stderr), test, a.items));
        let test = mcnemar(&a.right_norm(), &b.right_norm());
        let (norm_a, norm_b) = ((a.acc_norm, a.acc_norm_stderr), (b.acc_norm, b.acc_norm_stderr));
        table.row(row("acc_norm", norm_a, norm_b, test, a.items));
    }
    let models = model_line("model", first) + &model_line("against", second);
    let cut = |m: &Measured<'_>| m.scores.iter().map(|score| score.cut).sum::<usize>();
    let cuts = match cut(first) + cut(second) {
        0 => String::new(),
        _ => format!("contexts cut: {} : {}\n", cut(first), cut(second)),
    };
    let legend = "p: two-sided, of pairs; sign flips of window losses, exact McNemar of questions one model alone has right\n";
    format!("{models}\n{table}\n{cuts}{legend}")
}

/// `0.3125 ± 0.0134`.
fn share(value: f64, stderr: Option<f64>) -> String {
    match stderr {
        Some(stderr) => format!("{value:.4} ± {stderr:.4}"),
        None => format!("{value:.4}"),
    }
}

fn difference(value: f64, stderr: Option<f64>) -> String {
    match stderr {
        Some(stderr) => format!("{value:+.4} ± {stderr:.4}"),
        None => format!("{value:+.4}"),
    }
}

fn probability(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}
