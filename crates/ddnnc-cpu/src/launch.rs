//! Which kernel runs which operator.

use crate::channels::{self, Maps};
use crate::conv::{self, Extents};
use crate::device::Machine;
use crate::elementwise::{self, Arg};
use crate::gemm::{DEPTH, MAX_WIDTH};
use crate::matmul::{Matrix, matmul};
use crate::memory::Region;
use crate::shape::Runs;
use crate::{loss, pooling, sample, shape, update};
use ddnnc_ir::{Op, ReduceKind};
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
}

impl Need {
    /// Makes room for another launch, which runs at another time.
    pub fn include(&mut self, other: Need) {
        self.scratch = self.scratch.max(other.scratch);
        self.shared = self.shared.max(other.shared);
        self.partials = self.partials.max(other.partials);
    }
}

/// Workspace of one launch of a valid program.
///
/// # Errors
///
/// Where an operator has a form that no kernel takes: axes that alternate too often.
pub fn need(program: &Program, launch: &Launch) -> Result<Need, DeviceError> {
    let dims = |b: BufferId| program.buffer(b).ty.dims();
    let operand = |i: usize| dims(launch.operands[i]);
    let result = || dims(launch.results[0]);
    let mut need = Need::default();
    match &launch.op {
        Op::Conv2d(_) => need.scratch = conv::SCRATCH,
        Op::Conv2dGradInput { .. } => {
            need.scratch = conv::grad_input_scratch(operand(1));
            need.shared = operand(1).iter().product();
        }
        Op::Conv2dGradWeight { conv, .. } => {
            need.scratch = conv::SCRATCH;
            need.shared = Extents { x: operand(0), w: result(), y: operand(1) }.weight_shared(conv);
        }
        Op::MatMul { .. } => need.scratch = DEPTH * MAX_WIDTH,
        Op::CrossEntropy { .. } | Op::KlDivergence { .. } => need.partials = operand(0)[0],
        Op::MeanSquaredError => need.partials = loss::squared_error_shares(operand(0).iter().product()),
        Op::Reduce { axes, .. } => {
            Runs::new(operand(0), axes)?;
        }
        _ => {}
    }
    Ok(need)
}

/// The buffers of a launch.
struct Bound<'a> {
    program: &'a Program,
    launch: &'a Launch,
    arena: &'a Region,
    persistent: &'a Region,
}

impl<'a> Bound<'a> {
    fn dims(&self, i: usize) -> &'a [usize] {
        self.program.buffer(self.launch.operands[i]).ty.dims()
    }

    fn result_dims(&self) -> &'a [usize] {
        self.program.buffer(self.launch.results[0]).ty.dims()
    }

    /// Elements of a sample (or a row) of operand 0.
    fn sample(&self) -> usize {
        self.dims(0)[1..].iter().product()
    }

    fn place(&self, b: BufferId) -> (&'a Region, usize, usize) {
        let buffer = self.program.buffer(b);
        match buffer.place {
            Place::Arena { offset } => (self.arena, offset, buffer.ty.elements()),
            Place::Persistent { offset } => (self.persistent, offset, buffer.ty.elements()),
        }
    }

    /// Whether two buffers share a byte.
    fn overlap(&self, a: BufferId, b: BufferId) -> bool {
        let range = |b: BufferId| {
            let (region, offset, _) = self.place(b);
            (region, offset, offset + self.program.buffer(b).ty.bytes())
        };
        let ((ra, a, a_end), (rb, b, b_end)) = (range(a), range(b));
        std::ptr::eq(ra, rb) && a < b_end && b < a_end
    }

    /// An operand that lies apart from every result.
    fn read<T>(&self, i: usize) -> Result<&'a [T], DeviceError> {
        let b = self.launch.operands[i];
        if self.launch.results.iter().any(|&r| self.overlap(b, r)) {
            return Err(self.fail(format!("operand {i} lies on a result")));
        }
        let (region, offset, len) = self.place(b);
        // SAFETY: the only slices to write are those of the results, which lie elsewhere; T is f32 but for labels and
        // random states, which are i64, as the program's check of types says.
        Ok(unsafe { region.view(offset, len) })
    }

    fn x(&self, i: usize) -> Result<&'a [f32], DeviceError> {
        self.read(i)
    }

    /// The one element of a scalar operand.
    fn scalar(&self, i: usize) -> Result<f32, DeviceError> {
        Ok(self.x(i)?[0])
    }

    /// An operand that may lie exactly on result `r`.
    fn arg(&self, i: usize, r: usize) -> Result<Arg<'a>, DeviceError> {
        let (operand, result) = (self.launch.operands[i], self.launch.results[r]);
        let (a, b) = (self.program.buffer(operand), self.program.buffer(result));
        if a.place == b.place && a.ty == b.ty {
            return Ok(Arg::Result);
        }
        Ok(Arg::Apart(self.x(i)?))
    }

    /// A result; `run` takes each once.
    fn result(&self, r: usize) -> Result<&'a mut [f32], DeviceError> {
        let b = self.launch.results[r];
        if self.launch.results[..r].iter().any(|&other| self.overlap(b, other)) {
            return Err(self.fail(format!("result {r} lies on another")));
        }
        let (region, offset, len) = self.place(b);
        // SAFETY: operands that overlap a result are never made slices (`read`, `arg`), results do not overlap, and
        // `run` makes one slice of each.
        Ok(unsafe { region.view_mut(offset, len) })
    }

    fn fail(&self, message: String) -> DeviceError {
        DeviceError::Failed(format!("{} `{}`: {message}", self.launch.op.mnemonic(), self.launch.path))
    }
}

/// Runs one launch of a valid program.
///
/// # Errors
///
/// [`DeviceError::Failed`] for a label out of range.
pub fn run(
    machine: &mut Machine<'_>,
    program: &Program,
    launch: &Launch,
    arena: &Region,
    persistent: &Region,
) -> Result<(), DeviceError> {
    let b = Bound { program, launch, arena, persistent };
    let m = machine;
    if launch.results.iter().all(|&r| program.buffer(r).ty.elements() == 0) {
        return Ok(());
    }
    match &launch.op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } | Op::Output { .. } => {
            return Err(b.fail("is a name for memory and never launched".to_owned()));
        }
        Op::Fused(_) | Op::Cast { .. } | Op::ConvertLayout { .. } => {
            return Err(b.fail("groups do not run yet".to_owned()));
        }
        Op::Constant { value } => elementwise::fill(m, b.result(0)?, *value as f32),
        // A validated program has neither of the last two; as copies they would be right as well.
        Op::Store { .. } | Op::Reshape { .. } | Op::StopGradient => {
            elementwise::copy(m, b.result(0)?, b.x(0)?)
        }
        Op::Unary { kind } => elementwise::unary(m, *kind, b.result(0)?, b.arg(0, 0)?),
        Op::UnaryGrad { kind } => elementwise::unary_grad(m, *kind, b.result(0)?, b.arg(0, 0)?, b.arg(1, 0)?),
        Op::Binary { kind } => elementwise::binary(m, *kind, b.result(0)?, b.arg(0, 0)?, b.arg(1, 0)?),
        Op::Scale { factor } => {
            let factor = *factor as f32;
            elementwise::map(m, b.result(0)?, b.arg(0, 0)?, |x| factor * x);
        }
        Op::BiasAdd => channels::bias_add(m, Maps::new(b.dims(0)), b.result(0)?, b.arg(0, 0)?, b.x(1)?),
        Op::Dropout { p, site } => elementwise::dropout(m, b.result(0)?, b.arg(0, 0)?, b.read(1)?, *p, *site),
        Op::Conv2d(c) => {
            let extents = Extents { x: b.dims(0), w: b.dims(1), y: b.result_dims() };
            conv::forward(m, c, extents, b.x(0)?, b.x(1)?, b.result(0)?);
        }
        Op::Conv2dGradInput { conv: c, .. } => {
            let extents = Extents { x: b.result_dims(), w: b.dims(1), y: b.dims(0) };
            conv::grad_input(m, c, extents, b.x(0)?, b.x(1)?, b.result(0)?);
        }
        Op::Conv2dGradWeight { conv: c, .. } => {
            let extents = Extents { x: b.dims(0), w: b.result_dims(), y: b.dims(1) };
            conv::grad_weight(m, c, extents, b.x(0)?, b.x(1)?, b.result(0)?);
        }
        Op::MatMul { transpose_a, transpose_b } => {
            let left = Matrix { data: b.x(0)?, dims: b.dims(0), transpose: *transpose_a };
            let right = Matrix { data: b.x(1)?, dims: b.dims(1), transpose: *transpose_b };
            matmul(m, left, right, b.result_dims()[1], b.result(0)?);
        }
        Op::ChannelStats => channels::stats(m, Maps::new(b.dims(0)), b.x(0)?, b.result(0)?, b.result(1)?),
        Op::Normalize { eps, .. } => {
            let statistics = [b.x(1)?, b.x(2)?, b.x(3)?, b.x(4)?];
            channels::normalize(m, Maps::new(b.dims(0)), b.result(0)?, b.arg(0, 0)?, statistics, *eps);
        }
        Op::NormalizeGradReduce { eps } => {
            let operands = [b.x(0)?, b.x(1)?, b.x(2)?, b.x(3)?];
            channels::grad_reduce(m, Maps::new(b.dims(0)), operands, *eps, b.result(0)?, b.result(1)?);
        }
        Op::NormalizeGradInput { eps } => {
            let per_channel = [b.x(1)?, b.x(2)?, b.x(3)?, b.x(5)?, b.x(6)?];
            let maps = (b.arg(0, 0)?, b.arg(4, 0)?);
            channels::grad_input(m, Maps::new(b.dims(0)), b.result(0)?, maps, per_channel, *eps);
        }
        Op::NormalizeGradFixed { eps } => {
            let per_channel = [b.x(0)?, b.x(1)?];
            channels::grad_fixed(m, Maps::new(b.dims(2)), b.result(0)?, b.arg(2, 0)?, per_channel, *eps);
        }
        Op::Ema { momentum, scale } => {
            update::ema(m, b.result(0)?, b.arg(0, 0)?, b.x(1)?, *momentum, *scale);
        }
        Op::MaxPool(pool) => {
            pooling::max(m, pool, pooling::Extents::new(b.dims(0), b.result_dims()), b.x(0)?, b.result(0)?);
        }
        Op::MaxPoolGrad(pool) => {
            let extents = pooling::Extents::new(b.dims(0), b.dims(1));
            pooling::max_grad(m, pool, extents, b.x(0)?, b.x(1)?, b.result(0)?);
        }
        Op::AvgPool(pool) => {
            pooling::avg(m, pool, pooling::Extents::new(b.dims(0), b.result_dims()), b.x(0)?, b.result(0)?);
        }
        Op::AvgPoolGrad { pool, .. } => {
            let extents = pooling::Extents::new(b.result_dims(), b.dims(0));
            pooling::avg_grad(m, pool, extents, b.x(0)?, b.result(0)?);
        }
        Op::Concat { axis } => {
            let out = b.result(0)?;
            let mut start = 0;
            for i in 0..launch.operands.len() {
                shape::concat_one(out, b.result_dims(), b.x(i)?, b.dims(i), *axis, start);
                start += b.dims(i)[*axis];
            }
        }
        Op::Slice { axis, start, len } => {
            shape::slice(m, b.result(0)?, b.x(0)?, b.dims(0), *axis, *start, *len)
        }
        Op::Pad { axis, start, total } => {
            shape::pad(m, b.result(0)?, b.x(0)?, b.dims(0), *axis, *start, *total)
        }
        Op::Reduce { kind, axes } => {
            let count: usize = axes.iter().map(|&a| b.dims(0)[a]).product();
            let factor = match kind {
                ReduceKind::Sum => 1.0,
                ReduceKind::Mean => 1.0 / count as f64,
            };
            shape::reduce(m, &Runs::new(b.dims(0), axes)?, b.result(0)?, b.x(0)?, factor);
        }
        Op::Broadcast { axes, .. } => shape::broadcast(m, b.result_dims(), axes, b.result(0)?, b.x(0)?),
        Op::Standardize { eps } => sample::standardize(m, b.sample(), b.result(0)?, b.x(0)?, *eps),
        Op::StandardizeGrad { eps } => {
            sample::standardize_grad(m, b.sample(), b.result(0)?, b.x(0)?, b.x(1)?, *eps);
        }
        Op::L2Normalize { eps } => sample::l2_normalize(m, b.sample(), b.result(0)?, b.x(0)?, *eps),
        Op::L2NormalizeGrad { eps } => {
            sample::l2_normalize_grad(m, b.sample(), b.result(0)?, b.x(0)?, b.x(1)?, *eps);
        }
        Op::Softmax => sample::softmax(m, b.sample(), b.result(0)?, b.x(0)?),
        Op::SoftmaxGrad => sample::softmax_grad(m, b.sample(), b.result(0)?, b.x(0)?, b.x(1)?),
        Op::LogSoftmax => sample::log_softmax(m, b.sample(), b.result(0)?, b.x(0)?),
        Op::LogSoftmaxGrad => sample::log_softmax_grad(m, b.sample(), b.result(0)?, b.x(0)?, b.x(1)?),
        Op::CrossEntropy { smoothing } => {
            let labels = b.read(1)?;
            loss::check_labels(labels, b.sample())?;
            b.result(0)?[0] = loss::cross_entropy(m, b.sample(), b.x(0)?, labels, *smoothing);
        }
        Op::CrossEntropyGrad { smoothing } => {
            let labels = b.read(1)?;
            loss::check_labels(labels, b.sample())?;
            let operands = (b.x(0)?, labels, b.scalar(2)?);
            loss::cross_entropy_grad(m, b.sample(), b.result(0)?, operands, *smoothing);
        }
        Op::KlDivergence { temperature } => {
            b.result(0)?[0] = loss::kl(m, b.sample(), b.x(0)?, b.x(1)?, *temperature);
        }
        Op::KlGradTeacher { temperature } => {
            let operands = (b.x(0)?, b.x(1)?, b.scalar(2)?);
            loss::kl_grad_teacher(m, b.sample(), b.result(0)?, operands, *temperature);
        }
        Op::KlGradStudent { temperature } => {
            let operands = (b.x(0)?, b.x(1)?, b.scalar(2)?);
            loss::kl_grad_student(m, b.sample(), b.result(0)?, operands, *temperature);
        }
        Op::MeanSquaredError => b.result(0)?[0] = loss::mean_squared_error(m, b.x(0)?, b.x(1)?),
        Op::MeanSquaredErrorGrad => {
            loss::mean_squared_error_grad(m, b.result(0)?, b.x(0)?, b.x(1)?, b.scalar(2)?);
        }
        Op::SgdUpdate { momentum, nesterov, weight_decay } => {
            let sgd = update::Sgd { momentum: *momentum, nesterov: *nesterov, weight_decay: *weight_decay };
            if *momentum == 0.0 {
                update::sgd_plain(m, sgd, b.result(0)?, b.arg(0, 0)?, b.x(1)?, b.scalar(2)?);
            } else {
                let operands = (b.arg(0, 0)?, b.x(1)?, b.arg(2, 1)?);
                update::sgd(m, sgd, (b.result(0)?, b.result(1)?), operands, b.scalar(3)?);
            }
        }
        Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => {
            let adamw =
                update::Adamw { beta1: *beta1, beta2: *beta2, eps: *eps, weight_decay: *weight_decay };
            let operands = (b.arg(0, 0)?, b.x(1)?, b.arg(2, 1)?, b.arg(3, 2)?);
            let results = (b.result(0)?, b.result(1)?, b.result(2)?);
            update::adamw(m, adamw, results, operands, b.scalar(4)?, b.scalar(5)?);
        }
    }
    Ok(())
}
