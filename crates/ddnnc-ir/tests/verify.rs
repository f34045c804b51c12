//! Each rule of the verifier has a graph that breaks it, and operand types that do not fit are refused.

mod common;

use common::*;
use ddnnc_ir::{
    BinaryKind, Graph, IrError, Op, Optimizer, Origin, UnaryKind, Value, append_optimizer, differentiate,
    order_stores, parse, verify,
};

/// The message of the rule that a graph in text form (its lines) breaks.
fn broken(lines: &str) -> String {
    let text = format!("graph \"g\" {{\n{lines}\n}}\n");
    let graph = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    match verify(&graph) {
        Err(e) => e.to_string(),
        Ok(()) => "no rule is broken".to_string(),
    }
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
