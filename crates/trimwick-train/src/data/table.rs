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
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::schema::types::Type;

    use crate::Result;
    use crate::data::lines::{Input, Next, open};

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
        let mut rows = guarded(|| {
            let projection =
                column.and_then(|column| only(reader.metadata().file_metadata().schema(), column));
            reader.get_row_iter(projection)
        })
        .map_err(broken(1))?;
        for number in 1.. {
            let row = guarded(|| rows.next().transpose()).map_err(broken(number))?;
            let Some(row) = row else { break };
            if f(&row.to_json_value().to_string(), number)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Go)
    }

    /// What the reader makes of a hostile file is an error of that file, whichever way it fails.
    fn guarded<T>(
        read: impl FnOnce() -> std::result::Result<T, ParquetError>,
    ) -> std::result::Result<T, ParquetError> {
        let torn = |_| Err(ParquetError::General("its numbers do not fit together".into()));
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(torn)
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
