//! The choice: least total score within the budget, solved exactly.

use std::collections::BTreeMap;

use good_lp::solvers::SolutionStatus;
use good_lp::{
    Expression, ProblemVariables, Solution, SolverModel, Variable, WithInitialSolution, WithMipGap,
    WithTimeLimit, microlp, variable,
};

use super::Sensitivities;
use crate::scheme::Scheme;
use crate::{Error, Result};

/// Seconds after which the best choice that was found is taken.
const PATIENCE: f64 = 60.;

/// What the weights may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bits for each weight on average, scales counted.
    Bits(f64),
    /// Bytes in all, scales counted.
    Bytes(u64),
}

/// A scheme for each layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// By layer path.
    pub schemes: BTreeMap<String, Scheme>,
    /// Bits that each weight takes on average, scales counted.
    pub bits: f64,
    /// Sum of the scores.
    pub score: f64,
    /// Whether it was proved to be the best; else it is the best that was found in a minute.
    pub exact: bool,
}

/// The schemes with the least total score that fit the budget.
///
/// # Errors
/// A budget below what the smallest candidates take, scores or sizes that are not finite, a candidate that is no scheme.
pub fn assign(sensitivities: &Sensitivities, budget: Budget) -> Result<Assignment> {
    let Sensitivities { schemes, groups, .. } = sensitivities;
    let parsed: Vec<Scheme> = schemes.iter().map(|s| s.parse()).collect::<Result<_>>()?;
    for group in groups {
        let fit = group.costs.len() == schemes.len() && !group.costs.is_empty();
        let sane = |v: f64| v.is_finite() && v >= 0.;
        if !fit || !group.costs.iter().all(|c| sane(c.score) && sane(c.bits)) {
            return Err(Error::Option {
                what: "sensitivities",
                expected: "a finite score and size, ≥ 0, for each candidate and group",
                found: group.costs.iter().map(|c| c.score).find(|s| !sane(*s)).unwrap_or(f64::NAN),
            });
        }
    }
    let weights: f64 = groups.iter().map(|g| g.weights as f64).sum();
    let limit = match budget {
        Budget::Bits(bits) => bits * weights,
        Budget::Bytes(bytes) => bytes as f64 * 8.,
    };
    let least: f64 =
        groups.iter().map(|g| g.costs.iter().map(|c| c.bits).fold(f64::INFINITY, f64::min)).sum();
    if limit.is_nan() || least > limit {
        return Err(Error::Budget { bits: limit / weights.max(1.), least: least / weights.max(1.) });
    }
    let start = greedy(sensitivities, limit);
    let (choice, exact) = match solve(sensitivities, limit, &start) {
        Some((found, exact)) if total(sensitivities, &found).0 <= total(sensitivities, &start).0 => {
            (found, exact)
        }
        Some((_, exact)) => (start, exact),
        None => (start, false),
    };
    let (score, bits) = total(sensitivities, &choice);
    let mut of_layers = BTreeMap::new();
    for (group, &pick) in groups.iter().zip(&choice) {
        of_layers.extend(group.layers.iter().map(|layer| (layer.clone(), parsed[pick])));
    }
    Ok(Assignment { schemes: of_layers, bits: bits / weights.max(1.), score, exact })
}

/// Score and bits of a choice.
fn total(sensitivities: &Sensitivities, choice: &[usize]) -> (f64, f64) {
    let costs = sensitivities.groups.iter().zip(choice).map(|(g, &pick)| g.costs[pick]);
    costs.fold((0., 0.), |(score, bits), c| (score + c.score, bits + c.bits))
}

/// A choice that fits: from the smallest candidates on, whatever buys most score for its bits.
fn greedy(sensitivities: &Sensitivities, limit: f64) -> Vec<usize> {
    let groups = &sensitivities.groups;
    let smallest = |costs: &[super::Cost]| {
        (0..costs.len())
            .min_by(|&a, &b| {
                costs[a].bits.total_cmp(&costs[b].bits).then(costs[a].score.total_cmp(&costs[b].score))
            })
            .unwrap_or(0)
    };
    let mut choice: Vec<usize> = groups.iter().map(|g| smallest(&g.costs)).collect();
    let mut used = total(sensitivities, &choice).1;
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (g, group) in groups.iter().enumerate() {
            let now = group.costs[choice[g]];
            for (pick, cost) in group.costs.iter().enumerate() {
                let (gain, more) = (now.score - cost.score, cost.bits - now.bits);
                if gain <= 0. || used + more > limit {
                    continue;
                }
                let rate = if more <= 0. { f64::INFINITY } else { gain / more };
                if best.is_none_or(|(r, ..)| rate > r) {
                    best = Some((rate, g, pick));
                }
            }
        }
        let Some((_, g, pick)) = best else { return choice };
        used += groups[g].costs[pick].bits - groups[g].costs[choice[g]].bits;
        choice[g] = pick;
    }
}

/// The best choice and whether it is proved to be; `None` when the solver gave nothing that fits.
fn solve(sensitivities: &Sensitivities, limit: f64, start: &[usize]) -> Option<(Vec<usize>, bool)> {
    let groups = &sensitivities.groups;
    // Numbers near 1, or the solver's tolerances mean nothing.
    let unit = groups.iter().flat_map(|g| &g.costs).map(|c| c.score).fold(0., f64::max);
    let (unit, size) = (if unit > 0. { unit } else { 1. }, if limit > 0. { limit } else { 1. });
    let mut variables = ProblemVariables::new();
    let picks: Vec<Vec<Variable>> =
        groups.iter().map(|g| g.costs.iter().map(|_| variables.add(variable().binary())).collect()).collect();
    let sum = |of: &dyn Fn(&super::Cost) -> f64| -> Expression {
        let terms = groups.iter().zip(&picks).flat_map(|(g, vars)| g.costs.iter().zip(vars));
        terms.map(|(cost, &var)| of(cost) * var).sum()
    };
    let (scores, bits) = (sum(&|c| c.score / unit), sum(&|c| c.bits / size));
    let mut model = variables.minimise(scores).using(microlp).with(bits.leq(limit / size));
    for vars in &picks {
        model = model.with(vars.iter().copied().sum::<Expression>().eq(1.));
    }
    let initial = picks.iter().zip(start).flat_map(|(vars, &pick)| {
        vars.iter().enumerate().map(move |(i, &v)| (v, f64::from(u8::from(i == pick))))
    });
    let model = model.with_initial_solution(initial).with_time_limit(PATIENCE).with_mip_gap(0.).ok()?;
    let solution = model.solve().ok()?;
    let choice: Vec<usize> = picks
        .iter()
        .map(|vars| {
            let values: Vec<f64> = vars.iter().map(|&v| solution.value(v)).collect();
            (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
        })
        .collect();
    // What the solver's tolerances let through must fit to the bit.
    let fits = total(sensitivities, &choice).1 <= limit;
    fits.then(|| (choice, matches!(solution.status(), SolutionStatus::Optimal)))
}
