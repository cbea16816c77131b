//! `key.path=value` from the command line, put into the tree of the recipe before it is checked.
//!
//! The value is read as TOML where it is TOML and as a plain string where it is not, so that neither
//! `train.lr=1e-4` nor `model.source=./SmolLM2` needs quotes. An empty value takes the key, or the whole section, out.
//! A number selects an element of a list: `train.groups.0.lr_scale=0.5`. A key is overridden once. Of two keys
//! that exclude each other, the one that is typed takes the place of the one in the file: `train.steps=200` over a recipe
//! that says `tokens`.

use std::sync::Arc;

use crate::error::{Fault, FaultKind, Place, Plain};
use crate::raw::{DEEPEST, Raw, Table, Value, nearest, parse_value};

/// Keys of one section that say the same thing in two ways.
const ALTERNATIVES: &[(&str, [&str; 2])] = &[("train", ["tokens", "steps"]), ("model", ["source", "config"])];

/// Applies the overrides in order; each that cannot be applied is a fault.
pub(crate) fn apply(root: &mut Table, overrides: &[String], faults: &mut Vec<Fault>) {
    for (i, text) in overrides.iter().enumerate() {
        // Which of two values is meant is a guess, unless they are one.
        let twice = |other: &&String| key(text).is_some() && key(other) == key(text);
        if let Some(first) = overrides[..i].iter().find(twice) {
            let place = Place::Override { text: Arc::from(text.as_str()) };
            let (expected, found) =
                ("one value for each key".to_string(), format!("another in {}", Plain(first)));
            let kind = FaultKind::Override { expected, found, advice: "keep one of them".to_string() };
            faults.push(Fault { place, key: key(text).unwrap_or_default().to_string(), kind });
            continue;
        }
        if let Err(fault) = apply_one(root, text) {
            faults.push(*fault);
        }
    }
    for (section, keys) in ALTERNATIVES {
        let Some(at) = root.position(section) else { continue };
        let Value::Table(table) = &mut root.entries[at].1.value else { continue };
        let typed = keys.map(|key| table.get(key).map(|raw| matches!(raw.place, Place::Override { .. })));
        let superseded = match typed {
            [Some(true), Some(false)] => keys[1],
            [Some(false), Some(true)] => keys[0],
            _ => continue,
        };
        table.entries.retain(|(key, _)| key != superseded);
    }
}

/// The key of an override, if it has one.
fn key(text: &str) -> Option<&str> {
    text.split_once('=').map(|(key, _)| key.trim())
}

fn apply_one(root: &mut Table, text: &str) -> Result<(), Box<Fault>> {
    let place = Place::Override { text: Arc::from(text) };
    let refuse = |key: &str, expected: &str, found: String, advice: String| {
        let kind = FaultKind::Override { expected: expected.to_string(), found, advice };
        Box::new(Fault { place: place.clone(), key: key.to_string(), kind })
    };
    let Some((path, typed)) = text.split_once('=') else {
        let advice = "write for example train.lr=1e-4".to_string();
        return Err(refuse("", "key=value", format!("{} without `=`", Plain(text)), advice));
    };
    let (path, typed) = (path.trim(), typed.trim());
    let segments: Vec<&str> = path.split('.').collect();
    let bare = |segment: &&str| {
        !segment.is_empty() && segment.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    if !segments.iter().all(bare) || segments.len() > DEEPEST {
        let advice = "write for example train.lr=1e-4".to_string();
        return Err(refuse("", "a dotted key before `=`", format!("\"{}\"", Plain(path)), advice));
    }
    let value = if typed.is_empty() {
        None
    } else {
        let value = match parse_value(typed, &place) {
            Ok(value) => value,
            // A word, a path, a pattern. What opens like TOML and is not is a slip that a string would hide.
            Err(_) if !typed.starts_with(['"', '\'', '[', '{']) => Value::Text(typed.to_string()),
            Err(message) => {
                let advice = "strings inside lists and tables need quotes: compare.arms='[\"dense_tuned\"]'"
                    .to_string();
                return Err(refuse(
                    path,
                    "a TOML value",
                    format!("{} ({})", Plain(typed), Plain(&message)),
                    advice,
                ));
            }
        };
        Some(Raw { value, place: place.clone(), typed: Some(Arc::from(typed)) })
    };
    match set_in_table(root, &segments, 0, value, &place) {
        Ok(()) => Ok(()),
        Err(Blocked::NotATable { depth, found }) => {
            let (outer, whole) = (segments[..depth].join("."), segments[..=depth].join("."));
            let found = format!("{found} for {outer}");
            Err(refuse(&whole, "a section before the dot", found, format!("set {outer} as a whole")))
        }
        Err(Blocked::NoElement { depth, len }) => {
            let found = format!("{}, of a list of {len}", segments[depth]);
            let advice = format!("elements of {} are counted from 0", segments[..depth].join("."));
            Err(refuse(path, "the number of an element", found, advice))
        }
        Err(Blocked::NotThere { near }) => {
            let advice = match near {
                Some(name) => format!("did you mean `{name}`?"),
                None => "leave this override out".to_string(),
            };
            Err(refuse(path, "a key of the recipe to take out", "no such key in it".to_string(), advice))
        }
    }
}

/// Why a path leads nowhere.
enum Blocked {
    NotATable { depth: usize, found: String },
    NoElement { depth: usize, len: usize },
    NotThere { near: Option<String> },
}

/// Puts `value` at the path `segments[depth..]` below `table`, or takes out what is there.
fn set_in_table(
    table: &mut Table,
    segments: &[&str],
    depth: usize,
    value: Option<Raw>,
    place: &Place,
) -> Result<(), Blocked> {
    let (name, last) = (segments[depth], depth + 1 == segments.len());
    match (table.position(name), value) {
        (Some(at), Some(value)) if last => table.entries[at].1 = value,
        (Some(at), None) if last => drop(table.entries.remove(at)),
        (Some(at), value) => return set_below(&mut table.entries[at].1, segments, depth + 1, value, place),
        (None, None) => return Err(not_there(table, segments, depth)),
        (None, Some(value)) if last => table.entries.push((name.to_string(), value)),
        (None, Some(value)) => {
            let mut inner = Table::default();
            set_in_table(&mut inner, segments, depth + 1, Some(value), place)?;
            let raw = Raw { value: Value::Table(inner), place: place.clone(), typed: None };
            table.entries.push((name.to_string(), raw));
        }
    }
    Ok(())
}

fn set_below(
    raw: &mut Raw,
    segments: &[&str],
    depth: usize,
    value: Option<Raw>,
    place: &Place,
) -> Result<(), Blocked> {
    let found = raw.found();
    match &mut raw.value {
        Value::Table(table) => set_in_table(table, segments, depth, value, place),
        Value::List(list) => {
            let len = list.len();
            let Some(at) = segments[depth].parse::<usize>().ok().filter(|&at| at < len) else {
                return Err(Blocked::NoElement { depth, len });
            };
            match value {
                Some(value) if depth + 1 == segments.len() => list[at] = value,
                None if depth + 1 == segments.len() => drop(list.remove(at)),
                value => return set_below(&mut list[at], segments, depth + 1, value, place),
            }
            Ok(())
        }
        _ => Err(Blocked::NotATable { depth, found }),
    }
}

fn not_there(table: &Table, segments: &[&str], depth: usize) -> Blocked {
    let names = table.entries.iter().map(|(name, _)| name.as_str());
    let near = nearest(segments[depth], names).map(|name| {
        let mut full: Vec<&str> = segments[..depth].to_vec();
        full.push(name);
        full.join(".")
    });
    Blocked::NotThere { near }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::parse_document;

    fn applied(overrides: &[&str]) -> (Table, Vec<String>) {
        let text = "seed = 1\n[train]\nlr = 1.0\n[[train.groups]]\npattern = \"a\"\n[data]\ntrain = \"x\"\n";
        let mut faults = Vec::new();
        let mut tree = parse_document(text, &Arc::from("r.toml"), &mut faults).unwrap();
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        apply(&mut tree, &overrides, &mut faults);
        (tree, faults.iter().map(ToString::to_string).collect())
    }

    fn at<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
        let mut parts = path.split('.');
        let mut value = &table.get(parts.next()?)?.value;
        for part in parts {
            value = match value {
                Value::Table(table) => &table.get(part)?.value,
                Value::List(list) => &list.get(part.parse::<usize>().ok()?)?.value,
                _ => return None,
            };
        }
        Some(value)
    }

    #[test]
    fn a_typed_key_takes_the_place_of_its_alternative_in_the_file() {
        let mut faults = Vec::new();
        let text = "[train]\ntokens = 4096\n";
        for (overrides, left) in [
            (&["train.steps=2"][..], &["steps"][..]),
            (&["train.lr=2"], &["tokens", "lr"]),
            // Both typed: a fault, which the check of the section reports.
            (&["train.steps=2", "train.tokens=3"], &["tokens", "steps"]),
        ] {
            let mut tree = parse_document(text, &Arc::from("r.toml"), &mut faults).unwrap();
            let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
            apply(&mut tree, &overrides, &mut faults);
            let Value::Table(train) = &tree.get("train").unwrap().value else { panic!() };
            let keys: Vec<_> = train.entries.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(keys, left, "{overrides:?}");
        }
    }

    #[test]
    fn values_are_toml_or_else_strings() {
        for (text, path, expected) in [
            ("train.lr=1e-4", "train.lr", "0.0001"),
            ("seed=7", "seed", "7"),
            ("train.on=true", "train.on", "true"),
            ("train.lr=nan", "train.lr", "NaN"),
            ("prune.pattern=2:4", "prune.pattern", "the string \"2:4\""),
            ("prune.pattern=\"2:4\"", "prune.pattern", "the string \"2:4\""),
            ("model.source=./a b=c", "model.source", "the string \"./a b=c\""),
            ("compare.arms=[\"a\", 'b']", "compare.arms", "a list of 2"),
            ("train={steps=1}", "train.steps", "1"),
            ("train.groups.0.pattern=b", "train.groups.0.pattern", "the string \"b\""),
            ("train.groups.0={}", "train.groups.0", "a table"),
        ] {
            let (tree, faults) = applied(&[text]);
            assert_eq!(faults, [""; 0], "{text}");
            let value = at(&tree, path).unwrap().clone();
            let place = Place::Override { text: Arc::from("") };
            assert_eq!(Raw { value, place, typed: None }.found(), expected, "{text}");
        }
    }

    #[test]
    fn a_key_that_is_given_twice_is_a_fault() {
        let (_, faults) = applied(&["seed=2", "train.lr=1", "seed = 3"]);
        assert_eq!(
            faults,
            [
                "override seed = 3: seed: expected one value for each key, found another in seed=2; keep one of them"
            ]
        );
    }

    #[test]
    fn an_empty_value_takes_the_key_out() {
        let (tree, faults) = applied(&["seed=3", "train.lr=", "data=", "train.groups.0="]);
        assert_eq!(faults, [""; 0]);
        assert!(matches!(at(&tree, "seed"), Some(Value::Whole(3))));
        assert!(at(&tree, "train.lr").is_none());
        assert!(at(&tree, "train").is_some());
        assert!(at(&tree, "data").is_none());
        assert!(matches!(at(&tree, "train.groups"), Some(Value::List(list)) if list.is_empty()));
    }

    #[test]
    fn what_cannot_be_applied_names_the_override() {
        for (text, expected) in [
            (
                "train.steps",
                "override train.steps: expected key=value, found train.steps without `=`; write for example train.lr=1e-4",
            ),
            (
                "=3",
                "override =3: expected a dotted key before `=`, found \"\"; write for example train.lr=1e-4",
            ),
            (
                "a..b=3",
                "override a..b=3: expected a dotted key before `=`, found \"a..b\"; write for example train.lr=1e-4",
            ),
            (
                "seed.x=3",
                "override seed.x=3: seed.x: expected a section before the dot, found 1 for seed; set seed as a whole",
            ),
            (
                "data.train.files=3",
                "override data.train.files=3: data.train.files: expected a section before the dot, found the string \"x\" for data.train; set data.train as a whole",
            ),
            (
                "train.groups.1.lr_scale=3",
                "override train.groups.1.lr_scale=3: train.groups.1.lr_scale: expected the number of an element, found 1, of a list of 1; elements of train.groups are counted from 0",
            ),
            (
                "train.groups.x=3",
                "override train.groups.x=3: train.groups.x: expected the number of an element, found x, of a list of 1; elements of train.groups are counted from 0",
            ),
            (
                "trian.lr=",
                "override trian.lr=: trian.lr: expected a key of the recipe to take out, found no such key in it; did you mean `train`?",
            ),
            (
                "distill=",
                "override distill=: distill: expected a key of the recipe to take out, found no such key in it; leave this override out",
            ),
        ] {
            assert_eq!(applied(&[text]).1, [expected], "{text}");
        }
        let (_, faults) = applied(&["compare.arms=[dense_tuned]"]);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("strings inside lists and tables need quotes"), "{faults:?}");
    }
}
