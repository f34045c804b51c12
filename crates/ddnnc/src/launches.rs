//! Launches for people: what they are called, and how many there are of each kind.

use crate::output::grouped;
use ddnnc_ir::{GroupKind, Op, is_convolution};
use ddnnc_passes::Program;
use serde_json::{Value, json};

/// A group's own name, or the operator's mnemonic.
pub fn name(op: &Op) -> &str {
    match op {
        Op::Fused(group) => &group.name,
        op => op.mnemonic(),
    }
}

/// Whether a launch runs convolutions, alone or with what is fused to them.
pub fn convolves(op: &Op) -> bool {
    match op {
        Op::Fused(group) => group.kind == GroupKind::Convolution,
        op => is_convolution(op),
    }
}

/// How many launches of a program are groups of each kind, and how many are operators on their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    all: usize,
    groups: [usize; GroupKind::ALL.len()],
    convolutions: usize,
}

impl Counts {
    /// Counts the launches of a program.
    pub fn new(program: &Program) -> Counts {
        let mut counts = Counts { all: program.launches.len(), ..Counts::default() };
        for launch in &program.launches {
            counts.convolutions += usize::from(convolves(&launch.op));
            if let Op::Fused(group) = &launch.op {
                counts.groups[group.kind as usize] += 1;
            }
        }
        counts
    }

    /// Launches that run convolutions, fused or not.
    pub fn convolutions(&self) -> usize {
        self.convolutions
    }

    /// `{"convolution": …, "pointwise": …, "sequence": …, "update": …, "single": …}`; together all launches.
    pub fn groups(&self) -> Value {
        let mut groups = json!({ "single": self.all - self.groups.iter().sum::<usize>() });
        for kind in GroupKind::ALL {
            groups[kind.as_str()] = json!(self.groups[kind as usize]);
        }
        groups
    }

    /// `242: 158 convolutions, 75 elementwise, 6 sequences, 1 update, 2 others`
    pub fn text(&self) -> String {
        let of = |kind: GroupKind| self.groups[kind as usize];
        let (pointwise, sequences) = (of(GroupKind::Pointwise), of(GroupKind::Sequence));
        let updates = of(GroupKind::Update);
        let others = self.all - self.convolutions - pointwise - sequences - updates;
        let several =
            |n: usize, one: &str| format!("{} {one}{}", grouped(n as u64), if n == 1 { "" } else { "s" });
        let parts = [
            (self.convolutions, several(self.convolutions, "convolution")),
            (pointwise, format!("{} elementwise", grouped(pointwise as u64))),
            (sequences, several(sequences, "sequence")),
            (updates, several(updates, "update")),
            (others, several(others, "other")),
        ];
        let parts: Vec<String> = parts.into_iter().filter(|(n, _)| *n > 0).map(|(_, text)| text).collect();
        format!("{}: {}", grouped(self.all as u64), parts.join(", "))
    }
}
