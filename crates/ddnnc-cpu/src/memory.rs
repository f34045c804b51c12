//! Aligned memory of a fixed size, and views of the buffers in it.

use crate::packed_weight_tile::Span;
use ddnnc_ir::{DType, ValueType};
use ddnnc_passes::{ALIGNMENT, DeviceError};
use memmap2::MmapMut;
use std::ptr::NonNull;

/// Pages of this size are asked for, since a step walks through far more small ones than a processor remembers.
const HUGE: usize = 2 << 20;

/// Zeroed memory, aligned to [`ALIGNMENT`] bytes, that never moves. It takes room when it is first touched.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    /// What holds the memory.
    _map: MmapMut,
}

// SAFETY: a region owns its memory, and views of it are made through `&mut self` or are the caller's promise.
unsafe impl Send for Region {}
// SAFETY: as above; nothing is changed through a shared reference without that promise.
unsafe impl Sync for Region {}

impl Region {
    /// A region of that many bytes (at least one line); `needed` is what a failure reports.
    pub fn new(bytes: usize, needed: usize) -> Result<Region, DeviceError> {
        let len = bytes.max(ALIGNMENT);
        let spare = if len >= HUGE { HUGE } else { 0 };
        let total = len.checked_add(spare).filter(|&n| n <= isize::MAX as usize);
        let map = total.and_then(|n| MmapMut::map_anon(n).ok());
        let Some(mut map) = map else { return Err(DeviceError::OutOfMemory { needed }) };
        // A wish: where it is refused, pages are small.
        #[cfg(target_os = "linux")]
        if spare > 0 {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let first = map.as_mut_ptr();
        let skip = if spare > 0 { first.align_offset(HUGE).min(spare) } else { 0 };
        // SAFETY: the map is longer than `len` by what is skipped.
        let start = unsafe { NonNull::new_unchecked(first.add(skip)) };
        Ok(Region { start, len, _map: map })
    }

    /// Everything as f32.
    pub fn floats(&mut self) -> &mut [f32] {
        // SAFETY: the memory is aligned, initialised, borrowed for as long as `self`, and any bits are an f32.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / 4) }
    }

    /// Everything as f64.
    pub fn doubles(&mut self) -> &mut [f64] {
        // SAFETY: the memory is aligned, initialised, borrowed for as long as `self`, and any bits are an f64.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / 8) }
    }

    /// The address of `len` elements from `offset` bytes on.
    fn at<T>(&self, offset: usize, len: usize) -> *mut T {
        let bytes = len.saturating_mul(size_of::<T>());
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.len);
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
    /// Nothing writes there while the slice lives; T is a number.
    pub unsafe fn view<T>(&self, offset: usize, len: usize) -> &[T] {
        // SAFETY: `at` checked the range and the alignment, every bit pattern is a T, the rest is promised.
        unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
    }

    /// `len` elements from `offset` bytes on, to write.
    ///
    /// # Safety
    ///
    /// Nothing else reads or writes there while the slice lives; T is a number.
    #[expect(clippy::mut_from_ref, reason = "the exclusive use is the caller's promise")]
    pub unsafe fn view_mut<T>(&self, offset: usize, len: usize) -> &mut [T] {
        // SAFETY: `at` checked the range and the alignment, every bit pattern is a T, the rest is promised.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }
}

/// The memory of f32 as elements of 16 bits.
pub fn halves(floats: &mut [f32]) -> &mut [u16] {
    // SAFETY: the memory is borrowed for as long as the slice, its alignment is more than enough, and any bits are both.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 2 * floats.len()) }
}

/// The memory of f32 as pairs of whole numbers.
pub fn places(floats: &mut [f32]) -> &mut [[u32; 2]] {
    // SAFETY: the memory is borrowed for as long as the slice, numbers are aligned alike, and any bits are both.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len() / 2) }
}

/// The memory of f32 as spans.
pub fn spans(floats: &mut [f32]) -> &mut [Span] {
    // SAFETY: the memory is borrowed for as long as the slice, a span is four words aligned like them, and any bits are one.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len() / 4) }
}

/// Which memory a slot lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// What lives within a step.
    Arena,
    /// What outlives it.
    Persistent,
    /// What lives within a launch.
    Work,
}

/// Where a value lies while a launch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The memory.
    pub base: Base,
    /// Bytes from its start.
    pub offset: usize,
    /// How many elements.
    pub elements: usize,
    /// Of which type.
    pub dtype: DType,
}

impl Slot {
    fn end(&self) -> usize {
        self.offset + self.elements * self.dtype.size()
    }

    /// Whether two slots share a byte.
    pub fn overlaps(&self, other: &Slot) -> bool {
        self.base == other.base && self.offset < other.end() && other.offset < self.end()
    }
}

/// The memory of a program while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// What lives within a step.
    pub arena: &'a Region,
    /// What outlives it.
    pub persistent: &'a Region,
    /// What lives within a launch.
    pub work: &'a Region,
}

impl<'a> Memory<'a> {
    fn region(&self, base: Base) -> &'a Region {
        match base {
            Base::Arena => self.arena,
            Base::Persistent => self.persistent,
            Base::Work => self.work,
        }
    }

    /// The elements of a slot, to read.
    ///
    /// # Safety
    ///
    /// Nothing writes there while the slice lives; T is the slot's element type.
    pub unsafe fn view<T>(&self, slot: Slot) -> &'a [T] {
        // SAFETY: promised.
        unsafe { self.region(slot.base).view(slot.offset, slot.elements) }
    }

    /// The elements of a slot, to write.
    ///
    /// # Safety
    ///
    /// Nothing else reads or writes there while the slice lives; T is the slot's element type.
    pub unsafe fn view_mut<T>(&self, slot: Slot) -> &'a mut [T] {
        // SAFETY: promised.
        unsafe { self.region(slot.base).view_mut(slot.offset, slot.elements) }
    }

    /// The address of a slot's elements `first..first + count`.
    pub fn pointer<T>(&self, slot: Slot, first: usize, count: usize) -> *mut T {
        assert!(first + count <= slot.elements && size_of::<T>() == slot.dtype.size(), "a range of the slot");
        // SAFETY: the range lies inside the slot, and the slot inside its region, as `at` checks.
        unsafe { self.region(slot.base).at::<T>(slot.offset, slot.elements).add(first) }
    }
}

/// Memory for what lives within a launch, handed out from its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Bytes handed out.
    pub bytes: usize,
}

impl Plan {
    /// A slot for that many elements.
    pub fn slot(&mut self, dtype: DType, elements: usize) -> Slot {
        let offset = self.bytes;
        self.bytes += (elements * dtype.size()).next_multiple_of(ALIGNMENT);
        Slot { base: Base::Work, offset, elements, dtype }
    }

    /// A slot for a value of that type.
    pub fn value(&mut self, ty: &ValueType) -> Slot {
        self.slot(ty.dtype, ty.elements())
    }
}
