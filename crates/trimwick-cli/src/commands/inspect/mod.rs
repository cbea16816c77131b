//! `trimwick inspect`: what is in a model file or folder, without computing anything with it.

mod gguf;
mod safetensors;
mod zeros;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::print;
use crate::args::InspectArgs;
use crate::error::DONE;
use crate::progress::Meter;
use crate::table::{Side, Table};
use crate::text::{bytes, count, percent, plain, plain_json};
use zeros::Zeros;

/// Shows what is at a path.
///
/// # Errors
/// [`trimwick_formats::Error`].
pub(super) fn inspect(args: &InspectArgs) -> Result<u8> {
    let path = &args.path;
    let mut report = match is_gguf(path) {
        true => gguf::report(path, args.zeros)?,
        false => safetensors::report(path, args.zeros)?,
    };
    report.tensors.sort_by_cached_key(|t| in_order(&t.name));
    print(&if args.json { plain_json(&report.json(path)) + "\n" } else { report.text(path) })?;
    Ok(DONE)
}

/// By name, or by the first bytes where the name says nothing.
fn is_gguf(path: &Path) -> bool {
    let ends = |ending: &str| path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case(ending));
    if ends("gguf") || ends("safetensors") || ends("json") || !path.is_file() {
        return ends("gguf") && !path.is_dir();
    }
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

/// A key that sorts layer 2 before layer 10: the name in parts, numbers as numbers.
fn in_order(name: &str) -> Vec<(u64, String)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part.to_string())).collect()
}

/// What was found.
#[derive(Default)]
struct Report {
    /// The kind of file and its version.
    format: String,
    /// Facts about the whole: name, for people, for programs.
    facts: Vec<(String, String, Value)>,
    /// Metadata: key, for people, for programs.
    metadata: Vec<(String, String, Value)>,
    tensors: Vec<Tensor>,
}

/// A tensor.
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    elements: u64,
    bytes: u64,
    /// Where its values were asked for and can be read.
    zeros: Option<Zeros>,
}

impl Report {
    /// Counts the zeros of each tensor: `read` gives the values of one, or nothing where they are no numbers.
    fn count_zeros(&mut self, read: impl Fn(&str) -> Result<Option<Vec<f32>>>) -> Result<()> {
        let (mut meter, total) = (Meter::new("reading weights"), self.tensors.len() as u64);
        for (done, t) in (1..).zip(&mut self.tensors) {
            t.zeros = read(&t.name)?.map(|values| Zeros::count(&values, &t.shape));
            meter.at(done, total, "", None);
        }
        Ok(())
    }

    fn totals(&self) -> (u64, u64) {
        self.tensors.iter().fold((0, 0), |(elements, bytes), t| (elements + t.elements, bytes + t.bytes))
    }

    /// Bytes by dtype.
    fn dtypes(&self) -> BTreeMap<&str, u64> {
        let mut by = BTreeMap::new();
        self.tensors.iter().for_each(|t| *by.entry(t.dtype.as_str()).or_default() += t.bytes);
        by
    }

    /// Elements that were looked at, and how many of them are zero.
    fn zeros(&self) -> Option<(u64, u64)> {
        let read = || self.tensors.iter().filter_map(|t| Some((t.elements, t.zeros.as_ref()?.zeros)));
        read().next().map(|_| read().fold((0, 0), |(all, zero), t| (all + t.0, zero + t.1)))
    }

    fn json(&self, path: &Path) -> Value {
        let map = |list: &[(String, String, Value)]| {
            list.iter().map(|(key, _, value)| (key.clone(), value.clone())).collect::<Map<_, _>>()
        };
        let (elements, bytes) = self.totals();
        let mut out = Map::new();
        out.insert("path".into(), json!(path.to_string_lossy()));
        out.insert("format".into(), json!(self.format));
        out.extend(map(&self.facts));
        out.insert("metadata".into(), Value::Object(map(&self.metadata)));
        let mut totals = json!({
            "tensors": self.tensors.len(),
            "parameters": elements,
            "bytes": bytes,
            "bytes_by_dtype": self.dtypes(),
        });
        if let Some((_, zeros)) = self.zeros() {
            totals["zeros"] = zeros.into();
        }
        out.insert("totals".into(), totals);
        out.insert("tensors".into(), self.tensors.iter().map(Tensor::json).collect());
        Value::Object(out)
    }

    fn text(&self, path: &Path) -> String {
        let mut text = format!("{}: {}\n", plain(&path.to_string_lossy()), plain(&self.format));
        for (title, list) in [("", &self.facts), ("\nmetadata\n", &self.metadata)] {
            if list.is_empty() {
                continue;
            }
            text.push_str(title);
            let width = list.iter().map(|(key, ..)| plain(key).chars().count()).max().unwrap_or(0);
            for (key, shown, _) in list {
                text.push_str(&format!("  {:<width$}  {}\n", plain(key), plain(shown)));
            }
        }
        let (elements, size) = self.totals();
        text.push_str(&format!("\n{}", self.table()));
        let dtypes = self.dtypes().into_iter().map(|(dtype, size)| format!("{dtype} {}", bytes(size)));
        text.push_str(&format!(
            "\n{} tensors, {} parameters, {} ({})\n",
            count(self.tensors.len() as u64),
            count(elements),
            bytes(size),
            dtypes.collect::<Vec<_>>().join(", "),
        ));
        if let Some((all, zeros)) = self.zeros() {
            let share = percent(zeros, all);
            text.push_str(&format!("{} of {} values are zero ({share})\n", count(zeros), count(all)));
        }
        text
    }

    fn table(&self) -> Table {
        let name = |t: &Tensor| plain(&t.name);
        let shape = |t: &Tensor| format!("{:?}", t.shape);
        if self.tensors.iter().all(|t| t.zeros.is_none()) {
            let head = [
                ("tensor", Side::Left),
                ("dtype", Side::Left),
                ("shape", Side::Left),
                ("bytes", Side::Right),
            ];
            let mut table = Table::new(head);
            for t in &self.tensors {
                table.row([name(t), t.dtype.clone(), shape(t), count(t.bytes)]);
            }
            return table;
        }
        let mut table = Table::new([
            ("tensor", Side::Left),
            ("dtype", Side::Left),
            ("shape", Side::Left),
            ("bytes", Side::Right),
            ("zeros", Side::Right),
            ("2:4", Side::Left),
        ]);
        for t in &self.tensors {
            let (zeros, holds) = match &t.zeros {
                Some(z) => (percent(z.zeros, t.elements), z.verdict()),
                None => ("-".into(), "-".into()),
            };
            table.row([name(t), t.dtype.clone(), shape(t), count(t.bytes), zeros, holds]);
        }
        table
    }
}

impl Tensor {
    fn new(name: &str, dtype: impl Display, shape: &[usize], bytes: u64) -> Self {
        let elements = shape.iter().map(|&n| n as u64).product();
        Self {
            name: name.into(),
            dtype: dtype.to_string(),
            shape: shape.into(),
            elements,
            bytes,
            zeros: None,
        }
    }

    fn json(&self) -> Value {
        let mut out = json!({
            "name": self.name,
            "dtype": self.dtype,
            "shape": self.shape,
            "parameters": self.elements,
            "bytes": self.bytes,
        });
        if let Some(zeros) = &self.zeros {
            out["zeros"] = zeros.zeros.into();
            out["groups_2_4"] = zeros.groups.map(|(groups, _)| groups).into();
            out["groups_2_4_violating"] = zeros.groups.map(|(_, violating)| violating).into();
            out["holds_2_4"] = zeros.groups.map(|(_, violating)| violating == 0).into();
        }
        out
    }
}
