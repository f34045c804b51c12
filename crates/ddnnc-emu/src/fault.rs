//! What a kernel must not do, and the report of it.

use crate::source::SourcePlace;

/// Something a kernel must not do, with all that is known of where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// Line of its PTX; 0 where the kernel did not begin ([`FaultKind::Launch`]), which has no place.
    pub line: u32,
    /// Block.
    pub block: [u32; 3],
    /// Thread in the block.
    pub thread: [u32; 3],
    /// The rest.
    pub message: String,
    /// Where in the source the instructions come from whose lines the report names, as far as the PTX says it.
    pub places: Vec<SourcePlace>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fault { kind, kernel, line, block, thread, message, places } = self;
        if *kind == FaultKind::Launch {
            return write!(f, "{kind} of kernel `{kernel}`: {message}");
        }
        let ([a, b, c], [x, y, z]) = (block, thread);
        write!(
            f,
            "{kind} in kernel `{kernel}`, PTX line {line}, block ({a}, {b}, {c}), thread ({x}, {y}, {z}): {message}"
        )?;
        places.iter().try_for_each(|place| write!(f, "\n{place}"))
    }
}

impl std::error::Error for Fault {}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An address outside every allocation, or across the end of one.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// Memory that nothing has written.
    Uninitialised,
    /// Two threads, one place in shared memory, no barrier between.
    Race,
    /// A place that an asynchronous copy (`cp.async`) may still write, because its thread has not waited for it.
    AsyncCopy,
    /// A place that was written by threads as usual and is read by `wgmma`, with no `fence.proxy.async` between.
    ProxyFence,
    /// Registers of a `wgmma` that was not waited for, or no `wgmma.fence` between them and one.
    AsyncProduct,
    /// A matrix descriptor that is none.
    Descriptor,
    /// A barrier that some threads never reach.
    Deadlock,
    /// Lanes that should take part in an instruction of the whole warp and do not.
    Divergence,
    /// `trap`, or fuel spent.
    Trap,
    /// More threads, shared memory or parameters than the device or kernel has.
    Launch,
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FaultKind::OutOfBounds => "access out of bounds",
            FaultKind::Misaligned => "misaligned access",
            FaultKind::Uninitialised => "uninitialised read",
            FaultKind::Race => "race on shared memory",
            FaultKind::AsyncCopy => "asynchronous copy still under way",
            FaultKind::ProxyFence => "missing proxy fence",
            FaultKind::AsyncProduct => "asynchronous product still under way",
            FaultKind::Descriptor => "wrong matrix descriptor",
            FaultKind::Deadlock => "deadlock",
            FaultKind::Divergence => "divergent warp instruction",
            FaultKind::Trap => "trap",
            FaultKind::Launch => "launch refused",
        })
    }
}

/// A fault while it is still inside its warp, which knows line, block and thread.
#[derive(Debug)]
pub(crate) struct Problem {
    pub kind: FaultKind,
    /// The lane that it is reported for.
    pub lane: u32,
    pub message: String,
    /// The other instructions that the message names.
    pub others: Vec<u32>,
}

/// A fault of a lane. Boxed, so that results of checks stay one word.
pub(crate) fn problem<T>(kind: FaultKind, lane: u32, message: String) -> Result<T, Box<Problem>> {
    Err(Box::new(Problem { kind, lane, message, others: Vec::new() }))
}

/// A fault of a lane whose message names another instruction.
pub(crate) fn problem_with<T>(
    kind: FaultKind,
    lane: u32,
    message: String,
    other: u32,
) -> Result<T, Box<Problem>> {
    Err(Box::new(Problem { kind, lane, message, others: vec![other] }))
}
