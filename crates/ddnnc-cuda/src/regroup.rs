//! Groups of convolutions rewritten so that each convolution stands in a part of its own, and what cannot run in the
//! same kernel stands apart.

use crate::arch::Target;
use crate::convolution::Geometry;
use crate::tiles::Unit;
use ddnnc_ir::{BinaryKind, Group, Local, Op, Step, ValueType, is_convolution, is_reduction};
use smallvec::smallvec;

/// Steps by when they can run: before the convolutions' kernel, in it, after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub early: Vec<usize>,
    pub middle: Vec<usize>,
    pub late: Vec<usize>,
}

/// The steps that an operand list refers to.
pub(crate) fn taken(step: &Step) -> impl Iterator<Item = usize> + '_ {
    step.operands.iter().filter_map(|l| match *l {
        Local::Step { step, .. } => Some(step as usize),
        Local::Operand(_) => None,
    })
}

/// How often each step is read, as an operand or as a result of the group.
pub(crate) fn uses(group: &Group) -> Vec<usize> {
    let mut uses = vec![0; group.steps.len()];
    for local in group.steps.iter().flat_map(|s| &s.operands).chain(&group.results) {
        if let Local::Step { step, .. } = *local {
            uses[step as usize] += 1;
        }
    }
    uses
}

/// For every step, the convolutions that it follows, itself included.
pub(crate) fn convolutions_before(group: &Group) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::with_capacity(group.steps.len());
    for (i, step) in group.steps.iter().enumerate() {
        let mut mine: Vec<usize> = taken(step).flat_map(|s| all[s].clone()).collect();
        if is_convolution(&step.op) {
            mine.push(i);
        }
        mine.sort_unstable();
        mine.dedup();
        all.push(mine);
    }
    all
}

fn reduces(group: &Group, step: &Step) -> bool {
    let types: Vec<&ValueType> = step.operands.iter().filter_map(|&l| group.ty(l)).collect();
    is_reduction(&step.op, &types)
}

/// Marks what the marked steps need.
fn close(group: &Group, marked: &mut [bool]) {
    for i in (0..group.steps.len()).rev() {
        if marked[i] {
            taken(&group.steps[i]).for_each(|s| marked[s] = true);
        }
    }
}

/// Rows and columns of a tile, for the question how often an element is made.
const TILE: usize = 128;

/// Whether an operand that is read so often is made before, by a kernel of its own, instead of by every block that reads it:
/// making an element takes a multiprocessor of an H100 about a twentieth of a cycle, while its matrix units wait.
fn is_made_before(elements: usize, often: f64, target: &Target) -> bool {
    // Microseconds for a million elements: on all multiprocessors, and through memory and back.
    let (make, copy) = (33.0 / f64::from(target.multiprocessors.max(1)), 1.2);
    elements as f64 / 1e6 * (make * often - copy) > target.launch_us
}

/// The operands of a convolution on matrix units that are made before it.
fn made_before(group: &Group, step: &Step, target: &Target) -> Vec<usize> {
    let Ok(geometry) = Geometry::of(group, step) else { return Vec::new() };
    let (inputs, outputs) = (geometry.group_inputs(), geometry.group_outputs());
    if inputs == 1 || outputs == 1 {
        // These are not products of matrices.
        return Vec::new();
    }
    let often = |i: usize| {
        let tiles = |extent: usize| extent.div_ceil(TILE) as f64;
        let area = |[h, w]: [usize; 2]| (h * w).max(1) as f64;
        let taps = geometry.taps() as f64;
        let taps_of_x = taps * area(geometry.output) / area(geometry.input);
        match (&step.op, i) {
            (Op::Conv2d(_) | Op::Conv2dGradWeight { .. }, 0) => taps_of_x * tiles(outputs),
            (Op::Conv2dGradInput { .. }, 0) => taps * tiles(inputs),
            (Op::Conv2dGradWeight { .. }, 1) => tiles(geometry.taps() * inputs),
            // Weights are made before in any case.
            _ => 0.0,
        }
    };
    let mut made = Vec::new();
    for (i, local) in step.operands.iter().enumerate() {
        if let (&Local::Step { step: s, .. }, Some(ty)) = (local, group.ty(*local))
            && Unit::of(ty.dtype, target) != Unit::Exact
            && is_made_before(ty.elements(), often(i), target)
        {
            made.push(s as usize);
        }
    }
    made
}

/// Where no convolution takes part: results, sums and what follows sums, the weight, and operands
/// that are made before.
fn early(group: &Group, convolutions: &[Vec<usize>], target: &Target) -> Vec<bool> {
    let mut early = vec![false; group.steps.len()];
    for (i, step) in group.steps.iter().enumerate() {
        let result =
            group.results.iter().any(|r| matches!(*r, Local::Step { step, .. } if step as usize == i));
        let after_sum =
            taken(step).any(|s| early[s] && !group.steps[s].results.is_empty() && convolutions[s].is_empty());
        early[i] =
            convolutions[i].is_empty() && (result || reduces(group, step) || (after_sum && vector(step)));
    }
    for (_, step) in group.convolutions() {
        if let (Op::Conv2d(_) | Op::Conv2dGradInput { .. }, Some(&Local::Step { step: w, .. })) =
            (&step.op, step.operands.get(1))
        {
            early[w as usize] = true;
        }
        let before = made_before(group, step, target);
        before.into_iter().filter(|&s| convolutions[s].is_empty()).for_each(|s| early[s] = true);
    }
    close(group, &mut early);
    early
}

fn vector(step: &Step) -> bool {
    step.results.iter().all(|ty| ty.shape.rank() <= 1)
}

fn sorted(early: &[bool], late: &[bool]) -> Times {
    let mut times = Times::default();
    for i in 0..early.len() {
        if late[i] {
            times.late.push(i);
        } else if early[i] {
            times.early.push(i);
        } else {
            times.middle.push(i);
        }
    }
    times
}

/// Times for forward convolutions and input gradients: what meets several convolutions, or needs a sum whole, comes
/// after them.
///
/// # Errors
///
/// A convolution of what a convolution made.
pub(crate) fn times_of_rows(group: &Group, target: &Target) -> Result<Times, String> {
    let convolutions = convolutions_before(group);
    let early = early(group, &convolutions, target);
    let mut late = vec![false; group.steps.len()];
    // Steps in the kernel that a sum of the kernel precedes.
    let mut summed = vec![false; group.steps.len()];
    for (i, step) in group.steps.iter().enumerate() {
        if early[i] {
            continue;
        }
        let after = taken(step).any(|s| summed[s]);
        late[i] = convolutions[i].len() > 1 || taken(step).any(|s| late[s]) || (after && !vector(step));
        summed[i] = after || (!convolutions[i].is_empty() && reduces(group, step));
        if late[i] && is_convolution(&step.op) {
            return Err("a convolution of a convolution".to_owned());
        }
    }
    if group.convolutions().any(|(i, _)| convolutions[i].len() > 1) {
        return Err("a convolution of a convolution".to_owned());
    }
    Ok(sorted(&early, &late))
}

/// The sums of weight gradients: for each step that is one, the convolutions that it adds up.
pub(crate) fn weight_sums(group: &Group) -> Vec<Vec<usize>> {
    let uses = uses(group);
    let mut sums: Vec<Vec<usize>> = Vec::with_capacity(group.steps.len());
    for (i, step) in group.steps.iter().enumerate() {
        let parts: Vec<usize> = taken(step).collect();
        let adds = matches!(step.op, Op::Binary { kind: BinaryKind::Add })
            && parts.len() == 2
            && parts.iter().all(|&p| !sums[p].is_empty() && uses[p] == 1);
        sums.push(if is_convolution(&step.op) {
            vec![i]
        } else if adds {
            parts.iter().flat_map(|&p| sums[p].clone()).collect()
        } else {
            Vec::new()
        });
    }
    sums
}

/// Times for weight gradients: behind a sum of them everything comes after.
pub(crate) fn times_of_weights(group: &Group, target: &Target) -> Times {
    let convolutions = convolutions_before(group);
    let early = early(group, &convolutions, target);
    let sums = weight_sums(group);
    let late: Vec<bool> =
        (0..group.steps.len()).map(|i| !convolutions[i].is_empty() && sums[i].is_empty()).collect();
    sorted(&early, &late)
}

/// Convolutions of one weight whose results only meet in a sum are one convolution of the sum of their operands, as
/// convolutions are linear: `conv(a) + b + conv(c)` becomes `conv(a + c) + b`.
pub(crate) fn merge_sums(group: &Group) -> Group {
    let uses = uses(group);
    let add = |i: usize| matches!(group.steps[i].op, Op::Binary { kind: BinaryKind::Add });
    let inner = |local: Local| match local {
        Local::Step { step, .. } => (uses[step as usize] == 1).then_some(step as usize),
        Local::Operand(_) => None,
    };
    // Sums that are no summand of another sum, and their summands from left to right.
    let mut summand = vec![false; group.steps.len()];
    for step in group.steps.iter().filter(|s| matches!(s.op, Op::Binary { kind: BinaryKind::Add })) {
        step.operands.iter().filter_map(|&l| inner(l)).filter(|&s| add(s)).for_each(|s| summand[s] = true);
    }
    let leaves = |root: usize| {
        let (mut leaves, mut stack, mut adds) =
            (Vec::new(), vec![Local::Step { step: root as u32, result: 0 }], Vec::new());
        while let Some(local) = stack.pop() {
            match local {
                Local::Step { step, .. } if step as usize == root || inner(local).is_some_and(add) => {
                    adds.push(step as usize);
                    stack.extend(group.steps[step as usize].operands.iter().rev());
                }
                leaf => leaves.push(leaf),
            }
        }
        (leaves, adds)
    };
    let convolution = |local: &Local| {
        inner(*local).filter(|&s| matches!(group.steps[s].op, Op::Conv2d(_) | Op::Conv2dGradInput { .. }))
    };
    let mut gone = vec![false; group.steps.len()];
    let mut merged: Vec<Option<Vec<Local>>> = vec![None; group.steps.len()];
    for root in (0..group.steps.len()).filter(|&i| add(i) && !summand[i]) {
        let (leaves, adds) = leaves(root);
        let convolutions: Vec<usize> = leaves.iter().filter_map(convolution).collect();
        if convolutions.len() > 1 {
            adds.iter().chain(&convolutions).for_each(|&s| gone[s] = true);
            merged[root] = Some(leaves);
        }
    }
    let mut made = Group { steps: Vec::new(), ..group.clone() };
    let mut place: Vec<u32> = vec![0; group.steps.len()];
    let moved = |place: &[u32], local: Local| match local {
        Local::Step { step, result } => Local::Step { step: place[step as usize], result },
        operand => operand,
    };
    let push = |made: &mut Group, op: &Op, operands: &[Local], ty: &ValueType, path: &str| {
        made.steps.push(Step {
            op: op.clone(),
            operands: operands.iter().copied().collect(),
            results: smallvec![ty.clone()],
            path: path.to_owned(),
        });
        Local::Step { step: made.steps.len() as u32 - 1, result: 0 }
    };
    for (i, step) in group.steps.iter().enumerate() {
        let Some(leaves) = &merged[i] else {
            if !gone[i] {
                let mut step = step.clone();
                step.operands.iter_mut().for_each(|l| *l = moved(&place, *l));
                place[i] = made.steps.len() as u32;
                made.steps.push(step);
            }
            continue;
        };
        let sum = Op::Binary { kind: BinaryKind::Add };
        let mut total: Option<Local> = None;
        let mut first = None;
        for &c in leaves.iter().filter_map(convolution).collect::<Vec<_>>().iter() {
            let c = &group.steps[c];
            let x = moved(&place, c.operands[0]);
            first.get_or_insert(c);
            total = Some(match total {
                None => x,
                Some(before) => {
                    let ty = made.ty(x).cloned().unwrap_or_else(|| step.results[0].clone());
                    push(&mut made, &sum, &[before, x], &ty, &c.path)
                }
            });
        }
        let (Some(total), Some(first)) = (total, first) else { continue };
        let weight = moved(&place, first.operands[1]);
        let mut value = push(&mut made, &first.op, &[total, weight], &first.results[0], &first.path);
        for leaf in leaves.iter().filter(|l| convolution(l).is_none()) {
            let leaf = moved(&place, *leaf);
            value = push(&mut made, &sum, &[value, leaf], &step.results[0], &step.path);
        }
        if let Local::Step { step, .. } = value {
            place[i] = step;
        }
    }
    made.results = group.results.iter().map(|&r| moved(&place, r)).collect();
    made
}

/// Gives each convolution copies of the steps that it shares with others, and leaves out what no result needs. `results`
/// are what the new group is to give; each follows one convolution.
pub(crate) fn apart(group: &Group, results: &[Local]) -> Group {
    let convolutions = convolutions_before(group);
    let mut made = Group { steps: Vec::new(), results: results.to_vec(), ..group.clone() };
    let follows = |local: &Local, convolution: usize| matches!(*local, Local::Step { step, .. } if convolutions[step as usize] == [convolution]);
    for (c, _) in group.convolutions() {
        let mut needed = vec![false; group.steps.len()];
        for local in results.iter().filter(|r| follows(r, c)) {
            if let Local::Step { step, .. } = *local {
                needed[step as usize] = true;
            }
        }
        close(group, &mut needed);
        let mut place = vec![0u32; group.steps.len()];
        let moved = |place: &[u32], local: Local| match local {
            Local::Step { step, result } => Local::Step { step: place[step as usize], result },
            operand => operand,
        };
        for (i, step) in group.steps.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let mut step = step.clone();
            step.operands.iter_mut().for_each(|l| *l = moved(&place, *l));
            place[i] = made.steps.len() as u32;
            made.steps.push(step);
        }
        for (r, local) in results.iter().enumerate().filter(|(_, r)| follows(r, c)) {
            made.results[r] = moved(&place, *local);
        }
    }
    made
}
