//! The canonical text of a recipe: every key with its value, defaults filled in, in one order.
//!
//! Reading the text gives the same recipe again, so a run's folder holds a recipe that repeats it, whatever the
//! defaults of a later version are. The fingerprint of that text tells whether two runs are the same work.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::checked::export::{ExportDtype, ExportTarget};
use crate::checked::quantize_spec::QuantizeSpec;
use crate::raw::Key;
use crate::recipe::Recipe;

impl Recipe {
    /// The recipe as TOML with every default written out, in a fixed order and without comments.
    ///
    /// Parsing it gives an equal recipe.
    pub fn resolve(&self) -> String {
        let mut out = Writer::default();
        self.write_name(&mut out);
        self.write(&mut out);
        out.text
    }

    /// The SHA-256 of [`Recipe::resolve`] without the keys `name` and `out`, and without the formats that the finished model
    /// is packed into (`export.targets` and `export.dense`), as 64 hexadecimal digits. Of a grid with a scale of the whole
    /// tensor (NVFP4) it is kept whether one of the formats makes layers that runtimes fuse share that scale before training.
    ///
    /// Equal for recipes that ask for the same computation, wherever its results are put: a finished run takes another
    /// format without being trained again.
    pub fn fingerprint(&self) -> String {
        let mut same = self.clone();
        let shares = self.quantize.as_ref().is_some_and(QuantizeSpec::has_global);
        let fused = shares && self.export.targets.iter().any(|target| target.needs_quantizers());
        same.export.targets = if fused { vec![ExportTarget::CompressedTensors] } else { Vec::new() };
        same.export.dense = ExportDtype::BF16;
        let mut out = Writer::default();
        same.write(&mut out);
        let digest = Sha256::digest(out.text.as_bytes());
        digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// Writes sections and keys as TOML.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    text: String,
}

impl Writer {
    /// Opens `[path]`.
    pub(crate) fn section(&mut self, path: &str) {
        self.open(&format!("[{path}]"));
    }

    /// Opens one more `[[path]]`.
    pub(crate) fn element(&mut self, path: &str) {
        self.open(&format!("[[{path}]]"));
    }

    fn open(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    /// Writes a key of the section that is open.
    pub(crate) fn put<R>(&mut self, key: &Key<R>, value: impl ToToml) {
        self.put_named(key.name, value);
    }

    /// Writes a key whose declaration is at hand without its type.
    pub(crate) fn put_named(&mut self, name: &str, value: impl ToToml) {
        self.text.push_str(name);
        self.text.push_str(" = ");
        self.text.push_str(&value.to_toml());
        self.text.push('\n');
    }

    /// Writes a key that is left out where there is no value.
    pub(crate) fn put_some<R>(&mut self, key: &Key<R>, value: Option<impl ToToml>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }
}

/// A value that TOML can write.
pub(crate) trait ToToml {
    fn to_toml(&self) -> String;
}

impl ToToml for str {
    fn to_toml(&self) -> String {
        toml::Value::String(self.to_string()).to_string()
    }
}

impl ToToml for String {
    fn to_toml(&self) -> String {
        self.as_str().to_toml()
    }
}

impl ToToml for Path {
    fn to_toml(&self) -> String {
        // Paths come from TOML strings: they are UTF-8.
        self.to_string_lossy().as_ref().to_toml()
    }
}

impl ToToml for f64 {
    /// The shortest digits that read back as the same number; always with a point or an exponent.
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl ToToml for u64 {
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl ToToml for usize {
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl ToToml for bool {
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl<T: ToToml> ToToml for [T] {
    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(ToToml::to_toml).collect();
        format!("[{}]", items.join(", "))
    }
}

impl<T: ToToml + ?Sized> ToToml for &T {
    fn to_toml(&self) -> String {
        (**self).to_toml()
    }
}

/// An inline table.
impl<V: ToToml> ToToml for Vec<(&str, V)> {
    fn to_toml(&self) -> String {
        let items: Vec<String> =
            self.iter().map(|(key, value)| format!("{key} = {}", value.to_toml())).collect();
        format!("{{ {} }}", items.join(", "))
    }
}

impl ToToml for Box<dyn ToToml + '_> {
    fn to_toml(&self) -> String {
        (**self).to_toml()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_toml_reads_them() {
        assert_eq!(1e-8.to_toml(), "1e-8");
        assert_eq!(1.0.to_toml(), "1.0");
        assert_eq!(0.0001.to_toml(), "0.0001");
        assert_eq!("a\n\"b\"".to_toml().parse::<toml::Value>().unwrap().as_str(), Some("a\n\"b\""));
        assert_eq!(["a".to_string(), "b".to_string()].as_slice().to_toml(), "[\"a\", \"b\"]");
        for number in [5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e16, 123456789.125] {
            let text = format!("x = {}", number.to_toml());
            assert_eq!(text.parse::<toml::Table>().unwrap()["x"].as_float(), Some(number), "{text}");
        }
    }
}
