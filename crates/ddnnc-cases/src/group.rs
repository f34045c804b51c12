//! Groups, built step by step.

use super::Case;
use ddnnc_ir::reference::{Tensor, evaluate_op, to_bf16};
use ddnnc_ir::{DType, Group, GroupKind, Local, Op, Step, ValueType, infer};
use ddnnc_passes::{Device, DeviceError};
use std::sync::Arc;

/// A group in the making.
pub struct Builder {
    group: Group,
}

impl Builder {
    pub fn new(kind: GroupKind) -> Builder {
        let group = Group {
            kind,
            name: "group".to_owned(),
            operands: Vec::new(),
            steps: Vec::new(),
            results: Vec::new(),
        };
        Builder { group }
    }

    pub fn ty(&self, local: Local) -> ValueType {
        self.group.ty(local).expect("a value of the group").clone()
    }

    pub fn operand(&mut self, ty: ValueType) -> Local {
        self.group.operands.push(ty);
        Local::Operand(self.group.operands.len() as u32 - 1)
    }

    pub fn constant(&mut self, value: f64, ty: ValueType) -> Local {
        self.push(Op::Constant { value }, &[], vec![ty])[0]
    }

    /// All results of a step.
    pub fn steps(&mut self, op: Op, operands: &[Local]) -> Vec<Local> {
        let types: Vec<ValueType> = operands.iter().map(|&l| self.ty(l)).collect();
        let types: Vec<&ValueType> = types.iter().collect();
        let results = infer::result_types(&op, &types).expect("a legal step").to_vec();
        self.push(op, operands, results)
    }

    /// The one result of a step.
    pub fn step(&mut self, op: Op, operands: &[Local]) -> Local {
        self.steps(op, operands)[0]
    }

    fn push(&mut self, op: Op, operands: &[Local], results: Vec<ValueType>) -> Vec<Local> {
        let step = self.group.steps.len() as u32;
        let made = (0..results.len() as u32).map(|result| Local::Step { step, result }).collect();
        self.group.steps.push(Step {
            op,
            operands: operands.iter().copied().collect(),
            results: results.into_iter().collect(),
            path: String::new(),
        });
        made
    }

    /// The group with these results, as a case.
    pub fn finish(mut self, results: &[Local]) -> Case {
        self.group.results = results.to_vec();
        self.group.check().expect("a legal group");
        let operands = self.group.operands.clone();
        Case { op: Op::Fused(Arc::new(self.group)), operands }
    }
}

/// The group of a case.
pub fn group_of(case: &Case) -> &Group {
    match &case.op {
        Op::Fused(group) => group,
        op => panic!("{} is not a group", op.mnemonic()),
    }
}

/// The same steps as a sequence.
pub fn unfused(case: &Case) -> Case {
    let group = Group { kind: GroupKind::Sequence, ..group_of(case).clone() };
    Case { op: Op::Fused(Arc::new(group)), operands: case.operands.clone() }
}

/// The results of a group whose steps are launches of their own, each on what those before it gave.
pub fn step_by_step(
    case: &Case,
    device: &dyn Device,
    operands: &[Tensor],
) -> Result<Vec<Vec<f32>>, DeviceError> {
    let group = group_of(case);
    let mut made: Vec<Vec<Tensor>> = Vec::new();
    let value = |made: &[Vec<Tensor>], local: Local| match local {
        Local::Operand(i) => operands[i as usize].clone(),
        Local::Step { step, result } => made[step as usize][result as usize].clone(),
    };
    for step in &group.steps {
        let taken: Vec<Tensor> = step.operands.iter().map(|&l| value(&made, l)).collect();
        let results = match &step.op {
            Op::Constant { value } => {
                let ty = &step.results[0];
                let number = if ty.dtype == DType::Bf16 { to_bf16(*value) } else { *value };
                vec![vec![number; ty.elements()]]
            }
            op if op.is_alias() => vec![taken[0].data.clone()],
            op => {
                let one = Case { op: op.clone(), operands: taken.iter().map(|t| t.ty.clone()).collect() };
                let results = one.run(device, &taken, &[])?;
                results.iter().map(|r| r.iter().map(|&x| f64::from(x)).collect()).collect()
            }
        };
        let typed = step.results.iter().zip(results);
        made.push(typed.map(|(ty, data)| Tensor { ty: ty.clone(), data }).collect());
    }
    let given = group.results.iter().map(|&local| value(&made, local));
    Ok(given.map(|t| t.data.iter().map(|&x| x as f32).collect()).collect())
}

/// The operands that must be positive (variances, second moments), and those that count steps.
pub fn special(group: &Group) -> (Vec<usize>, Vec<usize>) {
    let (mut positive, mut counts) = (Vec::new(), Vec::new());
    for step in &group.steps {
        let (which, list) = match step.op {
            Op::Normalize { .. } | Op::NormalizeGradReduce { .. } | Op::NormalizeGradInput { .. } => {
                (2, &mut positive)
            }
            Op::NormalizeGradFixed { .. } => (0, &mut positive),
            Op::AdamwUpdate { .. } => {
                if let Local::Operand(i) = step.operands[5] {
                    counts.push(i as usize);
                }
                (3, &mut positive)
            }
            _ => continue,
        };
        if let Local::Operand(i) = step.operands[which] {
            list.push(i as usize);
        }
    }
    (positive, counts)
}

/// What the absolute values of a reduction's terms add up to, at most; zero for what adds nothing up.
fn added_up(op: &Op, taken: &[&Tensor], results: &[ValueType]) -> f64 {
    if !matches!(op, Op::Reduce { .. } | Op::NormalizeGradReduce { .. }) {
        return 0.0;
    }
    let mut sizes: Vec<Tensor> = taken.iter().map(|&t| t.clone()).collect();
    sizes.iter_mut().flat_map(|t| &mut t.data).for_each(|x| *x = x.abs());
    if matches!(op, Op::NormalizeGradReduce { .. }) {
        // The mean is taken off: a difference may be as large as both together.
        sizes[1].data.iter_mut().for_each(|x| *x = -*x);
    }
    let sizes: Vec<&Tensor> = sizes.iter().collect();
    let sums = evaluate_op(op, &sizes, results).expect("a step");
    sums.iter().flat_map(|t| &t.data).fold(0.0, |m, x| m.max(x.abs()))
}

/// For every result, the largest difference allowed: `relative` (2e-6 is a few roundings to f32) of the largest value on the
/// way to it (at least 1), or a few roundings to bf16 where there are such values; and `relative` of what the absolute
/// values of the terms of a sum on the way add up to, since the terms may cancel and their roundings (of a factor that
/// all of them have, say) need not.
pub fn tolerances(case: &Case, operands: &[Tensor], relative: f64) -> Vec<f64> {
    let group = group_of(case);
    let mut made: Vec<Vec<Tensor>> = Vec::new();
    // Of every step: the largest value on the way, what was added up on the way, and whether a value was bf16.
    let mut way: Vec<(f64, f64, bool)> = Vec::new();
    for step in &group.steps {
        let taken: Vec<&Tensor> = step
            .operands
            .iter()
            .map(|l| match *l {
                Local::Operand(i) => &operands[i as usize],
                Local::Step { step, result } => &made[step as usize][result as usize],
            })
            .collect();
        let results = evaluate_op(&step.op, &taken, &step.results).expect("a step");
        let before = step.operands.iter().filter_map(|l| match *l {
            Local::Operand(_) => None,
            Local::Step { step, .. } => Some(way[step as usize]),
        });
        let (most, sum, half) =
            before.fold((1.0f64, 0.0f64, false), |m, w| (m.0.max(w.0), m.1.max(w.1), m.2 | w.2));
        let most = results.iter().flat_map(|t| &t.data).fold(most, |m, x| m.max(x.abs()));
        let sum = sum.max(added_up(&step.op, &taken, &step.results));
        way.push((most, sum, half || step.results.iter().any(|ty| ty.dtype == DType::Bf16)));
        made.push(results);
    }
    let of = |l: &Local| match *l {
        Local::Operand(_) => 0.0,
        Local::Step { step, .. } => match way[step as usize] {
            (most, sum, true) => (most / 64.0).max(sum * relative),
            (most, sum, false) => most.max(sum) * relative,
        },
    };
    group.results.iter().map(of).collect()
}
