//! The recipe against the layers of the model, known from its config alone: before any weight is read.

use std::collections::{BTreeMap, BTreeSet};

use globset::{Glob, GlobMatcher};

use crate::checked::lora::LoraSpec;
use crate::checked::pattern::Pattern;
use crate::checked::prune::PruneSpec;
use crate::checked::train::TrainSpec;
use crate::error::{Fault, FaultKind, Faults};
use crate::raw::nearest_of;
use crate::recipe::Recipe;
use crate::rules::{GroupRule, LayerRule, LayerRules, PruneRule, QuantizeRule, template};
use crate::trainable::trainable;

/// What a layer is, as far as rules tell layers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A matrix, `[out, in]`.
    Linear,
    /// A convolution, `[out, in, height, width]`.
    Conv2d,
    /// A table, `[rows, width]`; never pruned.
    Embedding,
    /// A norm, `[width]`; never pruned.
    Norm,
}

impl LayerKind {
    /// The kind as layers know it, where there is a weight to quantize.
    pub(crate) fn computing(self) -> Option<trimwick_nn::LayerKind> {
        match self {
            LayerKind::Linear => Some(trimwick_nn::LayerKind::Linear),
            LayerKind::Conv2d => Some(trimwick_nn::LayerKind::Conv2d),
            LayerKind::Embedding => Some(trimwick_nn::LayerKind::Embedding),
            LayerKind::Norm => None,
        }
    }

    /// Whether the layer's weights can be pruned.
    pub fn prunable(self) -> bool {
        matches!(self, LayerKind::Linear | LayerKind::Conv2d)
    }
}

/// One layer of a model, by its config alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerShape {
    /// Its dotted path, such as `model.layers.0.mlp.up_proj`.
    pub path: String,
    /// What it is.
    pub kind: LayerKind,
    /// The shape of its weight, outputs first.
    pub shape: Vec<usize>,
    /// Whether it has a bias.
    pub bias: bool,
}

impl LayerShape {
    /// Inputs of a row of the weight: the axis along which N:M groups run. 0 where the weight has one axis.
    fn inputs(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(0)
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = String> {
        let bias = self.bias.then(|| format!("{}.bias", self.path));
        std::iter::once(format!("{}.weight", self.path)).chain(bias)
    }
}

impl Recipe {
    /// Which rule of the recipe governs each layer of the model.
    ///
    /// # Errors
    ///
    /// All faults at once: a pattern that matches no layer, an exclusion that excludes nothing, a layer whose inputs
    /// an N:M pattern does not divide, a group without parameters.
    pub fn check_layers(&self, layers: &[LayerShape]) -> Result<LayerRules, Faults> {
        let mut check = Check { recipe: self, layers, faults: Vec::new() };
        let prune = match &self.prune {
            Some(spec) => check.prune(spec),
            None => vec![PruneRule::Untouched; layers.len()],
        };
        let quant = match &self.quantize {
            Some(spec) => check.quantize(spec),
            None => vec![None; layers.len()],
        };
        // Of layers whose schemes are faulty nothing is known.
        if let Some(spec) = self.quantize.as_ref().filter(|_| check.faults.is_empty()) {
            check.passes(spec, &prune, &quant);
        }
        if let Some(spec) = self.quantize.as_ref().filter(|_| check.faults.is_empty()) {
            check.targets(spec, &quant);
        }
        if self.stream {
            check.streamed(&prune, &quant);
        }
        if let Some(spec) = &self.lora {
            check.lora(spec);
        }
        let groups = match &self.train {
            Some(spec) => {
                let names = trainable(self, layers, &quant);
                check.groups(spec, &names)
            }
            None => vec![None; layers.len()],
        };
        Faults::check(check.faults)?;
        let rules = layers.iter().zip(prune).zip(quant).zip(groups);
        let rule = |(((layer, prune), quant), group): (((&LayerShape, PruneRule), _), _)| LayerRule {
            path: layer.path.clone(),
            kind: layer.kind,
            shape: layer.shape.clone(),
            prune,
            quant,
            group,
        };
        Ok(LayerRules { layers: rules.map(rule).collect() })
    }

    /// Checks that the model takes contexts as long as the recipe's; `max_positions` is its config's.
    ///
    /// # Errors
    ///
    /// A fault about `data.context`.
    pub fn check_context(&self, max_positions: usize) -> Result<(), Faults> {
        if self.data.context <= max_positions {
            return Ok(());
        }
        let expected = format!("at most the model's {max_positions} positions");
        let (found, advice) = (self.data.context.to_string(), "lower it, or take another model".to_string());
        Err(self.fault("data.context", FaultKind::Conflict { expected, found, advice }).into())
    }
}

pub(crate) struct Check<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) layers: &'a [LayerShape],
    pub(crate) faults: Vec<Fault>,
}

impl Check<'_> {
    pub(crate) fn fault(&mut self, key: &str, kind: FaultKind) {
        self.faults.push(self.recipe.fault(key, kind));
    }

    /// A pattern was checked when it was read; one that a caller put in by hand may not be.
    fn matcher(&mut self, key: &str, pattern: &str) -> Option<GlobMatcher> {
        match Glob::new(pattern) {
            Ok(glob) => Some(glob.compile_matcher()),
            Err(error) => {
                let (expected, found) =
                    (format!("a glob pattern ({})", error.kind()), format!("{pattern:?}"));
                let advice = "change the pattern".to_string();
                self.fault(key, FaultKind::Conflict { expected, found, advice });
                None
            }
        }
    }

    fn prune(&mut self, spec: &PruneSpec) -> Vec<PruneRule> {
        let layers = self.layers;
        let mut rules = vec![PruneRule::Untouched; layers.len()];
        for (i, pattern) in spec.layers.iter().enumerate() {
            let key = format!("prune.layers.{i}");
            let Some(matcher) = self.matcher(&key, pattern) else { continue };
            let mut any = false;
            for (rule, layer) in rules.iter_mut().zip(layers) {
                if layer.kind.prunable() && matcher.is_match(&layer.path) {
                    any = true;
                    *rule = PruneRule::Pruned { pattern: spec.pattern, by: pattern.clone() };
                }
            }
            if !any {
                self.no_layer(&key, pattern, layers.iter().filter(|layer| layer.kind.prunable()));
            }
        }
        let selected = rules.iter().any(|rule| matches!(rule, PruneRule::Pruned { .. }));
        for (i, pattern) in spec.exclude.iter().enumerate() {
            let key = format!("prune.exclude.{i}");
            let Some(matcher) = self.matcher(&key, pattern) else { continue };
            let mut known = false;
            for (rule, layer) in rules.iter_mut().zip(layers) {
                if matcher.is_match(&layer.path) {
                    known = true;
                    if matches!(rule, PruneRule::Pruned { .. }) {
                        *rule = PruneRule::Excluded { by: pattern.clone() };
                    }
                }
            }
            // A layer that no pattern selects may still be named here, to say that it is meant to stay as it is.
            if !known {
                self.no_layer(&key, pattern, layers.iter().filter(|layer| layer.kind.prunable()));
            }
        }
        if selected && !rules.iter().any(|rule| matches!(rule, PruneRule::Pruned { .. })) {
            let (why, advice) =
                ("prune.exclude leaves no layer to prune", "exclude less, or remove the section");
            self.fault(
                "prune.exclude",
                FaultKind::NoEffect { why: why.to_string(), advice: advice.to_string() },
            );
        }
        if let Pattern::Nm { n, m } = spec.pattern {
            self.divisible(&rules, n, m);
        }
        rules
    }

    /// Of a streamed model only blocks are compressed.
    fn streamed(&mut self, prune: &[PruneRule], quant: &[Option<QuantizeRule>]) {
        for ((layer, prune), quant) in self.layers.iter().zip(prune).zip(quant) {
            let key = match (prune, quant) {
                (PruneRule::Pruned { .. }, _) => "prune.layers",
                (_, Some(rule)) if rule.scheme != "none" => "quantize",
                _ => continue,
            };
            if !layer.path.starts_with("model.layers.") {
                let expected = "layers of decoder blocks alone beside model.stream = true".to_string();
                let advice = "leave it out, or remove model.stream".to_string();
                let kind = FaultKind::Conflict { expected, found: layer.path.clone(), advice };
                self.fault(key, kind);
            }
        }
    }

    /// Every row of a layer is cut into groups of `m`: its inputs have to be a multiple.
    fn divisible(&mut self, rules: &[PruneRule], n: usize, m: usize) {
        // One fault per width: a deep model has the same layer many times.
        let mut odd: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (layer, rule) in self.layers.iter().zip(rules) {
            if matches!(rule, PruneRule::Pruned { .. }) && layer.inputs() % m != 0 {
                odd.entry(layer.inputs()).or_default().push(&layer.path);
            }
        }
        for (inputs, paths) in odd {
            let kind = FaultKind::Shape {
                layer: paths[0].to_string(),
                more: paths.len() - 1,
                expected: format!("inputs that are a multiple of {m} for {n}:{m}"),
                found: inputs.to_string(),
                advice: "put the layer into prune.exclude, or take another pattern".to_string(),
            };
            self.fault("prune.pattern", kind);
        }
    }

    fn lora(&mut self, spec: &LoraSpec) {
        let layers = self.layers;
        let linear = || layers.iter().filter(|layer| layer.kind == LayerKind::Linear);
        for (i, pattern) in spec.layers.iter().enumerate() {
            let key = format!("lora.layers.{i}");
            let Some(matcher) = self.matcher(&key, pattern) else { continue };
            let hit: Vec<_> = linear().filter(|layer| matcher.is_match(&layer.path)).collect();
            if hit.is_empty() {
                let nearest = nearest_names(pattern, linear().map(|layer| layer.path.clone()));
                let (expected, pattern) = ("a linear layer".to_string(), pattern.clone());
                self.fault(&key, FaultKind::NoLayer { expected, pattern, nearest });
            }
            if let Some(layer) = hit.iter().find(|l| l.shape.iter().any(|&side| spec.rank > side)) {
                let kind = FaultKind::Shape {
                    layer: layer.path.clone(),
                    more: 0,
                    expected: format!("sides of at least lora.rank = {}", spec.rank),
                    found: format!("{:?}", layer.shape),
                    advice: "lower the rank, or name other layers".to_string(),
                };
                self.fault("lora.rank", kind);
            }
        }
    }

    /// `names` are those of the parameters that train, layer by layer.
    fn groups(&mut self, spec: &TrainSpec, names: &[Vec<String>]) -> Vec<Option<GroupRule>> {
        let layers = self.layers;
        let mut rules = vec![None; layers.len()];
        let mut holders: BTreeMap<String, usize> = BTreeMap::new();
        for (index, group) in spec.groups.iter().enumerate() {
            let key = format!("train.groups.{index}.pattern");
            let Some(matcher) = self.matcher(&key, &group.pattern) else { continue };
            let mut any = false;
            for (rule, names) in rules.iter_mut().zip(names) {
                for parameter in names.iter().filter(|name| matcher.is_match(name)) {
                    any = true;
                    if parameter.ends_with(".weight") {
                        *rule = Some(GroupRule {
                            index,
                            lr_scale: group.lr_scale,
                            weight_decay: group.weight_decay,
                        });
                    }
                    holders.insert(parameter.clone(), index);
                }
            }
            if !any {
                let nearest = nearest_names(&group.pattern, names.iter().flatten().cloned());
                let (expected, pattern) = ("a parameter that trains".to_string(), group.pattern.clone());
                self.fault(&key, FaultKind::NoLayer { expected, pattern, nearest });
            }
        }
        for (index, group) in spec.groups.iter().enumerate() {
            let key = format!("train.groups.{index}.pattern");
            let faulty = self.faults.iter().any(|fault| fault.key == key);
            if !faulty && !holders.values().any(|&holder| holder == index) {
                let why = format!("later groups match every parameter that {:?} matches", group.pattern);
                let advice = "remove the group, or put it after them".to_string();
                self.fault(&key, FaultKind::NoEffect { why, advice });
            }
        }
        rules
    }

    fn no_layer<'b>(&mut self, key: &str, pattern: &str, among: impl Iterator<Item = &'b LayerShape>) {
        let nearest = nearest_names(pattern, among.map(|layer| layer.path.clone()));
        let (expected, pattern) = ("a layer that can be pruned".to_string(), pattern.to_string());
        self.fault(key, FaultKind::NoLayer { expected, pattern, nearest });
    }
}

/// The three names closest to a pattern without its wildcards. Of names that differ in numbers alone, the first.
pub(crate) fn nearest_names(pattern: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let distinct: Vec<String> = names.filter(|name| seen.insert(template(name).0)).collect();
    let literal: String = pattern.chars().filter(|c| !"*?[]{}!,".contains(*c)).collect();
    nearest_of(&literal, distinct, 3)
}
