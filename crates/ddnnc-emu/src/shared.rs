//! Shared memory of a block, and its shadow: who last wrote and read each granule, and when.
//!
//! The shadow finds reads of what nothing has written, reads and writes of what an asynchronous copy may still write,
//! and races: two accesses by different threads, at least one of them a write, that no barrier orders ([`Clocks`]).
//! Atomic operations do not race with each other. A granule is as small as the smallest access of the kernel, so every
//! access covers whole granules. Of concurrent readers two are remembered, of different warps where there are such:
//! enough that a write by any thread meets one that is not itself.

use std::ops::Range;

use crate::clocks::{Clocks, WARPS};
use crate::descriptor::UNIT;
use crate::memory::POISON;
use crate::registers::LANES;

/// A stamp: who, when and which instruction; 0 is nobody. From the top: one bit for a copy under way, one for an atomic
/// operation, 26 bits of time, 10 of thread, 26 of instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

const COPYING: u64 = 1 << 63;
const ATOMIC: u64 = 1 << 62;
/// Of a read: by a matrix product, of a whole warp that has waited for it.
const PRODUCT: u64 = ATOMIC;
const TIME: u64 = (1 << 26) - 1;

impl Stamp {
    pub const NONE: Stamp = Stamp(0);

    /// A stamp of a plain access. Times past what fits stay at the last one, which every later barrier orders: races
    /// are then missed, never invented.
    pub fn new(time: u32, thread: u32, pc: u32) -> Stamp {
        Stamp(u64::from(time).min(TIME) << 36 | u64::from(thread & 1023) << 26 | u64::from(pc) & TIME)
    }

    /// The stamp of another lane, where this one is of lane 0 of the warp.
    pub fn lane(self, lane: u32) -> Stamp {
        Stamp(self.0 | u64::from(lane) << 26)
    }

    pub fn atomic(self) -> Stamp {
        Stamp(self.0 | ATOMIC)
    }

    pub fn copying(self) -> Stamp {
        Stamp(self.0 | COPYING)
    }

    fn time(self) -> u32 {
        (self.0 >> 36 & TIME) as u32
    }

    /// Time and flags: greater than any time where a flag is set.
    fn flagged_time(self) -> u64 {
        self.0 >> 36
    }

    fn warp(self) -> u32 {
        (self.0 >> 31 & 31) as u32
    }

    /// Flags, time and warp.
    fn moment(self) -> u64 {
        self.0 >> 31
    }

    pub fn thread(self) -> u32 {
        (self.0 >> 26 & 1023) as u32
    }

    pub fn pc(self) -> u32 {
        (self.0 & TIME) as u32
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }
}

/// Why an access is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    Uninitialised,
    /// With a copy that has not been waited for.
    Copying {
        thread: u32,
        pc: u32,
    },
    /// Of a matrix product, with a write that no `fence.proxy.async` follows.
    Unfenced {
        thread: u32,
        pc: u32,
    },
    /// Of a matrix product, with a write after its issue and before the wait for it.
    Overwritten {
        thread: u32,
        pc: u32,
    },
    /// With an unordered write, or (`read`) an unordered read.
    Race {
        thread: u32,
        pc: u32,
        read: bool,
    },
}

/// Shared memory of the block that runs.
pub(crate) struct Shared {
    data: Vec<u64>,
    bytes: u32,
    /// Of each granule, the last write.
    writes: Vec<Stamp>,
    /// Of each granule, the last reads.
    reads: Vec<[Stamp; 2]>,
    /// log2 of a granule's bytes.
    granule: u32,
    /// Whether races are looked for.
    races: bool,
    /// How many writes there were.
    seen: u64,
}

impl Shared {
    /// `granule` bytes, a power of two, divide every access.
    pub fn new(bytes: u32, granule: u32, races: bool) -> Shared {
        let granule = granule.trailing_zeros();
        let granules = (bytes as usize).div_ceil(1 << granule);
        Shared {
            data: vec![POISON; bytes.div_ceil(8) as usize],
            bytes,
            writes: vec![Stamp::NONE; granules],
            reads: vec![[Stamp::NONE; 2]; granules],
            granule,
            races,
            seen: 0,
        }
    }

    /// Begins a new block: nothing is written.
    pub fn reset(&mut self) {
        self.data.fill(POISON);
        self.writes.fill(Stamp::NONE);
        self.reads.fill([Stamp::NONE; 2]);
    }

    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Where a byte lies. Good until the memory is dropped: its extent never changes.
    pub fn pointer(&mut self, offset: u32) -> *mut u8 {
        self.data.as_mut_ptr().cast::<u8>().wrapping_add(offset as usize)
    }

    /// The granules of an access.
    fn granules(&self, offset: u32, bytes: u32) -> Range<usize> {
        let first = (offset >> self.granule) as usize;
        first..first + (bytes >> self.granule) as usize
    }

    /// Notes a read of each lane of a mask; `me` is the stamp of lane 0.
    pub fn read_lanes(
        &mut self,
        offsets: &[u64; LANES],
        mask: u32,
        bytes: u32,
        me: Stamp,
        clocks: &Clocks,
    ) -> Result<(), (u32, Conflict)> {
        // Of lanes that read one place, two speak for all: at most one of them has written it itself, and two readers
        // are all that is remembered. Not so where some lanes know more than others.
        let alike = !clocks.lanes_differ(me.warp());
        let (mut last, mut same) = (u64::MAX, 0);
        for (lane, &offset) in offsets.iter().enumerate() {
            if mask >> lane & 1 == 0 {
                continue;
            }
            if offset == last {
                same += 1;
                if same > 1 && alike {
                    continue;
                }
            } else {
                (last, same) = (offset, 0);
            }
            let lane = lane as u32;
            self.read(offset as u32, bytes, me.lane(lane), clocks).map_err(|c| (lane, c))?;
        }
        Ok(())
    }

    /// Notes a read by the thread of `me`.
    #[inline(always)]
    pub fn read(&mut self, offset: u32, bytes: u32, me: Stamp, clocks: &Clocks) -> Result<(), Conflict> {
        let know = clocks.know(me.warp());
        let range = self.granules(offset, bytes);
        for write in &self.writes[range.clone()] {
            // Subtracting 1 makes "never written" the greatest time of all.
            if write.flagged_time().wrapping_sub(1) >= u64::from(know[write.warp() as usize]) {
                unordered_write(*write, me, self.races, true, clocks)?;
            }
        }
        if self.races {
            for reads in &mut self.reads[range] {
                let newest = reads[0];
                if newest.flagged_time() <= u64::from(know[newest.warp() as usize])
                    || newest.thread() == me.thread()
                {
                    reads[0] = me;
                } else {
                    keep_reader(reads, me, clocks);
                }
            }
        }
        Ok(())
    }

    /// Notes a write by the thread of `me`; an atomic operation if its stamp says so.
    #[inline]
    pub fn write(&mut self, offset: u32, bytes: u32, me: Stamp, clocks: &Clocks) -> Result<(), Conflict> {
        let know = clocks.know(me.warp());
        self.seen += 1;
        for granule in self.granules(offset, bytes) {
            let write = self.writes[granule];
            if write.flagged_time() > u64::from(know[write.warp() as usize]) {
                unordered_write(write, me, self.races, false, clocks)?;
            }
            if self.races {
                for read in self.reads[granule] {
                    if read.flagged_time() > u64::from(know[read.warp() as usize])
                        && read.thread() != me.thread()
                        && !ordered_lanes(read, me, clocks)
                        && !ordered_product(read, me, know)
                    {
                        return Err(Conflict::Race { thread: read.thread(), pc: read.pc(), read: true });
                    }
                }
            }
            self.writes[granule] = me;
        }
        Ok(())
    }

    /// Whether an atomic operation finds something written; to be asked before it is noted as a write.
    pub fn written(&self, offset: u32, bytes: u32) -> bool {
        self.writes[self.granules(offset, bytes)].iter().all(|w| *w != Stamp::NONE)
    }

    /// How many writes there were: where the number is the same, nothing was written meanwhile.
    pub fn writes_seen(&self) -> u64 {
        self.seen
    }

    /// The 16 bytes at a place, which is a multiple of 16.
    pub fn unit(&self, at: u32) -> [u32; 4] {
        let at = at as usize / 8;
        let [low, high] = [self.data[at], self.data[at + 1]];
        [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
    }

    /// Checks that what a matrix product reads was written, ordered before the product's issue, and fenced: `know` is
    /// what the warp knew then. The error names the unit.
    pub fn matrix_units(
        &self,
        units: &[u32],
        know: &[u32; WARPS],
        clocks: &Clocks,
    ) -> Result<(), (u32, Conflict)> {
        // Warp and time of the last write that was looked at, and the lanes whose writes then are well.
        let (mut moment, mut well) = (u64::MAX, 0);
        for &at in units {
            for &write in &self.writes[self.granules(at, UNIT)] {
                if write.moment() == moment && well >> (write.thread() % 32) & 1 != 0 {
                    continue;
                }
                well = self.matrix_write(write, know, clocks).map_err(|conflict| (at, conflict))?;
                moment = write.moment();
            }
        }
        Ok(())
    }

    /// Checks a write, and gives the lanes whose writes at that time are as well ordered.
    fn matrix_write(&self, write: Stamp, know: &[u32; WARPS], clocks: &Clocks) -> Result<u32, Conflict> {
        let (thread, pc) = (write.thread(), write.pc());
        let known = know[write.warp() as usize];
        if write == Stamp::NONE {
            return Err(Conflict::Uninitialised);
        }
        if write.has(COPYING) {
            return Err(Conflict::Copying { thread, pc });
        }
        if !self.races {
            return Ok(u32::MAX);
        }
        if write.time() > known {
            return Err(Conflict::Race { thread, pc, read: false });
        }
        let fenced = clocks.proxy_fenced(write.warp(), write.time(), known);
        if fenced >> (thread % 32) & 1 == 0 {
            return Err(Conflict::Unfenced { thread, pc });
        }
        Ok(fenced)
    }

    /// Notes a matrix product's reads, once it has been waited for; `me` is the stamp of lane 0.
    pub fn matrix_read(&mut self, units: &[u32], me: Stamp, clocks: &Clocks) {
        if !self.races {
            return;
        }
        let know = clocks.know(me.warp());
        let product = Stamp(me.0 | PRODUCT);
        for &at in units {
            let range = self.granules(at, UNIT);
            for reads in &mut self.reads[range] {
                let known = |read: Stamp| read.time() <= know[read.warp() as usize];
                if known(reads[0]) && known(reads[1]) {
                    *reads = [product, Stamp::NONE];
                    continue;
                }
                // Beside the product one reader is kept: of another warp where there is one, else a lane of this one.
                let unordered = |read: &&Stamp| {
                    !read.has(PRODUCT) && read.time() > know[read.warp() as usize]
                        || read.has(PRODUCT) && !ordered_product(**read, me, know)
                };
                let (first, second) = (reads.iter().find(unordered), reads.iter().rev().find(unordered));
                let other = match (first, second) {
                    (Some(first), Some(second)) if first.warp() == me.warp() => *second,
                    (Some(first), _) => *first,
                    _ => Stamp::NONE,
                };
                *reads = [product, other];
            }
        }
    }

    /// A copy stamped `issued` has arrived: from now on it is a write of its thread, as `arrived` says.
    pub fn arrived(&mut self, offset: u32, bytes: u32, issued: Stamp, arrived: Stamp) {
        self.seen += 1;
        let range = self.granules(offset, bytes);
        for write in self.writes[range].iter_mut().filter(|w| **w == issued) {
            *write = arrived;
        }
    }
}

/// Decides about an access to what a write that the whole warp does not know of has written.
#[cold]
fn unordered_write(
    write: Stamp,
    me: Stamp,
    races: bool,
    reading: bool,
    clocks: &Clocks,
) -> Result<(), Conflict> {
    if write == Stamp::NONE {
        return if reading { Err(Conflict::Uninitialised) } else { Ok(()) };
    }
    let (thread, pc) = (write.thread(), write.pc());
    if write.has(COPYING) {
        return Err(Conflict::Copying { thread, pc });
    }
    if !races
        || thread == me.thread()
        || write.has(ATOMIC) && me.has(ATOMIC)
        || write.time() <= clocks.know(me.warp())[write.warp() as usize]
        || ordered_lanes(write, me, clocks)
    {
        return Ok(());
    }
    Err(Conflict::Race { thread, pc, read: false })
}

/// Whether lanes of one warp are ordered by a barrier of some of its lanes.
fn ordered_lanes(before: Stamp, me: Stamp, clocks: &Clocks) -> bool {
    before.warp() == me.warp()
        && clocks.lane_knows(me.warp(), me.thread() & 31, before.thread() & 31, before.time())
}

/// Whether a read by a matrix product is ordered before an access: that of the own warp is, as all its lanes have waited.
fn ordered_product(read: Stamp, me: Stamp, know: &[u32; WARPS]) -> bool {
    read.has(PRODUCT) && (read.warp() == me.warp() || read.time() <= know[read.warp() as usize])
}

/// Remembers a reader beside one that nothing orders before it.
fn keep_reader(reads: &mut [Stamp; 2], me: Stamp, clocks: &Clocks) {
    let [newest, other] = *reads;
    let stale = other == Stamp::NONE || other.time() <= clocks.know(me.warp())[other.warp() as usize];
    if newest.warp() == me.warp() {
        if stale {
            // Two lanes of one warp, of which the first stays: most often they read in one instruction.
            reads[1] = me;
        } else if other.warp() != me.warp() {
            reads[0] = me;
        }
    } else {
        *reads = [me, newest];
    }
}
