//! Which bytes of the arena nobody reads any more, launch by launch: for devices that overwrite them on purpose, so that
//! a read of memory that was freed shows.

use crate::{BufferId, Place, Program};

/// For every launch of a program, the ranges of the arena (offset and length in bytes) whose content no later launch
/// reads and no output shows. Each content is named once, after the launch that reads it last.
pub fn freed_after(program: &Program) -> Vec<Vec<(usize, usize)>> {
    let mut freed = vec![Vec::new(); program.launches.len()];
    // What lies in the arena: (offset, length, last launch that touched it).
    let mut live: Vec<(usize, usize, usize)> = Vec::new();
    let range = |b: BufferId| match program.buffer(b).place {
        Place::Arena { offset } => Some((offset, program.buffer(b).ty.bytes())),
        Place::Persistent { .. } => None,
    };
    for &input in program.inputs.values() {
        if let Some((offset, len)) = range(input) {
            live.push((offset, len, 0));
        }
    }
    for (i, launch) in program.launches.iter().enumerate() {
        for (offset, _) in launch.operands.iter().filter_map(|&b| range(b)) {
            if let Some(entry) = live.iter_mut().find(|entry| entry.0 == offset) {
                entry.2 = i;
            }
        }
        for (offset, len) in launch.results.iter().filter_map(|&b| range(b)) {
            let gone = |&(o, l, _): &(usize, usize, usize)| o < offset + len && offset < o + l;
            for &(o, l, last) in live.iter().filter(|entry| gone(entry)) {
                // What an operand left under a result that took its place is written over by the launch itself.
                if last < i {
                    freed[last].push((o, l));
                }
            }
            live.retain(|entry| !gone(entry));
            live.push((offset, len, i));
        }
    }
    let shown: Vec<usize> =
        program.outputs.values().filter_map(|&b| range(b)).map(|(offset, _)| offset).collect();
    for (offset, len, last) in live {
        if !shown.contains(&offset) && !program.launches.is_empty() {
            freed[last].push((offset, len));
        }
    }
    freed
}
