//! What of an elementwise group can run at once: a sum is whole only when all rows have been seen.

use ddnnc_ir::{Group, GroupKind, Layout, Local, Shape, Step, ValueType, is_reduction, is_vector_step};
use std::collections::BTreeSet;

/// Which sums a value follows from: those at the same rows and channels, over the same of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    depth: usize,
    /// Of what was added up.
    pub map: (Shape, Layout),
    over_channels: bool,
}

/// For every step how many sums must be whole before it, and the sums that it follows within its kernel.
pub(crate) fn depths(group: &Group) -> (Vec<usize>, Vec<Option<Whole>>) {
    let mut depths: Vec<usize> = Vec::new();
    let mut wholes: Vec<Option<Whole>> = Vec::new();
    for step in &group.steps {
        let before = |wholes: &[Option<Whole>], depths: &[usize]| -> Vec<(usize, Option<Whole>)> {
            let of = |l: &Local| match *l {
                Local::Step { step, .. } => Some((depths[step as usize], wholes[step as usize].clone())),
                Local::Operand(_) => None,
            };
            step.operands.iter().filter_map(of).collect()
        };
        let before = before(&wholes, &depths);
        let latest = before.iter().map(|b| b.0).max().unwrap_or(0);
        let sums: Vec<&Whole> =
            before.iter().filter_map(|b| b.1.as_ref()).filter(|w| w.depth == latest).collect();
        let types: Vec<&ValueType> = step.operands.iter().filter_map(|&l| group.ty(l)).collect();
        let one = sums.first().filter(|first| sums.iter().all(|w| w == *first));
        let (depth, whole) = match one {
            _ if is_reduction(&step.op, &types) => {
                let depth = latest + usize::from(!sums.is_empty());
                (depth, Some(whole(step, types[0], depth)))
            }
            Some(&one) if is_vector_step(&step.op) => (latest, Some(one.clone())),
            _ => (latest + usize::from(!sums.is_empty()), None),
        };
        depths.push(depth);
        wholes.push(whole);
    }
    (depths, wholes)
}

fn whole(step: &Step, map: &ValueType, depth: usize) -> Whole {
    let over_channels = matches!(&step.op, ddnnc_ir::Op::Reduce { axes, .. } if axes.as_slice() == [1]);
    Whole { depth, map: (map.shape.clone(), map.layout), over_channels }
}

/// The steps by depth, as parts that run one after the other.
pub(crate) fn parts(depths: &[usize]) -> Vec<(GroupKind, Vec<usize>)> {
    let most = depths.iter().copied().max().unwrap_or(0);
    let of = |depth: usize| (0..depths.len()).filter(|&s| depths[s] == depth).collect();
    (0..=most).map(|depth| (GroupKind::Pointwise, of(depth))).collect()
}

/// The operands of a group that steps read, all they follow from included.
pub(crate) fn read(group: &Group, steps: &[usize]) -> BTreeSet<usize> {
    let mut wanted = vec![false; group.steps.len()];
    steps.iter().for_each(|&s| wanted[s] = true);
    let mut operands = BTreeSet::new();
    for s in (0..group.steps.len()).rev() {
        if !wanted[s] {
            continue;
        }
        for local in &group.steps[s].operands {
            match *local {
                Local::Operand(i) => {
                    operands.insert(i as usize);
                }
                Local::Step { step, .. } => wanted[step as usize] = true,
            }
        }
    }
    operands
}

/// Results of `writers` that may lie on an operand which `readers` read at another time: an elementwise group's result may
/// have the place of an operand of its type.
pub(crate) fn endangered(group: &Group, writers: &[usize], readers: &[usize]) -> BTreeSet<usize> {
    let operands = read(group, readers);
    let danger = |local: &Local| {
        let written = matches!(*local, Local::Step { step, .. } if writers.contains(&(step as usize)));
        let ty = group.ty(*local);
        let large = ty.is_some_and(|ty| ty.shape.rank() > 1);
        written && large && operands.iter().any(|&i| group.operands.get(i) == ty)
    };
    group.results.iter().enumerate().filter(|(_, l)| danger(l)).map(|(i, _)| i).collect()
}
