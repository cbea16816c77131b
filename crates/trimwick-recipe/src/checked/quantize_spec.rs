//! What `[quantize]` comes to, and what the rest of a recipe asks of it.

use std::collections::BTreeMap;

use serde::Serialize;
use trimwick_quant::{Granularity, Options, Range, Rule, ScalePolicy, Scheme};

use super::budget::BudgetSpec;
use super::kv::KvGrid;
use super::pass_spec::PassSpec;
use super::quantize_rules::{QuantRule, Wanted};

/// Which layers compute on a grid, and how its scales come about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizeSpec {
    /// The scheme of `layers`, if the recipe gives one.
    pub scheme: Option<Wanted>,
    /// Glob patterns over layer paths.
    pub layers: Vec<String>,
    /// Layers that differ, in order; the last rule that matches a layer holds.
    pub rules: Vec<QuantRule>,
    /// Where weight scales come from.
    #[serde(skip)]
    pub scales: ScalePolicy,
    /// The learning rate of learned scales as a multiple of the others'.
    pub scale_lr: f64,
    /// What a weight scale covers.
    #[serde(skip)]
    pub range: Range,
    /// What a static input scale covers.
    #[serde(skip)]
    pub input_range: Range,
    /// The training step before which layers compute in full precision.
    pub start: u64,
    /// The training step after which moving scales and observed ranges stay.
    pub freeze: Option<u64>,
    /// The grid of keys and values.
    pub kv_cache: KvGrid,
    /// One-shot algorithms, in order.
    pub passes: Vec<PassSpec>,
    /// Calibration tokens on which those search and measure.
    pub pass_tokens: usize,
    /// What chooses the schemes of `layers`, in the place of `scheme`.
    pub budget: Option<BudgetSpec>,
}

impl QuantizeSpec {
    /// The rules in order: `scheme` on each pattern of `layers`, then the list. Under a budget the first candidate stands for
    /// what will be chosen.
    pub fn govern(&self) -> Vec<Rule> {
        let first = self.budget.iter().filter_map(|budget| budget.candidates.first());
        let base = self.scheme.iter().chain(first).flat_map(|wanted| {
            self.layers.iter().map(|pattern| Rule { pattern: pattern.clone(), scheme: wanted.scheme })
        });
        let more = self.rules.iter().map(|r| Rule { pattern: r.layers.clone(), scheme: r.scheme.scheme });
        base.chain(more).collect()
    }

    /// Whether a scale of the whole tensor stands behind those of the blocks in any scheme that a layer may get.
    pub(crate) fn has_global(&self) -> bool {
        let ruled = self.scheme.iter().chain(self.rules.iter().map(|rule| &rule.scheme));
        let candidates = self.budget.iter().flat_map(|budget| &budget.candidates);
        let mut schemes = ruled.chain(candidates).filter_map(|wanted| wanted.scheme);
        schemes.any(|scheme| {
            let (weight, input) = (scheme.weight, scheme.input.map(|input| input.spec));
            weight.iter().chain(&input).any(|spec| spec.has_global())
        })
    }

    /// The same with the schemes that a budget's choice gave, by layer path.
    pub(crate) fn with_choice(&self, chosen: &BTreeMap<String, Scheme>) -> Self {
        let rule = |(path, scheme): (&String, &Scheme)| {
            let text = scheme.name().map_or_else(|| scheme.to_string(), str::to_string);
            QuantRule { layers: path.clone(), scheme: Wanted { text, scheme: Some(*scheme) } }
        };
        let rules = chosen.iter().map(rule).chain(self.rules.iter().cloned()).collect();
        Self { scheme: None, layers: Vec::new(), rules, budget: None, ..self.clone() }
    }

    /// What the schemes leave open.
    pub fn options(&self) -> Options {
        // A static input's scale stays as calibrated unless the weights' scales are ones that move.
        let input_scales = match self.scales {
            ScalePolicy::Dynamic => ScalePolicy::Frozen,
            moving => moving,
        };
        Options { scales: self.scales, range: self.range, input_scales, input_range: self.input_range }
    }

    pub(crate) fn schemes(&self) -> impl Iterator<Item = &Scheme> {
        let candidates = self.budget.iter().flat_map(|budget| &budget.candidates);
        let all = self.scheme.iter().chain(self.rules.iter().map(|rule| &rule.scheme)).chain(candidates);
        all.filter_map(|wanted| wanted.scheme.as_ref())
    }

    /// Whether anything looks at the calibration windows.
    pub fn calibrates(&self) -> bool {
        self.observes() || !self.passes.is_empty() || self.budget.is_some()
    }

    /// Whether an input has a scale that calibration data decides.
    pub(super) fn observes(&self) -> bool {
        self.kv_cache != KvGrid::None || self.static_inputs()
    }

    /// Whether a pass prunes too.
    pub fn joint(&self) -> bool {
        self.passes.iter().any(|pass| matches!(pass, PassSpec::Gptq(gptq) if gptq.joint()))
    }

    pub(super) fn weights(&self) -> bool {
        self.schemes().any(|s| s.weight.is_some())
    }

    /// Whether there are scales that outlive a step.
    pub(super) fn keeps_scales(&self) -> bool {
        self.weights() || self.static_inputs()
    }

    pub(super) fn static_inputs(&self) -> bool {
        self.schemes().any(|s| s.input.is_some_and(|i| !i.dynamic))
    }

    /// Whether scales change from step to step in a way that can be stopped.
    pub fn moves(&self) -> bool {
        matches!(self.scales, ScalePolicy::Ema(_) | ScalePolicy::Learned) && self.keeps_scales()
    }
}

/// Whether some weight has scales of groups.
pub(crate) fn grouped<'a>(mut schemes: impl Iterator<Item = &'a Scheme>) -> bool {
    schemes.any(|s| s.weight.is_some_and(|w| matches!(w.granularity, Granularity::Group(_))))
}
