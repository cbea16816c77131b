//! A one-shot pass of a recipe, checked.

use serde::Serialize;
use trimwick_quant::{Granularity, Scheme};

use super::pass_list::PassName;
use crate::resolve::ToToml;

/// A one-shot algorithm with its options.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassSpec {
    /// Outliers of inputs move into the weights (arXiv 2211.10438).
    #[serde(rename = "smoothquant")]
    SmoothQuant(SmoothAlpha),
    /// Weights that meet large inputs get more of the grid (arXiv 2306.00978).
    AwqScale {
        /// Steps of the search from exponent 0 to 1.
        steps: usize,
    },
    /// A branch of low rank carries the outliers of the weights (arXiv 2411.05007).
    #[serde(rename = "svdquant")]
    SvdQuant {
        /// Its rank.
        rank: usize,
    },
    /// The range of each group is narrowed to what errs least (arXiv 2306.00978).
    AwqClip,
    /// Columns are rounded one by one, and later ones make up for the error (arXiv 2210.17323).
    Gptq(GptqSpec),
    /// The mean of the error goes into biases that there are.
    BiasCorrection,
}

/// The exponent of SmoothQuant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SmoothAlpha {
    /// The same for all layers, in [0, 1].
    Fixed(f64),
    /// For each group of layers the best of so many equal steps.
    Search(usize),
}

/// How GPTQ goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GptqSpec {
    /// The order of the columns.
    pub order: GptqOrder,
    /// When scales of groups are found.
    pub scales: GptqScales,
    /// How it solves; `None` when it prunes in the same pass, with the damping and the block of `[prune]`.
    pub solver: Option<GptqSolver>,
}

/// The numbers of GPTQ's solver.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GptqSolver {
    /// λ as a share of the mean of the Hessian's diagonal, in (0, 1].
    pub damping: f64,
    /// Columns whose error is passed on together, at least 1.
    pub block: usize,
}

impl GptqSpec {
    /// Whether it prunes in the same pass.
    pub fn joint(&self) -> bool {
        self.solver.is_none()
    }
}

/// In which order GPTQ rounds columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GptqOrder {
    /// From first to last.
    Natural,
    /// Those with the largest inputs first.
    Activation,
}

/// When GPTQ finds the scale of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GptqScales {
    /// When its first column's turn comes.
    Reached,
    /// Before the first column is rounded.
    Static,
}

impl ToToml for GptqOrder {
    fn to_toml(&self) -> String {
        match self {
            GptqOrder::Natural => "natural".to_toml(),
            GptqOrder::Activation => "activation".to_toml(),
        }
    }
}

impl ToToml for GptqScales {
    fn to_toml(&self) -> String {
        match self {
            GptqScales::Reached => "reached".to_toml(),
            GptqScales::Static => "static".to_toml(),
        }
    }
}

impl PassSpec {
    /// The pass as the recipe writes it.
    pub fn name(&self) -> &'static str {
        match self {
            PassSpec::SmoothQuant(_) => PassName::SmoothQuant.word(),
            PassSpec::AwqScale { .. } => PassName::AwqScale.word(),
            PassSpec::SvdQuant { .. } => PassName::SvdQuant.word(),
            PassSpec::AwqClip => PassName::AwqClip.word(),
            PassSpec::Gptq(_) => PassName::Gptq.word(),
            PassSpec::BiasCorrection => PassName::BiasCorrection.word(),
        }
    }

    /// Whether it can take a linear layer of a scheme; `bias` tells whether the layer has one.
    pub(crate) fn takes(&self, scheme: &Scheme, bias: bool) -> bool {
        match self {
            PassSpec::SmoothQuant(_) => scheme.input.is_some(),
            PassSpec::BiasCorrection => bias && (scheme.weight.is_some() || scheme.input.is_some()),
            PassSpec::AwqClip => {
                scheme.weight.is_some_and(|weight| weight.granularity != Granularity::Tensor)
            }
            PassSpec::AwqScale { .. } | PassSpec::SvdQuant { .. } | PassSpec::Gptq(_) => {
                scheme.weight.is_some()
            }
        }
    }

    /// Whether it moves scales between inputs and weights, which comes before pruning.
    pub fn scales_channels(&self) -> bool {
        matches!(self, PassSpec::SmoothQuant(_) | PassSpec::AwqScale { .. })
    }

    /// Whether it chooses the scales of weights for good.
    pub fn fixes_scales(&self) -> bool {
        matches!(self, PassSpec::AwqClip | PassSpec::Gptq(_))
    }
}
