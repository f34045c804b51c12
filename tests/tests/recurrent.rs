//! `lstm` against the recurrence written out by hand, and its training on the CPU against the reference.

use ddnnc_cpu::CpuDevice;
use ddnnc_ir::Mode;
use ddnnc_passes::{Goal, ReferenceDevice};
use ddnnc_tests::harness::{Tensors, mismatches, model, program, random_batch, random_weights, run_once};

const BATCH: usize = 3;
/// Channels, rows and columns of the input.
const INPUT: [usize; 3] = [2, 3, 5];

fn spec(layers: &str, last: usize) -> String {
    let [c, h, w] = INPUT;
    format!(
        "model words
        input  image : f32[{c}, {h}, {w}]
        target label : class[{last}]
        backbone net {{ head = {layers} }}
        subnet full = net
        train {{ data = image_folder(path = \"words\") }}"
    )
}

/// Columns of one sample, each a vector.
type Columns = Vec<Vec<f64>>;

/// The states behind the columns of one direction, in their order.
fn direction(weights: &Tensors, layer: &str, suffix: &str, columns: &Columns, backward: bool) -> Columns {
    let of = |field: &str| -> Vec<f64> {
        weights[&format!("net.head.{layer}.{field}{suffix}")].iter().map(|&x| f64::from(x)).collect()
    };
    let [w, u, a, b] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"].map(of);
    let hidden = a.len() / 4;
    let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
    let mut states = vec![Vec::new(); columns.len()];
    let mut order: Vec<usize> = (0..columns.len()).collect();
    if backward {
        order.reverse();
    }
    for t in order {
        let (x, x_len) = (&columns[t], columns[t].len());
        let gate = |row: usize| -> f64 {
            let input: f64 = x.iter().enumerate().map(|(i, x)| w[row * x_len + i] * x).sum();
            let state: f64 = h.iter().enumerate().map(|(i, h)| u[row * hidden + i] * h).sum();
            input + state + a[row] + b[row]
        };
        let gates: Vec<f64> = (0..4 * hidden).map(gate).collect();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for k in 0..hidden {
            let [i, f, g, o] = [0, 1, 2, 3].map(|part| gates[part * hidden + k]);
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * g.tanh();
            h[k] = sigmoid(o) * c[k].tanh();
        }
        states[t] = h.clone();
    }
    states
}

/// Both directions of a layer side by side.
fn both(weights: &Tensors, layer: &str, columns: &Columns) -> Columns {
    let there = direction(weights, layer, "", columns, false);
    let back = direction(weights, layer, "_reverse", columns, true);
    there.into_iter().zip(back).map(|(a, b)| [a, b].concat()).collect()
}

/// The columns of each sample of a batch.
fn columns(image: &[f32]) -> Vec<Columns> {
    let [c, h, w] = INPUT;
    let sample = |image: &[f32]| {
        let column = |t: usize| (0..c * h).map(|row| f64::from(image[row * w + t])).collect();
        (0..w).map(column).collect()
    };
    image.chunks_exact(c * h * w).map(sample).collect()
}

fn check(layers: &str, last: usize, by_hand: impl Fn(&Tensors, Columns) -> Vec<f64>) {
    let model = model(&spec(layers, last), Mode::Eval, BATCH);
    let (weights, batch) = (random_weights(&model, 3), random_batch(&model, 4));
    let found = run_once(&ReferenceDevice, &program(&model, Goal::Evaluate), &model, &weights, &batch);
    let samples = columns(&batch.0).into_iter();
    let wanted: Vec<f32> = samples.flat_map(|sample| by_hand(&weights, sample)).map(|x| x as f32).collect();
    assert_eq!(mismatches(&found["logits.full"], &wanted, 1e-6), 0, "{layers}");
}

#[test]
fn an_lstm_is_the_recurrence() {
    check("lstm(4)", 4, |weights, sample| {
        direction(weights, "lstm1", "", &sample, false).pop().expect("a column")
    });
}

#[test]
fn the_state_of_the_other_direction_is_behind_the_first_column() {
    check("lstm(3, bidirectional = true)", 6, |weights, sample| {
        let there = direction(weights, "lstm1", "", &sample, false).pop().expect("a column");
        let back = direction(weights, "lstm1", "_reverse", &sample, true);
        [there, back.first().cloned().expect("a column")].concat()
    });
}

#[test]
fn a_sequence_is_a_map_of_one_row() {
    check("lstm(3, sequence = true, bidirectional = true) |> flatten", 30, |weights, sample| {
        let states = both(weights, "lstm1", &sample);
        (0..6).flat_map(|channel| states.iter().map(move |state| state[channel])).collect()
    });
    check("lstm(3, sequence = true, bidirectional = true) |> lstm(hidden = 2)", 2, |weights, sample| {
        let states = both(weights, "lstm1", &sample);
        direction(weights, "lstm2", "", &states, false).pop().expect("a column")
    });
}

#[test]
fn sub_nets_share_an_lstm_and_the_cpu_trains_it() {
    let text = "model words
        input  image : f32[3, 8, 12]
        target label : class[5]
        backbone net {
            stem     = conv(6, 3) |> bn |> relu |> max_pool(2)
            stage s1 = conv(6, 3) |> bn |> relu, conv(6, 3) |> bn |> relu
            stage s2 = lstm(7, sequence = true, bidirectional = true), lstm(14, sequence = true)
            head     = lstm(5) |> linear(classes)
        }
        subnet full = net
        subnet small = net depth [1, 1]
        share net { head = shared }
        distill full -> small { kl, attention(at = [s2]) }
        train { data = image_folder(path = \"words\") }";
    let model = model(text, Mode::Train, BATCH);
    let lstm = |net: &ddnnc_ir::Net| net.parameters.iter().filter(|p| p.contains("s2.0.lstm1")).count();
    assert!(model.nets.iter().all(|net| lstm(net) == 8), "both nets read the same weights");
    // The table counts what is computed.
    for net in ["full", "small"] {
        let alone = ddnnc_passes::macs_until(&model, &[net]).expect("a net with logits");
        assert_eq!(model.nets.iter().find(|n| n.name == net).map(|n| n.macs), alone.first().copied());
    }
    let (weights, batch) = (random_weights(&model, 5), random_batch(&model, 6));
    let program = program(&model, Goal::Gradients);
    let exact = run_once(&ReferenceDevice, &program, &model, &weights, &batch);
    let cpu = CpuDevice::new(Some(2)).expect("a CPU device");
    let found = run_once(&cpu, &program, &model, &weights, &batch);
    assert!(exact.keys().filter(|name| name.starts_with("grad.net.s2")).count() == 12);
    for (name, exact) in &exact {
        assert_eq!(mismatches(&found[name], exact, 1e-4), 0, "{name}");
    }
}
