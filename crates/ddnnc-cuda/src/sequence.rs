//! Sequences: small operators one after the other, and every operator that no other kind of group takes.
//!
//! Steps that need nothing of each other are one level. A level of much work is one kernel, in which each step has a
//! range of blocks of its own; levels of little work that follow one another are one kernel of one block, which runs them
//! in turn with a barrier between, as launches cost more than the work does. Matrix products, convolutions, updates and
//! large reductions are left to their own emitters.

use crate::arch::Target;
use crate::code::{Argument, LaunchCode};
use crate::emit::{emit_group, single};
use crate::gemm;
use crate::places::Places;
use crate::relations;
use crate::split::{append, subgroup};
use crate::steps::{Blocks, kernels, suits};
use ddnnc_ir::{Group, GroupKind, Local, Op, Step, ValueType};
use std::collections::BTreeMap;

/// Elements that the steps of a level may take and make for the level to count as little work: a block moves about that
/// many in the time that a launch costs (some 3 µs at 80 GB/s).
const SMALL_LEVEL: usize = 1 << 16;

/// Multiply-adds of matrix products and relations that a single block may do.
const SMALL_MATMUL: usize = 1 << 18;

/// Who makes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Maker {
    /// This module.
    Own,
    /// Matrix products of a level together.
    MatMuls,
    /// Updates of a level together.
    Updates,
    /// Elementwise and reducing steps of a level together.
    Pointwise,
    /// A convolution by itself.
    Convolution(usize),
}

/// The kernels of a sequence.
///
/// # Errors
///
/// What no kernel can do.
pub fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let group = &distinct(group);
    for ty in group.operands.iter().chain(group.steps.iter().flat_map(|s| &s.results)) {
        if ty.elements() >= 1 << 31 {
            return Err(format!("{ty} has more elements than kernels count"));
        }
    }
    let places = Places::new(group);
    let levels = levels(group, &places);
    let (mut code, mut places) = (LaunchCode::default(), places);
    let mut at = 0;
    while at < levels.len() {
        let few = levels[at..].iter().take_while(|steps| is_small(group, steps)).count();
        if few > 1 {
            let made = kernels(group, &mut places, &mut code, &levels[at..at + few], Blocks::One)?;
            code.kernels.extend(made);
            at += few;
            continue;
        }
        for (maker, steps) in makers(group, &levels[at]) {
            if maker == Maker::Own {
                let made = kernels(group, &mut places, &mut code, &[steps], Blocks::Many)?;
                code.kernels.extend(made);
            } else {
                foreign(group, target, maker, &steps, &mut places, &mut code)?;
            }
        }
        at += 1;
    }
    Ok(code)
}

/// The group with results that are all different values: a value that is a result twice is copied.
fn distinct(group: &Group) -> Group {
    let mut group = group.clone();
    for i in 0..group.results.len() {
        let local = group.results[i];
        if !group.results[..i].contains(&local) {
            continue;
        }
        let Some(ty) = group.ty(local).cloned() else { continue };
        let step = group.steps.len() as u32;
        group.steps.push(Step {
            op: Op::StopGradient,
            operands: std::iter::once(local).collect(),
            results: std::iter::once(ty).collect(),
            path: String::new(),
        });
        group.results[i] = Local::Step { step, result: 0 };
    }
    group
}

/// The steps, each in the first level after all that it takes; names of memory are left out.
fn levels(group: &Group, places: &Places) -> Vec<Vec<usize>> {
    let mut levels: Vec<Vec<usize>> = Vec::new();
    let mut of_step = vec![0usize; group.steps.len()];
    for (s, step) in group.steps.iter().enumerate() {
        let after = |local: &Local| match places.resolve(*local) {
            Local::Operand(_) => 0,
            Local::Step { step, .. } => of_step[step as usize] + 1,
        };
        of_step[s] = step.operands.iter().map(after).max().unwrap_or(0);
        if places.is_name(s) {
            continue;
        }
        if levels.len() <= of_step[s] {
            levels.resize(of_step[s] + 1, Vec::new());
        }
        levels[of_step[s]].push(s);
    }
    levels
}

/// Elements that a step takes and makes.
fn elements(group: &Group, step: &Step) -> usize {
    let taken: usize = step.operands.iter().filter_map(|&l| group.ty(l)).map(|ty| ty.elements()).sum();
    taken + step.results.iter().map(|ty| ty.elements()).sum::<usize>()
}

/// Whether a level is so little work that one block does it sooner than a launch begins.
fn is_small(group: &Group, steps: &[usize]) -> bool {
    let (mut all, mut products) = (0, 0);
    for &s in steps {
        let step = &group.steps[s];
        if !matches!(step.op, Op::MatMul { .. }) && !suits(group, step) {
            return false;
        }
        if let Op::MatMul { transpose_a, .. } = step.op {
            let depth = group.ty(step.operands[0]).map_or(0, |a| a.dims()[usize::from(!transpose_a)]);
            products += depth.saturating_mul(step.results[0].elements());
        }
        if let Some(&[samples, entries]) =
            step.operands.first().and_then(|&l| group.ty(l)).map(ValueType::dims)
        {
            products += relations::work(&step.op, samples, entries);
        }
        all += elements(group, step);
    }
    all <= SMALL_LEVEL && products <= SMALL_MATMUL
}

/// The steps of a level by who makes them.
fn makers(group: &Group, steps: &[usize]) -> BTreeMap<Maker, Vec<usize>> {
    let mut made: BTreeMap<Maker, Vec<usize>> = BTreeMap::new();
    for &s in steps {
        let step = &group.steps[s];
        let operands = step.operands.iter().filter_map(|&l| group.ty(l)).cloned().collect();
        let kind = single(&step.op, operands, step.results.to_vec()).kind;
        let small_or_simple = suits(group, step)
            && (group.steps.len() == 1
                || elements(group, step) <= SMALL_LEVEL
                || !matches!(step.op, Op::ChannelStats | Op::NormalizeGradReduce { .. }));
        let maker = match (&step.op, kind) {
            (Op::MatMul { .. }, _) => Maker::MatMuls,
            (_, GroupKind::Convolution) => Maker::Convolution(s),
            _ if small_or_simple => Maker::Own,
            (_, GroupKind::Update) => Maker::Updates,
            (_, GroupKind::Pointwise) => Maker::Pointwise,
            (_, GroupKind::Sequence) => Maker::Own,
        };
        made.entry(maker).or_default().push(s);
    }
    made
}

/// Steps that another module makes.
fn foreign(
    group: &Group,
    target: &Target,
    maker: Maker,
    steps: &[usize],
    places: &mut Places,
    code: &mut LaunchCode,
) -> Result<(), String> {
    let kind = match maker {
        Maker::Own | Maker::MatMuls => GroupKind::Sequence,
        Maker::Updates => GroupKind::Update,
        Maker::Pointwise => GroupKind::Pointwise,
        Maker::Convolution(_) => GroupKind::Convolution,
    };
    let (made, operands, results) = subgroup(group, kind, steps);
    if made.results.is_empty() {
        return Ok(());
    }
    let operands: Vec<Argument> = operands.iter().map(|&l| places.place(code, group, l)).collect();
    let results: Vec<Argument> = results.iter().map(|&l| places.place(code, group, l)).collect();
    let part =
        if maker == Maker::MatMuls { gemm::emit_matmuls(&made, target)? } else { emit_group(&made, target)? };
    append(code, part, &operands, &results);
    Ok(())
}
