//! Which rule governs which layer, as a table for people and as a list for the pipeline.

use std::collections::BTreeMap;
use std::fmt;

use crate::checked::pattern::Pattern;
use crate::shapes::LayerKind;

/// The rule for every layer of a model, in the model's order.
///
/// Displays as a table; layers that differ only in the numbers in their paths share a line.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRules {
    /// One for each layer.
    pub layers: Vec<LayerRule>,
}

/// What a recipe does with one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRule {
    /// The layer's dotted path.
    pub path: String,
    /// What it is.
    pub kind: LayerKind,
    /// The shape of its weight, outputs first.
    pub shape: Vec<usize>,
    /// Whether it is pruned.
    pub prune: PruneRule,
    /// The scheme that it takes, if a rule governs it.
    pub quant: Option<QuantizeRule>,
    /// The group its weight trains in, if not like the others.
    pub group: Option<GroupRule>,
}

impl LayerRule {
    /// How many weights the layer has; a bias is not counted.
    pub fn weights(&self) -> u64 {
        self.shape.iter().map(|&side| side as u64).product()
    }
}

/// Whether a layer is pruned.
#[derive(Debug, Clone, PartialEq)]
pub enum PruneRule {
    /// No pattern selects it, or it is of a kind that is not pruned.
    Untouched,
    /// It is pruned.
    Pruned {
        /// To this pattern.
        pattern: Pattern,
        /// The last pattern of `prune.layers` that matches.
        by: String,
    },
    /// It is selected and left out again.
    Excluded {
        /// The last pattern of `prune.exclude` that matches.
        by: String,
    },
}

/// In the place of a scheme: a budget chooses it.
pub(crate) const BUDGET: &str = "budget";

/// The scheme of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeRule {
    /// The scheme's name or parts; `none` where a rule leaves the layer alone, `budget` where that chooses.
    pub scheme: String,
    /// Bits that a weight takes on average, scales counted; `None` where weights stay as they are, or a budget chooses.
    pub bits: Option<f64>,
    /// Bits of a code alone, where `bits` are known.
    pub code_bits: Option<u32>,
    /// The pattern of the rule that governs.
    pub by: String,
}

impl QuantizeRule {
    /// Whether a budget chooses the scheme.
    pub fn budgeted(&self) -> bool {
        self.scheme == BUDGET
    }
}

/// The `[[train.groups]]` that holds for a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupRule {
    /// Its position in the recipe, from 0.
    pub index: usize,
    /// The learning rate as a multiple of the others'.
    pub lr_scale: f64,
    /// The weight decay, where it is not `train.weight_decay`.
    pub weight_decay: Option<f64>,
}

impl LayerRules {
    /// The paths of the layers that are pruned, in the model's order.
    pub fn pruned(&self) -> impl Iterator<Item = &str> {
        self.layers
            .iter()
            .filter(|rule| matches!(rule.prune, PruneRule::Pruned { .. }))
            .map(|rule| rule.path.as_str())
    }
}

impl fmt::Display for PruneRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PruneRule::Untouched => f.write_str("dense"),
            PruneRule::Pruned { pattern, by } => write!(f, "{pattern} by prune.layers {by:?}"),
            PruneRule::Excluded { by } => write!(f, "dense by prune.exclude {by:?}"),
        }
    }
}

impl fmt::Display for LayerRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.folded();
        let widest = rows.iter().map(|row| row.path.chars().count()).max().unwrap_or(0);
        let shapes = rows.iter().map(|row| row.shape.len()).max().unwrap_or(0);
        for (i, row) in rows.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "{:widest$}  {:>5}  {:shapes$}  {}",
                row.path,
                format!("×{}", row.count),
                row.shape,
                row.rule
            )?;
        }
        Ok(())
    }
}

/// A line of the table.
struct Row {
    path: String,
    count: usize,
    shape: String,
    rule: String,
}

impl LayerRules {
    /// Layers with the same path but for numbers, the same shape and the same rule, as one row each.
    fn folded(&self) -> Vec<Row> {
        let mut rows: Vec<(String, Vec<Vec<usize>>, Row)> = Vec::new();
        let mut known: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        for layer in &self.layers {
            let (template, numbers) = template(&layer.path);
            let shape = format!("{:?}", layer.shape);
            let mut rule = layer.prune.to_string();
            if let Some(QuantizeRule { scheme, by, .. }) = &layer.quant {
                rule.push_str(&format!("; {scheme} by {by:?}"));
            }
            if let Some(group) = &layer.group {
                rule.push_str(&format!("; train.groups.{}: lr ×{}", group.index, group.lr_scale));
                if let Some(decay) = group.weight_decay {
                    rule.push_str(&format!(", weight decay {decay}"));
                }
            }
            let at = *known.entry((template.clone(), shape.clone(), rule.clone())).or_insert_with(|| {
                rows.push((template, Vec::new(), Row { path: String::new(), count: 0, shape, rule }));
                rows.len() - 1
            });
            rows[at].1.push(numbers);
            rows[at].2.count += 1;
        }
        let name = |(template, numbers, mut row): (String, Vec<Vec<usize>>, Row)| {
            row.path = fill(&template, &numbers);
            row
        };
        rows.into_iter().map(name).collect()
    }
}

/// The path with `#` for each part that is a number, and the numbers.
pub(crate) fn template(path: &str) -> (String, Vec<usize>) {
    let mut numbers = Vec::new();
    let mut part = |part: &str| match part.parse() {
        Ok(number) => {
            numbers.push(number);
            "#".to_string()
        }
        Err(_) => part.to_string(),
    };
    let parts: Vec<String> = path.split('.').map(&mut part).collect();
    (parts.join("."), numbers)
}

/// The template with the numbers of all its layers in the place of each `#`: `3`, `0-29`, or `0,2,5`.
fn fill(template: &str, numbers: &[Vec<usize>]) -> String {
    let mut position = 0;
    let part = |part: &str| {
        if part != "#" {
            return part.to_string();
        }
        let mut values: Vec<usize> = numbers.iter().filter_map(|row| row.get(position).copied()).collect();
        position += 1;
        values.sort_unstable();
        values.dedup();
        ranges(&values)
    };
    template.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn ranges(values: &[usize]) -> String {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for &value in values {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == value => *last = value,
            _ => spans.push((value, value)),
        }
    }
    let span = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    spans.iter().map(span).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fold_into_ranges() {
        for (values, expected) in
            [(&[0, 1, 2][..], "0-2"), (&[3], "3"), (&[0, 2, 3, 5], "0,2-3,5"), (&[], "")]
        {
            assert_eq!(ranges(values), expected);
        }
    }
}
