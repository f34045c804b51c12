use crate::build::{ADAMW, Builder, SGD, model};
use ddnnc_ir::{Graph, NodeId, Op, ValueType};
use ddnnc_passes::{Goal, compile, schedule};

fn is_topological(graph: &Graph, order: &[NodeId]) -> bool {
    let mut place = vec![usize::MAX; graph.index_bound()];
    for (i, id) in order.iter().enumerate() {
        place[id.index()] = i;
    }
    order.len() == graph.len()
        && order.iter().all(|&id| {
            let here = place[id.index()];
            graph.operands(id).iter().all(|v| place[v.node.index()] < here)
                && graph.order_predecessors(id).iter().all(|p| place[p.index()] < here)
        })
}

#[test]
fn every_node_comes_after_what_it_needs() {
    for optimizer in [SGD, ADAMW] {
        let compiled = compile(&model(optimizer), Goal::Train, &mut |_, _| {}).unwrap();
        let order = schedule(&compiled.graph).unwrap();
        assert!(is_topological(&compiled.graph, &order));
    }
}

#[test]
fn a_gradient_is_used_as_soon_as_it_is_there() {
    let compiled = crate::build::unfused(&model(SGD), Goal::Train);
    let order = schedule(&compiled.graph).unwrap();
    let mut place = vec![0; compiled.graph.index_bound()];
    for (i, id) in order.iter().enumerate() {
        place[id.index()] = i;
    }
    let mut updates = 0;
    for &id in &order {
        if !matches!(compiled.graph.node(id).op, Op::SgdUpdate { .. }) {
            continue;
        }
        updates += 1;
        let last = compiled
            .graph
            .operands(id)
            .iter()
            .map(|v| v.node)
            .chain(compiled.graph.order_predecessors(id))
            .max_by_key(|n| place[n.index()])
            .unwrap();
        // Between them stand only others that take no memory: updates, their stores, shared constants.
        for &between in &order[place[last.index()] + 1..place[id.index()]] {
            let op = &compiled.graph.node(between).op;
            let conv = matches!(op, Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Conv2dGradWeight { .. });
            assert!(!conv, "{op:?}");
        }
    }
    assert_eq!(updates, 10);
}

#[test]
fn what_frees_memory_goes_first() {
    // Two large values, each reduced to a scalar: the first is reduced before the second is made.
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([4, 1]));
    let shape = || ddnnc_ir::Shape::from([4, 1000]);
    let wide = |b: &mut Builder| b.op(Op::Pad { axis: 1, start: 0, total: 1000 }, &[x]);
    let (p, q) = (wide(&mut b), {
        let y = b.op(Op::Pad { axis: 1, start: 1, total: 1000 }, &[x]);
        assert_eq!(*b.graph.shape(y), shape());
        y
    });
    for (name, v) in [("p", p), ("q", q)] {
        let all = b.op(Op::Reduce { kind: ddnnc_ir::ReduceKind::Sum, axes: vec![0, 1] }, &[v]);
        b.output(name, all);
    }
    let order = schedule(&b.graph).unwrap();
    let names: Vec<&str> = order.iter().map(|&id| b.graph.node(id).op.mnemonic()).collect();
    assert_eq!(names, ["input", "pad", "reduce_sum", "output", "pad", "reduce_sum", "output"]);
}

#[test]
fn a_constant_comes_just_before_its_reader() {
    let mut b = Builder::new();
    let c = b.constant(1.5, &[8]);
    let x = b.input("x", ValueType::f32([8]));
    let y = b.relu(x);
    let z = b.add(y, c);
    b.output("z", z);
    let order = schedule(&b.graph).unwrap();
    let names: Vec<&str> = order.iter().map(|&id| b.graph.node(id).op.mnemonic()).collect();
    assert_eq!(names, ["input", "relu", "constant", "add", "output"]);
}
