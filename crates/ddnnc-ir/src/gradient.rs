//! Reverse-mode differentiation: one table of rules, each with its algebra above it.
//!
//! Only operators on a path from a trained parameter to the loss get cotangents, and of those only the operands that
//! lead back to a trained parameter: the image gets no gradient. Inputs, states, constants, frozen parameters and
//! `stop_gradient` end a path. The gradient of a gradient operator is not defined.

use crate::{BinaryKind, Graph, IrError, Layout, Node, NodeId, Op, Origin, ReduceKind, Value, ValueType};
use indexmap::IndexMap;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// The cotangents that one operator gives to its operands: (operand, cotangent).
type Cotangents = SmallVec<[(usize, Value); 3]>;

/// Appends the backward pass of the scalar `loss`.
///
/// Gives the gradient, of the parameter's own type, of every parameter that is not frozen and that the loss reaches, in
/// the order in which the parameters first appear topologically. Gradient operators take the origin of the operator
/// they differentiate. Where two uses of a value contribute, the contributions are added in a fixed order.
///
/// # Errors
///
/// [`IrError::NoGradient`] with every operator on a path of the loss that has no rule; the graph is then unchanged.
/// [`IrError::Type`] where the loss is no f32 scalar.
pub fn differentiate(graph: &mut Graph, loss: Value) -> Result<IndexMap<String, Value>, IrError> {
    if *graph.ty(loss) != ValueType::scalar() {
        return Err(IrError::Type {
            op: graph.op(loss).mnemonic(),
            message: format!("the loss must be an f32 scalar, not {}", graph.ty(loss)),
            operand: None,
            against: None,
        });
    }
    let order = graph.topological()?;
    let trained = leading_to_parameters(graph, &order);
    let path = leading_to_loss(graph, &order, &trained, loss);
    let missing: Vec<String> = order
        .iter()
        .filter(|id| path[id.index()] && !has_gradient(&graph.node(**id).op))
        .map(|&id| describe(graph.node(id)))
        .collect();
    if !missing.is_empty() {
        return Err(IrError::NoGradient { operators: missing });
    }

    let mut cotangents: FxHashMap<Value, Value> = FxHashMap::default();
    if path[loss.node.index()] {
        let origin = graph.node(loss.node).origin.clone();
        let one = graph.add_source(Op::Constant { value: 1.0 }, ValueType::scalar(), origin)?;
        cotangents.insert(loss, one);
    }
    let mut found: Vec<(String, Value)> = Vec::new();
    for &id in order.iter().rev().filter(|id| path[id.index()]) {
        let Some(dy) = cotangents.remove(&Value { node: id, result: 0 }) else { continue };
        if let Op::Parameter { name, .. } = &graph.node(id).op {
            found.push((name.clone(), dy));
            continue;
        }
        let operands = graph.operands(id);
        let want: SmallVec<[bool; 4]> = operands
            .iter()
            .enumerate()
            .map(|(i, v)| flows(&graph.node(id).op, i) && trained[v.node.index()])
            .collect();
        let rule = Rule { id, dy, operands: &operands, want: &want, origin: graph.node(id).origin.clone() };
        for (operand, contribution) in rule.apply(graph)? {
            accumulate(graph, &mut cotangents, operands[operand], contribution)?;
        }
    }
    found.reverse();
    let mut gradients: IndexMap<String, Value> = IndexMap::new();
    for (name, dy) in found {
        let sum = match gradients.get(&name) {
            None => dy,
            Some(&first) => {
                let origin = graph.node(first.node).origin.clone();
                graph.add1(Op::Binary { kind: BinaryKind::Add }, &[first, dy], origin)?
            }
        };
        gradients.insert(name, sum);
    }
    Ok(gradients)
}

/// For each of some values, whether a gradient of it would reach a parameter that is not frozen.
///
/// # Errors
///
/// A graph with a cycle, which no public call makes.
pub fn reach_trained(graph: &Graph, values: &[Value]) -> Result<Vec<bool>, IrError> {
    let trained = leading_to_parameters(graph, &graph.topological()?);
    Ok(values.iter().map(|value| trained[value.node.index()]).collect())
}

/// Adds a contribution to what a value has received so far.
fn accumulate(
    graph: &mut Graph,
    cotangents: &mut FxHashMap<Value, Value>,
    value: Value,
    contribution: Value,
) -> Result<(), IrError> {
    let sum = match cotangents.get(&value) {
        None => contribution,
        Some(&so_far) => {
            let origin = graph.node(value.node).origin.clone();
            graph.add1(Op::Binary { kind: BinaryKind::Add }, &[so_far, contribution], origin)?
        }
    };
    cotangents.insert(value, sum);
    Ok(())
}

/// For each node, whether its results depend on a trained parameter in a way that gradients follow.
fn leading_to_parameters(graph: &Graph, order: &[NodeId]) -> Vec<bool> {
    let mut leads = vec![false; graph.index_bound()];
    for &id in order {
        let op = &graph.node(id).op;
        leads[id.index()] = match op {
            Op::Parameter { frozen, .. } => !frozen,
            _ => graph.operands(id).iter().enumerate().any(|(i, v)| flows(op, i) && leads[v.node.index()]),
        };
    }
    leads
}

/// For each node, whether it lies on a path from a trained parameter to the loss.
fn leading_to_loss(graph: &Graph, order: &[NodeId], trained: &[bool], loss: Value) -> Vec<bool> {
    let mut path = vec![false; graph.index_bound()];
    path[loss.node.index()] = trained[loss.node.index()];
    for &id in order.iter().rev().filter(|id| trained[id.index()]) {
        if path[id.index()] {
            for (i, v) in graph.operands(id).iter().enumerate() {
                if flows(&graph.node(id).op, i) && trained[v.node.index()] {
                    path[v.node.index()] = true;
                }
            }
        }
    }
    path
}

fn describe(node: &Node) -> String {
    if node.origin.path.is_empty() {
        node.op.mnemonic().to_string()
    } else {
        format!("{} at {}", node.op.mnemonic(), node.origin.path)
    }
}

/// Which operands of an operator a cotangent of its result goes on to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// None: a path begins here, where it leads to a trained parameter.
    Begins,
    /// None: what is before it is not trained through it.
    Ends,
    /// All of them, by a rule of the table.
    All,
    /// These, by a rule of the table.
    To(&'static [usize]),
    /// All of them, and there is no rule.
    NoRule,
}

fn flow(op: &Op) -> Flow {
    match op {
        Op::Parameter { .. } => Flow::Begins,
        Op::Input { .. }
        | Op::State { .. }
        | Op::Constant { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::StopGradient => Flow::Ends,
        // Not to the random state, and not to the labels.
        Op::Dropout { .. } | Op::CrossEntropy { .. } => Flow::To(&[0]),
        // With batch statistics the gradient through mean and variance is part of the one with respect to x; without,
        // they are constants of the step.
        Op::Normalize { .. } => Flow::To(&[0, 3, 4]),
        Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::BiasAdd
        | Op::Conv2d(_)
        | Op::MatMul { .. }
        | Op::MaxPool(_)
        | Op::AvgPool(_)
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Reduce { .. }
        | Op::Broadcast { .. }
        | Op::Standardize { .. }
        | Op::L2Normalize { .. }
        | Op::Softmax
        | Op::LogSoftmax
        | Op::KlDivergence { .. }
        | Op::MeanSquaredError
        | Op::RelationDistance
        | Op::RelationAngle => Flow::All,
        Op::UnaryGrad { .. }
        | Op::Conv2dGradInput { .. }
        | Op::Conv2dGradWeight { .. }
        | Op::ChannelStats
        | Op::NormalizeGradReduce { .. }
        | Op::NormalizeGradInput { .. }
        | Op::NormalizeGradFixed { .. }
        | Op::Ema { .. }
        | Op::MaxPoolGrad(_)
        | Op::AvgPoolGrad { .. }
        | Op::StandardizeGrad { .. }
        | Op::L2NormalizeGrad { .. }
        | Op::SoftmaxGrad
        | Op::LogSoftmaxGrad
        | Op::CrossEntropyGrad { .. }
        | Op::KlGradTeacher { .. }
        | Op::KlGradStudent { .. }
        | Op::MeanSquaredErrorGrad
        | Op::RelationDistanceGrad
        | Op::RelationAngleGrad
        | Op::SgdUpdate { .. }
        | Op::AdamwUpdate { .. }
        | Op::ConvertLayout { .. }
        | Op::Cast { .. }
        | Op::Fused(_) => Flow::NoRule,
    }
}

/// Whether a cotangent of the result goes on to operand `operand`.
fn flows(op: &Op, operand: usize) -> bool {
    match flow(op) {
        Flow::All | Flow::NoRule => true,
        Flow::To(operands) => operands.contains(&operand),
        Flow::Begins | Flow::Ends => false,
    }
}

/// Whether [`differentiate`] has a rule for the operator; a trained [`Op::Parameter`] is where a path begins.
pub fn has_gradient(op: &Op) -> bool {
    match flow(op) {
        Flow::Begins | Flow::All | Flow::To(_) => true,
        Flow::Ends | Flow::NoRule => false,
    }
}

/// The axes of a value of that rank that are not in `axes`.
fn other_axes(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|a| !axes.contains(a)).collect()
}

/// One operator to differentiate: the cotangent of its result, its operands and which of them want one.
struct Rule<'a> {
    id: NodeId,
    dy: Value,
    operands: &'a [Value],
    want: &'a [bool],
    origin: Origin,
}

impl Rule<'_> {
    fn add(&self, graph: &mut Graph, op: Op, operands: &[Value]) -> Result<Value, IrError> {
        graph.add1(op, operands, self.origin.clone())
    }

    /// The gradients of a loss that is the same with its two operands exchanged.
    fn by_exchange(&self, graph: &mut Graph, grad: &Op) -> Result<Cotangents, IrError> {
        let (a, b) = (self.operands[0], self.operands[1]);
        let mut out = Cotangents::new();
        for (i, operands) in [[a, b, self.dy], [b, a, self.dy]].into_iter().enumerate() {
            if self.want[i] {
                out.push((i, self.add(graph, grad.clone(), &operands)?));
            }
        }
        Ok(out)
    }

    /// The table. In the comments d· is a cotangent, L the loss.
    fn apply(&self, graph: &mut Graph) -> Result<Cotangents, IrError> {
        let op = graph.node(self.id).op.clone();
        let y = Value { node: self.id, result: 0 };
        let (v, want, dy) = (self.operands, self.want, self.dy);
        let mut out = Cotangents::new();
        match op {
            // y = f(x): dx = dy · f'(x)
            Op::Unary { kind } => {
                let saved = if kind.differentiates_from_result() { y } else { v[0] };
                out.push((0, self.add(graph, Op::UnaryGrad { kind }, &[saved, dy])?));
            }
            // y = a + b: da = dy, db = dy
            Op::Binary { kind: BinaryKind::Add } => {
                out.extend((0..2).filter(|&i| want[i]).map(|i| (i, dy)));
            }
            // y = a − b: da = dy, db = −dy
            Op::Binary { kind: BinaryKind::Sub } => {
                if want[0] {
                    out.push((0, dy));
                }
                if want[1] {
                    out.push((1, self.add(graph, Op::Scale { factor: -1.0 }, &[dy])?));
                }
            }
            // y = a · b: da = dy · b, db = dy · a
            Op::Binary { kind: BinaryKind::Mul } => {
                for i in (0..2).filter(|&i| want[i]) {
                    out.push((i, self.add(graph, Op::Binary { kind: BinaryKind::Mul }, &[dy, v[1 - i]])?));
                }
            }
            // y = c · x: dx = c · dy
            Op::Scale { factor } => out.push((0, self.add(graph, Op::Scale { factor }, &[dy])?)),
            // y[n,c,…] = x[n,c,…] + b[c]: dx = dy, db[c] = Σ_n,… dy
            Op::BiasAdd => {
                if want[0] {
                    out.push((0, dy));
                }
                if want[1] {
                    let axes = other_axes(graph.shape(dy).rank(), &[1]);
                    out.push((1, self.add(graph, Op::Reduce { kind: ReduceKind::Sum, axes }, &[dy])?));
                }
            }
            // y = m · x with a mask m that does not depend on x: dx = m · dy
            Op::Dropout { p, site } => out.push((0, self.add(graph, Op::Dropout { p, site }, &[dy, v[1]])?)),
            // y = x ∗ w: dx = dy ∗ᵀ w, dw = x ∗ dy
            Op::Conv2d(conv) => {
                if want[0] {
                    let d = graph.shape(v[0]).dims();
                    let op = Op::Conv2dGradInput { conv, input: [d[2], d[3]] };
                    out.push((0, self.add(graph, op, &[dy, v[1]])?));
                }
                if want[1] {
                    let d = graph.shape(v[1]).dims();
                    let op = Op::Conv2dGradWeight { conv, kernel: [d[2], d[3]] };
                    out.push((1, self.add(graph, op, &[v[0], dy])?));
                }
            }
            // Y = A' B' with A' = A or Aᵀ, B' = B or Bᵀ: dA' = dY B'ᵀ, dB' = A'ᵀ dY, and dA = dA' or dA'ᵀ = B' dYᵀ,
            // dB = dB' or dB'ᵀ = dYᵀ A'
            Op::MatMul { transpose_a, transpose_b } => {
                let product = |a: bool, b: bool| Op::MatMul { transpose_a: a, transpose_b: b };
                if want[0] {
                    let da = if transpose_a {
                        self.add(graph, product(transpose_b, true), &[v[1], dy])?
                    } else {
                        self.add(graph, product(false, !transpose_b), &[dy, v[1]])?
                    };
                    out.push((0, da));
                }
                if want[1] {
                    let db = if transpose_b {
                        self.add(graph, product(true, transpose_a), &[dy, v[0]])?
                    } else {
                        self.add(graph, product(!transpose_a, false), &[v[0], dy])?
                    };
                    out.push((1, db));
                }
            }
            // y = g·x̂ + b, x̂ = (x − μ)/s, s = √(σ² + ε): dg = Σ dy·x̂, db = Σ dy;
            // μ and σ² of this x over m entries: dx = g/s · (dy − db/m − x̂·dg/m); constant: dx = g/s · dy
            Op::Normalize { eps, batch_stats } => {
                let needs_sums = want[3] || want[4] || (want[0] && batch_stats);
                let sums = if needs_sums {
                    let op = Op::NormalizeGradReduce { eps };
                    let node = graph.add(op, &[v[0], v[1], v[2], dy], self.origin.clone())?;
                    Some([Value { node, result: 0 }, Value { node, result: 1 }])
                } else {
                    None
                };
                if want[0] {
                    let dx = match sums {
                        Some([dg, db]) if batch_stats => {
                            let op = Op::NormalizeGradInput { eps };
                            self.add(graph, op, &[v[0], v[1], v[2], v[3], dy, dg, db])?
                        }
                        _ => self.add(graph, Op::NormalizeGradFixed { eps }, &[v[2], v[3], dy])?,
                    };
                    out.push((0, dx));
                }
                if let Some(sums) = sums {
                    out.extend((0..2).filter(|&i| want[3 + i]).map(|i| (3 + i, sums[i])));
                }
            }
            // y = max over the window: dx[argmax] += dy
            Op::MaxPool(pool) => out.push((0, self.add(graph, Op::MaxPoolGrad(pool), &[v[0], dy])?)),
            // y = Σ over the window / k: dx += dy / k
            Op::AvgPool(pool) => {
                let d = graph.shape(v[0]).dims();
                let op = Op::AvgPoolGrad { pool, input: [d[2], d[3]] };
                out.push((0, self.add(graph, op, &[dy])?));
            }
            // y = x in another shape: dx = dy in x's shape
            Op::Reshape { .. } => {
                let shape = graph.shape(v[0]).clone();
                out.push((0, self.add(graph, Op::Reshape { shape }, &[dy])?));
            }
            // y = x₁, x₂, … along an axis: dxᵢ = xᵢ's part of dy
            Op::Concat { axis } => {
                let mut start = 0;
                for (i, &x) in v.iter().enumerate() {
                    let len = graph.shape(x).dims()[axis];
                    if want[i] {
                        out.push((i, self.add(graph, Op::Slice { axis, start, len }, &[dy])?));
                    }
                    start += len;
                }
            }
            // y = a part of x: dx = dy there, zero elsewhere
            Op::Slice { axis, start, .. } => {
                let total = graph.shape(v[0]).dims()[axis];
                out.push((0, self.add(graph, Op::Pad { axis, start, total }, &[dy])?));
            }
            // y = x amid zeros: dx = that part of dy
            Op::Pad { axis, start, .. } => {
                let len = graph.shape(v[0]).dims()[axis];
                out.push((0, self.add(graph, Op::Slice { axis, start, len }, &[dy])?));
            }
            // y = Σ x over axes: dx = dy repeated along them; the mean over n entries: dx = dy/n repeated
            Op::Reduce { kind, axes } => {
                let shape = graph.shape(v[0]).clone();
                let dy = match kind {
                    ReduceKind::Sum => dy,
                    ReduceKind::Mean => {
                        let n: usize = axes.iter().map(|&a| shape.dims()[a]).product();
                        self.add(graph, Op::Scale { factor: 1.0 / n as f64 }, &[dy])?
                    }
                };
                let axes = other_axes(shape.rank(), &axes);
                out.push((
                    0,
                    self.add(graph, Op::Broadcast { shape, axes, layout: Layout::RowMajor }, &[dy])?,
                ));
            }
            // y = x repeated along the other axes: dx = Σ dy over them
            Op::Broadcast { shape, axes, .. } => {
                let axes = other_axes(shape.rank(), &axes);
                out.push((0, self.add(graph, Op::Reduce { kind: ReduceKind::Sum, axes }, &[dy])?));
            }
            // y = (x − μ)/s, s = √(v + ε), v unbiased over m entries: dx = (dy − mean dy − y · Σ dy·y / (m − 1)) / s
            Op::Standardize { eps } => {
                out.push((0, self.add(graph, Op::StandardizeGrad { eps }, &[v[0], dy])?));
            }
            // y = x/‖x‖: dx = (dy − y · Σ dy·y) / ‖x‖; below the least norm y = x/ε: dx = dy/ε
            Op::L2Normalize { eps } => {
                out.push((0, self.add(graph, Op::L2NormalizeGrad { eps }, &[v[0], dy])?));
            }
            // y = softmax x: dx = y · (dy − Σ dy·y)
            Op::Softmax => out.push((0, self.add(graph, Op::SoftmaxGrad, &[y, dy])?)),
            // y = log softmax x: dx = dy − e^y · Σ dy
            Op::LogSoftmax => out.push((0, self.add(graph, Op::LogSoftmaxGrad, &[y, dy])?)),
            // L = −Σ q log softmax(z) / N: dz = dL · (softmax(z) − q) / N
            Op::CrossEntropy { smoothing } => {
                out.push((0, self.add(graph, Op::CrossEntropyGrad { smoothing }, &[v[0], v[1], dy])?));
            }
            // L = T²/N Σ p (log p − log q), p = softmax(t/T), q = softmax(s/T):
            // ds = dL · T/N · (q − p), dt = dL · T/N · p · (r − Σ p·r) with r = log p − log q
            Op::KlDivergence { temperature } => {
                if want[0] {
                    out.push((0, self.add(graph, Op::KlGradTeacher { temperature }, &[v[0], v[1], dy])?));
                }
                if want[1] {
                    out.push((1, self.add(graph, Op::KlGradStudent { temperature }, &[v[0], v[1], dy])?));
                }
            }
            // L = mean (a − b)²: da = dL · 2(a − b)/n, db = −da = dL · 2(b − a)/n
            Op::MeanSquaredError => {
                if want[0] {
                    let da = self.add(graph, Op::MeanSquaredErrorGrad, &[v[0], v[1], dy])?;
                    out.push((0, da));
                    if want[1] {
                        out.push((1, self.add(graph, Op::Scale { factor: -1.0 }, &[da])?));
                    }
                } else if want[1] {
                    out.push((1, self.add(graph, Op::MeanSquaredErrorGrad, &[v[1], v[0], dy])?));
                }
            }
            // L = mean h(dᵢⱼ(a)/m(a) − dᵢⱼ(b)/m(b)) and L = mean h(cos ∠ aᵢaⱼaₖ − cos ∠ bᵢbⱼbₖ), h even: L(a, b) = L(b, a), so
            // that db is da with a and b exchanged
            Op::RelationDistance => out.extend(self.by_exchange(graph, &Op::RelationDistanceGrad)?),
            Op::RelationAngle => out.extend(self.by_exchange(graph, &Op::RelationAngleGrad)?),
            // Ends of paths, and operators without a rule: `differentiate` refuses the latter before it comes here.
            Op::Input { .. }
            | Op::Parameter { .. }
            | Op::State { .. }
            | Op::Constant { .. }
            | Op::Store { .. }
            | Op::Output { .. }
            | Op::UnaryGrad { .. }
            | Op::StopGradient
            | Op::Conv2dGradInput { .. }
            | Op::Conv2dGradWeight { .. }
            | Op::ChannelStats
            | Op::NormalizeGradReduce { .. }
            | Op::NormalizeGradInput { .. }
            | Op::NormalizeGradFixed { .. }
            | Op::Ema { .. }
            | Op::MaxPoolGrad(_)
            | Op::AvgPoolGrad { .. }
            | Op::StandardizeGrad { .. }
            | Op::L2NormalizeGrad { .. }
            | Op::SoftmaxGrad
            | Op::LogSoftmaxGrad
            | Op::CrossEntropyGrad { .. }
            | Op::KlGradTeacher { .. }
            | Op::KlGradStudent { .. }
            | Op::MeanSquaredErrorGrad
            | Op::RelationDistanceGrad
            | Op::RelationAngleGrad
            | Op::SgdUpdate { .. }
            | Op::AdamwUpdate { .. }
            | Op::ConvertLayout { .. }
            | Op::Cast { .. }
            | Op::Fused(_) => {}
        }
        Ok(out)
    }
}
