//! GPTQ (arXiv 2210.17323): round column by column, and let the columns to the right make up for the error.
//!
//! The solver is [`trimwick_kernels::obs`], which SparseGPT shares; with [`Gptq::joint`] one pass drops weights and rounds
//! the rest (arXiv 2301.00774, section 3.5). Of an N:M group those go whose loss costs least more than their rounding
//! would, where the paper counts the loss alone: a weight between two points of the grid is worth less than one on a point.
//! Weights that a mask drops stay +0.0, and their error is made up for too.
//! Inputs that were zero in every token get zero weights, as the published algorithm has it.
//!
//! The scales that the weights were rounded with stay with the layer's quantizer, whose policy has to be frozen or
//! learned: every weight is on the grid that the layer computes with, and quantizing it again changes nothing.

use trimwick_kernels::obs::{Factor, FactorError, QuantRow, Quantize, Select, solve};
use trimwick_kernels::quant::{self as kernels, Rounder};
use trimwick_nn::ops::Scales;
use trimwick_nn::{Layer, LayerReport, Slot, decibels};

use candle_core::Tensor;

use crate::attach::weight_quantizer;
use crate::pass::{Part, Pass};
use crate::range;
use crate::saved::host;
use crate::seen::{InputSeen, Needs};
use crate::spec::Granularity;
use crate::trial::{Trial, largest};
use crate::weight::WeightQuant;
use crate::{Error, Result};

/// In which order columns are rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColumnOrder {
    /// From first to last.
    #[default]
    Natural,
    /// By the diagonal of the Hessian, largest first: what matters most is rounded while most columns can still make up
    /// for it. Groups stay runs of neighbouring columns, with scales from before the first rounding.
    Activation,
}

/// When the scale of a group is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupScales {
    /// When its first column's turn comes, from the weights as the columns before have left them.
    #[default]
    Reached,
    /// Before the first column is rounded. Scales of rows and tensors always are, and so are those of another order than
    /// the natural one, and those that a clip search chose.
    Static,
}

/// What fixes a mask on a layer: its bits, row-major, least significant first.
pub type FixMask<'a> =
    dyn Fn(&Layer, &[u8]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Pruning in the same pass.
pub struct Joint<'a> {
    /// Which weights are dropped.
    pub select: Select,
    /// Fixes the mask that was chosen.
    pub fix: &'a FixMask<'a>,
}

/// GPTQ with group scales, activation order and a damping that is raised when it has to be.
///
/// | | default | |
/// |---|---|---|
/// | `damping` | 0.01 | λ as a share of the mean diagonal of H, ≥ 0 |
/// | `retries` | 3 | times that the damping is raised tenfold |
/// | `block` | 128 | columns whose error is passed on together, ≥ 1 |
/// | `samples` | 512 | tokens on which the signal-to-noise ratio is taken |
pub struct Gptq<'a> {
    /// λ as a share of H's mean diagonal.
    pub damping: f64,
    /// How often it may be raised tenfold when H is not positive definite.
    pub retries: u32,
    /// Columns whose error is passed on together.
    pub block: usize,
    /// The order of the columns.
    pub order: ColumnOrder,
    /// When the scales of groups are found.
    pub scales: GroupScales,
    /// Tokens for the report.
    pub samples: usize,
    /// Prune in the same pass.
    pub joint: Option<Joint<'a>>,
}

impl Default for Gptq<'_> {
    fn default() -> Self {
        Self {
            damping: 0.01,
            retries: 3,
            block: 128,
            order: ColumnOrder::Natural,
            scales: GroupScales::Reached,
            samples: 512,
            joint: None,
        }
    }
}

impl Pass for Gptq<'_> {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn needs(&self) -> Needs {
        Needs { samples: self.samples, gram: true }
    }

    fn check(&self, layer: &Layer) -> Result<()> {
        let problem = match weight_quantizer(layer) {
            None => {
                "gptq rounds to the grid of the layer's quantizer; attach one that quantizes the weight first"
            }
            Some(q) if !q.can_pin() => {
                "gptq's scales belong to its weights; give the weight frozen or learned scales"
            }
            Some(_) if self.joint.is_some() && layer.chain().get(Slot::Mask).is_some() => {
                "the layer has a mask already; prune and quantize jointly without one, or leave the pruning out"
            }
            Some(_) => return self.check_pattern(layer),
        };
        Err(self.refuse(layer, problem))
    }

    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>> {
        part.seen.iter().map(|(layer, seen)| self.layer(layer, seen)).collect()
    }
}

impl Gptq<'_> {
    fn refuse(&self, layer: &Layer, problem: &'static str) -> Error {
        Error::Layer { layer: layer.path().into(), spec: self.name().into(), problem }
    }

    fn check_pattern(&self, layer: &Layer) -> Result<()> {
        let Some(Joint { select, .. }) = &self.joint else { return Ok(()) };
        let cols = layer.weight().shape().dims()[1];
        match select {
            Select::Nm { n, m } if *n == 0 || n >= m || !cols.is_multiple_of(*m) => {
                Err(self.refuse(layer, "the pattern N:M needs 0 < N < M, and M to divide the layer's inputs"))
            }
            Select::Nm { .. } if self.order == ColumnOrder::Activation => {
                Err(self.refuse(layer, "N:M groups are chosen in the natural order of the columns"))
            }
            Select::Share(share) if !(*share > 0. && *share < 1.) => {
                Err(self.refuse(layer, "the share of dropped weights is in (0, 1)"))
            }
            _ => Ok(()),
        }
    }

    fn layer(&self, layer: &Layer, seen: &InputSeen) -> Result<LayerReport> {
        let quantizer = weight_quantizer(layer)
            .ok_or_else(|| self.refuse(layer, "its quantizer was taken off meanwhile"))?;
        quantizer.calibrate(&layer.weight_before(Slot::FakeQuant)?)?;
        let trial = Trial::of(layer)?;
        let order = match self.order {
            ColumnOrder::Natural => None,
            ColumnOrder::Activation => Some(descending(&seen.gram, trial.cols)),
        };
        let (gram, cols) = (&seen.gram, trial.cols);
        let factor = Factor::new(gram, seen.tokens, cols, self.damping, self.retries, order.as_deref())
            .map_err(|e| unfactored(e, layer))?;

        let (scales, global) = quantizer.scales_of(&trial.weight)?;
        let mut rows = start_rows(layer, &trial, &scales)?;
        let order = order.unwrap_or_else(|| (0..cols).collect());
        rows.iter_mut().for_each(|row| row.kept = order.iter().map(|&c| row.kept[c]).collect());
        let mut w = permuted(&trial, &order, factor.dead());
        self.solve(&quantizer, &factor, &order, global, &mut w, &mut rows);

        let mut values = vec![0f32; w.len()];
        for (values, w) in values.chunks_exact_mut(cols).zip(w.chunks_exact(cols)) {
            for (&c, w) in order.iter().zip(w) {
                values[c] = *w as f32;
            }
        }
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            let (path, found) = (layer.path().into(), values[index]);
            return Err(Error::NonFinite { layer: path, what: "compressed weight", found, index });
        }
        let before = trial.weight(&trial.weight)?;
        finish(layer, &quantizer, &trial, &mut values, &rows, global)?;
        if let Some(joint) = &self.joint {
            let mut bits = vec![0u8; values.len().div_ceil(8)];
            for (r, row) in rows.iter().enumerate() {
                for (&c, kept) in order.iter().zip(&row.kept) {
                    let i = r * cols + c;
                    bits[i / 8] |= u8::from(*kept) << (i % 8);
                }
            }
            (joint.fix)(layer, &bits).map_err(|source| Error::Mask { layer: layer.path().into(), source })?;
        }

        let x = &seen.samples;
        let quantized_x = trial.input(x, largest(&seen.amax, None))?;
        let y = trial.output(x, &trial.weight);
        let db = |w: &[f32]| decibels(&y, &trial.output(&quantized_x, w));
        Ok(LayerReport {
            damping: Some(factor.damping()),
            retries: factor.retries(),
            dead: factor.dead().len(),
            ..LayerReport::new(layer.path(), self.name(), db(&before), db(&values))
        })
    }

    fn solve(
        &self,
        quantizer: &WeightQuant,
        factor: &Factor,
        order: &[usize],
        global: f32,
        w: &mut [f64],
        rows: &mut [QuantRow],
    ) {
        let spec = *quantizer.spec();
        let group = match spec.granularity {
            Granularity::Group(group) => group,
            _ => factor.cols(),
        };
        let find = |values: &[f32]| {
            let range = quantizer.range();
            match range::scales("", "weight", &spec, values.len(), values, range, Some(global)) {
                Ok((found, _)) => (found.scales[0], found.zeros.map_or(0., |z| z[0])),
                // Values that overflowed: the weight is refused when all columns are done.
                Err(_) => (1., 0.),
            }
        };
        let moving = self.scales == GroupScales::Reached
            && self.order == ColumnOrder::Natural
            && matches!(spec.granularity, Granularity::Group(_))
            && !quantizer.pinned();
        let select = self.joint.as_ref().map(|joint| joint.select);
        // Blocks hold whole groups, or a choice would be made on stale columns.
        let mut unit = if moving { group } else { 1 };
        if let Some(Select::Nm { m, .. }) = select {
            unit = lcm(unit, m);
        }
        let group_of: Vec<usize> = order.iter().map(|c| c / group).collect();
        let quantize = Quantize {
            rounder: Rounder::new(spec.code),
            group_of: &group_of,
            find: moving.then_some((group, &find)),
            select,
        };
        solve(w, factor, self.block.max(1).next_multiple_of(unit), &quantize, rows);
    }
}

/// Rows with the scales and the mask that there are.
fn start_rows(layer: &Layer, trial: &Trial, scales: &Scales) -> Result<Vec<QuantRow>> {
    let ones = Tensor::ones_like(&layer.weight().tensor().detach())?;
    let kept = host(&layer.chain().get(Slot::Mask).map_or(Ok(ones.clone()), |mask| mask.apply(&ones))?)?;
    let of_row = |values: &[f32], r: usize| match values.len() {
        1 => values.to_vec(),
        n => values[r * (n / trial.rows)..(r + 1) * (n / trial.rows)].to_vec(),
    };
    let zeros = scales.zeros.clone().unwrap_or_else(|| vec![0.; scales.scales.len()]);
    let row = |(r, kept): (usize, &[f32])| QuantRow {
        kept: kept.iter().map(|k| *k != 0.).collect(),
        scales: of_row(&scales.scales, r),
        zeros: of_row(&zeros, r),
    };
    Ok(kept.chunks_exact(trial.cols).enumerate().map(row).collect())
}

/// The weight in f64 with its columns in order, those of dead inputs zero.
fn permuted(trial: &Trial, order: &[usize], dead: &[usize]) -> Vec<f64> {
    let mut alive = vec![true; trial.cols];
    dead.iter().for_each(|&c| alive[c] = false);
    let row = |row: &[f32]| -> Vec<f64> {
        order.iter().map(|&c| if alive[c] { f64::from(row[c]) } else { 0. }).collect()
    };
    trial.weight.chunks_exact(trial.cols).flat_map(row).collect()
}

/// Scales into the quantizer, weights into the layer. `values` become what the layer computes with.
fn finish(
    layer: &Layer,
    quantizer: &WeightQuant,
    trial: &Trial,
    values: &mut Vec<f32>,
    rows: &[QuantRow],
    global: f32,
) -> Result<()> {
    let spec = quantizer.spec();
    let whole = spec.granularity == Granularity::Tensor;
    let of_rows = |get: fn(&QuantRow) -> &[f32]| -> Vec<f32> {
        rows.iter().take(if whole { 1 } else { rows.len() }).flat_map(get).copied().collect()
    };
    let zeros = spec.asymmetric().then(|| of_rows(|r| &r.zeros));
    quantizer.pin(Scales { scales: of_rows(|r| &r.scales), zeros }, global)?;
    // Of learned scales, which are kept as logarithms, the quantizer's own may differ in the last bit.
    let (scales, _) = quantizer.scales_of(values)?;
    let mut on_grid = vec![0f32; values.len()];
    let (block, zeros) = (quantizer.block(), scales.zeros.as_deref());
    kernels::fake_quant(spec.grid(), values, block, &scales.scales, zeros, &mut on_grid);
    *values = on_grid;
    let new = Tensor::from_slice(values, (trial.rows, trial.cols), layer.weight().device())?;
    Ok(layer.weight().set(&new)?)
}

/// Columns by the diagonal of the gram, largest first; of equal ones the first.
fn descending(gram: &[f32], cols: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|&a, &b| gram[b * cols + b].total_cmp(&gram[a * cols + a]));
    order
}

fn unfactored(e: FactorError, layer: &Layer) -> Error {
    let layer = layer.path().to_string();
    match e {
        FactorError::NonFinite { index } => {
            Error::NonFinite { layer, what: "Hessian", found: f32::INFINITY, index }
        }
        FactorError::NotPositive { damping } => Error::Cholesky { layer, damping },
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}
