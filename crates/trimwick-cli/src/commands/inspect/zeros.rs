//! How sparse the values of a tensor are.

use trimwick_kernels::violations_nm;

use crate::text::count;

/// What was counted.
pub(super) struct Zeros {
    /// Values that are +0.0, as pruned weights are written.
    pub(super) zeros: u64,
    /// Of a matrix whose rows are whole groups of four: how many groups, and how many of them hold more than two values
    /// that are not +0.0.
    pub(super) groups: Option<(u64, u64)>,
}

impl Zeros {
    /// Counts in the values of a tensor, `shape` slowest first.
    pub(super) fn count(values: &[f32], shape: &[usize]) -> Self {
        let zeros = values.iter().filter(|v| v.to_bits() == 0).count() as u64;
        let groups = match *shape {
            [rows, cols] if rows > 0 && cols > 0 && cols % 4 == 0 => {
                Some(((values.len() / 4) as u64, violations_nm(values, cols, 2, 4) as u64))
            }
            _ => None,
        };
        Self { zeros, groups }
    }

    /// Whether the tensor is 2:4 sparse, for people.
    pub(super) fn verdict(&self) -> String {
        match self.groups {
            None => "-".into(),
            Some((_, 0)) => "holds".into(),
            Some((groups, violating)) => {
                format!("no: {} of {} groups violate it", count(violating), count(groups))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_run_along_rows_of_matrices() {
        let half = [0., 1., 0., 2., 3., 0., 4., 0.];
        for (values, shape, expected) in [
            (half, &[2, 4][..], Some((2, 0))),
            (half, &[1, 8], Some((2, 0))),
            (half, &[4, 2], None),
            (half, &[8], None),
            ([0., 1., 0., 2., 3., -0., 4., 0.], &[2, 4], Some((2, 1))),
            ([0., 1., 5., 2., 3., 1., 4., 6.], &[2, 4], Some((2, 2))),
        ] {
            assert_eq!(Zeros::count(&values, shape).groups, expected, "{values:?} {shape:?}");
        }
        assert_eq!(Zeros::count(&half, &[8]).zeros, 4);
        assert_eq!(Zeros::count(&[], &[0, 4]).groups, None);
    }
}
