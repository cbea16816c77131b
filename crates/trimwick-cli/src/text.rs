//! Text for people: numbers, sizes, times, and names that cannot take over a terminal.

/// Text from outside, with everything escaped that is not a plain character of one line: control characters, which a
/// terminal obeys, and the bidirectional ones, which reorder what is seen.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// One word of a shell's command line, on one line.
pub(crate) fn quoted(text: &str) -> String {
    let bare = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    let text = plain(text);
    if !text.is_empty() && text.chars().all(bare) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Generated text for a terminal: as [`plain`], but line breaks and tabs stay.
pub(crate) fn harmless(text: &str) -> String {
    text.split_inclusive(['\n', '\t'])
        .map(|part| match part.strip_suffix(['\n', '\t']) {
            Some(body) => plain(body) + &part[body.len()..],
            None => plain(part),
        })
        .collect()
}

/// JSON as [`plain`] text. Control characters above U+007E are legal inside JSON strings, and terminals obey some of them;
/// outside of strings there are none.
pub(crate) fn plain_json(value: &serde_json::Value) -> String {
    // `{:#}` of a value is pretty-printed JSON.
    let text = format!("{value:#}");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // All of them are below U+10000: one unit of UTF-16.
        if c != '\n' && is_obeyed(c) { out.push_str(&format!("\\u{:04x}", c as u32)) } else { out.push(c) }
    }
    out
}

fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `12,288`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `8.1 MB`, in powers of 1000.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1000.;
    let mut unit = 0;
    // What would be shown as 1000.0 is one of the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `8 s`, `1:20` (minutes), `2:01:20` (hours).
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.).round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes}:{rest:02}"),
        _ => format!("{hours}:{minutes:02}:{rest:02}"),
    }
}

/// A share as `12.3 %`; `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1} %", 100. * part as f64 / whole as f64) }
}

/// Five or more significant digits, whatever the size.
pub(crate) fn perplexity(value: f64) -> String {
    match value {
        v if v < 1e4 => format!("{v:.3}"),
        v if v < 1e7 => format!("{v:.1}"),
        v => format!("{v:.3e}"),
    }
}

/// Tokens per second.
pub(crate) fn speed(tokens: f64, seconds: f64) -> String {
    let rate = tokens / seconds.max(1e-9);
    if rate < 10. { format!("{rate:.1} tokens/s") } else { format!("{} tokens/s", count(rate as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_take_over_a_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\n\u{9b}2J\u{202e}é"), r"a\u{1b}[31mb\u{a}\u{9b}2J\u{202e}é");
        assert_eq!(harmless("one\n\ttwo\u{1b}]0;x\u{7}\r\n"), "one\n\ttwo\\u{1b}]0;x\\u{7}\\u{d}\n");
        let json = plain_json(&serde_json::json!({ "a\u{1b}\u{9b}": ["\u{202e}"] }));
        assert_eq!(json, "{\n  \"a\\u001b\\u009b\": [\n    \"\\u202e\"\n  ]\n}");
        let back: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(back["a\u{1b}\u{9b}"][0], "\u{202e}");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(count(number), expected);
        }
        for (number, expected) in [(999, "999 B"), (8_123_456, "8.1 MB"), (999_999_999, "1.0 GB")] {
            assert_eq!(bytes(number), expected);
        }
        for (number, expected) in [(0.2, "0 s"), (59.6, "1:00"), (80., "1:20"), (7280., "2:01:20")] {
            assert_eq!(duration(number), expected);
        }
        for (number, expected) in [(22.7701, "22.770"), (123456.78, "123456.8"), (3e12, "3.000e12")] {
            assert_eq!(perplexity(number), expected);
        }
        assert_eq!((percent(1, 8), percent(0, 0)), ("12.5 %".into(), "-".into()));
        assert_eq!((speed(10., 4.), speed(5321., 1.)), ("2.5 tokens/s".into(), "5,321 tokens/s".into()));
    }
}
