//! Windows of token ids, and the order in which training visits them.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_kernels::{Rng, permute};

use crate::{Error, Result};

/// A stream of token ids cut into windows of `context` tokens. Clones share the ids.
///
/// The model sees a whole window and is scored on tokens 2 to `context`: the first has no past.
#[derive(Debug, Clone)]
pub struct Windows {
    ids: Arc<[u32]>,
    tokens: usize,
    context: usize,
}

impl Windows {
    /// Windows over `ids`; what is left over at the end is [`Windows::rest`].
    ///
    /// # Errors
    /// A context of fewer than 2 tokens.
    pub fn new(ids: impl Into<Arc<[u32]>>, context: usize) -> Result<Self> {
        if context < 2 {
            return Err(Error::setting(
                "context",
                "at least 2 tokens, of which the second is scored",
                context,
            ));
        }
        let ids = ids.into();
        Ok(Self { tokens: ids.len(), ids, context })
    }

    /// The first `tokens` tokens (all when there are fewer).
    pub fn limit(&self, tokens: usize) -> Self {
        Self { tokens: self.tokens.min(tokens), ..self.clone() }
    }

    /// Number of whole windows.
    pub fn len(&self) -> usize {
        self.tokens / self.context
    }

    /// Whether there is no whole window.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens in a window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The token ids, left-over ones included.
    pub fn ids(&self) -> &[u32] {
        &self.ids[..self.tokens]
    }

    /// The ids of window `index`; `None` beyond the last whole one.
    pub fn window(&self, index: usize) -> Option<&[u32]> {
        self.ids().chunks_exact(self.context).nth(index)
    }

    /// The tokens after the last whole window: fewer than `context`.
    pub fn rest(&self) -> &[u32] {
        self.ids().chunks_exact(self.context).remainder()
    }

    /// The order of the windows in one epoch.
    pub fn order(&self, seed: u64, epoch: u64) -> Order {
        let rng = Rng::new(seed, "order", epoch, "windows");
        let key = u64::from(rng.u32_at(0)) | u64::from(rng.u32_at(1)) << 32;
        Order { key, windows: self.len() as u64 }
    }
}

/// A permutation of the windows, computed position by position: there is nothing to store, and any position can be
/// resumed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    key: u64,
    windows: u64,
}

impl Order {
    /// The window at `position`.
    ///
    /// # Panics
    /// When `position` is not below the number of windows.
    pub fn at(&self, position: u64) -> u64 {
        permute(self.key, self.windows, position)
    }
}

/// The next window of an endless walk over permuted epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Times that all windows have been visited.
    pub epoch: u64,
    /// Windows visited in this epoch.
    pub position: u64,
}

impl Cursor {
    /// The ids of the next `count` windows; a batch may reach into the next epoch.
    ///
    /// # Errors
    /// [`Error::TooShort`] when there is no whole window.
    pub fn take<'w>(&mut self, windows: &'w Windows, seed: u64, count: usize) -> Result<Vec<&'w [u32]>> {
        let short = || Error::TooShort { expected: windows.context(), found: windows.ids().len() };
        let one = |_| {
            if self.position >= windows.len() as u64 {
                *self = Self { epoch: self.epoch + 1, position: 0 };
            }
            if windows.is_empty() {
                return Err(short());
            }
            let index = windows.order(seed, self.epoch).at(self.position);
            self.position += 1;
            windows.window(index as usize).ok_or_else(short)
        };
        (0..count).map(one).collect()
    }
}

/// Windows of equal length as a model takes them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// All tokens but the last of each window: `[b, t − 1]`, u32. The last one's logits would not be scored.
    pub inputs: Tensor,
    /// The token that follows each input, row by row: `b·(t − 1)`.
    pub targets: Vec<u32>,
}

impl Batch {
    /// A batch of windows of `t` ≥ 2 tokens each.
    ///
    /// # Errors
    /// Windows of different lengths, or of fewer than two tokens.
    pub fn new(windows: &[&[u32]], device: &Device) -> Result<Self> {
        let t = windows.first().map_or(0, |w| w.len());
        if t < 2 || windows.iter().any(|w| w.len() != t) {
            let found = windows.iter().map(|w| w.len()).min().unwrap_or(0);
            return Err(Error::setting("batch", "windows of equal length, at least 2 tokens", found));
        }
        let inputs: Vec<u32> = windows.iter().flat_map(|w| &w[..t - 1]).copied().collect();
        let targets = windows.iter().flat_map(|w| &w[1..]).copied().collect();
        Ok(Self { inputs: Tensor::from_vec(inputs, (windows.len(), t - 1), device)?, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(tokens: u32, context: usize) -> Windows {
        Windows::new((0..tokens).collect::<Vec<_>>(), context).unwrap()
    }

    #[test]
    fn a_stream_is_cut_and_the_rest_kept() {
        let w = windows(11, 4);
        assert_eq!((w.len(), w.ids().len()), (2, 11));
        assert_eq!(w.window(0), Some(&[0, 1, 2, 3][..]));
        assert_eq!(w.window(1), Some(&[4, 5, 6, 7][..]));
        assert_eq!(w.window(2), None);
        assert_eq!(w.rest(), [8, 9, 10]);
        let w = w.limit(6);
        assert_eq!((w.len(), w.rest()), (1, &[4, 5][..]));
        assert!(Windows::new(vec![1, 2], 1).is_err());
        assert!(windows(3, 4).is_empty());
    }

    #[test]
    fn an_epoch_visits_every_window_once_and_epochs_differ() {
        for n in [1, 2, 3, 7, 64, 1000] {
            let w = windows(n * 2, 2);
            let order =
                |seed, epoch| (0..w.len() as u64).map(|i| w.order(seed, epoch).at(i)).collect::<Vec<_>>();
            let mut sorted = order(42, 0);
            assert_eq!(sorted, order(42, 0), "{n} windows: not deterministic");
            sorted.sort_unstable();
            assert_eq!(sorted, (0..u64::from(n)).collect::<Vec<_>>(), "{n} windows: not a permutation");
            if n > 60 {
                assert_ne!(order(42, 0), order(42, 1), "{n} windows: epochs 0 and 1 alike");
                assert_ne!(order(42, 0), order(43, 0), "{n} windows: seeds 42 and 43 alike");
            }
        }
    }

    #[test]
    fn a_cursor_walks_the_same_way_whatever_the_batch() -> Result<()> {
        let w = windows(14, 2); // 7 windows
        let walk = |count: usize| -> Result<Vec<u32>> {
            let mut cursor = Cursor::default();
            let mut seen = vec![];
            while seen.len() < 60 {
                seen.extend(cursor.take(&w, 3, count)?.iter().map(|w| w[0]));
            }
            assert_eq!(cursor.epoch * 7 + cursor.position, seen.len() as u64);
            seen.truncate(60);
            Ok(seen)
        };
        let one = walk(1)?;
        for count in [2, 3, 7, 20] {
            assert_eq!(walk(count)?, one, "batches of {count}");
        }
        assert!(matches!(Cursor::default().take(&windows(3, 4), 0, 1), Err(Error::TooShort { .. })));
        Ok(())
    }

    #[test]
    fn a_batch_shifts_targets_by_one() -> Result<()> {
        let batch = Batch::new(&[&[1, 2, 3], &[7, 8, 9]], &Device::Cpu)?;
        assert_eq!(batch.inputs.to_vec2::<u32>()?, [[1, 2], [7, 8]]);
        assert_eq!(batch.targets, [2, 3, 8, 9]);
        for bad in [&[][..], &[&[1][..]], &[&[1, 2][..], &[1, 2, 3]]] {
            assert!(Batch::new(bad, &Device::Cpu).is_err(), "{bad:?}");
        }
        Ok(())
    }
}
