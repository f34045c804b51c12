//! Global memory: allocations with gaps between them, each access checked against one of them.
//!
//! Kernels access it through raw pointers that [`GlobalMemory::lanes`] has checked, with relaxed atomics of at most
//! eight bytes, from several threads of the host at once; everything else needs `&mut` and so runs between kernels.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::fault::{FaultKind, Problem, problem};
use crate::registers::LANES;

/// Where global memory begins; below lie the windows of the other state spaces and everything that is no address.
pub(crate) const GLOBAL_BASE: u64 = 0x7000_0000_0000;

/// Allocations begin at multiples of this.
const ALIGN: u64 = 512;

/// Bytes behind each allocation that belong to none.
const GAP: u64 = 512;

/// What memory holds before anything writes it: a NaN as f64, f32, f16 and bf16, and no valid address.
pub(crate) const POISON: u64 = 0x7ff1_7ff1_7ff1_7ff1;

/// How many freed ranges are remembered for messages.
const REMEMBERED: usize = 1024;

/// Device memory. Addresses are never used twice, so that an access to freed memory is seen.
pub(crate) struct GlobalMemory {
    /// In order of their addresses.
    allocations: Vec<Allocation>,
    freed: VecDeque<(u64, u64)>,
    next: u64,
    used: u64,
    limit: u64,
    /// Whether some allocation knows which of its bytes were written.
    tracked: bool,
}

struct Allocation {
    base: u64,
    bytes: u64,
    data: Box<[AtomicU64]>,
    /// One bit per byte, set when it is written.
    written: Option<Box<[AtomicU8]>>,
}

impl Allocation {
    fn pointer(&self, offset: u64) -> *mut u8 {
        // The atomics allow writes through a shared reference.
        self.data.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset as usize)
    }

    fn mark(&self, offset: u64, bytes: u64) {
        let Some(written) = &self.written else { return };
        for_bits(offset, bytes, |byte, bits| {
            if written[byte].load(Ordering::Relaxed) & bits != bits {
                written[byte].fetch_or(bits, Ordering::Relaxed);
            }
            true
        });
    }

    fn is_written(&self, offset: u64, bytes: u64) -> bool {
        let Some(written) = &self.written else { return true };
        for_bits(offset, bytes, |byte, bits| written[byte].load(Ordering::Relaxed) & bits == bits)
    }
}

/// Calls `f(byte of the bitmap, bits)` for a range of bytes until it returns false; tells whether it never did.
fn for_bits(offset: u64, bytes: u64, mut f: impl FnMut(usize, u8) -> bool) -> bool {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let n = (8 - at % 8).min(end - at);
        let bits = ((1u32 << n) - 1) << (at % 8);
        if !f((at / 8) as usize, bits as u8) {
            return false;
        }
        at += n;
    }
    true
}

impl GlobalMemory {
    pub fn new(limit: u64) -> GlobalMemory {
        GlobalMemory {
            allocations: Vec::new(),
            freed: VecDeque::new(),
            next: GLOBAL_BASE,
            used: 0,
            limit,
            tracked: false,
        }
    }

    /// Allocates; `track` makes it know which bytes were written.
    pub fn alloc(&mut self, bytes: u64, track: bool) -> Option<u64> {
        let rounded = bytes.checked_next_multiple_of(ALIGN)?.max(ALIGN);
        if rounded > self.free_bytes() {
            return None;
        }
        let words = bytes.div_ceil(8) as usize;
        let mut data = Vec::new();
        data.try_reserve_exact(words).ok()?;
        data.extend((0..words).map(|_| AtomicU64::new(POISON)));
        let written = track.then(|| (0..words).map(|_| AtomicU8::new(0)).collect());
        let base = self.next;
        self.next += rounded + GAP;
        self.used += rounded;
        self.tracked |= track;
        self.allocations.push(Allocation { base, bytes, data: data.into(), written });
        Some(base)
    }

    pub fn free(&mut self, address: u64) -> bool {
        let Ok(at) = self.allocations.binary_search_by_key(&address, |a| a.base) else { return false };
        let gone = self.allocations.remove(at);
        self.used -= gone.bytes.next_multiple_of(ALIGN).max(ALIGN);
        if self.freed.len() == REMEMBERED {
            self.freed.pop_front();
        }
        self.freed.push_back((gone.base, gone.bytes));
        self.tracked = self.allocations.iter().any(|a| a.written.is_some());
        true
    }

    /// Base and bytes of the allocation that an address lies in.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let found = &self.allocations[self.at_or_before(address)?];
        (address - found.base < found.bytes).then_some((found.base, found.bytes))
    }

    pub fn free_bytes(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// The allocation that an address lies in, or that ends before it.
    fn at_or_before(&self, address: u64) -> Option<usize> {
        self.allocations.partition_point(|a| a.base <= address).checked_sub(1)
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(&Allocation, u64), String> {
        if let Some(i) = self.at_or_before(address) {
            let a = &self.allocations[i];
            let offset = address - a.base;
            if offset <= a.bytes && bytes <= a.bytes - offset {
                return Ok((a, offset));
            }
        }
        Err(self.outside(address, bytes))
    }

    /// Where an address lies that is inside no allocation.
    fn outside(&self, address: u64, bytes: u64) -> String {
        let mut text = format!("{bytes} bytes at {address:#x}");
        let inside = |base: u64, size: u64| address >= base && address - base < size;
        if let Some((base, size)) = self.freed.iter().rev().find(|&&(base, size)| inside(base, size)) {
            text += &format!(", byte {} of an allocation of {size} bytes that was freed", address - base);
            return text;
        }
        let before = self.at_or_before(address).map(|i| &self.allocations[i]);
        let after = match before {
            Some(_) => self.allocations.get(self.at_or_before(address).map_or(0, |i| i + 1)),
            None => self.allocations.first(),
        };
        let behind = before.map(|a| (a, address - a.base));
        let ahead = after.map(|a| (a, a.base - address));
        match (behind, ahead) {
            (Some((a, offset)), _) if offset < a.bytes => {
                text += &format!(
                    ", across the end of the allocation of {} bytes at {:#x} (it begins at byte {offset})",
                    a.bytes, a.base
                );
            }
            (Some((a, offset)), other) if other.is_none_or(|(_, n)| offset - a.bytes <= n) => {
                text += &format!(
                    ", {} bytes behind the end of the allocation of {} bytes at {:#x}",
                    offset - a.bytes,
                    a.bytes,
                    a.base
                );
            }
            (_, Some((a, n))) => {
                text += &format!(", {n} bytes before the allocation of {} bytes at {:#x}", a.bytes, a.base);
            }
            _ => text += ", where nothing is allocated",
        }
        text
    }

    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
        let (a, offset) = self.range(address, data.len() as u64)?;
        a.mark(offset, data.len() as u64);
        // SAFETY: `range` found the bytes inside the allocation, and `&mut self` excludes every other access.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), a.pointer(offset), data.len()) };
        Ok(())
    }

    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), String> {
        let (a, offset) = self.range(address, data.len() as u64)?;
        // SAFETY: `range` found the bytes inside the allocation; kernels, which alone write through `&self`, do not
        // run while the machine is borrowed for this.
        unsafe { std::ptr::copy_nonoverlapping(a.pointer(offset), data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), String> {
        let (target, to_offset) = self.range(to, bytes)?;
        let (source, from_offset) = self.range(from, bytes)?;
        if let (Some(_), Some(written)) = (&source.written, &target.written) {
            // What was not written stays so under its new address. Collected first: the ranges may overlap.
            let flags: Vec<bool> = (0..bytes).map(|i| source.is_written(from_offset + i, 1)).collect();
            for (i, flag) in flags.into_iter().enumerate() {
                let at = to_offset + i as u64;
                let bit = 1u8 << (at % 8);
                if flag {
                    written[(at / 8) as usize].fetch_or(bit, Ordering::Relaxed);
                } else {
                    written[(at / 8) as usize].fetch_and(!bit, Ordering::Relaxed);
                }
            }
        } else {
            target.mark(to_offset, bytes);
        }
        // SAFETY: `range` found both ranges inside allocations, and `&mut self` excludes every other access; `copy`
        // allows them to overlap.
        unsafe { std::ptr::copy(source.pointer(from_offset), target.pointer(to_offset), bytes as usize) };
        Ok(())
    }

    /// The common case of [`GlobalMemory::lanes`]: all lanes access one place, or each the element behind its
    /// neighbour's, in one allocation. False, with nothing done, if it is not that or something is wrong.
    #[inline]
    fn row(
        &self,
        addresses: &[u64; LANES],
        access: Lanes,
        hint: &mut usize,
        pointers: &mut [*mut u8; LANES],
    ) -> bool {
        let inside = |a: &&Allocation| addresses[0].wrapping_sub(a.base) < a.bytes;
        if self.allocations.get(*hint).filter(inside).is_none() {
            *hint = self.at_or_before(addresses[0]).unwrap_or(0);
        }
        let Some(a) = self.allocations.get(*hint) else { return false };
        let step = addresses[1].wrapping_sub(addresses[0]);
        let first = addresses[0].wrapping_sub(a.base);
        let extent = if step == 0 { access.bytes } else { LANES as u64 * access.bytes };
        if (step != 0 && step != access.bytes)
            || first >= a.bytes
            || a.bytes - first < extent
            || addresses[0] & (access.bytes - 1) != 0
        {
            return false;
        }
        let mut off = 0;
        for (lane, address) in addresses.iter().enumerate() {
            off |= address ^ (addresses[0] + lane as u64 * step);
        }
        if off != 0 || self.tracked && access.initialised && !a.is_written(first, extent) {
            return false;
        }
        if self.tracked && access.writes {
            a.mark(first, extent);
        }
        let base = a.pointer(first);
        for (lane, p) in pointers.iter_mut().enumerate() {
            *p = base.wrapping_add(lane * step as usize);
        }
        true
    }

    /// Checks an access of `bytes` (a power of two) by each lane of `mask`, and gives each such lane's pointer. `hint`
    /// is the allocation to try first. Reads of unwritten bytes are a fault if `initialised`; writes are noted.
    pub fn lanes(
        &self,
        addresses: &[u64; LANES],
        mask: u32,
        access: Lanes,
        hint: &mut usize,
        pointers: &mut [*mut u8; LANES],
    ) -> Result<(), Box<Problem>> {
        let Lanes { bytes, .. } = access;
        if mask == u32::MAX && self.row(addresses, access, hint, pointers) {
            return Ok(());
        }
        let mut near = self.allocations.get(*hint);
        let mut rest = mask;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            rest &= rest - 1;
            let address = addresses[lane as usize];
            let found = match near {
                Some(a) if address.wrapping_sub(a.base) < a.bytes => a,
                _ => match self.at_or_before(address) {
                    Some(i) => {
                        *hint = i;
                        near = Some(&self.allocations[i]);
                        &self.allocations[i]
                    }
                    None => return problem(FaultKind::OutOfBounds, lane, self.outside(address, bytes)),
                },
            };
            let offset = address - found.base;
            if offset >= found.bytes || found.bytes - offset < bytes {
                return problem(FaultKind::OutOfBounds, lane, self.outside(address, bytes));
            }
            if address & (bytes - 1) != 0 {
                let message = format!("{bytes} bytes at {address:#x}, which is not a multiple of {bytes}");
                return problem(FaultKind::Misaligned, lane, message);
            }
            pointers[lane as usize] = found.pointer(offset);
            if self.tracked {
                if access.initialised && !found.is_written(offset, bytes) {
                    let message = format!(
                        "{bytes} bytes at {address:#x}, byte {offset} of the allocation of {} bytes at {:#x}, which \
                         nothing has written",
                        found.bytes, found.base
                    );
                    return problem(FaultKind::Uninitialised, lane, message);
                }
                if access.writes {
                    found.mark(offset, bytes);
                }
            }
        }
        Ok(())
    }
}

/// What kind of access [`GlobalMemory::lanes`] checks.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    /// Bytes per lane, a power of two.
    pub bytes: u64,
    /// It writes.
    pub writes: bool,
    /// It must find written bytes.
    pub initialised: bool,
}
