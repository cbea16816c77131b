//! Patterns from strangers.
//!
//! The crate's engine backtracks when a pattern has look-around, gives up after a million steps and then silently
//! leaves the rest of the text in one piece. What makes it give up is one repetition inside another: `(a+)+b`. No
//! published tokenizer has that, so it is refused when the file is read.

/// Longest accepted pattern, in bytes; the longest published ones have about 1500.
const MAX_LEN: usize = 16 * 1024;

/// Why a pattern is refused, or `None`. What is not a pattern at all is left to the engine to say.
pub(super) fn refusal(pattern: &str) -> Option<String> {
    if pattern.len() > MAX_LEN {
        return Some(format!("a pattern of {} bytes", pattern.len()));
    }
    nested_repetition(pattern).map(|at| format!("a repetition inside a repetition, closed at byte {at}"))
}

/// The byte at which an unbounded repetition of a group that itself holds an unbounded repetition is closed.
fn nested_repetition(pattern: &str) -> Option<usize> {
    let bytes = pattern.as_bytes();
    // One entry per open group: whether it holds an unbounded repetition.
    let mut groups = vec![false];
    let mut at = 0;
    // Whether the atom just before `at` is a group that holds one.
    let mut atom_repeats = false;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                at = skip_escape(bytes, at);
                atom_repeats = false;
                continue;
            }
            b'[' => {
                at = skip_class(bytes, at);
                atom_repeats = false;
                continue;
            }
            b'(' => {
                groups.push(false);
                atom_repeats = false;
            }
            b')' if groups.len() > 1 => {
                atom_repeats = groups.pop().unwrap_or_default();
                if let Some(outer) = groups.last_mut() {
                    *outer |= atom_repeats;
                }
            }
            b'?' if at > 0 && bytes[at - 1] == b'(' => {} // (?: and its kin
            b'*' | b'+' | b'{' => {
                let unbounded = bytes[at] != b'{' || is_unbounded(&bytes[at..]);
                if unbounded {
                    if atom_repeats {
                        return Some(at);
                    }
                    if let Some(group) = groups.last_mut() {
                        *group = true;
                    }
                }
                // A second sign makes it lazy or possessive and is no repetition of its own.
                let end = match bytes[at] {
                    b'{' => at + bytes[at..].iter().position(|&b| b == b'}').unwrap_or(0),
                    _ => at,
                };
                at = end + usize::from(matches!(bytes.get(end + 1), Some(b'?' | b'+')));
                atom_repeats = false;
            }
            _ => atom_repeats = false,
        }
        at += 1;
    }
    None
}

/// `{3,}` and `{3,100}` but not `{1,3}`: a large bound is as bad as none.
fn is_unbounded(bytes: &[u8]) -> bool {
    let Some(end) = bytes.iter().position(|&b| b == b'}') else { return false };
    let inside = String::from_utf8_lossy(&bytes[1..end]);
    match inside.split_once(',') {
        Some((_, high)) => high.trim().parse::<u32>().map_or(true, |high| high > 16),
        None => inside.trim().parse::<u32>().is_ok_and(|n| n > 16),
    }
}

fn skip_escape(bytes: &[u8], at: usize) -> usize {
    // \p{L}, \x{1F600}: the braces belong to the escape.
    match (bytes.get(at + 1), bytes.get(at + 2)) {
        (Some(b'p' | b'P' | b'x' | b'u'), Some(b'{')) => {
            at + bytes[at..].iter().position(|&b| b == b'}').unwrap_or(bytes.len() - at - 1) + 1
        }
        _ => at + 2,
    }
}

fn skip_class(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    let mut depth = 1;
    // `]` first in a class is a member of it.
    at += usize::from(bytes.get(at) == Some(&b'^'));
    at += usize::from(bytes.get(at) == Some(&b']'));
    while at < bytes.len() && depth > 0 {
        match bytes[at] {
            b'\\' => at += 1,
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::pre;
    use super::*;

    #[test]
    fn repetitions_of_repetitions_are_found() {
        let bad = [
            "(a+)+b",
            "(a*)*",
            "((a+))+",
            "(?:a+b?)+",
            "(?:x(?:a|b*)c)*",
            "(a{2,})+",
            "(?i:a+){1,}",
            r"(\p{L}+\s)+$",
            r"(?:[^)]+)*(?!\S)",
            "(a+)+?",
            "(a{1,1000}){1,1000}",
        ];
        for pattern in bad {
            assert!(refusal(pattern).is_some(), "{pattern}");
        }
        assert!(refusal(&"a".repeat(MAX_LEN + 1)).is_some());
    }

    #[test]
    fn the_patterns_of_published_tokenizers_pass() {
        let more = [
            r"(a|b)+",
            r"(?:ab)?c+",
            r"[(]+[)+]+",
            r"\(+\)+",
            r"[^\s]+|[]()+]+",
            "a++b",
            "a+?",
            r"(?:\p{N}{1,3})+",
            r"(\p{Lu}|x)+y",
            "[一-龥぀-ゟ゠-ヿ]+",
        ];
        for pattern in more.into_iter().chain(pre::PATTERNS.iter().copied()) {
            assert_eq!(refusal(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn broken_patterns_do_not_break_the_scanner() {
        for pattern in
            ["(", ")", "[", "[]", "\\", "\\p{", "{", "a{", "a{1,", "(?", "*", "))))((((", "[[[[", "é{2}+("]
        {
            refusal(pattern);
        }
    }
}
