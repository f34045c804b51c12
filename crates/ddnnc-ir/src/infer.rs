//! Result types from operand types: the one place that knows what each operator takes and gives.

use crate::{BinaryKind, Conv, DType, IrError, Layout, MAX_ELEMENTS, Op, Pool, Shape, ValueType};
use smallvec::{SmallVec, smallvec};

type Types = SmallVec<[ValueType; 1]>;

/// Checks the operands of one operator and says what is wrong with them.
struct Check<'a> {
    op: &'static str,
    operands: &'a [&'a ValueType],
}

impl Check<'_> {
    fn fail<T>(&self, operand: Option<usize>, against: Option<usize>, message: String) -> Result<T, IrError> {
        Err(IrError::Type { op: self.op, message, operand, against })
    }

    fn count(&self, n: usize) -> Result<(), IrError> {
        if self.operands.len() == n {
            return Ok(());
        }
        self.fail(None, None, format!("takes {n} operands, not {}", self.operands.len()))
    }

    fn dims(&self, i: usize) -> &[usize] {
        self.operands[i].dims()
    }

    fn rank(&self, i: usize, rank: usize) -> Result<(), IrError> {
        if self.dims(i).len() == rank {
            return Ok(());
        }
        self.fail(Some(i), None, format!("takes a value of {rank} dimensions, not {}", self.operands[i]))
    }

    fn rank_at_least(&self, i: usize, rank: usize) -> Result<(), IrError> {
        if self.dims(i).len() >= rank {
            return Ok(());
        }
        self.fail(
            Some(i),
            None,
            format!("takes a value of at least {rank} dimensions, not {}", self.operands[i]),
        )
    }

    fn dtype(&self, i: usize, dtype: DType) -> Result<(), IrError> {
        if self.operands[i].dtype == dtype {
            return Ok(());
        }
        self.fail(Some(i), None, format!("takes {} there, not {}", dtype.as_str(), self.operands[i]))
    }

    fn floats(&self) -> Result<(), IrError> {
        (0..self.operands.len()).try_for_each(|i| self.dtype(i, DType::F32))
    }

    /// Operand `i` is of f32 or bf16.
    fn real(&self, i: usize) -> Result<(), IrError> {
        if matches!(self.operands[i].dtype, DType::F32 | DType::Bf16) {
            return Ok(());
        }
        self.fail(Some(i), None, format!("takes f32 or bf16 there, not {}", self.operands[i]))
    }

    /// Operands `from..` are of f32.
    fn floats_from(&self, from: usize) -> Result<(), IrError> {
        (from..self.operands.len()).try_for_each(|i| self.dtype(i, DType::F32))
    }

    /// Operands `a` and `b` are of one element type, f32 or bf16.
    fn same_real(&self, a: usize, b: usize) -> Result<(), IrError> {
        self.real(a)?;
        self.dtype(b, self.operands[a].dtype)
    }

    /// Operand `b` has the layout of operand `a`.
    fn same_layout(&self, a: usize, b: usize) -> Result<(), IrError> {
        if self.operands[a].layout == self.operands[b].layout {
            return Ok(());
        }
        let message = format!("layouts do not agree: {} and {}", self.operands[a], self.operands[b]);
        self.fail(Some(b), Some(a), message)
    }

    /// Operand `i` lies in memory as its shape says.
    fn row_major(&self, i: usize) -> Result<(), IrError> {
        if self.operands[i].is_row_major() {
            return Ok(());
        }
        self.fail(Some(i), None, format!("takes a row-major value, not {}", self.operands[i]))
    }

    fn same(&self, a: usize, b: usize) -> Result<(), IrError> {
        if self.operands[a] == self.operands[b] {
            return Ok(());
        }
        self.fail(
            Some(b),
            Some(a),
            if self.operands[a].shape == self.operands[b].shape {
                format!("types do not agree: {} and {}", self.operands[a], self.operands[b])
            } else {
                format!("shapes do not agree: {} and {}", self.operands[a].shape, self.operands[b].shape)
            },
        )
    }

    fn shape(&self, i: usize, dims: &[usize], against: Option<usize>) -> Result<(), IrError> {
        if self.dims(i) == dims {
            return Ok(());
        }
        self.fail(
            Some(i),
            against,
            format!("needs shape {} there, not {}", Shape::from(dims), self.operands[i].shape),
        )
    }

    fn scalar(&self, i: usize) -> Result<(), IrError> {
        self.shape(i, &[], None)
    }

    fn channels(&self, i: usize, x: usize) -> Result<(), IrError> {
        self.shape(i, &[self.dims(x)[1]], Some(x))
    }
}

/// The extent after a window of `taps` (already dilated) slides over `size` padded entries.
///
/// Padded extents and strides above [`MAX_ELEMENTS`] are refused: below, no kernel's index overflows.
fn slide(size: usize, pad: usize, taps: usize, stride: usize) -> Option<usize> {
    let padded = size.checked_add(pad.checked_mul(2)?)?;
    if stride == 0 || taps == 0 || padded < taps || padded.max(stride) > MAX_ELEMENTS {
        return None;
    }
    Some((padded - taps) / stride + 1)
}

fn dilated(kernel: usize, dilation: usize) -> Option<usize> {
    if dilation == 0 || kernel == 0 {
        return None;
    }
    (kernel - 1).checked_mul(dilation)?.checked_add(1)
}

impl Conv {
    /// (H', W') of an input of (H, W) under a kernel of (kh, kw); `None` where the kernel does not fit.
    pub fn output(&self, input: [usize; 2], kernel: [usize; 2]) -> Option<[usize; 2]> {
        let side =
            |i: usize| slide(input[i], self.pad[i], dilated(kernel[i], self.dilation[i])?, self.stride[i]);
        Some([side(0)?, side(1)?])
    }
}

impl Pool {
    /// (H', W') of an input of (H, W); `None` where the window does not fit.
    pub fn output(&self, input: [usize; 2]) -> Option<[usize; 2]> {
        // A window that lies in the border altogether has no maximum.
        let bare = |i: usize| self.pad[i] >= self.kernel[i] || input[i] == 0;
        if bare(0) || bare(1) {
            return None;
        }
        let side = |i: usize| slide(input[i], self.pad[i], self.kernel[i], self.stride[i]);
        Some([side(0)?, side(1)?])
    }
}

fn conv_output(c: &Check<'_>, conv: &Conv, x: &[usize], w: &[usize]) -> Result<[usize; 4], IrError> {
    let g = conv.groups;
    if g == 0 || !x[1].is_multiple_of(g) || !w[0].is_multiple_of(g) {
        return c.fail(
            Some(0),
            Some(1),
            format!("{} input and {} output channels do not split into {g} groups", x[1], w[0]),
        );
    }
    if w[1] != x[1] / g {
        return c.fail(
            Some(1),
            Some(0),
            format!("weight {} does not fit {} input channels in {g} groups", Shape::from(w), x[1]),
        );
    }
    let Some([h, ww]) = conv.output([x[2], x[3]], [w[2], w[3]]) else {
        return c.fail(
            Some(0),
            Some(1),
            format!(
                "a {}x{} kernel (stride {:?}, padding {:?}, dilation {:?}) does not fit a {}x{} map",
                w[2], w[3], conv.stride, conv.pad, conv.dilation, x[2], x[3]
            ),
        );
    };
    Ok([x[0], w[0], h, ww])
}

fn pool_output(c: &Check<'_>, pool: &Pool, x: &[usize]) -> Result<[usize; 4], IrError> {
    match pool.output([x[2], x[3]]) {
        Some([h, w]) => Ok([x[0], x[1], h, w]),
        None => c.fail(
            Some(0),
            None,
            format!(
                "a {}x{} window (stride {:?}, padding {:?}) does not fit a {}x{} map",
                pool.kernel[0], pool.kernel[1], pool.stride, pool.pad, x[2], x[3]
            ),
        ),
    }
}

/// The types of an operator's results on operands of these types.
///
/// Sources are not inferred ([`crate::Graph::add_source`] states their type): they are an error here.
pub fn result_types(op: &Op, operands: &[&ValueType]) -> Result<Types, IrError> {
    let c = Check { op: op.mnemonic(), operands };
    let types = infer(op, &c)?;
    for ty in &types {
        if ty.shape.checked_elements().is_none() {
            return Err(IrError::TooLarge { op: op.mnemonic(), ty: ty.clone() });
        }
    }
    Ok(types)
}

fn infer(op: &Op, c: &Check<'_>) -> Result<Types, IrError> {
    let operands = c.operands;
    let like = |i: usize| -> Types { smallvec![operands[i].clone()] };
    let f32 = |dims: &[usize]| -> Types { smallvec![ValueType::f32(dims)] };
    // Another shape of the element type and layout of operand i.
    let of = |i: usize, dims: &[usize]| -> Types {
        smallvec![ValueType { dtype: operands[i].dtype, shape: dims.into(), layout: operands[i].layout }]
    };
    let channel = |x: usize| ValueType::f32([c.dims(x)[1]]);
    Ok(match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } | Op::Constant { .. } => {
            return c.fail(None, None, "is a source: its type is stated, not inferred".into());
        }
        Op::Store { .. } | Op::Output { .. } => {
            c.count(1)?;
            smallvec![]
        }
        Op::Unary { .. } | Op::Scale { .. } | Op::StopGradient => {
            c.count(1)?;
            c.real(0)?;
            like(0)
        }
        Op::UnaryGrad { .. } => {
            c.count(2)?;
            c.real(0)?;
            c.same(0, 1)?;
            like(0)
        }
        Op::Binary { kind: BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul } => {
            c.count(2)?;
            c.real(0)?;
            c.same(0, 1)?;
            like(0)
        }
        Op::BiasAdd => {
            c.count(2)?;
            c.real(0)?;
            c.floats_from(1)?;
            c.rank_at_least(0, 2)?;
            c.channels(1, 0)?;
            like(0)
        }
        Op::Dropout { p, .. } => {
            c.count(2)?;
            c.real(0)?;
            c.dtype(1, DType::I64)?;
            c.shape(1, &[2], None)?;
            if !(0.0..1.0).contains(p) {
                return c.fail(None, None, format!("the probability {p} is not in [0, 1)"));
            }
            like(0)
        }
        Op::Conv2d(conv) => {
            c.count(2)?;
            c.same_real(0, 1)?;
            c.row_major(1)?;
            c.rank(0, 4)?;
            c.rank(1, 4)?;
            of(0, &conv_output(c, conv, c.dims(0), c.dims(1))?)
        }
        Op::Conv2dGradInput { conv, input } => {
            c.count(2)?;
            c.same_real(0, 1)?;
            c.row_major(1)?;
            c.rank(0, 4)?;
            c.rank(1, 4)?;
            let w = c.dims(1);
            let x = [c.dims(0)[0], w[1].saturating_mul(conv.groups), input[0], input[1]];
            let dy = conv_output(c, conv, &x, w)?;
            c.shape(0, &dy, Some(1))?;
            of(0, &x)
        }
        Op::Conv2dGradWeight { conv, kernel } => {
            c.count(2)?;
            c.same_real(0, 1)?;
            c.same_layout(0, 1)?;
            c.rank(0, 4)?;
            c.rank(1, 4)?;
            let x = c.dims(0);
            if conv.groups == 0 || !x[1].is_multiple_of(conv.groups) {
                return c.fail(Some(0), None, format!("{} channels in {} groups", x[1], conv.groups));
            }
            let w = [c.dims(1)[1], x[1] / conv.groups, kernel[0], kernel[1]];
            let dy = conv_output(c, conv, x, &w)?;
            c.shape(1, &dy, Some(0))?;
            f32(&w)
        }
        Op::MatMul { transpose_a, transpose_b } => {
            c.count(2)?;
            c.same_real(0, 1)?;
            c.rank(0, 2)?;
            c.rank(1, 2)?;
            let (a, b) = (c.dims(0), c.dims(1));
            let (m, ka) = if *transpose_a { (a[1], a[0]) } else { (a[0], a[1]) };
            let (kb, n) = if *transpose_b { (b[1], b[0]) } else { (b[0], b[1]) };
            if ka != kb {
                return c.fail(
                    Some(1),
                    Some(0),
                    format!("inner extents do not agree: {} and {}", operands[0].shape, operands[1].shape),
                );
            }
            f32(&[m, n])
        }
        Op::ChannelStats => {
            c.count(1)?;
            c.real(0)?;
            c.rank_at_least(0, 2)?;
            smallvec![channel(0), channel(0)]
        }
        Op::Normalize { .. } => {
            c.count(5)?;
            c.real(0)?;
            c.floats_from(1)?;
            c.rank_at_least(0, 2)?;
            (1..5).try_for_each(|i| c.channels(i, 0))?;
            like(0)
        }
        Op::NormalizeGradReduce { .. } => {
            c.count(4)?;
            c.real(0)?;
            [1, 2].into_iter().try_for_each(|i| c.dtype(i, DType::F32))?;
            c.rank_at_least(0, 2)?;
            c.channels(1, 0)?;
            c.channels(2, 0)?;
            c.same(0, 3)?;
            smallvec![channel(0), channel(0)]
        }
        Op::NormalizeGradInput { .. } => {
            c.count(7)?;
            c.real(0)?;
            [1, 2, 3, 5, 6].into_iter().try_for_each(|i| c.dtype(i, DType::F32))?;
            c.rank_at_least(0, 2)?;
            [1, 2, 3, 5, 6].into_iter().try_for_each(|i| c.channels(i, 0))?;
            c.same(0, 4)?;
            like(0)
        }
        Op::NormalizeGradFixed { .. } => {
            c.count(3)?;
            [0, 1].into_iter().try_for_each(|i| c.dtype(i, DType::F32))?;
            c.real(2)?;
            c.rank_at_least(2, 2)?;
            c.channels(0, 2)?;
            c.channels(1, 2)?;
            like(2)
        }
        Op::Ema { .. } => {
            c.count(2)?;
            c.floats()?;
            c.same(0, 1)?;
            like(0)
        }
        Op::MaxPool(pool) | Op::AvgPool(pool) => {
            c.count(1)?;
            c.real(0)?;
            c.rank(0, 4)?;
            of(0, &pool_output(c, pool, c.dims(0))?)
        }
        Op::MaxPoolGrad(pool) => {
            c.count(2)?;
            c.same_real(0, 1)?;
            c.same_layout(0, 1)?;
            c.rank(0, 4)?;
            let y = pool_output(c, pool, c.dims(0))?;
            c.shape(1, &y, Some(0))?;
            like(0)
        }
        Op::AvgPoolGrad { pool, input } => {
            c.count(1)?;
            c.real(0)?;
            c.rank(0, 4)?;
            let dy = c.dims(0);
            let x = [dy[0], dy[1], input[0], input[1]];
            let y = pool_output(c, pool, &x)?;
            c.shape(0, &y, None)?;
            of(0, &x)
        }
        Op::Reshape { shape } => {
            c.count(1)?;
            if shape.checked_elements() != Some(operands[0].elements()) {
                return c.fail(
                    Some(0),
                    None,
                    format!("{} does not have as many elements as {shape}", operands[0].shape),
                );
            }
            c.row_major(0)?;
            smallvec![ValueType { dtype: operands[0].dtype, shape: shape.clone(), layout: Layout::RowMajor }]
        }
        Op::Concat { axis } => {
            if operands.is_empty() {
                return c.fail(None, None, "takes at least one operand".into());
            }
            c.real(0)?;
            c.rank_at_least(0, axis.saturating_add(1))?;
            let mut dims: SmallVec<[usize; 4]> = SmallVec::from_slice(c.dims(0));
            for i in 1..operands.len() {
                c.same_real(0, i)?;
                c.same_layout(0, i)?;
                let other = c.dims(i);
                let fits = other.len() == dims.len()
                    && other.iter().zip(&dims).enumerate().all(|(k, (a, b))| k == *axis || a == b);
                if !fits {
                    return c.fail(
                        Some(i),
                        Some(0),
                        format!(
                            "shapes do not agree outside axis {axis}: {} and {}",
                            operands[0].shape, operands[i].shape
                        ),
                    );
                }
                dims[*axis] = dims[*axis].saturating_add(other[*axis]);
            }
            of(0, &dims)
        }
        Op::Slice { axis, start, len } => {
            c.count(1)?;
            c.real(0)?;
            c.rank_at_least(0, axis.saturating_add(1))?;
            let mut dims: SmallVec<[usize; 4]> = SmallVec::from_slice(c.dims(0));
            if start.saturating_add(*len) > dims[*axis] || *len == 0 {
                return c.fail(
                    Some(0),
                    None,
                    format!(
                        "entries {start}..{} do not lie in {}",
                        start.saturating_add(*len),
                        operands[0].shape
                    ),
                );
            }
            dims[*axis] = *len;
            of(0, &dims)
        }
        Op::Pad { axis, start, total } => {
            c.count(1)?;
            c.real(0)?;
            c.rank_at_least(0, axis.saturating_add(1))?;
            let mut dims: SmallVec<[usize; 4]> = SmallVec::from_slice(c.dims(0));
            if start.saturating_add(dims[*axis]) > *total {
                return c.fail(
                    Some(0),
                    None,
                    format!("{} at {start} does not fit {total}", operands[0].shape),
                );
            }
            dims[*axis] = *total;
            of(0, &dims)
        }
        Op::Reduce { axes, .. } => {
            c.count(1)?;
            c.real(0)?;
            let dims = c.dims(0);
            if !axes.is_sorted_by(|a, b| a < b) || axes.iter().any(|&a| a >= dims.len()) {
                return c.fail(Some(0), None, format!("axes {axes:?} are not axes of {}", operands[0].shape));
            }
            // What is left must lie in memory in the order of its axes: channels come last.
            let kept_channels = !axes.contains(&1) && (!axes.contains(&2) || !axes.contains(&3));
            if operands[0].layout == Layout::ChannelsLast && kept_channels && !operands[0].is_row_major() {
                let message = format!("cannot keep channels and positions of {}", operands[0]);
                return c.fail(Some(0), None, message);
            }
            let kept: SmallVec<[usize; 4]> =
                dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect();
            f32(&kept)
        }
        Op::Broadcast { shape, axes, layout } => {
            c.count(1)?;
            c.real(0)?;
            c.row_major(0)?;
            let dims = c.dims(0);
            let fits = axes.len() == dims.len()
                && axes.is_sorted_by(|a, b| a < b)
                && axes.iter().zip(dims).all(|(&a, &d)| shape.dims().get(a) == Some(&d));
            if !fits {
                return c.fail(
                    Some(0),
                    None,
                    format!("{} does not lie on axes {axes:?} of {shape}", operands[0].shape),
                );
            }
            placed(c, operands[0].dtype, shape, *layout)?
        }
        Op::Standardize { .. } | Op::L2Normalize { .. } => {
            c.count(1)?;
            c.floats()?;
            c.rank_at_least(0, 2)?;
            per_sample(op, c)?;
            like(0)
        }
        Op::StandardizeGrad { .. } | Op::L2NormalizeGrad { .. } => {
            c.count(2)?;
            c.floats()?;
            c.rank_at_least(0, 2)?;
            c.same(0, 1)?;
            per_sample(op, c)?;
            like(0)
        }
        Op::Softmax | Op::LogSoftmax => {
            c.count(1)?;
            c.floats()?;
            c.rank(0, 2)?;
            like(0)
        }
        Op::SoftmaxGrad | Op::LogSoftmaxGrad => {
            c.count(2)?;
            c.floats()?;
            c.rank(0, 2)?;
            c.same(0, 1)?;
            like(0)
        }
        Op::CrossEntropy { .. } | Op::CrossEntropyGrad { .. } => {
            let grad = matches!(op, Op::CrossEntropyGrad { .. });
            c.count(if grad { 3 } else { 2 })?;
            c.dtype(0, DType::F32)?;
            c.rank(0, 2)?;
            c.dtype(1, DType::I64)?;
            c.shape(1, &[c.dims(0)[0]], Some(0))?;
            if grad {
                c.scalar(2)?;
                like(0)
            } else {
                f32(&[])
            }
        }
        Op::KlDivergence { temperature }
        | Op::KlGradTeacher { temperature }
        | Op::KlGradStudent { temperature } => {
            let grad = !matches!(op, Op::KlDivergence { .. });
            c.count(if grad { 3 } else { 2 })?;
            c.floats()?;
            c.rank(0, 2)?;
            c.same(0, 1)?;
            if *temperature <= 0.0 || !temperature.is_finite() {
                return c.fail(None, None, format!("the temperature {temperature} is not positive"));
            }
            if grad {
                c.scalar(2)?;
                like(0)
            } else {
                f32(&[])
            }
        }
        Op::MeanSquaredError => {
            c.count(2)?;
            c.floats()?;
            c.same(0, 1)?;
            f32(&[])
        }
        Op::MeanSquaredErrorGrad => {
            c.count(3)?;
            c.floats()?;
            c.same(0, 1)?;
            c.scalar(2)?;
            like(0)
        }
        Op::RelationDistance | Op::RelationDistanceGrad | Op::RelationAngle | Op::RelationAngleGrad => {
            let grad = matches!(op, Op::RelationDistanceGrad | Op::RelationAngleGrad);
            c.count(if grad { 3 } else { 2 })?;
            c.floats()?;
            c.rank(0, 2)?;
            c.rank(1, 2)?;
            let (a, b) = (c.dims(0), c.dims(1));
            if a[0] != b[0] {
                return c.fail(Some(1), Some(0), format!("{} samples beside {}", b[0], a[0]));
            }
            if grad {
                c.scalar(2)?;
                like(0)
            } else {
                f32(&[])
            }
        }
        Op::SgdUpdate { momentum, .. } => {
            let buffered = *momentum != 0.0;
            c.count(if buffered { 4 } else { 3 })?;
            c.floats()?;
            c.same(0, 1)?;
            if buffered {
                c.same(0, 2)?;
                c.scalar(3)?;
                smallvec![operands[0].clone(), operands[0].clone()]
            } else {
                c.scalar(2)?;
                like(0)
            }
        }
        Op::AdamwUpdate { .. } => {
            c.count(6)?;
            c.floats()?;
            (1..4).try_for_each(|i| c.same(0, i))?;
            c.scalar(4)?;
            c.scalar(5)?;
            smallvec![operands[0].clone(), operands[0].clone(), operands[0].clone()]
        }
        Op::ConvertLayout { layout } => {
            c.count(1)?;
            c.real(0)?;
            placed(c, operands[0].dtype, &operands[0].shape, *layout)?
        }
        Op::Cast { dtype } => {
            c.count(1)?;
            c.real(0)?;
            if *dtype == DType::I64 {
                return c.fail(None, None, "casts to f32 or bf16 only".into());
            }
            smallvec![operands[0].clone().with_dtype(*dtype)]
        }
        Op::Fused(group) => {
            c.count(group.operands.len())?;
            for (i, ty) in group.operands.iter().enumerate() {
                if operands[i] != ty {
                    return c.fail(Some(i), None, format!("takes {ty} there, not {}", operands[i]));
                }
            }
            if let Err(message) = group.check() {
                return c.fail(None, None, message);
            }
            group.result_types()
        }
    })
}

/// The type of that layout, which takes four dimensions if it is channels-last.
fn placed(c: &Check<'_>, dtype: DType, shape: &Shape, layout: Layout) -> Result<Types, IrError> {
    if layout == Layout::ChannelsLast && shape.rank() != 4 {
        return c.fail(
            None,
            None,
            format!("only a value of four dimensions can be channels-last, not {shape}"),
        );
    }
    Ok(smallvec![ValueType { dtype, shape: shape.clone(), layout }])
}

/// A value standardised per sample needs two entries at least: one entry has no variance.
fn per_sample(op: &Op, c: &Check<'_>) -> Result<(), IrError> {
    let entries: usize = c.dims(0)[1..].iter().product();
    let least = if matches!(op, Op::Standardize { .. } | Op::StandardizeGrad { .. }) { 2 } else { 1 };
    if entries >= least {
        return Ok(());
    }
    c.fail(Some(0), None, format!("takes at least {least} entries per sample, not {}", c.operands[0].shape))
}

/// Multiply-accumulates of one operator on operands of these types (convolutions and matrix products; else 0).
pub fn macs(op: &Op, operands: &[&ValueType], results: &[ValueType]) -> u64 {
    let n = |i: usize| operands[i].elements() as u64;
    let taps = |w: &[usize]| w[1..].iter().product::<usize>() as u64;
    match op {
        Op::Conv2d(_) => (results[0].elements() as u64).saturating_mul(taps(operands[1].dims())),
        Op::Conv2dGradInput { .. } => n(0).saturating_mul(taps(operands[1].dims())),
        Op::Conv2dGradWeight { .. } => n(1).saturating_mul(taps(results[0].dims())),
        Op::MatMul { transpose_a, .. } => {
            let k = operands[0].dims()[if *transpose_a { 0 } else { 1 }];
            (results[0].elements() as u64).saturating_mul(k as u64)
        }
        Op::Fused(group) => {
            let macs_of = |step: &crate::Step| {
                let types: Vec<&ValueType> = step.operands.iter().filter_map(|&l| group.ty(l)).collect();
                macs(&step.op, &types, &step.results)
            };
            group.steps.iter().map(macs_of).fold(0, u64::saturating_add)
        }
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Constant { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::BiasAdd
        | Op::Dropout { .. }
        | Op::StopGradient
        | Op::ChannelStats
        | Op::Normalize { .. }
        | Op::NormalizeGradReduce { .. }
        | Op::NormalizeGradInput { .. }
        | Op::NormalizeGradFixed { .. }
        | Op::Ema { .. }
        | Op::MaxPool(_)
        | Op::MaxPoolGrad(_)
        | Op::AvgPool(_)
        | Op::AvgPoolGrad { .. }
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Reduce { .. }
        | Op::Broadcast { .. }
        | Op::ConvertLayout { .. }
        | Op::Cast { .. }
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
        | Op::RelationAngleGrad
        | Op::SgdUpdate { .. }
        | Op::AdamwUpdate { .. } => 0,
    }
}
