//! TOML text to the tree of [`Raw`] values, with the line of each key.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Raw, Table, Value};
use crate::error::{Fault, FaultKind, Place, Plain};

/// Tables and lists inside each other, at most. Recipes need four; every later step may recurse.
pub(crate) const DEEPEST: usize = 16;
/// Mistakes in the text that are listed one by one. Beyond, the text is no recipe, and a list as long helps nobody.
const LISTED: usize = 50;

/// The tree of a whole recipe and what is wrong with its text.
///
/// A file that is not TOML gives no tree: what the parser salvages after a syntax error would only raise further
/// faults that are not there. Keys given twice do give a tree, of the first ones.
pub(crate) fn parse_document(text: &str, file: &Arc<str>, faults: &mut Vec<Fault>) -> Option<Table> {
    let lines = Lines::new(text, file);
    let syntax = |offset: usize, found: String, advice: &str| Fault {
        place: lines.place(offset),
        key: String::new(),
        kind: FaultKind::Syntax { found, advice: advice.to_string() },
    };
    let (root, mut errors) = DeTable::parse_recoverable(text);
    let start = |error: &toml::de::Error| error.span().unwrap_or(0..0).start;
    // The parser reports some mistakes once more when it leaves the table.
    errors.sort_by(|a, b| start(a).cmp(&start(b)).then_with(|| a.message().cmp(b.message())));
    errors.dedup_by(|a, b| start(a) == start(b) && a.message() == b.message());
    if let Some(offset) = too_deep(root.get_ref().values(), DEEPEST) {
        faults.push(syntax(
            offset,
            format!("nested more than {DEEPEST} deep"),
            "no key of a recipe is nested so deep",
        ));
        return None;
    }
    let duplicate = |error: &toml::de::Error| error.message() == "duplicate key";
    let broken = !errors.iter().all(duplicate);
    errors.retain(|error| !broken || !duplicate(error));
    if let Some(next) = errors.get(LISTED) {
        let found = format!("{} more mistakes from here on", errors.len() - LISTED);
        faults.push(syntax(start(next), found, "correct the first ones"));
        errors.truncate(LISTED);
    }
    for error in &errors {
        let at = error.span().unwrap_or(0..0);
        if broken {
            let found = Plain(error.message()).to_string();
            faults.push(syntax(at.start, found, advice(error.message())));
            continue;
        }
        let key = text.get(at.clone()).unwrap_or_default();
        faults.push(Fault {
            place: lines.place(at.start),
            key: section_at(text, at.start, key),
            kind: FaultKind::Duplicate { first: first_line(root.get_ref(), text, &at, &lines) },
        });
    }
    (!broken).then(|| table(root.into_inner(), &|at: &Range<usize>| lines.place(at.start)))
}

/// One value from the command line; `Err` is what the parser says about it.
pub(crate) fn parse_value(text: &str, place: &Place) -> Result<Value, String> {
    let parsed = DeValue::parse(text).map_err(|error| error.message().to_string())?;
    if too_deep(std::iter::once(&parsed), DEEPEST).is_some() {
        return Err(format!("nested more than {DEEPEST} deep"));
    }
    Ok(value(parsed.into_inner(), &|_: &Range<usize>| place.clone()))
}

/// The offset of the first value that lies more than `left` deep.
fn too_deep<'a, 'i: 'a>(
    mut values: impl Iterator<Item = &'a Spanned<DeValue<'i>>>,
    left: usize,
) -> Option<usize> {
    values.find_map(|item| match item.get_ref() {
        DeValue::Table(_) | DeValue::Array(_) if left == 0 => Some(item.span().start),
        DeValue::Table(table) => too_deep(Box::new(table.values()) as Box<dyn Iterator<Item = _>>, left - 1),
        DeValue::Array(list) => too_deep(Box::new(list.iter()) as Box<dyn Iterator<Item = _>>, left - 1),
        _ => None,
    })
}

fn advice(message: &str) -> &'static str {
    if message.contains("quoted") || message.contains("missing value") {
        "write strings between quotes, as in name = \"quickstart\""
    } else if message.contains("unclosed") || message.contains("newline") {
        "close the bracket or the quote that is still open"
    } else {
        "each line is key = value, a [section] or a # comment"
    }
}

fn table<P: Fn(&Range<usize>) -> Place>(table: DeTable<'_>, place: &P) -> Table {
    let entry = |(key, item): (Spanned<_>, Spanned<_>)| {
        let place_of_key = place(&key.span());
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        (key.into_owned(), Raw { value: value(item.into_inner(), place), place: place_of_key, typed: None })
    };
    Table { entries: table.into_iter().map(entry).collect() }
}

fn value<P: Fn(&Range<usize>) -> Place>(value: DeValue<'_>, place: &P) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Whole(number),
            Err(_) => Value::Huge(number.to_string()),
        },
        // A float is written in a form that Rust reads; one past the range reads as infinite, which no key takes.
        DeValue::Float(number) => Value::Real(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(on) => Value::Switch(on),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(list) => {
            let element = |item: &Spanned<DeValue<'_>>| Raw {
                place: place(&item.span()),
                value: self::value(item.get_ref().clone(), place),
                typed: None,
            };
            Value::List(list.iter().map(element).collect())
        }
        DeValue::Table(inner) => Value::Table(table(inner, place)),
    }
}

/// Byte offsets to lines.
struct Lines<'a> {
    file: &'a Arc<str>,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &str, file: &'a Arc<str>) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { file, starts }
    }

    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    fn place(&self, offset: usize) -> Place {
        Place::Line { file: self.file.clone(), line: self.line(offset) }
    }
}

/// The full key of what is written at `offset`: the last header above it, then the key. A header is its own full key.
fn section_at(text: &str, offset: usize, key: &str) -> String {
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    if let Some(header) = header(line) {
        return header.to_string();
    }
    match text[..start].lines().rev().find_map(header) {
        Some(section) => format!("{section}.{key}"),
        None => key.to_string(),
    }
}

fn header(line: &str) -> Option<&str> {
    let inner = line.trim_start().strip_prefix('[')?;
    let inner = inner.strip_prefix('[').unwrap_or(inner);
    inner.split(']').next().map(str::trim)
}

/// The line of the key of which a second one stands at `second`: the closest one above with the same name. A header
/// is looked for in the text, since the parser forgets the first one.
fn first_line(root: &DeTable<'_>, text: &str, second: &Range<usize>, lines: &Lines<'_>) -> Option<usize> {
    let name = text.get(second.clone())?;
    let start = text[..second.start].rfind('\n').map_or(0, |at| at + 1);
    if let Some(section) = header(text[start..].lines().next()?) {
        return text[..start].lines().position(|line| header(line) == Some(section)).map(|index| index + 1);
    }
    let mut first = None;
    closest_above(root, text, name, second.start, &mut first);
    first.map(|offset| lines.line(offset))
}

fn closest_above(table: &DeTable<'_>, text: &str, name: &str, below: usize, best: &mut Option<usize>) {
    for (key, item) in table.iter() {
        let at = key.span();
        if at.start < below && text.get(at.clone()) == Some(name) && best.is_none_or(|start| start < at.start)
        {
            *best = Some(at.start);
        }
        match item.get_ref() {
            DeValue::Table(inner) => closest_above(inner, text, name, below, best),
            DeValue::Array(list) => {
                for inner in list.iter().filter_map(|item| item.get_ref().as_table()) {
                    closest_above(inner, text, name, below, best);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<Table>, Vec<String>) {
        let mut faults = Vec::new();
        let tree = parse_document(text, &Arc::from("r.toml"), &mut faults);
        (tree, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_key_knows_its_line() {
        let (tree, faults) = parse("a = 1\n\n[b]\nc = [\n  1,\n  2,\n]\n");
        assert_eq!(faults, [""; 0]);
        let tree = tree.unwrap();
        assert_eq!(tree.get("a").unwrap().place.line(), Some(1));
        assert_eq!(tree.get("b").unwrap().place.line(), Some(3));
        let Value::Table(b) = &tree.get("b").unwrap().value else { panic!("b is a table") };
        assert_eq!(b.get("c").unwrap().place.line(), Some(4));
        let Value::List(c) = &b.get("c").unwrap().value else { panic!("c is a list") };
        assert_eq!(c[1].place.line(), Some(6));
    }

    #[test]
    fn duplicates_name_both_lines_and_keep_the_first() {
        for (text, expected) in [
            ("a = 1\na = 2\n", "r.toml:2: a: given twice, first on line 1; keep one of them"),
            (
                "[p]\ns = 1\n[t]\ns = 2\ns = 3\n",
                "r.toml:5: t.s: given twice, first on line 4; keep one of them",
            ),
            (
                "[p]\ns = 1\n[t]\ns = 2\n[p]\nx = 1\n",
                "r.toml:5: p: given twice, first on line 1; keep one of them",
            ),
        ] {
            let (tree, faults) = parse(text);
            assert_eq!(faults, [expected], "{text}");
            assert!(tree.is_some(), "{text}");
        }
    }

    #[test]
    fn every_syntax_error_is_reported_and_nothing_else() {
        let (tree, faults) = parse("a = 1\na = 2\nb = c\nd = \ne = [1\n");
        assert!(tree.is_none());
        let lines: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap_or_default()).collect();
        assert!(lines.contains(&"r.toml:3") && lines.contains(&"r.toml:4"), "{faults:?}");
        assert!(faults.iter().all(|fault| fault.contains("not TOML: ")), "{faults:?}");
    }

    #[test]
    fn numbers_keep_their_meaning() {
        let (tree, _) =
            parse("a = 0x10\nb = 1_000\nc = 99999999999999999999\nd = 1e400\ne = -inf\nf = nan\n");
        let tree = tree.unwrap();
        assert!(matches!(tree.get("a").unwrap().value, Value::Whole(16)));
        assert!(matches!(tree.get("b").unwrap().value, Value::Whole(1000)));
        assert!(matches!(&tree.get("c").unwrap().value, Value::Huge(text) if text == "99999999999999999999"));
        assert!(matches!(tree.get("d").unwrap().value, Value::Real(number) if number.is_infinite()));
        assert!(matches!(tree.get("e").unwrap().value, Value::Real(number) if number == f64::NEG_INFINITY));
        assert!(matches!(tree.get("f").unwrap().value, Value::Real(number) if number.is_nan()));
    }
}
