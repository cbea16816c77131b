//! Bad recipes and what is said about them: one table per class, each row the lines that are changed and every line
//! of the answer.

mod blockwise;
mod chat;
mod keys;
mod passes;
mod quantize;
mod values;
mod whole;

use trimwick_recipe::Recipe;

/// A sound recipe; the tables replace its lines by number.
const SOUND: &str = r#"name = "t"
[model]
source = "builtin:tiny-llama"
[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
[prune]
pattern = "2:4"
[train]
steps = 100
lr = 1e-4
"#;

fn with(changes: &[(usize, &str)]) -> String {
    let mut text = String::new();
    for (i, line) in SOUND.lines().enumerate() {
        let changed = changes.iter().find(|(number, _)| *number == i + 1);
        text.push_str(changed.map_or(line, |(_, line)| line));
        text.push('\n');
    }
    text
}

fn answer(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    match Recipe::parse(text, "r.toml", &overrides) {
        Ok(recipe) => format!("accepted: {recipe:?}"),
        Err(faults) => faults.to_string(),
    }
}

/// What is changed, line by line, and every line of the answer.
type Row<'a> = (&'a [(usize, &'a str)], &'a [&'a str]);

fn check(table: &[Row<'_>]) {
    for (changes, expected) in table {
        assert_eq!(answer(&with(changes), &[]), expected.join("\n"), "{changes:?}");
    }
}
