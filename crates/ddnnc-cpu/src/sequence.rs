//! Groups whose steps run one after the other: small operators of losses, gates of recurrent layers.
//!
//! Elementwise steps that no other step has to come between are one tile program, so that they cost one job for all threads
//! and their values stay in registers.

use crate::launch::{GroupError, Kernel, Placed, prepare_op};
use crate::memory::{Plan, Slot};
use crate::method::Settings;
use crate::pointwise::Pointwise;
use ddnnc_ir::{Group, Local, Op, Step, ValueType, is_pointwise};

/// Steps that are one kernel, by number.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// One of any kind.
    One(usize),
    /// Elementwise ones, in order.
    Run(Vec<usize>),
}

/// The steps of a group one after the other, with memory of the launch for what stays inside.
///
/// # Errors
///
/// A step that no kernel takes, or a group whose values are not there.
pub fn sequence(
    group: &Group,
    path: &str,
    operands: &[Placed],
    results: &[Placed],
    settings: &Settings,
    plan: &mut Plan,
) -> Result<Kernel, GroupError> {
    if operands.iter().any(|o| results.iter().any(|r| r.slot.overlaps(&o.slot))) {
        return Err(GroupError::Group("a result of a sequence lies on an operand".to_owned()));
    }
    let made = vec![None; group.steps.len()];
    let mut maker = Maker { group, path, operands, results, settings, made, kernels: Vec::new() };
    for turn in turns(group) {
        match turn {
            Turn::One(step) => maker.one(step, plan)?,
            Turn::Run(steps) => {
                let before = *plan;
                if maker.run(&steps, plan).is_none() {
                    *plan = before;
                    steps.iter().try_for_each(|&step| maker.one(step, plan))?;
                }
            }
        }
    }
    maker.copies(plan)?;
    Ok(Kernel::Sequence(maker.kernels))
}

/// Whether a step works on whole values of one type, element by element.
fn is_elementwise(group: &Group, step: &Step) -> bool {
    let ty = &step.results[0];
    let alike = |local: &Local| group.ty(*local) == Some(ty);
    is_pointwise(&step.op)
        && !step.op.is_alias()
        && ty.shape.rank() > 1
        && !step.operands.is_empty()
        && step.operands.iter().all(alike)
}

/// The steps in an order in which elementwise ones are together: what else can run comes first, as the steps have it.
fn turns(group: &Group) -> Vec<Turn> {
    let steps = &group.steps;
    let mut done = vec![false; steps.len()];
    let ready = |step: &Step, done: &[bool]| {
        step.operands.iter().all(|local| match *local {
            Local::Operand(_) => true,
            Local::Step { step, .. } => done[step as usize],
        })
    };
    let mut turns = Vec::new();
    // Each round finishes the first step that is left, whatever its kind.
    while done.contains(&false) {
        for (i, step) in steps.iter().enumerate() {
            if !done[i] && !is_elementwise(group, step) && ready(step, &done) {
                done[i] = true;
                turns.push(Turn::One(i));
            }
        }
        let mut run = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            if !done[i] && is_elementwise(group, step) && ready(step, &done) {
                done[i] = true;
                run.push(i);
            }
        }
        match run.as_slice() {
            [] => {}
            &[one] => turns.push(Turn::One(one)),
            _ => turns.push(Turn::Run(run)),
        }
    }
    turns
}

/// What making the kernels goes by.
struct Maker<'a> {
    group: &'a Group,
    path: &'a str,
    operands: &'a [Placed],
    results: &'a [Placed],
    settings: &'a Settings,
    /// The results of each step that has them in memory.
    made: Vec<Option<Vec<Placed>>>,
    kernels: Vec<Kernel>,
}

impl Maker<'_> {
    /// Where a value lies, if it is in memory.
    fn placed(&self, local: Local) -> Option<Placed> {
        match local {
            Local::Operand(o) => self.operands.get(o as usize).cloned(),
            Local::Step { step, result } => {
                self.made.get(step as usize)?.as_ref()?.get(result as usize).cloned()
            }
        }
    }

    /// Where a step's result goes, if it is one of the group.
    fn of_group(&self, local: Local) -> Option<Slot> {
        let at = self.group.results.iter().position(|&l| l == local)?;
        Some(self.results[at].slot)
    }

    /// A kernel of one step.
    fn one(&mut self, number: usize, plan: &mut Plan) -> Result<(), GroupError> {
        let step = &self.group.steps[number];
        let taken: Option<Vec<Placed>> = step.operands.iter().map(|&l| self.placed(l)).collect();
        let taken = taken.ok_or_else(|| GroupError::Group("a value is not there".to_owned()))?;
        let mut mine = Vec::with_capacity(step.results.len());
        for (r, ty) in step.results.iter().enumerate() {
            let slot = match self.of_group(Local::Step { step: number as u32, result: r as u32 }) {
                Some(slot) => slot,
                // Another name for the same memory.
                None if step.op.is_alias() => taken[0].slot,
                None => plan.value(ty),
            };
            mine.push(Placed { ty: ty.clone(), slot });
        }
        let alias = step.op.is_alias() && mine[0].slot == taken[0].slot;
        if !alias {
            let at = if step.path.is_empty() { self.path } else { &step.path };
            let kernel = prepare_op(&step.op, at, &taken, &mine, self.settings, plan);
            self.kernels.push(kernel.map_err(GroupError::Step)?);
        }
        self.made[number] = Some(mine);
        Ok(())
    }

    /// One kernel of elementwise steps; `None`, and nothing done but to the plan, where they cannot be one.
    fn run(&mut self, run: &[usize], plan: &mut Plan) -> Option<()> {
        let inside = |local: Local| match local {
            Local::Step { step, .. } => run.binary_search(&(step as usize)).ok(),
            Local::Operand(_) => None,
        };
        let mut taken: Vec<Local> = Vec::new();
        let mut steps = Vec::with_capacity(run.len());
        for &number in run {
            let step = &self.group.steps[number];
            let operands = step.operands.iter().map(|&local| match inside(local) {
                Some(step) => Local::Step { step: step as u32, result: 0 },
                None => {
                    let known = taken.iter().position(|&l| l == local);
                    Local::Operand(known.unwrap_or_else(|| {
                        taken.push(local);
                        taken.len() - 1
                    }) as u32)
                }
            });
            steps.push(Step { operands: operands.collect(), ..step.clone() });
        }
        let operands: Vec<Placed> = taken.iter().map(|&l| self.placed(l)).collect::<Option<_>>()?;
        // What other steps read, and what the group gives, goes to memory.
        let mut stored: Vec<(usize, Placed)> = Vec::new();
        for (i, &number) in run.iter().enumerate() {
            let local = Local::Step { step: number as u32, result: 0 };
            let others = self.group.steps.iter().enumerate().filter(|(n, _)| run.binary_search(n).is_err());
            let read = others.flat_map(|(_, step)| &step.operands).any(|&l| l == local);
            let ty = &steps[i].results[0];
            let slot = match self.of_group(local) {
                Some(slot) => Some(slot),
                None => read.then(|| plan.value(ty)),
            };
            stored.extend(slot.map(|slot| (i, Placed { ty: ty.clone(), slot })));
        }
        let types: Vec<ValueType> = operands.iter().map(|o| o.ty.clone()).collect();
        let slots: Vec<Slot> = operands.iter().map(|o| o.slot).collect();
        let places: Vec<(Local, Slot)> = stored
            .iter()
            .map(|(i, placed)| (Local::Step { step: *i as u32, result: 0 }, placed.slot))
            .collect();
        let made = Pointwise::compile(&steps, &types, &slots, &places, plan).ok()?;
        self.kernels.push(Kernel::Pointwise(Box::new(made)));
        for (i, placed) in stored {
            self.made[run[i]] = Some(vec![placed]);
        }
        Some(())
    }

    /// A value that is two results is copied to the second.
    fn copies(&mut self, plan: &mut Plan) -> Result<(), GroupError> {
        for (r, &local) in self.group.results.iter().enumerate() {
            if let Some(first) = self.group.results[..r].iter().position(|&l| l == local) {
                let (from, to) = (&self.results[first..=first], &self.results[r..=r]);
                let op = Op::Store { name: String::new() };
                let kernel = prepare_op(&op, self.path, from, to, self.settings, plan);
                self.kernels.push(kernel.map_err(GroupError::Step)?);
            }
        }
        Ok(())
    }
}
