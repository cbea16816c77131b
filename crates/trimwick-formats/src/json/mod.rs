//! A strict pull reader of JSON for headers that strangers wrote.
//!
//! A general parser is too kind here: it keeps the last of two equal keys, builds a tree of whatever it is given, and
//! reports a line where a byte is wanted. This one hands out one token at a time, so the caller meets every key in
//! order and nothing is built that was not asked for. It knows the byte offset and the path of each token, and how deep
//! it is: [`MAX_DEPTH`] levels, then it refuses instead of recursing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use crate::error::{Error, Location, Result, quote};

/// Objects and arrays inside each other; the formats read here need three.
const MAX_DEPTH: usize = 64;
/// Bytes of a string that has escapes and must therefore be copied. Training tools leave megabytes in one string.
const MAX_ESCAPED: usize = 8 << 20;

/// One level of the path to the current token.
enum Step<'a> {
    /// In an object, `None` before its first key.
    Key(Option<Cow<'a, str>>),
    /// In an array, `None` before its first item.
    Index(Option<usize>),
}

/// Reads one JSON document from a slice.
pub(crate) struct Reader<'a> {
    file: &'a Path,
    /// What the document is, for messages: "header", "index".
    document: &'static str,
    text: &'a str,
    pos: usize,
    /// Offset of the document in the file.
    base: u64,
    path: Vec<Step<'a>>,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`, which begin at byte `base` of `file`.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, or that open with a byte order mark.
    pub fn new(file: &'a Path, document: &'static str, bytes: &'a [u8], base: u64) -> Result<Self> {
        let fault = |at: usize, expected: &str, found: String| {
            Error::malformed(file, Location::Offset(base + at as u64), document, expected, found)
        };
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let at = e.valid_up_to();
            fault(at, "UTF-8", format!("the byte 0x{:02x}", bytes[at]))
        })?;
        if text.starts_with('\u{feff}') {
            return Err(fault(0, "JSON without a byte order mark", "the mark U+FEFF".into()));
        }
        Ok(Self { file, document, text, pos: 0, base, path: Vec::new() })
    }

    /// Enters an object.
    pub fn begin_object(&mut self) -> Result<()> {
        self.begin(b'{', "an object", Step::Key(None))
    }

    /// The next key of the object that was entered last, or `None` at its end.
    pub fn next_key(&mut self) -> Result<Option<Cow<'a, str>>> {
        let first = matches!(self.path.last(), Some(Step::Key(None)));
        if !self.advance(b'}', first, "',' or '}'")? {
            return Ok(None);
        }
        // The path still names the key before, which is the better hint while this one is unread.
        let key = self.string("a key in quotes")?;
        if let Some(step) = self.path.last_mut() {
            *step = Step::Key(Some(key.clone()));
        }
        self.space();
        self.punctuation(b':', "':'")?;
        Ok(Some(key))
    }

    /// Enters an array.
    pub fn begin_array(&mut self) -> Result<()> {
        self.begin(b'[', "an array", Step::Index(None))
    }

    /// Whether the array that was entered last has another item; it is next.
    pub fn next_item(&mut self) -> Result<bool> {
        let first = matches!(self.path.last(), Some(Step::Index(None)));
        if !self.advance(b']', first, "',' or ']'")? {
            return Ok(false);
        }
        if let Some(Step::Index(index)) = self.path.last_mut() {
            *index = Some(index.map_or(0, |i| i + 1));
        }
        Ok(true)
    }

    /// A string; `expected` completes "expected …".
    pub fn string(&mut self, expected: &'static str) -> Result<Cow<'a, str>> {
        self.space();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(expected));
        }
        self.pos += 1;
        let start = self.pos;
        loop {
            match self.peek() {
                None => return Err(self.fault(start - 1, "a string that ends", self.ending())),
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(Cow::Borrowed(&self.text[start..self.pos - 1]));
                }
                Some(b'\\') => return self.escaped(start).map(Cow::Owned),
                Some(c) if c < 0x20 => return Err(self.control(c)),
                Some(_) => self.pos += 1,
            }
        }
    }

    /// A whole number from 0 to 2^64 − 1, written with digits alone.
    pub fn unsigned(&mut self) -> Result<u64> {
        self.space();
        let start = self.pos;
        let token = self.scalar();
        let plain = !token.is_empty()
            && token.bytes().all(|c| c.is_ascii_digit())
            && (token.len() == 1 || !token.starts_with('0'));
        let number = if plain { token.parse().ok() } else { None };
        number.ok_or_else(|| {
            let found = self.describe(start);
            self.fault(start, "a whole number from 0 to 2^64 - 1", found)
        })
    }

    /// Passes over any value.
    pub fn skip(&mut self) -> Result<()> {
        self.space();
        match self.peek() {
            Some(b'{') => {
                self.begin_object()?;
                while self.next_key()?.is_some() {
                    self.skip()?;
                }
            }
            Some(b'[') => {
                self.begin_array()?;
                while self.next_item()? {
                    self.skip()?;
                }
            }
            Some(b'"') => {
                self.string("a string")?;
            }
            _ => {
                let start = self.pos;
                let token = self.scalar();
                if !matches!(token, "true" | "false" | "null") && !is_number(token) {
                    let found = self.describe(start);
                    return Err(self.fault(start, "a JSON value", found));
                }
            }
        }
        Ok(())
    }

    /// Checks that only white space follows.
    pub fn end(&mut self) -> Result<()> {
        self.space();
        if self.pos == self.text.len() {
            return Ok(());
        }
        Err(self.unexpected("only spaces after the object"))
    }

    /// A fault in what the document says at the current path, where its form is right.
    pub fn meaning(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::malformed(self.file, Location::Json(self.at()), field, expected, found)
    }

    fn begin(&mut self, bracket: u8, name: &'static str, step: Step<'a>) -> Result<()> {
        self.space();
        if self.peek() != Some(bracket) {
            return Err(self.unexpected(name));
        }
        if self.path.len() == MAX_DEPTH {
            return Err(self.fault(
                self.pos,
                "at most 64 levels of nesting",
                format!("{name} deeper than that"),
            ));
        }
        self.pos += 1;
        self.path.push(step);
        Ok(())
    }

    /// Moves to the next member of the innermost object or array; false when it has ended.
    fn advance(&mut self, end: u8, first: bool, expected: &'static str) -> Result<bool> {
        self.space();
        if self.peek() == Some(end) {
            self.pos += 1;
            self.path.pop();
            return Ok(false);
        }
        if !first {
            self.punctuation(b',', expected)?;
        }
        Ok(true)
    }

    fn punctuation(&mut self, byte: u8, expected: &'static str) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected(expected));
        }
        self.pos += 1;
        Ok(())
    }

    /// The rest of a string that has an escape in it.
    fn escaped(&mut self, start: usize) -> Result<String> {
        let mut out = String::new();
        self.pos = start;
        loop {
            let rest = &self.text[self.pos..];
            let plain = rest.bytes().position(|c| c == b'"' || c == b'\\' || c < 0x20).unwrap_or(rest.len());
            if out.len() + plain > MAX_ESCAPED {
                let found = "a longer one".to_owned();
                return Err(self.fault(start - 1, format!("a string of at most {MAX_ESCAPED} bytes"), found));
            }
            out.push_str(&rest[..plain]);
            self.pos += plain;
            match self.peek() {
                None => return Err(self.fault(start - 1, "a string that ends", self.ending())),
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(c) => return Err(self.control(c)),
            }
        }
    }

    /// One escape, from its backslash on.
    fn escape(&mut self) -> Result<char> {
        let start = self.pos;
        let letter = self.text.as_bytes().get(start + 1).copied();
        self.pos = (start + 2).min(self.text.len());
        let c = match letter {
            Some(c @ (b'"' | b'\\' | b'/')) => Some(char::from(c)),
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            Some(b'u') => self.utf16(),
            _ => None,
        };
        c.ok_or_else(|| self.fault(start, "a valid escape", quote_from(self.text, start, 12)))
    }

    /// The character of `\uXXXX`, or of a pair of them; the position is after the first `u`.
    fn utf16(&mut self) -> Option<char> {
        let high = self.hex4()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        if !self.text.as_bytes()[self.pos..].starts_with(b"\\u") {
            return None;
        }
        self.pos += 2;
        let low = self.hex4()?;
        (0xdc00..0xe000)
            .contains(&low)
            .then(|| 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
            .and_then(char::from_u32)
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.pos..self.pos + 4)?;
        let value = digits.iter().try_fold(0, |v, &c| Some(v << 4 | char::from(c).to_digit(16)?))?;
        self.pos += 4;
        Some(value)
    }

    /// Takes the characters of a number or a word.
    fn scalar(&mut self) -> &'a str {
        let start = self.pos;
        let rest = &self.text.as_bytes()[start..];
        self.pos += rest
            .iter()
            .position(|c| !(c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.')))
            .unwrap_or(rest.len());
        &self.text[start..self.pos]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn space(&mut self) {
        let rest = &self.text.as_bytes()[self.pos..];
        self.pos +=
            rest.iter().position(|c| !matches!(c, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(rest.len());
    }

    /// The path to the current token, as `weight_map["lm_head.weight"][2]`.
    fn at(&self) -> String {
        let mut out = String::from(self.document);
        for step in &self.path {
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Key(Some(key)) => write!(out, "[{}]", quote(key)),
                Step::Index(Some(index)) => write!(out, "[{index}]"),
                Step::Key(None) | Step::Index(None) => Ok(()),
            };
        }
        out
    }

    fn unexpected(&self, expected: &'static str) -> Error {
        self.fault(self.pos, expected, self.describe(self.pos))
    }

    fn control(&self, c: u8) -> Error {
        self.fault(self.pos, "control characters escaped", format!("the byte 0x{c:02x}"))
    }

    fn ending(&self) -> String {
        format!("the end of the {}", self.document)
    }

    /// The token at `start`, as far as a message wants it.
    fn describe(&self, start: usize) -> String {
        match self.text.as_bytes().get(start) {
            None => self.ending(),
            Some(b'{') => "an object".into(),
            Some(b'[') => "an array".into(),
            Some(b'"') => {
                let rest = &self.text[start + 1..];
                let end = rest.bytes().take(400).position(|c| c == b'"');
                format!(
                    "the string {}",
                    end.map_or_else(|| quote_from(rest, 0, 40), |end| quote(&rest[..end]))
                )
            }
            Some(_) => {
                let rest = &self.text[start..];
                let end =
                    rest.bytes().take(400).position(|c| b" \t\r\n,:]}\"".contains(&c)).unwrap_or(rest.len());
                quote_from(rest, 0, end.clamp(1, 40))
            }
        }
    }

    fn fault(&self, at: usize, expected: impl Into<String>, found: String) -> Error {
        Error::malformed(self.file, Location::Offset(self.base + at as u64), self.at(), expected, found)
    }
}

/// Whether the token is a number of JSON's grammar, which is narrower than Rust's (no `inf`, `1.`, `+1`, `01`).
fn is_number(token: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let (mantissa, exponent) = match token.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (token, None),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

/// At most `chars` characters of `text` from byte `start`, quoted.
fn quote_from(text: &str, start: usize, chars: usize) -> String {
    quote(&text[start..].chars().take(chars).collect::<String>())
}

#[cfg(test)]
mod tests;
