//! How fast something goes, and how long the rest will take.

use std::collections::VecDeque;

/// Parts that the pace is averaged over: enough to be calm, few enough to notice a change.
const WINDOW: usize = 20;

/// The pace of the last parts of a task.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// (tokens, seconds) of each.
    parts: VecDeque<(u64, f64)>,
}

impl Pace {
    /// A part of so many tokens took so long.
    pub(crate) fn push(&mut self, tokens: u64, seconds: f64) {
        if self.parts.len() == WINDOW {
            self.parts.pop_front();
        }
        self.parts.push_back((tokens, seconds));
    }

    /// Tokens and seconds of the last parts.
    pub(crate) fn recent(&self) -> (f64, f64) {
        self.parts.iter().fold((0., 0.), |(tokens, time), part| (tokens + part.0 as f64, time + part.1))
    }

    /// Seconds that `parts` more will take at this pace; `None` before the first.
    pub(crate) fn left(&self, parts: u64) -> Option<f64> {
        let (_, seconds) = self.recent();
        (!self.parts.is_empty()).then(|| seconds / self.parts.len() as f64 * parts as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_guessed_from_the_last_parts() {
        let mut pace = Pace::default();
        assert_eq!(pace.left(3), None);
        pace.push(100, 60.);
        assert_eq!(pace.left(2), Some(120.));
        // A slow start is forgotten.
        (0..WINDOW).for_each(|_| pace.push(100, 2.));
        assert_eq!(pace.left(10), Some(20.));
        assert_eq!(pace.recent(), (100. * WINDOW as f64, 2. * WINDOW as f64));
    }
}
