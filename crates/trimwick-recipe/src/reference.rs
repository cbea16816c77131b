//! The reference of all keys, printed from their declarations.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::raw::Default;
use crate::recipe::SPEC;

/// Every section and key as Markdown: name, what it takes, default, purpose.
pub fn reference() -> String {
    let mut text = String::new();
    SPEC.walk("", &mut |path, section| {
        let title = if path.is_empty() { "The top of the file".to_string() } else { format!("`[{path}]`") };
        // Writing to a string does not fail.
        let _ = write!(text, "## {title}\n\n| key | takes | default | purpose |\n|---|---|---|---|\n");
        for key in section.keys {
            let default = match key.default() {
                Default::Required => format!("required, as `{}`", key.example()),
                Default::Toml(value) => format!("`{value}`"),
                Default::Absent(otherwise) => otherwise.to_string(),
            };
            let cells =
                [key.expected(), default, key.about().to_string()].map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| `{}` | {} |", key.name(), cells.join(" | "));
        }
        text.push('\n');
    });
    text
}

/// The same for programs: an object for each key, with `default` null where there is none and `otherwise` in its place.
pub fn keys() -> Value {
    let mut found = Vec::new();
    SPEC.walk("", &mut |path, section| {
        for key in section.keys {
            let (default, otherwise) = match key.default() {
                Default::Required => (None, None),
                Default::Toml(value) => (Some(value.to_string()), None),
                Default::Absent(otherwise) => (None, Some(otherwise.to_string())),
            };
            found.push(json!({
                "section": path,
                "key": key.name(),
                "takes": key.expected(),
                "required": matches!(key.default(), Default::Required),
                "default": default,
                "otherwise": otherwise,
                "example": key.example(),
                "purpose": key.about(),
            }));
        }
    });
    found.into()
}
