//! A program as text: its launches in order, with the places of their buffers.

use crate::{BufferId, Place, Program};
use std::fmt;

impl fmt::Display for Program {
    /// One line per input, persistent buffer, launch and output; a place is `a+OFFSET` in the arena and `p+OFFSET` in
    /// the persistent region, in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {:?} {{", self.name)?;
        writeln!(f, "  arena {} bytes, persistent {} bytes", self.arena_bytes, self.persistent_bytes)?;
        for (name, &b) in &self.inputs {
            writeln!(f, "  input {name:?} = {}", Shown(self, b))?;
        }
        for (name, entry) in &self.persistent {
            let kind = match entry.kind {
                crate::PersistentKind::Parameter => "parameter",
                crate::PersistentKind::Statistic => "statistic",
                crate::PersistentKind::Optimizer => "optimizer",
            };
            writeln!(f, "  {kind} {name:?} = {}", Shown(self, entry.buffer))?;
        }
        for (i, launch) in self.launches.iter().enumerate() {
            write!(f, "  {i}: ")?;
            for (k, &b) in launch.results.iter().enumerate() {
                write!(f, "{}{}", if k > 0 { ", " } else { "" }, Shown(self, b))?;
            }
            write!(f, " = {}(", launch.op.mnemonic())?;
            for (k, &b) in launch.operands.iter().enumerate() {
                write!(f, "{}b{}", if k > 0 { ", " } else { "" }, b.0)?;
            }
            f.write_str(")")?;
            if !launch.path.is_empty() {
                write!(f, " @ {:?}", launch.path)?;
            }
            writeln!(f)?;
        }
        for (name, &b) in &self.outputs {
            writeln!(f, "  output {name:?} = {}", Shown(self, b))?;
        }
        writeln!(f, "}}")
    }
}

/// `b3: f32[16] a+128`
struct Shown<'a>(&'a Program, BufferId);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(program, b) = self;
        let buffer = program.buffer(*b);
        write!(f, "b{}: {} ", b.0, buffer.ty)?;
        match buffer.place {
            Place::Arena { offset } => write!(f, "a+{offset}"),
            Place::Persistent { offset } => write!(f, "p+{offset}"),
        }
    }
}
