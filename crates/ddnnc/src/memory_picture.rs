//! The memory plan of a program: which content lies where and how long, as a table and as a picture.

use crate::launches;
use crate::output::{bytes, percent};
use crate::svg::{Face, Style, Svg, text_width};
use ddnnc_ir::{Op, ValueType};
use ddnnc_passes::{BufferId, LARGEST, Place, Program};
use std::collections::BTreeMap;

/// What a content of the arena is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Made by the forward pass.
    Activation,
    /// Made by the backward pass.
    Gradient,
    /// An input, a constant, or of a loss term.
    Other,
}

/// One content of a piece of the arena, from the launch that writes it to the last that reads it.
#[derive(Clone, Debug)]
pub struct Life {
    /// The operator that makes it, by mnemonic, or the fused group by its name; `input` for an input.
    pub op: String,
    /// Path of what makes it, or the input's name.
    pub path: String,
    /// Its type.
    pub ty: ValueType,
    /// Bytes from the arena's start.
    pub offset: usize,
    /// Its size in bytes.
    pub bytes: usize,
    /// The half launch in which it begins to exist: launch `i` reads in half `2i` and writes in half `2i + 1`, so
    /// that a result may lie on an operand that ends there.
    pub start: usize,
    /// The last half launch in which it exists.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

impl Life {
    /// First and last launch that touch it.
    fn launches(&self) -> String {
        format!("{}–{}", self.start / 2, self.end / 2)
    }

    fn path(&self) -> &str {
        if self.path.is_empty() { "(unnamed)" } else { &self.path }
    }
}

/// The lives of all contents of the arena, in the order in which they begin.
pub fn lives(program: &Program) -> Vec<Life> {
    let mut walk = Walk { program, lives: Vec::new(), current: BTreeMap::new() };
    for (name, &b) in &program.inputs {
        walk.write(b, "input", name, 0, Kind::Other);
    }
    for (i, launch) in program.launches.iter().enumerate() {
        let mut behind_gradient = false;
        for &b in &launch.operands {
            behind_gradient |= walk.read(b, 2 * i);
        }
        let op = launches::name(&launch.op);
        // What is computed from a gradient is one too: sums of gradients are plain additions.
        let kind = if behind_gradient || differentiates(&launch.op) {
            Kind::Gradient
        } else if launch.operands.is_empty() || launch.path.starts_with("loss.") {
            Kind::Other
        } else {
            Kind::Activation
        };
        for &b in &launch.results {
            walk.write(b, op, &launch.path, 2 * i + 1, kind);
        }
    }
    for &b in program.outputs.values() {
        walk.read(b, 2 * program.launches.len());
    }
    walk.lives
}

/// Whether a launch computes what differentiation makes of an operator. A group's name does not tell: it spells out only
/// the first of its operators.
fn differentiates(op: &Op) -> bool {
    let of_gradient = |op: &Op| op.mnemonic().ends_with("_grad") || op.mnemonic().contains("_grad_");
    match op {
        Op::Fused(group) => group.steps.iter().any(|step| of_gradient(&step.op)),
        op => of_gradient(op),
    }
}

/// The contents of the arena as the launches go by.
struct Walk<'a> {
    program: &'a Program,
    lives: Vec<Life>,
    /// First byte to the life that lies there.
    current: BTreeMap<usize, usize>,
}

impl Walk<'_> {
    /// Where a buffer lies in the arena, and how many bytes it takes; none for a persistent one.
    fn range(&self, b: BufferId) -> Option<(usize, usize)> {
        let buffer = self.program.buffer(b);
        match buffer.place {
            Place::Arena { offset } => Some((offset, buffer.ty.bytes())),
            Place::Persistent { .. } => None,
        }
    }

    /// Which first bytes of current lives lie across a range. Current lives are disjoint.
    fn meets(&self, offset: usize, bytes: usize) -> Vec<usize> {
        let before_end = self.current.range(..offset + bytes.max(1)).rev();
        before_end
            .take_while(|&(_, &life)| self.lives[life].offset + self.lives[life].bytes.max(1) > offset)
            .map(|(&start, _)| start)
            .collect()
    }

    /// Extends the lives that a buffer shows, under whatever name; says whether one is a gradient.
    fn read(&mut self, b: BufferId, at: usize) -> bool {
        let Some((offset, bytes)) = self.range(b) else { return false };
        let mut gradient = false;
        for start in self.meets(offset, bytes) {
            let life = &mut self.lives[self.current[&start]];
            life.end = life.end.max(at);
            gradient |= life.kind == Kind::Gradient;
        }
        gradient
    }

    fn write(&mut self, b: BufferId, op: &str, path: &str, at: usize, kind: Kind) {
        let Some((offset, bytes)) = self.range(b) else { return };
        for start in self.meets(offset, bytes) {
            self.current.remove(&start);
        }
        self.current.insert(offset, self.lives.len());
        let ty = self.program.buffer(b).ty.clone();
        let (op, path) = (op.to_string(), path.to_string());
        self.lives.push(Life { op, path, ty, offset, bytes, start: at, end: at, kind });
    }
}

/// The largest contents of the arena, largest first, at most `count`.
pub fn largest(program: &Program, count: usize) -> Vec<Life> {
    let mut lives = lives(program);
    // Stable: equal sizes stay in the order in which they begin.
    lives.sort_by_key(|life| std::cmp::Reverse(life.bytes));
    lives.truncate(count);
    lives
}

/// Header and rows of the table of the largest contents of the arena, as many as a report names.
pub fn table(program: &Program) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let peak = program.peak_bytes().max(1) as f64;
    let row = |life: &Life| {
        let share = percent(life.bytes as f64 / peak);
        let size = bytes(life.bytes as u64);
        vec![life.op.clone(), life.path().to_string(), life.ty.to_string(), size, share, life.launches()]
    };
    let rows = largest(program, LARGEST).iter().map(row).collect();
    (vec!["launch", "path", "value", "size", "of peak", "launches"], rows)
}

const ACTIVATION: &str = "#4e79a7";
const GRADIENT: &str = "#f28e2b";
const OTHER: &str = "#8f9aa3";
const PLOT: [f64; 2] = [1200.0, 640.0];
const CORNER: [f64; 2] = [100.0, 94.0];

/// The plan as a picture: launches across, addresses up, a rectangle for each life.
///
/// Every rectangle carries `data-start`, `data-end` (half launches, the last included), `data-offset` and `data-bytes`.
pub fn picture(program: &Program) -> String {
    let lives = lives(program);
    let launches = program.launches.len();
    let halves = (2 * launches + 1).max(1) as f64;
    let arena = program.arena_bytes.max(1) as f64;
    let x = |half: usize| CORNER[0] + PLOT[0] * half as f64 / halves;
    let y = |address: usize| CORNER[1] + PLOT[1] * (1.0 - address as f64 / arena);
    // Edges are rounded, not sizes: what touches in the plan touches in the picture and never overlaps.
    let round = |v: f64| (v * 100.0).round() / 100.0;

    let mut svg = Svg::default();
    svg.text(20.0, 28.0, Face { bold: true, ..Face::new(18.0) }, &format!("{}: memory plan", program.name));
    let about = format!(
        "peak {}: arena {} (drawn), persistent {} (parameters, statistics, optimizer state); {launches} launches",
        bytes(program.peak_bytes() as u64),
        bytes(program.arena_bytes as u64),
        bytes(program.persistent_bytes as u64),
    );
    svg.text(20.0, 48.0, Face::new(12.0), &about);
    let mut at = 20.0;
    for (color, label) in
        [(ACTIVATION, "activation"), (GRADIENT, "gradient"), (OTHER, "input, constant or loss term")]
    {
        svg.rect([at, 58.0], [12.0, 12.0], Style::fill(color), "", "");
        svg.text(at + 18.0, 68.0, Face::new(12.0), label);
        at += 42.0 + text_width(label, 12.0);
    }

    svg.rect(CORNER, PLOT, Style { fill: "#f6f7f8", ..Style::line("#888888", 1.0) }, "", "");
    let grey = "#666666";
    let quarters = |whole: usize| {
        let mut marks: Vec<usize> = (0..=4).map(|quarter| whole * quarter / 4).collect();
        marks.dedup();
        marks
    };
    for address in quarters(program.arena_bytes) {
        let level = y(address);
        svg.line(&[[CORNER[0] - 5.0, level], [CORNER[0], level]], Style::line("#888888", 1.0), false, "");
        let face = Face { anchor: "end", fill: grey, ..Face::new(11.0) };
        svg.text(CORNER[0] - 8.0, level + 4.0, face, &bytes(address as u64));
    }
    for launch in quarters(launches) {
        let place = x(2 * launch);
        let foot = CORNER[1] + PLOT[1];
        svg.line(&[[place, foot], [place, foot + 5.0]], Style::line("#888888", 1.0), false, "");
        let face = Face { anchor: "middle", fill: grey, ..Face::new(11.0) };
        svg.text(place, foot + 18.0, face, &launch.to_string());
    }
    let below = CORNER[1] + PLOT[1] + 38.0;
    let face = Face { anchor: "middle", fill: grey, ..Face::new(12.0) };
    svg.text(CORNER[0] + PLOT[0] / 2.0, below, face, "time (launch)");

    for life in &lives {
        let (left, right) = (round(x(life.start)), round(x(life.end + 1)));
        let (top, bottom) = (round(y(life.offset + life.bytes)), round(y(life.offset)));
        let fill = match life.kind {
            Kind::Activation => ACTIVATION,
            Kind::Gradient => GRADIENT,
            Kind::Other => OTHER,
        };
        let extra = format!(
            " stroke=\"#ffffff\" stroke-width=\"0.3\" data-start=\"{}\" data-end=\"{}\" data-offset=\"{}\" data-bytes=\"{}\"",
            life.start, life.end, life.offset, life.bytes
        );
        let tooltip = format!(
            "{} {}\n{}, {}\nlaunches {}\naddress {} to {}",
            life.op,
            life.path(),
            life.ty,
            bytes(life.bytes as u64),
            life.launches(),
            life.offset,
            life.offset + life.bytes
        );
        svg.rect([left, top], [right - left, bottom - top], Style::fill(fill), &extra, &tooltip);
    }
    let backward = program.launches.iter().position(|launch| differentiates(&launch.op));
    if let Some(launch) = backward {
        let place = x(2 * launch);
        let style = Style { dashed: true, ..Style::line("#222222", 1.0) };
        svg.line(&[[place, CORNER[1]], [place, CORNER[1] + PLOT[1]]], style, false, "");
        let face = Face { anchor: "middle", fill: grey, ..Face::new(11.0) };
        svg.text(place, CORNER[1] - 6.0, face, "backward");
    }
    svg.finish(&format!("{}: memory plan", program.name), CORNER[0] + PLOT[0] + 60.0, below + 16.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddnnc_ir::{Group, GroupKind, Local, Step, UnaryKind};
    use std::sync::Arc;

    #[test]
    fn a_gradient_is_known_by_the_operators_of_its_launch() {
        let ty = ValueType::f32([4]);
        let step = |op: Op, operands: &[u32]| Step {
            op,
            operands: operands.iter().map(|&i| Local::Operand(i)).collect(),
            results: std::iter::once(ty.clone()).collect(),
            path: String::new(),
        };
        let kind = UnaryKind::Relu;
        let group = |steps: Vec<Step>| {
            Op::Fused(Arc::new(Group {
                kind: GroupKind::Sequence,
                name: "many+more".to_owned(),
                operands: vec![ty.clone(); 2],
                results: vec![Local::Step { step: 0, result: 0 }],
                steps,
            }))
        };
        let forward = step(Op::Unary { kind }, &[0]);
        assert!(!differentiates(&group(vec![forward.clone()])));
        assert!(differentiates(&group(vec![forward, step(Op::UnaryGrad { kind }, &[0, 1])])));
        assert!(differentiates(&Op::SoftmaxGrad) && !differentiates(&Op::StopGradient));
    }
}
