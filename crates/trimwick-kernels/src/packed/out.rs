//! An output whose columns are written by several threads.

use std::marker::PhantomData;

/// y `[m, width]`, of which each column is written by one thread.
#[derive(Clone, Copy)]
pub(super) struct Out<'a> {
    y: *mut f32,
    rows: usize,
    width: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is written through `put` alone, whose callers keep to columns of their own.
unsafe impl Send for Out<'_> {}
// SAFETY: as above.
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    pub fn new(y: &'a mut [f32], rows: usize, width: usize) -> Self {
        assert!(y.len() == rows * width, "product: y has {} elements, expected {rows}×{width}", y.len());
        Self { y: y.as_mut_ptr(), rows, width, life: PhantomData }
    }

    /// Writes values from a column on; those beyond the last column are dropped.
    ///
    /// # Safety
    /// No other thread may write these columns.
    #[inline(always)]
    pub unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        let n = values.len().min(self.width.saturating_sub(column));
        assert!(row < self.rows);
        // SAFETY: row and columns were just compared with the shape, which is the slice's; nobody else is here.
        unsafe { self.y.add(row * self.width + column).copy_from_nonoverlapping(values.as_ptr(), n) };
    }
}
