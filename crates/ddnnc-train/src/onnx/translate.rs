//! The evaluation graph of a net as ONNX nodes, operator by operator.
//!
//! The batch is part of the graph's shapes and of no number that is written: it is the first axis of every value that hangs on
//! the input, shapes say 0 there (*as it is*), and an operator that would join images with one another has no form here.

use super::message::AttributeProto;
use super::writer::{Writer, float, int, ints};
use ddnnc_ir::{BinaryKind, Conv, DType, Graph, NodeId, Op, Pool, ReduceKind, Shape, UnaryKind, Value};
use ddnnc_passes::HANDED_ON;
use std::collections::HashMap;

/// The name of the input.
pub(super) const INPUT: &str = "image";

/// What a graph came to.
#[derive(Debug, Default)]
pub(super) struct Translated {
    pub(super) writer: Writer,
    /// The parameters and running statistics that nodes take, in the order of first use.
    pub(super) weights: Vec<String>,
    /// The inputs that the graph has.
    pub(super) inputs: Vec<Shown>,
    /// The graph's outputs.
    pub(super) outputs: Vec<Shown>,
    /// Operators that have no form, each with its place.
    pub(super) without_form: Vec<String>,
}

/// A value that is an input or an output.
#[derive(Debug)]
pub(super) struct Shown {
    /// Under what name.
    pub(super) name: String,
    /// The name that it has among the nodes.
    pub(super) of: String,
    /// Its shape, without the batch.
    pub(super) sample: Vec<usize>,
}

impl Shown {
    fn new(name: &str, of: &str, dims: &[usize]) -> Shown {
        let sample = dims.get(1..).unwrap_or_default().to_vec();
        Shown { name: name.to_string(), of: of.to_string(), sample }
    }
}

/// Translates a graph whose images are its input `input`.
pub(super) fn translate(graph: &Graph, order: &[NodeId], input: &str) -> Translated {
    let mut translator = Translator { graph, input, values: HashMap::new(), done: Translated::default() };
    order.iter().for_each(|&id| translator.node(id));
    translator.done
}

/// A value of the graph as ONNX has it.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    /// Whether it hangs on the input, so that its first axis is the batch.
    batched: bool,
    /// Whether it is 1 long where the graph's value repeats: elementwise operators of ONNX stretch their operands themselves.
    narrow: bool,
}

impl Named {
    fn batched(name: String) -> Named {
        Named { name, batched: true, narrow: false }
    }

    /// The same for every image.
    fn fixed(name: String) -> Named {
        Named { name, batched: false, narrow: false }
    }
}

/// An operator, on such operands, has no ONNX form.
struct NoForm;

type Form<T> = Result<T, NoForm>;

struct Translator<'g> {
    graph: &'g Graph,
    input: &'g str,
    values: HashMap<Value, Named>,
    done: Translated,
}

impl Translator<'_> {
    fn node(&mut self, id: NodeId) {
        let operands = self.graph.operands(id);
        let known: Option<Vec<Named>> = operands.iter().map(|v| self.values.get(v).cloned()).collect();
        // What has no form is named once, and not what hangs on it.
        let Some(known) = known else { return };
        match self.operator(id, &operands, &known) {
            Ok(Some(named)) => {
                self.values.insert(Value { node: id, result: 0 }, named);
            }
            Ok(None) => {}
            Err(NoForm) => {
                let node = self.graph.node(id);
                self.done.without_form.push(format!("`{}` at `{}`", node.op.mnemonic(), node.origin.path));
            }
        }
    }

    /// The value of an operator; none of a sink.
    fn operator(&mut self, id: NodeId, operands: &[Value], known: &[Named]) -> Form<Option<Named>> {
        let graph = self.graph;
        let node = graph.node(id);
        let path = &*node.origin.path;
        // Everything but a broadcast's reader among the elementwise operators takes values as long as the graph has them.
        if !matches!(node.op, Op::Binary { .. }) && known.iter().any(|x| x.narrow) {
            let known = self.stretched(path, operands, known)?;
            return self.operator(id, operands, &known);
        }
        let batched = known.iter().any(|x| x.batched);
        let like = |name: String| Named { name, batched, narrow: false };
        let dims = |i: usize| graph.shape(operands[i]).dims();
        let named = match (&node.op, known) {
            (Op::Input { name }, _) if name == self.input || name.starts_with(HANDED_ON) => {
                let name = if name == self.input { INPUT } else { name };
                self.done.inputs.push(Shown::new(name, name, node.results[0].dims()));
                Named::batched(name.to_string())
            }
            (Op::Parameter { name, .. } | Op::State { name }, _) => {
                self.done.weights.push(name.clone());
                Named::fixed(name.clone())
            }
            (Op::Output { name }, [x]) => {
                self.done.outputs.push(Shown::new(name, &x.name, dims(0)));
                return Ok(None);
            }
            // What a value is depends neither on its layout nor on where its gradient goes; of f32 there is nothing to convert.
            (Op::StopGradient | Op::ConvertLayout { .. } | Op::Cast { dtype: DType::F32 }, [x])
                if graph.ty(operands[0]).dtype == DType::F32 =>
            {
                x.clone()
            }
            (Op::Unary { kind }, [x]) => like(self.unary(*kind, path, &x.name)),
            (Op::Binary { kind }, [a, b]) => self.binary(*kind, path, a, b)?,
            (Op::Scale { factor }, [x]) => {
                let factor = self.done.writer.number(*factor);
                like(self.add(path, "Mul", &[&x.name, &factor]))
            }
            (Op::Conv2d(_) | Op::MatMul { .. }, [x, w]) => self.product(id, x, w)?,
            // The product has taken it.
            (Op::BiasAdd, [x, _]) if self.bias_of(operands[0]).is_some() => x.clone(),
            (Op::BiasAdd, [x, bias]) => {
                let rank = dims(0).len();
                let bias = self.unsqueezed(path, weight(bias)?, &[1], rank);
                like(self.add(path, "Add", &[&x.name, &bias]))
            }
            (Op::Normalize { eps, batch_stats: false }, [x, mean, var, gain, bias]) => {
                let [mean, var, gain, bias] = [weight(mean)?, weight(var)?, weight(gain)?, weight(bias)?];
                let inputs = [x.name.as_str(), gain, bias, mean, var];
                let attributes = vec![float("epsilon", *eps)];
                like(self.done.writer.node(path, "BatchNormalization", &inputs, attributes))
            }
            (Op::MaxPool(pool), [x]) => {
                like(self.done.writer.node(path, "MaxPool", &[&x.name], window(pool)))
            }
            (Op::AvgPool(pool), [x]) => {
                let mut attributes = window(pool);
                attributes.extend((pool.pad != [0, 0]).then(|| int("count_include_pad", 1)));
                like(self.done.writer.node(path, "AveragePool", &[&x.name], attributes))
            }
            (Op::Reshape { shape }, [x]) => self.reshape(path, x, dims(0), shape)?,
            (Op::Concat { axis }, xs) if xs.iter().all(|x| x.batched == batched) => {
                apart(batched, &[*axis])?;
                let names: Vec<&str> = xs.iter().map(|x| x.name.as_str()).collect();
                like(self.done.writer.node(path, "Concat", &names, vec![int("axis", *axis)]))
            }
            (Op::Slice { axis, start, len }, [x]) => {
                apart(batched, &[*axis])?;
                let writer = &mut self.done.writer;
                let [start, end, axis] = [("start", *start), ("end", *start + *len), ("axes", *axis)]
                    .map(|(what, n)| writer.integers(what, &[n as i64]));
                like(self.add(path, "Slice", &[&x.name, &start, &end, &axis]))
            }
            (Op::Reduce { kind, axes }, [x]) => {
                apart(batched, axes)?;
                like(self.reduce(*kind, path, &x.name, axes, dims(0).len()))
            }
            // The batch stays the first axis.
            (Op::Broadcast { shape, axes, .. }, [x]) if !x.batched || axes.first() == Some(&0) => {
                let name = self.unsqueezed(path, &x.name, axes, shape.rank());
                Named { name, batched: x.batched, narrow: true }
            }
            (Op::L2Normalize { eps }, [x]) => {
                let axes: Vec<usize> = (1..dims(0).len()).collect();
                let attributes = vec![ints("axes", &axes), int("keepdims", 1)];
                let norm = self.done.writer.node(path, "ReduceL2", &[&x.name], attributes);
                let least = self.done.writer.number(*eps);
                let norm = self.add(path, "Clip", &[&norm, &least]);
                like(self.add(path, "Div", &[&x.name, &norm]))
            }
            (Op::Softmax, [x]) => like(self.along_the_last(path, "Softmax", &x.name, dims(0).len())),
            (Op::LogSoftmax, [x]) => like(self.along_the_last(path, "LogSoftmax", &x.name, dims(0).len())),
            // Other operands than the ones above.
            (
                Op::Input { .. }
                | Op::Output { .. }
                | Op::StopGradient
                | Op::ConvertLayout { .. }
                | Op::Cast { .. }
                | Op::Unary { .. }
                | Op::Binary { .. }
                | Op::Scale { .. }
                | Op::BiasAdd
                | Op::Conv2d(_)
                | Op::MatMul { .. }
                | Op::Normalize { .. }
                | Op::MaxPool(_)
                | Op::AvgPool(_)
                | Op::Reshape { .. }
                | Op::Concat { .. }
                | Op::Slice { .. }
                | Op::Reduce { .. }
                | Op::Broadcast { .. }
                | Op::L2Normalize { .. }
                | Op::Softmax
                | Op::LogSoftmax,
                _,
            ) => return Err(NoForm),
            // Part of training, of a loss, or of what passes make.
            (
                Op::Constant { .. }
                | Op::Store { .. }
                | Op::UnaryGrad { .. }
                | Op::Dropout { .. }
                | Op::Conv2dGradInput { .. }
                | Op::Conv2dGradWeight { .. }
                | Op::ChannelStats
                | Op::NormalizeGradReduce { .. }
                | Op::NormalizeGradInput { .. }
                | Op::NormalizeGradFixed { .. }
                | Op::Ema { .. }
                | Op::MaxPoolGrad(_)
                | Op::AvgPoolGrad { .. }
                | Op::Pad { .. }
                | Op::Standardize { .. }
                | Op::StandardizeGrad { .. }
                | Op::L2NormalizeGrad { .. }
                | Op::SoftmaxGrad
                | Op::LogSoftmaxGrad
                | Op::CrossEntropy { .. }
                | Op::CrossEntropyGrad { .. }
                | Op::KlDivergence { .. }
                | Op::KlGradTeacher { .. }
                | Op::KlGradStudent { .. }
                | Op::MeanSquaredError
                | Op::MeanSquaredErrorGrad
                | Op::RelationDistance
                | Op::RelationDistanceGrad
                | Op::RelationAngle
                | Op::RelationAngleGrad
                | Op::SgdUpdate { .. }
                | Op::AdamwUpdate { .. }
                | Op::Fused(_),
                _,
            ) => return Err(NoForm),
        };
        Ok(Some(named))
    }

    /// Adds a node without attributes.
    fn add(&mut self, path: &str, op_type: &str, inputs: &[&str]) -> String {
        self.done.writer.node(path, op_type, inputs, Vec::new())
    }

    fn unary(&mut self, kind: UnaryKind, path: &str, x: &str) -> String {
        match kind {
            UnaryKind::Relu => self.add(path, "Relu", &[x]),
            UnaryKind::Relu6 => {
                let [least, most] = [0.0, 6.0].map(|n| self.done.writer.number(n));
                self.add(path, "Clip", &[x, &least, &most])
            }
            UnaryKind::Sigmoid => self.add(path, "Sigmoid", &[x]),
            UnaryKind::Tanh => self.add(path, "Tanh", &[x]),
            // min(max(x + 3, 0), 6) / 6 = min(max(x / 6 + 1/2, 0), 1)
            UnaryKind::HardSwish => {
                let attributes = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
                let gate = self.done.writer.node(path, "HardSigmoid", &[x], attributes);
                self.add(path, "Mul", &[x, &gate])
            }
            UnaryKind::Silu => {
                let gate = self.add(path, "Sigmoid", &[x]);
                self.add(path, "Mul", &[x, &gate])
            }
            // x · Φ(x) = x · (erf(x / √2) + 1) / 2, in the order in which runtimes look for it.
            UnaryKind::Gelu => {
                let [root, one, half] =
                    [std::f64::consts::SQRT_2, 1.0, 0.5].map(|n| self.done.writer.number(n));
                let scaled = self.add(path, "Div", &[x, &root]);
                let erf = self.add(path, "Erf", &[&scaled]);
                let sum = self.add(path, "Add", &[&erf, &one]);
                let product = self.add(path, "Mul", &[x, &sum]);
                self.add(path, "Mul", &[&product, &half])
            }
            UnaryKind::Square => self.add(path, "Mul", &[x, x]),
            UnaryKind::Log => {
                let least = self.done.writer.number(f64::from(f32::MIN_POSITIVE));
                let bounded = self.add(path, "Max", &[x, &least]);
                self.add(path, "Log", &[&bounded])
            }
        }
    }

    fn binary(&mut self, kind: BinaryKind, path: &str, a: &Named, b: &Named) -> Form<Named> {
        let alike = !a.narrow && !b.narrow && a.batched == b.batched;
        let stretches = |x: &Named, to: &Named| x.narrow && !to.narrow && (to.batched || !x.batched);
        if !(alike || stretches(a, b) || stretches(b, a)) {
            return Err(NoForm);
        }
        let op_type = match kind {
            BinaryKind::Add => "Add",
            BinaryKind::Sub => "Sub",
            BinaryKind::Mul => "Mul",
        };
        let name = self.add(path, op_type, &[&a.name, &b.name]);
        Ok(Named { name, batched: a.batched || b.batched, narrow: false })
    }

    /// The parameter that is added to a product as its bias, where nothing else reads the product: an operand of one node then.
    fn bias_of(&self, product: Value) -> Option<&str> {
        let is_product = matches!(self.graph.op(product), Op::Conv2d(_) | Op::MatMul { .. });
        match self.graph.users(product)[..] {
            [(user, 0)] if is_product && self.graph.node(user).op == Op::BiasAdd => {
                match self.graph.op(self.graph.operands(user)[1]) {
                    Op::Parameter { name, .. } => Some(name),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// A convolution or a linear layer, with its bias where it has one.
    fn product(&mut self, id: NodeId, x: &Named, w: &Named) -> Form<Named> {
        let node = self.graph.node(id);
        let bias = self.bias_of(Value { node: id, result: 0 }).map(String::from);
        let mut inputs = vec![x.name.as_str(), weight(w)?];
        inputs.extend(bias.as_deref());
        let kernel = self.graph.shape(self.graph.operands(id)[1]).dims();
        let (op_type, attributes) = match &node.op {
            Op::Conv2d(conv) => ("Conv", geometry(conv, kernel)),
            Op::MatMul { transpose_a, transpose_b } if !(x.batched && *transpose_a) => {
                let [a, b] = [*transpose_a, *transpose_b].map(usize::from);
                ("Gemm", vec![int("transA", a), int("transB", b)])
            }
            _ => return Err(NoForm),
        };
        let name = self.done.writer.node(&node.origin.path, op_type, &inputs, attributes);
        Ok(Named { name, batched: x.batched, narrow: false })
    }

    fn reshape(&mut self, path: &str, x: &Named, from: &[usize], to: &Shape) -> Form<Named> {
        let mut dims: Vec<i64> = to.dims().iter().map(|&d| d as i64).collect();
        if x.batched {
            if from.first() != to.dims().first() {
                return Err(NoForm);
            }
            if dims.len() == 2 {
                let flat = self.done.writer.node(path, "Flatten", &[&x.name], vec![int("axis", 1)]);
                return Ok(Named::batched(flat));
            }
            // As in the operand.
            dims[0] = 0;
        }
        let shape = self.done.writer.integers("shape", &dims);
        Ok(Named { name: self.add(path, "Reshape", &[&x.name, &shape]), ..x.clone() })
    }

    fn reduce(&mut self, kind: ReduceKind, path: &str, x: &str, axes: &[usize], rank: usize) -> String {
        let keep = int("keepdims", 0);
        match kind {
            // What every runtime knows as such.
            ReduceKind::Mean if rank == 4 && axes == [2, 3] => {
                let mean = self.add(path, "GlobalAveragePool", &[x]);
                self.done.writer.node(path, "Flatten", &[&mean], vec![int("axis", 1)])
            }
            ReduceKind::Mean => {
                self.done.writer.node(path, "ReduceMean", &[x], vec![ints("axes", axes), keep])
            }
            ReduceKind::Sum => {
                let axes = self.axes(axes);
                self.done.writer.node(path, "ReduceSum", &[x, &axes], vec![keep])
            }
        }
    }

    fn along_the_last(&mut self, path: &str, op_type: &str, x: &str, rank: usize) -> String {
        self.done.writer.node(path, op_type, &[x], vec![int("axis", rank.saturating_sub(1))])
    }

    fn axes(&mut self, axes: &[usize]) -> String {
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        self.done.writer.integers("axes", &axes)
    }

    /// A value with axes of extent 1 besides: its own are `axes` among as many as `rank`.
    fn unsqueezed(&mut self, path: &str, x: &str, axes: &[usize], rank: usize) -> String {
        let new: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
        if new.is_empty() {
            return x.to_string();
        }
        let new = self.axes(&new);
        self.add(path, "Unsqueeze", &[x, &new])
    }

    /// Operands with every extent that the graph's values have.
    fn stretched(&mut self, path: &str, operands: &[Value], known: &[Named]) -> Form<Vec<Named>> {
        let mut whole = Vec::with_capacity(known.len());
        for (&value, named) in operands.iter().zip(known) {
            if !named.narrow {
                whole.push(named.clone());
                continue;
            }
            let mut dims: Vec<i64> = self.graph.shape(value).dims().iter().map(|&d| d as i64).collect();
            // A batch that the value does not have itself is known only where the model runs.
            let batch = dims.first_mut().filter(|_| named.batched).ok_or(NoForm)?;
            // The longer of 1 and the operand's.
            *batch = 1;
            let shape = self.done.writer.integers("shape", &dims);
            whole.push(Named::batched(self.add(path, "Expand", &[&named.name, &shape])));
        }
        Ok(whole)
    }
}

/// The name of a value that is the same for every image.
fn weight(x: &Named) -> Form<&str> {
    if x.batched { Err(NoForm) } else { Ok(&x.name) }
}

/// Refuses what goes along the batch.
fn apart(batched: bool, axes: &[usize]) -> Form<()> {
    if batched && axes.contains(&0) { Err(NoForm) } else { Ok(()) }
}

/// The same padding before and behind.
fn pads(pad: [usize; 2]) -> AttributeProto {
    ints("pads", &[pad[0], pad[1], pad[0], pad[1]])
}

fn geometry(conv: &Conv, weight: &[usize]) -> Vec<AttributeProto> {
    vec![
        ints("dilations", &conv.dilation),
        int("group", conv.groups),
        ints("kernel_shape", &weight[2..]),
        pads(conv.pad),
        ints("strides", &conv.stride),
    ]
}

fn window(pool: &Pool) -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &pool.kernel), pads(pool.pad), ints("strides", &pool.stride)]
}
