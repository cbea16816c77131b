//! Tables of plain text.

use std::fmt;

/// Which side the cells of a column keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a head; each column is as wide as its widest cell.
pub(crate) struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head.
    pub(crate) fn new<const N: usize>(head: [(&str, Side); N]) -> Self {
        let (names, sides): (Vec<_>, Vec<_>) = head.into_iter().map(|(n, s)| (n.to_string(), s)).unzip();
        Self { sides, rows: vec![names] }
    }

    /// Adds a row of as many cells.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    /// Every line ends with a line break, and none with a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |column: usize| {
            self.rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(wide).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&self.sides).zip(&widths).map(|((cell, side), &width)| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_spaces() {
        let mut table = Table::new([("arm", Side::Left), ("loss", Side::Right), ("note", Side::Left)]);
        table.row(["dense".into(), "3.25".into(), "é".into()]);
        table.row(["pruned_magnitude".into(), "10.5".into(), String::new()]);
        let expected =
            "arm                loss   note\ndense              3.25   é\npruned_magnitude   10.5\n";
        assert_eq!(table.to_string(), expected);
    }
}
