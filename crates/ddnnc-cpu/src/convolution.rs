//! Convolutions of channels-last rows: the types that all three directions share, and the two that give rows.
//!
//! An activation `[N, C, H, W]` lies as rows: row (n · H + h) · W + w holds the C channels of one position. Weights are
//! row-major `[O, C/groups, kh, kw]`. A kernel reads its operands through [`Rows`], which may compute them on the way,
//! and hands finished rows to an [`Emit`] while they are in cache.

use crate::ahead::Ahead;
use crate::bf16_rows;
use crate::correlation;
use crate::depthwise_rows;
use crate::device::Machine;
use crate::launch::Need;
use crate::method::Method;
use crate::plan::Plan;
use crate::winograd;
use ddnnc_ir::Conv;

/// Rows of one operand as f32: straight from memory, or computed on demand.
pub trait Rows: Sync {
    /// Elements of a row.
    fn channels(&self) -> usize;

    /// All rows as they lie in memory, where nothing has to be computed.
    fn direct(&self) -> Option<&[f32]>;

    /// All rows as they lie in memory as bf16, where nothing has to be computed.
    fn direct_bf16(&self) -> Option<&[u16]>;

    /// Writes rows `first..first + count` to `out`, which holds `count · channels` elements.
    fn load(&self, machine: &Machine<'_>, first: usize, count: usize, worker: usize, out: &mut [f32]);

    /// The same as bf16, where rows are rounded to that as they are computed; whether it did.
    fn load_bf16(
        &self,
        machine: &Machine<'_>,
        first: usize,
        count: usize,
        worker: usize,
        out: &mut [u16],
    ) -> bool;

    /// Lists the memory that these rows are read or computed from.
    fn list(&self, first: usize, count: usize, ahead: &mut Ahead);
}

/// A run of finished result rows.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The task that finished them: dense over the launch, fixed by shapes alone.
    pub task: usize,
    /// The part they belong to.
    pub part: usize,
    /// The first row, counted within the part.
    pub first: usize,
    /// The worker that runs the task.
    pub worker: usize,
}

/// What becomes of result rows while they are in cache; all channels of each row are complete, and it may change them.
pub trait Emit: Sync {
    /// Lists the memory that is read and written as `rows` rows of a run are taken.
    fn list(&self, run: Run, rows: usize, ahead: &mut Ahead);

    /// Takes a run; each row of each part comes once.
    fn emit(&self, machine: &Machine<'_>, run: Run, rows: &mut [f32]);
}

/// The most parts of a launch.
pub const PARTS: usize = 16;

/// One sub-net's share of a launch: sub-nets that share the weight are parts of one launch.
pub struct Part<'a> {
    /// Images in the batch.
    pub images: usize,
    /// Rows of the operand beside the weight.
    pub x: &'a dyn Rows,
    /// Result rows; `None` where the rows exist for [`Emit`] alone, in scratch.
    pub out: Option<&'a mut [f32]>,
}

/// Geometry of y = conv(x, w); pairs are (rows, columns).
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Stride, padding, dilation, groups.
    pub conv: Conv,
    /// (H, W) of x.
    pub input: [usize; 2],
    /// (H', W') of y.
    pub output: [usize; 2],
    /// (kh, kw).
    pub kernel: [usize; 2],
    /// Channels of x.
    pub inputs: usize,
    /// Channels of y.
    pub outputs: usize,
}

impl Geometry {
    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether every channel is a group of its own.
    pub fn is_depthwise(&self) -> bool {
        let groups = self.conv.groups;
        groups > 1 && groups == self.inputs && groups == self.outputs
    }
}

/// Weight elements, row-major `[O, C/groups, kh, kw]`.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// As f32.
    F32(&'a [f32]),
    /// As the upper halves of f32.
    Bf16(&'a [u16]),
}

/// Forward convolutions (the parts' `x` are rows of x, `out` rows of y) or, where `backward`, input gradients (rows of dy
/// and of dx).
///
/// Needs the workspace that [`need`] says; the method fits the geometry.
pub fn run(
    machine: &mut Machine<'_>,
    method: Method,
    g: &Geometry,
    backward: bool,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    match method {
        Method::Depthwise => depthwise_rows::run(machine, g, backward, w, parts, emit),
        Method::Winograd => winograd::run(machine, g, backward, w, parts, emit),
        Method::Bf16 => bf16_rows::run(machine, g, backward, w, parts, emit),
        Method::Direct => correlation::run(machine, g, backward, w, parts, emit),
    }
}

/// Workspace of [`run`] for parts of so many images.
pub fn need(method: Method, g: &Geometry, backward: bool, images: &[usize]) -> Need {
    match method {
        Method::Depthwise => depthwise_rows::need(g, backward, images),
        Method::Winograd => winograd::need(g, backward, images),
        Method::Bf16 => bf16_rows::need(g, backward, images),
        Method::Direct => correlation::need(g, backward, images),
    }
}

/// Tasks of [`run`], each of which emits its rows as one run.
pub fn tasks(method: Method, g: &Geometry, backward: bool, images: &[usize]) -> usize {
    match method {
        Method::Winograd => images.iter().map(|&n| winograd::plan(g, backward, n).tasks()).sum(),
        Method::Depthwise | Method::Direct | Method::Bf16 => {
            images.iter().map(|&n| Plan::new(g, backward, n).tasks()).sum()
        }
    }
}
