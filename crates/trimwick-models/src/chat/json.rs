//! `tojson` as Hugging Face defines it for templates: Python's `json.dumps` without ASCII escapes.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The value as JSON; `indent` spaces deep where given.
pub(super) fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            put(&value, &mut out, PrettyFormatter::with_indent(spaces.as_bytes()))?;
        }
        None => put(&value, &mut out, Spaced)?,
    }
    String::from_utf8(out).map_err(|e| bad(&e))
}

fn put(value: &Value, out: &mut Vec<u8>, formatter: impl Formatter) -> Result<(), Error> {
    value.serialize(&mut Serializer::with_formatter(out, formatter)).map_err(|e| bad(&e))
}

fn bad(error: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::BadSerialization, error.to_string())
}

/// `, ` and `: `.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}
