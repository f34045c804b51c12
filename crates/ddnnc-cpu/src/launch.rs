//! Which kernel runs which launch: decided once, when a program is loaded.

use crate::choices::Site;
use crate::convolution_group::Convolution;
use crate::device::Machine;
use crate::kernel::Plain;
use crate::memory::{Base, Memory, Plan, Slot};
use crate::method::{Direction, Method, Settings};
use crate::pointwise::Pointwise;
use crate::sequence::sequence;
use ddnnc_ir::{
    Group, GroupKind, Local, Op, Step, ValueType, is_convolution, is_pointwise, is_reduction, is_update,
};
use ddnnc_passes::{BufferId, DeviceError, Launch, Place, Program};

/// Workspace that launches need, in elements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    /// f32 for each worker.
    pub scratch: usize,
    /// f32 for all tasks of a launch together.
    pub shared: usize,
    /// f64 partial sums.
    pub partials: usize,
    /// f32 for the tile program that a worker runs.
    pub tile: usize,
    /// f64 for the tile program that a worker runs.
    pub sums: usize,
}

impl Need {
    /// Makes room for another launch, which runs at another time.
    pub fn include(&mut self, other: Need) {
        self.scratch = self.scratch.max(other.scratch);
        self.shared = self.shared.max(other.shared);
        self.partials = self.partials.max(other.partials);
        self.tile = self.tile.max(other.tile);
        self.sums = self.sums.max(other.sums);
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// What it is.
    pub ty: ValueType,
    /// Where it lies.
    pub slot: Slot,
}

/// A launch made ready: places resolved, programs compiled.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// Nothing to write.
    Nothing,
    /// Tile programs.
    Pointwise(Box<Pointwise>),
    /// Convolutions with their prologues and epilogues.
    Convolution(Box<Convolution>),
    /// A kernel of one operator.
    Plain(Box<Plain>),
    /// One after the other.
    Sequence(Vec<Kernel>),
}

impl Kernel {
    /// Workspace beside the launch's own memory.
    pub fn need(&self) -> Need {
        match self {
            Kernel::Nothing => Need::default(),
            Kernel::Pointwise(p) => p.need(),
            Kernel::Convolution(c) => c.need(),
            Kernel::Plain(p) => p.need(),
            Kernel::Sequence(all) => all.iter().fold(Need::default(), |mut need, kernel| {
                need.include(kernel.need());
                need
            }),
        }
    }

    /// The convolutions of the launch, and how they are computed.
    pub fn methods(&self) -> Vec<(Direction, Method)> {
        match self {
            Kernel::Convolution(c) => vec![c.method()],
            Kernel::Sequence(all) => all.iter().flat_map(Kernel::methods).collect(),
            Kernel::Nothing | Kernel::Pointwise(_) | Kernel::Plain(_) => Vec::new(),
        }
    }

    /// The convolutions of the launch, as far as the choice of their methods goes.
    pub fn sites(&self) -> Vec<&Site> {
        match self {
            Kernel::Convolution(c) => vec![c.site()],
            Kernel::Sequence(all) => all.iter().flat_map(Kernel::sites).collect(),
            Kernel::Nothing | Kernel::Pointwise(_) | Kernel::Plain(_) => Vec::new(),
        }
    }

    /// Runs the launch.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for a label out of range.
    pub fn run(&self, machine: &mut Machine<'_>, memory: Memory<'_>) -> Result<(), DeviceError> {
        match self {
            Kernel::Nothing => {}
            Kernel::Pointwise(p) => p.run(machine, memory),
            Kernel::Convolution(c) => c.run(machine, memory),
            Kernel::Plain(p) => p.run(machine, memory)?,
            Kernel::Sequence(all) => all.iter().try_for_each(|kernel| kernel.run(machine, memory))?,
        }
        Ok(())
    }
}

/// Makes a launch of a valid program ready; `plan` hands out memory that lives within the launch.
///
/// # Errors
///
/// [`DeviceError::Failed`] where no kernel takes the operator on such values.
pub fn prepare(
    program: &Program,
    launch: &Launch,
    settings: &Settings,
    plan: &mut Plan,
) -> Result<Kernel, DeviceError> {
    let place = |&b: &BufferId| {
        let buffer = program.buffer(b);
        let (base, offset) = match buffer.place {
            Place::Arena { offset } => (Base::Arena, offset),
            Place::Persistent { offset } => (Base::Persistent, offset),
        };
        let slot = Slot { base, offset, elements: buffer.ty.elements(), dtype: buffer.ty.dtype };
        Placed { ty: buffer.ty.clone(), slot }
    };
    let operands: Vec<Placed> = launch.operands.iter().map(place).collect();
    let results: Vec<Placed> = launch.results.iter().map(place).collect();
    for (r, result) in results.iter().enumerate() {
        if results[..r].iter().any(|other| other.slot.overlaps(&result.slot)) {
            return Err(fail(&launch.op, &launch.path, &format!("result {r} lies on another")));
        }
    }
    prepare_op(&launch.op, &launch.path, &operands, &results, settings, plan)
}

fn fail(op: &Op, path: &str, message: &str) -> DeviceError {
    let name = match op {
        Op::Fused(group) => group.name.as_str(),
        op => op.mnemonic(),
    };
    DeviceError::Failed(format!("{name} `{path}`: {message}"))
}

/// Makes one operator ready.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_op(
    op: &Op,
    path: &str,
    operands: &[Placed],
    results: &[Placed],
    settings: &Settings,
    plan: &mut Plan,
) -> Result<Kernel, DeviceError> {
    if results.iter().all(|r| r.ty.elements() == 0) {
        return Ok(Kernel::Nothing);
    }
    if let Op::Fused(group) = op {
        return prepare_group(group, path, operands, results, settings, plan).map_err(|e| match e {
            GroupError::Step(e) => e,
            GroupError::Group(message) => fail(op, path, &message),
        });
    }
    let types: Vec<&ValueType> = operands.iter().map(|o| &o.ty).collect();
    let moves = matches!(op, Op::Store { .. }) && operands[0].ty.dtype != ddnnc_ir::DType::I64;
    let tiles = is_pointwise(op) || is_update(op) || moves || is_reduction(op, &types);
    if tiles || is_convolution(op) {
        let step = Step {
            op: if moves { Op::StopGradient } else { op.clone() },
            operands: (0..operands.len() as u32).map(Local::Operand).collect(),
            results: results.iter().map(|r| r.ty.clone()).collect(),
            path: path.to_owned(),
        };
        let types: Vec<ValueType> = operands.iter().map(|o| o.ty.clone()).collect();
        let slots: Vec<Slot> = operands.iter().map(|o| o.slot).collect();
        let places: Vec<(Local, Slot)> = (0u32..)
            .zip(results)
            .map(|(r, result)| (Local::Step { step: 0, result: r }, result.slot))
            .collect();
        let steps = [step];
        let made = if tiles {
            Pointwise::compile(&steps, &types, &slots, &places, plan).map(|p| Kernel::Pointwise(Box::new(p)))
        } else {
            Convolution::compile(&steps, &types, &slots, &places, settings, plan)
                .map(|c| Kernel::Convolution(Box::new(c)))
        };
        match made {
            Ok(kernel) => return Ok(kernel),
            Err(message) if !matches!(op, Op::Reduce { .. } | Op::Broadcast { .. }) => {
                return Err(fail(op, path, &message));
            }
            Err(_) => {}
        }
    }
    let plain = Plain::new(op, operands, results, settings).map_err(|message| fail(op, path, &message))?;
    Ok(Kernel::Plain(Box::new(plain)))
}

/// Why a group cannot run.
pub enum GroupError {
    /// It is no group that this device runs, in words.
    Group(String),
    /// One of its steps.
    Step(DeviceError),
}

fn prepare_group(
    group: &Group,
    path: &str,
    operands: &[Placed],
    results: &[Placed],
    settings: &Settings,
    plan: &mut Plan,
) -> Result<Kernel, GroupError> {
    let slots: Vec<Slot> = operands.iter().map(|o| o.slot).collect();
    let places: Vec<(Local, Slot)> =
        group.results.iter().copied().zip(results.iter().map(|r| r.slot)).collect();
    match group.kind {
        GroupKind::Pointwise | GroupKind::Update => {
            Pointwise::compile(&group.steps, &group.operands, &slots, &places, plan)
                .map(|p| Kernel::Pointwise(Box::new(p)))
                .map_err(GroupError::Group)
        }
        GroupKind::Convolution => {
            let before = *plan;
            match Convolution::compile(&group.steps, &group.operands, &slots, &places, settings, plan) {
                Ok(made) => Ok(Kernel::Convolution(Box::new(made))),
                Err(_) => {
                    *plan = before;
                    sequence(group, path, operands, results, settings, plan)
                }
            }
        }
        GroupKind::Sequence => sequence(group, path, operands, results, settings, plan),
    }
}
