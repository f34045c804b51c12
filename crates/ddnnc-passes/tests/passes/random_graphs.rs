//! Every pass, the schedule and the memory plan over random graphs, with and without a backward pass and updates.

use crate::build::{ADAMW, Builder, PLAIN, SGD, assert_program, assert_same};
use ddnnc_ir::{
    BinaryKind, Conv, Graph, Layout, Op, Optimizer, Pool, ReduceKind, Shape, UnaryKind, Value, ValueType,
    append_optimizer, differentiate, order_stores, verify,
};
use ddnnc_passes::{PASSES, Place, Tables, autocast, canonical, check_plan, plan_memory, schedule};
use proptest::prelude::*;

const MAP: [usize; 4] = [2, 3, 4, 4];

/// One step of a random construction: which operator, and which of the values so far.
type Step = (u8, prop::sample::Index, prop::sample::Index);

/// A graph of maps [2,3,4,4], channel vectors [3] and rows [2,48] that outputs and stores some of them.
fn random_graph(steps: &[Step], outputs: &[prop::sample::Index], optimizer: Option<Optimizer>) -> Graph {
    let mut b = Builder::new();
    let mut maps = vec![b.input("image", ValueType::f32(MAP)), b.parameter("map", &MAP)];
    let mut vectors = vec![b.parameter("gain", &[3]), b.state("s0", &[3]), b.state("s1", &[3])];
    let mut rows = vec![b.input("row", ValueType::f32([2, 48]))];
    let mut states = vec!["s0", "s1"];
    let rng = b.input("rng", ValueType::i64([2]));
    for (i, (kind, p, q)) in steps.iter().enumerate() {
        let (x, y) = (*p.get(&maps), *q.get(&maps));
        let (v, w) = (*p.get(&vectors), *q.get(&vectors));
        let (r, t) = (*p.get(&rows), *q.get(&rows));
        // Operators of several nets, which use the same weights.
        b.net(["full", "medium", "small"][q.index(3)]);
        match kind % 26 {
            0 => maps.push(b.op(Op::Unary { kind: UnaryKind::ALL[i % UnaryKind::ALL.len()] }, &[x])),
            1 => maps.push(b.add(x, y)),
            2 => maps.push(b.op(Op::Binary { kind: BinaryKind::Mul }, &[x, y])),
            3 => maps.push(b.scale(if i % 3 == 0 { 1.0 } else { -0.5 }, x)),
            4 => maps.push(b.op(Op::BiasAdd, &[x, v])),
            5 => {
                let name = format!("conv{}", i % 3);
                maps.push(b.conv(&name, x, 3));
            }
            6 => maps.push(b.norm(&format!("bn{i}"), x, i % 2 == 0)),
            7 => {
                let reduced =
                    Op::Reduce { kind: [ReduceKind::Sum, ReduceKind::Mean][i % 2], axes: vec![0, 2, 3] };
                vectors.push(b.op(reduced, &[x]));
            }
            8 => maps.push(b.op(
                Op::Broadcast { shape: Shape::from(MAP), axes: vec![1], layout: Layout::RowMajor },
                &[v],
            )),
            9 => rows.push(b.op(Op::Reshape { shape: Shape::from([2, 48]) }, &[x])),
            10 => maps.push(b.op(Op::Reshape { shape: Shape::from(MAP) }, &[r])),
            11 => maps.push(b.constant([0.0, 1.0, 2.5][i % 3], &MAP)),
            12 => {
                let wide = b.op(Op::Concat { axis: 1 }, &[x, y]);
                maps.push(b.op(Op::Slice { axis: 1, start: i % 4, len: 3 }, &[wide]));
            }
            13 => rows.push(b.op(Op::Softmax, &[r])),
            14 => rows.push(b.op(Op::Standardize { eps: 1e-3 }, &[r])),
            15 => maps.push(b.op(Op::StopGradient, &[x])),
            16 => maps.push(b.op(Op::Dropout { p: 0.3, site: i as u64 % 2 }, &[x, rng])),
            17 => {
                let pool = Pool { kernel: [3, 3], stride: [1, 1], pad: [1, 1] };
                maps.push(b.op(if i % 2 == 0 { Op::MaxPool(pool) } else { Op::AvgPool(pool) }, &[x]));
            }
            18 => vectors.push(b.add(v, w)),
            19 => {
                if let Some(name) = states.pop() {
                    let (v, w) = (b.scale(0.5, v), b.scale(2.0, w));
                    let old = b.state(name, &[3]);
                    let mut new = b.op(Op::Ema { momentum: 0.2, scale: 1.5 }, &[old, v]);
                    if i % 2 == 0 {
                        new = b.op(Op::Ema { momentum: 0.2, scale: 0.5 }, &[new, w]);
                    }
                    b.store(name, new);
                }
            }
            20 => {
                if let Some(name) = states.pop() {
                    let v = b.scale(0.5, v);
                    b.state(name, &[3]);
                    b.store(name, v);
                }
            }
            21 => rows.push(b.op(Op::Binary { kind: BinaryKind::Sub }, &[r, t])),
            // What is left of a map keeps channels and rows, which no channels-last value gives as it lies.
            24 => {
                let left = b.op(Op::Reduce { kind: ReduceKind::Mean, axes: vec![3] }, &[x]);
                let across =
                    Op::Broadcast { shape: Shape::from(MAP), axes: vec![0, 1, 2], layout: Layout::RowMajor };
                maps.push(b.op(across, &[left]));
            }
            // A weight that is computed from a parameter.
            25 => {
                let w = b.parameter("kernel", &[3, 3, 1, 1]);
                let w = b.scale(0.5, w);
                let w = b.relu(w);
                let conv = Conv { stride: [1, 1], pad: [0, 0], dilation: [1, 1], groups: 1 };
                maps.push(b.op(Op::Conv2d(conv), &[x, w]));
            }
            22 => vectors.push(b.constant([0.0, 1.0, -2.0][i % 3], &[3])),
            _ => rows.push(b.op(Op::L2Normalize { eps: 1e-6 }, &[r])),
        }
    }
    for (i, at) in outputs.iter().enumerate() {
        let pool = [&maps, &vectors, &rows][i % 3];
        let value = *at.get(pool);
        b.output(&format!("out{i}"), value);
    }
    let mut graph = b.graph;
    if let Some(optimizer) = optimizer {
        train(&mut graph, &[*maps.last().unwrap(), maps[maps.len() / 2], *rows.last().unwrap()], &optimizer);
    }
    order_stores(&mut graph);
    verify(&graph).unwrap();
    graph
}

fn train(graph: &mut Graph, parts: &[Value], optimizer: &Optimizer) {
    let mut b = Builder { graph: std::mem::take(graph), net: Vec::new() };
    let mut loss = b.constant(0.0, &[]);
    for &part in parts {
        let axes = (0..b.graph.shape(part).rank()).collect();
        let square = b.op(Op::Unary { kind: UnaryKind::Square }, &[part]);
        let sum = b.op(Op::Reduce { kind: ReduceKind::Mean, axes }, &[square]);
        loss = b.add(loss, sum);
    }
    b.output("loss.total", loss);
    *graph = b.graph;
    // Gain and map may be stored by nothing else, so that an update of them is the only store.
    let gradients = differentiate(graph, loss).unwrap();
    append_optimizer(graph, &gradients, optimizer).unwrap();
}

/// What `assign_layout` may add: conversions, and constants and broadcasts in another layout.
fn is_conversion(op: &Op) -> bool {
    matches!(op, Op::ConvertLayout { .. } | Op::Constant { .. } | Op::Broadcast { .. })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((any::<u8>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..40)
}

fn outputs() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 1..7)
}

fn optimizers() -> impl Strategy<Value = Option<Optimizer>> {
    prop_oneof![Just(None), Just(Some(SGD)), Just(Some(PLAIN)), Just(Some(ADAMW))]
}

/// Plans a graph and compares the program with the graph; gives (arena, sum of the values in it).
fn check_planned(graph: &Graph) -> (usize, usize) {
    let order = schedule(graph).unwrap();
    let program = plan_memory(graph, &order, Tables::default()).unwrap();
    program.validate().unwrap();
    check_plan(&program).unwrap();
    assert_program(graph, &program);
    let sum = program
        .buffers
        .iter()
        .filter(|b| matches!(b.place, Place::Arena { .. }))
        .map(|b| b.ty.bytes().next_multiple_of(64))
        .sum();
    (program.arena_bytes, sum)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn passes_keep_the_meaning(steps in steps(), outputs in outputs(), optimizer in optimizers()) {
        let graph = random_graph(&steps, &outputs, optimizer);
        let mut all = graph.clone();
        for (name, pass) in PASSES {
            let mut after = graph.clone();
            pass(&mut after).unwrap();
            verify(&after).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_same(&graph, &after);
            // A second run finds nothing more.
            let (once, nodes) = (ddnnc_ir::print(&after).unwrap(), after.len());
            pass(&mut after).unwrap();
            if name == "fuse" {
                // Steps may stand in another order.
                prop_assert_eq!(nodes, after.len());
            } else if name == "recompute" {
                // It may find more where the peak falls in the new order; the meaning stays.
                assert_same(&graph, &after);
            } else {
                prop_assert_eq!(once, ddnnc_ir::print(&after).unwrap(), "{}", name);
            }
            pass(&mut all).unwrap();
            // Conversions between layouts, and copies that are made again, are all that a pass may add.
            if name == "recompute" {
                continue;
            }
            let added = all.nodes().filter(|&id| is_conversion(all.op(Value { node: id, result: 0 }))).count();
            prop_assert!(all.len() <= graph.len() + added, "{}", name);
        }
        verify(&all).unwrap();
        assert_same(&graph, &all);
        // Rules of algebra hold in either layout.
        canonical(&mut all).unwrap();
        verify(&all).unwrap();
        assert_same(&graph, &all);
    }

    #[test]
    fn casts_stand_where_precision_asks(steps in steps(), outputs in outputs(), optimizer in optimizers()) {
        let graph = random_graph(&steps, &outputs, optimizer);
        let mut cast = graph.clone();
        autocast(&mut cast).unwrap();
        verify(&cast).unwrap();
        let once = ddnnc_ir::print(&cast).unwrap();
        let mut twice = cast.clone();
        autocast(&mut twice).unwrap();
        prop_assert_eq!(once, ddnnc_ir::print(&twice).unwrap());
        // The other passes keep the meaning, rounding included.
        for (_, pass) in PASSES {
            pass(&mut twice).unwrap();
            verify(&twice).unwrap();
            assert_same(&cast, &twice);
        }
        check_planned(&twice);
    }

    #[test]
    fn programs_do_what_graphs_say(steps in steps(), outputs in outputs(), optimizer in optimizers()) {
        let mut graph = random_graph(&steps, &outputs, optimizer);
        let (arena, sum) = check_planned(&graph);
        prop_assert!(arena <= sum);
        for (_, pass) in PASSES {
            pass(&mut graph).unwrap();
        }
        let (arena, sum) = check_planned(&graph);
        prop_assert!(arena <= sum);
    }
}
