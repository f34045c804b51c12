//! Groups run as several kernels, where no single one can do all of it.

use crate::arch::Target;
use crate::code::{Argument, LaunchCode};
use crate::emit::{emit_group, single};
use ddnnc_ir::{Group, GroupKind, Local, ValueType};
use indexmap::IndexMap;

/// Adds the kernels of a part of a launch: `operands` and `results` say what its operands and results are in the whole.
pub fn append(code: &mut LaunchCode, part: LaunchCode, operands: &[Argument], results: &[Argument]) {
    let (workspace, counters) = (code.workspace_bytes, code.counters);
    for mut kernel in part.kernels {
        for argument in &mut kernel.arguments {
            *argument = match *argument {
                Argument::Operand(i) => operands[i],
                Argument::Result(i) => results[i],
                Argument::Workspace(offset) => Argument::Workspace(workspace + offset),
                Argument::Counter(i) => Argument::Counter(counters + i),
                other => other,
            };
        }
        code.kernels.push(kernel);
    }
    code.workspace_bytes += part.workspace_bytes;
    code.counters += part.counters;
}

/// Values of a group that live in the launch's workspace between its kernels.
#[derive(Debug, Default)]
pub struct Between {
    places: IndexMap<Local, Argument>,
}

impl Between {
    /// Where a value of the group is: an operand, a result, or workspace that is reserved on first use.
    pub fn place(&mut self, code: &mut LaunchCode, group: &Group, local: Local) -> Argument {
        if let Local::Operand(i) = local {
            return Argument::Operand(i as usize);
        }
        if let Some(i) = group.results.iter().position(|&r| r == local) {
            return Argument::Result(i);
        }
        *self.places.entry(local).or_insert_with(|| {
            let at = code.workspace_bytes;
            code.workspace_bytes += group.ty(local).map_or(0, ValueType::bytes).next_multiple_of(256);
            Argument::Workspace(at)
        })
    }
}

/// Some steps of a group as a group of their own, with what its operands and results are in the whole. Results are the
/// values that other steps or the group's results take.
pub fn subgroup(group: &Group, kind: GroupKind, steps: &[usize]) -> (Group, Vec<Local>, Vec<Local>) {
    let mut operands: Vec<Local> = Vec::new();
    let mut new_steps = Vec::new();
    let new_index = |step: u32| steps.iter().position(|&s| s == step as usize);
    for &s in steps {
        let mut step = group.steps[s].clone();
        for local in &mut step.operands {
            let inside = match *local {
                Local::Step { step, result } => {
                    new_index(step).map(|step| Local::Step { step: step as u32, result })
                }
                Local::Operand(_) => None,
            };
            *local = inside.unwrap_or_else(|| {
                let i = operands.iter().position(|o| o == local).unwrap_or_else(|| {
                    operands.push(*local);
                    operands.len() - 1
                });
                Local::Operand(i as u32)
            });
        }
        new_steps.push(step);
    }
    let mut results = Vec::new();
    for &s in steps {
        for r in 0..group.steps[s].results.len() {
            let local = Local::Step { step: s as u32, result: r as u32 };
            let outside = group.results.contains(&local)
                || group
                    .steps
                    .iter()
                    .enumerate()
                    .any(|(i, step)| !steps.contains(&i) && step.operands.contains(&local));
            if outside {
                results.push(local);
            }
        }
    }
    let inner = |local: &Local| match *local {
        Local::Step { step, result } => {
            Local::Step { step: new_index(step).unwrap_or_default() as u32, result }
        }
        operand => operand,
    };
    let made = Group {
        kind,
        name: group.name.clone(),
        operands: operands.iter().filter_map(|&l| group.ty(l)).cloned().collect(),
        steps: new_steps,
        results: results.iter().map(inner).collect(),
    };
    (made, operands, results)
}

/// Runs the groups one after the other, values between them in workspace. Every step of `group` is in one of `parts`,
/// and each part needs only what parts before it make.
///
/// # Errors
///
/// What no kernel can do.
pub fn in_turn(
    group: &Group,
    parts: &[(GroupKind, Vec<usize>)],
    target: &Target,
) -> Result<LaunchCode, String> {
    let (mut code, mut between) = (LaunchCode::default(), Between::default());
    for (kind, steps) in parts {
        let (made, operands, results) = subgroup(group, *kind, steps);
        if made.results.is_empty() {
            continue;
        }
        let operands: Vec<Argument> = operands.iter().map(|&l| between.place(&mut code, group, l)).collect();
        let results: Vec<Argument> = results.iter().map(|&l| between.place(&mut code, group, l)).collect();
        append(&mut code, emit_group(&made, target)?, &operands, &results);
    }
    Ok(code)
}

/// Every step as a kernel of its own: what always works.
///
/// # Errors
///
/// What no kernel can do.
pub fn one_by_one(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let kind = |s: usize| {
        let step = &group.steps[s];
        let operands = step.operands.iter().filter_map(|&l| group.ty(l)).cloned().collect();
        single(&step.op, operands, step.results.to_vec()).kind
    };
    let parts: Vec<(GroupKind, Vec<usize>)> = (0..group.steps.len()).map(|s| (kind(s), vec![s])).collect();
    in_turn(group, &parts, target)
}
