//! Which memory an address means, and the checks of every access to it.

use std::sync::atomic::AtomicU64;

use crate::block::Scene;
use crate::collective::lanes;
use crate::fault::{FaultKind, Problem, problem};
use crate::inst::{Reg, Space, Src};
use crate::memory::Lanes;
use crate::program::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::registers::LANES;
use crate::shared::{Conflict, Stamp};
use crate::warp::Warp;

/// What lanes without a part in a load read.
static NOTHING: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Where each lane's bytes lie: checked for the lanes of the access, readable zeros for the others.
pub(crate) type Pointers = [*mut u8; LANES];

pub(crate) fn nowhere() -> Pointers {
    [NOTHING.as_ptr().cast::<u8>().cast_mut(); LANES]
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Reads and writes in one.
    Atomic,
}

impl Access {
    /// As a message says it.
    fn verb(self) -> &'static str {
        match self {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Atomic => "reads and writes",
        }
    }
}

impl Warp<'_> {
    /// Checks an access of `bytes` per lane, notes it, and gives each of its lanes' pointers. True if lanes of this very
    /// instruction write to one place in shared memory.
    #[allow(clippy::too_many_arguments)]
    pub fn resolve(
        &mut self,
        scene: &mut Scene<'_>,
        space: Space,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
        access: Access,
        pointers: &mut Pointers,
    ) -> Result<bool, Box<Problem>> {
        let mut clash = false;
        match space {
            Space::Global => self.global(scene, addresses, mask, bytes, access, pointers)?,
            Space::Const if access == Access::Read => {
                self.global(scene, addresses, mask, bytes, access, pointers)?;
            }
            Space::Shared => clash = self.shared(scene, addresses, mask, bytes, access, pointers)?,
            Space::Local => self.local(scene, addresses, mask, bytes, pointers)?,
            Space::Param if access == Access::Read => params(scene, addresses, mask, bytes, pointers)?,
            Space::Const | Space::Param => {
                let message = "a write to constant memory or parameters".to_owned();
                return problem(FaultKind::OutOfBounds, mask.trailing_zeros(), message);
            }
            Space::Generic => {
                let mut rest = mask;
                let windows = [
                    (SHARED_WINDOW, Space::Shared),
                    (LOCAL_WINDOW, Space::Local),
                    (PARAM_WINDOW, Space::Param),
                ];
                for (window, space) in windows {
                    let inside = (0..LANES)
                        .fold(0, |m, l| m | u32::from(addresses[l].wrapping_sub(window) < WINDOW) << l)
                        & mask;
                    if inside != 0 {
                        let offsets = addresses.map(|a| a.wrapping_sub(window));
                        clash |= self.resolve(scene, space, &offsets, inside, bytes, access, pointers)?;
                        rest &= !inside;
                    }
                }
                if rest != 0 {
                    self.global(scene, addresses, rest, bytes, access, pointers)?;
                }
            }
        }
        Ok(clash)
    }

    fn global(
        &mut self,
        scene: &mut Scene<'_>,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
        access: Access,
        pointers: &mut Pointers,
    ) -> Result<(), Box<Problem>> {
        let total = u64::from(bytes) * u64::from(mask.count_ones());
        if access != Access::Read {
            scene.report.global_written += total;
        }
        if access != Access::Write {
            scene.report.global_read += total;
        }
        let rules = Lanes {
            bytes: u64::from(bytes),
            writes: access != Access::Read,
            initialised: access != Access::Write && scene.launch.options.uninitialised,
        };
        scene.launch.memory.lanes(addresses, mask, rules, &mut self.hint, pointers).map_err(|mut p| {
            p.message = format!("{} {}", access.verb(), p.message);
            p
        })
    }

    fn shared(
        &mut self,
        scene: &mut Scene<'_>,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
        access: Access,
        pointers: &mut Pointers,
    ) -> Result<bool, Box<Problem>> {
        let (size, n) = (u64::from(scene.shared.bytes()), u64::from(bytes));
        let base = scene.shared.pointer(0);
        for lane in lanes(mask) {
            let address = addresses[lane as usize];
            if address > size || size - address < n {
                let message =
                    format!("{} {n} bytes at {address:#x} of {size} bytes of shared memory", access.verb());
                return problem(FaultKind::OutOfBounds, lane, message);
            }
            if address & (n - 1) != 0 {
                let message = format!(
                    "{} {n} bytes at {address:#x} of shared memory, not a multiple of {n}",
                    access.verb()
                );
                return problem(FaultKind::Misaligned, lane, message);
            }
            pointers[lane as usize] = base.wrapping_add(address as usize);
        }
        let me = Stamp::new(scene.clocks.time(self.index), self.thread(0), self.pc);
        let refuse = |scene: &Scene<'_>, lane: u32, conflict| {
            Err(self.conflict(scene, access.verb(), addresses[lane as usize], bytes, lane, conflict))
        };
        if access == Access::Read {
            return match scene.shared.read_lanes(addresses, mask, bytes, me, scene.clocks) {
                Ok(()) => Ok(false),
                Err((lane, conflict)) => refuse(scene, lane, conflict),
            };
        }
        let mut clash = false;
        for lane in lanes(mask) {
            let offset = addresses[lane as usize] as u32;
            let me = me.lane(lane);
            let done = match access {
                Access::Atomic if !scene.shared.written(offset, bytes) => Err(Conflict::Uninitialised),
                Access::Atomic => scene.shared.write(offset, bytes, me.atomic(), scene.clocks),
                Access::Read | Access::Write => scene.shared.write(offset, bytes, me, scene.clocks),
            };
            if let Err(conflict) = done {
                if !self.same_instruction(conflict, addresses, mask, lane) {
                    return refuse(scene, lane, conflict);
                }
                clash = true;
            }
        }
        Ok(clash)
    }

    /// Notes reads of shared memory, already checked for bounds, by the neighbour of each lane.
    pub fn note_reads(
        &self,
        scene: &mut Scene<'_>,
        offsets: &[u64; LANES],
        mask: u32,
        bytes: u32,
    ) -> Result<(), Box<Problem>> {
        let me = Stamp::new(scene.clocks.time(self.index), self.thread(0), self.pc);
        for lane in lanes(mask) {
            let offset = offsets[lane as usize];
            if let Err(conflict) = scene.shared.read(offset as u32, bytes, me.lane(lane ^ 1), scene.clocks) {
                return Err(self.conflict(scene, Access::Read.verb(), offset, bytes, lane ^ 1, conflict));
            }
        }
        Ok(())
    }

    /// Whether a lane of this instruction has just written the same place: allowed if the values are the same.
    fn same_instruction(&self, conflict: Conflict, addresses: &[u64; LANES], mask: u32, lane: u32) -> bool {
        let Conflict::Race { thread, pc, read: false } = conflict else { return false };
        pc == self.pc
            && thread / LANES as u32 == self.index
            && lanes(mask & ((1 << lane) - 1)).any(|l| addresses[l as usize] == addresses[lane as usize])
    }

    /// The report of a conflict on shared memory.
    pub fn conflict(
        &self,
        scene: &Scene<'_>,
        what: &str,
        address: u64,
        bytes: u32,
        lane: u32,
        conflict: Conflict,
    ) -> Box<Problem> {
        let line = |pc: u32| scene.launch.program.line(pc);
        let others = match conflict {
            Conflict::Uninitialised => Vec::new(),
            Conflict::Copying { pc, .. }
            | Conflict::Unfenced { pc, .. }
            | Conflict::Overwritten { pc, .. }
            | Conflict::Race { pc, .. } => vec![pc],
        };
        let place = format!("{what} {bytes} bytes at {address:#x} of shared memory");
        let (kind, message) = match conflict {
            Conflict::Uninitialised => (
                FaultKind::Uninitialised,
                format!("{place}, which nothing has written yet (a barrier may be missing)"),
            ),
            Conflict::Copying { thread, pc } => (
                FaultKind::AsyncCopy,
                format!(
                    "{place}, which the cp.async of PTX line {} by {} may not have written yet: that thread must \
                     commit the copy and wait for it first",
                    line(pc),
                    thread_name(scene.launch.block, thread)
                ),
            ),
            Conflict::Unfenced { thread, pc } => (
                FaultKind::ProxyFence,
                format!(
                    "{place}, which {} wrote at PTX line {}; that thread must execute fence.proxy.async behind it, \
                     before the barrier",
                    thread_name(scene.launch.block, thread),
                    line(pc),
                ),
            ),
            Conflict::Overwritten { thread, pc } => (
                FaultKind::AsyncProduct,
                format!(
                    "{place}, which {} writes at PTX line {} before the product has been waited for",
                    thread_name(scene.launch.block, thread),
                    line(pc),
                ),
            ),
            Conflict::Race { thread, pc, read } => (
                FaultKind::Race,
                format!(
                    "{place}, which {} {} at PTX line {}, with no barrier between",
                    thread_name(scene.launch.block, thread),
                    if read { "reads" } else { "writes" },
                    line(pc),
                ),
            ),
        };
        Box::new(Problem { kind, lane, message, others })
    }

    fn local(
        &mut self,
        scene: &Scene<'_>,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
        pointers: &mut Pointers,
    ) -> Result<(), Box<Problem>> {
        let size = scene.launch.program.local_bytes;
        let base = self.local.as_mut_ptr().cast::<u8>();
        for lane in lanes(mask) {
            let address = addresses[lane as usize];
            inside("local memory", address, u64::from(bytes), size, lane)?;
            pointers[lane as usize] =
                base.wrapping_add(u64::from(lane) as usize * size as usize + address as usize);
        }
        Ok(())
    }

    /// `cvta` and `cvta.to`
    pub fn convert_address(
        &mut self,
        mask: u32,
        space: Space,
        to_generic: bool,
        dst: Reg,
        src: &Src,
    ) -> Result<(), Box<Problem>> {
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            // Constants lie in global memory, which has no window.
            Space::Global | Space::Const | Space::Generic => 0,
        };
        let from = self.registers.source64(src, &self.context);
        let to = from.map(|a| if to_generic { a.wrapping_add(window) } else { a.wrapping_sub(window) });
        self.registers.put64(dst, &to, mask);
        Ok(())
    }

    /// `isspacep`
    pub fn is_space(&mut self, mask: u32, space: Space, dst: Reg, src: &Src) {
        let addresses = self.registers.source64(src, &self.context);
        let inside = addresses
            .iter()
            .enumerate()
            .fold(0, |bits, (lane, address)| bits | u32::from(window_of(*address) == space) << lane);
        let old = &mut self.registers.pred[dst.index as usize];
        *old = (*old & !mask) | (inside & mask);
    }
}

/// The space in whose window a generic address lies; constants lie in global memory.
fn window_of(address: u64) -> Space {
    let windows =
        [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)];
    let found = windows.into_iter().find(|(start, _)| address.wrapping_sub(*start) < WINDOW);
    found.map_or(Space::Global, |(_, space)| space)
}

/// An access to parameters.
fn params(
    scene: &Scene<'_>,
    addresses: &[u64; LANES],
    mask: u32,
    bytes: u32,
    pointers: &mut Pointers,
) -> Result<(), Box<Problem>> {
    let launch = scene.launch;
    let base = launch.params.as_ptr().cast::<u8>().cast_mut();
    for lane in lanes(mask) {
        let address = addresses[lane as usize];
        inside("parameters", address, u64::from(bytes), launch.program.param_bytes, lane)?;
        pointers[lane as usize] = base.wrapping_add(address as usize);
    }
    Ok(())
}

/// Checks bounds and alignment in a memory that begins at 0.
fn inside(what: &str, address: u64, bytes: u64, size: u64, lane: u32) -> Result<(), Box<Problem>> {
    if address > size || size - address < bytes {
        let message = format!("{bytes} bytes at {address:#x} of {size} bytes of {what}");
        return problem(FaultKind::OutOfBounds, lane, message);
    }
    if address & (bytes - 1) != 0 {
        let message = format!("{bytes} bytes at {address:#x} of {what}, which is not a multiple of {bytes}");
        return problem(FaultKind::Misaligned, lane, message);
    }
    Ok(())
}

/// A thread of a block as a message names it.
pub(crate) fn thread_name(block: [u32; 3], thread: u32) -> String {
    let [x, y, z] = thread_at(block, thread);
    format!("thread ({x}, {y}, {z})")
}

/// The coordinates of thread number `thread` of a block.
pub(crate) fn thread_at(block: [u32; 3], thread: u32) -> [u32; 3] {
    [thread % block[0], thread / block[0] % block[1], thread / (block[0] * block[1])]
}
