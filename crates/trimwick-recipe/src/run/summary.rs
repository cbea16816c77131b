//! What a run found: `summary.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trimwick_nn::LayerReport;
use trimwick_train::Evaluation;
use trimwick_train::blockwise::BlockReport;

use super::mixed::MixedChoice;
use super::proof::Export;
use super::quantize::Quantization;

/// The arms that a run can have, in the order of its table.
pub(crate) const ARMS: [&str; 10] = [
    "dense",
    "dense_tuned",
    "pruned_magnitude",
    "pruned",
    "quantized",
    "dense_tuned_quantized",
    "blockwise",
    "recovered",
    "trained",
    "exported",
];

/// A model that a run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// `dense`, `dense_tuned`, `pruned_magnitude`, `pruned`, `quantized`, `dense_tuned_quantized`, `blockwise`,
    /// `recovered`, `trained` or `exported`.
    pub name: String,
    /// Mean loss on the held-out text, in nats per scored token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Tokens of a window: the perplexity's context length.
    pub context: usize,
    /// Held-out tokens in the windows; all but the first of each window are scored.
    pub eval_tokens: usize,
    /// Tokens that the arm was trained on in this run.
    pub train_tokens: u64,
    /// The loss of each window, in order, weighted by its share of the scored tokens: their mean is the loss.
    #[serde(default)]
    pub window_losses: Vec<f64>,
}

impl Arm {
    pub(crate) fn new(name: &str, evaluation: &Evaluation, train_tokens: u64) -> Self {
        let Evaluation { loss, perplexity, context, tokens, .. } = *evaluation;
        let window_losses = evaluation.window_losses.clone();
        Self {
            name: name.into(),
            loss,
            perplexity,
            context,
            eval_tokens: tokens,
            train_tokens,
            window_losses,
        }
    }
}

/// The file that a run ends with. All of it but `seconds`, those of blocks included, and `peak_rss_bytes` is a function
/// of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The run's name.
    pub name: String,
    /// Fingerprint of the recipe.
    pub fingerprint: String,
    /// The model that the run started from.
    pub model: String,
    /// The models that were measured.
    pub arms: Vec<Arm>,
    /// The blocks that were trained one by one, in order.
    pub blocks: Vec<BlockReport>,
    /// Share of the loss gap that magnitude pruning opened (or one-shot pruning, where magnitude was not
    /// measured) which training closed: `(pruned − recovered) / (pruned − dense)`.
    pub gap_recovered: Option<f64>,
    /// Share of the loss gap between the one-shot arm (quantized, else pruned) and the dense twin tuned on the same
    /// tokens which training closed: `(one-shot − recovered) / (one-shot − dense_tuned)`.
    pub gap_recovered_to_tuned: Option<f64>,
    /// Of a quantized run: whether training on the grid beat quantizing in one shot, both the model as it was and its
    /// twin tuned on the same tokens, where that was measured.
    pub training_helped: Option<bool>,
    /// The sparsity pattern.
    pub pattern: Option<String>,
    /// What the written weights are quantized to.
    pub quantization: Option<Quantization>,
    /// What one-shot passes did to each layer, pass after pass in their order.
    #[serde(default)]
    pub passes: Vec<LayerReport>,
    /// The schemes that a budget has chosen.
    #[serde(default)]
    pub mixed: Option<MixedChoice>,
    /// Groups in the written file that break the pattern; 0, or the run fails.
    pub groups_violating: usize,
    /// Groups in the written file that were looked at.
    pub groups: usize,
    /// Parameters of the model.
    pub parameters: usize,
    /// Parameters of the written file that are +0.0.
    pub zeros: usize,
    /// Bytes of the written weights.
    pub bytes: u64,
    /// Wall-clock seconds of the stages, over all the processes that worked on the run.
    pub seconds: f64,
    /// Largest resident set of those processes, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// The recipe's seed.
    pub seed: u64,
    /// The version of Trimwick that finished the run.
    #[serde(default)]
    pub version: String,
    /// SHA-256 of what was read, by the recipe's key: of texts the token ids with what is trained of them, of a model all of its
    /// files that are read.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of each file of the written model.
    pub digests: BTreeMap<String, String>,
    /// The model in the formats of runtimes.
    #[serde(default)]
    pub exports: Vec<Export>,
    /// About masks and quantizers that did nothing.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Summary {
    /// The arm of that name.
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        first(&self.arms, &[name])
    }

    /// The arm that opens the gap of `gap_recovered`: the naive way to the same size.
    pub fn gap_opened_by(&self) -> Option<&Arm> {
        first(&self.arms, OPENED)
    }

    /// The best that compressing without training gives: what training starts from.
    pub fn one_shot(&self) -> Option<&Arm> {
        first(&self.arms, ONE_SHOT)
    }

    /// What training ended with.
    pub fn trained(&self) -> Option<&Arm> {
        first(&self.arms, RECOVERED).or_else(|| self.arm("trained"))
    }
}

/// Arms that are the naive way to the same size, the most naive first.
pub(super) const OPENED: &[&str] = &["pruned_magnitude", "pruned", "quantized"];

/// Arms that compressing without training gives, the last step first.
pub(super) const ONE_SHOT: &[&str] = &["quantized", "pruned"];

/// Where nothing is trained end to end, training the blocks is all the recovery there is.
pub(super) const RECOVERED: &[&str] = &["recovered", "blockwise"];

/// The first of these arms that was measured.
pub(super) fn first<'a>(arms: &'a [Arm], names: &[&str]) -> Option<&'a Arm> {
    names.iter().find_map(|name| arms.iter().find(|arm| arm.name == *name))
}

/// `(from − now) / (from − to)` of the arms' losses, where all are there and there is a gap.
pub(crate) fn closed(arms: &[Arm], from: &str, now: &str, to: &str) -> Option<f64> {
    let loss = |name: &str| first(arms, &[name]).map(|a| a.loss);
    let (from, now, to) = (loss(from)?, loss(now)?, loss(to)?);
    (from > to).then(|| (from - now) / (from - to))
}

/// Whether the loss of the arm `now` is below those of all arms `of` that were measured; `None` without any.
pub(crate) fn beaten(arms: &[Arm], of: &[&str], now: &str) -> Option<bool> {
    let loss = |name: &str| first(arms, &[name]).map(|a| a.loss);
    let now = loss(now)?;
    let least = of.iter().filter_map(|name| loss(name)).reduce(f64::min)?;
    Some(now < least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_that_of_the_losses() {
        let arm = |name: &str, loss: f64| Arm {
            name: name.into(),
            loss,
            perplexity: loss.exp(),
            context: 8,
            eval_tokens: 8,
            train_tokens: 0,
            window_losses: Vec::new(),
        };
        let arms = [arm("dense", 3.), arm("pruned", 5.), arm("recovered", 3.5)];
        assert_eq!(closed(&arms, "pruned", "recovered", "dense"), Some(0.75));
        assert_eq!(closed(&arms, "dense", "recovered", "pruned"), None);
        assert_eq!(closed(&arms, "pruned_magnitude", "recovered", "dense"), None);
        assert_eq!(beaten(&arms, &["pruned", "dense"], "recovered"), Some(false));
        assert_eq!(beaten(&arms, &["pruned", "absent"], "recovered"), Some(true));
        assert_eq!(beaten(&arms, &["absent"], "recovered"), None);
    }
}
