//! A graph in a few lines: what runs where, and a hash of the whole text.

use ddnnc_ir::{Graph, Op};
use ddnnc_passes::{Place, Program};
use std::collections::BTreeMap;
use std::fmt::Write;

/// 64-bit FNV-1a of a text.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The first components of an operator's path: `resnet.s1.0` of `resnet.s1.0.conv1`.
fn place(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let numbered = parts.get(2).is_some_and(|p| p.parse::<u32>().is_ok());
    parts[..parts.len().min(if numbered { 3 } else { 2 })].join(".")
}

/// Operators by place and nets, places of one content in a row folded into one line, and a hash of the printed graph.
pub fn digest(graph: &Graph) -> String {
    let text = ddnnc_ir::print(graph).expect("the graph has no cycle");
    let mut rows: Vec<(String, String, BTreeMap<String, usize>)> = Vec::new();
    for id in graph.topological().expect("the graph has no cycle") {
        let node = graph.node(id);
        let nets: Vec<&str> = node.origin.nets.iter().map(|n| &**n).collect();
        let (place, nets) = (place(&node.origin.path), nets.join(","));
        let row = match rows.iter().position(|(p, n, _)| *p == place && *n == nets) {
            Some(i) => &mut rows[i],
            None => {
                rows.push((place, nets, BTreeMap::new()));
                rows.last_mut().expect("a row was pushed")
            }
        };
        let name = match &node.op {
            Op::Fused(group) => format!("{}({})", group.kind, group.name),
            op => op.mnemonic().to_string(),
        };
        *row.2.entry(name).or_default() += 1;
    }
    let mut out = format!("{}: {} operators, text {:016x}\n", graph.name, graph.len(), fnv1a(&text));
    let mut i = 0;
    while i < rows.len() {
        let same = rows[i..].iter().take_while(|r| r.1 == rows[i].1 && r.2 == rows[i].2).count();
        let (place, nets, counts) = &rows[i];
        let to = if same > 1 { format!(" to {}", rows[i + same - 1].0) } else { String::new() };
        let counts: Vec<String> = counts.iter().map(|(op, n)| format!("{op} {n}")).collect();
        let place = if place.is_empty() { "(no path)" } else { place };
        writeln!(out, "{place}{to} [{nets}]: {}", counts.join(", ")).expect("writing to a string");
        i += same;
    }
    out
}

/// The launches of a program in order, each with the places of its first result, and the sizes of the regions.
pub fn schedule(program: &Program) -> String {
    let mut out = format!(
        "{}: {} launches, arena {} bytes, persistent {} bytes\n",
        program.name,
        program.launches.len(),
        program.arena_bytes,
        program.persistent_bytes
    );
    for launch in &program.launches {
        let name = match &launch.op {
            Op::Fused(group) => format!("{}({})", group.kind, group.name),
            op => op.mnemonic().to_string(),
        };
        let first = launch.results.first().map_or(String::new(), |&b| {
            let buffer = program.buffer(b);
            match buffer.place {
                Place::Arena { offset } => format!("{} a+{offset}", buffer.ty),
                Place::Persistent { offset } => format!("{} p+{offset}", buffer.ty),
            }
        });
        writeln!(out, "{name} @ {}: {} results, {first}", launch.path, launch.results.len())
            .expect("writing to a string");
    }
    out
}
