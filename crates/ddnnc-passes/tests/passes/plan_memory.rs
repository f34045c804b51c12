use crate::build::{Builder, SGD, assert_program, model};
use ddnnc_ir::{BinaryKind, Graph, Op, Optimizer, Shape, Value, ValueType, append_optimizer, order_stores};
use ddnnc_passes::{Goal, PassError, Program, Tables, check_plan, compile, plan_memory, schedule};
use indexmap::IndexMap;

fn plan(graph: &Graph) -> Program {
    let order = schedule(graph).unwrap();
    let program = plan_memory(graph, &order, Tables::default()).unwrap();
    program.validate().unwrap();
    program
}

fn launches(program: &Program) -> Vec<&'static str> {
    program.launches.iter().map(|l| l.op.mnemonic()).collect()
}

#[test]
fn a_chain_of_elementwise_operators_stays_in_one_place() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([64]));
    let y = b.relu(x);
    let y = b.scale(2.0, y);
    let y = b.relu(y);
    b.output("y", y);
    let program = plan(&b.graph);
    assert_eq!(program.arena_bytes, 256);
    assert_program(&b.graph, &program);
}

#[test]
fn a_value_read_later_is_not_overwritten() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([64]));
    let y = b.scale(2.0, x);
    let z = b.add(y, x);
    let z = b.add(z, x);
    b.output("y", y);
    b.output("z", z);
    let program = plan(&b.graph);
    assert_eq!(program.arena_bytes, 3 * 256);
    assert_program(&b.graph, &program);
}

#[test]
fn an_operand_in_two_positions_is_overwritten_only_where_both_allow_it() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([1, 16]));
    let bias = b.op(Op::Reshape { shape: Shape::from([16]) }, &[x]);
    let y = b.op(Op::BiasAdd, &[x, bias]);
    b.output("y", y);
    let square = b.input("s", ValueType::f32([16]));
    let s = b.op(Op::Binary { kind: BinaryKind::Mul }, &[square, square]);
    b.output("square", s);
    let program = plan(&b.graph);
    assert_eq!(launches(&program).len(), 2);
    // x, its sum and s, which holds its square as well.
    assert_eq!(program.arena_bytes, 3 * 64);
    assert_program(&b.graph, &program);
}

#[test]
fn reshapes_and_gradient_stops_are_names() {
    let mut b = Builder::new();
    let x = b.parameter("w", &[2, 8]);
    let y = b.op(Op::Reshape { shape: Shape::from([16]) }, &[x]);
    let y = b.op(Op::StopGradient, &[y]);
    b.output("y", y);
    let program = plan(&b.graph);
    assert_eq!(launches(&program), [""; 0]);
    assert_eq!(program.arena_bytes, 0);
    assert_program(&b.graph, &program);
}

#[test]
fn the_old_content_is_shown_although_the_step_changes_it() {
    let mut b = Builder::new();
    let old = b.state("s", &[8]);
    let x = b.input("x", ValueType::f32([8]));
    let new = b.op(Op::Ema { momentum: 0.1, scale: 1.0 }, &[old, x]);
    b.store("s", new);
    b.output("old", old);
    b.output("new", new);
    order_stores(&mut b.graph);
    let program = plan(&b.graph);
    assert_eq!(launches(&program), ["store", "ema"]);
    assert_program(&b.graph, &program);
}

#[test]
fn contents_can_be_exchanged() {
    let mut b = Builder::new();
    let p = b.state("p", &[8]);
    let q = b.state("q", &[8]);
    b.store("p", q);
    b.store("q", p);
    let program = plan(&b.graph);
    assert_eq!(launches(&program), ["store"; 4]);
    assert_program(&b.graph, &program);
}

#[test]
fn storing_what_is_there_does_nothing() {
    let mut b = Builder::new();
    let p = b.state("p", &[8]);
    b.store("p", p);
    let program = plan(&b.graph);
    assert!(program.launches.is_empty());
    assert_program(&b.graph, &program);
}

#[test]
fn updates_in_sequence_share_the_place_of_the_state() {
    let mut b = Builder::new();
    let old = b.state("s", &[8]);
    let x = b.input("x", ValueType::f32([8]));
    let y = b.input("y", ValueType::f32([8]));
    let once = b.op(Op::Ema { momentum: 0.1, scale: 1.0 }, &[old, x]);
    let twice = b.op(Op::Ema { momentum: 0.1, scale: 2.0 }, &[once, y]);
    b.store("s", twice);
    let program = plan(&b.graph);
    assert_eq!(launches(&program), ["ema", "ema"]);
    assert_eq!(program.arena_bytes, 128);
    assert_program(&b.graph, &program);
}

#[test]
fn a_reader_after_the_update_gets_the_old_content() {
    // The reader needs the new value, and is no neighbour of the update through an order edge.
    let mut b = Builder::new();
    let old = b.state("s", &[8]);
    let x = b.input("x", ValueType::f32([8]));
    let new = b.op(Op::Ema { momentum: 0.1, scale: 1.0 }, &[old, x]);
    b.store("s", new);
    let both = b.add(new, old);
    b.output("both", both);
    let program = plan(&b.graph);
    assert_eq!(launches(&program), ["ema", "add", "store"]);
    assert_program(&b.graph, &program);
}

#[test]
fn a_reader_through_a_reshape_counts() {
    let mut b = Builder::new();
    let w = b.parameter("w", &[2, 4]);
    let flat = b.op(Op::Reshape { shape: Shape::from([8]) }, &[w]);
    let g = b.input("g", ValueType::f32([2, 4]));
    let doubled = b.scale(2.0, flat);
    b.output("doubled", doubled);
    let gradients: IndexMap<String, Value> = [("w".to_owned(), g)].into_iter().collect();
    let sgd = Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    append_optimizer(&mut b.graph, &gradients, &sgd).unwrap();
    assert_program(&b.graph, &plan(&b.graph));
}

#[test]
fn a_constant_can_be_stored_and_shown() {
    let mut b = Builder::new();
    b.state("s", &[8]);
    let c = b.constant(2.5, &[8]);
    b.store("s", c);
    b.output("c", c);
    let program = plan(&b.graph);
    assert_program(&b.graph, &program);
}

#[test]
fn one_value_can_go_to_two_states() {
    let mut b = Builder::new();
    let p = b.state("p", &[8]);
    b.state("q", &[8]);
    let x = b.input("x", ValueType::f32([8]));
    let new = b.op(Op::Ema { momentum: 0.1, scale: 1.0 }, &[p, x]);
    b.store("p", new);
    b.store("q", new);
    let program = plan(&b.graph);
    assert_eq!(launches(&program), ["ema", "store"]);
    assert_program(&b.graph, &program);
}

#[test]
fn names_that_clash_are_errors() {
    let clash = |build: &dyn Fn(&mut Builder)| {
        let mut b = Builder::new();
        build(&mut b);
        let order = b.graph.topological().unwrap();
        match plan_memory(&b.graph, &order, Tables::default()) {
            Err(PassError::Name { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    };
    let outputs = clash(&|b| {
        let x = b.input("x", ValueType::scalar());
        b.output("twice", x);
        b.output("twice", x);
    });
    assert_eq!(outputs, "twice");
    let stores = clash(&|b| {
        let x = b.input("x", ValueType::scalar());
        b.store("nowhere", x);
    });
    assert_eq!(stores, "nowhere");
    let types = clash(&|b| {
        b.state("s", &[3]);
        let x = b.input("x", ValueType::scalar());
        b.store("s", x);
    });
    assert_eq!(types, "s");
}

#[test]
fn memory_is_used_again() {
    let compiled = compile(&model(SGD), Goal::Train, &mut |_, _| {}).unwrap();
    assert!(compiled.report.arena_bytes * 2 < compiled.report.value_bytes, "{:?}", compiled.report);
}

#[test]
fn the_checker_finds_broken_plans() {
    let compiled = compile(&model(SGD), Goal::Train, &mut |_, _| {}).unwrap();
    let program = compiled.program;
    check_plan(&program).unwrap();
    // Moving any buffer of the arena onto the start breaks a plan whose arena is in use throughout.
    let mut found = 0;
    let mut tried = 0;
    for b in 0..program.buffers.len() {
        let mut broken = program.clone();
        if let ddnnc_passes::Place::Arena { offset } = &mut broken.buffers[b].place
            && *offset != 0
        {
            *offset = 0;
            tried += 1;
            found += usize::from(check_plan(&broken).is_err());
        }
    }
    assert!(tried > 20 && found * 10 > tried * 7, "{found} of {tried}");
}

#[test]
fn two_launches_cannot_change_places() {
    let mut b = Builder::new();
    let old = b.state("s", &[8]);
    let x = b.input("x", ValueType::f32([8]));
    let shown = b.scale(2.0, old);
    b.output("shown", shown);
    let new = b.op(Op::Ema { momentum: 0.1, scale: 1.0 }, &[old, x]);
    b.store("s", new);
    order_stores(&mut b.graph);
    let mut program = plan(&b.graph);
    assert_eq!(launches(&program), ["scale", "ema"]);
    program.launches.swap(0, 1);
    assert!(check_plan(&program).is_err());
}
