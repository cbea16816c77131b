//! Did you mean: the known word closest to one that is not known.

/// The candidate closest to `word`, if it is close: at most a third of the letters differ, one contains the other, or
/// they have a part between underscores in common, give or take a letter. Case and `-` for `_` do not count. Among
/// equals the first wins.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = folded(word);
    let longest = word.chars().count();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let other = folded(candidate);
        let allowed = longest.max(other.chars().count()).div_ceil(3).min(longest.saturating_sub(1));
        let mut distance = strsim::damerau_levenshtein(&word, &other);
        if distance > allowed {
            if !related(&word, &other) {
                continue;
            }
            // Farther than any word with letters exchanged, nearer than none.
            distance = allowed + 1;
        }
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn related(a: &str, b: &str) -> bool {
    let contained = a.len().min(b.len()) >= 3 && (a.contains(b) || b.contains(a));
    let part = |whole: &str, word: &str| {
        let close = |part: &str| part.len() >= 4 && strsim::damerau_levenshtein(part, word) <= 1;
        word.len() >= 4 && whole.split('_').any(close)
    };
    contained || part(a, b) || part(b, a)
}

/// The `count` candidates most like `word`, best first, however far they are.
pub(crate) fn nearest_of(
    word: &str,
    candidates: impl IntoIterator<Item = String>,
    count: usize,
) -> Vec<String> {
    let word = folded(word);
    let mut scored: Vec<(f64, String)> = candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&word, &folded(&candidate)), candidate))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(count).map(|(_, candidate)| candidate).collect()
}

fn folded(word: &str) -> String {
    // A word from a stranger may be as long as the file; the distance is quadratic.
    word.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_found_and_far_ones_are_not() {
        let known = ["lr", "min_lr", "warmup", "accumulate", "weight_decay", "save_every"];
        for (word, expected) in [
            ("warmpu", Some("warmup")),
            ("warm-up", Some("warmup")),
            ("LR", Some("lr")),
            ("acumulate", Some("accumulate")),
            ("gradient_accumulate", Some("accumulate")),
            ("decay", Some("weight_decay")),
            ("save", Some("save_every")),
            ("wieght", Some("weight_decay")),
            ("xy", None),
            ("z", None),
            ("temperature", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn nearest_of_orders_by_likeness() {
        let names = ["a.q_proj", "a.k_proj", "b.down_proj"].map(str::to_string);
        assert_eq!(nearest_of("a.q_prj", names, 2), ["a.q_proj", "a.k_proj"]);
    }
}
