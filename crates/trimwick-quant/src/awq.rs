//! AWQ (arXiv 2306.00978): give the weights that meet large inputs more of the grid.
//!
//! **Scale.** With a_c = mean|x_c| and w_c = mean over the rows of |W| / (largest magnitude of its group), for each α in
//! 0, 0.1 … 1: s = a^α / w^(1−α), clamped to [1e−4, 1e4] and divided by sqrt(max s · min s); the α whose
//! (x / s)·FQ(W·s)ᵀ is nearest to x·Wᵀ is taken. Layers that read one input share s. A channel with a zero statistic keeps
//! s = 1.
//!
//! **Clip.** Each group's range is 0.5, 0.55 … 1 of its largest magnitude, whichever adds the least error to its part of the
//! output. The scales stay with the quantizer.
//!
//! An input quantizer is on during both searches, so that W4A8 and NVFP4 are searched as what they are.

use rayon::prelude::*;
use trimwick_kernels::quant as kernels;
use trimwick_kernels::{MatMut, MatRef, Threading, matmul_strided, matmul_tn};
use trimwick_nn::ops::Scales;
use trimwick_nn::{Layer, LayerReport, decibels};

use crate::attach::weight_quantizer;
use crate::pass::{Part, Pass};
use crate::scaling::{self, BOUNDS, Search};
use crate::seen::{InputSeen, Needs};
use crate::spec::Granularity;
use crate::trial::{Trial, largest};
use crate::weight::WeightQuant;
use crate::{Error, Result};

/// Shares of the largest magnitude that a clip search tries, in twentieths.
const SHARES: std::ops::RangeInclusive<u8> = 10..=20;

/// The scale search of AWQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwqScale {
    /// Steps from α = 0 to 1.
    pub steps: usize,
    /// Tokens on which the search, and the signal-to-noise ratio, are taken.
    pub samples: usize,
}

impl Default for AwqScale {
    /// 10 steps on 512 tokens.
    fn default() -> Self {
        Self { steps: 10, samples: 512 }
    }
}

impl Pass for AwqScale {
    fn name(&self) -> &'static str {
        "awq-scale"
    }

    fn needs(&self) -> Needs {
        Needs { samples: self.samples, gram: false }
    }

    fn check(&self, layer: &Layer) -> Result<()> {
        if self.steps == 0 {
            return Err(Error::Option { what: "awq steps", expected: "at least 1", found: 0. });
        }
        let problem = "AWQ helps weights that are quantized; attach a scheme that quantizes the weight first";
        scaling::check(layer, self.name(), problem, weight_quantizer(layer).is_some())
    }

    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>> {
        let mut reports = Vec::new();
        for shared in scaling::shared(part) {
            let Some(search) = Search::new(shared)? else { continue };
            let mut a = search.seen().mean.clone();
            let mut w = mean_shares(&search.weights()?, a.len());
            search.tie(&mut a, f32::max);
            search.tie(&mut w, f32::max);
            let chosen = search.best(&scaling::exponents(self.steps), false, |alpha| scale(&a, &w, alpha))?;
            reports.extend(search.finish(self.name(), chosen)?);
        }
        Ok(reports)
    }
}

/// The mean over all rows of |W| / (largest magnitude of its group), `[cols]`.
fn mean_shares(weights: &[(Vec<f32>, usize)], cols: usize) -> Vec<f32> {
    let (mut sums, mut rows) = (vec![0f64; cols], 0);
    for (weight, block) in weights {
        rows += weight.len() / cols;
        for (b, values) in weight.chunks_exact(*block).enumerate() {
            let amax = values.iter().fold(0f32, |a, v| a.max(v.abs()));
            if amax > 0. {
                for (i, v) in values.iter().enumerate() {
                    sums[(b * block + i) % cols] += f64::from(v.abs() / amax);
                }
            }
        }
    }
    sums.iter().map(|s| (s / rows.max(1) as f64) as f32).collect()
}

fn scale(a: &[f32], w: &[f32], alpha: f64) -> Vec<f32> {
    let live = |a: f32, w: f32| a > 0. && w > 0.;
    let raw: Vec<f32> = a
        .iter()
        .zip(w)
        .map(|(&a, &w)| match live(a, w) {
            true => {
                let s = f64::from(a).powf(alpha) / f64::from(w).powf(1. - alpha);
                (s as f32).clamp(BOUNDS.0, BOUNDS.1)
            }
            false => 1.,
        })
        .collect();
    let (mut least, mut most) = (f32::INFINITY, 0f32);
    for ((s, a), w) in raw.iter().zip(a).zip(w) {
        if live(*a, *w) {
            (least, most) = (least.min(*s), most.max(*s));
        }
    }
    if most == 0. {
        return raw;
    }
    let middle = (least * most).sqrt();
    raw.iter().zip(a.iter().zip(w)).map(|(s, (a, w))| if live(*a, *w) { s / middle } else { 1. }).collect()
}

/// The clip search of AWQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwqClip {
    /// Tokens on which the search, and the signal-to-noise ratio, are taken.
    pub samples: usize,
}

impl Default for AwqClip {
    /// 512 tokens.
    fn default() -> Self {
        Self { samples: 512 }
    }
}

impl Pass for AwqClip {
    fn name(&self) -> &'static str {
        "awq-clip"
    }

    fn needs(&self) -> Needs {
        Needs { samples: self.samples, gram: false }
    }

    fn check(&self, layer: &Layer) -> Result<()> {
        let problem = match weight_quantizer(layer) {
            None => "a clip search needs a quantizer of the weight; attach one first",
            Some(q) if !q.can_pin() => {
                "clipped ranges need scales that stay; give the weight frozen or learned scales"
            }
            Some(q) if q.pinned() => "its scales were chosen together with its weight; clip before gptq",
            Some(q) if q.spec().granularity == Granularity::Tensor => {
                "a clip search goes by rows or groups; for one scale of the tensor take the range mse"
            }
            Some(_) => return Ok(()),
        };
        Err(Error::Layer { layer: layer.path().into(), spec: self.name().into(), problem })
    }

    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>> {
        part.seen.iter().map(|(layer, seen)| self.layer(layer, seen)).collect()
    }
}

impl AwqClip {
    fn layer(&self, layer: &Layer, seen: &InputSeen) -> Result<LayerReport> {
        let trial = Trial::of(layer)?;
        let Some(quantizer) = trial.on_weight.clone() else {
            return Err(Error::Uncalibrated { layer: layer.path().into(), what: "weight" });
        };
        let x = trial.input(&seen.samples, largest(&seen.amax, None))?;
        let y = trial.output(&seen.samples, &trial.weight);
        let db = |w: &[f32]| decibels(&y, &trial.output(&x, w));
        let before = db(&trial.weight(&trial.weight)?);
        let (scales, global) = clipped(&trial, &quantizer, &x)?;
        let mut w = vec![0f32; trial.weight.len()];
        let (grid, zeros) = (quantizer.spec().grid(), scales.zeros.as_deref());
        kernels::fake_quant(grid, &trial.weight, quantizer.block(), &scales.scales, zeros, &mut w);
        quantizer.pin(scales, global)?;
        let dead = seen.amax.iter().filter(|a| **a == 0.).count();
        Ok(LayerReport { dead, ..LayerReport::new(layer.path(), self.name(), before, db(&w)) })
    }
}

/// The scales with the least error of each group's part of the output, over inputs `x` `[tokens, cols]`.
fn clipped(trial: &Trial, quantizer: &WeightQuant, x: &[f32]) -> Result<(Scales, f32)> {
    let (rows, cols) = (trial.rows, trial.cols);
    let (spec, block) = (*quantizer.spec(), quantizer.block());
    let (_, global) = quantizer.found_for(&trial.weight)?;
    let (grid, groups, tokens) = (spec.grid(), cols / block, x.len() / cols);
    // The error of a group is δᵀGδ for the change δ of its weights and the gram G of its inputs.
    let of_group = |g: usize| {
        let columns: Vec<f32> =
            x.chunks_exact(cols).flat_map(|row| &row[g * block..(g + 1) * block]).copied().collect();
        let mut gram = vec![0f32; block * block];
        matmul_tn(&columns, &columns, &mut gram, tokens, block, block, false);
        let w: Vec<f32> = trial
            .weight
            .chunks_exact(cols)
            .flat_map(|row| &row[g * block..(g + 1) * block])
            .copied()
            .collect();
        let mut best = vec![(f64::INFINITY, 1f32, 0f32); rows];
        let (mut q, mut product) = (vec![0f32; w.len()], vec![0f32; w.len()]);
        // The whole range first: of equal errors it stays.
        for share in SHARES.rev().map(|s| f32::from(s) / 20.) {
            let found: Vec<(f32, f32)> =
                w.chunks_exact(block).map(|w| narrowed(grid, w, share, global)).collect();
            let (scales, zeros): (Vec<f32>, Vec<f32>) = found.iter().copied().unzip();
            let zeros = spec.asymmetric().then_some(&zeros[..]);
            kernels::fake_quant(grid, &w, block, &scales, zeros, &mut q);
            q.iter_mut().zip(&w).for_each(|(q, w)| *q -= w);
            matmul_strided(
                MatRef::new(&q, rows, block, block, 1),
                MatRef::new(&gram, block, block, block, 1),
                MatMut::new(&mut product, rows, block, block, 1),
                1.,
                false,
                Threading::Single,
            );
            for (r, (d, p)) in q.chunks_exact(block).zip(product.chunks_exact(block)).enumerate() {
                let error: f64 = d.iter().zip(p).map(|(d, p)| f64::from(*d) * f64::from(*p)).sum();
                if error < best[r].0 {
                    best[r] = (error, found[r].0, found[r].1);
                }
            }
        }
        best
    };
    let best: Vec<_> = (0..groups).into_par_iter().map(of_group).collect();
    let all = || (0..rows).flat_map(|r| best.iter().map(move |group| group[r]));
    let zeros = spec.asymmetric().then(|| all().map(|(_, _, zero)| zero).collect());
    Ok((Scales { scales: all().map(|(_, scale, _)| scale).collect(), zeros }, global))
}

/// Scale and zero point of a share of a group's range.
fn narrowed(grid: kernels::Grid, w: &[f32], share: f32, global: f32) -> (f32, f32) {
    let (least, most) = w.iter().fold((0f32, 0f32), |(l, m), v| (l.min(*v), m.max(*v)));
    match grid.code {
        kernels::Code::Uint { .. } => grid.affine(least * share, most * share),
        _ => (grid.scale(most.max(-least) * share, global), 0.),
    }
}
