//! What a program takes of a device's memory, and where each part lies in the one allocation that holds them all.

use crate::code::Argument;
use crate::emitted::Emitted;
use ddnnc_passes::{BufferId, Launch, Place, Program};

/// Every part begins at a multiple of this many bytes: vector accesses need 16, and copies are fastest on whole lines.
const PART_ALIGNMENT: usize = 256;

/// Bytes of each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Parameters, statistics, optimizer state.
    pub persistent: usize,
    /// Values of the step.
    pub arena: usize,
    /// What the kernels of one launch hand to each other; the launches share it.
    pub workspace: usize,
    /// Counters of all launches.
    pub counters: usize,
    /// The inputs of the next step, which come in while this one runs.
    pub staging: usize,
}

impl MemoryPlan {
    /// For a program and its kernels.
    pub fn new(program: &Program, emitted: &Emitted) -> MemoryPlan {
        let inputs = program.inputs.values().map(|&id| staged_bytes(program, id)).sum();
        MemoryPlan {
            persistent: program.persistent_bytes,
            arena: program.arena_bytes,
            workspace: emitted.workspace_bytes(),
            counters: 4 * emitted.counters(),
            staging: inputs,
        }
    }

    fn parts(&self) -> [usize; 5] {
        [self.persistent, self.arena, self.workspace, self.counters, self.staging]
    }

    /// All of it, each part rounded up to whole lines.
    pub fn total(&self) -> usize {
        let up = |bytes: usize| bytes.checked_next_multiple_of(PART_ALIGNMENT).unwrap_or(usize::MAX);
        self.parts().iter().fold(0, |sum, &bytes| sum.saturating_add(up(bytes)))
    }
}

/// Bytes of an input in the staging area, with what keeps the next one aligned.
pub fn staged_bytes(program: &Program, input: BufferId) -> usize {
    program.buffer(input).ty.bytes().next_multiple_of(PART_ALIGNMENT)
}

/// Addresses of the parts.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// See [`MemoryPlan::persistent`].
    pub persistent: u64,
    /// See [`MemoryPlan::arena`].
    pub arena: u64,
    /// See [`MemoryPlan::workspace`].
    pub workspace: u64,
    /// See [`MemoryPlan::counters`].
    pub counters: u64,
    /// See [`MemoryPlan::staging`].
    pub staging: u64,
}

impl Addresses {
    /// Of a plan whose memory begins at `start`.
    pub fn new(plan: &MemoryPlan, start: u64) -> Addresses {
        let mut next = start;
        let [persistent, arena, workspace, counters, staging] = plan.parts().map(|bytes| {
            let at = next;
            next += bytes.next_multiple_of(PART_ALIGNMENT) as u64;
            at
        });
        Addresses { persistent, arena, workspace, counters, staging }
    }

    /// Of a buffer.
    pub fn buffer(&self, program: &Program, id: BufferId) -> u64 {
        match program.buffer(id).place {
            Place::Arena { offset } => self.arena + offset as u64,
            Place::Persistent { offset } => self.persistent + offset as u64,
        }
    }

    /// Of a kernel's argument, in a launch whose counters begin at number `first_counter`; `None` for an operand or
    /// result that the launch does not have.
    pub fn argument(
        &self,
        program: &Program,
        launch: &Launch,
        first_counter: usize,
        argument: Argument,
    ) -> Option<u64> {
        Some(match argument {
            Argument::Operand(i) => self.buffer(program, *launch.operands.get(i)?),
            Argument::Result(i) => self.buffer(program, *launch.results.get(i)?),
            Argument::Workspace(offset) => self.workspace + offset as u64,
            Argument::Counter(i) => self.counters + 4 * (first_counter + i) as u64,
            Argument::Arena => self.arena,
            Argument::Persistent => self.persistent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_apart_and_end_where_the_total_does() {
        let plan = MemoryPlan { persistent: 1, arena: 257, workspace: 0, counters: 4, staging: 512 };
        let at = Addresses::new(&plan, 1 << 20);
        let starts = [at.persistent, at.arena, at.workspace, at.counters, at.staging];
        assert_eq!(starts.map(|a| a - (1 << 20)), [0, 256, 768, 768, 1024]);
        assert_eq!(plan.total(), 1024 + 512);
    }

    #[test]
    fn a_plan_that_no_memory_holds_does_not_wrap_around() {
        let plan = MemoryPlan { persistent: usize::MAX, arena: 1, ..MemoryPlan::default() };
        assert_eq!(plan.total(), usize::MAX);
    }
}
