//! `trimwick preview`: what a recipe trains on, and which of it.

use std::io::IsTerminal;

use anyhow::Result;
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Event, Preview, PreviewSource, PreviewWindow, preview as preview_recipe};

use super::print;
use super::survey::survey;
use crate::args::PreviewArgs;
use crate::error::DONE;
use crate::model::Hub;
use crate::progress::line;
use crate::table::{Side, Table};
use crate::text::{count, harmless, percent, plain, plain_json};

/// Most windows of a request that are shown.
const MOST: usize = 1000;

/// Reads a recipe's training text as a run does, and shows its first windows.
///
/// # Errors
/// [`trimwick_recipe::Faults`]; [`trimwick_recipe::run::RunError`].
pub(super) fn preview(args: &PreviewArgs) -> Result<u8> {
    let recipe = Recipe::load(&args.recipe, &args.overrides)?;
    survey(&recipe, Hub::Fetch)?;
    let found = preview_recipe(&recipe, args.windows.min(MOST), &mut |event| {
        if let Event::Note(note) = event {
            line(&format!("note: {note}"));
        }
    })?;
    let text = if args.json {
        plain_json(&serde_json::to_value(&found)?) + "\n"
    } else {
        describe(&found, (!args.tokens).then(Marks::of_terminal))
    };
    print(&text)?;
    Ok(DONE)
}

/// What stands around a part that is trained, and around one that is not.
#[derive(Clone, Copy)]
struct Marks {
    trained: (&'static str, &'static str),
    seen: (&'static str, &'static str),
    legend: &'static str,
}

impl Marks {
    fn of_terminal() -> Self {
        let colours = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        if colours { Self::COLOURS } else { Self::BRACKETS }
    }

    const COLOURS: Self = Self {
        trained: ("\u{1b}[32m", "\u{1b}[0m"),
        seen: ("\u{1b}[2m", "\u{1b}[0m"),
        legend: "\u{1b}[32mgreen\u{1b}[0m is trained",
    };
    const BRACKETS: Self = Self { trained: ("[[", "]]"), seen: ("", ""), legend: "[[this]] is trained" };
}

/// Without marks every token has a line.
fn describe(found: &Preview, marks: Option<Marks>) -> String {
    let mut out = String::new();
    for (index, window) in found.windows.iter().enumerate() {
        out.push_str(&format!("window {} {}\n", index + 1, head(window)));
        let Some(marks) = marks else {
            out.push_str(&format!("{}\n", tokens(window)));
            continue;
        };
        for part in &window.parts {
            let (on, off) = if part.trained { marks.trained } else { marks.seen };
            out.push_str(&format!("{on}{}{off}", harmless(&part.text)));
        }
        out.push_str("\n\n");
    }
    for each in &found.sources {
        out.push_str(&source(each, found.context));
    }
    if let Some(marks) = marks {
        out.push_str(marks.legend);
        out.push('\n');
    }
    out
}

fn tokens(window: &PreviewWindow) -> Table {
    let mut table =
        Table::new([("place", Side::Right), ("id", Side::Right), ("", Side::Left), ("token", Side::Left)]);
    let all = window
        .parts
        .iter()
        .flat_map(|part| part.ids.iter().zip(&part.pieces).map(|(id, piece)| (part.trained, id, piece)));
    for (place, (trained, id, piece)) in all.enumerate() {
        let trained = if trained { "trained" } else { "" };
        table.row([place.to_string(), id.to_string(), trained.into(), plain(piece)]);
    }
    table
}

fn head(window: &PreviewWindow) -> String {
    let PreviewWindow { source, tokens, trained, padding, parts: _ } = window;
    let of = |n: &usize| count(*n as u64);
    format!(
        "of {}: {} tokens, {} of them trained, {} of padding behind them",
        plain(source),
        of(tokens),
        of(trained),
        of(padding)
    )
}

fn source(source: &PreviewSource, context: usize) -> String {
    let PreviewSource { key, weight, windows, tokens, trained, conversations, cut, dropped } = source;
    let of = |n: usize| count(n as u64);
    let talks = conversations.map_or(String::new(), |conversations| {
        format!(
            "{} conversations ({} longer than data.context and cut, {} left out with nothing to train), ",
            of(conversations),
            of(*cut),
            of(*dropped)
        )
    });
    let padding = windows * context - tokens;
    let (trained, padded) =
        (percent(*trained as u64, *tokens as u64), percent(padding as u64, (windows * context) as u64));
    format!(
        "{}: {talks}{} windows of {} tokens, weight {weight}; {trained} of the tokens trained, {padded} padding\n",
        plain(key),
        of(*windows),
        of(context)
    )
}
