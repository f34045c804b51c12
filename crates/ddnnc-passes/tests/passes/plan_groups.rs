//! The memory plan of fused groups.

use crate::build::{Builder, assert_program};
use ddnnc_ir::{
    BinaryKind, Graph, Group, GroupKind, Local, NodeId, Op, Step, UnaryKind, Value, ValueType, infer,
    order_stores, verify,
};
use ddnnc_passes::{Place, Program, Tables, check_plan, plan_memory, schedule};
use proptest::prelude::*;
use std::sync::Arc;

const MAP: [usize; 4] = [2, 3, 4, 4];

/// Adds a group of steps on operands that gives some of their results.
fn group(
    b: &mut Builder,
    kind: GroupKind,
    operands: &[Value],
    steps: &[(Op, Vec<Local>)],
    results: &[Local],
) -> NodeId {
    let operand_types = operands.iter().map(|&v| b.graph.ty(v).clone()).collect();
    let mut group =
        Group { kind, name: "test".into(), operands: operand_types, steps: Vec::new(), results: Vec::new() };
    for (op, locals) in steps {
        let types: Vec<&ValueType> = locals.iter().map(|&l| group.ty(l).unwrap()).collect();
        let results = infer::result_types(op, &types).unwrap();
        let operands = locals.iter().copied().collect();
        group.steps.push(Step { op: op.clone(), operands, results, path: String::new() });
    }
    group.results = results.to_vec();
    group.check().unwrap();
    b.node(Op::Fused(Arc::new(group)), operands)
}

fn plan(graph: &Graph) -> Program {
    verify(graph).unwrap();
    let order = schedule(graph).unwrap();
    let program = plan_memory(graph, &order, Tables::default()).unwrap();
    program.validate().unwrap();
    check_plan(&program).unwrap();
    assert_program(graph, &program);
    program
}

fn p(i: u32) -> Local {
    Local::Operand(i)
}

fn s(step: u32, result: u32) -> Local {
    Local::Step { step, result }
}

fn place(program: &Program, launch: usize, operand: bool, k: usize) -> Place {
    let launch = &program.launches[launch];
    let list = if operand { &launch.operands } else { &launch.results };
    program.buffer(list[k]).place
}

#[test]
fn a_group_of_updates_works_in_the_persistent_region() {
    let mut b = Builder::new();
    let lr = b.input("lr", ValueType::scalar());
    let sgd = Op::SgdUpdate { momentum: 0.9, nesterov: true, weight_decay: 0.01 };
    let mut operands = vec![lr];
    let mut steps = Vec::new();
    for name in ["a", "b"] {
        let w = b.parameter(name, &[4, 5]);
        let m = b.state(&format!("momentum.{name}"), &[4, 5]);
        let x = b.input(&format!("grad.{name}"), ValueType::f32([4, 5]));
        let n = operands.len() as u32;
        operands.extend([w, x, m]);
        steps.push((sgd.clone(), vec![p(n), p(n + 1), p(n + 2), p(0)]));
    }
    let old = b.state("mean", &[3]);
    let new = b.input("new", ValueType::f32([3]));
    operands.extend([old, new]);
    steps.push((Op::Ema { momentum: 0.1, scale: 1.5 }, vec![p(7), p(8)]));
    let all = [s(0, 0), s(0, 1), s(1, 0), s(1, 1), s(2, 0)];
    let node = group(&mut b, GroupKind::Update, &operands, &steps, &all);
    for (i, name) in ["a", "momentum.a", "b", "momentum.b", "mean"].iter().enumerate() {
        b.store(name, Value { node, result: i as u16 });
    }
    order_stores(&mut b.graph);
    let program = plan(&b.graph);
    assert_eq!(program.launches.len(), 1);
    for (result, operand) in [(0, 1), (1, 3), (2, 4), (3, 6), (4, 7)] {
        let here = place(&program, 0, false, result);
        assert!(matches!(here, Place::Persistent { .. }));
        assert_eq!(here, place(&program, 0, true, operand));
    }
}

#[test]
fn an_elementwise_group_takes_over_an_operand_that_dies() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32(MAP));
    let add = Op::Binary { kind: BinaryKind::Add };
    let relu = Op::Unary { kind: UnaryKind::Relu };
    let y = b.scale(2.0, x);
    let steps = [(add, vec![p(0), p(1)]), (relu, vec![s(0, 0)])];
    let node = group(&mut b, GroupKind::Pointwise, &[y, x], &steps, &[s(1, 0)]);
    b.output("x", x);
    b.output("z", Value { node, result: 0 });
    let program = plan(&b.graph);
    assert_eq!(place(&program, 1, false, 0), place(&program, 1, true, 0));
    assert_eq!(program.arena_bytes, 2 * 384);
}

#[test]
fn an_operand_that_is_read_later_stays() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32(MAP));
    let y = b.scale(2.0, x);
    let relu = Op::Unary { kind: UnaryKind::Relu };
    let node = group(&mut b, GroupKind::Pointwise, &[y], &[(relu, vec![p(0)])], &[s(0, 0)]);
    let z = b.add(Value { node, result: 0 }, y);
    b.output("z", z);
    let program = plan(&b.graph);
    assert_ne!(place(&program, 1, false, 0), place(&program, 1, true, 0));
}

#[test]
fn two_results_do_not_take_over_one_operand() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32(MAP));
    let steps =
        [(Op::Unary { kind: UnaryKind::Relu }, vec![p(0)]), (Op::Scale { factor: -2.0 }, vec![s(0, 0)])];
    let node = group(&mut b, GroupKind::Pointwise, &[x], &steps, &[s(0, 0), s(1, 0)]);
    b.output("y", Value { node, result: 0 });
    b.output("z", Value { node, result: 1 });
    let program = plan(&b.graph);
    assert_eq!(place(&program, 0, false, 0), place(&program, 0, true, 0));
    assert_ne!(place(&program, 0, false, 1), place(&program, 0, true, 0));
    assert_eq!(program.arena_bytes, 2 * 384);
}

/// For each step of a group: the operator, and which values it takes.
type Steps = Vec<(u8, prop::sample::Index, prop::sample::Index)>;

/// Groups one after the other on what there is so far, each of which gives some of its steps' results.
fn random_groups(groups: &[(Steps, u8)], outputs: &[prop::sample::Index]) -> Graph {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32(MAP));
    let mut maps = vec![x, b.parameter("map", &MAP)];
    maps.push(b.scale(0.5, x));
    let gain = b.parameter("gain", &[3]);
    for (steps, shown) in groups {
        let mut operands = vec![gain];
        let mut made: Vec<(Op, Vec<Local>)> = Vec::new();
        for (kind, at, other) in steps {
            let mut take = |at: &prop::sample::Index| {
                let i = at.index(maps.len() + made.len());
                if i >= maps.len() {
                    return s((i - maps.len()) as u32, 0);
                }
                let known = operands.iter().position(|&v| v == maps[i]);
                p(known.unwrap_or_else(|| {
                    operands.push(maps[i]);
                    operands.len() - 1
                }) as u32)
            };
            let (v, w) = (take(at), take(other));
            made.push(match kind % 6 {
                0 => (Op::Unary { kind: UnaryKind::ALL[*kind as usize % UnaryKind::ALL.len()] }, vec![v]),
                1 => (Op::Scale { factor: -0.5 }, vec![v]),
                2 => (Op::BiasAdd, vec![v, p(0)]),
                3 => (Op::Binary { kind: BinaryKind::Mul }, vec![v, w]),
                _ => (Op::Binary { kind: BinaryKind::Add }, vec![v, w]),
            });
        }
        let last = made.len() as u32 - 1;
        let results: Vec<Local> =
            (0..=last).filter(|&i| i == last || shown >> (i % 8) & 1 == 1).map(|i| s(i, 0)).collect();
        let node = group(&mut b, GroupKind::Pointwise, &operands, &made, &results);
        maps.extend((0..results.len()).map(|result| Value { node, result: result as u16 }));
    }
    for (i, at) in outputs.iter().enumerate() {
        b.output(&format!("out{i}"), *at.get(&maps[2..]));
    }
    b.graph
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_groups_are_planned(
        groups in prop::collection::vec(
            (
                prop::collection::vec(
                    (any::<u8>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()),
                    1..7,
                ),
                any::<u8>(),
            ),
            1..6,
        ),
        outputs in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        plan(&random_groups(&groups, &outputs));
    }
}
