//! What a launch computes and moves, whatever runs it: what its time is compared with in a profile.

use crate::{BufferId, Launch, Program};
use ddnnc_ir::{
    DType, GroupKind, Op, ValueType, infer, is_convolution, is_pointwise, is_reduction, is_update,
};
use rustc_hash::FxHashSet;

/// What kind of work a launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkKind {
    /// Convolutions of activations and weights.
    Forward,
    /// Gradients of convolutions by their activations.
    InputGradient,
    /// Gradients of convolutions by their weights.
    WeightGradient,
    /// Matrix products.
    Product,
    /// Elementwise chains and sums of such values.
    Elementwise,
    /// Small operators one after the other.
    Sequence,
    /// Updates of parameters and states.
    Update,
    /// Everything else: pooling, losses, copies. It stays the last.
    Other,
}

impl WorkKind {
    /// Every kind.
    pub const ALL: [WorkKind; 8] = [
        WorkKind::Forward,
        WorkKind::InputGradient,
        WorkKind::WeightGradient,
        WorkKind::Product,
        WorkKind::Elementwise,
        WorkKind::Sequence,
        WorkKind::Update,
        WorkKind::Other,
    ];

    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkKind::Forward => "forward",
            WorkKind::InputGradient => "input grad",
            WorkKind::WeightGradient => "weight grad",
            WorkKind::Product => "product",
            WorkKind::Elementwise => "elementwise",
            WorkKind::Sequence => "sequence",
            WorkKind::Update => "update",
            WorkKind::Other => "other",
        }
    }

    fn of(op: &Op, operands: &[&ValueType]) -> WorkKind {
        match op {
            Op::Conv2d(_) => WorkKind::Forward,
            Op::Conv2dGradInput { .. } => WorkKind::InputGradient,
            Op::Conv2dGradWeight { .. } => WorkKind::WeightGradient,
            Op::MatMul { .. } => WorkKind::Product,
            Op::Fused(group) => match group.kind {
                GroupKind::Pointwise => WorkKind::Elementwise,
                GroupKind::Sequence => WorkKind::Sequence,
                GroupKind::Update => WorkKind::Update,
                GroupKind::Convolution => group
                    .convolutions()
                    .next()
                    .map_or(WorkKind::Other, |(_, s)| WorkKind::of(&s.op, operands)),
            },
            op if is_update(op) => WorkKind::Update,
            op if is_pointwise(op) || is_reduction(op, operands) => WorkKind::Elementwise,
            _ => WorkKind::Other,
        }
    }
}

/// What a launch computes and moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What kind of work it is.
    pub kind: WorkKind,
    /// Multiply-accumulates of convolutions and matrix products, by their definition: an algorithm may need fewer.
    pub macs: u64,
    /// Whether the operands of all these are bf16.
    pub bf16: bool,
    /// Bytes of the operands, each counted once.
    pub bytes_read: u64,
    /// Bytes of the results.
    pub bytes_written: u64,
}

impl Work {
    /// The work of a launch of a program.
    pub fn new(program: &Program, launch: &Launch) -> Work {
        let operands: Vec<&ValueType> = launch.operands.iter().map(|&b| &program.buffer(b).ty).collect();
        let bytes = |all: &[BufferId]| {
            let mut seen = FxHashSet::default();
            let new = all.iter().filter(|b| seen.insert(b.0));
            new.map(|&b| program.buffer(b).ty.bytes() as u64).sum()
        };
        Work {
            kind: WorkKind::of(&launch.op, &operands),
            macs: macs(program, launch),
            bf16: multiplies_bf16(&launch.op, &operands) == Some(true),
            bytes_read: bytes(&launch.operands),
            bytes_written: bytes(&launch.results),
        }
    }
}

/// Multiply-accumulates of a launch: convolutions and matrix products.
pub(crate) fn macs(program: &Program, launch: &Launch) -> u64 {
    let ty = |b: &BufferId| &program.buffer(*b).ty;
    let operands: Vec<&ValueType> = launch.operands.iter().map(ty).collect();
    let results: Vec<ValueType> = launch.results.iter().map(|b| ty(b).clone()).collect();
    infer::macs(&launch.op, &operands, &results)
}

/// Whether all products are of bf16; `None` where there is none.
fn multiplies_bf16(op: &Op, operands: &[&ValueType]) -> Option<bool> {
    match op {
        Op::Fused(group) => {
            let of = |step: &ddnnc_ir::Step| {
                let types: Vec<&ValueType> = step.operands.iter().filter_map(|&l| group.ty(l)).collect();
                multiplies_bf16(&step.op, &types)
            };
            group.steps.iter().filter_map(of).reduce(|a, b| a && b)
        }
        op if is_convolution(op) || matches!(op, Op::MatMul { .. }) => {
            Some(operands.iter().take(2).all(|ty| ty.dtype == DType::Bf16))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Place};
    use ddnnc_ir::{BinaryKind, Conv};
    use indexmap::IndexMap;

    fn program(types: &[ValueType], launches: Vec<Launch>) -> Program {
        let place = Place::Arena { offset: 0 };
        Program {
            name: "p".to_owned(),
            buffers: types.iter().map(|ty| Buffer { ty: ty.clone(), place }).collect(),
            launches,
            inputs: IndexMap::new(),
            outputs: IndexMap::new(),
            persistent: IndexMap::new(),
            arena_bytes: 0,
            persistent_bytes: 0,
        }
    }

    fn launch(op: Op, operands: &[u32], result: u32) -> Launch {
        let operands = operands.iter().map(|&b| BufferId(b)).collect();
        Launch { op, operands, results: vec![BufferId(result)], path: "here".to_owned() }
    }

    #[test]
    fn every_kind_of_work_is_listed() {
        let places = WorkKind::ALL.map(|kind| kind as usize);
        assert_eq!(places.to_vec(), (0..=WorkKind::Other as usize).collect::<Vec<_>>());
    }

    #[test]
    fn products_and_bytes_are_counted_by_definition() {
        let conv = Conv { stride: [1; 2], pad: [1; 2], dilation: [1; 2], groups: 1 };
        let x = ValueType::f32([2, 3, 8, 8]);
        let (w, y) = (ValueType::f32([5, 3, 3, 3]), ValueType::f32([2, 5, 8, 8]));
        let half = |ty: &ValueType| ty.clone().with_dtype(DType::Bf16);
        let types = [x.clone(), w.clone(), y.clone(), half(&x), half(&w)];
        let add = Op::Binary { kind: BinaryKind::Add };
        let launches = vec![
            launch(Op::Conv2d(conv), &[0, 1], 2),
            launch(Op::Conv2d(conv), &[3, 4], 2),
            launch(add, &[0, 0], 0),
        ];
        let program = program(&types, launches);
        let work = |i: usize| Work::new(&program, &program.launches[i]);
        let forward = Work {
            kind: WorkKind::Forward,
            macs: 2 * 5 * 64 * 27,
            bf16: false,
            bytes_read: 4 * (2 * 3 * 64 + 5 * 27),
            bytes_written: 4 * 2 * 5 * 64,
        };
        assert_eq!(work(0), forward);
        assert_eq!(work(1), Work { bf16: true, bytes_read: forward.bytes_read / 2, ..forward });
        // An operand that is read twice comes once from memory.
        let bytes = 4 * 2 * 3 * 64;
        let kind = WorkKind::Elementwise;
        assert_eq!(work(2), Work { kind, macs: 0, bf16: false, bytes_read: bytes, bytes_written: bytes });
    }
}
