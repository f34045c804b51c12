//! What differs between training and evaluating, and between trained and frozen; losses and their weights.

mod support;

use ddnnc_ir::reference::evaluate;
use ddnnc_ir::{Init, Mode, Model, Op, Optimizer, Precision, ReduceKind, ScheduleKind, Value, Weight};
use support::{count, feeds, model, net};

fn spec(nets: &str, rest: &str) -> String {
    format!(
        "model m
        input  image : f32[3, 8, 8]
        target label : class[5]
        backbone net(width = 4) {{
            stem     = conv(width, 3) |> bn |> relu
            stage s1 = 2 * conv(width, 3)
            stage s2 = conv(2 * width, 3, stride = 2), conv(2 * width, 3)
            head     = global_avg_pool |> dropout(0.3) |> linear(classes)
        }}
        {nets}
        {rest}
        train {{ data = cifar10 }}"
    )
}

const TWO: &str = "subnet full = net subnet small = net depth [1, 1]";
const TEACHER: &str =
    "network teacher = net(width = 6) { frozen = true, load = \"t.safetensors\" } subnet small = net";

fn terms(model: &Model) -> Vec<(&str, Weight)> {
    model.terms.iter().map(|t| (t.name.as_str(), t.weight)).collect()
}

#[test]
fn evaluating_takes_running_statistics_and_drops_nothing() {
    let text = spec(TWO, "distill full -> small { kl }");
    let train = model(&text, Mode::Train, 3);
    let eval = model(&text, Mode::Eval, 3);
    let batch_stats = |op: &Op| matches!(op, Op::Normalize { batch_stats: true, .. });
    let fixed = |op: &Op| matches!(op, Op::Normalize { batch_stats: false, .. });
    let dropout = |op: &Op| matches!(op, Op::Dropout { .. });
    let store = |op: &Op| matches!(op, Op::Store { .. });
    assert_eq!([batch_stats, fixed].map(|f| count(&train.graph, f)), [2, 0]);
    assert_eq!([batch_stats, fixed].map(|f| count(&eval.graph, f)), [0, 2]);
    assert_eq!((count(&train.graph, dropout), count(&eval.graph, dropout)), (2, 0));
    assert_eq!((count(&train.graph, store), count(&eval.graph, store)), (2, 0));
    assert_eq!(terms(&train), terms(&eval));
    assert_eq!(train.parameters, eval.parameters);
    assert_eq!(train.states, eval.states);
}

#[test]
fn running_variances_are_unbiased() {
    let lowered = model(&spec(TWO, ""), Mode::Train, 3);
    let mut scales: Vec<f64> = lowered
        .graph
        .nodes()
        .filter_map(|id| match lowered.graph.node(id).op {
            Op::Ema { scale, momentum } => {
                assert_eq!(momentum, 0.1);
                Some(scale)
            }
            _ => None,
        })
        .collect();
    scales.sort_by(f64::total_cmp);
    let n = (3 * 8 * 8) as f64;
    assert_eq!(scales, [1.0, n / (n - 1.0)]);
}

#[test]
fn a_frozen_network_has_no_training_behaviour() {
    let lowered = model(&spec(TEACHER, "distill teacher -> small { kl, hint(at = [s2]) }"), Mode::Train, 3);
    assert!(net(&lowered, "teacher").frozen);
    for (name, parameter) in &lowered.parameters {
        assert_eq!(parameter.frozen, name.starts_with("teacher."), "{name}");
        let file = name.starts_with("teacher.").then(|| "t.safetensors".to_string());
        assert_eq!(parameter.load, file, "{name}");
    }
    assert_eq!(count(&lowered.graph, |op| matches!(op, Op::Dropout { .. })), 1);
    assert_eq!(count(&lowered.graph, |op| matches!(op, Op::Normalize { batch_stats: false, .. })), 1);
    assert!(!lowered.graph.nodes().any(|id| {
        matches!(&lowered.graph.node(id).op, Op::Store { name } if name.starts_with("teacher."))
    }));
    let names: Vec<&str> = lowered.terms.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["ce.small", "kl.teacher.small", "hint.teacher.small.s2"]);
    assert_eq!(lowered.parameters["hint.teacher.small.s2.conv1.weight"].shape.dims(), [12, 8, 1, 1]);
    assert!(!net(&lowered, "small").parameters.iter().any(|p| p.starts_with("hint")));
}

#[test]
fn terms_have_names_weights_and_an_order() {
    let rest = "exit early = full after s1[0] |> global_avg_pool |> linear(classes)
        supervise [early, small] { cross_entropy(weight = 0.25, label_smoothing = 0.1) }
        distill full -> [small, early] { kl(weight = ramp(from = 0.5, to = 2, epochs = 4)) }
        distill full -> small { attention(at = [s1, s2], mode = at, weight = 1000), hint(at = [s1 -> s1]) }
        distill small -> early { kl(weight = 0) }";
    let lowered = model(&spec(TWO, rest), Mode::Train, 3);
    let ramp = Weight::Ramp { from: 0.5, to: 2.0, epochs: 4.0 };
    let expected = [
        ("ce.full", Weight::Constant(1.0)),
        ("ce.small", Weight::Constant(0.25)),
        ("ce.early", Weight::Constant(0.25)),
        ("kl.full.small", ramp),
        ("kl.full.early", ramp),
        ("attention.full.small.s1", Weight::Constant(1000.0)),
        ("attention.full.small.s2", Weight::Constant(1000.0)),
        ("hint.full.small.s1", Weight::Constant(1.0)),
    ];
    assert_eq!(terms(&lowered), expected);
    let ramps = count(&lowered.graph, |op| matches!(op, Op::Input { name } if name.starts_with("weight.")));
    assert_eq!(ramps, 2);
    assert_eq!(count(&lowered.graph, |op| matches!(op, Op::Scale { .. })), 4);
    assert_eq!(
        count(&lowered.graph, |op| matches!(op, Op::CrossEntropy { smoothing } if *smoothing == 0.1)),
        2
    );
    // Equal channels: no adapter.
    assert!(!lowered.parameters.keys().any(|p| p.starts_with("hint")));
    assert_eq!(lowered.pairings.len(), 5);
    assert_eq!(lowered.pairings[2].student, ("small".to_string(), "s1".to_string()));
    assert_eq!(count(&lowered.graph, |op| *op == Op::StopGradient), 5);
}

#[test]
fn the_total_is_the_weighted_sum_of_the_terms() {
    let rest = "supervise small { cross_entropy(weight = 0.25, label_smoothing = 0.1) }
        distill full -> small {
            kl(temperature = 4, weight = ramp(from = 0.5, to = 2, epochs = 4)), attention(at = [s1], weight = 3),
            hint(at = [s2], weight = ramp(from = 0, to = 1))
        }";
    let lowered = model(&spec(TWO, rest), Mode::Train, 3);
    let feeds = feeds(&lowered.graph);
    let outputs = evaluate(&lowered.graph, &feeds).expect("the graph evaluates").outputs;
    let value = |name: &str| outputs[name].data[0];
    let mut wanted = 0.0;
    for term in &lowered.terms {
        let weight = match term.weight {
            Weight::Constant(weight) => weight,
            Weight::Ramp { .. } => feeds[&format!("weight.{}", term.name)].data[0],
        };
        let loss = value(&format!("loss.{}", term.name));
        assert!(loss > 1e-6, "{} is {loss}", term.name);
        wanted += weight * loss;
    }
    assert_eq!(lowered.terms.len(), 5);
    let total = value("loss.total");
    assert!((total - wanted).abs() <= 1e-9 * wanted, "{total}, not {wanted}");
}

#[test]
fn settings_of_terms_reach_their_operators() {
    let rest = "distill full -> small {
            kl(temperature = 4), attention(at = [s1], eps = 0.125), hint(at = [s1 -> s1])
        }";
    let graph = model(&spec(TWO, rest), Mode::Train, 3).graph;
    assert_eq!(count(&graph, |op| *op == Op::KlDivergence { temperature: 4.0 }), 1);
    assert_eq!(count(&graph, |op| *op == Op::Standardize { eps: 0.125 }), 2);
    // The first operand is the teacher's: the one whose gradient is stopped.
    let teachers: Vec<bool> = graph
        .nodes()
        .filter(|&id| matches!(graph.node(id).op, Op::KlDivergence { .. }))
        .flat_map(|id| graph.operands(id))
        .map(|v| *graph.op(v) == Op::StopGradient)
        .collect();
    assert_eq!(teachers, [true, false]);
}

#[test]
fn a_relation_is_a_term_of_distances_and_one_of_angles() {
    let rest = "distill full -> small {
            relation
            relation(distance = 3, angle = 0.5, at = [s1 -> s2], weight = ramp(from = 1, to = 4, epochs = 2))
            relation(angle = 0, at = [s1])
            relation(distance = 0, at = [s2 -> s1], weight = 10, detach = false)
        }";
    let lowered = model(&spec(TWO, rest), Mode::Train, 3);
    let ramp = |factor: f64| Weight::Ramp { from: factor, to: 4.0 * factor, epochs: 2.0 };
    let expected = [
        ("relation_distance.full.small.s2", Weight::Constant(1.0)),
        ("relation_angle.full.small.s2", Weight::Constant(2.0)),
        ("relation_distance.full.small.s1_s2", ramp(3.0)),
        ("relation_angle.full.small.s1_s2", ramp(0.5)),
        ("relation_distance.full.small.s1", Weight::Constant(1.0)),
        ("relation_angle.full.small.s2_s1", Weight::Constant(20.0)),
    ];
    assert_eq!(terms(&lowered)[2..], expected);
    let graph = &lowered.graph;
    // The second operand is the teacher's, whose gradient is stopped before its mean over the positions.
    let stopped = |op: &Op| -> Vec<bool> {
        graph
            .nodes()
            .filter(|&id| graph.node(id).op == *op)
            .map(|id| {
                let [student, teacher] = graph.operands(id)[..] else { panic!("two operands") };
                let behind = |mean: Value| {
                    assert!(matches!(graph.op(mean), Op::Reduce { kind: ReduceKind::Mean, axes } if *axes == [2, 3]));
                    *graph.op(graph.operands(mean.node)[0]) == Op::StopGradient
                };
                assert!(!behind(student), "the student learns");
                behind(teacher)
            })
            .collect()
    };
    assert_eq!(stopped(&Op::RelationDistance), [true, true, true]);
    assert_eq!(stopped(&Op::RelationAngle), [true, true, false]);
}

#[test]
fn batches_of_evaluation_may_have_nothing_to_compare() {
    let text = spec(TWO, "distill full -> small { relation }");
    for batch in [1, 2, 20_000] {
        model(&text, Mode::Eval, batch);
    }
}

#[test]
fn a_relation_takes_vectors_as_they_are() {
    let text = "model m input image : f32[3, 4, 4] target label : class[5]
        backbone net(width) { stage s1 = conv(width, 3) |> global_avg_pool, linear(width) |> relu head = linear(classes) }
        network full = net(width = 8) network small = net(width = 4) depth [1]
        distill full -> small { relation } train { data = cifar10 }";
    let graph = model(text, Mode::Train, 3).graph;
    let operands: Vec<Vec<usize>> = graph
        .nodes()
        .filter(|&id| graph.node(id).op == Op::RelationAngle)
        .flat_map(|id| graph.operands(id))
        .map(|v| graph.shape(v).dims().to_vec())
        .collect();
    assert_eq!(operands, [[3, 4], [3, 8]]);
    // The student's is the mean of its own stage alone.
    assert_eq!(count(&graph, |op| matches!(op, Op::Reduce { .. })), 2);
}

#[test]
fn detach_false_lets_the_gradient_through() {
    let lowered = model(&spec(TWO, "distill full -> small { kl(detach = false) }"), Mode::Train, 3);
    assert_eq!(count(&lowered.graph, |op| *op == Op::StopGradient), 0);
}

#[test]
fn attention_is_at_the_last_stage_by_default() {
    let lowered = model(&spec(TWO, "distill full -> small { attention }"), Mode::Train, 3);
    assert_eq!(terms(&lowered)[2], ("attention.full.small.s2", Weight::Constant(0.5)));
    assert_eq!(count(&lowered.graph, |op| matches!(op, Op::Standardize { eps } if *eps == 1e-5)), 2);
}

#[test]
fn eps_of_an_attention_map_fits_its_mode() {
    let eps = |arguments: &str| {
        let rest = format!("distill full -> small {{ attention(mode = at{arguments}) }}");
        let graph = model(&spec(TWO, &rest), Mode::Train, 3).graph;
        let found: Vec<f64> = graph
            .nodes()
            .filter_map(|id| match graph.node(id).op {
                Op::L2Normalize { eps } => Some(eps),
                _ => None,
            })
            .collect();
        found
    };
    assert_eq!(eps(""), [1e-12, 1e-12]);
    assert_eq!(eps(", eps = 0.5"), [0.5, 0.5]);
}

#[test]
fn networks_have_weights_of_their_own() {
    let nets = "network a = net(width = 3) network b = net depth [1, 2]";
    let lowered = model(&spec(nets, ""), Mode::Train, 3);
    assert_eq!(lowered.parameters["a.stem.conv1.weight"].shape.dims(), [3, 3, 3, 3]);
    assert_eq!(lowered.parameters["b.stem.conv1.weight"].shape.dims(), [4, 3, 3, 3]);
    assert!(lowered.parameters.keys().all(|p| p.starts_with("a.") || p.starts_with("b.")));
    assert_eq!(net(&lowered, "b").stages, [("s1".to_string(), 1), ("s2".to_string(), 2)]);
    assert!(!lowered.parameters.keys().any(|p| p.contains('@')));
}

#[test]
fn an_exit_of_a_network_has_no_private_names() {
    let rest = "exit early = b after s1 |> global_avg_pool |> linear(classes)
        share net { norm = private_everywhere }";
    let lowered = model(&spec("subnet full = net network b = net depth [1, 1]", rest), Mode::Train, 3);
    let early = net(&lowered, "early");
    assert!(
        early.parameters.iter().all(|p| p.starts_with("b.") && !p.contains('@')),
        "{:?}",
        early.parameters
    );
}

#[test]
fn the_recipe_is_read() {
    let text = spec(TWO, "").replace(
        "train { data = cifar10 }",
        "let rate = 0.2
        train { data = cifar10(path = \"d\", augment = [crop(pad = 4), flip]), batch = 32, epochs = 7,
            optimizer = adamw(lr = rate / 2), schedule = multistep(milestones = [2, 5], warmup = 1), seed = 3,
            validation = 0.25, precision = bf16 }",
    );
    let recipe = model(&text, Mode::Train, 3).recipe;
    assert_eq!(recipe.precision, Precision::Bf16);
    assert_eq!(model(&text, Mode::Eval, 3).recipe.precision, Precision::Bf16);
    assert_eq!(model(&text.replace("bf16", "f32"), Mode::Train, 3).recipe.precision, Precision::F32);
    assert_eq!(
        model(&text.replace(", precision = bf16", ""), Mode::Train, 3).recipe.precision,
        Precision::F32
    );
    assert_eq!((recipe.batch, recipe.epochs, recipe.seed, recipe.validation), (32, 7, 3, 0.25));
    assert_eq!(recipe.data.path.as_deref(), Some("d"));
    assert_eq!(recipe.data.augment.len(), 2);
    assert!(matches!(recipe.optimizer, Optimizer::Adamw { lr, beta1, .. } if lr == 0.1 && beta1 == 0.9));
    assert_eq!(recipe.schedule.warmup, 1.0);
    assert_eq!(recipe.schedule.kind, ScheduleKind::Multistep { milestones: vec![2.0, 5.0], gamma: 0.1 });
}

#[test]
fn broadcasts_and_concatenations() {
    let text = "model m
        input  image : f32[4, 6, 6]
        target label : class[3]
        block gate() {
            let g = in |> global_avg_pool |> linear(in.channels) |> sigmoid
            let h = in |> conv(in.channels, [in.height, in.width], pad = 0)
            in |> mul(g) |> add(h) |> concat(in, in |> relu)
        }
        backbone net { stage s1 = gate head = avg_pool(6) |> reshape([12]) |> linear(classes) |> log_softmax }
        subnet full = net
        train { data = mnist }";
    let lowered = model(text, Mode::Train, 2);
    assert_eq!(count(&lowered.graph, |op| matches!(op, Op::Broadcast { .. })), 2);
    assert_eq!(lowered.parameters["net.head.linear1.weight"].shape.dims(), [3, 12]);
}

const THREE: &str =
    "subnet full = net subnet mid = net depth [2, 1] subnet small = net depth [1, 1] network other = net";

#[test]
fn sets_of_teachers_have_one_name_each_and_terms_of_their_own() {
    let rest = "exit early = full after s1 |> global_avg_pool |> linear(classes)
        distill mean(mid, full) -> [small, early] { kl(temperature = 2, weight = 0.5) }
        distill adaptive(full, mid, other) -> [small, early] { kl(weight = ramp) }
        distill adaptive(full, mid, penalty = 0) -> small { kl }
        distill gated(full, mid, weight = 0.25) -> [small, full] { kl(weight = 2) }
        distill gated(full, other) -> small { kl(weight = 0) }";
    let lowered = model(&spec(THREE, rest), Mode::Train, 3);
    let ramp = Weight::Ramp { from: 0.0, to: 1.0, epochs: 10.0 };
    let expected = [
        ("kl.mean.full.mid.small", Weight::Constant(0.5)),
        ("kl.mean.full.mid.early", Weight::Constant(0.5)),
        ("kl.adaptive.full.mid.other.small", ramp),
        ("penalty.adaptive.full.mid.other.small", Weight::Constant(0.1)),
        ("kl.adaptive.full.mid.other.early", ramp),
        ("penalty.adaptive.full.mid.other.early", Weight::Constant(0.1)),
        ("kl.adaptive.full.mid.small", Weight::Constant(1.0)),
        ("ce.gated.full.mid", Weight::Constant(0.25)),
        ("kl.gated.full.mid.small", Weight::Constant(2.0)),
        ("kl.gated.full.mid.full", Weight::Constant(2.0)),
    ];
    assert_eq!(terms(&lowered)[5..], expected);
    let own: Vec<(&str, &[usize], Init)> = lowered
        .parameters
        .iter()
        .filter(|(name, _)| name.starts_with("kl.") || name.starts_with("ce."))
        .map(|(name, p)| (name.as_str(), p.shape.dims(), p.init))
        .collect();
    let start = |value: f64| Init::Constant { value };
    // The student's last stage has 8 channels, and the exit leaves its net at 4.
    let expected: [(&str, &[usize], Init); 8] = [
        ("kl.adaptive.full.mid.other.small.theta", &[3, 8], start(0.0)),
        ("kl.adaptive.full.mid.other.small.v", &[8], start(1.0 / 8f64.sqrt())),
        ("kl.adaptive.full.mid.other.early.theta", &[3, 4], start(0.0)),
        ("kl.adaptive.full.mid.other.early.v", &[4], start(0.5)),
        ("kl.adaptive.full.mid.small.theta", &[2, 8], start(0.0)),
        ("kl.adaptive.full.mid.small.v", &[8], start(1.0 / 8f64.sqrt())),
        ("ce.gated.full.mid.linear1.weight", &[2, 16], start(0.0)),
        ("ce.gated.full.mid.linear1.bias", &[2], start(0.0)),
    ];
    assert_eq!(own, expected);
    // They are trained with the rest, and no net that is exported has them.
    for (name, parameter) in &lowered.parameters {
        assert!(!parameter.frozen && parameter.load.is_none(), "{name}");
    }
    for (name, ..) in own {
        assert!(lowered.nets.iter().all(|net| !net.parameters.iter().any(|p| p == name)), "{name}");
    }
    // A pairing for each teacher, but none of a net with itself.
    let of = |term: &str| lowered.pairings.iter().filter(|p| p.term == term).count();
    assert_eq!(of("kl.adaptive.full.mid.other.early"), 3);
    assert_eq!(of("kl.gated.full.mid.full"), 1);
    assert_eq!(lowered.pairings.len(), 2 * 2 + 2 * 3 + 2 + 2 + 1);
}
