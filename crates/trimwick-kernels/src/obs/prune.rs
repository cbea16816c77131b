//! Weights that become zero.

use std::ops::Range;

use super::factor::Factor;
use super::solve::Compress;

/// Which weights are dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Select {
    /// Of each `m` consecutive columns `n` stay. Blocks must hold whole groups.
    Nm {
        /// Kept in each group.
        n: usize,
        /// Columns of a group.
        m: usize,
    },
    /// This share of each block is dropped, over all rows together.
    Share(f64),
}

/// What an error of `w` in a column costs, dropping a weight `w` among them.
pub(super) fn lost(w: f64, factor: &Factor, column: usize) -> f64 {
    (w / factor.diagonal(column)).powi(2)
}

impl Select {
    /// Before a block: marks what stays of it, where that is chosen over all rows.
    pub(super) fn block<'a>(
        self,
        rows: impl Iterator<Item = &'a mut Vec<bool>>,
        w: &[f64],
        factor: &Factor,
        columns: Range<usize>,
    ) {
        let Self::Share(share) = self else { return };
        let cols = factor.cols();
        let mut costs: Vec<(f64, usize)> = (0..w.len() / cols)
            .flat_map(|r| columns.clone().map(move |c| (r, c)))
            .map(|(r, c)| (lost(w[r * cols + c], factor, c), r * cols + c))
            .collect();
        let drop = (costs.len() as f64 * share).round() as usize;
        // Among equal costs the highest index goes: the lowest stays.
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        if drop > 0 && drop < costs.len() {
            costs.select_nth_unstable_by(drop - 1, order);
        }
        let mut rows: Vec<_> = rows.collect();
        for &(_, i) in &costs[..drop] {
            rows[i / cols][i % cols] = false;
        }
    }

    /// At column `j` of a row: marks what stays of the group that begins there, if one does: the columns whose
    /// `cost` of being dropped is highest.
    pub(super) fn group(self, kept: &mut [bool], j: usize, cost: impl Fn(usize) -> f64) {
        let Self::Nm { n, m } = self else { return };
        if !j.is_multiple_of(m) {
            return;
        }
        let costs: Vec<f64> = (j..j + m).map(cost).collect();
        let mut order: Vec<usize> = (0..m).collect();
        // Ties: the lowest index stays.
        order.sort_by(|&a, &b| costs[b].total_cmp(&costs[a]).then(a.cmp(&b)));
        for (rank, &i) in order.iter().enumerate() {
            kept[j + i] = rank < n;
        }
    }
}

/// SparseGPT: w_j goes where (w_j / U_jj)² is least. A row keeps which of its weights stay.
#[derive(Debug, Clone, Copy)]
pub struct Prune(pub Select);

impl Compress for Prune {
    type Row = Vec<bool>;

    fn block(&self, rows: &mut [Vec<bool>], w: &[f64], factor: &Factor, columns: Range<usize>) {
        self.0.block(rows.iter_mut(), w, factor, columns);
    }

    fn column(&self, kept: &mut Vec<bool>, w: &[f64], factor: &Factor, j: usize) -> f64 {
        self.0.group(kept, j, |c| lost(w[c], factor, c));
        if kept[j] { w[j] } else { 0. }
    }
}
