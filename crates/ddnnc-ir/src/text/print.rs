//! Graph to text.

use crate::text::attributes::{Attribute, attributes};
use crate::{Graph, Group, IrError, Local, Node, NodeId, Op, Origin};
use std::fmt::Write;

/// The text of a graph.
///
/// # Errors
///
/// [`IrError::Cycle`], and [`IrError::Invalid`] for an attribute that is infinite or not a number.
pub fn print(graph: &Graph) -> Result<String, IrError> {
    let order = graph.topological()?;
    let mut names: Vec<Vec<String>> = vec![Vec::new(); graph.index_bound()];
    let mut position = vec![0usize; graph.index_bound()];
    let mut next = 0usize;
    for (i, &id) in order.iter().enumerate() {
        position[id.index()] = i;
        let results = graph.node(id).results.len();
        let letter = if results == 0 { 'n' } else { 'v' };
        for _ in 0..results.max(1) {
            names[id.index()].push(format!("{letter}{next}"));
            next += 1;
        }
    }

    let mut out = String::new();
    out.push_str("graph ");
    quote(&mut out, &graph.name);
    out.push_str(" {\n");
    for &id in &order {
        let node = graph.node(id);
        let _ = write!(out, "  {} = {}", names[id.index()].join(", "), node.op.mnemonic());
        let operands = graph.operands(id);
        if !operands.is_empty() {
            let list: Vec<&str> =
                operands.iter().map(|v| result_name(&names[v.node.index()], v.result)).collect();
            let _ = write!(out, "({})", list.join(", "));
        }
        write_attributes(&mut out, &node.op)?;
        if let Op::Fused(group) = &node.op {
            write_body(&mut out, group)?;
        }
        for (i, ty) in node.results.iter().enumerate() {
            let _ = write!(out, "{} {ty}", if i == 0 { " :" } else { "," });
        }
        let mut before: Vec<NodeId> = graph.order_predecessors(id);
        before.sort_unstable_by_key(|id| position[id.index()]);
        for (i, id) in before.iter().enumerate() {
            let _ = write!(out, "{} {}", if i == 0 { " after" } else { "," }, names[id.index()][0]);
        }
        write_origin(&mut out, &node.origin);
        out.push('\n');
    }
    out.push_str("}\n");
    Ok(out)
}

/// The body of a fused group, in braces over several lines: steps, then what they give.
fn write_body(out: &mut String, group: &Group) -> Result<(), IrError> {
    let mut first = Vec::with_capacity(group.steps.len());
    let mut next = 0u32;
    for step in &group.steps {
        first.push(next);
        next += step.results.len() as u32;
    }
    let name = |local: &Local| match *local {
        Local::Operand(i) => format!("p{i}"),
        Local::Step { step, result } => format!("s{}", first.get(step as usize).map_or(next, |f| f + result)),
    };
    let list = |locals: &[Local]| locals.iter().map(name).collect::<Vec<_>>().join(", ");
    out.push_str(" {\n");
    for (step, first) in group.steps.iter().zip(&first) {
        let results: Vec<String> =
            (0..step.results.len() as u32).map(|i| format!("s{}", first + i)).collect();
        let _ = write!(out, "    {} = {}", results.join(", "), step.op.mnemonic());
        if !step.operands.is_empty() {
            let _ = write!(out, "({})", list(&step.operands));
        }
        write_attributes(out, &step.op)?;
        for (i, ty) in step.results.iter().enumerate() {
            let _ = write!(out, "{} {ty}", if i == 0 { " :" } else { "," });
        }
        if !step.path.is_empty() {
            out.push_str(" @ ");
            quote(out, &step.path);
        }
        out.push('\n');
    }
    let _ = write!(out, "    give {}\n  }}", list(&group.results));
    Ok(())
}

/// A result that its operator does not have (the verifier's business) prints as the first.
fn result_name(names: &[String], result: u16) -> &str {
    &names[(result as usize).min(names.len() - 1)]
}

/// One operator without its values, for messages: `conv2d stride=[1,1] … @ "resnet.stem.conv1" [full]`.
pub(crate) fn describe(node: &Node) -> String {
    let mut out = node.op.mnemonic().to_string();
    // An attribute that cannot be printed is what the message around this is about.
    let _ = write_attributes(&mut out, &node.op);
    write_origin(&mut out, &node.origin);
    out
}

fn write_attributes(out: &mut String, op: &Op) -> Result<(), IrError> {
    for (name, value) in attributes(op) {
        let _ = write!(out, " {name}=");
        match value {
            Attribute::Name(text) => quote(out, text),
            Attribute::Flag(b) => {
                let _ = write!(out, "{b}");
            }
            Attribute::Count(n) => {
                let _ = write!(out, "{n}");
            }
            Attribute::Float(x) if x.is_finite() => {
                let _ = write!(out, "{x:?}");
            }
            Attribute::Float(x) => {
                return Err(IrError::Invalid {
                    node: op.mnemonic().to_string(),
                    message: format!("{name} is {x}, which has no textual form"),
                });
            }
            Attribute::List(list) => {
                let list: Vec<String> = list.iter().map(usize::to_string).collect();
                let _ = write!(out, "[{}]", list.join(","));
            }
        }
    }
    Ok(())
}

fn write_origin(out: &mut String, origin: &Origin) {
    if origin.path.is_empty() && origin.nets.is_empty() {
        return;
    }
    out.push_str(" @ ");
    quote(out, &origin.path);
    for (i, net) in origin.nets.iter().enumerate() {
        out.push_str(if i == 0 { " [" } else { ", " });
        if is_word(net) {
            out.push_str(net);
        } else {
            quote(out, net);
        }
    }
    if !origin.nets.is_empty() {
        out.push(']');
    }
}

/// Whether a net's name needs no quotes.
fn is_word(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A string in double quotes; backslash, quote and control characters are escaped (`\u{a}`).
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
