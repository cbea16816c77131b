//! Rows of Parquet files, as the JSON objects that the lines of other files are.

use std::path::Path;

/// Whether a file's name says that it holds a table.
pub(crate) fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "parquet")
}

#[cfg(feature = "parquet")]
pub(crate) use with_parquet::rows;
#[cfg(not(feature = "parquet"))]
pub(crate) use without_parquet::rows;

#[cfg(feature = "parquet")]
mod with_parquet {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};
    use parquet::schema::types::Type;
    use serde_json::{Map, Value};

    use crate::Result;
    use crate::data::lines::{Input, Next, Wrong, open};

    /// Calls `f` with each row as a JSON object and its number from 1, until `f` says stop. With `column` no other is read,
    /// where there is such a one. Groups of rows are read page by page.
    pub(crate) fn rows(
        input: &Input,
        column: Option<&str>,
        mut f: impl FnMut(&str, u64) -> Result<Next>,
    ) -> Result<Next> {
        let broken = |row: u64| {
            move |error: ParquetError| {
                input.fault(row, "a Parquet file", format!("another one, or a broken one ({error})"))
            }
        };
        let file = open(input.path())?;
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(broken(1))?;
        let schema = reader.metadata().file_metadata().schema();
        if let Some(name) = twice(schema) {
            return Err(input.fault(
                1,
                "columns of different names",
                format!("two that are called {name:?}"),
            ));
        }
        let mut rows = guarded(|| {
            let projection = column.and_then(|column| only(schema, column));
            reader.get_row_iter(projection)
        })
        .map_err(broken(1))?;
        for number in 1.. {
            let row = guarded(|| rows.next().transpose()).map_err(broken(number))?;
            let Some(row) = row else { break };
            let row = object(&row).map_err(|(expected, found)| input.fault(number, expected, found))?;
            if f(&row.to_string(), number)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Go)
    }

    /// A row as JSON. Columns of bytes that are not marked as text, as older writers leave them, are text here, or an error.
    fn object(row: &Row) -> std::result::Result<Value, Wrong> {
        let cells = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(name, field)?)));
        cells.collect::<std::result::Result<Map<_, _>, _>>().map(Value::Object)
    }

    fn value(column: &str, field: &Field) -> std::result::Result<Value, Wrong> {
        match field {
            Field::Bytes(bytes) => match bytes.as_utf8() {
                Ok(text) => Ok(text.into()),
                Err(_) => Err(("UTF-8 text".into(), format!("other bytes in column {column:?}"))),
            },
            Field::Group(row) => object(row),
            Field::ListInternal(list) => list.elements().iter().map(|field| value(column, field)).collect(),
            other => Ok(other.to_json_value()),
        }
    }

    /// A name that two columns have: which of them would count is anyone's guess.
    fn twice(schema: &Type) -> Option<&str> {
        let mut seen = BTreeSet::new();
        schema.get_fields().iter().map(|field| field.name()).find(|name| !seen.insert(*name))
    }

    /// What the reader makes of a hostile file is an error of that file, whichever way it fails.
    fn guarded<T>(
        read: impl FnOnce() -> std::result::Result<T, ParquetError>,
    ) -> std::result::Result<T, ParquetError> {
        let torn = || Err(ParquetError::General("its numbers do not fit together".into()));
        trimwick_formats::guarded(read).unwrap_or_else(torn)
    }

    /// The schema with one of its columns; `None` where it has no such column, which whoever looks for it will say.
    fn only(schema: &Type, column: &str) -> Option<Type> {
        let field = schema.get_fields().iter().find(|field| field.name() == column)?;
        Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(field)]).build().ok()
    }
}

#[cfg(not(feature = "parquet"))]
mod without_parquet {
    use crate::Result;
    use crate::data::lines::{Input, Next};

    pub(crate) fn rows(
        input: &Input,
        _column: Option<&str>,
        _f: impl FnMut(&str, u64) -> Result<Next>,
    ) -> Result<Next> {
        Err(input.fault(1, "a build with the feature \"parquet\" of trimwick-train", "one without it"))
    }
}
