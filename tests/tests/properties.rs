//! What must hold of nested sub-nets whatever the kernels: equality with the stand-alone network, sums of gradients,
//! detached teachers, private norms, bits that do not depend on threads.

use ddnnc_cpu::CpuDevice;
use ddnnc_ir::Mode;
use ddnnc_passes::{Goal, ReferenceDevice};
use ddnnc_tests::harness::{
    Tensors, bits, load, mismatches, model, program, random_batch, random_weights, read_all, run_once,
};

const BATCH: usize = 6;

/// A residual net with a projection, padding, stride and a norm in each block; `{nets}` and `{rest}` are filled in.
fn family(blocks: [usize; 2], nets: &str, rest: &str) -> String {
    let [a, b] = blocks;
    let more = if b > 1 { format!(", {} * basic(8, 1)", b - 1) } else { String::new() };
    format!(
        "model family
        input  image : f32[3, 8, 8]
        target label : class[5]
        block basic(out, stride) {{
            let skip = if stride == 1 and in.channels == out {{ in }}
                       else {{ in |> conv(out, 1, stride) as proj |> bn as proj_bn }}
            in |> conv(out, 3, stride) |> bn |> relu |> conv(out, 3) |> bn |> add(skip) |> relu
        }}
        backbone net {{
            stem     = conv(4, 3) |> bn |> relu
            stage s1 = {a} * basic(4, 1)
            stage s2 = basic(8, 2){more}
            head     = global_avg_pool |> linear(classes)
        }}
        {nets}
        {rest}
        train {{ data = cifar10, optimizer = sgd(lr = 0.05, momentum = 0.9, weight_decay = 1e-3) }}"
    )
}

const THREE: &str = "subnet full = net subnet mid = net depth [2, 2] subnet small = net depth [1, 1]";

fn cpu(threads: usize) -> CpuDevice {
    CpuDevice::new(Some(threads)).expect("a CPU device")
}

/// The weights that the stand-alone network of that shape would have: private names lose their suffix.
fn copied(weights: &Tensors, alone: &ddnnc_ir::Model, joint: &ddnnc_ir::Model, net: &str) -> Tensors {
    let net = joint.nets.iter().find(|n| n.name == net).expect("the net is there");
    let plain = |name: &str| match name.split_once('@') {
        None => name.to_string(),
        Some((before, after)) => {
            let field = after.split_once('.').map_or("", |(_, field)| field);
            format!("{before}.{field}")
        }
    };
    let copied: Tensors = net
        .parameters
        .iter()
        .chain(&net.states)
        .map(|name| (plain(name), weights[name.as_str()].clone()))
        .collect();
    let wanted: Vec<&String> = alone.parameters.keys().chain(alone.states.keys()).collect();
    assert_eq!(copied.len(), wanted.len());
    assert!(wanted.iter().all(|name| copied.contains_key(*name)));
    copied
}

#[test]
fn a_subnet_equals_the_stand_alone_network_to_the_bit() {
    // The wider nets' convolutions go by Winograd's algorithm where there are images enough: as many beside others as alone.
    for widths in [[4, 8], [16, 32]] {
        let wide = |text: String| {
            let [a, b] = widths;
            text.replace("conv(4,", &format!("conv({a},"))
                .replace("basic(4,", &format!("basic({a},"))
                .replace("basic(8,", &format!("basic({b},"))
        };
        let joint = model(&wide(family([3, 3], THREE, "")), Mode::Eval, BATCH);
        let weights = random_weights(&joint, 1);
        let batch = random_batch(&joint, 2);
        let device = cpu(2);
        let ours = run_once(&device, &program(&joint, Goal::Evaluate), &joint, &weights, &batch);
        for (net, blocks) in [("full", [3, 3]), ("mid", [2, 2]), ("small", [1, 1])] {
            let alone = model(&wide(family(blocks, "subnet only = net", "")), Mode::Eval, BATCH);
            let weights = copied(&weights, &alone, &joint, net);
            let theirs = run_once(&device, &program(&alone, Goal::Evaluate), &alone, &weights, &batch);
            let (a, b) = (&ours[&format!("logits.{net}")], &theirs["logits.only"]);
            assert!(a.iter().all(|x| x.is_finite()) && a.iter().any(|x| *x != 0.0));
            assert_eq!(bits(a), bits(b), "{net} of {widths:?}");
        }
    }
}

#[test]
fn shared_weights_get_the_sum_of_the_subnets_gradients() {
    let share = "share net { norm = private_everywhere, head = private }";
    let joint = model(&family([3, 3], THREE, share), Mode::Train, BATCH);
    let weights = random_weights(&joint, 3);
    let batch = random_batch(&joint, 4);
    let ours = run_once(&ReferenceDevice, &program(&joint, Goal::Gradients), &joint, &weights, &batch);
    let mut sums = Tensors::new();
    for (net, blocks) in [("full", [3, 3]), ("mid", [2, 2]), ("small", [1, 1])] {
        let alone = model(&family(blocks, "subnet only = net", ""), Mode::Train, BATCH);
        let copied = copied(&weights, &alone, &joint, net);
        let theirs = run_once(&ReferenceDevice, &program(&alone, Goal::Gradients), &alone, &copied, &batch);
        for name in alone.parameters.keys().filter(|n| n.contains(".conv") || n.contains(".proj.")) {
            let gradient = &theirs[&format!("grad.{name}")];
            let sum = sums.entry(name.clone()).or_insert_with(|| vec![0.0; gradient.len()]);
            sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
        }
    }
    assert_eq!(sums.len(), 14, "{:?}", sums.keys());
    for (name, sum) in &sums {
        let gradient = &ours[&format!("grad.{name}")];
        assert!(gradient.iter().any(|g| *g != 0.0), "{name}");
        assert_eq!(mismatches(gradient, sum, 1e-5), 0, "{name}");
    }
}

/// The gradient of the full net's own head when only the pairings teach.
fn head_gradient(terms: &str) -> Vec<f32> {
    let rest = format!(
        "supervise [full, mid, small] {{ cross_entropy(weight = 0) }} distill full -> [mid, small] {{ {terms} }}"
    );
    let joint = model(&family([3, 3], THREE, &rest), Mode::Train, BATCH);
    let weights = random_weights(&joint, 5);
    let batch = random_batch(&joint, 6);
    let all = run_once(&cpu(2), &program(&joint, Goal::Gradients), &joint, &weights, &batch);
    let student = &all["grad.net.head.linear1@small.weight"];
    assert!(student.iter().any(|g| *g != 0.0), "the student learns");
    // Block 2 of the last stage is the full net's alone: whatever reaches it came through the teacher.
    let own = &all["grad.net.s2.2.conv1.weight"];
    own.iter().chain(&all["grad.net.head.linear1.weight"]).copied().collect()
}

#[test]
fn a_detached_teacher_receives_exactly_nothing() {
    for terms in [
        "kl(temperature = 3)",
        "kl, attention(at = [s2])",
        "kl, attention(at = [s2], mode = at)",
        "kl, hint(at = [s2])",
        "kl, relation",
    ] {
        assert!(head_gradient(terms).iter().all(|g| *g == 0.0), "{terms}");
    }
    for terms in [
        "kl(detach = false)",
        "kl, attention(at = [s2], detach = false)",
        "kl, hint(at = [s2], detach = false)",
        "kl, relation(detach = false)",
    ] {
        assert!(head_gradient(terms).iter().any(|g| *g != 0.0), "{terms}");
    }
}

#[test]
fn private_norms_do_not_mix() {
    let joint = model(&family([3, 3], THREE, ""), Mode::Train, BATCH);
    let program = program(&joint, Goal::Train);
    let batch = random_batch(&joint, 7);
    let weights = random_weights(&joint, 8);
    let before = run_once(&cpu(2), &program, &joint, &weights, &batch);
    // What the full net alone computes is changed: no statistic of another net may move, and its own do.
    let mut changed = weights.clone();
    for name in ["net.s1.2.conv1.weight", "net.s2.2.conv1.weight"] {
        changed.get_mut(name).expect("the full net's block").iter_mut().for_each(|w| *w = 2.0 * *w + 0.1);
    }
    let after = run_once(&cpu(2), &program, &joint, &changed, &batch);
    let (mut kept, mut moved) = (0, 0);
    for name in joint.states.keys() {
        let same = bits(&before[name]) == bits(&after[name]);
        if name.contains('@') {
            assert!(same, "{name} belongs to a shallower sub-net");
            kept += 1;
        } else if !same {
            moved += 1;
        }
    }
    assert!(kept >= 8 && moved >= 8, "{kept} kept, {moved} moved");
}

#[test]
fn the_same_seed_gives_the_same_bits_with_any_number_of_threads() {
    let rest = "distill full -> [mid, small] { kl, attention(at = [s2]), hint(at = [s1]), relation }
        distill adaptive(full, mid) -> small { kl } distill gated(full, mid) -> [full, small] { kl }";
    let joint = model(&family([3, 3], THREE, rest), Mode::Train, BATCH);
    let program = program(&joint, Goal::Train);
    let weights = random_weights(&joint, 9);
    let steps = |threads: usize| {
        let device = cpu(threads);
        let mut run = load(&device, &program, &joint, &weights, &random_batch(&joint, 0));
        for step in 0..4 {
            let (image, label) = random_batch(&joint, step);
            run.write_f32(&joint.input.0, &image).expect("an image batch");
            run.write_i64(&joint.target.0, &label).expect("a label batch");
            run.write_f32("lr", &[0.05]).expect("a learning rate");
            run.run().expect("the step runs");
        }
        read_all(run.as_ref())
    };
    let one = steps(1);
    assert!(one.values().flatten().all(|x| x.is_finite()));
    for threads in [2, 3] {
        for (name, data) in steps(threads) {
            assert_eq!(bits(&one[&name]), bits(&data), "{name} with {threads} threads");
        }
    }
}

#[test]
fn the_cpu_follows_the_reference_step_for_step() {
    let rest = "distill full -> [mid, small] { kl, attention(at = [s2]), hint(at = [s1]) }
        distill adaptive(full, mid) -> small { kl } distill gated(full, mid) -> [full, small] { kl }";
    let joint = model(&family([3, 3], THREE, rest), Mode::Train, BATCH);
    let program = program(&joint, Goal::Train);
    let weights = random_weights(&joint, 10);
    let batch = random_batch(&joint, 11);
    let cpu = cpu(2);
    let mut ours = load(&cpu, &program, &joint, &weights, &batch);
    let mut oracle = load(&ReferenceDevice, &program, &joint, &weights, &batch);
    for step in 0..3 {
        for run in [&mut ours, &mut oracle] {
            let (image, label) = random_batch(&joint, step);
            run.write_f32(&joint.input.0, &image).expect("an image batch");
            run.write_i64(&joint.target.0, &label).expect("a label batch");
            run.write_f32("lr", &[0.01]).expect("a learning rate");
            run.run().expect("the step runs");
        }
        let (ours, oracle) = (read_all(ours.as_ref()), read_all(oracle.as_ref()));
        for (name, data) in &ours {
            assert_eq!(mismatches(data, &oracle[name], 1e-3), 0, "{name} after step {step}");
        }
    }
}
