//! Weights that go onto a grid, or become zero.

use std::ops::Range;

use super::factor::Factor;
use super::prune::{Select, lost};
use super::solve::Compress;
use crate::quant::Rounder;

/// A row on its way to a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantRow {
    /// Which weights are not dropped, `[cols]`. Dropped ones become +0.0 and count for no scale.
    pub kept: Vec<bool>,
    /// The scale of each group.
    pub scales: Vec<f32>,
    /// The zero point of each group; 0 for grids without.
    pub zeros: Vec<f32>,
}

/// GPTQ: the nearest value of a grid with a scale for each group of columns, jointly with pruning if asked for.
pub struct Quantize<'a> {
    /// Rounds to the grid.
    pub rounder: Rounder,
    /// The group of each column.
    pub group_of: &'a [usize],
    /// Scale and zero point of a group from its values, when its first column is reached; `None` leaves the scales as
    /// they are. Groups are then runs of columns of equal length, and blocks must hold whole ones.
    pub find: Option<(usize, &'a Find<'a>)>,
    /// What is dropped besides what the rows say already.
    pub select: Option<Select>,
}

/// Scale and zero point of a group's values.
pub type Find<'a> = dyn Fn(&[f32]) -> (f32, f32) + Sync + 'a;

impl Quantize<'_> {
    /// Finds the scale of the group that begins at column `j`, if one does.
    fn reach(&self, row: &mut QuantRow, w: &[f64], factor: &Factor, j: usize) {
        let Some((len, find)) = self.find else { return };
        if !j.is_multiple_of(len) {
            return;
        }
        if let Some(select) = self.select {
            // What is going to be dropped needs no room on the grid.
            (j..j + len).for_each(|c| select.group(&mut row.kept, c, |c| lost(w[c], factor, c)));
        }
        let values: Vec<f32> = (j..j + len).map(|c| if row.kept[c] { w[c] as f32 } else { 0. }).collect();
        let group = self.group_of[j];
        (row.scales[group], row.zeros[group]) = find(&values);
    }
}

impl Compress for Quantize<'_> {
    type Row = QuantRow;

    fn block(&self, rows: &mut [QuantRow], w: &[f64], factor: &Factor, columns: Range<usize>) {
        if let Some(select) = self.select {
            select.block(rows.iter_mut().map(|r| &mut r.kept), w, factor, columns);
        }
    }

    fn column(&self, row: &mut QuantRow, w: &[f64], factor: &Factor, j: usize) -> f64 {
        self.reach(row, w, factor, j);
        let QuantRow { kept, scales, zeros } = row;
        let rounded = |c: usize| {
            let group = self.group_of[c];
            f64::from(self.rounder.value(w[c] as f32, scales[group], zeros[group]))
        };
        if let Some(select) = self.select {
            // What dropping a weight costs more than rounding it: a value between two points of the grid is worth less.
            let cost = |c: usize| (w[c].powi(2) - (w[c] - rounded(c)).powi(2)) / factor.diagonal(c).powi(2);
            select.group(kept, j, cost);
        }
        if kept[j] { rounded(j) } else { 0. }
    }
}
