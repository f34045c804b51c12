//! `cp.async`: copies from global to shared memory that a thread must commit and wait for.
//!
//! The data moves when the copy is issued. Until its thread has waited for it, the shadow of shared memory refuses every
//! access to its destination; from then on it is a write of that thread, made at the time of the wait, which a barrier
//! must order before accesses of others.

use std::collections::VecDeque;

use crate::access::{Access, nowhere};
use crate::block::Scene;
use crate::collective::lanes;
use crate::fault::{FaultKind, Problem, problem};
use crate::inst::{Op, Space};
use crate::moves::{load_bits, store_bits};
use crate::program::{SHARED_WINDOW, WINDOW};
use crate::registers::LANES;
use crate::shared::Stamp;
use crate::warp::Warp;

/// One lane's copy under way.
#[derive(Clone, Copy)]
struct Copy {
    offset: u32,
    bytes: u32,
    /// The number of its group.
    group: u32,
    issued: Stamp,
}

/// The copies of a warp's lanes.
#[derive(Default)]
pub(crate) struct Copies {
    under_way: [VecDeque<Copy>; LANES],
    /// How many groups each lane has committed: the number of the group that is open.
    committed: [u32; LANES],
}

impl Copies {
    /// Forgets everything.
    pub fn reset(&mut self) {
        self.under_way.iter_mut().for_each(VecDeque::clear);
        self.committed = [0; LANES];
    }

    /// `cp.async.commit_group`
    pub fn commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.committed[lane as usize] += 1;
        }
    }
}

impl Warp<'_> {
    /// `cp.async`
    pub fn copy_async(&mut self, scene: &mut Scene<'_>, mask: u32, op: &Op) -> Result<(), Box<Problem>> {
        let Op::CpAsync { bytes, source_bytes, shared, global, ignore } = op else { return Ok(()) };
        let bytes = *bytes;
        let to = self.registers.addresses(shared, &self.context);
        let from = self.registers.addresses(global, &self.context);
        let given = match source_bytes {
            None => [bytes; LANES],
            Some(src) => self.registers.source32(src, &self.context),
        };
        let ignored = match ignore {
            None => 0,
            Some((src, negate)) => self.registers.condition(src, *negate),
        };

        // Most copies are whole: those are checked together, others on their own.
        let whole = lanes(mask & !ignored).filter(|l| given[*l as usize] == bytes).fold(0, |m, l| m | 1 << l);
        let mut pointers = nowhere();
        self.resolve(scene, Space::Global, &from, whole, bytes, Access::Read, &mut pointers)?;
        let time = scene.clocks.time(self.index);
        for lane in lanes(mask) {
            let l = lane as usize;
            let source = if ignored >> lane & 1 != 0 { 0 } else { given[l] };
            let mut block = [0u64; 2];
            if whole >> lane & 1 != 0 {
                for (i, word) in block.iter_mut().take(bytes.div_ceil(8) as usize).enumerate() {
                    // SAFETY: `resolve` has checked all bytes of the copy: 4, or one or two words of 8.
                    *word = unsafe { load_bits(pointers[l].wrapping_add(8 * i), bytes.min(8)) };
                }
            } else {
                self.part_of_copy(scene, from[l], lane, bytes, source, &mut block)?;
            }
            let offset =
                if to[l].wrapping_sub(SHARED_WINDOW) < WINDOW { to[l] - SHARED_WINDOW } else { to[l] };
            let size = u64::from(scene.shared.bytes());
            if offset > size || size - offset < u64::from(bytes) {
                let message = format!("copies {bytes} bytes to {offset:#x} of {size} bytes of shared memory");
                return problem(FaultKind::OutOfBounds, lane, message);
            }
            if !offset.is_multiple_of(u64::from(bytes)) {
                let message = format!(
                    "copies {bytes} bytes to {offset:#x} of shared memory, not a multiple of {bytes}"
                );
                return problem(FaultKind::Misaligned, lane, message);
            }
            let offset = offset as u32;
            let issued = Stamp::new(time, self.thread(lane), self.pc).copying();
            if let Err(conflict) = scene.shared.write(offset, bytes, issued, scene.clocks) {
                return Err(self.conflict(scene, "copies", u64::from(offset), bytes, lane, conflict));
            }
            let target = scene.shared.pointer(offset);
            for (i, word) in block.into_iter().take(bytes.div_ceil(8) as usize).enumerate() {
                // SAFETY: bounds and alignment were checked above; only this thread of the host has this memory.
                unsafe { store_bits(target.wrapping_add(8 * i), bytes.min(8), word) };
            }
            let group = self.copies.committed[l];
            self.copies.under_way[l].push_back(Copy { offset, bytes, group, issued });
        }
        Ok(())
    }

    /// The source of a copy with fewer bytes than it writes: the rest is zeros.
    fn part_of_copy(
        &mut self,
        scene: &mut Scene<'_>,
        address: u64,
        lane: u32,
        bytes: u32,
        source: u32,
        block: &mut [u64; 2],
    ) -> Result<(), Box<Problem>> {
        if source > bytes {
            let message = format!("a copy of {bytes} bytes that reads {source}");
            return problem(FaultKind::OutOfBounds, lane, message);
        }
        if !address.is_multiple_of(u64::from(bytes)) && source > 0 {
            let message =
                format!("copies {bytes} bytes from {address:#x}, which is not a multiple of {bytes}");
            return problem(FaultKind::Misaligned, lane, message);
        }
        for i in 0..source {
            let byte = [address + u64::from(i); LANES];
            let mut p = nowhere();
            self.resolve(scene, Space::Global, &byte, 1 << lane, 1, Access::Read, &mut p)?;
            // SAFETY: `resolve` has checked the byte.
            let value = unsafe { load_bits(p[lane as usize], 1) };
            block[i as usize / 8] |= value << (8 * (i % 8));
        }
        Ok(())
    }

    /// `cp.async.wait_group` (so many of the newest groups may stay under way) and `wait_all` (`None`).
    pub fn copies_wait(&mut self, scene: &mut Scene<'_>, mask: u32, pending: Option<u32>) {
        let time = scene.clocks.time(self.index);
        for lane in lanes(mask) {
            let l = lane as usize;
            // Groups below this number are complete; `wait_all` also waits for the open one.
            let below = match pending {
                Some(n) => self.copies.committed[l].saturating_sub(n),
                None => u32::MAX,
            };
            while let Some(copy) = self.copies.under_way[l].front().copied().filter(|c| c.group < below) {
                self.copies.under_way[l].pop_front();
                let arrived = Stamp::new(time, copy.issued.thread(), copy.issued.pc());
                scene.shared.arrived(copy.offset, copy.bytes, copy.issued, arrived);
            }
        }
    }
}
