//! Work on all cores.

/// Runs `f` on a worker thread, from where the ops of this crate share their work without entering the pool again.
///
/// A step of many small ops saves a thread switch for each of them by running inside one `install`.
pub fn install<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() { f() } else { rayon::scope(|_| f()) }
}

/// Calls `f` with each of `0..count`, in any order and on any thread.
pub(crate) fn for_each(count: usize, f: impl Fn(usize) + Sync + Send) {
    use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
    if count <= 1 {
        (0..count).for_each(f);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// A row-major matrix `[rows, width]` that threads fill together, each its own part.
pub(crate) struct SharedRows<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    owner: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow of f32 values, and `store` makes its callers keep parts disjoint.
unsafe impl Sync for SharedRows<'_> {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    /// `data` is `[rows, width]`.
    pub(crate) fn new(data: &'a mut [f32], width: usize) -> Self {
        assert!(width > 0 && data.len().is_multiple_of(width), "{} values in rows of {width}", data.len());
        let rows = data.len() / width;
        Self { start: data.as_mut_ptr(), rows, width, owner: std::marker::PhantomData }
    }

    /// Copies `values` to `row` from column `column` on.
    ///
    /// # Safety
    /// No other thread may write the same part of the row meanwhile.
    pub(crate) unsafe fn store(&self, row: usize, column: usize, values: &[f32]) {
        assert!(
            row < self.rows && column + values.len() <= self.width,
            "row {row}, column {column} is outside"
        );
        // SAFETY: the target lies inside the borrowed slice (checked above), is written by this caller alone (contract),
        // and `values` cannot overlap it because the slice is exclusively borrowed.
        unsafe {
            let target = self.start.add(row * self.width + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
        }
    }
}

/// Calls `f` with each row of `width` values of `data` and its index; a task takes `rows_per_task` rows.
pub(crate) fn by_rows<T: Send>(
    data: &mut [T],
    width: usize,
    rows_per_task: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    use rayon::iter::{IndexedParallelIterator, ParallelIterator};
    use rayon::slice::ParallelSliceMut;
    if data.len() <= width * rows_per_task {
        data.chunks_mut(width).enumerate().for_each(|(row, out)| f(row, out));
        return;
    }
    data.par_chunks_mut(width * rows_per_task).enumerate().for_each(|(task, part)| {
        part.chunks_mut(width).enumerate().for_each(|(row, out)| f(task * rows_per_task + row, out));
    });
}
