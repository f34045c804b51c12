//! A cascade in stages computes what its nets compute, and nothing twice.

use ddnnc_ir::{Mode, Model, NodeId, Op};
use ddnnc_passes::{Goal, ReferenceDevice, compile, macs_until, stages};
use ddnnc_tests::harness::{
    Tensors, load, mismatches, narrow, program, random_batch, random_weights, read_all, run_once, specs,
};
use std::collections::BTreeSet;

/// The logits of each stage, as one after the other gives them, and how many values were handed on.
fn in_turn(models: &[Model], weights: &Tensors, batch: &(Vec<f32>, Vec<i64>)) -> (Tensors, usize) {
    let (mut kept, mut logits) = (Tensors::new(), Tensors::new());
    for model in models {
        let program = program(model, Goal::Evaluate);
        let mut run = load(&ReferenceDevice, &program, model, weights, batch);
        for name in program.inputs.keys().filter(|name| name.starts_with("kept.")) {
            run.write_f32(name, &kept[name]).expect("of the type that was handed on");
        }
        run.run().expect("the stage runs");
        for (name, data) in read_all(run.as_ref()) {
            match name.starts_with("kept.") {
                true => assert!(kept.insert(name, data).is_none(), "handed on once"),
                false if name.starts_with("logits.") => _ = logits.insert(name, data),
                false => {}
            }
        }
    }
    (logits, kept.len())
}

/// Removes the losses, and so the adapters of hints, which no net needs for its logits.
fn drop_losses(model: &mut Model) {
    let is_loss =
        |id: &NodeId| matches!(&model.graph.node(*id).op, Op::Output { name } if name.starts_with("loss."));
    let losses: Vec<NodeId> = model.graph.nodes().filter(is_loss).collect();
    losses.into_iter().for_each(|id| model.graph.remove(id));
}

#[test]
fn stages_give_the_logits_of_the_whole() {
    let mut handed_on = 0;
    for name in specs() {
        let mut model = narrow(&name, Mode::Eval, 2);
        drop_losses(&mut model);
        let mut nets: Vec<&str> = model.nets.iter().map(|n| n.name.as_str()).collect();
        if nets.len() < 2 {
            continue;
        }
        let weights = random_weights(&model, 5);
        let batch = random_batch(&model, 6);
        let compiled = compile(&model, Goal::Evaluate, &mut |_, _| {}).expect("a spec compiles");
        let whole = run_once(&ReferenceDevice, &compiled.program, &model, &weights, &batch);
        for _ in 0..2 {
            nets.reverse();
            let models = stages(&model, &nets).expect("every net has logits");
            let (logits, kept) = in_turn(&models, &weights, &batch);
            handed_on += kept;
            assert_eq!(logits.len(), nets.len());
            for (output, data) in &logits {
                assert_eq!(mismatches(data, &whole[output], 1e-5), 0, "{name}: {output} of {nets:?}");
            }
            // The first costs what it costs alone, all together what the program of all nets costs.
            let macs = macs_until(&model, &nets).expect("every net has logits");
            let first = model.nets.iter().find(|n| n.name == nets[0]).map(|n| n.macs);
            let all = compiled.report.macs / model.batch as u64;
            assert_eq!((macs.first().copied(), macs.last()), (first, Some(&all)), "{name}: {nets:?}");
            assert!(macs.is_sorted(), "{name}: {macs:?}");
            // Each stage has what it reads; together they have everything.
            let own: BTreeSet<&String> = models.iter().flat_map(|m| m.parameters.keys()).collect();
            let nets: BTreeSet<&String> = model.nets.iter().flat_map(|n| &n.parameters).collect();
            assert_eq!(own, nets, "{name}");
        }
    }
    assert!(handed_on > 20, "specs have common prefixes: {handed_on}");
}

#[test]
fn a_net_without_logits_is_an_error() {
    let model = narrow("quickstart", Mode::Eval, 1);
    let error = stages(&model, &["small", "none"]).expect_err("no such net");
    assert!(error.to_string().contains("logits.none"), "{error}");
}
