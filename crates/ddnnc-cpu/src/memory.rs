//! Aligned memory of a fixed size, and views of the buffers in it.

use ddnnc_passes::{ALIGNMENT, DeviceError};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Zeroed memory, aligned to [`ALIGNMENT`] bytes, that never moves.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a region owns its memory, and views of it are made through `&mut self` or are the caller's promise.
unsafe impl Send for Region {}
// SAFETY: as above; nothing is changed through a shared reference without that promise.
unsafe impl Sync for Region {}

impl Region {
    /// A region of that many bytes (at least one line); `needed` is what a failure reports.
    pub fn new(bytes: usize, needed: usize) -> Result<Region, DeviceError> {
        let out_of_memory = DeviceError::OutOfMemory { needed };
        let Ok(layout) = Layout::from_size_align(bytes.max(ALIGNMENT), ALIGNMENT) else {
            return Err(out_of_memory);
        };
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Ok(Region { start, layout }),
            None => Err(out_of_memory),
        }
    }

    /// Everything as f32.
    pub fn floats(&mut self) -> &mut [f32] {
        // SAFETY: the memory is aligned, initialised, borrowed for as long as `self`, and any bits are an f32.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size() / 4) }
    }

    /// Everything as f64.
    pub fn doubles(&mut self) -> &mut [f64] {
        // SAFETY: the memory is aligned, initialised, borrowed for as long as `self`, and any bits are an f64.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size() / 8) }
    }

    fn at<T>(&self, offset: usize, len: usize) -> *mut T {
        let bytes = len.saturating_mul(size_of::<T>());
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.layout.size());
        assert!(
            fits && offset.is_multiple_of(ALIGNMENT),
            "a validated program keeps its buffers inside their regions"
        );
        // SAFETY: the offset is inside the allocation.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// `len` elements from `offset` bytes on, to read.
    ///
    /// # Safety
    ///
    /// Nothing writes there while the slice lives; T is f32 or i64.
    pub unsafe fn view<T>(&self, offset: usize, len: usize) -> &[T] {
        // SAFETY: `at` checked the range and the alignment, every bit pattern is a T, the rest is promised.
        unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
    }

    /// `len` elements from `offset` bytes on, to write.
    ///
    /// # Safety
    ///
    /// Nothing else reads or writes there while the slice lives; T is f32 or i64.
    #[expect(clippy::mut_from_ref, reason = "the exclusive use is the caller's promise")]
    pub unsafe fn view_mut<T>(&self, offset: usize, len: usize) -> &mut [T] {
        // SAFETY: `at` checked the range and the alignment, every bit pattern is a T, the rest is promised.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
