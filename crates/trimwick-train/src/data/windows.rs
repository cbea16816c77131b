//! Windows of token ids, and the order in which training visits them.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_kernels::{Rng, permute};

use super::mix::Mix;
use super::tokens::{Tokens, TokensWriter};
use crate::distill::IGNORE;
use crate::{Error, Result};

/// A stream of token ids cut into windows of `context` tokens. Clones share the ids.
///
/// The model sees a whole window and is scored on tokens 2 to `context`: the first has no past. Windows of
/// [conversations](super::ChatSource) are marked: only some of their tokens are trained. Windows of several sources are
/// [mixed](Windows::mix).
#[derive(Debug, Clone)]
pub struct Windows {
    ids: Tokens,
    tokens: usize,
    context: usize,
    marks: Option<Arc<Marks>>,
    mix: Option<Arc<Mix>>,
}

/// What is known of each token of marked windows, and of each window.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Whether a token is trained, by its index.
    pub(super) trained: Vec<bool>,
    /// Tokens of a window before its padding.
    pub(super) filled: Vec<u32>,
}

impl Windows {
    /// Windows over `ids`; what is left over at the end is [`Windows::rest`].
    ///
    /// # Errors
    /// A context of fewer than 2 tokens.
    pub fn new(ids: impl Into<Tokens>, context: usize) -> Result<Self> {
        if context < 2 {
            return Err(Error::setting(
                "context",
                "at least 2 tokens, of which the second is scored",
                context,
            ));
        }
        let ids = ids.into();
        Ok(Self { tokens: ids.len(), ids, context, marks: None, mix: None })
    }

    /// Whole windows with marks.
    pub(super) fn marked(ids: Vec<u32>, marks: Marks, context: usize) -> Result<Self> {
        Ok(Self { marks: Some(Arc::new(marks)), ..Self::new(ids, context)? })
    }

    /// Windows that overlap: each begins `stride` tokens after the one before, and of each only the tokens that no window
    /// before has scored are scored, so that all but the first ones have at least `context − stride` tokens of past. Tokens
    /// that are left over at the end are in no window.
    ///
    /// # Errors
    /// A context of fewer than 2 tokens; a stride of 0, or above the context less 1, with which windows would leave tokens
    /// out.
    pub fn strided(ids: &[u32], context: usize, stride: usize) -> Result<Self> {
        if stride == 0 || stride >= context.max(2) {
            let expected = format!("from 1 to {}, the context less 1", context.saturating_sub(1));
            return Err(Error::setting("stride", expected, stride));
        }
        let starts = || (0..).map(|i| i * stride).take_while(|start| start + context <= ids.len());
        let all: Vec<u32> = starts().flat_map(|start| &ids[start..start + context]).copied().collect();
        let new = |start: usize| if start == 0 { 0 } else { context - stride };
        let trained = starts().flat_map(|start| (0..context).map(move |i| i >= new(start))).collect();
        let filled = starts().map(|_| context as u32).collect();
        Self::marked(all, Marks { trained, filled }, context)
    }

    /// Windows of several sources, each with a weight. The walk over them ([`Cursor`]) takes a window of each source in
    /// proportion to the weights: exactly so in every row of as many windows as the weights, without a common divisor, add up
    /// to, and spread as evenly as that allows. Each source has its own order and begins anew when it is through, whatever the
    /// others do. What a source has beyond its last whole window is left out.
    ///
    /// # Errors
    /// Sources of different contexts, or without a whole window; a weight of 0; weights that add up to more than 65 536.
    pub fn mix(sources: &[(Self, u32)]) -> Result<Self> {
        let context = sources.first().map_or(2, |(first, _)| first.context);
        let overflow = sources.iter().find_map(|(source, _)| source.ids.overflow());
        let (mut ids, mut marks) = (TokensWriter::new(overflow.cloned()), Marks::default());
        for (source, _) in sources {
            if source.context != context {
                return Err(Error::setting("context", format!("{context} in every source"), source.context));
            }
            if source.is_empty() {
                return Err(Error::TooShort { expected: context, found: source.tokens });
            }
            let whole = source.len() * context;
            ids.push(&source.ids[..whole])?;
            match &source.marks {
                Some(own) => {
                    marks.trained.extend_from_slice(&own.trained[..whole]);
                    marks.filled.extend_from_slice(&own.filled[..source.len()]);
                }
                None => {
                    marks.trained.resize(ids.len(), true);
                    marks.filled.resize(ids.len() / context, context as u32);
                }
            }
        }
        let parts: Vec<_> = sources.iter().map(|(source, weight)| (source.len() as u64, *weight)).collect();
        let mix = Some(Arc::new(Mix::new(&parts)?));
        let marked = sources.iter().any(|(source, _)| source.marks.is_some());
        Ok(Self { marks: marked.then(|| Arc::new(marks)), mix, ..Self::new(ids.finish()?, context)? })
    }

    /// The first `tokens` tokens (all when there are fewer), whatever source they are of.
    pub fn limit(&self, tokens: usize) -> Self {
        Self { tokens: self.tokens.min(tokens), mix: None, ..self.clone() }
    }

    /// Whether some tokens may be untrained.
    pub fn is_marked(&self) -> bool {
        self.marks.is_some()
    }

    /// Which tokens of a window are trained; none where all are. The first one never is, having no past.
    pub fn trained(&self, index: usize) -> Option<&[bool]> {
        self.marks.as_ref()?.trained.chunks_exact(self.context).nth(index)
    }

    /// How many tokens of a window are trained.
    pub fn trained_tokens(&self, index: usize) -> usize {
        let all = self.context - 1;
        self.trained(index).map_or(all, |trained| trained[1..].iter().filter(|t| **t).count())
    }

    /// How many tokens of a window stand before its padding.
    pub fn filled(&self, index: usize) -> usize {
        let filled = self.marks.as_ref().and_then(|marks| marks.filled.get(index));
        filled.map_or(self.context, |&filled| filled as usize)
    }

    /// The source of a window, in the order of [`Windows::mix`]; 0 where nothing is mixed.
    pub fn source(&self, index: usize) -> usize {
        self.mix.as_ref().map_or(0, |mix| mix.source(index as u64))
    }

    /// What tells these windows from others of the same ids: which tokens are trained, and the mix. Empty without either.
    pub fn beside(&self) -> Vec<u32> {
        let marks = self.marks.iter().flat_map(|marks| {
            let trained = marks.trained.iter().map(|&trained| u32::from(trained));
            trained.chain(marks.filled.iter().copied())
        });
        marks.chain(self.mix.iter().flat_map(|mix| mix.words())).collect()
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
    /// As [`Cursor::indices`].
    pub fn take<'w>(&mut self, windows: &'w Windows, seed: u64, count: usize) -> Result<Vec<&'w [u32]>> {
        let indices = self.indices(windows, seed, count)?;
        Ok(indices.into_iter().filter_map(|index| windows.window(index)).collect())
    }

    /// The next `count` windows by their index. In a mix each source has epochs of its own: the position counts on and
    /// `epoch` stays 0.
    ///
    /// # Errors
    /// [`Error::TooShort`] when there is no whole window.
    pub fn indices(&mut self, windows: &Windows, seed: u64, count: usize) -> Result<Vec<usize>> {
        let short = || Error::TooShort { expected: windows.context(), found: windows.ids().len() };
        if windows.is_empty() {
            return Err(short());
        }
        let one = |_| {
            if let Some(mix) = &windows.mix {
                let index = mix.at(seed, self.position);
                self.position += 1;
                return index as usize;
            }
            if self.position >= windows.len() as u64 {
                *self = Self { epoch: self.epoch + 1, position: 0 };
            }
            let index = windows.order(seed, self.epoch).at(self.position);
            self.position += 1;
            index as usize
        };
        Ok((0..count).map(one).collect())
    }
}

/// Windows of equal length as a model takes them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// All tokens but the last of each window: `[b, t − 1]`, u32. The last one's logits would not be scored.
    pub inputs: Tensor,
    /// The token that follows each input, row by row: `b·(t − 1)`. 2³² − 1 where it is not trained.
    pub targets: Vec<u32>,
    /// Factor on the loss: how much it counts beside other micro-batches of a step. 1 unless somebody sets it.
    pub weight: f64,
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
        Ok(Self { inputs: Tensor::from_vec(inputs, (windows.len(), t - 1), device)?, targets, weight: 1. })
    }

    /// A batch of some of the windows, by their index. Tokens that are not trained are no targets.
    ///
    /// # Errors
    /// As [`Batch::new`]; an index beyond the last window.
    pub fn of(windows: &Windows, indices: &[usize], device: &Device) -> Result<Self> {
        let beyond = |index: &usize| {
            Error::setting("batch", format!("an index below the {} windows", windows.len()), index)
        };
        let ids: Vec<&[u32]> =
            indices.iter().map(|i| windows.window(*i).ok_or_else(|| beyond(i))).collect::<Result<_>>()?;
        let mut batch = Self::new(&ids, device)?;
        let rows = batch.targets.chunks_exact_mut(windows.context() - 1);
        for (targets, &index) in rows.zip(indices) {
            let Some(trained) = windows.trained(index) else { continue };
            targets.iter_mut().zip(&trained[1..]).filter(|(_, t)| !**t).for_each(|(id, _)| *id = IGNORE);
        }
        Ok(batch)
    }

    /// How many targets are trained.
    pub fn trained(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }

    /// Ones for tokens whose target is trained and zeros for others, `[b, t − 1]`; none where all are trained.
    pub(crate) fn counted(&self, dtype: DType) -> CandleResult<Option<Tensor>> {
        if self.trained() == self.targets.len() {
            return Ok(None);
        }
        let ones: Vec<f32> = self.targets.iter().map(|&t| f32::from(u8::from(t != IGNORE))).collect();
        Tensor::from_vec(ones, self.inputs.dims2()?, self.inputs.device())?.to_dtype(dtype).map(Some)
    }
}

#[cfg(test)]
mod tests;
