//! Conversations in windows: whole ones, as many as fit.

use std::collections::BTreeSet;

use super::windows::{Marks, Windows};
use crate::Result;

/// Puts each conversation into the window with the least room that still takes it (of several the earliest), or into a new
/// one, so that none is divided and little is padding. The outcome depends on the conversations and their order alone.
#[derive(Debug)]
pub(super) struct Packer {
    context: usize,
    pad: u32,
    ids: Vec<u32>,
    marks: Marks,
    /// Windows with room for two tokens and more: (room, window).
    open: BTreeSet<(usize, usize)>,
}

impl Packer {
    /// Into windows of `context` tokens, filled up with `pad`.
    pub(super) fn new(context: usize, pad: u32) -> Self {
        Self { context, pad, ids: Vec::new(), marks: Marks::default(), open: BTreeSet::new() }
    }

    /// Adds a conversation of at most `context` tokens. Its first token is not trained: what stands before it is no past.
    pub(super) fn put(&mut self, ids: &[u32], trained: &[bool]) {
        let len = ids.len();
        let found = self.open.range((len, 0)..).next().copied();
        let (room, window) = match found {
            Some(fit) => {
                self.open.remove(&fit);
                fit
            }
            None => {
                self.ids.resize(self.ids.len() + self.context, self.pad);
                self.marks.trained.resize(self.ids.len(), false);
                self.marks.filled.push(0);
                (self.context, self.marks.filled.len() - 1)
            }
        };
        let at = window * self.context + self.context - room;
        self.ids[at..at + len].copy_from_slice(ids);
        self.marks.trained[at..at + len].copy_from_slice(trained);
        self.marks.trained[at] = false;
        self.marks.filled[window] += len as u32;
        if room - len >= 2 {
            self.open.insert((room - len, window));
        }
    }

    pub(super) fn finish(self) -> Result<Windows> {
        Windows::marked(self.ids, self.marks, self.context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_stay_whole_and_go_where_they_fit_best() {
        let mut packer = Packer::new(8, 0);
        for (id, len) in [(1, 5), (2, 6), (3, 4), (4, 2), (5, 3), (6, 4), (7, 8), (8, 2)] {
            packer.put(&vec![id; len], &vec![true; len]);
        }
        let windows = packer.finish().unwrap();
        let expected: [&[u32]; 5] = [
            &[1, 1, 1, 1, 1, 5, 5, 5],
            &[2, 2, 2, 2, 2, 2, 4, 4],
            &[3, 3, 3, 3, 6, 6, 6, 6],
            &[7; 8],
            &[8, 8, 0, 0, 0, 0, 0, 0],
        ];
        for (i, window) in expected.into_iter().enumerate() {
            assert_eq!(windows.window(i), Some(window));
            let first = |j: usize| j == 0 || window[j] != window[j - 1];
            let trained: Vec<bool> = (0..8).map(|j| window[j] != 0 && !first(j)).collect();
            assert_eq!(windows.trained(i), Some(&trained[..]));
            assert_eq!(windows.filled(i), window.iter().filter(|id| **id != 0).count());
        }
        assert_eq!(windows.len(), 5);
    }
}
