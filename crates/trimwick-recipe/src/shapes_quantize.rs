//! Quantization against the layers of the model.

use trimwick_quant::{self as quant, Rule, Scheme};

use crate::checked::budget::BudgetLimit;
use crate::checked::pass_spec::PassSpec;
use crate::checked::quantize_spec::QuantizeSpec;
use crate::error::FaultKind;
use crate::rules::{BUDGET, PruneRule, QuantizeRule};
use crate::shapes::{Check, LayerKind, LayerShape, nearest_names};

impl Check<'_> {
    /// The scheme of each layer. Patterns that match nothing are all reported; of the rest, the first fault.
    pub(crate) fn quantize(&mut self, spec: &QuantizeSpec) -> Vec<Option<QuantizeRule>> {
        let nothing = vec![None; self.layers.len()];
        let kinds: Vec<_> = self.layers.iter().map(|layer| layer.kind.computing()).collect();
        let described = || {
            let layers = self.layers.iter().zip(&kinds);
            layers.filter_map(|(l, kind)| Some((l.path.as_str(), (*kind)?, l.shape.as_slice())))
        };
        let rules = spec.govern();
        let based = rules.len() - spec.rules.len();
        let key = |i: usize| match i.checked_sub(based) {
            Some(rule) => format!("quantize.rules.{rule}.layers"),
            None => format!("quantize.layers.{i}"),
        };
        let faults: Vec<_> = rules
            .iter()
            .enumerate()
            .filter_map(|(i, rule)| Some((key(i), &rule.pattern, describe_no_match(rule, described())?)))
            .collect();
        let governed = match faults.is_empty() {
            true => quant::govern(&rules, described()),
            false => Ok(Vec::new()),
        };
        for (key, pattern, nearest) in faults {
            let (expected, pattern) = ("a layer that can be quantized".to_string(), pattern.clone());
            self.faults.push(self.recipe.fault(&key, FaultKind::NoLayer { expected, pattern, nearest }));
        }
        let governed = match governed {
            Ok(governed) => governed,
            Err(error) => {
                // The error names the rule by its pattern; a misfit names the layer and the groups that fit.
                let at =
                    rules.iter().position(|rule| error.to_string().contains(&format!("{:?}", rule.pattern)));
                let expected = "rules that each govern a layer which can take their scheme".to_string();
                let (found, advice) = (error.to_string(), "change the rules or the scheme".to_string());
                let key = at.map_or_else(|| "quantize".to_string(), key);
                self.fault(&key, FaultKind::Conflict { expected, found, advice });
                return nothing;
            }
        };
        let budgeted = self.budget(spec, &governed, based);
        let mut governed = governed.into_iter();
        let rule = |(kind, layer): (&Option<_>, &LayerShape)| {
            let index = kind.and_then(|_| governed.next().flatten())?;
            let Rule { pattern, scheme } = &rules[index];
            if budgeted && index < based {
                let (scheme, by) = (BUDGET.into(), pattern.clone());
                return Some(QuantizeRule { scheme, bits: None, code_bits: None, by });
            }
            let weight = scheme.and_then(|s| s.weight);
            let bits = weight.map(|weight| weight.bits(&layer.shape));
            let code_bits = weight.map(|weight| weight.code.bits());
            let scheme = scheme
                .map_or_else(|| "none".into(), |s| s.name().map_or_else(|| s.to_string(), str::to_string));
            Some(QuantizeRule { scheme, bits, code_bits, by: pattern.clone() })
        };
        kinds.iter().zip(self.layers).map(rule).collect()
    }

    /// Whether the layers of the rules below `based` are under a budget; every candidate is tried on each of them.
    fn budget(&mut self, spec: &QuantizeSpec, governed: &[Option<usize>], based: usize) -> bool {
        let Some(budget) = &spec.budget else { return false };
        let computing = self.layers.iter().filter(|layer| layer.kind.computing().is_some());
        let under = computing.zip(governed).filter(|(_, rule)| rule.is_some_and(|rule| rule < based));
        let under: Vec<&LayerShape> = under.map(|(layer, _)| layer).collect();
        if let Some(layer) = under.iter().find(|layer| layer.kind != LayerKind::Linear) {
            let expected = "linear layers alone beside quantize.budget".to_string();
            let advice = "give it a scheme of its own in [[quantize.rules]]".to_string();
            let found = layer.path.clone();
            self.fault("quantize.layers", FaultKind::Conflict { expected, found, advice });
            return true;
        }
        let (mut least, mut weights) = (0., 0.);
        for layer in &under {
            let count = layer.shape.iter().product::<usize>() as f64;
            let bits = |scheme: &Scheme| scheme.bits(&layer.shape) * count;
            let all = budget.candidates.iter().filter_map(|wanted| wanted.scheme.as_ref());
            least += all.map(bits).reduce(f64::min).unwrap_or(0.);
            weights += count;
        }
        for (i, wanted) in budget.candidates.iter().enumerate() {
            let (Some(scheme), kind) = (&wanted.scheme, trimwick_nn::LayerKind::Linear) else { continue };
            let misfit = under.iter().find_map(|layer| scheme.check(&layer.path, kind, &layer.shape).err());
            if let Some(error) = misfit {
                let expected = "candidates that every layer under the budget can take".to_string();
                let (found, advice) = (error.to_string(), "change the candidate or the layers".to_string());
                let kind = FaultKind::Conflict { expected, found, advice };
                self.fault(&format!("quantize.budget.candidates.{i}"), kind);
            }
        }
        let (expected, found, limit) = match budget.limit {
            BudgetLimit::Bits(bits) => {
                (format!("{:.3}", least / weights), format!("{bits:?}"), bits * weights)
            }
            BudgetLimit::Bytes(bytes) => (format!("{:.0}", least / 8.), bytes.to_string(), 8. * bytes as f64),
        };
        if least > limit {
            let expected = format!("at least {expected}, what the smallest candidates take");
            let advice = "raise it, or add smaller candidates".to_string();
            self.fault(budget.limit_key(), FaultKind::Conflict { expected, found, advice });
        }
        true
    }

    /// Each pass needs a layer that it can take.
    pub(crate) fn passes(
        &mut self,
        spec: &QuantizeSpec,
        prune: &[PruneRule],
        quant: &[Option<QuantizeRule>],
    ) {
        let layers = self.layers;
        let schemes: Vec<Vec<Scheme>> = quant.iter().map(|rule| schemes_of(spec, rule.as_ref())).collect();
        let linear = || layers.iter().zip(&schemes).filter(|(layer, _)| layer.kind == LayerKind::Linear);
        for (i, pass) in spec.passes.iter().enumerate() {
            let key = format!("quantize.passes.{i}");
            let takes = |(layer, schemes): &(&LayerShape, &Vec<Scheme>)| {
                schemes.iter().any(|scheme| pass.takes(scheme, layer.bias))
            };
            if !linear().any(|layer| takes(&layer)) {
                let why = match pass {
                    PassSpec::BiasCorrection => "no quantized layer of the model has a bias".to_string(),
                    _ => format!("no linear layer of the model is quantized as {:?} needs it", pass.name()),
                };
                let advice = "leave the pass out, or quantize other layers".to_string();
                self.fault(&key, FaultKind::NoEffect { why, advice });
            }
            if let PassSpec::SvdQuant { rank } = pass {
                let small = linear().filter(takes).find(|(l, _)| l.shape.iter().any(|side| rank >= side));
                if let Some((layer, _)) = small {
                    let kind = FaultKind::Shape {
                        layer: layer.path.clone(),
                        more: 0,
                        expected: format!("sides above quantize.svdquant.rank = {rank}"),
                        found: format!("{:?}", layer.shape),
                        advice: "lower the rank, or quantize other layers".to_string(),
                    };
                    self.fault("quantize.svdquant.rank", kind);
                }
            }
        }
        if spec.joint() {
            let pruned = layers.iter().zip(&schemes).zip(prune);
            let mut bare = pruned.filter(|((_, schemes), prune)| {
                matches!(prune, PruneRule::Pruned { .. }) && schemes.iter().all(|s| s.weight.is_none())
            });
            if let Some(((layer, _), _)) = bare.next() {
                let expected =
                    "a scheme of weights for every layer that is pruned in the same pass".to_string();
                let advice = "put the layer into prune.exclude, or quantize it".to_string();
                let found = layer.path.clone();
                self.fault("quantize.gptq.joint", FaultKind::Conflict { expected, found, advice });
            }
        }
    }
}

/// What a layer may take: one scheme, or the candidates of a budget.
pub(crate) fn schemes_of(spec: &QuantizeSpec, rule: Option<&QuantizeRule>) -> Vec<Scheme> {
    match (rule, &spec.budget) {
        (None, _) => Vec::new(),
        (Some(rule), Some(budget)) if rule.budgeted() => {
            budget.candidates.iter().filter_map(|wanted| wanted.scheme).collect()
        }
        (Some(rule), _) => rule.scheme.parse().ok().into_iter().collect(),
    }
}

/// The closest layers to a rule whose pattern matches none.
fn describe_no_match<'a>(
    rule: &Rule,
    layers: impl Iterator<Item = (&'a str, trimwick_nn::LayerKind, &'a [usize])> + Clone,
) -> Option<Vec<String>> {
    let alone = [Rule { pattern: rule.pattern.clone(), scheme: None }];
    match quant::govern(&alone, layers.clone()) {
        Err(quant::Error::Nn(trimwick_nn::Error::NoMatch { .. })) => {
            Some(nearest_names(&rule.pattern, layers.map(|(path, ..)| path.to_string())))
        }
        _ => None,
    }
}
