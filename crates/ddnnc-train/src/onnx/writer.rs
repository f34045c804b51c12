//! A growing ONNX graph: nodes under names of their own, and the constants that they take.

use super::message::{AttributeProto, AttributeType, DataType, NodeProto, TensorProto};
use indexmap::IndexMap;
use std::collections::HashSet;

/// Nodes and constants, each in the order of first use.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) nodes: Vec<NodeProto>,
    constants: IndexMap<String, TensorProto>,
    names: HashSet<String>,
}

impl Writer {
    /// Adds a node that computes what stands at `path`; gives its value, which bears the node's name. Public names have no
    /// slash, so that no value takes the name of a parameter.
    pub(super) fn node(
        &mut self,
        path: &str,
        op_type: &str,
        input: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        let base = format!("{path}/{op_type}");
        let mut name = base.clone();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{base}{number}");
        }
        self.nodes.push(NodeProto {
            input: input.iter().map(|&name| name.to_string()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op_type.to_string(),
            attribute,
        });
        name
    }

    /// A scalar; the same for equal numbers.
    pub(super) fn number(&mut self, x: f64) -> String {
        let x = x as f32;
        self.constant(format!("constant/{x}"), || tensor(&[], DataType::Float, x.to_le_bytes().to_vec()))
    }

    /// A list of whole numbers; the same for equal ones.
    pub(super) fn integers(&mut self, what: &str, numbers: &[i64]) -> String {
        let text: Vec<String> = numbers.iter().map(i64::to_string).collect();
        self.constant(format!("{what}/{}", text.join("_")), || {
            let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            tensor(&[numbers.len()], DataType::Int64, bytes)
        })
    }

    fn constant(&mut self, name: String, make: impl FnOnce() -> TensorProto) -> String {
        self.constants.entry(name.clone()).or_insert_with(make);
        name
    }

    /// Gives the value `from` the name `to` everywhere.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let names = self.nodes.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
        names.filter(|name| *name == from).for_each(|name| *name = to.to_string());
    }

    /// Whether a value is the result of a node.
    pub(super) fn computes(&self, value: &str) -> bool {
        self.names.contains(value)
    }

    /// The nodes, and the constants under their names.
    pub(super) fn finish(self) -> (Vec<NodeProto>, Vec<TensorProto>) {
        let constants = self.constants.into_iter().map(|(name, tensor)| TensorProto { name, ..tensor });
        (self.nodes, constants.collect())
    }
}

/// A tensor without a name.
pub(super) fn tensor(dims: &[usize], data_type: DataType, raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(data_type as i32),
        name: String::new(),
        raw_data: Some(raw_data),
    }
}

/// An attribute that is a whole number.
pub(super) fn int(name: &str, i: usize) -> AttributeProto {
    AttributeProto { i: Some(i as i64), ..attribute(name, AttributeType::Int) }
}

/// An attribute that is a number.
pub(super) fn float(name: &str, f: f64) -> AttributeProto {
    AttributeProto { f: Some(f as f32), ..attribute(name, AttributeType::Float) }
}

/// An attribute that is a list of whole numbers.
pub(super) fn ints(name: &str, ints: &[usize]) -> AttributeProto {
    AttributeProto { ints: ints.iter().map(|&n| n as i64).collect(), ..attribute(name, AttributeType::Ints) }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_string(), r#type: Some(r#type as i32), ..AttributeProto::default() }
}
