//! Pruning an arm's model.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use trimwick_nn::{LayerReport, Layers, ParamStore, Watch};
use trimwick_sparse::{Magnitude, Method, Pattern, Propagate, SparseGpt, Wanda, prune_model_until};

use super::error::{Result, RunError};
use super::event::{Event, Report};
use super::oneshot::{average, telling};
use super::origin::Built;
use super::passes::Still;
use crate::{Pattern as RecipePattern, PruneMethod, PruneSpec};

/// The layers that a recipe prunes, and the pattern.
pub(crate) fn selected(store: &ParamStore, prune: &PruneSpec) -> Result<(Layers, Pattern)> {
    let all = store.layers();
    let all = all.retain(|l| l.kind() != trimwick_nn::LayerKind::Embedding);
    let mut layers = matching(&all, &prune.layers)?;
    for pattern in &prune.exclude {
        layers = layers.without(pattern)?;
    }
    Ok((layers, pattern_of(prune)?))
}

/// The pattern that a recipe prunes to.
pub(crate) fn pattern_of(prune: &PruneSpec) -> Result<Pattern> {
    Ok(match prune.pattern {
        RecipePattern::Nm { n, m } => Pattern::nm(n, m)?,
        RecipePattern::Unstructured { sparsity } => Pattern::unstructured(sparsity)?,
    })
}

/// The method, and on whose outputs it calibrates. Wanda takes the dense model's statistics, as its authors evaluate it
/// one-shot; SparseGPT makes up for what the blocks before have lost.
pub(crate) fn method_of(prune: &PruneSpec) -> (Box<dyn Method>, Propagate) {
    match prune.method {
        PruneMethod::Magnitude => (Box::new(Magnitude), Propagate::Dense),
        PruneMethod::Wanda => (Box::new(Wanda), Propagate::Dense),
        PruneMethod::SparseGpt { damping, block } => {
            (Box::new(SparseGpt { damping, block }), Propagate::Pruned)
        }
    }
}

/// The layers that any of the patterns matches, in their order; each pattern has to match one.
pub(crate) fn matching(all: &Layers, patterns: &[String]) -> Result<Layers> {
    let mut paths = std::collections::BTreeSet::new();
    for pattern in patterns {
        paths.extend(all.select(pattern)?.iter().map(|l| l.path().to_string()));
    }
    Ok(all.retain(|l| paths.contains(l.path())))
}

/// Prunes a model once by the recipe's method, or by magnitude whatever the method is. What the former does to each layer is
/// told and given.
///
/// # Errors
/// [`RunError::Stopped`] when the stop flag ended it: the model is of no use then.
pub(crate) fn prune(
    built: &Built,
    spec: &PruneSpec,
    by_magnitude: bool,
    calibration: &[Tensor],
    stop: &AtomicBool,
    report: Report<'_>,
) -> Result<Vec<LayerReport>> {
    let (layers, pattern) = selected(&built.store, spec)?;
    let (method, propagate) = match by_magnitude {
        true => (Box::new(Magnitude) as Box<dyn Method>, Propagate::Dense),
        false => method_of(spec),
    };
    let mut counted =
        |done: usize, total: usize, _: &[LayerReport]| report(Event::Part { done, total, loss: None });
    let stopped = || stop.load(Ordering::Relaxed);
    let _still = Still::new(&built.store);
    let pass = |watch: Watch<'_>| -> Result<Vec<LayerReport>> {
        prune_model_until(&built.model, &layers, pattern, &*method, calibration, propagate, watch)?
            .ok_or(RunError::Stopped)
    };
    if by_magnitude {
        return pass(Watch { progress: &mut counted, stop: &stopped });
    }
    let reports = pass(Watch { progress: &mut telling(&mut *report), stop: &stopped })?;
    report(Event::Note(average(method.name(), &reports)));
    Ok(reports)
}
