//! Keeps activations in bf16 and multiplies in it, with casts only where they are needed.

use crate::aliases::is_persistent;
use crate::kinds::{Kind, Role, kinds, role};
use crate::rebuild::Rebuild;
use ddnnc_ir::{DType, Graph, IrError, NodeId, Op, Value, order_stores};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Makes convolutions and matrix products take bf16, and keeps every four-dimensional value of activations, and their
/// gradients, in bf16.
///
/// In f32 stay: parameters, states and what is computed from them alone, so that every weight is cast once for all its
/// readers; results of matrix products and reductions, statistics, weight gradients; and what losses and per-sample
/// operators take and give. Elementwise operators on values of fewer dimensions are of bf16 where all they take is.
/// Constants and broadcasts are made of the element type that is asked for, f32 first.
///
/// A graph with no convolution and no matrix product stays as it is; a second run changes nothing. Casts that are there
/// stay, as they round. A cast of a parameter or state that the graph stores comes before the operator that overwrites
/// it.
pub fn autocast(graph: &mut Graph) -> Result<(), IrError> {
    let order = graph.topological()?;
    if !order.iter().any(|&id| multiplies(&graph.node(id).op)) {
        return Ok(());
    }
    let dtypes = decide(graph, &order);
    let mut recast = Recast {
        rebuild: Rebuild::new(graph),
        dtypes: &dtypes,
        cast: FxHashMap::default(),
        reads_stored: false,
    };
    for &id in &order {
        recast.node(id)?;
    }
    let reads_stored = recast.reads_stored;
    let mut new = recast.rebuild.finish();
    if reads_stored {
        order_stores(&mut new);
    }
    *graph = new;
    Ok(())
}

/// Whether the operator is a convolution, in any direction, or a matrix product.
fn multiplies(op: &Op) -> bool {
    matches!(op, Op::MatMul { .. }) || ddnnc_ir::is_convolution(op)
}

/// What of an operator is of the element type that it works in; all else is f32.
enum Typed {
    /// Nothing: losses, operators on whole samples, updates and sinks compute in f32 on f32 alone.
    Nothing,
    /// All operands, and the results.
    All,
    /// These operands, and the results; the others are channel vectors or random states.
    These(&'static [usize]),
    /// All operands; the results are sums.
    Operands,
    /// These operands; the results are sums.
    TheseOperands(&'static [usize]),
}

fn typed(op: &Op) -> Typed {
    match op {
        Op::Store { .. }
        | Op::Output { .. }
        | Op::Ema { .. }
        | Op::SgdUpdate { .. }
        | Op::AdamwUpdate { .. }
        | Op::Standardize { .. }
        | Op::StandardizeGrad { .. }
        | Op::L2Normalize { .. }
        | Op::L2NormalizeGrad { .. }
        | Op::Softmax
        | Op::SoftmaxGrad
        | Op::LogSoftmax
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
        | Op::RelationAngleGrad => Typed::Nothing,
        Op::BiasAdd | Op::Dropout { .. } | Op::Normalize { .. } => Typed::These(&[0]),
        Op::NormalizeGradInput { .. } => Typed::These(&[0, 4]),
        Op::NormalizeGradFixed { .. } => Typed::These(&[2]),
        Op::MatMul { .. } | Op::Conv2dGradWeight { .. } | Op::ChannelStats | Op::Reduce { .. } => {
            Typed::Operands
        }
        Op::NormalizeGradReduce { .. } => Typed::TheseOperands(&[0, 3]),
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Constant { .. }
        | Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::StopGradient
        | Op::Conv2d(_)
        | Op::Conv2dGradInput { .. }
        | Op::MaxPool(_)
        | Op::MaxPoolGrad(_)
        | Op::AvgPool(_)
        | Op::AvgPoolGrad { .. }
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Broadcast { .. }
        | Op::ConvertLayout { .. }
        | Op::Cast { .. }
        | Op::Fused(_) => Typed::All,
    }
}

/// Whether operand `i` is of the shape that the operator works on element by element: not a channel vector or random
/// state beside it.
fn is_map(op: &Op, i: usize) -> bool {
    match typed(op) {
        Typed::These(maps) | Typed::TheseOperands(maps) => maps.contains(&i),
        Typed::Nothing | Typed::All | Typed::Operands => true,
    }
}

/// The element type in which every operator takes the operands that it works on element by element, which is that of
/// its results where they are of their shape.
fn decide(graph: &Graph, order: &[NodeId]) -> Vec<DType> {
    let kinds = kinds(graph, order);
    let mut dtypes = vec![DType::F32; graph.index_bound()];
    for &id in order {
        let op = &graph.node(id).op;
        let operands = graph.operands(id);
        let rank = |v: &Value| graph.shape(*v).rank();
        let maps = || (0..).zip(&operands).filter(|&(i, _)| is_map(op, i)).map(|(_, v)| v);
        dtypes[id.index()] = match (role(op), op) {
            (_, Op::Cast { dtype }) => *dtype,
            (_, op) if multiplies(op) => DType::Bf16,
            (_, op) if matches!(typed(op), Typed::Nothing) => DType::F32,
            (Role::Reshapes | Role::Converts, _) => {
                // Only what is no longer free has an element type by now.
                operands
                    .first()
                    .filter(|v| kinds[v.node.index()] != Kind::Free)
                    .map_or(DType::F32, |v| result(graph.op(*v), dtypes[v.node.index()]))
            }
            (Role::Image | Role::KeepsLayout, _) if kinds[id.index()] == Kind::Activation => {
                let mut fixed = maps().filter(|v| kinds[v.node.index()] != Kind::Free).peekable();
                let all = fixed.peek().is_some()
                    && fixed.all(|v| result(graph.op(*v), dtypes[v.node.index()]) == DType::Bf16);
                if all || maps().any(|v| rank(v) == 4) { DType::Bf16 } else { DType::F32 }
            }
            (Role::Image | Role::KeepsLayout | Role::Weight | Role::Free | Role::Fixed, _) => DType::F32,
        };
    }
    // (f32, bf16), as readers ask for it.
    let mut asked = vec![(false, false); graph.index_bound()];
    for &id in order.iter().rev() {
        let node = graph.node(id);
        if kinds[id.index()] == Kind::Free && !matches!(node.op, Op::Cast { .. }) {
            dtypes[id.index()] = match asked[id.index()] {
                (true, _) => DType::F32,
                (false, true) => DType::Bf16,
                (false, false) => node.results.first().map_or(DType::F32, |ty| ty.dtype),
            };
        }
        for (i, v) in graph.operands(id).into_iter().enumerate() {
            match demand(&node.op, i, dtypes[id.index()]) {
                Some(DType::Bf16) => asked[v.node.index()].1 = true,
                Some(_) => asked[v.node.index()].0 = true,
                None => {}
            }
        }
    }
    dtypes
}

/// The element type of an operator's first result, where it works in `dtype`.
fn result(op: &Op, dtype: DType) -> DType {
    match (op, typed(op)) {
        (Op::Fused(group), _) => group.result_types().first().map_or(DType::F32, |ty| ty.dtype),
        (_, Typed::Operands | Typed::TheseOperands(_)) => DType::F32,
        (_, Typed::Nothing | Typed::All | Typed::These(_)) => dtype,
    }
}

/// The element type in which an operator that works in `dtype` takes operand `i`; any where there is none.
fn demand(op: &Op, i: usize, dtype: DType) -> Option<DType> {
    match op {
        Op::Cast { .. } | Op::Reduce { .. } => None,
        Op::Fused(group) => group.operands.get(i).map(|ty| ty.dtype),
        op => Some(if is_map(op, i) { dtype } else { DType::F32 }),
    }
}

/// The graph that takes the old one's place.
struct Recast<'a> {
    rebuild: Rebuild<'a>,
    dtypes: &'a [DType],
    /// Values of the old graph, made of another element type.
    cast: FxHashMap<(Value, DType), Value>,
    /// Whether something that was added reads a parameter or state.
    reads_stored: bool,
}

impl Recast<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), IrError> {
        let node = self.rebuild.old.node(id);
        let dtype = self.dtypes[id.index()];
        let added = if node.op.is_source() {
            let mut ty = node.results[0].clone();
            if matches!(node.op, Op::Constant { .. }) && ty.dtype != DType::I64 {
                ty.dtype = dtype;
            }
            self.rebuild.new.add_source(node.op.clone(), ty, node.origin.clone())?.node
        } else {
            let mut operands: SmallVec<[Value; 4]> = SmallVec::new();
            for (i, v) in self.rebuild.old.operands(id).into_iter().enumerate() {
                operands.push(match demand(&node.op, i, dtype) {
                    Some(dtype) => self.operand(v, dtype)?,
                    None => self.rebuild.value(v)?,
                });
            }
            self.rebuild.add(node.op.clone(), &operands, node.origin.clone())?
        };
        self.rebuild.replace(id, added);
        Ok(())
    }

    /// A value of the old graph, of that element type (integers are taken as they are).
    fn operand(&mut self, v: Value, dtype: DType) -> Result<Value, IrError> {
        let made = self.rebuild.value(v)?;
        let ty = self.rebuild.new.ty(made);
        if ty.dtype == dtype || ty.dtype == DType::I64 {
            return Ok(made);
        }
        if let Some(&known) = self.cast.get(&(v, dtype)) {
            return Ok(known);
        }
        let origin = self.rebuild.old.node(v.node).origin.clone();
        let value = match self.rebuild.new.op(made).clone() {
            op @ Op::Constant { .. } => {
                let ty = ty.clone().with_dtype(dtype);
                self.rebuild.new.add_source(op, ty, origin)?
            }
            op @ Op::Broadcast { .. } => {
                let below = self.operand(self.rebuild.old.operands(v.node)[0], dtype)?;
                self.reads_stored |= is_persistent(&self.rebuild.new, below);
                self.rebuild.new.add1(op, &[below], origin)?
            }
            _ => {
                self.reads_stored |= is_persistent(&self.rebuild.new, made);
                self.rebuild.new.add1(Op::Cast { dtype }, &[made], origin)?
            }
        };
        self.cast.insert((v, dtype), value);
        Ok(value)
    }
}
