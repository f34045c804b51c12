//! Kernels of one operator each, on values where they lie.

use crate::device::Machine;
use crate::gemm::{DEPTH, MAX_WIDTH};
use crate::launch::{Need, Placed};
use crate::matmul::{Matrix, matmul};
use crate::matmul_bf16::Sizes;
use crate::memory::{Memory, Slot};
use crate::method::Settings;
use crate::pooling::Extents;
use crate::relation::{self, Batches};
use crate::shape::{Runs, Span};
use crate::{loss, pooling, sample, shape};
use ddnnc_ir::{DType, Layout, Op, Pool, ReduceKind, ValueType};
use ddnnc_passes::DeviceError;

/// A launch of one operator that has a kernel of its own.
#[derive(Clone, Debug)]
pub struct Plain {
    op: Op,
    operands: Vec<Placed>,
    results: Vec<Placed>,
    moves: Moves,
    /// Whether products of pairs of bf16 are faster than those of f32.
    pairs: bool,
}

/// What is worked out from the types when the program is loaded.
#[derive(Clone, Debug)]
enum Moves {
    None,
    /// Of one operand each, into the result or out of the operand.
    Spans(Vec<Span>),
    Reduce(Box<Runs>, f64),
    Broadcast {
        dims: Vec<usize>,
        steps: Vec<usize>,
    },
    /// Matrices of so many rows and columns.
    Transpose([usize; 2]),
    Copy,
    Pool(Pool, Extents),
}

/// Calls a kernel for the element type of a float value.
macro_rules! by_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::Bf16 => {
                type $T = u16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

impl Plain {
    /// Makes the operator ready.
    ///
    /// # Errors
    ///
    /// A form that no kernel takes, in words.
    pub fn new(
        op: &Op,
        operands: &[Placed],
        results: &[Placed],
        settings: &Settings,
    ) -> Result<Plain, String> {
        if operands.iter().any(|o| results.iter().any(|r| r.slot.overlaps(&o.slot))) {
            return Err("a result lies on an operand".to_owned());
        }
        let ty = |i: usize| &operands[i].ty;
        let result = || &results[0].ty;
        let pool = |pool: &Pool, x: &Placed, y: &Placed| {
            for value in [x, y] {
                if value.ty.layout != Layout::ChannelsLast && !rows_of_channels(&value.ty) {
                    return Err(format!("pooling takes channels-last values, not {}", value.ty));
                }
            }
            Ok(Moves::Pool(*pool, Extents::new(x.ty.dims(), y.ty.dims())))
        };
        let moves = match op {
            Op::Concat { axis } => {
                let (dims, axis) = (shape::extents(result()), shape::axis(result(), *axis));
                let mut start = 0;
                let mut spans = Vec::with_capacity(operands.len());
                for operand in operands {
                    let len = shape::extents(&operand.ty)[axis];
                    spans.push(Span::new(&dims, axis, start, len));
                    start += len;
                }
                Moves::Spans(spans)
            }
            Op::Slice { axis, start, len } => {
                Moves::Spans(vec![Span::new(&shape::extents(ty(0)), shape::axis(ty(0), *axis), *start, *len)])
            }
            Op::Pad { axis, start, .. } => {
                let axis = shape::axis(ty(0), *axis);
                let len = shape::extents(ty(0))[axis];
                Moves::Spans(vec![Span::new(&shape::extents(result()), axis, *start, len)])
            }
            Op::Reduce { kind, axes } => {
                let dims = shape::extents(ty(0));
                let mut marked: Vec<usize> = axes.iter().map(|&a| shape::axis(ty(0), a)).collect();
                marked.sort_unstable();
                let count: usize = marked.iter().map(|&a| dims[a]).product();
                let factor = match kind {
                    ReduceKind::Sum => 1.0,
                    ReduceKind::Mean => 1.0 / count as f64,
                };
                let runs = Runs::new(&dims, &marked).map_err(|e| e.to_string())?;
                Moves::Reduce(Box::new(runs), factor)
            }
            Op::Broadcast { axes, .. } => {
                let dims = shape::extents(result());
                let mut steps = vec![0; dims.len()];
                let mut step = 1;
                for (&a, &extent) in axes.iter().zip(ty(0).dims()).rev() {
                    steps[shape::axis(result(), a)] = step;
                    step *= extent;
                }
                Moves::Broadcast { dims, steps }
            }
            Op::ConvertLayout { .. } => {
                let (from, to) = (ty(0), result());
                let d = from.dims();
                if from.layout == to.layout || (from.is_row_major() && to.is_row_major()) {
                    Moves::Copy
                } else if to.layout == Layout::ChannelsLast {
                    Moves::Transpose([d[1], d[2] * d[3]])
                } else {
                    Moves::Transpose([d[2] * d[3], d[1]])
                }
            }
            Op::Store { .. } | Op::Reshape { .. } => Moves::Copy,
            Op::MaxPool(p) | Op::AvgPool(p) => pool(p, &operands[0], &results[0])?,
            Op::MaxPoolGrad(p) => pool(p, &operands[0], &operands[1])?,
            Op::AvgPoolGrad { pool: p, .. } => pool(p, &results[0], &operands[0])?,
            Op::MatMul { .. }
            | Op::Standardize { .. }
            | Op::StandardizeGrad { .. }
            | Op::L2Normalize { .. }
            | Op::L2NormalizeGrad { .. }
            | Op::Softmax
            | Op::SoftmaxGrad
            | Op::LogSoftmax
            | Op::LogSoftmaxGrad
            | Op::CrossEntropy { .. }
            | Op::CrossEntropyGrad { .. }
            | Op::KlDivergence { .. }
            | Op::KlGradTeacher { .. }
            | Op::KlGradStudent { .. }
            | Op::MeanSquaredError
            | Op::MeanSquaredErrorGrad
            | Op::RelationDistance
            | Op::RelationDistanceGrad
            | Op::RelationAngle
            | Op::RelationAngleGrad => Moves::None,
            op => return Err(format!("{} has no kernel on such values", op.mnemonic())),
        };
        let (operands, results) = (operands.to_vec(), results.to_vec());
        Ok(Plain { op: op.clone(), operands, results, moves, pairs: settings.pairs })
    }

    /// Workspace of the kernel.
    pub fn need(&self) -> Need {
        let mut need = Need::default();
        match (&self.op, &self.moves) {
            (Op::MaxPoolGrad(_) | Op::AvgPoolGrad { .. }, Moves::Pool(pool, extents)) => {
                need.scratch = extents.scratch(pool);
            }
            (Op::MatMul { transpose_a, transpose_b }, _) => {
                need.scratch = DEPTH * MAX_WIDTH;
                if self.dtype(0) == DType::Bf16 {
                    need.shared = self.operands.iter().map(|o| o.slot.elements).sum();
                    need.include(self.sizes(*transpose_a, *transpose_b).need());
                }
            }
            (Op::CrossEntropy { .. } | Op::KlDivergence { .. }, _) => need.partials = self.dims(0)[0],
            (Op::MeanSquaredError, _) => {
                need.partials = loss::squared_error_shares(self.operands[0].slot.elements);
            }
            (Op::RelationDistance | Op::RelationAngle, _) => {
                need.partials = relation::partials(self.dims(0)[0]);
            }
            (Op::RelationDistanceGrad | Op::RelationAngleGrad, _) => {
                need.partials = relation::partials_of_gradient(self.dims(0)[0]);
            }
            _ => {}
        }
        need
    }

    fn dtype(&self, i: usize) -> DType {
        self.operands[i].ty.dtype
    }

    fn dims(&self, i: usize) -> &[usize] {
        self.operands[i].ty.dims()
    }

    /// A matrix product as one of pairs of bf16.
    fn sizes(&self, transpose_a: bool, transpose_b: bool) -> Sizes {
        Sizes::new(self.dims(0), self.dims(1), [transpose_a, transpose_b])
    }

    /// Elements of a sample (or a row) of operand 0.
    fn sample(&self) -> usize {
        self.dims(0)[1..].iter().product()
    }

    /// Runs the launch.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for a label out of range.
    pub fn run(&self, machine: &mut Machine<'_>, memory: Memory<'_>) -> Result<(), DeviceError> {
        let m = machine;
        let b = Bound { plain: self, memory };
        match (&self.op, &self.moves) {
            (Op::Concat { .. }, Moves::Spans(spans)) => by_type!(self.dtype(0), T => {
                let out = b.result::<T>();
                for (i, span) in spans.iter().enumerate() {
                    shape::insert(m, *span, out, b.operand::<T>(i));
                }
            }),
            (Op::Slice { .. }, Moves::Spans(spans)) => by_type!(self.dtype(0), T => {
                shape::slice(m, spans[0], b.result::<T>(), b.operand::<T>(0));
            }),
            (Op::Pad { .. }, Moves::Spans(spans)) => by_type!(self.dtype(0), T => {
                shape::pad(m, spans[0], b.result::<T>(), b.operand::<T>(0));
            }),
            (_, Moves::Reduce(runs, factor)) => by_type!(self.dtype(0), T => {
                shape::reduce(m, runs, b.result::<f32>(), b.operand::<T>(0), *factor);
            }),
            (_, Moves::Broadcast { dims, steps }) => by_type!(self.dtype(0), T => {
                shape::broadcast(m, dims, steps, b.result::<T>(), b.operand::<T>(0));
            }),
            (_, Moves::Transpose([rows, columns])) => by_type!(self.dtype(0), T => {
                shape::transpose(m, *rows, *columns, b.result::<T>(), b.operand::<T>(0));
            }),
            (_, Moves::Copy) => shape::copy(m, b.halves_of_result(), b.halves(0)),
            (Op::MaxPool(_), Moves::Pool(pool, e)) => by_type!(self.dtype(0), T => {
                pooling::max(m, pool, *e, b.operand::<T>(0), b.result::<T>());
            }),
            (Op::MaxPoolGrad(_), Moves::Pool(pool, e)) => by_type!(self.dtype(0), T => {
                pooling::max_grad(m, pool, *e, b.operand::<T>(0), b.operand::<T>(1), b.result::<T>());
            }),
            (Op::AvgPool(_), Moves::Pool(pool, e)) => by_type!(self.dtype(0), T => {
                pooling::avg(m, pool, *e, b.operand::<T>(0), b.result::<T>());
            }),
            (_, Moves::Pool(pool, e)) => by_type!(self.dtype(0), T => {
                pooling::avg_grad(m, pool, *e, b.operand::<T>(0), b.result::<T>());
            }),
            (Op::MatMul { transpose_a, transpose_b }, _) => b.matmul(m, *transpose_a, *transpose_b),
            (op, _) => return b.rest(m, op),
        }
        Ok(())
    }
}

/// Whether a row-major value of four dimensions lies as rows of channels all the same.
fn rows_of_channels(ty: &ValueType) -> bool {
    let d = ty.dims();
    d[1] == 1 || d[2] * d[3] == 1 || ty.elements() == 0
}

/// A launch with its memory.
#[derive(Clone, Copy)]
struct Bound<'a> {
    plain: &'a Plain,
    memory: Memory<'a>,
}

impl<'a> Bound<'a> {
    fn operand<T>(&self, i: usize) -> &'a [T] {
        let slot = self.plain.operands[i].slot;
        assert!(size_of::<T>() == slot.dtype.size(), "the element type is the slot's");
        // SAFETY: `Plain::new` saw that no operand lies on a result, and only results are written.
        unsafe { self.memory.view(slot) }
    }

    fn x(&self, i: usize) -> &'a [f32] {
        self.operand(i)
    }

    /// The one element of a scalar operand.
    fn scalar(&self, i: usize) -> f32 {
        self.x(i)[0]
    }

    /// The first result; `run` takes it once.
    fn result<T>(&self) -> &'a mut [T] {
        let slot = self.plain.results[0].slot;
        assert!(size_of::<T>() == slot.dtype.size(), "the element type is the slot's");
        // SAFETY: operands lie apart (see above), and each kernel here has one result, taken once.
        unsafe { self.memory.view_mut(slot) }
    }

    fn as_halves(slot: Slot) -> Slot {
        Slot { elements: slot.elements * slot.dtype.size() / 2, dtype: DType::Bf16, ..slot }
    }

    /// An operand of any type in pieces of two bytes.
    fn halves(&self, i: usize) -> &'a [u16] {
        // SAFETY: as in `operand`; any two bytes are a u16.
        unsafe { self.memory.view(Bound::as_halves(self.plain.operands[i].slot)) }
    }

    fn halves_of_result(&self) -> &'a mut [u16] {
        // SAFETY: as in `result`; any two bytes are a u16.
        unsafe { self.memory.view_mut(Bound::as_halves(self.plain.results[0].slot)) }
    }

    fn matmul(&self, m: &mut Machine<'_>, transpose_a: bool, transpose_b: bool) {
        let (a, b) = (self.plain.dims(0), self.plain.dims(1));
        let columns = self.plain.results[0].ty.dims()[1];
        let out = self.result();
        let left = |data| Matrix { data, dims: a, transpose: transpose_a };
        let right = |data| Matrix { data, dims: b, transpose: transpose_b };
        if self.plain.dtype(0) != DType::Bf16 {
            return matmul(m, left(self.x(0)), right(self.x(1)), columns, out);
        }
        let (x, y) = (self.operand::<u16>(0), self.operand::<u16>(1));
        let sizes = self.plain.sizes(transpose_a, transpose_b);
        if self.plain.pairs && sizes.pays(m.level) {
            return sizes.run(m, x, y, out);
        }
        let (m, shared) = m.with_shared(x.len() + y.len());
        let (wide_x, wide_y) = shared.split_at_mut(x.len());
        pooling::widen_all(&m, wide_x, x);
        pooling::widen_all(&m, wide_y, y);
        matmul(&m, left(wide_x), right(wide_y), columns, out);
    }

    /// Operators per sample and losses.
    fn rest(&self, m: &mut Machine<'_>, op: &Op) -> Result<(), DeviceError> {
        let (b, sample) = (self, self.plain.sample());
        let batches = || Batches::new(self.plain.dims(0)[0], b.x(0), b.x(1));
        match op {
            Op::Standardize { eps } => sample::standardize(m, sample, b.result(), b.x(0), *eps),
            Op::StandardizeGrad { eps } => {
                sample::standardize_grad(m, sample, b.result(), b.x(0), b.x(1), *eps);
            }
            Op::L2Normalize { eps } => sample::l2_normalize(m, sample, b.result(), b.x(0), *eps),
            Op::L2NormalizeGrad { eps } => {
                sample::l2_normalize_grad(m, sample, b.result(), b.x(0), b.x(1), *eps);
            }
            Op::Softmax => sample::softmax(m, sample, b.result(), b.x(0)),
            Op::SoftmaxGrad => sample::softmax_grad(m, sample, b.result(), b.x(0), b.x(1)),
            Op::LogSoftmax => sample::log_softmax(m, sample, b.result(), b.x(0)),
            Op::LogSoftmaxGrad => sample::log_softmax_grad(m, sample, b.result(), b.x(0), b.x(1)),
            Op::CrossEntropy { smoothing } => {
                let labels = b.operand::<i64>(1);
                loss::check_labels(labels, sample)?;
                b.result()[0] = loss::cross_entropy(m, sample, b.x(0), labels, *smoothing);
            }
            Op::CrossEntropyGrad { smoothing } => {
                let labels = b.operand::<i64>(1);
                loss::check_labels(labels, sample)?;
                let operands = (b.x(0), labels, b.scalar(2));
                loss::cross_entropy_grad(m, sample, b.result(), operands, *smoothing);
            }
            Op::KlDivergence { temperature } => {
                b.result()[0] = loss::kl(m, sample, b.x(0), b.x(1), *temperature);
            }
            Op::KlGradTeacher { temperature } => {
                let operands = (b.x(0), b.x(1), b.scalar(2));
                loss::kl_grad_teacher(m, sample, b.result(), operands, *temperature);
            }
            Op::KlGradStudent { temperature } => {
                let operands = (b.x(0), b.x(1), b.scalar(2));
                loss::kl_grad_student(m, sample, b.result(), operands, *temperature);
            }
            Op::MeanSquaredError => b.result()[0] = loss::mean_squared_error(m, b.x(0), b.x(1)),
            Op::MeanSquaredErrorGrad => {
                loss::mean_squared_error_grad(m, b.result(), b.x(0), b.x(1), b.scalar(2));
            }
            Op::RelationDistance => b.result()[0] = relation::distance(m, batches()),
            Op::RelationDistanceGrad => relation::distance_grad(m, b.result(), batches(), b.scalar(2)),
            Op::RelationAngle => b.result()[0] = relation::angle(m, batches()),
            Op::RelationAngleGrad => relation::angle_grad(m, b.result(), batches(), b.scalar(2)),
            op => return Err(DeviceError::Failed(format!("{} has no kernel", op.mnemonic()))),
        }
        Ok(())
    }
}
