//! Launches of tile programs: elementwise operators, reductions over rows, updates, and groups of them.
//!
//! Chains that share no value are programs of their own, whose tasks all run together. A task is a run of rows cut by
//! the shape alone; what it gathers goes to partial sums of its own, which are added in the order of the tasks.

use crate::device::Machine;
use crate::launch::Need;
use crate::memory::{Memory, Plan, Slot};
use crate::pointwise_compile::{Body, Compiled, Compiler, View, from_row_sums};
use crate::pointwise_finish::Finish;
use crate::pointwise_inst::Domain;
use crate::pointwise_program::{Lent, Program};
use crate::pointwise_tables::Fill;
use ddnnc_ir::{DType, Local, Op, Step, ValueType, is_reduction};
use std::marker::PhantomData;

/// Elements of a task.
pub const PIECE: usize = 1 << 15;

/// The most tasks of a program that gathers sums, since each has partial sums of its own.
const GATHERING: usize = 64;

/// The fewest rows of such a task: what it gathers of a channel is as much work as a few rows of it.
const FEWEST: usize = 64;

/// A program and its share of the tasks.
#[derive(Clone, Debug)]
struct Loop {
    program: Program,
    first_task: usize,
    rows: usize,
}

/// A launch of tile programs.
#[derive(Clone, Debug)]
pub struct Pointwise {
    /// Operands that a result lies on and that are read in another order: (place, copy).
    snapshots: Vec<(Slot, Slot)>,
    fills: Vec<Fill>,
    loops: Vec<Loop>,
    tasks: usize,
    stride: usize,
    finish: Finish,
}

/// Whether a step sums over the rows of a value.
pub fn gathers(step: &Step, types: &[&ValueType]) -> bool {
    is_reduction(&step.op, types) && !matches!(&step.op, Op::Reduce { axes, .. } if axes.as_slice() == [1])
}

/// For every step, whether it is or follows a sum over the rows.
pub fn after_sums(body: &Body<'_>) -> Result<Vec<bool>, String> {
    let mut after = Vec::with_capacity(body.steps.len());
    for step in body.steps {
        let types = step.operands.iter().map(|&l| body.ty(l)).collect::<Result<Vec<_>, _>>()?;
        let follows = step.operands.iter().any(|l| match *l {
            Local::Step { step, .. } => after.get(step as usize).copied().unwrap_or(true),
            Local::Operand(_) => false,
        });
        if follows && gathers(step, &types) {
            return Err("a sum over what a sum of the same group gave".to_owned());
        }
        after.push(follows || gathers(step, &types));
    }
    Ok(after)
}

/// The steps that these values need, marked.
pub fn needed(steps: &[Step], values: &[Local]) -> Vec<bool> {
    let mut marked = vec![false; steps.len()];
    let mut open: Vec<Local> = values.to_vec();
    while let Some(local) = open.pop() {
        if let Local::Step { step, .. } = local
            && !std::mem::replace(&mut marked[step as usize], true)
        {
            open.extend(&steps[step as usize].operands);
        }
    }
    marked
}

/// The domain in which a value is made.
pub fn domain_of(body: &Body<'_>, local: Local) -> Result<Domain, String> {
    if from_row_sums(body.steps, local)
        && let Local::Step { step, .. } = local
    {
        let step = &body.steps[step as usize];
        if let Op::Reduce { .. } = step.op {
            return Ok(Domain::of(body.ty(step.operands[0])?));
        }
        let source = step.operands.iter().find(|&&l| from_row_sums(body.steps, l));
        return domain_of(body, *source.ok_or("a sum over nothing")?);
    }
    Ok(Domain::of(body.ty(local)?))
}

/// What a program is to do.
#[derive(Clone, Copy)]
enum Sink {
    Store(Local, Slot),
    Gather(usize),
}

/// Joins steps that share a value: each step's representative.
fn chains(body: &Body<'_>, after: &[bool]) -> Vec<usize> {
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let mut parent: Vec<usize> = (0..body.steps.len()).collect();
    let mut reader: Vec<Option<usize>> = vec![None; body.operands.len()];
    for (i, step) in body.steps.iter().enumerate() {
        for local in &step.operands {
            let other = match *local {
                Local::Step { step, .. } if !after[step as usize] => Some(step as usize),
                Local::Operand(o) if body.operands[o as usize].shape.rank() > 1 => {
                    reader[o as usize].replace(i)
                }
                _ => None,
            };
            if let Some(other) = other {
                let (a, b) = (root(&mut parent, i), root(&mut parent, other));
                parent[a.max(b)] = a.min(b);
            }
        }
    }
    (0..parent.len()).map(|i| root(&mut parent, i)).collect()
}

impl Pointwise {
    /// Compiles steps whose values `results` go to those places.
    ///
    /// # Errors
    ///
    /// What cannot run tile by tile, in words.
    pub fn compile(
        steps: &[Step],
        operands: &[ValueType],
        slots: &[Slot],
        results: &[(Local, Slot)],
        plan: &mut Plan,
    ) -> Result<Pointwise, String> {
        let aliased: Vec<bool> =
            slots.iter().map(|slot| results.iter().any(|r| r.1.overlaps(slot))).collect();
        let body = Body { steps, operands, slots, aliased: &aliased };
        let after = after_sums(&body)?;
        let chains = chains(&body, &after);
        let wanted: Vec<Local> = results.iter().map(|r| r.0).collect();
        let needed = needed(steps, &wanted);
        let mut sinks: Vec<(Sink, Local)> = Vec::new();
        for &(local, slot) in results {
            let Local::Step { step, .. } = local else { return Err("a result is an operand".to_owned()) };
            if !after[step as usize] {
                sinks.push((Sink::Store(local, slot), local));
            }
        }
        for (i, step) in steps.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let types = step.operands.iter().map(|&l| body.ty(l)).collect::<Result<Vec<_>, _>>()?;
            if gathers(step, &types) {
                sinks.push((Sink::Gather(i), step.operands[0]));
            }
        }
        // Sinks of one chain and one domain are one program.
        let mut groups: Vec<((usize, Domain), Vec<Sink>)> = Vec::new();
        for (sink, value) in sinks {
            let of = |local: Local| match local {
                Local::Step { step, .. } => chains[step as usize],
                Local::Operand(_) => usize::MAX,
            };
            let chain = match sink {
                Sink::Gather(step) => chains[step],
                Sink::Store(local, _) => of(local),
            };
            let key = (chain, domain_of(&body, value)?);
            match groups.iter_mut().find(|g| g.0 == key) {
                Some(group) => group.1.push(sink),
                None => groups.push((key, vec![sink])),
            }
        }
        let mut fills = Vec::new();
        let mut finish = Finish::default();
        let mut compiled: Vec<Compiled> = Vec::new();
        for (number, ((_, domain), sinks)) in groups.iter().enumerate() {
            let mut compiler = Compiler::new(body, *domain, plan, &mut fills);
            for sink in sinks {
                match *sink {
                    Sink::Store(local, slot) => compiler.store(local, slot)?,
                    Sink::Gather(step) => compiler.gather(step)?,
                }
            }
            let program = compiler.finish();
            finish.reduce(&body, results, number, &program, plan)?;
            compiled.push(program);
        }
        for (i, step) in steps.iter().enumerate().filter(|(i, _)| needed[*i] && after[*i]) {
            let types = step.operands.iter().map(|&l| body.ty(l)).collect::<Result<Vec<_>, _>>()?;
            if !gathers(step, &types) {
                finish.vector(&body, results, i, plan)?;
            }
        }
        finish.copies(results);
        let snapshots = snapshot(&body, &mut compiled, plan)?;
        let mut first_task = 0;
        let stride = compiled.iter().map(|c| c.program.partials).max().unwrap_or(0);
        let loops: Vec<Loop> = compiled
            .into_iter()
            .map(|c| {
                let program = c.program;
                let rows = rows_per_task(&program);
                let made = Loop { first_task, rows, program };
                first_task += made.tasks();
                made
            })
            .collect();
        Ok(Pointwise { snapshots, fills, loops, tasks: first_task, stride, finish })
    }

    /// Workspace beside the launch's own memory.
    pub fn need(&self) -> Need {
        let most =
            |f: &dyn Fn(&Program) -> usize| self.loops.iter().map(|l| f(&l.program)).max().unwrap_or(0);
        Need {
            tile: most(&Program::scratch),
            sums: most(&|p| p.sums),
            partials: self.tasks * self.stride,
            ..Need::default()
        }
    }

    /// Runs the launch.
    pub fn run(&self, machine: &mut Machine<'_>, memory: Memory<'_>) {
        for &(from, to) in &self.snapshots {
            // SAFETY: the copy lies apart from every operand, and no task runs yet; any bits are a byte.
            unsafe {
                let bytes =
                    |s: Slot| Slot { elements: s.elements * s.dtype.size() / 2, dtype: DType::Bf16, ..s };
                memory.view_mut::<u16>(bytes(to)).copy_from_slice(memory.view::<u16>(bytes(from)));
            }
        }
        for fill in &self.fills {
            fill.run(memory);
        }
        let stride = self.stride;
        let (machine, partials) = machine.with_partials(self.tasks * stride);
        clear(partials, stride);
        let cells = Cells::new(partials);
        machine.pool.run(self.tasks, &|task, worker| {
            let number = self.loops.partition_point(|l| l.first_task <= task) - 1;
            let Loop { program, first_task, rows } = &self.loops[number];
            let first = (task - first_task) * rows;
            let count = (*rows).min(program.domain.rows - first);
            // SAFETY: each task takes its own partial sums, once.
            let partial = unsafe { cells.range(task * stride, stride) };
            if program.partials > 0 {
                partial[0] = number as f64;
            }
            let partial = (program.partials > 0).then_some(partial);
            program.run(&machine, memory, worker, (first, count), Lent::Nothing, partial);
        });
        self.finish.run(machine.level, memory, partials, stride);
    }
}

/// Marks the partial sums of all tasks as empty.
pub fn clear(partials: &mut [f64], stride: usize) {
    if stride > 0 {
        partials.chunks_exact_mut(stride).for_each(|t| t[..2].copy_from_slice(&[-1.0, 0.0]));
    }
}

impl Loop {
    fn tasks(&self) -> usize {
        self.program.domain.rows.div_ceil(self.rows)
    }
}

/// Rows of a task: whole tiles.
fn rows_per_task(program: &Program) -> usize {
    let domain = program.domain;
    let tile = domain.tile_rows();
    let tiles = domain.rows.div_ceil(tile);
    let mut per_task = (PIECE / (tile * domain.channels)).max(1);
    if program.partials > 0 {
        per_task = per_task.max(tiles.div_ceil(GATHERING)).max(FEWEST.div_ceil(tile));
    }
    (per_task * tile).next_multiple_of(program.rows_at_once())
}

/// Copies of operands that lie on a result which a program writes while others, or other rows, may still be read.
fn snapshot(
    body: &Body<'_>,
    compiled: &mut [Compiled],
    plan: &mut Plan,
) -> Result<Vec<(Slot, Slot)>, String> {
    let mut made = Vec::new();
    for (i, slot) in body.slots.iter().enumerate().filter(|(i, _)| body.aliased[*i]) {
        // Who writes there, and whether as one element per row.
        let writers: Vec<(usize, bool, Slot)> = compiled
            .iter()
            .enumerate()
            .flat_map(|(number, c)| {
                c.writes.iter().map(move |&(s, per_row)| (number, per_row, c.program.slots[s]))
            })
            .filter(|w| w.2.overlaps(slot))
            .collect();
        let safe = |number: usize, view: View| {
            writers.iter().all(|&(writer, per_row, to)| {
                let view_fits = if per_row { View::PerRow } else { View::Whole } == view;
                number == writer && view_fits && to.offset == slot.offset && to.dtype == slot.dtype
            })
        };
        let reads = |c: &Compiled| c.reads.clone();
        let all_safe =
            compiled.iter().enumerate().all(|(n, c)| reads(c).iter().all(|r| r.1 != i || safe(n, r.2)));
        if all_safe {
            continue;
        }
        let copy = plan.slot(slot.dtype, slot.elements);
        for c in compiled.iter_mut() {
            for (s, _, _) in reads(c).iter().filter(|r| r.1 == i) {
                c.program.slots[*s] = copy;
            }
        }
        made.push((*slot, copy));
    }
    Ok(made)
}

/// Elements of which tasks take ranges of their own.
pub struct Cells<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of elements that may go to other threads.
unsafe impl<T: Send> Sync for Cells<'_, T> {}

impl<'a, T> Cells<'a, T> {
    /// Over a slice.
    pub fn new(all: &'a mut [T]) -> Cells<'a, T> {
        Cells { start: all.as_mut_ptr(), len: all.len(), borrow: PhantomData }
    }

    /// A range.
    ///
    /// # Safety
    ///
    /// Ranges that live at one time do not overlap.
    #[expect(clippy::mut_from_ref, reason = "the ranges do not overlap")]
    pub unsafe fn range(&self, first: usize, count: usize) -> &mut [T] {
        // SAFETY: the range lies in the borrowed slice, as `at` checks; the rest is promised.
        unsafe { std::slice::from_raw_parts_mut(self.at(first, count), count) }
    }

    /// The address of a range, for those who write elements here and there in it.
    pub fn at(&self, first: usize, count: usize) -> *mut T {
        assert!(first + count <= self.len, "a range of the elements");
        // SAFETY: the range lies in the borrowed slice.
        unsafe { self.start.add(first) }
    }
}
