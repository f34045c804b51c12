//! Sets of teachers against formulas worked by hand in f64; who is trained by which term; logits of any size.

use ddnnc_cpu::CpuDevice;
use ddnnc_ir::reference::{Tensor, evaluate};
use ddnnc_ir::{DType, Mode, Model, Op, Origin, Weight, differentiate};
use ddnnc_passes::Goal;
use ddnnc_tests::harness::{Tensors, model, program, random_batch, random_weights, run_once, unfused};
use ddnnc_tests::rounding::oracle;
use indexmap::IndexMap;

const BATCH: usize = 5;
const CLASSES: usize = 4;

/// Three small networks, of which `a` and `b` are to teach `s`.
fn networks(stage: &str, rest: &str) -> String {
    format!(
        "model sets
        input  image : f32[3, 2, 3]
        target label : class[{CLASSES}]
        backbone net {{ stage s1 = {stage}  head = flatten |> linear(classes) }}
        network a = net
        network b = net
        network s = net
        {rest}
        train {{ data = cifar10, optimizer = sgd(lr = 0.1, momentum = 0.9) }}"
    )
}

type Feeds = IndexMap<String, Tensor>;

/// Everything that the forward graph reads.
fn feeds(model: &Model, weights: &Tensors, seed: u64) -> Feeds {
    let (image, label) = random_batch(model, seed);
    let mut feeds = Feeds::new();
    for id in model.graph.nodes() {
        let node = model.graph.node(id);
        let (Op::Input { name } | Op::Parameter { name, .. }) = &node.op else { continue };
        let data = match (weights.get(name), node.results[0].dtype) {
            (Some(weights), _) => weights.iter().map(|&x| f64::from(x)).collect(),
            (None, DType::I64) => label.iter().map(|&x| x as f64).collect(),
            (None, _) => image.iter().map(|&x| f64::from(x)).collect(),
        };
        feeds.insert(name.clone(), Tensor { ty: node.results[0].clone(), data });
    }
    feeds
}

/// One output of the forward graph.
fn output(model: &Model, feeds: &Feeds, name: &str) -> Vec<f64> {
    evaluate(&model.graph, feeds).expect("the graph evaluates").outputs[name].data.clone()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

/// Σ p (ln p − ln q)
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p.ln() - q.ln())).sum()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn close(found: f64, wanted: f64, what: &str) {
    let within = (found - wanted).abs() <= 1e-12 * wanted.abs().max(1.0);
    assert!(within, "{what} is {found}, not {wanted}");
}

const ALL: &str = "distill mean(a, b) -> s { kl(temperature = 2) }
    distill adaptive(b, a) -> s { kl(temperature = 2) }
    distill gated(a, b) -> s { kl(temperature = 2) }
    distill a -> s { kl(temperature = 2) }";

/// Where the last stage changes nothing, or makes a vector of the image, features are known: the image's own numbers.
#[test]
fn terms_are_what_their_formulas_say() {
    const T: f64 = 2.0;
    for (stage, map) in [("identity", true), ("flatten", false), ("reshape([6, 3])", true)] {
        let model = model(&networks(stage, ALL), Mode::Train, BATCH);
        let feeds = feeds(&model, &random_weights(&model, 1), 2);
        let outputs = evaluate(&model.graph, &feeds).expect("the graph evaluates").outputs;
        let at = |name: &str, n: usize| &outputs[name].data[n * CLASSES..][..CLASSES];
        let feed = |name: &str| feeds[name].data.as_slice();
        let (mut mean, mut adaptive, mut gated, mut label) = (0.0, 0.0, 0.0, 0.0);
        for n in 0..BATCH {
            let image = &feed("image")[n * 18..][..18];
            let channels: Vec<&[f64]> = image
                .chunks(match stage {
                    "identity" => 6,
                    "flatten" => 1,
                    _ => 3,
                })
                .collect();
            let largest: Vec<f64> =
                channels.iter().map(|c| c.iter().copied().fold(f64::MIN, f64::max)).collect();
            let average: Vec<f64> = channels.iter().map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
            let cooled = |net: &str| -> Vec<f64> { at(net, n).iter().map(|z| z / T).collect() };
            let (p_a, p_b) = (softmax(&cooled("logits.a")), softmax(&cooled("logits.b")));
            let p_s = softmax(&cooled("logits.s"));
            let mixed = |w: [f64; 2], x: &[f64], y: &[f64]| -> Vec<f64> {
                x.iter().zip(y).map(|(x, y)| w[0] * x + w[1] * y).collect()
            };

            mean += divergence(&mixed([0.5, 0.5], &p_a, &p_b), &p_s);

            let (theta, v) = (feed("kl.adaptive.a.b.s.theta"), feed("kl.adaptive.a.b.s.v"));
            let d = v.len();
            assert_eq!(d, channels.len());
            let score = |t: usize| (0..d).map(|c| v[c] * theta[t * d + c] * largest[c]).sum::<f64>();
            let w = softmax(&[score(0), score(1)]);
            assert!((w[0] - 0.5).abs() > 1e-3, "the weights are apart: {w:?}");
            adaptive += divergence(&mixed([w[0], w[1]], &p_a, &p_b), &p_s);

            let features = [average.as_slice(), &average].concat();
            let (weight, bias) = (feed("ce.gated.a.b.linear1.weight"), feed("ce.gated.a.b.linear1.bias"));
            let score = |t: usize| dot(&weight[t * 2 * d..][..2 * d], &features) + bias[t];
            let g = softmax(&[score(0), score(1)]);
            let z = mixed([g[0], g[1]], at("logits.a", n), at("logits.b", n));
            let cooled: Vec<f64> = z.iter().map(|z| z / T).collect();
            gated += divergence(&softmax(&cooled), &p_s);
            label -= softmax(&z)[feed("label")[n] as usize].ln();
        }
        let norm = |name: &str| dot(feed(name), feed(name));
        let share = T * T / BATCH as f64;
        let penalty = norm("kl.adaptive.a.b.s.theta") + norm("kl.adaptive.a.b.s.v");
        for (term, wanted) in [
            ("kl.mean.a.b.s", share * mean),
            ("kl.adaptive.a.b.s", share * adaptive),
            ("penalty.adaptive.a.b.s", penalty),
            ("kl.gated.a.b.s", share * gated),
            ("ce.gated.a.b", label / BATCH as f64),
        ] {
            assert!(wanted > 1e-3, "{term} of {stage}: {wanted}");
            close(outputs[&format!("loss.{term}")].data[0], wanted, &format!("{term} of {stage}, {map}"));
        }
        let total = model.terms.iter().map(|term| {
            let Weight::Constant(weight) = term.weight else { panic!("{}", term.name) };
            weight * outputs[&format!("loss.{}", term.name)].data[0]
        });
        close(outputs["loss.total"].data[0], total.sum(), "the total");
    }
}

#[test]
fn equal_teachers_and_equal_weights_are_one_teacher_and_a_mean() {
    let model = model(&networks("conv(3, 2) |> relu", ALL), Mode::Train, BATCH);
    let mut weights = random_weights(&model, 3);
    for name in ["kl.adaptive.a.b.s.theta", "ce.gated.a.b.linear1.weight", "ce.gated.a.b.linear1.bias"] {
        weights.get_mut(name).expect("a parameter of a set").fill(0.0);
    }
    let value = |weights: &Tensors, term: &str| {
        output(&model, &feeds(&model, weights, 4), &format!("loss.{term}"))[0]
    };
    let (mean, one) = (value(&weights, "kl.mean.a.b.s"), value(&weights, "kl.a.s"));
    assert!((mean - one).abs() > 1e-3, "the teachers differ: {mean}, {one}");
    close(value(&weights, "kl.adaptive.a.b.s"), mean, "an adaptive set without preference");
    let mut equal = weights.clone();
    for (name, data) in weights.iter().filter(|(name, _)| name.starts_with("a.")) {
        equal.insert(name.replace("a.", "b."), data.clone());
    }
    let one = value(&equal, "kl.a.s");
    for set in ["mean", "adaptive", "gated"] {
        close(value(&equal, &format!("kl.{set}.a.b.s")), one, set);
    }
    close(value(&equal, "ce.gated.a.b"), value(&equal, "ce.a"), "the label's term of equal teachers");
}

/// The gradients of `loss`, and what central differences of `observed` give for each, by parameter.
fn both_gradients(model: &Model, feeds: &Feeds, observed: &str) -> IndexMap<String, [Vec<f64>; 2]> {
    const STEP: f64 = 1e-5;
    let mut graph = model.graph.clone();
    let loss = graph.output("loss.total").expect("a loss");
    let gradients = differentiate(&mut graph, loss).expect("a rule for everything");
    for (name, &value) in &gradients {
        let op = Op::Output { name: format!("grad.{name}") };
        graph.add(op, &[value], Origin::default()).expect("an output");
    }
    let outputs = evaluate(&graph, feeds).expect("the gradients evaluate").outputs;
    let differences = |name: &str| {
        let along = |i: usize, step: f64| {
            let mut moved = feeds.clone();
            moved[name].data[i] += step;
            output(model, &moved, observed)[0]
        };
        (0..feeds[name].data.len()).map(|i| (along(i, STEP) - along(i, -STEP)) / (2.0 * STEP)).collect()
    };
    let found = gradients
        .keys()
        .map(|name| (name.clone(), [outputs[&format!("grad.{name}")].data.clone(), differences(name)]));
    found.collect()
}

/// Asserts that gradients are what central differences of an output give; tells how many numbers are not 0.
fn agrees(model: &Model, feeds: &Feeds, observed: &str, of: impl Fn(&str) -> bool) -> usize {
    let mut reached = 0;
    let mut compared = 0;
    for (name, [gradient, expected]) in both_gradients(model, feeds, observed) {
        if !of(&name) {
            continue;
        }
        for (i, (found, wanted)) in gradient.iter().zip(&expected).enumerate() {
            let within = (found - wanted).abs() <= 1e-7 * wanted.abs().max(1.0);
            assert!(within, "d{observed}/d{name}[{i}] is {found}, and differences give {wanted}");
            reached += usize::from(found.abs() > 1e-6);
            compared += 1;
        }
    }
    assert!(compared > 0, "nothing of {observed} is compared");
    reached
}

const SILENT: &str = "supervise [a, b, s] { cross_entropy(weight = 0) }";
const STAGE: &str = "conv(3, 2, pad = 0) |> tanh";

#[test]
fn gradients_agree_with_central_differences() {
    let step = |rest: &str| {
        let model = model(&networks(STAGE, &format!("{SILENT} {rest}")), Mode::Train, BATCH);
        let feeds = feeds(&model, &random_weights(&model, 5), 6);
        (model, feeds)
    };
    let any = |_: &str| true;
    // Where nothing is detached, every parameter is one of the whole loss, of which differences are taken.
    for set in ["mean(a, b)", "adaptive(a, b, penalty = 0.3)", "gated(a, b, weight = 0.4)"] {
        let (model, feeds) = step(&format!("distill {set} -> s {{ kl(detach = false, weight = 0.8) }}"));
        assert!(agrees(&model, &feeds, "loss.total", any) > 150, "{set}");
    }
    // Detached teachers are constants; that of an adaptive set goes through the student's feature as well.
    let others = |name: &str| !name.starts_with("a.") && !name.starts_with("b.");
    for set in ["mean(a, b)", "adaptive(a, b, penalty = 0.3)"] {
        let (model, feeds) = step(&format!("distill {set} -> s {{ kl }}"));
        assert!(agrees(&model, &feeds, "loss.total", others) > 50, "{set}");
    }
    // The label alone trains a detached gate, and the divergence alone the student.
    let (model, feeds) = step("distill gated(a, b) -> s { kl }");
    assert!(agrees(&model, &feeds, "loss.ce.gated.a.b", |name| name.starts_with("ce.")) > 10);
    assert!(agrees(&model, &feeds, "loss.kl.gated.a.b.s", |name| name.starts_with("s.")) > 50);
}

#[test]
fn a_detached_set_gives_its_teachers_exactly_nothing() {
    for set in ["mean", "adaptive", "gated"] {
        for detach in [true, false] {
            let rest = format!("{SILENT} distill {set}(a, b) -> s {{ kl(detach = {detach}) }}");
            let model = model(&networks(STAGE, &rest), Mode::Train, BATCH);
            let weights = random_weights(&model, 7);
            let device = CpuDevice::new(Some(2)).expect("a CPU device");
            let batch = random_batch(&model, 8);
            let all = run_once(&device, &program(&model, Goal::Gradients), &model, &weights, &batch);
            for name in model.parameters.keys() {
                let gradient = &all[&format!("grad.{name}")];
                let teaches = name.starts_with("a.") || name.starts_with("b.");
                if teaches && detach {
                    assert!(gradient.iter().all(|g| *g == 0.0), "{set}: {name}");
                } else {
                    assert!(gradient.iter().any(|g| *g != 0.0), "{set}, detach = {detach}: {name}");
                }
            }
        }
    }
}

/// A step moves what a set is made of, with optimizer state as everything that is trained, and no frozen teacher.
#[test]
fn the_weights_of_sets_are_trained_as_others_are() {
    let text =
        networks(STAGE, "distill adaptive(a, b) -> s { kl(detach = false) } distill gated(a, b) -> s { kl }")
            .replace("network a = net", "network a = net { frozen = true, load = \"a.safetensors\" }");
    let model = model(&text, Mode::Train, BATCH);
    let step = program(&model, Goal::Train);
    let weights = random_weights(&model, 9);
    let device = CpuDevice::new(Some(1)).expect("a CPU device");
    let after = run_once(&device, &step, &model, &weights, &random_batch(&model, 10));
    for name in model.parameters.keys() {
        let frozen = name.starts_with("a.");
        assert_eq!(after[name] == weights[name], frozen, "{name}");
        assert_eq!(after.contains_key(&format!("momentum.{name}")), !frozen, "{name}");
    }
    for name in ["kl.adaptive.a.b.s.theta", "kl.adaptive.a.b.s.v", "ce.gated.a.b.linear1.weight"] {
        assert!(model.parameters.contains_key(name), "{name}");
    }
}

/// Probabilities underflow to 0 in f32, and in f64 too: every loss and gradient is finite, and the devices agree.
#[test]
fn logits_of_any_size_give_finite_numbers() {
    let biases = [
        ([1e4, -1e4, 0.0, 5.0], [-1e4, 1e4, 1.0, 0.0], [0.0, 0.0, 1e4, -1e4]),
        ([1e4, -1e4, 0.0, 5.0], [1e4, -1e4, 0.0, 5.0], [-1e4, 1e4, 0.0, 0.0]),
        ([300.0, 0.0, 0.0, 0.0], [0.0, 280.0, 0.0, 0.0], [0.0, 0.0, 0.0, 290.0]),
        ([-1e4; 4], [1e4; 4], [1e4, 1e4, 1e4, 9990.0]),
    ];
    for detach in [true, false] {
        let sets = ["mean", "adaptive", "gated"]
            .map(|set| format!("distill {set}(a, b) -> s {{ kl(detach = {detach}) }}"));
        let model = model(&networks(STAGE, &sets.join(" ")), Mode::Train, BATCH);
        let step = program(&model, Goal::Gradients);
        let batch = random_batch(&model, 11);
        let device = CpuDevice::new(Some(2)).expect("a CPU device");
        for (number, (a, b, s)) in biases.iter().enumerate() {
            let mut weights = random_weights(&model, 12);
            for (net, bias) in [("a", a), ("b", b), ("s", s)] {
                weights.insert(format!("{net}.head.linear1.bias"), bias.to_vec());
            }
            let ours = run_once(&device, &step, &model, &weights, &batch);
            let feeds = feeds(&model, &weights, 11);
            let oracle = oracle(&unfused(&model, Goal::Gradients), &feeds).expect("the step evaluates");
            for (name, exact) in &oracle.exact {
                let what = format!("{name} of case {number}, detach = {detach}");
                assert!(exact.iter().all(|x| x.is_finite()), "{what}: {exact:?}");
                let tolerance = oracle.tolerance[name];
                let within = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() <= tolerance;
                let found = &ours[name];
                assert!(
                    found.iter().zip(exact).all(within),
                    "{what}: {found:?}, not {exact:?}, within {tolerance}"
                );
            }
        }
    }
}
