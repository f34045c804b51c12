//! Memory by liveness: from a graph and an order of its nodes to a [`Program`].
//!
//! A value has memory from the launch that makes it to the last that reads it: inputs from the start of the step,
//! outputs to its end. Reshapes and gradient stops are names for their operand's memory. A result takes over an
//! operand's memory where [`may_overwrite`] allows it and nothing reads the operand later. A stored value is made
//! directly in the persistent region where such a chain of overwriting leads from the old content to it; else a copy
//! at the end of the step stores it.

use crate::aliases::Aliases;
use crate::pack::{Piece, aligned, pack};
use crate::program::overwrites;
use crate::{Buffer, BufferId, Launch, PassError, Persistent, PersistentKind, Place, Program};
use ddnnc_ir::{Graph, IrError, NodeId, Op, Value, ValueType};
use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// What a program has a place for whether the graph reads it or not, so that every program of a model takes and gives
/// the same tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// Inputs by name.
    pub inputs: IndexMap<String, ValueType>,
    /// Parameters, statistics and optimizer state by public name.
    pub persistent: IndexMap<String, (PersistentKind, ValueType)>,
}

impl Tables {
    /// Adds the sources of a graph that are not there yet: a state is optimizer state, since a model's running
    /// statistics are in its table.
    pub fn add_sources(&mut self, graph: &Graph, order: &[NodeId]) -> Result<(), PassError> {
        let mut seen: FxHashSet<&str> = FxHashSet::default();
        for &id in order {
            let node = graph.node(id);
            let (name, known) = match &node.op {
                Op::Input { name } => {
                    (name, self.inputs.entry(name.clone()).or_insert(node.results[0].clone()))
                }
                Op::Parameter { name, .. } => {
                    let new = (PersistentKind::Parameter, node.results[0].clone());
                    (name, &mut self.persistent.entry(name.clone()).or_insert(new).1)
                }
                Op::State { name } => {
                    let new = (PersistentKind::Optimizer, node.results[0].clone());
                    (name, &mut self.persistent.entry(name.clone()).or_insert(new).1)
                }
                _ => continue,
            };
            if !seen.insert(name) {
                return Err(bad_name(name, "is the name of two sources"));
            }
            if *known != node.results[0] {
                let message = format!("is {} and {}", known, node.results[0]);
                return Err(PassError::Name { name: name.clone(), message });
            }
        }
        Ok(())
    }
}

/// Plans the memory of a graph whose nodes run in `order` (every node, topological), and gives the program.
pub fn plan_memory(graph: &Graph, order: &[NodeId], mut tables: Tables) -> Result<Program, PassError> {
    tables.add_sources(graph, order)?;
    let mut planner = Planner::new(graph, order, tables);
    planner.find_sinks(order)?;
    planner.find_reads();
    planner.store_in_place();
    planner.assign_blocks();
    planner.finish()
}

/// The last read of a value that outlives the step.
const FOREVER: usize = usize::MAX;

/// Whose memory a value lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Unknown,
    /// A block of the arena.
    Block(usize),
    /// An entry of the persistent table.
    Persistent(usize),
}

struct Planner<'g> {
    graph: &'g Graph,
    tables: Tables,
    aliases: Aliases,
    /// The nodes that run, in order.
    launched: Vec<NodeId>,
    /// Launch number by node; the copies at the start come before all of them.
    position: Vec<usize>,
    /// (name, value) of the outputs and of the stores, in order.
    outputs: Vec<(String, Value)>,
    stores: Vec<(String, Value)>,
    /// Persistent root values whose old content is copied out before anything runs: (root, its block).
    rescued: IndexMap<Value, usize>,
    /// Root values that are stored by a copy at the end: (name, value).
    copies: Vec<(String, Value)>,
    /// Last launch that reads a root value.
    last_read: Vec<usize>,
    /// Where a root value lies.
    home: Vec<Home>,
    blocks: Vec<Piece>,
    /// The root value whose content a block holds.
    owner: Vec<Option<Value>>,
    /// Operands by node, in order: of a group of all updates there are thousands, and many questions about them.
    operands: Vec<SmallVec<[Value; 4]>>,
    /// [`overwrites`] by node.
    overwrites: Vec<Vec<SmallVec<[usize; 2]>>>,
    /// Which operands of a launch are names of a root value.
    reads: FxHashMap<(NodeId, Value), SmallVec<[usize; 2]>>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph, order: &[NodeId], tables: Tables) -> Planner<'g> {
        let aliases = Aliases::new(graph, order);
        let launched: Vec<NodeId> = order
            .iter()
            .copied()
            .filter(|&id| {
                let op = &graph.node(id).op;
                let named = op.is_source() && !matches!(op, Op::Constant { .. });
                !named && !op.is_sink() && !op.is_alias()
            })
            .collect();
        let mut operands = vec![SmallVec::new(); graph.index_bound()];
        let mut over = vec![Vec::new(); graph.index_bound()];
        let mut reads: FxHashMap<(NodeId, Value), SmallVec<[usize; 2]>> = FxHashMap::default();
        for &id in &launched {
            operands[id.index()] = graph.operands(id);
            over[id.index()] = overwrites(&graph.node(id).op, graph.node(id).results.len());
            for (k, &v) in operands[id.index()].iter().enumerate() {
                reads.entry((id, aliases.root(v))).or_default().push(k);
            }
        }
        Planner {
            graph,
            tables,
            operands,
            overwrites: over,
            reads,
            position: vec![0; graph.index_bound()],
            launched,
            outputs: Vec::new(),
            stores: Vec::new(),
            rescued: IndexMap::new(),
            copies: Vec::new(),
            last_read: vec![0; aliases.len()],
            home: vec![Home::Unknown; aliases.len()],
            blocks: Vec::new(),
            owner: Vec::new(),
            aliases,
        }
    }

    fn root_index(&self, v: Value) -> usize {
        self.aliases.index(self.aliases.root(v))
    }

    /// The persistent entry that a root value is the old content of.
    fn persistent_of(&self, root: Value) -> Option<usize> {
        match self.graph.op(root) {
            Op::Parameter { name, .. } | Op::State { name } => self.tables.persistent.get_index_of(name),
            _ => None,
        }
    }

    /// Gathers outputs and stores, and decides which old contents must be saved from being overwritten.
    fn find_sinks(&mut self, order: &[NodeId]) -> Result<(), PassError> {
        let (mut shown, mut stored): (FxHashSet<&str>, FxHashSet<&str>) = Default::default();
        for &id in order {
            let Some(&value) = self.graph.operands(id).first() else { continue };
            match &self.graph.node(id).op {
                Op::Output { name } => {
                    if !shown.insert(name) {
                        return Err(bad_name(name, "is the name of two outputs"));
                    }
                    self.outputs.push((name.clone(), value));
                }
                Op::Store { name } => {
                    let Some((_, ty)) = self.tables.persistent.get(name) else {
                        return Err(bad_name(name, "is stored and is neither a parameter nor a state"));
                    };
                    if ty != self.graph.ty(value) {
                        let message =
                            format!("is {ty} and a value of type {} is stored", self.graph.ty(value));
                        return Err(PassError::Name { name: name.clone(), message });
                    }
                    if !stored.insert(name) {
                        return Err(bad_name(name, "is stored twice"));
                    }
                    self.stores.push((name.clone(), value));
                }
                _ => {}
            }
        }
        // Storing what is there already does nothing.
        let (graph, aliases) = (self.graph, &self.aliases);
        self.stores.retain(|(name, value)| match graph.op(aliases.root(*value)) {
            Op::Parameter { name: n, .. } | Op::State { name: n } => n != name,
            _ => true,
        });
        let changed: FxHashSet<&str> = self.stores.iter().map(|(name, _)| name.as_str()).collect();
        let sinks: Vec<Value> = self.outputs.iter().chain(&self.stores).map(|(_, v)| *v).collect();
        for value in sinks {
            let root = self.aliases.root(value);
            let Some(entry) = self.persistent_of(root) else { continue };
            let changes = self
                .tables
                .persistent
                .get_index(entry)
                .is_some_and(|(name, _)| changed.contains(name.as_str()));
            if changes && !self.rescued.contains_key(&root) {
                let block = self.rescued.len();
                self.rescued.insert(root, block);
            }
        }
        Ok(())
    }

    /// Numbers the launches and finds the last read of every root value.
    fn find_reads(&mut self) {
        for i in 0..self.launched.len() {
            let id = self.launched[i];
            let position = self.rescued.len() + i;
            self.position[id.index()] = position;
            for v in self.graph.operands(id) {
                let root = self.root_index(v);
                self.last_read[root] = position;
            }
        }
        for (_, value) in self.outputs.iter().chain(&self.stores) {
            let root = self.aliases.root(*value);
            // Outputs and copies read the saved content of what is rescued, not the value itself.
            if !self.rescued.contains_key(&root) {
                let root = self.aliases.index(root);
                self.last_read[root] = FOREVER;
            }
        }
    }

    /// Whether nothing reads a root value after a launch, and the launch itself reads its memory only through operands
    /// that result `result` may overwrite.
    fn dies_at(&self, root: Value, id: NodeId, result: u16) -> bool {
        let allowed = self.allowed(id, result);
        self.last_read[self.aliases.index(root)] <= self.position[id.index()]
            && self.reads.get(&(id, root)).is_none_or(|reads| reads.iter().all(|k| allowed.contains(k)))
    }

    /// The operands that a result may overwrite; none for a node that is not launched.
    fn allowed(&self, id: NodeId, result: u16) -> &[usize] {
        self.overwrites[id.index()].get(result as usize).map_or(&[], |over| over)
    }

    /// Lets stored values be made where they are stored; the others get a copy at the end.
    fn store_in_place(&mut self) {
        for (name, value) in std::mem::take(&mut self.stores) {
            let root = self.aliases.root(value);
            let entry = self.tables.persistent.get_index_of(&name);
            match entry.and_then(|entry| self.chain(root, entry).map(|chain| (entry, chain))) {
                Some((entry, chain)) => {
                    for link in chain {
                        let i = self.aliases.index(link);
                        self.home[i] = Home::Persistent(entry);
                    }
                }
                None => self.copies.push((name, value)),
            }
        }
    }

    /// The values from the stored one back to the old content of `entry`, each of which may overwrite the next.
    fn chain(&self, stored: Value, entry: usize) -> Option<Vec<Value>> {
        let mut chain = Vec::new();
        let mut current = stored;
        loop {
            if self.home[self.aliases.index(current)] != Home::Unknown {
                return None;
            }
            chain.push(current);
            let operands = &self.operands[current.node.index()];
            let below: SmallVec<[Value; 2]> = self
                .allowed(current.node, current.result)
                .iter()
                .filter_map(|&k| operands.get(k).map(|&v| self.aliases.root(v)))
                .filter(|&w| self.graph.ty(w).bytes() == self.graph.ty(current).bytes())
                .filter(|&w| self.dies_at(w, current.node, current.result))
                .collect();
            if below.iter().any(|&w| self.persistent_of(w) == Some(entry)) {
                return Some(chain);
            }
            current = *below.iter().find(|&&w| !self.graph.op(w).is_source())?;
        }
    }

    /// Gives every root value its home.
    fn assign_blocks(&mut self) {
        // What is rescued is copied out by one launch each, in order, before anything else runs.
        for (&root, &copy) in &self.rescued {
            let bytes = aligned(self.graph.ty(root).bytes());
            self.blocks.push(Piece { bytes, birth: copy, death: FOREVER });
            self.owner.push(None);
        }
        for ty in self.tables.inputs.values() {
            self.blocks.push(Piece { bytes: aligned(ty.bytes()), birth: 0, death: 0 });
            self.owner.push(None);
        }
        let graph = self.graph;
        for id in graph.nodes() {
            for value in graph.results(id) {
                let i = self.aliases.index(value);
                if let Some(entry) = self.persistent_of(value) {
                    self.home[i] = Home::Persistent(entry);
                } else if let Op::Input { name } = &graph.node(id).op
                    && let Some(input) = self.tables.inputs.get_index_of(name)
                {
                    let block = self.rescued.len() + input;
                    self.home[i] = Home::Block(block);
                    self.owner[block] = Some(value);
                    self.blocks[block].death = self.last_read[i];
                }
            }
        }
        for i in 0..self.launched.len() {
            let id = self.launched[i];
            for value in graph.results(id) {
                self.assign_result(id, value);
            }
        }
    }

    /// Gives a launch's result the memory of an operand that dies there, or memory of its own.
    fn assign_result(&mut self, id: NodeId, value: Value) {
        let i = self.aliases.index(value);
        if self.home[i] != Home::Unknown {
            return;
        }
        let position = self.position[id.index()];
        let death = self.last_read[i].max(position);
        let allowed = self.allowed(id, value.result);
        let operands = &self.operands[id.index()];
        let home = |v: Value| self.home[self.root_index(v)];
        let over = allowed.iter().find_map(|&k| {
            let root = self.aliases.root(*operands.get(k)?);
            let Home::Block(block) = home(root) else { return None };
            let whole = self.owner[block] == Some(root)
                && self.graph.ty(root).bytes() == self.graph.ty(value).bytes()
                && self.last_read[self.aliases.index(root)] <= position
                && operands
                    .iter()
                    .enumerate()
                    .all(|(k, &v)| home(v) != Home::Block(block) || allowed.contains(&k));
            whole.then_some(block)
        });
        let block = match over {
            Some(block) => {
                self.blocks[block].death = self.blocks[block].death.max(death);
                self.owner[block] = Some(value);
                block
            }
            None => {
                let bytes = aligned(self.graph.ty(value).bytes());
                self.blocks.push(Piece { bytes, birth: position, death });
                self.owner.push(Some(value));
                self.blocks.len() - 1
            }
        };
        self.home[i] = Home::Block(block);
    }

    /// Packs the blocks and writes the program down.
    fn finish(self) -> Result<Program, PassError> {
        let (offsets, arena_bytes) = pack(&self.blocks);
        let mut persistent_bytes = 0;
        let mut region = Vec::with_capacity(self.tables.persistent.len());
        let mut program = Program {
            name: self.graph.name.clone(),
            buffers: Vec::new(),
            launches: Vec::new(),
            inputs: IndexMap::new(),
            outputs: IndexMap::new(),
            persistent: IndexMap::new(),
            arena_bytes,
            persistent_bytes: 0,
        };
        for (name, (kind, ty)) in &self.tables.persistent {
            let place = Place::Persistent { offset: persistent_bytes };
            persistent_bytes += aligned(ty.bytes());
            region.push(place);
            let buffer = push(&mut program, ty.clone(), place);
            program.persistent.insert(name.clone(), Persistent { kind: *kind, buffer });
        }
        program.persistent_bytes = persistent_bytes;
        for (input, (name, ty)) in self.tables.inputs.iter().enumerate() {
            let place = Place::Arena { offset: offsets[self.rescued.len() + input] };
            let buffer = push(&mut program, ty.clone(), place);
            program.inputs.insert(name.clone(), buffer);
        }
        let mut names = Names {
            planner: &self,
            offsets: &offsets,
            region: &region,
            known: vec![None; self.aliases.len()],
        };
        names.claim_sources(&program);
        for (&root, &block) in &self.rescued {
            let from = names.of(&mut program, root)?;
            let place = Place::Arena { offset: offsets[block] };
            let to = push(&mut program, self.graph.ty(root).clone(), place);
            let node = self.graph.node(root.node);
            let name = match &node.op {
                Op::Parameter { name, .. } | Op::State { name } => name.clone(),
                _ => String::new(),
            };
            program.launches.push(copy(name, from, to, self.graph, root));
        }
        for &id in &self.launched {
            let operands = self
                .graph
                .operands(id)
                .into_iter()
                .map(|v| names.of(&mut program, v))
                .collect::<Result<_, _>>()?;
            let results = self
                .graph
                .results(id)
                .into_iter()
                .map(|v| names.of(&mut program, v))
                .collect::<Result<_, _>>()?;
            let node = self.graph.node(id);
            let path = node.origin.path.to_string();
            program.launches.push(Launch { op: node.op.clone(), operands, results, path });
        }
        for (name, value) in &self.copies {
            let from = names.saved(&mut program, *value)?;
            let Some(to) = program.persistent.get(name).map(|p| p.buffer) else {
                return Err(bad_name(name, "is stored and is neither a parameter nor a state"));
            };
            program.launches.push(copy(name.clone(), from, to, self.graph, *value));
        }
        for (name, value) in &self.outputs {
            let buffer = names.saved(&mut program, *value)?;
            program.outputs.insert(name.clone(), buffer);
        }
        Ok(program)
    }
}

fn push(program: &mut Program, ty: ValueType, place: Place) -> BufferId {
    program.buffers.push(Buffer { ty, place });
    BufferId((program.buffers.len() - 1) as u32)
}

fn copy(name: String, from: BufferId, to: BufferId, graph: &Graph, value: Value) -> Launch {
    let path = graph.node(value.node).origin.path.to_string();
    Launch { op: Op::Store { name }, operands: vec![from], results: vec![to], path }
}

/// The buffers of values, made when first asked for.
struct Names<'p, 'g> {
    planner: &'p Planner<'g>,
    offsets: &'p [usize],
    region: &'p [Place],
    known: Vec<Option<BufferId>>,
}

impl Names<'_, '_> {
    /// Lets sources stand for the buffers that the tables have made already.
    fn claim_sources(&mut self, program: &Program) {
        let graph = self.planner.graph;
        for id in graph.nodes() {
            let buffer = match &graph.node(id).op {
                Op::Input { name } => program.inputs.get(name).copied(),
                Op::Parameter { name, .. } | Op::State { name } => {
                    program.persistent.get(name).map(|p| p.buffer)
                }
                _ => None,
            };
            for value in graph.results(id) {
                self.known[self.planner.aliases.index(value)] = buffer;
            }
        }
    }

    /// The buffer of a value; a name for memory of the same type is the same buffer.
    fn of(&mut self, program: &mut Program, value: Value) -> Result<BufferId, PassError> {
        let graph = self.planner.graph;
        let root = self.planner.aliases.root(value);
        let value = if graph.ty(root) == graph.ty(value) { root } else { value };
        let i = self.planner.aliases.index(value);
        if let Some(buffer) = self.known[i] {
            return Ok(buffer);
        }
        let place = match self.planner.home[self.planner.aliases.index(root)] {
            Home::Block(block) => Place::Arena { offset: self.offsets[block] },
            Home::Persistent(entry) => self.region[entry],
            Home::Unknown => {
                return Err(PassError::Ir(IrError::Cycle));
            }
        };
        let buffer = push(program, graph.ty(value).clone(), place);
        self.known[i] = Some(buffer);
        Ok(buffer)
    }

    /// The buffer of a value as it stood at the start of the step, where that is copied out of a region that changes.
    fn saved(&mut self, program: &mut Program, value: Value) -> Result<BufferId, PassError> {
        match self.planner.rescued.get(&self.planner.aliases.root(value)) {
            Some(&block) => {
                let place = Place::Arena { offset: self.offsets[block] };
                Ok(push(program, self.planner.graph.ty(value).clone(), place))
            }
            None => self.of(program, value),
        }
    }
}

fn bad_name(name: &str, message: &str) -> PassError {
    PassError::Name { name: name.to_owned(), message: message.to_owned() }
}
