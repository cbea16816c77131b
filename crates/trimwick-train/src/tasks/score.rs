//! Log-likelihoods from a model.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use trimwick_nn::{CausalLm, ops};

use super::encode::Request;
use crate::BoxError;
use crate::distill::IGNORE;
use crate::evaluate::infer_blocks;

/// Tokens that go through the blocks at once; a longer text goes alone.
const BATCH_TOKENS: usize = 4096;

/// What gives the choices of a question their log-likelihoods.
pub trait Scorer {
    /// The sum of the log-likelihoods, in nats, of the scored tokens of each request.
    ///
    /// # Errors
    /// Those of the model.
    fn score(&mut self, requests: &[Request]) -> Result<Vec<f64>, BoxError>;
}

/// A [`CausalLm`] as a [`Scorer`]. The choices of a question are a batch, filled up on the right, which a causal model
/// does not see; choices with the same inputs (one token each) share a row.
pub struct Dense<'a> {
    model: &'a dyn CausalLm,
    device: &'a Device,
}

impl<'a> Dense<'a> {
    /// The scorer of a model whose dropout is off.
    pub fn new(model: &'a dyn CausalLm, device: &'a Device) -> Self {
        Self { model, device }
    }

    /// The log-likelihoods of the requests that begin with one of `rows`, as many as a batch holds.
    fn batch(&self, rows: &[&[u32]], members: &[Vec<&Request>]) -> candle_core::Result<Vec<Vec<f64>>> {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let filled = rows.iter().flat_map(|row| row.iter().copied().chain((row.len()..longest).map(|_| 0)));
        let ids = Tensor::from_vec(filled.collect::<Vec<u32>>(), (rows.len(), longest), self.device)?;
        let x = infer_blocks(self.model, &ids, |_| {})?;
        let log_likelihood = |row: usize, request: &Request| {
            let at = request.scored_positions();
            let x = x.narrow(0, row, 1)?.narrow(1, at.start, at.len())?.contiguous()?;
            let logits = self.model.logits(&x)?.detach();
            let found = ops::head_loss(&logits, request.targets(), IGNORE, None)?;
            Ok(-found.cross_entropy * request.scored as f64)
        };
        members
            .iter()
            .enumerate()
            .map(|(row, of_row)| of_row.iter().map(|request| log_likelihood(row, request)).collect())
            .collect()
    }
}

impl Scorer for Dense<'_> {
    fn score(&mut self, requests: &[Request]) -> Result<Vec<f64>, BoxError> {
        // Every request has a row; the first with the same inputs made it.
        let mut rows: Vec<&[u32]> = Vec::new();
        let mut members: Vec<Vec<&Request>> = Vec::new();
        let mut place = Vec::with_capacity(requests.len());
        let mut known = HashMap::new();
        for request in requests {
            let row = *known.entry(request.inputs()).or_insert_with(|| {
                rows.push(request.inputs());
                members.push(Vec::new());
                rows.len() - 1
            });
            place.push((row, members[row].len()));
            members[row].push(request);
        }
        let mut scores: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
        while scores.len() < rows.len() {
            let from = scores.len();
            let (mut to, mut longest) = (from, 0);
            while to < rows.len()
                && (to == from || (to + 1 - from) * longest.max(rows[to].len()) <= BATCH_TOKENS)
            {
                longest = longest.max(rows[to].len());
                to += 1;
            }
            scores.extend(self.batch(&rows[from..to], &members[from..to])?);
        }
        Ok(place.into_iter().map(|(row, i)| scores[row][i]).collect())
    }
}
