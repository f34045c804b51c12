//! Text to graph.

use super::attributes::operator;
use super::cursor::{Attributes, Cursor, Fault};
use crate::verify::{Broken, check};
use crate::{
    DType, Graph, Group, GroupKind, IrError, Layout, Local, NodeId, Op, Origin, Shape, Step, Value, ValueType,
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

/// The most operands of one operator: positions are 16 bits wide.
const MAX_OPERANDS: usize = u16::MAX as usize;

/// The most results of one operator: positions are 16 bits wide.
const MAX_RESULTS: usize = u16::MAX as usize;

/// Reads a graph.
///
/// Numbers of values need not be in order, only unique and used after they are defined; the types in the text of all
/// but sources are checked against inference. What only the verifier knows is not checked.
///
/// # Errors
///
/// [`IrError::Parse`] with line and column of the first thing that is wrong.
pub fn parse(text: &str) -> Result<Graph, IrError> {
    Reader::read(text).map(|reader| reader.graph)
}

/// Reads a graph and verifies it.
///
/// # Errors
///
/// [`IrError::Parse`] as from [`parse`], and with line and column of the operator that breaks a rule of the verifier.
pub fn parse_verified(text: &str) -> Result<Graph, IrError> {
    let reader = Reader::read(text)?;
    match check(&reader.graph) {
        Ok(()) => Ok(reader.graph),
        Err(Broken { node, error }) => {
            let place = node.and_then(|node| reader.places.get(&node));
            Err(place.map_or(error.clone(), |&at| Fault::new(at, error.to_string()).locate(text)))
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy)]
enum Named {
    Value(Value),
    Sink(NodeId),
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    graph: Graph,
    values: FxHashMap<&'a str, Named>,
    /// Where each operator stands, in bytes.
    places: FxHashMap<NodeId, usize>,
}

impl<'a> Reader<'a> {
    fn read(text: &'a str) -> Result<Reader<'a>, IrError> {
        let mut reader = Reader {
            cursor: Cursor::new(text),
            graph: Graph::default(),
            values: FxHashMap::default(),
            places: FxHashMap::default(),
        };
        match reader.graph() {
            Ok(()) => Ok(reader),
            Err(fault) => Err(fault.locate(text)),
        }
    }

    fn graph(&mut self) -> Result<(), Fault> {
        self.cursor.empty_lines();
        if !self.cursor.eat_word("graph") {
            return self.cursor.expected("`graph`");
        }
        self.graph.name = self.cursor.string()?;
        self.cursor.expect("{")?;
        self.cursor.line_end()?;
        loop {
            self.cursor.empty_lines();
            if self.cursor.eat("}") {
                break;
            }
            self.line()?;
        }
        self.cursor.empty_lines();
        if self.cursor.at_end() { Ok(()) } else { self.cursor.expected("the end of the text") }
    }

    /// `v1, v2 = channel_stats(v0) : f32[3], f32[3] after n0 @ "bn1" [full]`
    fn line(&mut self) -> Result<(), Fault> {
        let start = self.cursor.here();
        let mut names = Vec::new();
        let mut known = FxHashSet::default();
        loop {
            let at = self.cursor.here();
            let name = self.cursor.word("a value (`v0`), a sink (`n0`) or `}`")?;
            let (letter, digits) = name.split_at(1);
            let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if !number || !matches!(letter, "v" | "n") {
                return Err(Fault::new(at, "expected `v` or `n` and a number"));
            }
            if self.values.contains_key(name) || !known.insert(name) {
                return Err(Fault::new(at, format!("`{name}` is defined twice")));
            }
            names.push((at, name));
            if self.cursor.eat("=") {
                break;
            }
            if !self.cursor.eat(",") {
                return self.cursor.expected("`=` or `,`");
            }
            if names.len() > MAX_RESULTS {
                return Err(Fault::new(at, format!("no operator has more than {MAX_RESULTS} results")));
            }
        }

        let operator_at = self.cursor.here();
        let mnemonic = self.cursor.word("an operator")?;
        let mut operands = Vec::new();
        if self.cursor.eat("(") && !self.cursor.eat(")") {
            loop {
                let at = self.cursor.here();
                match self.reference()? {
                    Named::Value(v) => operands.push(v),
                    Named::Sink(_) => return Err(Fault::new(at, "a sink has no value")),
                }
                if operands.len() > MAX_OPERANDS {
                    return Err(Fault::new(at, "too many operands"));
                }
                if self.cursor.eat(")") {
                    break;
                }
                self.cursor.expect(",")?;
            }
        }
        let mut attributes = Attributes::read(&mut self.cursor, operator_at)?;
        let op = if mnemonic == "fused" {
            let (kind, name) = (attributes.name("kind")?, attributes.name("name")?);
            attributes.finish(mnemonic)?;
            let operands = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
            self.group((operator_at, &kind), name, operands)?
        } else {
            let Some(op) = operator(mnemonic, &mut attributes)? else {
                return Err(Fault::new(operator_at, format!("there is no operator `{mnemonic}`")));
            };
            attributes.finish(mnemonic)?;
            op
        };

        let types_at = self.cursor.here();
        let types = self.types()?;
        let mut after = Vec::new();
        if self.cursor.eat_word("after") {
            loop {
                after.push(match self.reference()? {
                    Named::Value(v) => v.node,
                    Named::Sink(node) => node,
                });
                if !self.cursor.eat(",") {
                    break;
                }
            }
        }
        let origin = self.origin()?;
        self.cursor.line_end()?;

        let node = if op.is_source() {
            if !operands.is_empty() {
                return Err(Fault::new(operator_at, format!("{mnemonic} takes no operands")));
            }
            let [ty] = <[ValueType; 1]>::try_from(types)
                .map_err(|_| Fault::new(types_at, format!("{mnemonic} has one type, `: f32[…]`")))?;
            let added = self.graph.add_source(op, ty, origin);
            added.map_err(|e| Fault::new(operator_at, e.to_string()))?.node
        } else {
            let added = self.graph.add(op, &operands, origin);
            let node = added.map_err(|e| Fault::new(operator_at, e.to_string()))?;
            let inferred = &self.graph.node(node).results;
            if inferred.as_slice() != types.as_slice() {
                let list: Vec<String> = inferred.iter().map(ValueType::to_string).collect();
                let message = match list.as_slice() {
                    [] => format!("{mnemonic} has no results, and so no types"),
                    list => {
                        format!("expected the types that follow from the operands, `: {}`", list.join(", "))
                    }
                };
                return Err(Fault::new(types_at, message));
            }
            node
        };
        self.places.insert(node, operator_at);
        self.define(node, &names, start)?;
        for before in after {
            self.graph.add_order(before, node);
        }
        Ok(())
    }

    /// Enters the names of a line.
    fn define(&mut self, node: NodeId, names: &[(usize, &'a str)], start: usize) -> Result<(), Fault> {
        let results = self.graph.results(node);
        let letter = if results.is_empty() { 'n' } else { 'v' };
        if names.len() != results.len().max(1) {
            let n = results.len();
            return Err(Fault::new(
                start,
                format!("expected as many values as results: {n}, not {}", names.len()),
            ));
        }
        for (i, &(at, name)) in names.iter().enumerate() {
            if !name.starts_with(letter) {
                let what = if letter == 'n' {
                    "a sink is named `n` and a number"
                } else {
                    "a value is named `v` and a number"
                };
                return Err(Fault::new(at, what));
            }
            let named = results.get(i).map_or(Named::Sink(node), |&v| Named::Value(v));
            self.values.insert(name, named);
        }
        Ok(())
    }

    /// `: f32[3], f32[3]`; nothing where no colon stands.
    fn types(&mut self) -> Result<Vec<ValueType>, Fault> {
        let mut types = Vec::new();
        if self.cursor.eat(":") {
            loop {
                types.push(self.ty()?);
                if !self.cursor.eat(",") {
                    break;
                }
            }
        }
        Ok(types)
    }

    /// The body of a fused group, from its opening brace to its closing one.
    fn group(
        &mut self,
        (at, kind): (usize, &str),
        name: String,
        operands: Vec<ValueType>,
    ) -> Result<Op, Fault> {
        let Some(kind) = GroupKind::ALL.into_iter().find(|k| k.as_str() == kind) else {
            return Err(Fault::new(at, format!("there is no kind of group `{kind}`")));
        };
        let mut group = Group { kind, name, operands, steps: Vec::new(), results: Vec::new() };
        let mut known: FxHashMap<&'a str, Local> = FxHashMap::default();
        self.cursor.expect("{")?;
        self.cursor.line_end()?;
        loop {
            self.cursor.empty_lines();
            if self.cursor.eat_word("give") {
                group.results = self.locals(&known, &group)?;
                break;
            }
            self.step(&mut known, &mut group)?;
        }
        self.cursor.line_end()?;
        self.cursor.empty_lines();
        self.cursor.expect("}")?;
        Ok(Op::Fused(Arc::new(group)))
    }

    /// `s1, s2 = channel_stats(s0) : f32[3], f32[3] @ "bn1"`
    fn step(&mut self, known: &mut FxHashMap<&'a str, Local>, group: &mut Group) -> Result<(), Fault> {
        let start = self.cursor.here();
        let mut names = Vec::new();
        loop {
            names.push(self.cursor.word("a value of the group (`s0`) or `give`")?);
            if self.cursor.eat("=") {
                break;
            }
            self.cursor.expect(",")?;
        }
        let operator_at = self.cursor.here();
        let mnemonic = self.cursor.word("an operator")?;
        let operands = if self.cursor.eat("(") {
            let list = self.locals(known, group)?;
            self.cursor.expect(")")?;
            list
        } else {
            Vec::new()
        };
        let mut attributes = Attributes::read(&mut self.cursor, operator_at)?;
        let Some(op) = operator(mnemonic, &mut attributes)? else {
            return Err(Fault::new(operator_at, format!("a group has no operator `{mnemonic}`")));
        };
        attributes.finish(mnemonic)?;
        let types = self.types()?;
        let path = if self.cursor.eat("@") { self.cursor.string()? } else { String::new() };
        self.cursor.line_end()?;
        if names.len() != types.len() {
            return Err(Fault::new(start, format!("expected as many values as types: {}", types.len())));
        }
        let step = group.steps.len() as u32;
        for (result, name) in names.into_iter().enumerate() {
            let digits = name
                .strip_prefix('s')
                .is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
            if !digits {
                return Err(Fault::new(start, "a value of a group is named `s` and a number"));
            }
            if known.insert(name, Local::Step { step, result: result as u32 }).is_some() {
                return Err(Fault::new(start, format!("`{name}` is defined twice")));
            }
        }
        group.steps.push(Step { op, operands: operands.into(), results: types.into(), path });
        Ok(())
    }

    /// Values of a group, separated by commas: at least one.
    fn locals(&mut self, known: &FxHashMap<&'a str, Local>, group: &Group) -> Result<Vec<Local>, Fault> {
        let mut list = Vec::new();
        loop {
            let at = self.cursor.here();
            let name = self.cursor.word("a value of the group (`p0` or `s0`)")?;
            let operand = name.strip_prefix('p').and_then(|d| d.parse::<u32>().ok());
            let operand = operand.filter(|&i| (i as usize) < group.operands.len()).map(Local::Operand);
            match operand.or_else(|| known.get(name).copied()) {
                Some(local) => list.push(local),
                None => return Err(Fault::new(at, format!("`{name}` is not defined before this line"))),
            }
            if list.len() > MAX_OPERANDS {
                return Err(Fault::new(at, "too many operands"));
            }
            if !self.cursor.eat(",") {
                return Ok(list);
            }
        }
    }

    /// A value or sink that was defined before.
    fn reference(&mut self) -> Result<Named, Fault> {
        let at = self.cursor.here();
        let name = self.cursor.word("a value")?;
        let found = self.values.get(name).copied();
        found.ok_or_else(|| Fault::new(at, format!("`{name}` is not defined before this line")))
    }

    fn ty(&mut self) -> Result<ValueType, Fault> {
        let at = self.cursor.here();
        let dtype = match self.cursor.word("a type (`f32[…]` or `i64[…]`)")? {
            "f32" => DType::F32,
            "bf16" => DType::Bf16,
            "i64" => DType::I64,
            other => {
                let message = format!("there is no element type `{other}`, only f32, bf16 and i64");
                return Err(Fault::new(at, message));
            }
        };
        let dims = self.cursor.list()?;
        let layout_at = self.cursor.here();
        let layout = if self.cursor.eat("{nhwc}") { Layout::ChannelsLast } else { Layout::RowMajor };
        if layout == Layout::ChannelsLast && dims.len() != 4 {
            return Err(Fault::new(layout_at, "only a value of four dimensions can be channels-last"));
        }
        Ok(ValueType { dtype, shape: Shape::from(dims.as_slice()), layout })
    }

    fn origin(&mut self) -> Result<Origin, Fault> {
        if !self.cursor.eat("@") {
            return Ok(Origin::default());
        }
        let path = self.cursor.string()?;
        let mut nets: Vec<Arc<str>> = Vec::new();
        if self.cursor.eat("[") {
            loop {
                let net: Arc<str> = if self.cursor.starts_string() {
                    self.cursor.string()?.into()
                } else {
                    self.cursor.word("a net's name")?.into()
                };
                nets.push(net);
                if self.cursor.eat("]") {
                    break;
                }
                self.cursor.expect(",")?;
            }
        }
        Ok(Origin::new(&path, &nets))
    }
}
