//! Where the values of a sequence are: operands, results, workspace, or the memory of another value.

use crate::code::{Argument, LaunchCode};
use ddnnc_ir::{Group, Local, Op, Step, ValueType};
use indexmap::IndexMap;

/// Where the values of a group are.
#[derive(Debug)]
pub struct Places {
    /// Steps whose result is another name of what they take.
    names: Vec<bool>,
    /// For results of names, what they are.
    same: IndexMap<Local, Local>,
    made: IndexMap<Local, Argument>,
}

impl Places {
    /// Finds the steps that only name memory: reshapes and the like whose results the group does not give.
    pub fn new(group: &Group) -> Places {
        let mut places =
            Places { names: vec![false; group.steps.len()], same: IndexMap::new(), made: IndexMap::new() };
        for (s, step) in group.steps.iter().enumerate() {
            let result = Local::Step { step: s as u32, result: 0 };
            if is_copy(group, step) && !group.results.contains(&result) {
                places.names[s] = true;
                let from = places.resolve(step.operands[0]);
                places.same.insert(result, from);
            }
        }
        places
    }

    /// Whether a step makes nothing.
    pub fn is_name(&self, step: usize) -> bool {
        self.names[step]
    }

    /// The value whose memory a value is.
    pub fn resolve(&self, local: Local) -> Local {
        self.same.get(&local).copied().unwrap_or(local)
    }

    /// Where a value is; reserves workspace for it on first use.
    pub fn place(&mut self, code: &mut LaunchCode, group: &Group, local: Local) -> Argument {
        let local = self.resolve(local);
        if let Local::Operand(i) = local {
            return Argument::Operand(i as usize);
        }
        if let Some(i) = group.results.iter().position(|&r| r == local) {
            return Argument::Result(i);
        }
        *self.made.entry(local).or_insert_with(|| {
            let at = code.workspace_bytes;
            code.workspace_bytes += group.ty(local).map_or(0, ValueType::bytes).next_multiple_of(256);
            Argument::Workspace(at)
        })
    }
}

/// Whether a step's result has the bytes of its operand.
pub fn is_copy(group: &Group, step: &Step) -> bool {
    match &step.op {
        op if op.is_alias() => true,
        Op::ConvertLayout { .. } => {
            let from = step.operands.first().and_then(|&l| group.ty(l));
            from.is_some_and(|from| {
                from.layout == step.results[0].layout
                    || (from.is_row_major() && step.results[0].is_row_major())
            })
        }
        Op::Cast { dtype } => {
            step.operands.first().and_then(|&l| group.ty(l)).map(|ty| ty.dtype) == Some(*dtype)
        }
        // All others make bytes of their own.
        _ => false,
    }
}
