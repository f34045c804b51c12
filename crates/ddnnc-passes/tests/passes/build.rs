//! A small builder for graphs and models, feeds for them, and comparisons.

use ddnnc_ir::reference::{Evaluation, Tensor, evaluate};
use ddnnc_ir::*;
use ddnnc_passes::{Compiled, Executable, Goal, Options, Program, ReferenceDevice, compile_with};
use indexmap::IndexMap;
use std::sync::Arc;

/// Adds operators to a graph, each source once per name.
pub struct Builder {
    pub graph: Graph,
    pub net: Vec<Arc<str>>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder { graph: Graph::new("test"), net: Vec::new() }
    }

    pub fn net(&mut self, name: &str) {
        self.net = vec![Arc::from(name)];
    }

    fn source(&mut self, op: Op, ty: ValueType) -> Value {
        match self.graph.find(&op) {
            Some(node) => Value { node, result: 0 },
            None => self.graph.add_source(op, ty, Origin::default()).unwrap(),
        }
    }

    pub fn input(&mut self, name: &str, ty: ValueType) -> Value {
        self.source(Op::Input { name: name.into() }, ty)
    }

    pub fn parameter(&mut self, name: &str, dims: &[usize]) -> Value {
        self.source(Op::Parameter { name: name.into(), frozen: false }, ValueType::f32(dims))
    }

    pub fn frozen(&mut self, name: &str, dims: &[usize]) -> Value {
        self.source(Op::Parameter { name: name.into(), frozen: true }, ValueType::f32(dims))
    }

    pub fn state(&mut self, name: &str, dims: &[usize]) -> Value {
        self.source(Op::State { name: name.into() }, ValueType::f32(dims))
    }

    pub fn constant(&mut self, value: f64, dims: &[usize]) -> Value {
        self.graph.add_source(Op::Constant { value }, ValueType::f32(dims), Origin::default()).unwrap()
    }

    pub fn node(&mut self, op: Op, operands: &[Value]) -> NodeId {
        let origin = Origin::new(op.mnemonic(), &self.net);
        self.graph.add(op, operands, origin).unwrap()
    }

    pub fn op(&mut self, op: Op, operands: &[Value]) -> Value {
        Value { node: self.node(op, operands), result: 0 }
    }

    pub fn relu(&mut self, x: Value) -> Value {
        self.op(Op::Unary { kind: UnaryKind::Relu }, &[x])
    }

    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.op(Op::Binary { kind: BinaryKind::Add }, &[a, b])
    }

    pub fn scale(&mut self, factor: f64, x: Value) -> Value {
        self.op(Op::Scale { factor }, &[x])
    }

    pub fn output(&mut self, name: &str, x: Value) {
        self.node(Op::Output { name: name.into() }, &[x]);
    }

    pub fn store(&mut self, name: &str, x: Value) {
        self.node(Op::Store { name: name.into() }, &[x]);
    }

    /// 3×3 convolution with padding 1.
    pub fn conv(&mut self, name: &str, x: Value, out: usize) -> Value {
        let channels = self.graph.shape(x).dims()[1];
        let w = self.parameter(&format!("{name}.weight"), &[out, channels, 3, 3]);
        let conv = Conv { stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
        self.op(Op::Conv2d(conv), &[x, w])
    }

    /// Batch norm in train mode; `update` stores the running statistics.
    pub fn norm(&mut self, name: &str, x: Value, update: bool) -> Value {
        let channels = self.graph.shape(x).dims()[1];
        let n = self.graph.ty(x).elements() / channels;
        let gain = self.parameter(&format!("{name}.weight"), &[channels]);
        let bias = self.parameter(&format!("{name}.bias"), &[channels]);
        let stats = self.node(Op::ChannelStats, &[x]);
        let (mean, var) = (Value { node: stats, result: 0 }, Value { node: stats, result: 1 });
        let y = self.op(Op::Normalize { eps: 1e-5, batch_stats: true }, &[x, mean, var, gain, bias]);
        if update {
            for (what, value, scale) in
                [("running_mean", mean, 1.0), ("running_var", var, n as f64 / (n as f64 - 1.0))]
            {
                let name = format!("{name}.{what}");
                let old = self.state(&name, &[channels]);
                let new = self.op(Op::Ema { momentum: 0.1, scale }, &[old, value]);
                self.store(&name, new);
            }
        }
        y
    }

    pub fn linear(&mut self, name: &str, x: Value, out: usize) -> Value {
        let width = self.graph.shape(x).dims()[1];
        let w = self.parameter(&format!("{name}.weight"), &[out, width]);
        let b = self.parameter(&format!("{name}.bias"), &[out]);
        let y = self.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[x, w]);
        self.op(Op::BiasAdd, &[y, b])
    }

    pub fn pool(&mut self, x: Value) -> Value {
        self.op(Op::Reduce { kind: ReduceKind::Mean, axes: vec![2, 3] }, &[x])
    }
}

/// Two sub-nets with a common stem, a frozen teacher, an attention pairing, and a parameter that the loss misses.
pub fn model(optimizer: Optimizer) -> Model {
    let (n, classes) = (4, 3);
    let mut b = Builder::new();
    let image = b.input("image", ValueType::f32([n, 2, 6, 6]));
    let label = b.input("label", ValueType::i64([n]));
    let rng = b.input("rng", ValueType::i64([2]));
    let mut logits = Vec::new();
    let mut maps = Vec::new();
    for (name, deep) in [("full", true), ("small", false)] {
        b.net(name);
        let x = b.conv("net.stem.conv1", image, 4);
        let x = b.norm("net.stem.bn1", x, deep);
        let stem = b.relu(x);
        let mut x = stem;
        if deep {
            let y = b.conv("net.s1.0.conv1", x, 4);
            let y = b.norm("net.s1.0.bn1", y, true);
            let y = b.add(y, stem);
            x = b.relu(y);
        }
        let map = b.op(Op::Reduce { kind: ReduceKind::Sum, axes: vec![1] }, &[x]);
        let map = b.op(Op::Reshape { shape: Shape::from([n, 36]) }, &[map]);
        maps.push(b.op(Op::Standardize { eps: 1e-5 }, &[map]));
        let x = b.pool(x);
        let x = b.op(Op::Dropout { p: 0.25, site: 7 }, &[x, rng]);
        let head = if deep { "net.head.linear1" } else { "net.head.linear1@small" };
        let x = b.linear(head, x, classes);
        b.output(&format!("logits.{name}"), x);
        logits.push(x);
    }
    b.net("teacher");
    let flat = b.op(Op::Reshape { shape: Shape::from([n, 72]) }, &[image]);
    let w = b.frozen("teacher.linear1.weight", &[classes, 72]);
    let teacher = b.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[flat, w]);
    let adapter = b.parameter("unreached.weight", &[classes, 72]);
    let unreached = b.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[flat, adapter]);
    b.output("logits.unreached", unreached);
    b.net.clear();
    let mut terms = Vec::new();
    let mut total = None;
    let ce0 = b.op(Op::CrossEntropy { smoothing: 0.0 }, &[logits[0], label]);
    let ce1 = b.op(Op::CrossEntropy { smoothing: 0.1 }, &[logits[1], label]);
    let detached = b.op(Op::StopGradient, &[logits[0]]);
    let kl = b.op(Op::KlDivergence { temperature: 3.0 }, &[detached, logits[1]]);
    let kd = b.op(Op::KlDivergence { temperature: 2.0 }, &[teacher, logits[0]]);
    let still = b.op(Op::StopGradient, &[maps[0]]);
    let attention = b.op(Op::MeanSquaredError, &[still, maps[1]]);
    for (name, term, weight) in [
        ("ce.full", ce0, 1.0),
        ("ce.small", ce1, 1.0),
        ("kl.full.small", kl, 0.7),
        ("kl.teacher.full", kd, 1.0),
        ("attention.full.small.s1", attention, 0.5),
    ] {
        b.output(&format!("loss.{name}"), term);
        let weighted = b.scale(weight, term);
        total = Some(match total {
            None => weighted,
            Some(sum) => b.add(sum, weighted),
        });
        terms.push(Term { name: name.into(), weight: Weight::Constant(weight) });
    }
    let ramp = b.input("weight.extra", ValueType::scalar());
    let extra = b.op(Op::Binary { kind: BinaryKind::Mul }, &[kl, ramp]);
    let total = b.add(total.unwrap(), extra);
    b.output("loss.total", total);

    let mut parameters = IndexMap::new();
    let mut states = IndexMap::new();
    for id in b.graph.nodes() {
        let node = b.graph.node(id);
        let shape = || node.results[0].shape.clone();
        match &node.op {
            Op::Parameter { name, frozen } => {
                let init = Init::Constant { value: 0.0 };
                let entry = Parameter { shape: shape(), init, frozen: *frozen, load: None };
                parameters.insert(name.clone(), entry);
            }
            Op::State { name } => {
                let entry = State { shape: shape(), initial: 0.0, load: None, recalibrate: false };
                states.insert(name.clone(), entry);
            }
            _ => {}
        }
    }
    // In the table and not in the graph at all.
    states.insert(
        "net.idle.running_mean".into(),
        State { shape: Shape::from([5]), initial: 0.0, load: None, recalibrate: false },
    );
    Model {
        name: "test".into(),
        mode: Mode::Train,
        batch: n,
        input: ("image".into(), Shape::from([2, 6, 6])),
        target: ("label".into(), classes),
        graph: b.graph,
        parameters,
        states,
        nets: Vec::new(),
        terms,
        pairings: Vec::new(),
        recipe: Recipe {
            data: Data { dataset: Dataset::Mnist, path: None, augment: Vec::new(), normalize: None },
            batch: n,
            epochs: 1,
            optimizer,
            schedule: Schedule { warmup: 0.0, kind: ScheduleKind::Constant },
            order: Order::Shuffle,
            precision: Precision::F32,
            seed: 0,
            validation: 0.1,
        },
        phases: Vec::new(),
        phase: 0,
    }
}

pub const SGD: Optimizer = Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-2 };
pub const PLAIN: Optimizer = Optimizer::Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
pub const ADAMW: Optimizer =
    Optimizer::Adamw { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01 };

/// A number in [−1, 1) that depends on a name and an index alone.
pub fn noise(name: &str, index: u64) -> f64 {
    let mut h = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    for byte in name.bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^= h >> 31;
    (h >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// A value for every source of a graph.
pub fn feeds(graph: &Graph) -> IndexMap<String, Tensor> {
    let mut feeds = IndexMap::new();
    for id in graph.nodes() {
        let node = graph.node(id);
        let (Op::Input { name } | Op::Parameter { name, .. } | Op::State { name }) = &node.op else {
            continue;
        };
        feeds.insert(name.clone(), feed(name, &node.results[0]));
    }
    feeds
}

/// Labels below 3, a step count of 5, positive variances and second moments, and noise.
pub fn feed(name: &str, ty: &ValueType) -> Tensor {
    let data = (0..ty.elements() as u64)
        .map(|i| {
            let x = noise(name, i);
            if ty.dtype == DType::I64 {
                ((x + 1.0) * 1.5).floor().min(2.0)
            } else if name == "optimizer.step" {
                5.0
            } else if name.contains("var") || name.starts_with("adamw.v") {
                0.5 + 0.4 * x
            } else {
                x
            }
        })
        .collect();
    Tensor { ty: ty.clone(), data }
}

pub fn eval(graph: &Graph) -> Evaluation {
    evaluate(graph, &feeds(graph)).unwrap()
}

/// How many elements differ by more than `tolerance`, relative to the larger of 1 and their size; a name or a length
/// that differs is a panic.
// The negation counts a difference that is no number as a mismatch.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
pub fn mismatches(a: &IndexMap<String, Tensor>, b: &IndexMap<String, Tensor>, tolerance: f64) -> usize {
    let names = |m: &IndexMap<String, Tensor>| {
        let mut names: Vec<String> = m.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    let mut wrong = 0;
    for (name, x) in a {
        let y = &b[name];
        assert_eq!(x.ty, y.ty, "{name}");
        assert_eq!(x.data.len(), y.data.len(), "{name}");
        wrong += x
            .data
            .iter()
            .zip(&y.data)
            .filter(|(p, q)| !((*p - *q).abs() <= tolerance * p.abs().max(q.abs()).max(1.0)))
            .count();
    }
    wrong
}

/// Asserts that two graphs leave the same behind: outputs, and stores.
pub fn assert_same(before: &Graph, after: &Graph) {
    let all = feeds(before);
    let a = evaluate(before, &all).unwrap();
    let needed = feeds(after).into_keys().map(|name| (name.clone(), all[&name].clone())).collect();
    let b = evaluate(after, &needed).unwrap();
    assert!(!a.outputs.is_empty() || !a.stores.is_empty());
    assert_eq!(mismatches(&a.outputs, &b.outputs, 1e-9), 0);
    assert_eq!(mismatches(&a.stores, &b.stores, 1e-9), 0);
}

/// Runs a program on the reference device with the feeds of its names: outputs, and everything persistent afterwards.
pub fn run(program: &Program) -> (IndexMap<String, Tensor>, IndexMap<String, Tensor>) {
    let mut device = ReferenceDevice.load_reference(program).unwrap();
    for (name, entry) in &program.persistent {
        device.write_f64(name, &feed(name, &program.buffer(entry.buffer).ty).data).unwrap();
    }
    for (name, &b) in &program.inputs {
        let ty = &program.buffer(b).ty;
        let tensor = feed(name, ty);
        match ty.dtype {
            DType::F32 | DType::Bf16 => device.write_f64(name, &tensor.data).unwrap(),
            DType::I64 => {
                let labels: Vec<i64> = tensor.data.iter().map(|&x| x as i64).collect();
                device.write_i64(name, &labels).unwrap();
            }
        }
    }
    device.run().unwrap();
    let tensor = |name: &String, b: ddnnc_passes::BufferId| {
        (name.clone(), Tensor { ty: program.buffer(b).ty.clone(), data: device.read_f64(name).unwrap() })
    };
    let outputs = program.outputs.iter().map(|(name, &b)| tensor(name, b)).collect();
    let persistent = program.persistent.iter().map(|(name, p)| tensor(name, p.buffer)).collect();
    (outputs, persistent)
}

/// Asserts that a program leaves behind what the reference evaluation of a graph does: outputs, stores, and everything
/// that is not stored as it was.
pub fn assert_program(graph: &Graph, program: &Program) {
    let expected = eval(graph);
    let (outputs, persistent) = run(program);
    assert_eq!(mismatches(&expected.outputs, &outputs, 1e-9), 0, "outputs");
    let mut left = IndexMap::new();
    for (name, tensor) in &persistent {
        let old = || feed(name, &tensor.ty);
        left.insert(name.clone(), expected.stores.get(name).cloned().unwrap_or_else(old));
    }
    assert!(expected.stores.keys().all(|name| left.contains_key(name)));
    assert_eq!(mismatches(&left, &persistent, 1e-9), 0, "persistent");
}

/// Runs a pass on a graph in text form and compares what it leaves, as text and by evaluation.
pub fn check(pass: ddnnc_passes::Pass, before: &str, after: &str) {
    let before = parse(before).unwrap();
    let mut graph = before.clone();
    pass(&mut graph).unwrap();
    assert_eq!(print(&graph).unwrap(), after);
    if !graph.is_empty() {
        assert_same(&before, &graph);
    }
}

/// Asserts that a pass leaves a graph as it is.
pub fn refused(pass: ddnnc_passes::Pass, text: &str) {
    check(pass, text, text);
}

/// A model compiled with every operator a launch of its own.
pub fn unfused(model: &Model, goal: Goal) -> Compiled {
    compile_with(model, goal, &Options::without_fusion(), &mut |_, _| {}).unwrap()
}

/// The ordinary passes, and the layout pass where values are to be channels-last.
pub fn options_for(layout: Layout) -> Options {
    let ordinary = ["dead_code", "share_prefixes", "canonical"];
    match layout {
        Layout::RowMajor => Options::named(&ordinary).unwrap(),
        Layout::ChannelsLast => Options::named(&[&ordinary[..], &["assign_layout"]].concat()).unwrap(),
    }
}
