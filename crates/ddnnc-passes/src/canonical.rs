//! Small algebra: operators that do nothing, or that a constant settles, go away.

use ddnnc_ir::reference::to_bf16;
use ddnnc_ir::{BinaryKind, DType, Graph, IrError, NodeId, Op, ReduceKind, Value, ValueType};
use rustc_hash::FxHashSet;
use smallvec::{SmallVec, smallvec};

/// What stands in an operator's place.
enum Rewrite {
    /// A value that is there already.
    Value(Value),
    /// Another operator.
    Op(Op, SmallVec<[Value; 4]>),
    /// One number in every element.
    Constant(f64),
}

/// Applies the rules of `simplify` everywhere, operands before users, so that one run suffices.
///
/// The graph is rebuilt in its topological order: what a rule adds stands where the replaced operator stood. What no
/// longer has users stays; `dead_code` removes it. Nodes with order edges are left as they are.
pub fn canonical(graph: &mut Graph) -> Result<(), IrError> {
    let order = graph.topological()?;
    let mut ordered = vec![false; graph.index_bound()];
    let mut stored: FxHashSet<String> = FxHashSet::default();
    for &id in &order {
        for before in graph.order_predecessors(id) {
            ordered[before.index()] = true;
            ordered[id.index()] = true;
        }
        if let Op::Store { name } = &graph.node(id).op {
            stored.insert(name.clone());
        }
    }
    let mut new = Graph::new(graph.name.clone());
    let mut values: Vec<SmallVec<[Value; 1]>> = vec![SmallVec::new(); graph.index_bound()];
    let mut nodes: Vec<Option<NodeId>> = vec![None; graph.index_bound()];
    for id in order {
        let node = graph.node(id);
        let mut op = node.op.clone();
        let mut operands: SmallVec<[Value; 4]> =
            graph.operands(id).into_iter().map(|v| values[v.node.index()][v.result as usize]).collect();
        let mut instead = None;
        while let Some(rewrite) = simplify(&new, &op, &operands, &node.results) {
            // The readers of what is stored are known to run before its update: nothing may become a new one.
            if ordered[id.index()] || reads_stored(&new, &rewrite, &stored) || !is_finite(&rewrite) {
                break;
            }
            match rewrite {
                Rewrite::Op(o, v) => (op, operands) = (o, v),
                Rewrite::Value(value) => {
                    instead = Some(value);
                    break;
                }
                Rewrite::Constant(value) => {
                    let ty = node.results[0].clone();
                    instead = Some(new.add_source(Op::Constant { value }, ty, node.origin.clone())?);
                    break;
                }
            }
        }
        if let Some(value) = instead {
            values[id.index()] = smallvec![value];
            continue;
        }
        let added = if op.is_source() {
            new.add_source(op, node.results[0].clone(), node.origin.clone())?.node
        } else {
            new.add(op, &operands, node.origin.clone())?
        };
        for before in graph.order_predecessors(id) {
            if let Some(before) = nodes[before.index()] {
                new.add_order(before, added);
            }
        }
        nodes[id.index()] = Some(added);
        values[id.index()] = new.results(added).into_iter().collect();
    }
    *graph = new;
    Ok(())
}

/// Whether the number that a rule computes is one that a graph may hold.
fn is_finite(rewrite: &Rewrite) -> bool {
    match rewrite {
        Rewrite::Constant(number) | Rewrite::Op(Op::Scale { factor: number }, _) => number.is_finite(),
        Rewrite::Op(..) | Rewrite::Value(_) => true,
    }
}

/// Whether what a rule puts in place reads, under any name, the old content of something that is stored.
fn reads_stored(graph: &Graph, rewrite: &Rewrite, stored: &FxHashSet<String>) -> bool {
    let is_stored = |v: &Value| {
        let mut v = *v;
        loop {
            match graph.op(v) {
                Op::Parameter { name, .. } | Op::State { name } => return stored.contains(name),
                op if op.is_alias() => match graph.operands(v.node).first() {
                    Some(&below) => v = below,
                    None => return false,
                },
                _ => return false,
            }
        }
    };
    match rewrite {
        Rewrite::Value(value) => is_stored(value),
        Rewrite::Op(_, operands) => operands.iter().any(is_stored),
        Rewrite::Constant(_) => false,
    }
}

/// The number in every element of a constant, as its element type keeps it.
fn constant(graph: &Graph, v: Value) -> Option<f64> {
    match *graph.op(v) {
        Op::Constant { value } if graph.ty(v).dtype == DType::Bf16 => Some(to_bf16(value)),
        Op::Constant { value } => Some(value),
        _ => None,
    }
}

/// One rule that applies to the operator, if there is one. Every rule keeps the result's type.
fn simplify(graph: &Graph, op: &Op, operands: &[Value], results: &[ValueType]) -> Option<Rewrite> {
    let x = *operands.first()?;
    let like_x = results.first() == Some(graph.ty(x));
    let fixed = constant(graph, x);
    match op {
        // 1 · x = x
        Op::Scale { factor } if *factor == 1.0 => Some(Rewrite::Value(x)),
        Op::Scale { factor } => match (fixed, graph.op(x)) {
            // a · const(c) = const(a·c)
            (Some(c), _) => Some(Rewrite::Constant(factor * c)),
            // a · (b · x) = (a·b) · x, where b · x is not rounded to bf16
            (None, Op::Scale { factor: inner }) if graph.ty(x).dtype != DType::Bf16 => {
                Some(Rewrite::Op(Op::Scale { factor: factor * inner }, graph.operands(x.node)))
            }
            _ => None,
        },
        Op::Binary { kind } => {
            let y = *operands.get(1)?;
            let other = constant(graph, y);
            match kind {
                // const(c) · x = x · const(c) = c · x
                BinaryKind::Mul => match (fixed, other) {
                    (_, Some(c)) => Some(Rewrite::Op(Op::Scale { factor: c }, smallvec![x])),
                    (Some(c), None) => Some(Rewrite::Op(Op::Scale { factor: c }, smallvec![y])),
                    (None, None) => None,
                },
                // const(a) + const(b) = const(a+b); x + 0 = 0 + x = x
                BinaryKind::Add => match (fixed, other) {
                    (Some(a), Some(b)) => Some(Rewrite::Constant(a + b)),
                    (None, Some(0.0)) => Some(Rewrite::Value(x)),
                    (Some(0.0), None) => Some(Rewrite::Value(y)),
                    _ => side_by_side(graph, [x, y]),
                },
                // const(a) − const(b) = const(a−b); x − 0 = x; 0 − x = −1 · x
                BinaryKind::Sub => match (fixed, other) {
                    (Some(a), Some(b)) => Some(Rewrite::Constant(a - b)),
                    (None, Some(0.0)) => Some(Rewrite::Value(x)),
                    (Some(0.0), None) => Some(Rewrite::Op(Op::Scale { factor: -1.0 }, smallvec![y])),
                    _ => None,
                },
            }
        }
        Op::Reshape { shape } => match (fixed, graph.op(x)) {
            // reshape to the shape that it has = x
            _ if like_x => Some(Rewrite::Value(x)),
            // reshape(const(c)) = const(c)
            (Some(c), _) => Some(Rewrite::Constant(c)),
            // reshape(reshape(x)) = reshape(x)
            (None, Op::Reshape { .. }) => {
                Some(Rewrite::Op(Op::Reshape { shape: shape.clone() }, graph.operands(x.node)))
            }
            _ => None,
        },
        Op::Broadcast { .. } => match fixed {
            // broadcast onto the shape that it has = x
            _ if like_x => Some(Rewrite::Value(x)),
            // broadcast(const(c)) = const(c)
            Some(c) => Some(Rewrite::Constant(c)),
            None => None,
        },
        Op::Reduce { kind, .. } => match fixed {
            // Σ or mean over no axis = x
            _ if like_x => Some(Rewrite::Value(x)),
            // Σ over n elements of const(c) = const(n·c); their mean = const(c)
            Some(c) => {
                let kept = results.first()?.elements();
                let n = graph.ty(x).elements().checked_div(kept)?;
                Some(Rewrite::Constant(match kind {
                    ReduceKind::Sum => n as f64 * c,
                    ReduceKind::Mean => c,
                }))
            }
            None => None,
        },
        // the layout that it has = x; of a constant, a constant; converted twice = converted once
        Op::ConvertLayout { .. } => match (fixed, graph.op(x)) {
            _ if like_x => Some(Rewrite::Value(x)),
            (Some(c), _) => Some(Rewrite::Constant(c)),
            (None, Op::ConvertLayout { .. }) => Some(Rewrite::Op(op.clone(), graph.operands(x.node))),
            (None, _) => None,
        },
        // the element type that it has = x; of a constant, a constant; bf16 → f32 → bf16 = x (the way by bf16 rounds)
        Op::Cast { dtype } => match (fixed, graph.op(x)) {
            _ if like_x => Some(Rewrite::Value(x)),
            (Some(c), _) => Some(Rewrite::Constant(c)),
            (None, Op::Cast { dtype: DType::F32 }) => {
                let below = *graph.operands(x.node).first()?;
                (graph.ty(below).dtype == *dtype).then_some(Rewrite::Value(below))
            }
            (None, _) => None,
        },
        // concat of one value = x
        Op::Concat { .. } if operands.len() == 1 => Some(Rewrite::Value(x)),
        // a slice of all entries, a pad by none = x
        Op::Slice { .. } | Op::Pad { .. } if like_x => Some(Rewrite::Value(x)),
        // An operator without a rule stays as it is.
        _ => None,
    }
}

/// Σ pad(xᵢ) = concat(x₁, …, xₙ) where the parts of one axis that the xᵢ lie at make up the whole of it: what the gradients of
/// slices of one value come to.
fn side_by_side(graph: &Graph, sum: [Value; 2]) -> Option<Rewrite> {
    let mut parts: Vec<(usize, Value)> = Vec::new();
    let mut along = None;
    let mut left: Vec<Value> = sum.to_vec();
    while let Some(v) = left.pop() {
        match *graph.op(v) {
            Op::Binary { kind: BinaryKind::Add } => left.extend(graph.operands(v.node)),
            // More parts than there are places lie on one another: a sum that is added to itself again and again ends here.
            Op::Pad { axis, start, total }
                if along.is_none_or(|known| known == (axis, total)) && parts.len() < total =>
            {
                along = Some((axis, total));
                parts.push((start, *graph.operands(v.node).first()?));
            }
            _ => return None,
        }
    }
    let (axis, total) = along?;
    parts.sort_unstable_by_key(|(start, _)| *start);
    let mut end = 0;
    for &(start, part) in &parts {
        if start != end {
            return None;
        }
        end += graph.shape(part).dims().get(axis)?;
    }
    let whole = || Rewrite::Op(Op::Concat { axis }, parts.iter().map(|(_, part)| *part).collect());
    (end == total).then(whole)
}
