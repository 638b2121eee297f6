//! Zeroed memory on huge pages for packed weights.
//!
//! Small buffers share slabs, so that a matrix of a few hundred kilobytes does not take a huge page of its own. A slab
//! is unmapped with the last buffer in it.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

const HUGE_PAGE: usize = 2 << 20;
const SLAB: usize = 32 << 20;
const CACHE_LINE: usize = 64;

/// The slab that small buffers are cut from, and how much of it is used.
static CURRENT: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

/// One mapping, aligned to [`HUGE_PAGE`] from `base` on.
struct Slab {
    mapping: NonNull<u8>,
    mapped: usize,
    base: NonNull<u8>,
}

// SAFETY: a slab only owns its mapping; access goes through `HugeBytes`, whose ranges are disjoint.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// At least `len` zeroed bytes; `None` if the system has none.
    fn new(len: usize) -> Option<Arc<Self>> {
        let len = len.checked_next_multiple_of(HUGE_PAGE)?;
        let mapped = len.checked_add(HUGE_PAGE)?;
        let mapping = os::map(mapped)?;
        let skip = mapping.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `skip` is below HUGE_PAGE, so `base` and the `len` bytes after it are inside the mapping.
        let base = unsafe { mapping.add(skip) };
        os::prefer_huge_pages(base, len);
        Some(Arc::new(Self { mapping, mapped, base }))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        os::unmap(self.mapping, self.mapped);
    }
}

/// A zeroed, exclusively owned buffer, aligned to 64 bytes.
pub(crate) struct HugeBytes {
    start: NonNull<u8>,
    len: usize,
    _slab: Arc<Slab>,
}

// SAFETY: a buffer owns its range of the slab alone; it is plain bytes.
unsafe impl Send for HugeBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for HugeBytes {}

impl HugeBytes {
    /// `len` zero bytes; `None` if the system refuses.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let rounded = len.checked_next_multiple_of(CACHE_LINE)?;
        if rounded > SLAB / 2 {
            let slab = Slab::new(rounded)?;
            return Some(Self { start: slab.base, len, _slab: slab });
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (slab, used) = match current.0.upgrade() {
            Some(slab) if current.1 + rounded <= SLAB => (slab, current.1),
            _ => (Slab::new(SLAB)?, 0),
        };
        *current = (Arc::downgrade(&slab), used + rounded);
        // SAFETY: `used + rounded` is at most SLAB, so the range is inside the slab; the counter only grows while the
        // slab lives, so no two buffers share a byte and each range is still zero from the mapping.
        let start = unsafe { slab.base.add(used) };
        Some(Self { start, len, _slab: slab })
    }
}

impl Deref for HugeBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is initialised (zeroed), inside the slab that `_slab` keeps alive, and written only through
        // `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for HugeBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; `&mut self` makes this the only reference to the range.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Asks for huge pages for the part of `values` that is made of whole ones.
pub(crate) fn advise_huge_pages<T>(values: &[T]) {
    let start = values.as_ptr().cast::<u8>();
    let skip = start.align_offset(HUGE_PAGE);
    let len = size_of_val(values).saturating_sub(skip) / HUGE_PAGE * HUGE_PAGE;
    if len > 0 {
        // SAFETY: `skip + len` is at most the size of the slice, so both ends are inside it.
        let aligned = unsafe { start.add(skip) };
        if let Some(aligned) = NonNull::new(aligned.cast_mut()) {
            os::prefer_huge_pages(aligned, len);
        }
    }
}

#[cfg(unix)]
mod os {
    use std::ptr::NonNull;

    /// Maps `len` zeroed bytes that cost memory once touched.
    pub(super) fn map(len: usize) -> Option<NonNull<u8>> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
    }

    pub(super) fn unmap(start: NonNull<u8>, len: usize) {
        // SAFETY: the caller passes a mapping of `map` that nothing refers to any more. A failure only leaks it.
        unsafe { libc::munmap(start.as_ptr().cast(), len) };
    }

    #[cfg(target_os = "linux")]
    pub(super) fn prefer_huge_pages(start: NonNull<u8>, len: usize) {
        // SAFETY: the range is inside a live mapping; the advice does not change its contents, and may be refused.
        unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn prefer_huge_pages(_start: NonNull<u8>, _len: usize) {}
}

#[cfg(not(unix))]
mod os {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    pub(super) fn map(len: usize) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(len, super::CACHE_LINE).ok()?;
        // SAFETY: a slab is never empty, so the layout's size is not zero.
        NonNull::new(unsafe { alloc_zeroed(layout) })
    }

    pub(super) fn unmap(start: NonNull<u8>, len: usize) {
        if let Ok(layout) = Layout::from_size_align(len, super::CACHE_LINE) {
            // SAFETY: `start` comes from `map` with the same layout and is not used any more.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }

    pub(super) fn prefer_huge_pages(_start: NonNull<u8>, _len: usize) {}
}

#[cfg(test)]
mod tests {
    use super::{CACHE_LINE, HUGE_PAGE, HugeBytes, SLAB};

    #[test]
    fn buffers_are_zeroed_aligned_and_disjoint() {
        let mut buffers: Vec<HugeBytes> =
            (1..40).map(|i| HugeBytes::zeroed(i * 50_001).expect("memory")).collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.iter().all(|byte| *byte == 0));
            assert!(buffer.as_ptr().align_offset(CACHE_LINE) == 0);
            buffer.fill(i as u8 + 1);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|byte| *byte == i as u8 + 1));
        }
    }

    #[test]
    fn a_large_buffer_starts_on_a_huge_page() {
        let buffer = HugeBytes::zeroed(SLAB).expect("memory");
        assert_eq!(buffer.as_ptr().align_offset(HUGE_PAGE), 0);
        assert_eq!(buffer.len(), SLAB);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(HugeBytes::zeroed(usize::MAX).is_none());
        assert!(HugeBytes::zeroed(usize::MAX / 2).is_none());
    }
}
