use crate::build::{ADAMW, PLAIN, SGD, assert_program, assert_same, eval, feeds, mismatches, model, run};
use ddnnc_ir::reference::evaluate;
use ddnnc_ir::{Graph, Model, Op, append_optimizer, differentiate, order_stores};
use ddnnc_passes::{Compiled, Goal, PassError, PersistentKind, check_plan, compile};

fn quiet(model: &Model, goal: Goal) -> Compiled {
    compile(model, goal, &mut |_, _| {}).unwrap()
}

fn phases(model: &Model, goal: Goal) -> Vec<(String, Graph)> {
    let mut seen = Vec::new();
    compile(model, goal, &mut |name, graph| seen.push((name.to_owned(), graph.clone()))).unwrap();
    seen
}

/// The step as the definitions give it, without any pass.
fn plain_step(model: &Model) -> Graph {
    let mut graph = model.graph.clone();
    let loss = graph.output("loss.total").unwrap();
    let gradients = differentiate(&mut graph, loss).unwrap();
    append_optimizer(&mut graph, &gradients, &model.recipe.optimizer).unwrap();
    order_stores(&mut graph);
    graph
}

#[test]
fn every_phase_of_training_means_the_same() {
    for optimizer in [SGD, PLAIN, ADAMW] {
        let model = model(optimizer);
        let seen = phases(&model, Goal::Train);
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["forward", "shared", "grad", "step", "fused"]);
        assert_same(&seen[0].1, &seen[1].1);
        let plain = plain_step(&model);
        assert_same(&plain, &seen[3].1);
        assert_same(&plain, &seen[4].1);
    }
}

#[test]
fn a_training_program_does_what_the_plain_step_does() {
    for optimizer in [SGD, PLAIN, ADAMW] {
        let model = model(optimizer);
        let compiled = quiet(&model, Goal::Train);
        check_plan(&compiled.program).unwrap();
        assert_program(&plain_step(&model), &compiled.program);
        assert_program(&compiled.graph, &compiled.program);
    }
}

#[test]
fn updates_are_made_in_place() {
    let compiled = quiet(&model(SGD), Goal::Train);
    let copies = compiled.program.launches.iter().filter(|l| matches!(l.op, Op::Store { .. })).count();
    assert_eq!(copies, 0);
}

#[test]
fn a_gradient_program_shows_every_gradient_and_statistic_and_changes_nothing() {
    let model = model(SGD);
    let compiled = quiet(&model, Goal::Gradients);
    let (outputs, persistent) = run(&compiled.program);
    for (name, entry) in &model.parameters {
        assert_eq!(outputs.contains_key(&format!("grad.{name}")), !entry.frozen, "{name}");
    }
    assert!(outputs["grad.unreached.weight"].data.iter().all(|&x| x == 0.0));
    assert!(outputs["grad.net.stem.conv1.weight"].data.iter().all(|&x| x != 0.0));
    for name in model.states.keys() {
        assert!(outputs.contains_key(&format!("state.{name}")), "{name}");
    }
    assert_eq!(outputs["state.net.idle.running_mean"], persistent["net.idle.running_mean"]);
    let updated = eval(&model.graph).stores;
    assert_eq!(updated.len(), 4);
    for (name, tensor) in &updated {
        let shown = [(name.clone(), outputs[&format!("state.{name}")].clone())].into_iter().collect();
        let expected = [(name.clone(), tensor.clone())].into_iter().collect();
        assert_eq!(mismatches(&shown, &expected, 1e-9), 0);
    }
    assert_program(&compiled.graph, &compiled.program);
}

#[test]
fn gradients_are_those_of_the_plain_backward_pass() {
    let model = model(SGD);
    let (outputs, _) = run(&quiet(&model, Goal::Gradients).program);
    let mut graph = model.graph.clone();
    let loss = graph.output("loss.total").unwrap();
    for (name, value) in differentiate(&mut graph, loss).unwrap() {
        graph.add(Op::Output { name: format!("grad.{name}") }, &[value], Default::default()).unwrap();
    }
    let mut expected = eval(&graph).outputs;
    let shown = expected.keys().map(|name| (name.clone(), outputs[name].clone())).collect();
    expected.sort_keys();
    assert_eq!(expected.keys().filter(|name| name.starts_with("grad.")).count(), 10);
    assert_eq!(mismatches(&expected, &shown, 1e-9), 0);
}

#[test]
fn gradients_agree_with_central_differences() {
    let model = model(SGD);
    let (outputs, _) = run(&quiet(&model, Goal::Gradients).program);
    let base = feeds(&model.graph);
    let h = 1e-6;
    // Only the small net's head reaches the loss by no detached way.
    for name in ["net.head.linear1@small.weight", "net.head.linear1@small.bias"] {
        for i in 0..base[name].data.len() {
            let at = |delta: f64| {
                let mut feeds = base.clone();
                feeds[name].data[i] += delta;
                evaluate(&model.graph, &feeds).unwrap().outputs["loss.total"].data[0]
            };
            let numeric = (at(h) - at(-h)) / (2.0 * h);
            let exact = outputs[&format!("grad.{name}")].data[i];
            let close = (numeric - exact).abs() < 1e-6;
            assert!(close, "{name}: {numeric} and {exact}");
        }
    }
}

#[test]
fn a_statistics_program_only_stores_statistics() {
    let model = model(SGD);
    let compiled = quiet(&model, Goal::Statistics);
    assert!(compiled.program.outputs.is_empty());
    assert!(compiled.graph.nodes().all(|id| !matches!(compiled.graph.node(id).op, Op::CrossEntropy { .. })));
    let (_, persistent) = run(&compiled.program);
    // The batch counts alone: the spec's momentum is for training.
    let mut alone = model.graph.clone();
    for id in alone.nodes().collect::<Vec<_>>() {
        if let Op::Ema { momentum, .. } = &mut alone.node_mut(id).op {
            *momentum = 1.0;
        }
    }
    let expected = eval(&alone).stores;
    assert_ne!(mismatches(&expected, &eval(&model.graph).stores, 1e-9), 0);
    let stored = expected.keys().map(|name| (name.clone(), persistent[name].clone())).collect();
    assert_eq!(mismatches(&expected, &stored, 1e-9), 0);
    assert_program(&compiled.graph, &compiled.program);
}

#[test]
fn an_evaluation_program_stores_nothing() {
    let model = model(SGD);
    let compiled = quiet(&model, Goal::Evaluate);
    let (outputs, _) = run(&compiled.program);
    assert_eq!(mismatches(&eval(&model.graph).outputs, &outputs, 1e-9), 0);
    assert_program(&compiled.graph, &compiled.program);
}

#[test]
fn every_program_has_the_models_tables() {
    let model = model(ADAMW);
    for goal in [Goal::Train, Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
        let program = quiet(&model, goal).program;
        assert!(program.inputs.contains_key("image") && program.inputs.contains_key("label"));
        for name in model.parameters.keys() {
            assert_eq!(program.persistent[name].kind, PersistentKind::Parameter);
        }
        for name in model.states.keys() {
            assert_eq!(program.persistent[name].kind, PersistentKind::Statistic);
        }
        let optimizer = program.persistent.values().filter(|p| p.kind == PersistentKind::Optimizer).count();
        let trained = model.parameters.iter().filter(|(n, p)| !p.frozen && *n != "unreached.weight").count();
        assert_eq!(optimizer, if goal == Goal::Train { 2 * trained } else { 0 });
    }
}

#[test]
fn the_stem_runs_once() {
    let model = model(SGD);
    let count = |graph: &Graph, mnemonic: &str| {
        graph.nodes().filter(|&id| graph.node(id).op.mnemonic() == mnemonic).count()
    };
    let compiled = crate::build::unfused(&model, Goal::Train);
    assert_eq!((count(&model.graph, "conv2d"), count(&compiled.graph, "conv2d")), (3, 2));
    assert_eq!(count(&compiled.graph, "conv2d_grad_weight"), 2);
    assert!(compiled.report.operators_after < compiled.report.operators_before_fusion);
    assert_eq!(compiled.report.launches, compiled.program.launches.len());
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    for goal in [Goal::Train, Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
        let a = quiet(&model(SGD), goal);
        let b = quiet(&model(SGD), goal);
        assert_eq!(a.program.to_bytes().unwrap(), b.program.to_bytes().unwrap());
        assert_eq!(a.report, b.report);
        assert_eq!(ddnnc_ir::print(&a.graph).unwrap(), ddnnc_ir::print(&b.graph).unwrap());
    }
}

#[test]
fn a_model_without_loss_cannot_be_trained() {
    let mut model = model(SGD);
    let loss = model.graph.find(&Op::Output { name: "loss.total".into() }).unwrap();
    model.graph.remove(loss);
    assert_eq!(compile(&model, Goal::Train, &mut |_, _| {}).unwrap_err(), PassError::NoLoss);
    assert_eq!(compile(&model, Goal::Gradients, &mut |_, _| {}).unwrap_err(), PassError::NoLoss);
    assert!(compile(&model, Goal::Evaluate, &mut |_, _| {}).is_ok());
}
