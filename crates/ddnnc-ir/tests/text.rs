//! The textual form: what is printed reads back as the same graph, and no text makes the reader fail otherwise than by
//! an error with a place.

mod common;

use common::*;
use ddnnc_ir::{
    BinaryKind, DType, Graph, IrError, Layout, Op, Origin, UnaryKind, Value, differentiate, parse, print,
};
use proptest::prelude::*;
use std::sync::Arc;

/// One operator of every kind, each on sources of its own.
fn sample_graph() -> Graph {
    let mut graph = Graph::new("samples \"all\"");
    let nets: Vec<Arc<str>> = vec!["full".into(), "r 20".into(), "r20".into()];
    for (i, (op, types)) in samples().into_iter().enumerate() {
        let origin = Origin::new(&format!("net.{i}"), &nets[..i % 4]);
        if op.is_source() {
            graph.add_source(op, types[0].clone(), origin).unwrap();
            continue;
        }
        let operands: Vec<Value> =
            types.iter().enumerate().map(|(k, ty)| input(&mut graph, &format!("{i}.{k}"), ty)).collect();
        let node = graph.add(op, &operands, origin).unwrap();
        if i % 5 == 0 && i > 0 {
            let before = graph.nodes().next().unwrap();
            graph.add_order(before, node);
            graph.add_order(operands[0].node, node);
        }
    }
    graph
}

/// Asserts that two graphs agree in all but the numbers of their nodes.
fn assert_same(a: &Graph, b: &Graph) {
    assert_eq!(a.name, b.name);
    let (x, y) = (a.topological().unwrap(), b.topological().unwrap());
    assert_eq!(x.len(), y.len());
    let place = |order: &[ddnnc_ir::NodeId], id| order.iter().position(|&o| o == id).unwrap();
    for (&i, &j) in x.iter().zip(&y) {
        assert_eq!(a.node(i), b.node(j));
        let operands = |g: &Graph, order: &[_], id| -> Vec<(usize, u16)> {
            g.operands(id).iter().map(|v| (place(order, v.node), v.result)).collect()
        };
        assert_eq!(operands(a, &x, i), operands(b, &y, j));
        let before = |g: &Graph, order: &[_], id| {
            let mut places: Vec<usize> = g.order_predecessors(id).iter().map(|&p| place(order, p)).collect();
            places.sort_unstable();
            places
        };
        assert_eq!(before(a, &x, i), before(b, &y, j));
    }
}

fn assert_round_trip(graph: &Graph) {
    let text = print(graph).unwrap();
    let read = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_same(graph, &read);
    assert_eq!(print(&read).unwrap(), text);
}

#[test]
fn every_operator_reads_back() {
    assert_round_trip(&sample_graph());
    assert_round_trip(&Graph::new("empty"));
}

#[test]
fn the_form_is_as_documented() {
    let mut g = Graph::new("tiny");
    let x = input(&mut g, "image", &f32(&[8, 3, 4, 4]));
    let stats =
        g.add(Op::ChannelStats, &[x], Origin::new("net.bn1", &["full".into(), "r20".into()])).unwrap();
    let mean = g.results(stats)[0];
    let first = output(&mut g, "mean", mean);
    let second = output(&mut g, "again", mean);
    g.add_order(first, second);
    g.add_order(x.node, second);
    let expected = r#"graph "tiny" {
  v0 = input name="image" : f32[8,3,4,4]
  v1, v2 = channel_stats(v0) : f32[3], f32[3] @ "net.bn1" [full, r20]
  n3 = output(v1) name="mean"
  n4 = output(v1) name="again" after v0, n3
}
"#;
    assert_eq!(print(&g).unwrap(), expected);
    let commented = expected.replace("{\n", "{ // a comment\n\n// another \"\n").replace(" = ", "=\t");
    assert_same(&parse(&commented).unwrap(), &g);
}

#[test]
fn numbers_without_a_text_are_refused() {
    for value in [f64::NAN, f64::INFINITY] {
        let mut g = Graph::new("bad");
        g.add_source(Op::Constant { value }, f32(&[]), Origin::default()).unwrap();
        assert!(matches!(print(&g), Err(IrError::Invalid { .. })));
    }
}

#[test]
fn errors_have_a_place() {
    let of = |line: &str| format!("graph \"g\" {{\n  v0 = input name=\"x\" : f32[2,3]\n  {line}\n}}\n");
    let cases: &[(&str, usize, usize, &str)] = &[
        ("", 1, 1, "expected `graph`, not the end of the text"),
        ("graph g {", 1, 7, "expected a string in quotes"),
        ("graph \"g", 1, 7, "the string has no end on its line"),
        ("graph \"\\x\" {", 1, 8, "escapes"),
        ("graph \"\\u{+41}\" {", 1, 8, "escapes"),
        ("graph \"g\" {\n", 2, 1, "expected a value"),
        ("graph \"g\" {\n}\nmore", 3, 1, "expected the end of the text"),
        (&of("v1 = relu(v9) : f32[2,3]"), 3, 13, "`v9` is not defined"),
        (&of("v1 = relu(v1) : f32[2,3]"), 3, 13, "`v1` is not defined"),
        (&of("v0 = relu(v0) : f32[2,3]"), 3, 3, "`v0` is defined twice"),
        (&of("v1, v1 = channel_stats(v0) : f32[3], f32[3]"), 3, 7, "`v1` is defined twice"),
        (&of("v1 = channel_stats(v0) : f32[3], f32[3]"), 3, 3, "as many values as results: 2"),
        (&of("v1 = relu(v0) : f32[3,2]"), 3, 17, "`: f32[2,3]`"),
        (&of("v1 = relu(v0)"), 3, 16, "`: f32[2,3]`"),
        (&of("v1 = relu(v0, v0) : f32[2,3]"), 3, 8, "takes 1 operands"),
        (&of("v1 = rely(v0) : f32[2,3]"), 3, 8, "no operator `rely`"),
        (&of("v1 = scale(v0) : f32[2,3]"), 3, 8, "`factor` is missing"),
        (&of("v1 = scale(v0) factor=inf : f32[2,3]"), 3, 25, "expected a number"),
        (&of("v1 = scale(v0) factor=1e999 : f32[2,3]"), 3, 25, "too large"),
        (&of("v1 = scale(v0) factor=1.0 factor=2.0 : f32[2,3]"), 3, 29, "stands twice"),
        (&of("v1 = scale(v0) factor=true : f32[2,3]"), 3, 25, "takes a number"),
        (&of("v1 = relu(v0) eps=1.0 : f32[2,3]"), 3, 21, "no attribute `eps`"),
        (&of("v1 = concat(v0) axis=1.5 : f32[2,3]"), 3, 24, "takes a whole number"),
        (&of("v1 = concat(v0) axis=99999999999999999999 : f32[2,3]"), 3, 24, "too large"),
        (&of("v1 = concat(v0) axis=18446744073709551615 : f32[2,3]"), 3, 24, "too large"),
        (&of("v1 = max_pool(v0) kernel=[1] stride=[1,1] pad=[0,0] : f32[2,3]"), 3, 28, "two whole numbers"),
        (&of("v1 = input name=\"y\" : f64[2]"), 3, 25, "no element type `f64`"),
        (&of("v1 = input name=\"y\""), 3, 22, "has one type"),
        (&of("v1 = input name=\"y\" : f32[1099511627776,2]"), 3, 8, "too large"),
        (&of("v1 = input name=\"y\" : f32[0,1099511627776,2]"), 3, 8, "too large"),
        (&of("v1 = output(v0) name=\"y\""), 3, 3, "a sink is named `n`"),
        (&of("n1 = relu(v0) : f32[2,3]"), 3, 3, "a value is named `v`"),
        (&of("w1 = relu(v0) : f32[2,3]"), 3, 3, "expected `v` or `n` and a number"),
        (&of("v1 = relu(v0) : f32[2,3] after v7"), 3, 34, "`v7` is not defined"),
        (&of("v1 = relu(v0) : f32[2,3] @ path"), 3, 30, "a string in quotes"),
        (&of("v1 = relu(v0) : f32[2,3] @ \"p\" [a"), 3, 36, "expected `,`, not the end of the line"),
        (&of("v1 = relu(v0) : f32[2,3] !"), 3, 28, "expected the end of the line, not '!'"),
    ];
    for (text, line, column, message) in cases {
        match parse(text) {
            Err(IrError::Parse { line: l, column: c, message: m }) => {
                assert_eq!((l, c), (*line, *column), "{text}: {m}");
                assert!(m.contains(message), "{text}: {m}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

/// A random graph of elementwise, shape and reduction operators, with its gradient, outputs and order edges.
fn random_graph(choices: &[(u8, usize, usize)]) -> Graph {
    let mut g = Graph::new("random");
    let mut values = vec![parameter(&mut g, "p", &f32(&[2, 3])), input(&mut g, "x", &f32(&[2, 3]))];
    for (n, &(kind, a, b)) in choices.iter().enumerate() {
        let (a, b) = (values[a % values.len()], values[b % values.len()]);
        let origin = Origin::new(if kind % 2 == 0 { "" } else { "net.x" }, &[]);
        let unary = UnaryKind::ALL[n % UnaryKind::ALL.len()];
        let (op, operands): (Op, &[Value]) = match kind % 6 {
            0 => (Op::Binary { kind: BinaryKind::Mul }, &[a, b]),
            1 => (Op::Unary { kind: unary }, &[a]),
            2 => (Op::Scale { factor: 1.0 / (n as f64 + 3.0) }, &[a]),
            3 => (Op::StopGradient, &[a]),
            4 => (Op::LogSoftmax, &[b]),
            _ => (Op::Standardize { eps: 1e-5 * (n + 1) as f64 }, &[b]),
        };
        let v = g.add1(op, operands, origin).unwrap();
        if kind > 128 {
            let sink = output(&mut g, &format!("out{n}"), a);
            g.add_order(sink, v.node);
        }
        values.push(v);
    }
    let loss = add(&mut g, Op::MeanSquaredError, &[values[values.len() - 1], values[0]]);
    for (name, v) in differentiate(&mut g, loss).unwrap() {
        output(&mut g, &name, v);
    }
    g
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_graphs_read_back(choices in prop::collection::vec((any::<u8>(), 0usize..99, 0usize..99), 0..40)) {
        assert_round_trip(&random_graph(&choices));
    }

    #[test]
    fn floats_and_names_read_back(value in any::<f64>().prop_filter("finite", |x| x.is_finite()), name in ".*", net in ".*") {
        let mut g = Graph::new(name.clone());
        let x = g.add_source(Op::Constant { value }, f32(&[]), Origin::new(&name, &[net.into()])).unwrap();
        output(&mut g, &name, x);
        assert_round_trip(&g);
    }

    #[test]
    fn any_text_is_a_graph_or_an_error(text in ".{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("graph \"g\" {{\n  v0 = input name=\"x\" : f32[2,3]\n  v1 = {text}\n}}\n"));
    }

    #[test]
    fn mutated_text_is_a_graph_or_an_error(changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<prop::sample::Index>()), 1..12)) {
        let mut text: Vec<char> = print(&sample_graph()).unwrap().chars().collect();
        let marks: Vec<char> = "0123456789vn=()[]:,@\"\\{}.-e \nafter".chars().collect();
        for (at, how, what) in changes {
            let at = at.index(text.len());
            let mark = marks[what.index(marks.len())];
            match how {
                0 => { text.remove(at); }
                1 => text[at] = mark,
                2 => text.insert(at, mark),
                _ => { let c = text[what.index(text.len())]; text.swap_remove(at); text.insert(at, c); }
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(graph) = parse(&text) {
            assert_round_trip(&graph);
        }
    }

    /// Inference refuses or accepts any operand types, and what it accepts is within bounds.
    #[test]
    fn inference_never_panics(picks in prop::collection::vec((any::<bool>(), prop::collection::vec(prop_oneof![0usize..6, Just(1 << 20), Just(1 << 40), Just(usize::MAX)], 0..5)), 0..8)) {
        let types: Vec<_> = picks.into_iter().map(|(float, dims)| {
            ddnnc_ir::ValueType { dtype: if float { DType::F32 } else { DType::I64 }, shape: dims.as_slice().into(), layout: Layout::RowMajor }
        }).filter(|ty| ty.shape.checked_elements().is_some()).collect();
        for (op, _) in samples() {
            for n in 0..=types.len() {
                let types: Vec<_> = types[..n].iter().collect();
                if let Ok(results) = ddnnc_ir::infer::result_types(&op, &types) {
                    assert!(results.iter().all(|ty| ty.shape.checked_elements().is_some()));
                    ddnnc_ir::infer::macs(&op, &types, &results);
                }
            }
        }
    }
}
