//! Rows that threads fill together.

pub(crate) use crate::pool::for_each;

/// A row-major matrix `[rows, width]` that threads fill together, each its own part.
pub(crate) struct SharedRows<'a, T = f32> {
    start: *mut T,
    rows: usize,
    width: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from an exclusive borrow, and the unsafe methods make their callers keep parts disjoint.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl<T: Send> Send for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    /// `data` is `[rows, width]`.
    pub(crate) fn new(data: &'a mut [T], width: usize) -> Self {
        assert!(width > 0 && data.len().is_multiple_of(width), "{} values in rows of {width}", data.len());
        let rows = data.len() / width;
        Self { start: data.as_mut_ptr(), rows, width, owner: std::marker::PhantomData }
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The `len` values of `row` from `column` on.
    ///
    /// # Safety
    /// No other reference to the same values may be in use meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, row: usize, column: usize, len: usize) -> &mut [T] {
        assert!(row < self.rows && column + len <= self.width, "row {row}, column {column} is outside");
        // SAFETY: the part lies inside the exclusively borrowed slice (checked above) and is this caller's alone
        // (contract).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + column), len) }
    }
}

impl<T: Copy> SharedRows<'_, T> {
    /// Copies `values` to `row` from column `column` on.
    ///
    /// # Safety
    /// No other thread may use the same part of the row meanwhile.
    pub(crate) unsafe fn store(&self, row: usize, column: usize, values: &[T]) {
        // SAFETY: the contract is the same.
        unsafe { self.part(row, column, values.len()) }.copy_from_slice(values);
    }
}

/// Calls `f` with each row of `width` values of `data` and its index; a task takes `rows_per_task` rows.
pub(crate) fn by_rows<T: Send>(
    data: &mut [T],
    width: usize,
    rows_per_task: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let data = SharedRows::new(data, width);
    for_each(data.rows.div_ceil(rows_per_task), |task| {
        for row in task * rows_per_task..data.rows.min((task + 1) * rows_per_task) {
            // SAFETY: each row belongs to one task.
            f(row, unsafe { data.part(row, 0, width) });
        }
    });
}

/// Calls `f` with each of `items`, on all cores.
pub fn for_each_mut<T: Send>(items: &mut [T], f: impl Fn(&mut T) + Sync) {
    by_rows(items, 1, 1, |_, item| item.iter_mut().for_each(&f));
}
