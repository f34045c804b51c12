//! How far rounding may move the results of a step: measured, not guessed.
//!
//! The oracle is the f64 evaluator on the step before any pass. A device computes in f32, in an order of its own: its
//! results are those of the same step with errors of some roundings in the operands and results of every operator. So
//! the step is evaluated a few times more with random errors of that size everywhere (Monte Carlo arithmetic, D. S.
//! Parker 1997), and what these evaluations are apart from the exact one is what rounding does to this step: a sum that
//! cancels, a variance close to 0 or a hundred layers show as a larger distance, without anybody having thought of them.
//! The tolerance of a tensor is [`MARGIN`] times its largest such distance, and [`ROUNDINGS`] roundings of its largest
//! element.
//!
//! Where an activation lies nearer to a kink than rounding moves it, two correct programs may take different sides, and
//! gradients differ by more than any number of roundings. Values in front of kinks are known in all evaluations, so that
//! can be told: [`near_kink`] compares their distance from the kink with the distances between evaluations. Gradients, and
//! what is updated by them, are compared only for numbers that keep away from kinks; results of the forward pass, which
//! is continuous there, for all.

use crate::harness::{Noise, random_batch, random_weights};
use ddnnc_ir::infer::macs;
use ddnnc_ir::reference::{Evaluation, Tensor, evaluate_op};
use ddnnc_ir::{DType, Graph, IrError, Model, NodeId, Op, Pool, UnaryKind, Value, ValueType};
use ddnnc_passes::{PersistentKind, Program};
use indexmap::IndexMap;
use rustc_hash::FxHashMap;

/// Everything that a step reads, by name.
pub type Feeds = IndexMap<String, Tensor>;

/// Roundings of f32 in each operand and each result of an operator. A sum of n products one after the other gathers about
/// √(n/6) of them where signs are random, so that √n stand in its operands where that is more; Winograd's transforms have
/// about ten times those of sums tap by tap.
pub const ROUNDINGS: f64 = 8.0;

/// How many times the largest distance between evaluations is the tolerance: they are few, and a maximum of few draws
/// falls short of what can come.
pub const MARGIN: f64 = 4.0;

/// Evaluations with errors.
const SAMPLES: u64 = 3;

/// One rounding of an f32, relative.
const F32: f64 = 1.0 / (1u64 << 24) as f64;

/// One rounding of a bf16, relative.
const BF16: f64 = 1.0 / (1u64 << 8) as f64;

/// A step with the exact results and their tolerances.
pub struct Oracle {
    /// Outputs, and new contents of what persists, by name.
    pub exact: IndexMap<String, Vec<f64>>,
    /// The tolerance of each in f32.
    pub tolerance: IndexMap<String, f64>,
}

/// Random numbers for everything that a program reads; the same for the same seed and names.
pub fn random_feeds(model: &Model, program: &Program, seed: u64) -> Feeds {
    let weights = random_weights(model, seed);
    let (image, label) = random_batch(model, seed);
    let mut feeds = Feeds::new();
    for (name, persistent) in &program.persistent {
        let ty = program.buffer(persistent.buffer).ty.clone();
        let data = match (persistent.kind, weights.get(name)) {
            (PersistentKind::Parameter | PersistentKind::Statistic, Some(known)) => {
                known.iter().map(|&x| f64::from(x)).collect()
            }
            (PersistentKind::Optimizer, _) | (_, None) => {
                // Of a size with gradients, and never negative: second moments are among them.
                let mut noise = Noise::new(seed, name);
                (0..ty.elements()).map(|_| f64::from(1e-3 * (1.5 + noise.number()))).collect()
            }
        };
        feeds.insert(name.clone(), Tensor { ty, data });
    }
    for (name, &buffer) in &program.inputs {
        let ty = program.buffer(buffer).ty.clone();
        let data = match name.as_str() {
            name if name == model.input.0 => image.iter().map(|&x| f64::from(x)).collect(),
            name if name == model.target.0 => label.iter().map(|&x| x as f64).collect(),
            "rng" => vec![seed as f64, 3.0],
            "lr" => vec![f64::from(model.recipe.optimizer.lr() as f32)],
            "optimizer.step" => vec![3.0],
            // The weight of a term that changes with time.
            _ => vec![0.5; ty.elements()],
        };
        feeds.insert(name.clone(), Tensor { ty, data });
    }
    feeds
}

/// Evaluates a step exactly, and with errors for its tolerances.
///
/// # Errors
///
/// Those of the evaluator.
pub fn oracle(graph: &Graph, feeds: &Feeds) -> Result<Oracle, IrError> {
    let (exact, _) = evaluate_with_errors(graph, feeds, None, &[])?;
    let exact = named(exact);
    let mut distance: IndexMap<String, f64> = exact.keys().map(|name| (name.clone(), 0.0)).collect();
    for seed in 0..SAMPLES {
        let (sample, _) = evaluate_with_errors(graph, feeds, Some(seed), &[])?;
        for (name, sample) in named(sample) {
            let apart = largest_distance(&exact[&name], &sample);
            let largest = &mut distance[&name];
            *largest = if apart <= *largest { *largest } else { apart };
        }
    }
    let tolerance = distance
        .into_iter()
        .map(|(name, distance)| {
            let largest = exact[&name].iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let tolerance = MARGIN * distance + ROUNDINGS * F32 * largest + f64::from(f32::MIN_POSITIVE);
            (name, tolerance)
        })
        .collect();
    Ok(Oracle { exact, tolerance })
}

/// Outputs and stores in one table; their names are apart.
pub fn named(evaluation: Evaluation) -> IndexMap<String, Vec<f64>> {
    evaluation
        .outputs
        .into_iter()
        .chain(evaluation.stores)
        .map(|(name, tensor)| (name, tensor.data))
        .collect()
}

/// The largest distance of two elements; not a number where one is not.
fn largest_distance(a: &[f64], b: &[f64]) -> f64 {
    let mut largest = 0.0;
    for (a, b) in a.iter().zip(b) {
        let apart = (a - b).abs();
        largest = if apart <= largest { largest } else { apart };
    }
    largest
}

/// Whether a value in front of a kink of the forward graph lies nearer to it than rounding may move it.
///
/// # Errors
///
/// Those of the evaluator.
pub fn near_kink(graph: &Graph, feeds: &Feeds) -> Result<bool, IrError> {
    let kinks: Vec<NodeId> = graph.nodes().filter(|&id| Kink::of(&graph.node(id).op).is_some()).collect();
    let watched: Vec<Value> = kinks.iter().map(|&id| graph.operands(id)[0]).collect();
    let (_, exact) = evaluate_with_errors(graph, feeds, None, &watched)?;
    let samples = (0..SAMPLES)
        .map(|seed| evaluate_with_errors(graph, feeds, Some(seed), &watched).map(|(_, values)| values))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(kinks.iter().zip(&watched).any(|(&id, value)| {
        let x = &exact[value];
        let moved = samples.iter().map(|sample| largest_distance(&x.data, &sample[value].data));
        let moved = MARGIN * moved.fold(0.0, |m, d| if d <= m { m } else { d });
        Kink::of(&graph.node(id).op).is_some_and(|kink| kink.is_near(x, moved))
    }))
}

/// Where the derivative of an elementwise function jumps.
pub fn kinks(kind: UnaryKind) -> &'static [f64] {
    match kind {
        UnaryKind::Relu => &[0.0],
        UnaryKind::Relu6 => &[0.0, 6.0],
        UnaryKind::HardSwish => &[-3.0, 3.0],
        // The least normal number, below which a logarithm is constant, is where f32 ends.
        UnaryKind::Sigmoid
        | UnaryKind::Tanh
        | UnaryKind::Silu
        | UnaryKind::Gelu
        | UnaryKind::Square
        | UnaryKind::Log => &[],
    }
}

/// Where an operator's derivative jumps.
enum Kink<'a> {
    /// At these numbers, element by element.
    At(&'a [f64]),
    /// Where two entries of a window are equal.
    Tie(&'a Pool),
    /// Where the length of a sample is this.
    Length(f64),
}

impl Kink<'_> {
    fn of(op: &Op) -> Option<Kink<'_>> {
        match op {
            Op::Unary { kind } => Some(kinks(*kind)).filter(|kinks| !kinks.is_empty()).map(Kink::At),
            Op::MaxPool(pool) => Some(Kink::Tie(pool)),
            Op::L2Normalize { eps } => Some(Kink::Length(*eps)),
            // Smooth. A kink that is forgotten here shows as a difference between programs that are both right.
            _ => None,
        }
    }

    /// Whether some element is within `moved` of the kink. Zeros that a ReLU or dropout made are zeros in every
    /// program: they are not near, but exactly there.
    fn is_near(&self, x: &Tensor, moved: f64) -> bool {
        match self {
            Kink::At(kinks) => {
                x.data.iter().any(|&x| x != 0.0 && kinks.iter().any(|kink| (x - kink).abs() <= moved))
            }
            Kink::Tie(pool) => has_tie(pool, x, moved),
            Kink::Length(eps) => {
                let sample = x.data.len() / x.dims()[0].max(1);
                x.data.chunks(sample.max(1)).any(|sample| {
                    let length = sample.iter().map(|x| x * x).sum::<f64>().sqrt();
                    (length - eps).abs() <= moved
                })
            }
        }
    }
}

/// Whether the two largest entries of a window are within `moved` of one another, and not zeros both.
fn has_tie(pool: &Pool, x: &Tensor, moved: f64) -> bool {
    let &[n, c, h, w] = x.dims() else { return false };
    let Some([rows, columns]) = pool.output([h, w]) else { return false };
    let place = |out: usize, tap: usize, i: usize, extent: usize| {
        (out * pool.stride[i] + tap).checked_sub(pool.pad[i]).filter(|&at| at < extent)
    };
    for map in x.data.chunks(h * w).take(n * c) {
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
            for i in (0..pool.kernel[0]).filter_map(|tap| place(row, tap, 0, h)) {
                for j in (0..pool.kernel[1]).filter_map(|tap| place(column, tap, 1, w)) {
                    let entry = map[i * w + j];
                    second = second.max(entry.min(first));
                    first = first.max(entry);
                }
            }
            if first - second <= moved && (first != 0.0 || second != 0.0) {
                return true;
            }
        }
    }
    false
}

/// Whether an operator hands numbers on as they are, so that nothing is rounded. One that is missing here is compared less
/// strictly than it could be.
fn moves_only(op: &Op) -> bool {
    matches!(
        op,
        Op::StopGradient
            | Op::Reshape { .. }
            | Op::ConvertLayout { .. }
            | Op::Broadcast { .. }
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::MaxPool(_)
    )
}

/// Evaluates a graph, with random errors where there is a seed; gives the values of `watched` besides.
fn evaluate_with_errors(
    graph: &Graph,
    feeds: &Feeds,
    seed: Option<u64>,
    watched: &[Value],
) -> Result<(Evaluation, FxHashMap<Value, Tensor>), IrError> {
    let order = graph.topological()?;
    let mut uses: FxHashMap<Value, usize> = FxHashMap::default();
    for value in order.iter().flat_map(|&id| graph.operands(id)).chain(watched.iter().copied()) {
        *uses.entry(value).or_default() += 1;
    }
    let mut noise = seed.map(|seed| Noise::new(seed, "rounding"));
    let mut evaluation = Evaluation::default();
    let mut values: FxHashMap<Value, Tensor> = FxHashMap::default();
    for id in order {
        let node = graph.node(id);
        let operands = graph.operands(id);
        match &node.op {
            Op::Input { name } | Op::Parameter { name, .. } | Op::State { name } => {
                let fed = feeds.get(name).cloned().ok_or_else(|| IrError::Feed {
                    name: name.clone(),
                    message: "is read and was not drawn".to_owned(),
                })?;
                values.insert(Value { node: id, result: 0 }, fed);
            }
            Op::Output { name } => {
                evaluation.outputs.insert(name.clone(), values[&operands[0]].clone());
            }
            Op::Store { name } => {
                evaluation.stores.insert(name.clone(), values[&operands[0]].clone());
            }
            op => {
                let mut noise = noise.as_mut().filter(|_| !moves_only(op));
                let results = match &mut noise {
                    None => {
                        let taken: Vec<&Tensor> = operands.iter().map(|v| &values[v]).collect();
                        evaluate_op(op, &taken, &node.results)?
                    }
                    Some(noise) => {
                        let mut taken: Vec<Tensor> = operands.iter().map(|v| values[v].clone()).collect();
                        let roundings = ROUNDINGS.max(terms(op, &taken, &node.results).sqrt());
                        taken.iter_mut().for_each(|tensor| disturb(tensor, roundings * F32, noise));
                        evaluate_op(op, &taken.iter().collect::<Vec<_>>(), &node.results)?
                    }
                };
                for (value, mut result) in graph.results(id).into_iter().zip(results) {
                    if let Some(noise) = &mut noise {
                        let size = if result.ty.dtype == DType::Bf16 { BF16 } else { ROUNDINGS * F32 };
                        disturb(&mut result, size, noise);
                        if let Some(size) = cancelled(op, &operands, graph) {
                            result.data.iter_mut().for_each(|x| *x += size * F32 * f64::from(noise.number()));
                        }
                    }
                    values.insert(value, result);
                }
            }
        }
        for value in operands {
            if let Some(left) = uses.get_mut(&value) {
                *left -= 1;
                if *left == 0 {
                    values.remove(&value);
                }
            }
        }
    }
    values.retain(|value, _| watched.contains(value));
    Ok((evaluation, values))
}

/// How large the numbers are that cancel inside an operator, whose roundings no error of operands or results stands for. The
/// logarithms of two distributions of K classes are of the size of ln K, and their difference, times T², may be near 0. Cosines,
/// and distances by their mean, are of the size of 1, and half the square of their difference is the loss.
fn cancelled(op: &Op, operands: &[Value], graph: &Graph) -> Option<f64> {
    match op {
        Op::KlDivergence { temperature } => {
            let &[_, classes] = graph.ty(operands[0]).dims() else { return None };
            Some(ROUNDINGS * temperature * temperature * (classes as f64).ln())
        }
        Op::RelationDistance | Op::RelationAngle => Some(ROUNDINGS * ROUNDINGS * F32 / 2.0),
        _ => None,
    }
}

/// Products in each sum of a convolution or matrix product; 0 for other operators.
fn terms(op: &Op, operands: &[Tensor], results: &[ValueType]) -> f64 {
    let types: Vec<&ValueType> = operands.iter().map(|tensor| &tensor.ty).collect();
    let sums: usize = results.iter().map(ValueType::elements).sum();
    macs(op, &types, results) as f64 / sums.max(1) as f64
}

/// Errors of up to `size`, relative, in every number; whole numbers stay. Equal numbers have equal errors, as equal
/// numbers are rounded alike: at the border of a map there may be hundreds of them, whose errors do not average out.
fn disturb(tensor: &mut Tensor, size: f64, noise: &mut Noise) {
    let salt = noise.bits();
    if tensor.ty.dtype != DType::I64 {
        let error = |x: f64| f64::from(Noise::from_bits(salt ^ x.to_bits()).number());
        tensor.data.iter_mut().for_each(|x| *x *= 1.0 + size * error(*x));
    }
}

#[cfg(test)]
mod tests {
    use super::{F32, MARGIN, ROUNDINGS, near_kink, oracle, random_feeds};
    use crate::harness::{model, program, unfused};
    use ddnnc_ir::{Mode, Model};
    use ddnnc_passes::Goal;

    fn spec(activation: &str) -> Model {
        let text = format!(
            "model m
input image : f32[3, 6, 6]
target label : class[4]
backbone net {{
    stem     = conv(8, 3) |> bn |> {activation}
    stage s1 = 2 * conv(8, 3) |> bn |> {activation}
    head     = global_avg_pool |> linear(classes)
}}
subnet full = net
train {{ data = image_folder, optimizer = sgd(momentum = 0.5) }}
"
        );
        model(&text, Mode::Train, 8)
    }

    /// Three layers that amplify little: no result may move by more than a few hundred roundings.
    #[test]
    fn tolerances_are_a_number_of_roundings() {
        let model = spec("tanh");
        let feeds = random_feeds(&model, &program(&model, Goal::Train), 1);
        let oracle = oracle(&unfused(&model, Goal::Train), &feeds).expect("the step evaluates");
        assert!(oracle.exact.len() > 20);
        for (name, exact) in &oracle.exact {
            let largest = exact.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let roundings = oracle.tolerance[name] / (F32 * largest);
            assert!(roundings >= ROUNDINGS, "{name}: {roundings}");
            assert!(roundings <= 50.0 * MARGIN * ROUNDINGS, "{name}: {roundings}");
        }
    }

    /// Thousands of activations: most draws keep away from the kink, and few would if the distance were a thousand times
    /// what rounding moves. Where nothing has a kink, none is near.
    #[test]
    fn kinks_are_near_as_often_as_rounding_says() {
        let near = |model: &Model| {
            let step = program(model, Goal::Train);
            let is_near = |seed| near_kink(&model.graph, &random_feeds(model, &step, seed));
            (0..20).filter(|&seed| is_near(seed).expect("the model evaluates")).count()
        };
        assert_eq!(near(&spec("gelu")), 0);
        let relu = near(&spec("relu"));
        assert!((1..15).contains(&relu), "{relu} of 20");
    }
}
