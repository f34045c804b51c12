//! What several tests of this crate need: random feeds, and a sample of every operator.

#![allow(dead_code, reason = "each test takes what it needs")]

use ddnnc_ir::reference::Tensor;
use ddnnc_ir::{
    BinaryKind, Conv, DType, Graph, Group, GroupKind, Layout, Local, NodeId, Op, Origin, Pool, ReduceKind,
    Shape, Step, UnaryKind, Value, ValueType,
};
use indexmap::IndexMap;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::de::{DeserializeOwned, Deserializer, Error, Visitor, value};
use std::sync::Arc;

pub type Feeds = IndexMap<String, Tensor>;

pub fn f32(dims: &[usize]) -> ValueType {
    ValueType::f32(dims)
}

pub fn i64(dims: &[usize]) -> ValueType {
    ValueType::i64(dims)
}

pub fn conv(stride: [usize; 2], pad: [usize; 2], dilation: [usize; 2], groups: usize) -> Conv {
    Conv { stride, pad, dilation, groups }
}

pub fn pool(kernel: [usize; 2], stride: [usize; 2], pad: [usize; 2]) -> Pool {
    Pool { kernel, stride, pad }
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn random(ty: &ValueType, from: f64, to: f64, rng: &mut ChaCha8Rng) -> Tensor {
    let data = (0..ty.elements()).map(|_| rng.random_range(from..to)).collect();
    Tensor { ty: ty.clone(), data }
}

/// Whole numbers 0, 1 and 2: labels, or seed and step.
pub fn labels(ty: &ValueType, rng: &mut ChaCha8Rng) -> Tensor {
    let data = (0..ty.elements()).map(|_| f64::from(rng.random_range(0..3))).collect();
    Tensor { ty: ty.clone(), data }
}

pub fn parameter(graph: &mut Graph, name: &str, ty: &ValueType) -> Value {
    let op = Op::Parameter { name: name.to_string(), frozen: false };
    graph.add_source(op, ty.clone(), Origin::default()).unwrap()
}

pub fn input(graph: &mut Graph, name: &str, ty: &ValueType) -> Value {
    graph.add_source(Op::Input { name: name.to_string() }, ty.clone(), Origin::default()).unwrap()
}

pub fn add(graph: &mut Graph, op: Op, operands: &[Value]) -> Value {
    graph.add1(op, operands, Origin::default()).unwrap()
}

pub fn output(graph: &mut Graph, name: &str, value: Value) -> NodeId {
    graph.add(Op::Output { name: name.to_string() }, &[value], Origin::default()).unwrap()
}

/// The name of an operator's variant.
pub fn variant(op: &Op) -> String {
    format!("{op:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// The names of all variants of an enum, as its deserializer states them.
pub fn variants<T: DeserializeOwned + std::fmt::Debug>() -> &'static [&'static str] {
    struct Names(&'static [&'static str]);
    impl<'de> Deserializer<'de> for &mut Names {
        type Error = value::Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(value::Error::custom("only an enum"))
        }
        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, value::Error> {
            self.0 = variants;
            Err(value::Error::custom("the names are all that is wanted"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }
    let mut names = Names(&[]);
    assert!(T::deserialize(&mut names).is_err());
    names.0
}

/// One of every operator (every kind of those with kinds), with operands that it takes; sources have their own type.
pub fn samples() -> Vec<(Op, Vec<ValueType>)> {
    let image = f32(&[2, 4, 5, 5]);
    let channel = f32(&[4]);
    let rows = f32(&[3, 4]);
    let one = f32(&[]);
    let c = conv([2, 1], [1, 0], [1, 2], 2);
    let p = pool([2, 3], [2, 1], [0, 1]);
    let weight = f32(&[6, 2, 3, 2]);
    let convolved = f32(&[2, 6, 3, 3]);
    let pooled = f32(&[2, 4, 2, 5]);
    let name = || "a name".to_string();
    let mut out = vec![
        (Op::Input { name: name() }, vec![image.clone()]),
        (Op::Parameter { name: "w \"q\"\\\n".to_string(), frozen: true }, vec![image.clone()]),
        (Op::State { name: name() }, vec![channel.clone()]),
        (Op::Constant { value: 0.1 }, vec![image.clone()]),
        (Op::Store { name: name() }, vec![channel.clone()]),
        (Op::Output { name: name() }, vec![image.clone()]),
        (Op::Scale { factor: -1e-300 }, vec![image.clone()]),
        (Op::BiasAdd, vec![image.clone(), channel.clone()]),
        (Op::Dropout { p: 0.3, site: u64::MAX }, vec![image.clone(), i64(&[2])]),
        (Op::StopGradient, vec![image.clone()]),
        (Op::Conv2d(c), vec![image.clone(), weight.clone()]),
        (Op::Conv2dGradInput { conv: c, input: [5, 5] }, vec![convolved.clone(), weight.clone()]),
        (Op::Conv2dGradWeight { conv: c, kernel: [3, 2] }, vec![image.clone(), convolved.clone()]),
        (Op::MatMul { transpose_a: false, transpose_b: true }, vec![rows.clone(), rows.clone()]),
        (Op::ChannelStats, vec![image.clone()]),
        (Op::Normalize { eps: 1e-5, batch_stats: false }, {
            let mut v = vec![channel.clone(); 5];
            v[0] = image.clone();
            v
        }),
        (
            Op::NormalizeGradReduce { eps: 1e-5 },
            vec![image.clone(), channel.clone(), channel.clone(), image.clone()],
        ),
        (Op::NormalizeGradInput { eps: 1e-5 }, {
            let mut v = vec![channel.clone(); 7];
            v[0] = image.clone();
            v[4] = image.clone();
            v
        }),
        (Op::NormalizeGradFixed { eps: 1e-5 }, vec![channel.clone(), channel.clone(), image.clone()]),
        (Op::Ema { momentum: 0.1, scale: 1.02 }, vec![channel.clone(), channel.clone()]),
        (Op::MaxPool(p), vec![image.clone()]),
        (Op::MaxPoolGrad(p), vec![image.clone(), pooled.clone()]),
        (Op::AvgPool(p), vec![image.clone()]),
        (Op::AvgPoolGrad { pool: p, input: [5, 5] }, vec![pooled.clone()]),
        (Op::Reshape { shape: Shape::from([8, 25]) }, vec![image.clone()]),
        (Op::Concat { axis: 1 }, vec![image.clone(), f32(&[2, 1, 5, 5])]),
        (Op::Slice { axis: 2, start: 1, len: 3 }, vec![image.clone()]),
        (Op::Pad { axis: 1, start: 2, total: 9 }, vec![image.clone()]),
        (Op::Reduce { kind: ReduceKind::Sum, axes: vec![0, 2, 3] }, vec![image.clone()]),
        (Op::Reduce { kind: ReduceKind::Mean, axes: vec![] }, vec![image.clone()]),
        (
            Op::Broadcast { shape: Shape::from([2, 4, 3]), axes: vec![1], layout: Layout::RowMajor },
            vec![channel.clone()],
        ),
        (Op::Standardize { eps: 1e-5 }, vec![image.clone()]),
        (Op::StandardizeGrad { eps: 1e-5 }, vec![image.clone(); 2]),
        (Op::L2Normalize { eps: 1e-12 }, vec![image.clone()]),
        (Op::L2NormalizeGrad { eps: 1e-12 }, vec![image.clone(); 2]),
        (Op::Softmax, vec![rows.clone()]),
        (Op::SoftmaxGrad, vec![rows.clone(); 2]),
        (Op::LogSoftmax, vec![rows.clone()]),
        (Op::LogSoftmaxGrad, vec![rows.clone(); 2]),
        (Op::CrossEntropy { smoothing: 0.1 }, vec![rows.clone(), i64(&[3])]),
        (Op::CrossEntropyGrad { smoothing: 0.1 }, vec![rows.clone(), i64(&[3]), one.clone()]),
        (Op::KlDivergence { temperature: 3.0 }, vec![rows.clone(); 2]),
        (Op::KlGradTeacher { temperature: 3.0 }, vec![rows.clone(), rows.clone(), one.clone()]),
        (Op::KlGradStudent { temperature: 3.0 }, vec![rows.clone(), rows.clone(), one.clone()]),
        (Op::MeanSquaredError, vec![image.clone(); 2]),
        (Op::MeanSquaredErrorGrad, vec![image.clone(), image.clone(), one.clone()]),
        (Op::RelationDistance, vec![rows.clone(), f32(&[3, 2])]),
        (Op::RelationDistanceGrad, vec![rows.clone(), f32(&[3, 2]), one.clone()]),
        (Op::RelationAngle, vec![rows.clone(), f32(&[3, 2])]),
        (Op::RelationAngleGrad, vec![rows.clone(), f32(&[3, 2]), one.clone()]),
        (Op::SgdUpdate { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }, {
            vec![channel.clone(), channel.clone(), channel.clone(), one.clone()]
        }),
        (Op::AdamwUpdate { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }, {
            let mut v = vec![channel.clone(); 4];
            v.extend([one.clone(), one.clone()]);
            v
        }),
    ];
    out.push((Op::ConvertLayout { layout: Layout::ChannelsLast }, vec![image.clone()]));
    out.push((
        Op::ConvertLayout { layout: Layout::RowMajor },
        vec![image.clone().with_layout(Layout::ChannelsLast)],
    ));
    out.push((Op::Cast { dtype: DType::Bf16 }, vec![image.clone().with_layout(Layout::ChannelsLast)]));
    out.push((Op::Cast { dtype: DType::F32 }, vec![channel.clone().with_dtype(DType::Bf16)]));
    let fused = convolution_group(c, &image, &weight);
    out.push((Op::Fused(Arc::new(fused)), vec![image.clone(), weight]));
    for kind in UnaryKind::ALL {
        out.push((Op::Unary { kind }, vec![image.clone()]));
        out.push((Op::UnaryGrad { kind }, vec![image.clone(); 2]));
    }
    for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul] {
        out.push((Op::Binary { kind }, vec![image.clone(); 2]));
    }
    out
}

/// A convolution with the statistics of its result, both of which are results.
pub fn convolution_group(conv: Conv, x: &ValueType, w: &ValueType) -> Group {
    let mut graph = Graph::new("body");
    let (a, b) = (input(&mut graph, "x", x), input(&mut graph, "w", w));
    let y = add(&mut graph, Op::Conv2d(conv), &[a, b]);
    let stats = graph.add(Op::ChannelStats, &[y], Origin::default()).unwrap();
    let local = |step, result| Local::Step { step, result };
    let operands = [Local::Operand(0), Local::Operand(1)].into_iter().collect();
    Group {
        kind: GroupKind::Convolution,
        name: "conv2d+channel_stats".to_string(),
        operands: vec![x.clone(), w.clone()],
        steps: vec![
            Step {
                op: Op::Conv2d(conv),
                operands,
                results: graph.node(y.node).results.clone(),
                path: "net.conv \"1\"".to_string(),
            },
            Step {
                op: Op::ChannelStats,
                operands: [local(0, 0)].into_iter().collect(),
                results: graph.node(stats).results.clone(),
                path: String::new(),
            },
        ],
        results: vec![local(0, 0), local(1, 0), local(1, 1)],
    }
}

/// Random feeds for every input, parameter and state of a graph.
pub fn feeds(graph: &Graph, from: f64, to: f64, seed: u64) -> Feeds {
    let mut rng = rng(seed);
    let mut out = Feeds::new();
    for id in graph.topological().unwrap() {
        let node = graph.node(id);
        if let Op::Input { name } | Op::Parameter { name, .. } | Op::State { name } = &node.op {
            let ty = &node.results[0];
            let tensor = match ty.dtype {
                DType::F32 | DType::Bf16 => random(ty, from, to, &mut rng),
                DType::I64 => labels(ty, &mut rng),
            };
            out.insert(name.clone(), tensor);
        }
    }
    out
}
