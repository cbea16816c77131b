//! A model in memory that can be measured: in f32, or from packed weights.

use anyhow::Result;
use trimwick_models::{Arithmetic, KvFormat, Llama, ModelFiles, PackedLlama, PackedOptions};
use trimwick_nn::ParamStore;
use trimwick_train::tasks::{Dense, Request, Scorer};
use trimwick_train::{BoxError, EvaluateOptions, Evaluation, Windows, evaluate, evaluate_losses};

use crate::model;

/// A model that was read.
pub(super) enum Engine {
    /// In f32.
    Whole(ParamStore, Box<Llama>),
    /// From packed weights; activations are not rounded.
    Packed(Box<PackedLlama>),
}

impl Engine {
    /// Reads the weights.
    pub(super) fn load(files: &ModelFiles, positions: usize) -> Result<Self> {
        if files.is_packed() {
            let arithmetic = Arithmetic::Float;
            let options = PackedOptions { arithmetic, context: Some(positions), ..PackedOptions::default() };
            return Ok(Self::Packed(Box::new(PackedLlama::load(files, options)?)));
        }
        let (store, model) = model::load(files, positions)?;
        Ok(Self::Whole(store, Box::new(model)))
    }

    pub(super) fn perplexity(
        &self,
        windows: &Windows,
        progress: &mut dyn FnMut(usize, usize, f64),
    ) -> Result<Evaluation> {
        match self {
            Self::Whole(store, model) => {
                Ok(evaluate(&**model, store.device(), windows, EvaluateOptions::default(), progress)?)
            }
            Self::Packed(model) => {
                let losses = |window: &[u32]| Ok::<_, anyhow::Error>(model.losses(window)?);
                let found = evaluate_losses(windows, losses, progress, &|| false)?;
                // Nothing stops it, so that there is one.
                found.ok_or_else(|| anyhow::anyhow!("measuring was stopped"))
            }
        }
    }

    pub(super) fn scorer(&self) -> Box<dyn Scorer + '_> {
        match self {
            Self::Whole(store, model) => Box::new(Dense::new(&**model, store.device())),
            Self::Packed(model) => Box::new(PackedScorer(model)),
        }
    }
}

/// The choices of a question share what their inputs begin with: it is computed once, and its keys and values are kept.
struct PackedScorer<'a>(&'a PackedLlama);

impl Scorer for PackedScorer<'_> {
    fn score(&mut self, requests: &[Request]) -> Result<Vec<f64>, BoxError> {
        let shared = shared(requests);
        let mut cache = self.0.new_cache(KvFormat::F32);
        if let Some(first) = requests.first().filter(|_| shared > 0) {
            self.0.forward(&first.ids[..shared], &mut cache)?;
        }
        let mut scores = Vec::with_capacity(requests.len());
        for request in requests {
            let losses = self.0.losses_after(&request.ids[shared..], &mut cache)?;
            scores.push(-losses[losses.len() - request.scored..].iter().sum::<f64>());
            cache.truncate(shared);
        }
        Ok(scores)
    }
}

/// How many tokens all requests begin with and score none behind.
fn shared(requests: &[Request]) -> usize {
    let Some((first, rest)) = requests.split_first() else { return 0 };
    let same = |other: &Request| first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
    let most = requests.iter().map(|request| request.scored_positions().start).min().unwrap_or(0);
    rest.iter().map(same).fold(most, usize::min)
}

#[cfg(test)]
mod tests {
    use candle_core::{IndexOp, Tensor};
    use trimwick_models::ModelSource;
    use trimwick_nn::CausalLm;

    use super::*;
    use crate::model::Hub;

    #[test]
    fn both_engines_give_the_log_likelihoods_of_the_whole_text() {
        let source = ModelSource::parse("builtin:tiny-llama").unwrap();
        let files = model::open(&source, Hub::Cached).unwrap();
        let (store, llama) = model::load(&files, 40).unwrap();
        let options =
            PackedOptions { arithmetic: Arithmetic::Float, context: Some(40), ..PackedOptions::default() };
        let packed = Engine::Packed(Box::new(PackedLlama::load(&files, options).unwrap()));
        let ids = |from: u32, n: u32| (0..n).map(move |i| (from + i * i * 7) % 4096);
        let request = |context: u32, choice: u32, n: u32| Request {
            ids: ids(context, 20).chain(ids(choice, n)).collect(),
            scored: n as usize,
        };
        // A context that is shared, one token each, and contexts that have nothing in common.
        for requests in [
            vec![request(5, 1, 4), request(5, 2, 9), request(5, 1, 1)],
            vec![request(5, 1, 1), request(5, 2, 1), request(5, 3, 1)],
            vec![request(5, 1, 3), request(6, 2, 2)],
        ] {
            // From the logits of each text alone, one position after the other.
            let expected: Vec<f64> = requests
                .iter()
                .map(|request| {
                    let t = request.ids.len();
                    let x = Tensor::from_slice(&request.ids, (1, t), store.device()).unwrap();
                    let logits: Vec<Vec<f32>> = llama.forward(&x).unwrap().i(0).unwrap().to_vec2().unwrap();
                    let log_p = |i: usize| {
                        let of = &logits[i - 1];
                        let sum: f64 = of.iter().map(|l| f64::from(*l).exp()).sum();
                        f64::from(of[request.ids[i] as usize]) - sum.ln()
                    };
                    (t - request.scored..t).map(log_p).sum()
                })
                .collect();
            let mut dense = Dense::new(&llama, store.device());
            for (name, found) in [
                ("dense", dense.score(&requests).unwrap()),
                ("packed", packed.scorer().score(&requests).unwrap()),
            ] {
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-3, "{name}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_shared_ends_before_the_first_scored_position() {
        let request = |ids: &[u32], scored| Request { ids: ids.into(), scored };
        for (requests, expected) in [
            (vec![], 0),
            (vec![request(&[1, 2, 3, 4], 1)], 2),
            (vec![request(&[1, 2, 3, 4], 1), request(&[1, 2, 3, 5, 6], 2)], 2),
            (vec![request(&[1, 2, 3, 4], 2), request(&[1, 2, 5], 1)], 1),
            // Cut from the left by different amounts.
            (vec![request(&[2, 3, 4], 1), request(&[3, 4, 5], 1)], 0),
            (vec![request(&[1, 2], 1), request(&[1, 3], 1)], 0),
        ] {
            assert_eq!(shared(&requests), expected, "{requests:?}");
        }
    }
}
