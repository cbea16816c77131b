//! What SmoothQuant and AWQ have in common: groups of layers that share an input, and the search over exponents.

use trimwick_nn::{Feed, FeedSource, Layer, LayerReport, Layers, decibels};

use crate::pass::Part;
use crate::saved::host;
use crate::seen::InputSeen;
use crate::trial::{Trial, largest};
use crate::{Error, Result, rescale};

/// Bounds of a scale before it is normalized.
pub(crate) const BOUNDS: (f32, f32) = (1e-4, 1e4);

/// Layers that get one scale, and those of them that the pass was given.
pub(crate) struct Shared<'a> {
    pub(crate) feed: Feed,
    pub(crate) members: Vec<(&'a Layer, &'a InputSeen)>,
}

/// The layers of a part by what they share, in the order of the feeds; layers of no feed come last, each on its own.
pub(crate) fn shared<'a>(part: &Part<'a>) -> Vec<Shared<'a>> {
    let mut left: Vec<(&Layer, &InputSeen)> =
        part.seen.iter().map(|(layer, seen)| (layer, &**seen)).collect();
    let mut out = Vec::new();
    for feed in part.feeds {
        let inside = |layer: &Layer| feed.layers.get(layer.path()).is_some();
        let (members, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|(layer, _)| inside(layer));
        left = rest;
        if !members.is_empty() {
            out.push(Shared { feed: feed.clone(), members });
        }
    }
    out.extend(left.into_iter().map(|(layer, seen)| Shared {
        feed: Feed { source: None, layers: Layers::from_iter([layer.clone()]) },
        members: vec![(layer, seen)],
    }));
    out
}

/// A group on trial: its layers apart from the model, and their outputs in full precision.
pub(crate) struct Search<'a> {
    shared: Shared<'a>,
    trials: Vec<Trial>,
    outputs: Vec<Vec<f32>>,
    /// What every layer reads.
    seen: &'a InputSeen,
}

impl<'a> Search<'a> {
    /// Of a group with at least one member.
    pub(crate) fn new(shared: Shared<'a>) -> Result<Option<Self>> {
        let Some(&(_, seen)) = shared.members.first() else { return Ok(None) };
        let trials: Vec<Trial> =
            shared.members.iter().map(|(layer, _)| Trial::of(layer)).collect::<Result<_>>()?;
        let outputs = trials.iter().map(|t| t.output(&seen.samples, &t.weight)).collect();
        Ok(Some(Self { shared, trials, outputs, seen }))
    }

    /// What was seen of the input.
    pub(crate) fn seen(&self) -> &InputSeen {
        self.seen
    }

    /// The weights, `[rows, in]` each, of all layers that the scale will change, and the run of values in each that share
    /// a quantizer's scale.
    pub(crate) fn weights(&self) -> Result<Vec<(Vec<f32>, usize)>> {
        let of = |layer: &Layer| {
            let trial = Trial::of(layer)?;
            let block = trial.on_weight.as_ref().map_or(trial.cols, |q| q.block());
            Ok((trial.weight, block))
        };
        self.shared.feed.layers.iter().map(of).collect()
    }

    /// One value for all channels that one row makes: what `pick` makes of theirs.
    pub(crate) fn tie(&self, values: &mut [f32], pick: fn(f32, f32) -> f32) {
        let Some(FeedSource::Rows { rows, .. }) = &self.shared.feed.source else { return };
        if rows.len() != values.len() {
            return;
        }
        let count = rows.iter().max().map_or(0, |r| r + 1);
        let mut of_row: Vec<Option<f32>> = vec![None; count];
        for (&row, v) in rows.iter().zip(values.iter()) {
            of_row[row] = Some(of_row[row].map_or(*v, |old| pick(old, *v)));
        }
        for (&row, v) in rows.iter().zip(values) {
            *v = of_row[row].unwrap_or(*v);
        }
    }

    /// Signal-to-noise ratio of each member, in dB, with its input divided and its weight multiplied by `scale`.
    pub(crate) fn decibels(&self, scale: Option<&[f32]>) -> Result<Vec<f64>> {
        let cols = self.seen.amax.len();
        let by = |v: &[f32], f: fn(f32, f32) -> f32| -> Vec<f32> {
            match scale {
                Some(s) => v.iter().enumerate().map(|(i, v)| f(*v, s[i % cols])).collect(),
                None => v.to_vec(),
            }
        };
        let x = by(&self.seen.samples, |x, s| x / s);
        let top = largest(&self.seen.amax, scale);
        let of = |(trial, y): (&Trial, &Vec<f32>)| {
            let w = trial.weight(&by(&trial.weight, |w, s| w * s))?;
            Ok(decibels(y, &trial.output(&trial.input(&x, top)?, &w)))
        };
        self.trials.iter().zip(&self.outputs).map(of).collect()
    }

    /// The exponent of `alphas` with the least noise relative to the signal, summed over the members, and its scale;
    /// `None` when no scale at all does better, if `or_none` asks for that too.
    pub(crate) fn best(
        &self,
        alphas: &[f64],
        or_none: bool,
        scale: impl Fn(f64) -> Vec<f32>,
    ) -> Result<Option<(f64, Vec<f32>)>> {
        let noise = |scale: Option<&[f32]>| -> Result<f64> {
            Ok(self.decibels(scale)?.iter().map(|db| 10f64.powf(-db / 10.)).sum())
        };
        let mut least = if or_none { noise(None)? } else { f64::INFINITY };
        let mut best = None;
        for &alpha in alphas {
            let candidate = scale(alpha);
            let found = noise(Some(&candidate))?;
            if found < least || (best.is_none() && !or_none) {
                (least, best) = (found, Some((alpha, candidate)));
            }
        }
        Ok(best)
    }

    /// Absorbs what was chosen, and reports.
    pub(crate) fn finish(
        self,
        name: &'static str,
        chosen: Option<(f64, Vec<f32>)>,
    ) -> Result<Vec<LayerReport>> {
        let before = self.decibels(None)?;
        let after = match &chosen {
            Some((_, scale)) => self.decibels(Some(scale))?,
            None => before.clone(),
        };
        if let Some((_, scale)) = &chosen {
            rescale::absorb(&self.shared.feed, scale)?;
        }
        let alpha = chosen.map(|(alpha, _)| alpha);
        let dead = self.seen.amax.iter().filter(|a| **a == 0.).count();
        let report = |((trial, before), after): ((&Trial, f64), f64)| LayerReport {
            alpha,
            dead,
            ..LayerReport::new(&trial.path, name, before, after)
        };
        Ok(self.trials.iter().zip(before).zip(after).map(report).collect())
    }
}

/// `n + 1` exponents from 0 to 1.
pub(crate) fn exponents(n: usize) -> Vec<f64> {
    (0..=n).map(|i| i as f64 / n as f64).collect()
}

/// Whether a layer can be scaled and has something to gain.
pub(crate) fn check(layer: &Layer, name: &'static str, problem: &'static str, ok: bool) -> Result<()> {
    if !ok {
        return Err(Error::Layer { layer: layer.path().into(), spec: name.into(), problem });
    }
    rescale::changeable(layer)?;
    let weight = host(&layer.weight().value()?)?;
    match weight.iter().position(|w| !w.is_finite()) {
        Some(index) => {
            let found = weight[index];
            Err(Error::NonFinite { layer: layer.path().into(), what: "weight", found, index })
        }
        None => Ok(()),
    }
}
