//! Whether a program's memory plan holds: an independent walk over its launches.

use crate::{BufferId, Place, Program, may_overwrite};
use std::collections::BTreeMap;

/// Follows the launches of a program and keeps, for every range of bytes, what was last written there.
///
/// It demands that
/// - every read finds one whole write of as many bytes at its place, never torn by another write since;
/// - a buffer that a launch writes is read as that write left it, and a buffer that is only another's name (a reshape)
///   keeps showing the content that it showed first;
/// - a result lies exactly on an operand that [`may_overwrite`] names, or apart from every operand, and apart from the
///   other results;
/// - outputs are whole at the end, and a parameter or state holds its own old content or a write of its full size.
///
/// Ids and offsets must be in range, as [`Program::validate`] checks before it calls this.
pub fn check_plan(program: &Program) -> Result<(), String> {
    let mut memory = Memory::default();
    let mut shows: Vec<Option<usize>> = vec![None; program.buffers.len()];
    let mut written: Vec<Option<usize>> = vec![None; program.buffers.len()];
    // Contents are numbered: the sources' first, then one per result.
    let mut content = 0;
    let sources = program.inputs.values().copied().chain(program.persistent.values().map(|p| p.buffer));
    for buffer in sources {
        let (persistent, start, end) = range(program, buffer);
        if memory.overlaps(persistent, start, end) {
            return Err(format!("b{} shares memory with another input or persistent buffer", buffer.0));
        }
        memory.write(persistent, start, end, content);
        shows[buffer.index()] = Some(content);
        content += 1;
    }
    for (i, launch) in program.launches.iter().enumerate() {
        let what = || format!("launch {i} ({} `{}`)", launch.op.mnemonic(), launch.path);
        for &b in &launch.operands {
            let found = read(&memory, program, b).map_err(|e| format!("{}: {e}", what()))?;
            let index = b.index();
            let expected = written[index].or(shows[index]);
            if expected.is_some_and(|e| e != found) {
                return Err(format!("{}: b{} was overwritten before this read", what(), b.0));
            }
            shows[index] = Some(found);
        }
        for (r, &b) in launch.results.iter().enumerate() {
            let mine = range(program, b);
            for (k, &o) in launch.operands.iter().enumerate() {
                let theirs = range(program, o);
                if !meets(mine, theirs) {
                    continue;
                }
                if mine != theirs {
                    return Err(format!("{}: result b{} lies across operand b{}", what(), b.0, o.0));
                }
                if !may_overwrite(&launch.op, r).contains(&k) {
                    return Err(format!("{}: result b{} may not overwrite operand b{}", what(), b.0, o.0));
                }
            }
            if launch.results[..r].iter().any(|&other| meets(range(program, other), mine)) {
                return Err(format!("{}: two results share memory", what()));
            }
        }
        for &b in &launch.results {
            let (persistent, start, end) = range(program, b);
            memory.write(persistent, start, end, content);
            written[b.index()] = Some(content);
            content += 1;
        }
    }
    for (name, &b) in &program.outputs {
        let found = read(&memory, program, b).map_err(|e| format!("output `{name}`: {e}"))?;
        let expected = written[b.index()].or(shows[b.index()]);
        if expected.is_some_and(|e| e != found) {
            return Err(format!("output `{name}` was overwritten before the end of the step"));
        }
    }
    for (name, entry) in &program.persistent {
        read(&memory, program, entry.buffer).map_err(|e| format!("`{name}`: {e}"))?;
    }
    Ok(())
}

/// (persistent, first byte, end).
type Range = (bool, usize, usize);

fn range(program: &Program, b: BufferId) -> Range {
    let buffer = program.buffer(b);
    // A buffer without elements takes no bytes; it counts as one so that it has a place of its own.
    let bytes = buffer.ty.bytes().max(1);
    match buffer.place {
        Place::Arena { offset } => (false, offset, offset + bytes),
        Place::Persistent { offset } => (true, offset, offset + bytes),
    }
}

fn meets(a: Range, b: Range) -> bool {
    a.0 == b.0 && a.1 < b.2 && b.1 < a.2
}

fn read(memory: &Memory, program: &Program, b: BufferId) -> Result<usize, String> {
    let (persistent, start, end) = range(program, b);
    memory.whole(persistent, start, end).ok_or_else(|| format!("b{} holds no whole write", b.0))
}

/// What was last written where: disjoint ranges, start to (end, content, torn).
#[derive(Default)]
struct Memory {
    arena: BTreeMap<usize, (usize, usize, bool)>,
    persistent: BTreeMap<usize, (usize, usize, bool)>,
}

impl Memory {
    fn region(&self, persistent: bool) -> &BTreeMap<usize, (usize, usize, bool)> {
        if persistent { &self.persistent } else { &self.arena }
    }

    fn overlaps(&self, persistent: bool, start: usize, end: usize) -> bool {
        self.region(persistent).range(..end).next_back().is_some_and(|(_, &(e, _, _))| e > start)
    }

    fn write(&mut self, persistent: bool, start: usize, end: usize, content: usize) {
        let region = if persistent { &mut self.persistent } else { &mut self.arena };
        while let Some((&s, &(e, old, _))) = region.range(..end).next_back().filter(|(_, v)| v.0 > start) {
            region.remove(&s);
            if s < start {
                region.insert(s, (start, old, true));
            }
            if e > end {
                region.insert(end, (e, old, true));
            }
        }
        region.insert(start, (end, content, false));
    }

    fn whole(&self, persistent: bool, start: usize, end: usize) -> Option<usize> {
        match self.region(persistent).get(&start) {
            Some(&(e, content, false)) if e == end => Some(content),
            _ => None,
        }
    }
}
