//! The CPU device on fused, channels-last steps: against the f64 reference on the step as it is before any pass, and against
//! itself with every operator a launch of its own. Losses, logits, gradients and running statistics.

use ddnnc_cpu::{CpuDevice, CpuOptions};
use ddnnc_ir::reference::{Tensor, evaluate_all};
use ddnnc_ir::{Mode, Model, Op};
use ddnnc_passes::{Goal, Options, Program, ReferenceDevice, compile_with};
use ddnnc_tests::harness::{Tensors, model, narrow, program, random_batch, random_weights, run_once, specs};
use ddnnc_tests::rounding::kinks;
use indexmap::IndexMap;

const BATCH: usize = 2;

/// The smallest distance of an activation from a kink of its function: nearer than rounding, two correct programs may
/// take different sides.
fn margin(model: &Model, weights: &Tensors, batch: &(Vec<f32>, Vec<i64>)) -> f64 {
    let mut feeds: IndexMap<String, Tensor> = IndexMap::new();
    for id in model.graph.nodes() {
        let node = model.graph.node(id);
        let (Op::Input { name } | Op::Parameter { name, .. } | Op::State { name }) = &node.op else {
            continue;
        };
        let ty = node.results[0].clone();
        let data = if *name == model.input.0 {
            batch.0.iter().map(|&x| f64::from(x)).collect()
        } else if *name == model.target.0 {
            batch.1.iter().map(|&x| x as f64).collect()
        } else if let Some(known) = weights.get(name) {
            known.iter().map(|&x| f64::from(x)).collect()
        } else {
            vec![1.0; ty.elements()]
        };
        feeds.insert(name.clone(), Tensor { ty, data });
    }
    let (_, values) = evaluate_all(&model.graph, &feeds).expect("the model evaluates");
    let mut least = f64::INFINITY;
    for id in model.graph.nodes() {
        let node = model.graph.node(id);
        let Op::Unary { kind } = node.op else { continue };
        let x = &values[&model.graph.operands(id)[0]];
        for x in &x.data {
            least = kinks(kind).iter().map(|k| (x - k).abs()).fold(least, f64::min);
        }
    }
    least
}

/// The largest difference of two tensors, of the first one's largest entry (at least 1e-3, below which a gradient is
/// the rounding of larger ones).
fn difference(exact: &[f32], found: &[f32]) -> f64 {
    let largest = exact.iter().fold(1e-3f64, |m, x| m.max(f64::from(x.abs())));
    let mut worst = 0.0f64;
    for (x, y) in exact.iter().zip(found) {
        let off = (f64::from(*x) - f64::from(*y)).abs() / largest;
        worst = if off <= worst { worst } else { off };
    }
    worst
}

/// The fused step against the f64 reference on the step before any pass.
///
/// Activations keep some roundings away from kinks: Winograd's are ten times those of sums tap by tap.
fn check_against_reference(name: &str) {
    let model = narrow(name, Mode::Train, BATCH);
    let none: [&str; 0] = [];
    let plain = compiled(&model, &Options::named(&none).expect("no pass"));
    let fused = program(&model, Goal::Gradients);
    for (winograd, least) in [(false, 2e-6), (true, 2e-5)] {
        let (weights, batch) = (0..1000)
            .map(|seed| (random_weights(&model, seed), random_batch(&model, seed)))
            .find(|(weights, batch)| margin(&model, weights, batch) > least)
            .expect("a batch that keeps away from kinks");
        let exact = run_once(&ReferenceDevice, &plain, &model, &weights, &batch);
        let found = run_once(&device(winograd), &fused, &model, &weights, &batch);
        for output in plain.outputs.keys() {
            let off = difference(&exact[output], &found[output]);
            assert!(off <= 1e-4, "{name}: `{output}` is off by {off}, with Winograd: {winograd}");
        }
    }
}

fn device(winograd: bool) -> CpuDevice {
    let options = CpuOptions { threads: Some(2), winograd, ..CpuOptions::default() };
    CpuDevice::open(&options).expect("threads start")
}

fn compiled(model: &Model, options: &Options) -> Program {
    compile_with(model, Goal::Gradients, options, &mut |_, _| {}).expect("it compiles").program
}

#[test]
fn fused_steps_do_what_the_reference_does_on_steps_before_any_pass() {
    for name in
        ["branchynet_alexnet", "byot_resnet18", "cifar10_resnet20_ekd", "kd_two_networks", "quickstart"]
    {
        check_against_reference(name);
    }
}

/// Behind a reshape a map has no channels that lie together: what is repeated over it cannot run by rows and channels, and
/// what is no map any more is normalised all the same.
#[test]
fn what_is_pooled_or_normalised_behind_a_reshape_is_trained() {
    let net = |head: &str| {
        format!(
            "model m\ninput image : f32[3, 6, 4]\ntarget label : class[4]\n{head}subnet full = net\nsubnet sub = net depth [1]\n\
             train {{ data = cifar10 }}\n"
        )
    };
    let plain = "backbone net { stem = conv(4, 1)\n stage s1 = 2 * conv(4, 1)\n \
                 head = reshape([4, 4, 6]) |> global_avg_pool |> linear(classes) }\n";
    let scaled = "block b { let r = in |> reshape([4, 4, 6])\n let g = r |> global_avg_pool\n \
                  r |> mul(g) |> global_avg_pool }\n\
                  backbone net { stem = conv(4, 1)\n stage s1 = 2 * conv(4, 1)\n head = b |> linear(classes) }\n";
    let normalised = "backbone net { stem = conv(4, 1) |> reshape([4, 24]) |> bn |> relu |> reshape([4, 6, 4])\n \
                      stage s1 = 2 * conv(4, 1)\n \
                      head = reshape([8, 12]) |> bn |> flatten |> linear(classes) }\n";
    for head in [plain, scaled, normalised] {
        let model = model(&net(head), Mode::Train, 2);
        let (weights, batch) = (random_weights(&model, 3), random_batch(&model, 3));
        let none: [&str; 0] = [];
        let exact = compiled(&model, &Options::named(&none).expect("no pass"));
        let exact = run_once(&ReferenceDevice, &exact, &model, &weights, &batch);
        let found = run_once(&device(true), &program(&model, Goal::Gradients), &model, &weights, &batch);
        for (output, exact) in &exact {
            let off = difference(exact, &found[output]);
            assert!(off <= 1e-5, "`{output}` is off by {off}");
        }
    }
}

/// Fused and unfused, the device makes the same sums in another grouping, so deep nets, whose gradients amplify rounding
/// and flip at kinks, can be compared as well. Without Winograd: whether that pays is a matter of how much one launch has
/// to do, so that the two would differ by its rounding, not by fusion.
#[test]
fn fused_steps_do_what_unfused_steps_do() {
    for name in specs() {
        let model = narrow(&name, Mode::Train, BATCH);
        let (weights, batch) = (random_weights(&model, 5), random_batch(&model, 5));
        let (fused, unfused) =
            (program(&model, Goal::Gradients), compiled(&model, &Options::without_fusion()));
        assert!(fused.launches.len() < unfused.launches.len(), "{name} is not fused");
        let device = device(false);
        let (a, b) = (
            run_once(&device, &unfused, &model, &weights, &batch),
            run_once(&device, &fused, &model, &weights, &batch),
        );
        for output in fused.outputs.keys() {
            let off = difference(&a[output], &b[output]);
            assert!(off <= 1e-4, "{name}: `{output}` is off by {off}");
        }
    }
}
