//! What the phases of a spec differ in, and what they share.

mod support;

use ddnnc_ir::reference::evaluate;
use ddnnc_ir::{Curriculum, Mode, Model, Op, Optimizer, Order, Pace, ScheduleKind, differentiate};
use std::collections::BTreeSet;
use support::{count, feeds, model, model_in_phase};

fn spec(nets: &str, rest: &str) -> String {
    format!(
        "model m
        input  image : f32[3, 8, 8]
        target label : class[5]
        backbone net(width = 4) {{
            stem     = conv(width, 3) |> bn |> relu
            stage s1 = 2 * conv(width, 3) |> bn |> dropout(0.1)
            stage s2 = conv(2 * width, 3, stride = 2), conv(2 * width, 3)
            head     = global_avg_pool |> dropout(0.3) |> linear(classes)
        }}
        {nets}
        {rest}
        train {{ data = cifar10, optimizer = sgd(lr = 0.2) }}"
    )
}

const CHAIN: &str = "network teacher = net(width = 6) { frozen = true, load = \"t.safetensors\" }
    network assistant = net network student = net(width = 3) depth [1, 1]
    phase first  { epochs = 3, train = [assistant]
        distill teacher -> assistant { kl, hint(at = [s2]) } }
    phase second { epochs = 5, freeze = assistant
        optimizer = adamw, schedule = cosine
        supervise student { cross_entropy(label_smoothing = 0.1) }
        distill assistant -> student { kl(detach = false), hint(at = [s1]) } }";

const TWO: &str = "subnet full = net subnet small = net depth [1, 1]";

fn phase(nets: &str, rest: &str, at: usize) -> Model {
    model_in_phase(&spec(nets, rest), Mode::Train, 3, at)
}

fn outputs(model: &Model, kind: &str) -> Vec<String> {
    let mut names: Vec<String> = model
        .graph
        .nodes()
        .filter_map(|id| match &model.graph.node(id).op {
            Op::Output { name } => name.strip_prefix(kind).map(String::from),
            _ => None,
        })
        .collect();
    names.sort();
    names
}

/// The parameters that get a gradient.
fn trained(model: &Model) -> BTreeSet<String> {
    let mut graph = model.graph.clone();
    let total = graph.output("loss.total").expect("there is a loss");
    differentiate(&mut graph, total).expect("it has gradients").into_keys().collect()
}

/// The running statistics that a step changes.
fn stored(model: &Model) -> BTreeSet<String> {
    let names = model.graph.nodes().filter_map(|id| match &model.graph.node(id).op {
        Op::Store { name } => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

/// The frozen parameters by name.
fn frozen(model: &Model) -> BTreeSet<&str> {
    model.parameters.iter().filter(|(_, p)| p.frozen).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn phases_have_their_own_losses_and_recipes() {
    let (first, second) = (phase(CHAIN, "", 0), phase(CHAIN, "", 1));
    let names: Vec<(&str, usize)> = second.phases.iter().map(|p| (p.name.as_str(), p.epochs)).collect();
    assert_eq!(names, [("first", 3), ("second", 5)]);
    assert_eq!((first.phase, second.phase, first.epochs()), (0, 1, 8));
    assert_eq!(
        outputs(&first, "loss."),
        ["ce.assistant", "hint.teacher.assistant.s2", "kl.teacher.assistant", "total"]
    );
    assert_eq!(
        outputs(&second, "loss."),
        ["ce.student", "hint.assistant.student.s1", "kl.assistant.student", "total"]
    );
    assert_eq!(
        count(&second.graph, |op| matches!(op, Op::CrossEntropy { smoothing } if *smoothing == 0.1)),
        1
    );
    // What no loss of a phase reads is not computed.
    assert_eq!(outputs(&first, "logits."), ["assistant", "teacher"]);
    assert_eq!(outputs(&second, "logits."), ["assistant", "student"]);
    assert!(!second.graph.nodes().any(|id| second.graph.node(id).origin.path.starts_with("teacher.")));
    assert_eq!((first.pairings.len(), second.pairings.len()), (2, 2));
    assert_eq!((first.recipe.epochs, second.recipe.epochs), (3, 5));
    assert!(matches!(first.recipe.optimizer, Optimizer::Sgd { lr: 0.2, .. }));
    assert!(matches!(second.recipe.optimizer, Optimizer::Adamw { .. }));
    assert_eq!(first.recipe.schedule.kind, ScheduleKind::Constant);
    assert_eq!(second.recipe.schedule.kind, ScheduleKind::Cosine { end: 0.0 });
}

#[test]
fn tables_are_those_of_all_phases() {
    let models = [(Mode::Train, 0), (Mode::Train, 1), (Mode::Eval, 0), (Mode::Eval, 1)]
        .map(|(mode, at)| model_in_phase(&spec(CHAIN, ""), mode, 3, at));
    let table = |model: &Model| {
        let parameters =
            model.parameters.iter().map(|(name, p)| format!("{name} {} {:?} {:?}", p.shape, p.init, p.load));
        let states = model.states.iter().map(|(name, s)| format!("{name} {s:?}"));
        parameters.chain(states).collect::<Vec<_>>()
    };
    for model in &models[1..] {
        assert_eq!(table(model), table(&models[0]));
    }
    for (hint, shape) in [("teacher.assistant.s2", [12, 8, 1, 1]), ("assistant.student.s1", [4, 3, 1, 1])] {
        let adapter = &models[0].parameters[&format!("hint.{hint}.conv1.weight")];
        assert_eq!(adapter.shape.dims(), shape);
        assert!(!adapter.frozen, "an adapter is trained wherever its term is");
    }
    for eval in &models[2..] {
        assert_eq!(outputs(eval, "logits."), ["assistant", "student", "teacher"]);
    }
}

#[test]
fn what_is_frozen_in_a_phase_is_frozen_as_networks_are() {
    let (first, second) = (phase(CHAIN, "", 0), phase(CHAIN, "", 1));
    let of = |model: &Model, net: &str| -> BTreeSet<String> {
        model.parameters.keys().filter(|name| name.starts_with(net)).cloned().collect()
    };
    let mut wanted = of(&first, "assistant.");
    wanted.insert("hint.teacher.assistant.s2.conv1.weight".into());
    assert_eq!(trained(&first), wanted);
    let mut wanted = of(&second, "student.");
    wanted.insert("hint.assistant.student.s1.conv1.weight".into());
    assert_eq!(trained(&second), wanted, "the divergence is not detached, and its teacher is frozen");
    assert!(stored(&first).iter().all(|name| name.starts_with("assistant.")) && stored(&first).len() == 6);
    assert!(stored(&second).iter().all(|name| name.starts_with("student.")) && stored(&second).len() == 4);
    let frozen_nets = |model: &Model| {
        model.nets.iter().filter(|net| net.frozen).map(|net| net.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(frozen_nets(&first), ["teacher", "student"]);
    assert_eq!(frozen_nets(&second), ["teacher", "assistant"]);
    // The frozen net computes what it computes when it is evaluated, beside one that is trained.
    let eval = model(&spec(CHAIN, ""), Mode::Eval, 3);
    let logits = |model: &Model| {
        let found = evaluate(&model.graph, &feeds(&model.graph)).expect("the graph evaluates").outputs;
        (found["logits.assistant"].data.clone(), found["logits.student"].data.clone())
    };
    let (train, eval) = (logits(&second), logits(&eval));
    assert_eq!(train.0, eval.0);
    assert_ne!(train.1, eval.1);
}

#[test]
fn entries_are_nets_and_parts_of_them() {
    let frozen_by = |entries: &str| {
        let rest = format!("phase p {{ epochs = 1, freeze = {entries} }}");
        let model = phase(TWO, &rest, 0);
        frozen(&model).into_iter().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(
        frozen_by("[net.stem]"),
        ["net.stem.bn1.bias", "net.stem.bn1.weight", "net.stem.conv1.weight"]
    );
    // A part of the backbone with all marks; of a sub-net with its own.
    let heads = ["net.head.linear1.bias", "net.head.linear1.weight"];
    let small = ["net.head.linear1@small.bias", "net.head.linear1@small.weight"];
    assert_eq!(frozen_by("[net.head]"), [heads, small].concat());
    assert_eq!(frozen_by("[small.head]"), small);
    assert_eq!(frozen_by("[full.head, small.head]"), [heads, small].concat());
    assert_eq!(frozen_by("net.s2[1]"), ["net.s2.1.conv1.weight"]);
    assert_eq!(frozen_by("[net.s1[0].bn1]"), ["net.s1.0.bn1.bias", "net.s1.0.bn1.weight"]);
    // `train` freezes the rest.
    let rest = "phase p { epochs = 1, train = [net.head, full.s2[1]] }";
    let left: BTreeSet<String> = ["net.s2.1.conv1.weight".to_string()]
        .into_iter()
        .chain([heads, small].concat().into_iter().map(String::from))
        .collect();
    assert_eq!(trained(&phase(TWO, rest, 0)), left);
    // A whole sub-net takes what it shares with it.
    let model = phase(
        TWO,
        "phase p { epochs = 1, train = [small.head, full.s1[1]], supervise small { cross_entropy } }",
        0,
    );
    assert!(!model.nets.iter().any(|net| net.frozen));
    let model = phase(TWO, "phase p { epochs = 1, freeze = [full] }", 0);
    assert_eq!(trained(&model).into_iter().collect::<Vec<_>>(), small);
    assert_eq!(outputs(&model, "loss."), ["ce.small", "total"], "the full net is frozen as a whole");
}

#[test]
fn parts_that_are_frozen_keep_statistics_and_drop_nothing() {
    let fixed =
        |model: &Model| count(&model.graph, |op| matches!(op, Op::Normalize { batch_stats: false, .. }));
    let dropouts = |model: &Model| count(&model.graph, |op| matches!(op, Op::Dropout { .. }));
    let one = "subnet full = net";
    // Three norms; dropouts in two blocks and the head.
    let all = phase(one, "phase p { epochs = 1 }", 0);
    assert_eq!((fixed(&all), dropouts(&all), stored(&all).len()), (0, 3, 6));
    let block = phase(one, "phase p { epochs = 1, freeze = [net.s1[0]] }", 0);
    assert_eq!((fixed(&block), dropouts(&block), stored(&block).len()), (1, 2, 4));
    // A norm alone: it takes its statistics, and the gradient goes on through it.
    let norm = phase(one, "phase p { epochs = 1, freeze = [net.s1[0].bn1] }", 0);
    assert_eq!((fixed(&norm), dropouts(&norm), stored(&norm).len()), (1, 3, 4));
    assert!(
        trained(&norm).contains("net.s1.0.conv1.weight") && trained(&norm).contains("net.stem.conv1.weight")
    );
    // What is behind a trained head is still; the head drops out.
    let head = phase(one, "phase p { epochs = 1, train = [net.head] }", 0);
    assert_eq!((fixed(&head), dropouts(&head), stored(&head).len()), (3, 1, 0));
}

#[test]
fn a_net_that_no_loss_reads_stays_as_it_is() {
    let rest = "share net { norm = private_everywhere }
        phase p { epochs = 1  supervise small { cross_entropy(weight = 0) } }";
    let model = phase(TWO, rest, 0);
    assert_eq!(outputs(&model, "logits."), ["full"]);
    assert!(model.states.keys().any(|name| name.contains("@small")));
    assert_eq!(stored(&model).len(), 6);
    assert!(!stored(&model).iter().any(|name| name.contains("@small")), "{:?}", stored(&model));
}

#[test]
fn a_net_that_trains_nothing_of_its_own_is_not_asked() {
    let exit = format!("{TWO} exit early = full after s1 |> global_avg_pool |> linear(classes)");
    let losses = |shared: &str, phase_of: &str| {
        let rest = format!("{shared} phase one {{ epochs = 1, {phase_of} }}");
        outputs(&phase(&exit, &rest, 0), "loss.")
    };
    assert_eq!(losses("", "train = [full]"), ["ce.full", "total"]);
    assert_eq!(losses("", "train = [full, small.head]"), ["ce.full", "ce.small", "total"]);
    assert_eq!(losses("", "freeze = [net.early]"), ["ce.full", "ce.small", "total"]);
    // What it is said to learn it learns, and one without anything of its own is trained with the others.
    let said = losses("", "train = [full], supervise small { cross_entropy }");
    assert_eq!(said, ["ce.full", "ce.small", "total"]);
    let one = losses("share net { norm = shared, head = shared }", "train = [full]");
    assert_eq!(one, ["ce.full", "ce.small", "total"]);
}

#[test]
fn a_phase_without_losses_has_those_of_the_top_level() {
    let rest = "distill full -> small { kl(weight = 2) }
        phase own  { epochs = 1  supervise full { cross_entropy(weight = 0.5) } }
        phase same { epochs = 2 }";
    assert_eq!(outputs(&phase(TWO, rest, 0), "loss."), ["ce.full", "ce.small", "total"]);
    assert_eq!(outputs(&phase(TWO, rest, 1), "loss."), ["ce.full", "ce.small", "kl.full.small", "total"]);
}

#[test]
fn images_are_ordered_as_a_phase_or_the_top_level_says() {
    let rest = "order { by = difficulty(snapshot = small), pace = linear(to = 0.9) }
        phase a { epochs = 1  order { by = shuffle } }
        phase b { epochs = 1 }
        phase c { epochs = 1  order { pace = linear(0.2, 0.5), by = difficulty(full, mode = anti_curriculum) } }";
    let order = |at: usize| phase(TWO, rest, at).recipe.order;
    let difficulty = |snapshot: &str, mode, from, to| Order::Difficulty {
        snapshot: snapshot.to_string(),
        mode,
        pace: Pace { from, to },
    };
    assert_eq!(order(0), Order::Shuffle);
    assert_eq!(order(1), difficulty("small", Curriculum::Curriculum, 0.4, 0.9));
    assert_eq!(order(2), difficulty("full", Curriculum::AntiCurriculum, 0.2, 0.5));
    let whole = "order { by = difficulty(snapshot = small, mode = random_curriculum) }";
    assert_eq!(
        phase(TWO, whole, 0).recipe.order,
        difficulty("small", Curriculum::RandomCurriculum, 0.4, 1.0)
    );
    assert_eq!(phase(TWO, "", 0).recipe.order, Order::Shuffle);
}

#[test]
fn a_phase_beyond_the_last_is_refused() {
    let file = ddnnc_syntax::parse(&spec(TWO, "phase p { epochs = 1 }"), ddnnc_diag::SourceId(0))
        .expect("it parses");
    let options = ddnnc_lower::Options { mode: Mode::Train, batch: None, phase: 1 };
    let errors = ddnnc_lower::lower(&file, &options).expect_err("there is one phase");
    assert_eq!(errors[0].message, "there is no phase 1");
}
