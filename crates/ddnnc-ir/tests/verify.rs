//! Each rule of the verifier has a graph that breaks it, and operand types that do not fit are refused.

mod common;

use common::*;
use ddnnc_ir::{
    BinaryKind, Conv, Graph, IrError, Layout, Op, Optimizer, Origin, Pool, ReduceKind, UnaryKind, Value,
    ValueType, append_optimizer, differentiate, order_stores, parse, parse_verified, print, verify,
};

/// The message of the rule that a graph in text form (its lines) breaks.
fn broken(lines: &str) -> String {
    let text = format!("graph \"g\" {{\n{lines}\n}}\n");
    let graph = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    match (verify(&graph), parse_verified(&text)) {
        (Err(e), Err(placed)) => {
            // Said of text, it is the same message with a place before it.
            let (line, said) = (placed.to_string(), e.to_string());
            assert!(line.starts_with("line ") && line.ends_with(&said), "{line}");
            said
        }
        (Ok(()), Ok(read)) => {
            assert_eq!(print(&read), print(&graph));
            "no rule is broken".to_string()
        }
        (one, other) => panic!("{one:?} and {other:?}\n{text}"),
    }
}

#[test]
fn a_broken_rule_has_the_place_of_its_operator_in_the_text() {
    let text = "graph \"g\" {\n  // a comment\n  v0 = input name=\"x\" : f32[2]\n\n  v1 = relu(v0) : f32[2]\n  \
                n2 = store(v1) name=\"s\"\n}\n";
    let wanted = "line 6, column 8: store(f32[2]) \"s\": there is no parameter or state `s`";
    let said = parse_verified(text).expect_err("a rule is broken").to_string();
    assert!(
        said.starts_with("line 6, column 8: ") && said.ends_with("there is no parameter or state `s`"),
        "{said} is not {wanted}"
    );
}

#[test]
fn rules_on_text() {
    let cases: &[(&str, &str)] = &[
        ("v0 = input name=\"x\" : f32[2]\nv1 = input name=\"x\" : f32[2]", "the name `x` is taken"),
        (
            "v0 = parameter name=\"x\" frozen=false : f32[2]\nv1 = state name=\"x\" : f32[2]",
            "the name `x` is taken",
        ),
        (
            "v0 = input name=\"x\" : f32[]\nn1 = output(v0) name=\"y\"\nn2 = output(v0) name=\"y\"",
            "the name `y` is taken",
        ),
        (
            "v0 = state name=\"s\" : f32[2]\nv1 = scale(v0) factor=2.0 : f32[2]\nn2 = store(v1) name=\"s\"\n\
             n3 = store(v1) name=\"s\"",
            "the name `s` is taken",
        ),
        ("v0 = input name=\"x\" : f32[2]\nn1 = store(v0) name=\"s\"", "there is no parameter or state `s`"),
        ("v0 = input name=\"x\" : f32[2]\nn1 = store(v0) name=\"x\"", "there is no parameter or state `x`"),
        (
            "v0 = parameter name=\"w\" frozen=true : f32[2]\nv1 = scale(v0) factor=2.0 : f32[2]\nn2 = store(v1) name=\"w\"",
            "the parameter `w` is frozen",
        ),
        (
            "v0 = state name=\"s\" : f32[2]\nv1 = input name=\"x\" : f32[3]\nn2 = store(v1) name=\"s\"",
            "`s` is f32[2], not f32[3]",
        ),
        ("v0 = input name=\"x\" : bf16[2]", "is row-major and of f32 or i64, not bf16[2]"),
        (
            "v0 = input name=\"x\" : f32[2,3,4,4]{nhwc}",
            "is row-major and of f32 or i64, not f32[2,3,4,4]{nhwc}",
        ),
        ("v0 = parameter name=\"w\" frozen=false : bf16[2]", "is row-major and of f32, not bf16[2]"),
        ("v0 = parameter name=\"w\" frozen=false : f32[2,3,4,4]{nhwc}", "is row-major and of f32, not"),
        ("v0 = parameter name=\"w\" frozen=false : i64[2]", "is row-major and of f32, not i64[2]"),
        ("v0 = state name=\"s\" : bf16[2]", "is row-major and of f32, not bf16[2]"),
        (
            "v0 = constant value=1.0 : bf16[2,3,4,4]{nhwc}\nv1 = input name=\"x\" : i64[2]",
            "no rule is broken",
        ),
        // Another reader of the old content, without an order before the update.
        (
            "v0 = state name=\"s\" : f32[2]\nv1 = input name=\"x\" : f32[2]\n\
             v2 = ema(v0, v1) momentum=0.1 scale=1.0 : f32[2]\nn3 = store(v2) name=\"s\"\nn4 = output(v0) name=\"old\"",
            "reads `s`",
        ),
        // The same through a second name of the memory.
        (
            "v0 = state name=\"s\" : f32[2]\nv1 = input name=\"x\" : f32[2]\nv2 = reshape(v0) shape=[2,1] : f32[2,1]\n\
             v3 = ema(v0, v1) momentum=0.1 scale=1.0 : f32[2]\nn4 = store(v3) name=\"s\"\nn5 = output(v2) name=\"old\"",
            "reads `s`",
        ),
        // Order before the store is not enough where the update works in place.
        (
            "v0 = state name=\"s\" : f32[2]\nv1 = input name=\"x\" : f32[2]\n\
             v2 = ema(v0, v1) momentum=0.1 scale=1.0 : f32[2]\nn3 = output(v0) name=\"old\"\nn4 = store(v2) name=\"s\" after n3",
            "reads `s`",
        ),
        (
            "v0 = input name=\"x\" : f32[4,2]\nv1 = input name=\"y\" : f32[4,2]\n\
             v2, v3 = channel_stats(v1) : f32[2], f32[2]\n\
             v4 = normalize(v0, v2, v3, v2, v2) eps=1e-5 batch_stats=true : f32[4,2]",
            "are not the channel_stats of the value",
        ),
        (
            "v0 = input name=\"x\" : f32[4,2]\nv1, v2 = channel_stats(v0) : f32[2], f32[2]\n\
             v3 = normalize(v0, v2, v1, v1, v1) eps=1e-5 batch_stats=true : f32[4,2]",
            "are not the channel_stats of the value",
        ),
        ("v0 = input name=\"x\" : f32[2,3]\nv1 = standardize(v0) eps=0.0 : f32[2,3]", "eps is 0"),
        (
            "v0 = input name=\"x\" : f32[2]\nv1 = ema(v0, v0) momentum=1.5 scale=1.0 : f32[2]",
            "momentum is 1.5",
        ),
        (
            "v0 = input name=\"x\" : f32[2,3]\nv1 = input name=\"l\" : i64[2]\n\
             v2 = cross_entropy(v0, v1) smoothing=1.0 : f32[]",
            "smoothing is 1",
        ),
        (
            "v0 = input name=\"x\" : f32[2]\nv1 = input name=\"lr\" : f32[]\n\
             v2 = sgd_update(v0, v0, v1) momentum=0.0 nesterov=true weight_decay=0.0 : f32[2]",
            "nesterov needs a momentum",
        ),
        (
            "v0 = input name=\"x\" : f32[2]\nv1 = input name=\"lr\" : f32[]\n\
             v2 = sgd_update(v0, v0, v1) momentum=0.0 nesterov=false weight_decay=-1.0 : f32[2]",
            "weight_decay is -1",
        ),
        (
            "v0 = input name=\"x\" : f32[2]\nv1 = input name=\"lr\" : f32[]\n\
             v2, v3, v4 = adamw_update(v0, v0, v0, v0, v1, v1) beta1=0.9 beta2=1.0 eps=1e-8 weight_decay=0.0 \
             : f32[2], f32[2], f32[2]",
            "beta2 is 1",
        ),
        ("v0 = input name=\"x\" : f32[2]\nn1 = output(v0) name=\"loss.total\"", "a loss is an f32 scalar"),
    ];
    for (lines, message) in cases {
        let found = broken(lines);
        assert!(found.contains(message), "{lines}\ngives: {found}\nexpected: {message}");
    }
}

#[test]
fn orders_that_are_right_pass() {
    for lines in [
        // A path is as good as an edge; a chain of updates is one writer.
        "v0 = state name=\"s\" : f32[2]\nv1 = input name=\"x\" : f32[2]\nv2 = add(v0, v1) : f32[2]\n\
         v3 = scale(v2) factor=2.0 : f32[2]\nv4 = ema(v0, v3) momentum=0.1 scale=1.0 : f32[2]\n\
         v5 = ema(v4, v1) momentum=0.1 scale=1.0 : f32[2]\nn6 = store(v5) name=\"s\"",
        // A value that is no update is copied by the store.
        "v0 = state name=\"s\" : f32[2]\nv1 = scale(v0) factor=2.0 : f32[2]\nn2 = output(v0) name=\"o\"\n\
         n3 = store(v1) name=\"s\" after n2",
    ] {
        assert_eq!(broken(lines), "no rule is broken", "{lines}");
    }
}

#[test]
fn rules_that_text_cannot_break() {
    let mut g = Graph::new("cycle");
    let x = input(&mut g, "x", &f32(&[2]));
    let a = add(&mut g, Op::Unary { kind: UnaryKind::Relu }, &[x]);
    let b = add(&mut g, Op::Unary { kind: UnaryKind::Relu }, &[a]);
    let mut wrong = g.clone();
    wrong.set_operand(a.node, 0, b);
    assert_eq!(verify(&wrong), Err(IrError::Cycle));

    let mut wrong = g.clone();
    wrong.set_operand(b.node, 0, Value { node: x.node, result: 1 });
    assert!(verify(&wrong).unwrap_err().to_string().contains("does not have"));

    let mut wrong = g.clone();
    let y = input(&mut wrong, "y", &f32(&[3]));
    wrong.set_operand(a.node, 0, y);
    assert!(verify(&wrong).unwrap_err().to_string().contains("results are f32[2], and should be f32[3]"));

    let mut wrong = g.clone();
    wrong.node_mut(a.node).op = Op::Binary { kind: BinaryKind::Add };
    assert!(verify(&wrong).unwrap_err().to_string().contains("takes 2 operands"));

    let mut wrong = g.clone();
    wrong.node_mut(a.node).op = Op::Scale { factor: f64::NAN };
    assert!(verify(&wrong).unwrap_err().to_string().contains("factor is NaN"));
    assert_eq!(verify(&g), Ok(()));
}

#[test]
fn order_stores_makes_updates_legal_and_never_a_cycle() {
    let mut g = Graph::new("order");
    let state = g.add_source(Op::State { name: "s".into() }, f32(&[2]), Origin::default()).unwrap();
    let x = input(&mut g, "x", &f32(&[2]));
    let new = add(&mut g, Op::Ema { momentum: 0.1, scale: 1.0 }, &[state, x]);
    g.add(Op::Store { name: "s".into() }, &[new], Origin::default()).unwrap();
    output(&mut g, "old", state);
    assert!(verify(&g).is_err());
    order_stores(&mut g);
    assert_eq!(verify(&g), Ok(()));

    // A reader of the old content that needs the new one cannot come first.
    let late = add(&mut g, Op::Binary { kind: BinaryKind::Add }, &[state, new]);
    output(&mut g, "late", late);
    order_stores(&mut g);
    assert!(verify(&g).unwrap_err().to_string().contains("reads `s`"));
}

/// Two updates in place, each of which reads what the other overwrites: no order is right, with stores as writers
/// (the contents are exchanged) and with averages. Neither may become a cycle.
#[test]
fn updates_from_each_others_old_content_are_refused() {
    let ema = "ema(v0, v1) momentum=0.1 scale=1.0 : f32[2]";
    let back = "ema(v1, v0) momentum=0.1 scale=1.0 : f32[2]";
    for values in [
        "n2 = store(v1) name=\"p\"\nn3 = store(v0) name=\"q\"".to_string(),
        format!("v2 = {ema}\nv3 = {back}\nn4 = store(v2) name=\"p\"\nn5 = store(v3) name=\"q\""),
    ] {
        let text = format!(
            "graph \"g\" {{\nv0 = state name=\"p\" : f32[2]\nv1 = state name=\"q\" : f32[2]\n{values}\n}}\n"
        );
        let mut g = parse(&text).unwrap();
        order_stores(&mut g);
        assert!(g.topological().is_ok());
        let message = verify(&g).unwrap_err().to_string();
        assert!(message.contains("reads `q`, and nothing makes it run before"), "{message}");
    }
    // With one of the values made apart from the other's memory there is an order.
    let text = format!(
        "graph \"g\" {{\nv0 = state name=\"p\" : f32[2]\nv1 = state name=\"q\" : f32[2]\nv2 = {ema}\n\
         v3 = scale(v0) factor=2.0 : f32[2]\nn4 = store(v2) name=\"p\"\nn5 = store(v3) name=\"q\"\n}}\n"
    );
    let mut g = parse(&text).unwrap();
    assert!(verify(&g).is_err());
    order_stores(&mut g);
    assert_eq!(verify(&g), Ok(()));
}

#[test]
fn an_appended_optimizer_is_legal() {
    for optimizer in [
        Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
        Optimizer::Adamw { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
    ] {
        let mut g = Graph::new("step");
        let x = input(&mut g, "x", &f32(&[2, 3]));
        let w = parameter(&mut g, "w", &f32(&[4, 3]));
        let op = Op::MatMul { transpose_a: false, transpose_b: true };
        let y = add(&mut g, op, &[x, w]);
        let loss = add(&mut g, Op::MeanSquaredError, &[y, y]);
        let gradients = differentiate(&mut g, loss).unwrap();
        output(&mut g, "logits", y);
        output(&mut g, "weight", w);
        append_optimizer(&mut g, &gradients, &optimizer).unwrap();
        assert_eq!(verify(&g), Ok(()));
    }
}

#[test]
fn operand_types_that_do_not_fit_are_refused() {
    for (op, types) in samples() {
        if op.is_source() {
            continue;
        }
        let right: Vec<_> = types.iter().collect();
        assert!(ddnnc_ir::infer::result_types(&op, &right).is_ok(), "{op:?}");
        let mut more = right.clone();
        more.extend([&types[0]; 2]);
        let concat = matches!(op, Op::Concat { .. });
        for wrong in [&right[..right.len() - 1], &more[..]] {
            let refused = matches!(ddnnc_ir::infer::result_types(&op, wrong), Err(IrError::Type { .. }));
            assert!(refused || concat, "{op:?} takes {} operands", wrong.len());
        }
        if op.is_sink() {
            continue;
        }
        // An operand of five dimensions and primes fits nothing but what takes any single value.
        let odd = f32(&[7, 11, 13, 2, 3]);
        for i in 0..right.len() {
            let mut wrong = right.clone();
            wrong[i] = &odd;
            let accepted = ddnnc_ir::infer::result_types(&op, &wrong).is_ok();
            let any = right.len() == 1 || matches!(op, Op::Dropout { .. }) && i == 0;
            assert!(!accepted || any, "{op:?} takes {odd} as operand {i}");
        }
    }
}

#[test]
fn only_four_dimensions_can_be_channels_last() {
    let mut g = Graph::new("g");
    let mut constant = |ty: ValueType| {
        g.add_source(Op::Constant { value: 1.0 }, ty.with_layout(Layout::ChannelsLast), Origin::default())
    };
    assert!(constant(f32(&[2, 3, 4, 4])).is_ok());
    for dims in [&[2, 3, 4][..], &[], &[2, 3, 4, 4, 4]] {
        let refused = constant(f32(dims));
        assert!(matches!(refused, Err(IrError::Type { op: "constant", .. })), "{refused:?}");
    }
}

#[test]
fn operands_are_counted_in_sixteen_bits() {
    let mut g = Graph::new("g");
    let x = input(&mut g, "x", &f32(&[1]));
    let most = usize::from(u16::MAX);
    let wide = g.add1(Op::Concat { axis: 0 }, &vec![x; most], Origin::default()).unwrap();
    assert_eq!(g.operands(wide.node).len(), most);
    let refused = g.add(Op::Concat { axis: 0 }, &vec![x; most + 1], Origin::default());
    assert!(matches!(refused, Err(IrError::Type { op: "concat", .. })), "{refused:?}");
}

/// Attributes are numbers from a file: none of them may overflow on the way to the error.
#[test]
fn attributes_out_of_all_range_are_refused() {
    const BIG: usize = usize::MAX;
    let (x, w) = (f32(&[2, 4, 8, 8]), f32(&[4, 4, 3, 3]));
    let conv = Conv { stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let pool = Pool { kernel: [2, 2], stride: [2, 2], pad: [0, 0] };
    let convs = [
        Conv { pad: [BIG, 1], ..conv },
        Conv { pad: [1 << 62, 1], ..conv },
        Conv { stride: [BIG, 1], ..conv },
        Conv { dilation: [1, BIG], ..conv },
        Conv { dilation: [0, 1], ..conv },
        Conv { stride: [0, 1], ..conv },
        Conv { groups: BIG, ..conv },
        Conv { groups: 0, ..conv },
    ];
    for conv in convs {
        for op in [Op::Conv2d(conv), Op::Conv2dGradInput { conv, input: [8, 8] }] {
            assert!(ddnnc_ir::infer::result_types(&op, &[&x, &w]).is_err(), "{op:?}");
        }
    }
    for op in [
        Op::Concat { axis: BIG },
        Op::Slice { axis: BIG, start: 0, len: 1 },
        Op::Slice { axis: 1, start: BIG, len: BIG },
        Op::Pad { axis: BIG, start: 0, total: 9 },
        Op::Pad { axis: 1, start: BIG, total: BIG },
        Op::Reduce { kind: ReduceKind::Sum, axes: vec![BIG] },
        Op::Broadcast { shape: [2, 4, 8, 8].into(), axes: vec![0, 1, 2, BIG], layout: Layout::RowMajor },
        Op::MaxPool(Pool { stride: [BIG, 1], ..pool }),
        Op::AvgPool(Pool { kernel: [BIG, BIG], pad: [BIG - 1, 0], ..pool }),
        Op::Conv2dGradInput { conv, input: [BIG, BIG] },
        Op::Conv2dGradWeight { conv, kernel: [BIG, BIG] },
    ] {
        assert!(ddnnc_ir::infer::result_types(&op, &[&x]).is_err(), "{op:?}");
        assert!(ddnnc_ir::infer::result_types(&op, &[&x, &x]).is_err(), "{op:?}");
    }
    // A map without entries has no largest one, however wide the border.
    let padded = Op::MaxPool(Pool { kernel: [2, 2], stride: [1, 1], pad: [1, 1] });
    assert!(ddnnc_ir::infer::result_types(&padded, &[&f32(&[2, 4, 0, 8])]).is_err());
}
