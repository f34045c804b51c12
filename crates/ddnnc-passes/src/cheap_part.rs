//! Parts of elementwise nodes that can be run again, and what that costs.

use ddnnc_ir::{Graph, Group, GroupKind, Local, NodeId, Op, Step, UnaryKind, Value, is_pointwise};
use std::sync::Arc;

/// So many steps of arithmetic on an element cost as much as moving one byte.
const STEPS_PER_BYTE: u64 = 4;

/// Whether an operator costs little beside the memory that it moves, so that it can be computed again.
pub(crate) fn is_cheap(op: &Op) -> bool {
    match op {
        Op::Unary { kind } | Op::UnaryGrad { kind } => match kind {
            UnaryKind::Relu | UnaryKind::Relu6 | UnaryKind::HardSwish | UnaryKind::Square => true,
            UnaryKind::Sigmoid | UnaryKind::Tanh | UnaryKind::Silu | UnaryKind::Gelu | UnaryKind::Log => {
                false
            }
        },
        Op::Dropout { .. } => false,
        op => is_pointwise(op),
    }
}

/// The results of a node that may be made again.
pub(crate) fn cheap_results(graph: &Graph, id: NodeId) -> Vec<u16> {
    let node = graph.node(id);
    match &node.op {
        Op::Fused(group) if group.kind == GroupKind::Pointwise => {
            // Whether a step and all that it takes are cheap.
            let mut cheap: Vec<bool> = Vec::with_capacity(group.steps.len());
            for step in &group.steps {
                let all = step.operands.iter().all(|l| match *l {
                    Local::Operand(_) => true,
                    Local::Step { step, .. } => cheap[step as usize],
                });
                cheap.push(all && is_cheap(&step.op));
            }
            let of = |l: &Local| matches!(*l, Local::Step { step, .. } if cheap[step as usize]);
            (0..group.results.len() as u16).filter(|&r| of(&group.results[r as usize])).collect()
        }
        op if op.is_source() || op.is_alias() || !is_cheap(op) => Vec::new(),
        _ => vec![0],
    }
}

/// What makes some results of a node again.
pub(crate) struct Part {
    pub(crate) op: Op,
    pub(crate) operands: Vec<Value>,
    /// What it costs, in bytes moved.
    pub(crate) cost: u64,
}

impl Part {
    pub(crate) fn new(graph: &Graph, id: NodeId, results: &[u16]) -> Part {
        let node = graph.node(id);
        let operands = graph.operands(id).to_vec();
        let (op, operands, work) = match &node.op {
            Op::Fused(group) => {
                let (part, kept) = restricted(group, results);
                let work = part.steps.iter().flat_map(|s| &s.results).map(|ty| ty.elements() as u64).sum();
                let operands = kept.into_iter().map(|k| operands[k]).collect();
                (Op::Fused(Arc::new(part)), operands, work)
            }
            op => (op.clone(), operands, node.results[0].elements() as u64),
        };
        let moved = |v: Value| graph.ty(v).bytes() as u64;
        let made = |&r: &u16| moved(Value { node: id, result: r });
        let cost = operands.iter().map(|&v| moved(v)).sum::<u64>()
            + results.iter().map(made).sum::<u64>()
            + work / STEPS_PER_BYTE;
        Part { op, operands, cost }
    }
}

/// A group that makes only some results, and which operands it takes.
fn restricted(group: &Group, results: &[u16]) -> (Group, Vec<usize>) {
    let mut needed = vec![false; group.steps.len()];
    let mut taken = vec![false; group.operands.len()];
    let mut mark = |local: &Local, needed: &mut [bool]| match *local {
        Local::Operand(i) => taken[i as usize] = true,
        Local::Step { step, .. } => needed[step as usize] = true,
    };
    for &r in results {
        mark(&group.results[r as usize], &mut needed);
    }
    for i in (0..group.steps.len()).rev() {
        if needed[i] {
            for local in &group.steps[i].operands {
                mark(local, &mut needed);
            }
        }
    }
    let number = |marks: &[bool]| -> Vec<u32> {
        marks
            .iter()
            .scan(0, |next, &there| {
                *next += u32::from(there);
                Some(*next - u32::from(there))
            })
            .collect()
    };
    let (step_number, operand_number) = (number(&needed), number(&taken));
    let moved = |local: &Local| match *local {
        Local::Operand(i) => Local::Operand(operand_number[i as usize]),
        Local::Step { step, result } => Local::Step { step: step_number[step as usize], result },
    };
    let there = |marks: &[bool]| -> Vec<usize> { (0..marks.len()).filter(|&i| marks[i]).collect() };
    let kept = there(&taken);
    let steps = there(&needed).into_iter().map(|i| {
        let step = &group.steps[i];
        Step { operands: step.operands.iter().map(moved).collect(), ..step.clone() }
    });
    let part = Group {
        kind: group.kind,
        name: group.name.clone(),
        operands: kept.iter().map(|&k| group.operands[k].clone()).collect(),
        steps: steps.collect(),
        results: results.iter().map(|&r| moved(&group.results[r as usize])).collect(),
    };
    (part, kept)
}
