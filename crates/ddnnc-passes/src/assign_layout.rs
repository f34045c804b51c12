//! Makes the values of activations channels-last, with conversions only where they are needed.

use crate::aliases::is_persistent;
use crate::kinds::{Kind, Role, kinds, role};
use crate::rebuild::Rebuild;
use ddnnc_ir::{Graph, IrError, Layout, NodeId, Op, Origin, Value, order_stores};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// The layout in which an operator takes an operand of four dimensions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Whatever it has.
    Any,
    /// That one.
    As(Layout),
    /// Any in which the elements lie in memory as in a row-major value.
    Flat,
}

/// What is known of an operator before the graph is rebuilt.
#[derive(Clone, Copy)]
struct Decision {
    kind: Kind,
    /// The layout of its results of four dimensions.
    layout: Layout,
    /// A conversion that the pass places anew.
    dropped: bool,
}

/// Gives every four-dimensional value of activations the channels-last layout, and adds the conversions that this
/// takes: of the image, around reshapes, before stores and outputs. Inputs, parameters and states stay row-major, and
/// so do weights, their gradients, and what is computed elementwise from them. Constants and broadcasts are made in
/// the layout that is asked for. A value is converted once, whatever the number of its readers.
///
/// A graph with no convolution, pooling or channel-wise operator on four dimensions stays as it is. Conversions that
/// are there already are dropped and placed anew; a second run changes nothing.
/// What is added and reads a parameter or state that the graph stores comes before the operator that overwrites it.
pub fn assign_layout(graph: &mut Graph) -> Result<(), IrError> {
    let order = graph.topological()?;
    if !order.iter().any(|&id| has_images(graph, id)) {
        return Ok(());
    }
    let decisions = decide(graph, &order);
    let mut relayout = Relayout {
        rebuild: Rebuild::new(graph),
        decisions: &decisions,
        converted: FxHashMap::default(),
        reads_stored: false,
    };
    for &id in order.iter().filter(|id| !decisions[id.index()].dropped) {
        relayout.node(id)?;
    }
    for &id in &order {
        for before in graph.order_predecessors(id) {
            if decisions[id.index()].dropped || decisions[before.index()].dropped {
                relayout.order_around_dropped(before, id);
            }
        }
    }
    let reads_stored = relayout.reads_stored;
    let mut new = relayout.rebuild.finish();
    if reads_stored {
        order_stores(&mut new);
    }
    *graph = new;
    Ok(())
}

/// Whether the operator works on images.
fn has_images(graph: &Graph, id: NodeId) -> bool {
    role(&graph.node(id).op) == Role::Image && graph.operands(id).iter().any(|&v| graph.shape(v).rank() == 4)
}

/// Kind and layout of every operator: operands first, then for what is free by what its readers ask for.
fn decide(graph: &Graph, order: &[NodeId]) -> Vec<Decision> {
    let unknown = Decision { kind: Kind::Free, layout: Layout::RowMajor, dropped: false };
    let mut decisions = vec![unknown; graph.index_bound()];
    let kinds = kinds(graph, order);
    for &id in order {
        let kind = kinds[id.index()];
        let op = &graph.node(id).op;
        let layout = match (role(op), op) {
            (_, Op::ConvertLayout { layout }) => *layout,
            (Role::Image, _) => Layout::ChannelsLast,
            (Role::KeepsLayout, _) if kind == Kind::Activation => Layout::ChannelsLast,
            // What is free follows below.
            (
                Role::KeepsLayout | Role::Weight | Role::Free | Role::Reshapes | Role::Converts | Role::Fixed,
                _,
            ) => Layout::RowMajor,
        };
        decisions[id.index()] = Decision { kind, layout, dropped: role(op) == Role::Converts };
    }
    // (channels-last, row-major), as readers ask for it.
    let mut asked = vec![(false, false); graph.index_bound()];
    for &id in order.iter().rev() {
        let mut decision = decisions[id.index()];
        if decision.dropped {
            continue;
        }
        if decision.kind == Kind::Free {
            decision.layout = match asked[id.index()] {
                (true, _) => Layout::ChannelsLast,
                (false, true) => Layout::RowMajor,
                (false, false) => graph.node(id).results.first().map_or(Layout::RowMajor, |ty| ty.layout),
            };
            decisions[id.index()] = decision;
        }
        for (i, v) in graph.operands(id).into_iter().enumerate() {
            let v = root(graph, &decisions, v);
            let asked = &mut asked[v.node.index()];
            match demand(graph, id, i, decision.layout) {
                Demand::As(Layout::ChannelsLast) if graph.shape(v).rank() == 4 => asked.0 = true,
                Demand::As(Layout::RowMajor) | Demand::Flat => asked.1 = true,
                Demand::As(Layout::ChannelsLast) | Demand::Any => {}
            }
        }
    }
    decisions
}

/// The value that a dropped conversion takes, through all of them.
fn root(graph: &Graph, decisions: &[Decision], mut v: Value) -> Value {
    while decisions[v.node.index()].dropped {
        match graph.operands(v.node).first() {
            Some(&below) => v = below,
            None => break,
        }
    }
    v
}

/// How the operator, given its own layout, takes operand `i`.
fn demand(graph: &Graph, id: NodeId, i: usize, layout: Layout) -> Demand {
    let op = &graph.node(id).op;
    match op {
        Op::Conv2d(_) | Op::Conv2dGradInput { .. } if i == 1 => return Demand::As(Layout::RowMajor),
        Op::Conv2dGradWeight { .. } => return Demand::As(Layout::ChannelsLast),
        // `infer` refuses to keep channels and positions together of a channels-last value.
        Op::Reduce { axes, .. } if axes.contains(&1) || (axes.contains(&2) && axes.contains(&3)) => {
            return Demand::Any;
        }
        Op::Reshape { .. } | Op::Reduce { .. } | Op::Broadcast { .. } => return Demand::Flat,
        Op::Store { .. } | Op::Output { .. } => return Demand::As(Layout::RowMajor),
        Op::Fused(group) => return group.operands.get(i).map_or(Demand::Any, |ty| Demand::As(ty.layout)),
        // All others take their operands as their role says.
        _ => {}
    }
    match role(op) {
        Role::Image => Demand::As(Layout::ChannelsLast),
        Role::KeepsLayout => Demand::As(layout),
        Role::Weight => Demand::As(Layout::RowMajor),
        Role::Free | Role::Reshapes | Role::Converts | Role::Fixed => Demand::Any,
    }
}

/// The graph that takes the old one's place.
struct Relayout<'a> {
    rebuild: Rebuild<'a>,
    decisions: &'a [Decision],
    /// Values of the old graph, made in another layout.
    converted: FxHashMap<(Value, Layout), Value>,
    /// Whether something that was added reads a parameter or state.
    reads_stored: bool,
}

impl Relayout<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), IrError> {
        let node = self.rebuild.old.node(id);
        let Decision { layout, .. } = self.decisions[id.index()];
        let mut op = node.op.clone();
        if let Op::Broadcast { layout: attribute, shape, .. } = &mut op
            && shape.rank() == 4
        {
            *attribute = layout;
        }
        let taken: SmallVec<[(Value, Demand); 4]> = (0..)
            .zip(self.rebuild.old.operands(id))
            .map(|(i, v)| {
                (root(self.rebuild.old, self.decisions, v), demand(self.rebuild.old, id, i, layout))
            })
            .collect();
        // What is made anew comes before what is converted, where a second run finds it.
        for &(v, demand) in taken.iter().filter(|(v, _)| role(self.rebuild.old.op(*v)) == Role::Free) {
            self.operand(v, demand)?;
        }
        let mut operands: SmallVec<[Value; 4]> = SmallVec::new();
        for (v, demand) in taken {
            operands.push(self.operand(v, demand)?);
        }
        let added = if op.is_source() {
            let mut ty = node.results[0].clone();
            if ty.shape.rank() == 4 {
                ty.layout = layout;
            }
            self.rebuild.new.add_source(op, ty, node.origin.clone())?.node
        } else {
            self.rebuild.new.add(op, &operands, node.origin.clone())?
        };
        self.rebuild.replace(id, added);
        Ok(())
    }

    /// Keeps an order edge of the old graph one of whose ends is a dropped conversion: it stands for what is in its
    /// place on one side, and for its readers on the other.
    fn order_around_dropped(&mut self, before: NodeId, after: NodeId) {
        let old = self.rebuild.old;
        let first = self.rebuild.node(before).or_else(|| {
            let v = root(old, self.decisions, Value { node: before, result: 0 });
            self.converted.get(&(v, self.decisions[before.index()].layout)).map(|v| v.node)
        });
        let Some(first) = first else { return };
        let mut open = vec![after];
        while let Some(id) = open.pop() {
            match self.rebuild.node(id) {
                Some(node) => self.rebuild.new.add_order(first, node),
                None => open.extend(old.successors(id)),
            }
        }
    }

    /// A value of the old graph (no dropped conversion), as a reader asks for it.
    fn operand(&mut self, v: Value, demand: Demand) -> Result<Value, IrError> {
        let made = self.rebuild.value(v)?;
        let ty = self.rebuild.new.ty(made);
        let layout = match demand {
            _ if ty.shape.rank() != 4 => return Ok(made),
            Demand::Any => return Ok(made),
            Demand::Flat if ty.is_row_major() => return Ok(made),
            Demand::Flat => Layout::RowMajor,
            Demand::As(layout) if layout == ty.layout => return Ok(made),
            Demand::As(layout) => layout,
        };
        if let Some(&known) = self.converted.get(&(v, layout)) {
            return Ok(known);
        }
        let origin: Origin = self.rebuild.old.node(v.node).origin.clone();
        let value = match self.rebuild.new.op(made).clone() {
            op @ Op::Constant { .. } => {
                let ty = ty.clone().with_layout(layout);
                self.rebuild.new.add_source(op, ty, origin)?
            }
            Op::Broadcast { shape, axes, .. } => {
                let operands = self.rebuild.new.operands(made.node);
                self.reads_stored |= operands.iter().any(|&v| is_persistent(&self.rebuild.new, v));
                self.rebuild.new.add1(Op::Broadcast { shape, axes, layout }, &operands, origin)?
            }
            _ => {
                self.reads_stored |= is_persistent(&self.rebuild.new, made);
                self.rebuild.new.add1(Op::ConvertLayout { layout }, &[made], origin)?
            }
        };
        self.converted.insert((v, layout), value);
        Ok(value)
    }
}
