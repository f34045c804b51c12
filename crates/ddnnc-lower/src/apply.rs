//! Operators and blocks applied to a value: arguments read, shapes checked, a step added to the trace.

use crate::args::{Args, Range};
use crate::eval::{Env, Evaluator, Scope};
use crate::limits;
use crate::operators::{Entry, Operator};
use crate::trace::{Kind, Lstm, Step};
use crate::value::{Tensor, Value};
use ddnnc_diag::{Code, Diagnostic, Span};
use ddnnc_ir::{Conv, Pool, Shape};
use ddnnc_syntax::{BlockDecl, Ident};
use std::rc::Rc;

/// An operator being applied: what messages and the new step need to know of it.
struct Call<'c> {
    entry: &'static Entry,
    args: &'c Args,
    span: Span,
    x: Tensor,
}

impl Call<'_> {
    fn name(&self) -> &'static str {
        self.entry.fixed.name
    }
}

impl<'a> Evaluator<'a> {
    /// A block applied to a value: an instance with operator names of its own.
    pub(crate) fn block(
        &mut self,
        block: &'a BlockDecl,
        args: Args,
        span: Span,
        env: &mut Env<'a>,
        x: Tensor,
        own: Option<&'a Ident>,
    ) -> Value {
        let path = env.scope.block(&block.name.name, own, span, &mut self.diags);
        self.instance(block, args, span, path, x)
    }

    /// A block's body under the path given.
    pub(crate) fn instance(
        &mut self,
        block: &'a BlockDecl,
        args: Args,
        span: Span,
        path: String,
        x: Tensor,
    ) -> Value {
        // Blocks that use themselves are reported where they are declared.
        if self.active.contains(&block.name.name.as_str()) || self.exhausted {
            return Value::Poison;
        }
        if self.active.len() >= limits::BLOCK_DEPTH {
            let message = format!("blocks use one another more than {} deep", limits::BLOCK_DEPTH);
            return self.fail(Diagnostic::error(Code::Recursion, message).at(span, ""));
        }
        if !self.count_block(span) {
            return Value::Poison;
        }
        let mut inner = Env { vars: Vec::new(), scope: Scope::new(path), input: Some(x) };
        for (param, (_, given)) in block.params.iter().zip(args.given) {
            let value = match (given, &param.default) {
                (Some(given), _) => given.value,
                (None, Some(default)) => self.value(default, &mut inner),
                (None, None) => Value::Poison,
            };
            inner.vars.push((&param.name.name, value));
        }
        self.active.push(&block.name.name);
        let value = self.body_of(block, &mut inner, x);
        self.active.pop();
        value
    }

    fn body_of(&mut self, block: &'a BlockDecl, env: &mut Env<'a>, x: Tensor) -> Value {
        match self.body(&block.body, env, Some(x)) {
            value @ (Value::Tensor(_) | Value::Poison) => value,
            other => self.fail(
                Diagnostic::error(
                    Code::WrongKind,
                    format!(
                        "the block `{}` gives {}, not a value of the network",
                        block.name.name,
                        other.kind()
                    ),
                )
                .at(block.body.result.span, ""),
            ),
        }
    }

    /// Counts a block of a stage or a block's instance.
    pub(crate) fn count_block(&mut self, span: Span) -> bool {
        self.blocks += 1;
        if self.blocks > limits::BLOCKS {
            self.exhaust(format!("more than {} blocks", limits::BLOCKS), span);
        }
        !self.exhausted
    }

    /// The shape of a value, without the batch.
    pub(crate) fn shape(&self, t: Tensor) -> &Shape {
        &self.trace.steps[t.step].shape
    }

    /// An operator applied to a value.
    pub(crate) fn operator(
        &mut self,
        entry: &'static Entry,
        args: &Args,
        span: Span,
        env: &mut Env<'a>,
        x: Tensor,
        own: Option<&'a Ident>,
    ) -> Value {
        if entry.operator == Operator::Identity {
            return Value::Tensor(x);
        }
        let path = env.scope.operator(entry.counted, own, span, &mut self.diags);
        let call = Call { entry, args, span, x };
        let Some((kind, shape, others)) = self.infer(&call) else { return Value::Poison };
        let mut operands = vec![x.step];
        operands.extend(others);
        self.push(Step { kind, operands, shape, path: Rc::from(path), span, head: self.head })
    }

    /// Adds a step, within the limits.
    pub(crate) fn push(&mut self, step: Step) -> Value {
        let span = step.span;
        if step.shape.checked_elements().is_none() {
            return self.exhaust(format!("a value of shape {} is too large", step.shape), span);
        }
        self.operators += 1;
        if self.operators > limits::OPERATORS {
            return self.exhaust(format!("more than {} operators", limits::OPERATORS), span);
        }
        self.trace.steps.push(step);
        let at = self.trace.steps.len() - 1;
        if self.trace.weight_shape(at).is_some_and(|w| w.checked_elements().is_none()) {
            return self.exhaust("a weight is too large".into(), span);
        }
        Value::Tensor(Tensor { step: at, span })
    }

    /// The step's kind, the shape of its result, and its operands after the first.
    fn infer(&mut self, call: &Call<'_>) -> Option<(Kind, Shape, Vec<usize>)> {
        let x = self.shape(call.x).clone();
        let alone = |kind: Kind, shape: Shape| Some((kind, shape, Vec::new()));
        match call.entry.operator {
            Operator::Conv => {
                let [c, h, w] = self.map(call)?;
                let out = call.args.size("out", 1, 1, limits::EXTENT, &mut self.diags)?;
                let groups = call.args.size("groups", 1, 1, limits::EXTENT, &mut self.diags)?;
                self.conv(call, [c, h, w], out, groups)
            }
            Operator::Depthwise => {
                let [c, h, w] = self.map(call)?;
                self.conv(call, [c, h, w], c, c)
            }
            Operator::Linear => {
                let out = call.args.size("out", 1, 1, limits::EXTENT, &mut self.diags)?;
                let bias = call.args.flag("bias", true, &mut self.diags)?;
                if x.rank() != 1 {
                    let hint = "put `global_avg_pool` or `flatten` before it";
                    return self.bad_shape(call, "a vector [C]", Some(hint));
                }
                alone(Kind::Linear { bias }, Shape::from([out]))
            }
            Operator::Lstm => {
                let [_, _, w] = self.map(call)?;
                if w == 1 {
                    let hint = "one column is no sequence: `flatten |> linear(…)` reads it";
                    return self.bad_shape(call, "a map of two columns or more", Some(hint));
                }
                let hidden = call.args.size("hidden", 1, 1, limits::EXTENT / 4, &mut self.diags)?;
                let sequence = call.args.flag("sequence", false, &mut self.diags)?;
                let bidirectional = call.args.flag("bidirectional", false, &mut self.diags)?;
                // Its columns are written out one by one.
                self.operators += 16 * w * (1 + usize::from(bidirectional));
                let out = hidden * (1 + usize::from(bidirectional));
                let shape = if sequence { Shape::from([out, 1, w]) } else { Shape::from([out]) };
                alone(Kind::Lstm(Lstm { hidden, sequence, bidirectional }), shape)
            }
            Operator::Norm => {
                let eps = call.args.number("eps", 1e-5, Range::Positive, &mut self.diags)?;
                let momentum = call.args.number("momentum", 0.1, Range::Closed(0.0, 1.0), &mut self.diags)?;
                alone(Kind::Norm { eps, momentum }, x)
            }
            Operator::Unary(kind) => alone(Kind::Unary(kind), x),
            Operator::MaxPool | Operator::AvgPool => self.pool(call),
            Operator::GlobalAvgPool => {
                let [c, ..] = self.map(call)?;
                alone(Kind::GlobalAvgPool, Shape::from([c]))
            }
            Operator::Flatten => alone(Kind::Reshape, Shape::from([x.elements()])),
            Operator::Reshape => self.reshape(call, &x),
            Operator::Dropout => {
                let p = call.args.number("p", 0.5, Range::BelowOne, &mut self.diags)?;
                alone(Kind::Dropout { p }, x)
            }
            Operator::Softmax | Operator::LogSoftmax => {
                if x.rank() != 1 {
                    return self.bad_shape(call, "a vector [C]", None);
                }
                let kind =
                    if call.entry.operator == Operator::Softmax { Kind::Softmax } else { Kind::LogSoftmax };
                alone(kind, x)
            }
            Operator::L2Normalize => {
                let eps = call.args.number("eps", 1e-12, Range::Positive, &mut self.diags)?;
                alone(Kind::L2Normalize { eps }, x)
            }
            Operator::Add | Operator::Mul => self.elementwise(call, &x),
            Operator::Concat => self.concat(call, &x),
            Operator::Identity => None,
        }
    }

    fn bad_shape<T>(&mut self, call: &Call<'_>, wanted: &str, hint: Option<&str>) -> Option<T> {
        let shape = self.shape(call.x).clone();
        let mut d =
            Diagnostic::error(Code::BadShape, format!("`{}` takes {wanted}, not {shape}", call.name()))
                .at(call.span, "");
        d = self.made(d, call.x, call.span);
        if let Some(hint) = hint {
            d = d.hint(hint);
        }
        self.fail(d);
        None
    }

    /// Shows where a value is made, where that is another place.
    fn made(&self, d: Diagnostic, t: Tensor, at: Span) -> Diagnostic {
        if t.span == at { d } else { d.with(t.span, format!("{} is made here", self.shape(t))) }
    }

    fn map(&mut self, call: &Call<'_>) -> Option<[usize; 3]> {
        match *self.shape(call.x).dims() {
            [c, h, w] => Some([c, h, w]),
            _ => self.bad_shape(call, "a map [C,H,W]", None),
        }
    }

    fn conv(
        &mut self,
        call: &Call<'_>,
        [c, h, w]: [usize; 3],
        out: usize,
        groups: usize,
    ) -> Option<(Kind, Shape, Vec<usize>)> {
        let (args, diags) = (call.args, &mut self.diags);
        let kernel = args.pair("kernel", [1, 1], 1, limits::BATCH, diags)?;
        let stride = args.pair("stride", [1, 1], 1, limits::BATCH, diags)?;
        let dilation = args.pair("dilation", [1, 1], 1, limits::BATCH, diags)?;
        let same = [0, 1].map(|i| dilation[i] * (kernel[i] - 1) / 2);
        let pad = args.pair("pad", same, 0, limits::EXTENT, diags)?;
        let bias = args.flag("bias", false, diags)?;
        if !c.is_multiple_of(groups) || !out.is_multiple_of(groups) {
            let message = format!("{c} input and {out} output channels do not split into {groups} groups");
            let d = Diagnostic::error(Code::BadShape, message).at(call.span, "");
            let d = self.made(d, call.x, call.span);
            self.fail(d);
            return None;
        }
        let conv = Conv { stride, pad, dilation, groups };
        let Some([rows, columns]) = conv.output([h, w], kernel) else {
            return self.window(call, "kernel", kernel, [h, w]);
        };
        Some((Kind::Conv { conv, kernel, bias }, Shape::from([out, rows, columns]), Vec::new()))
    }

    fn window<T>(&mut self, call: &Call<'_>, what: &str, kernel: [usize; 2], map: [usize; 2]) -> Option<T> {
        let message =
            format!("a {}x{} {what} does not fit a map of {}x{}", kernel[0], kernel[1], map[0], map[1]);
        let d = Diagnostic::error(Code::BadShape, message).at(call.span, "");
        let d = self.made(d, call.x, call.span);
        self.fail(d);
        None
    }

    fn pool(&mut self, call: &Call<'_>) -> Option<(Kind, Shape, Vec<usize>)> {
        let [c, h, w] = self.map(call)?;
        let (args, diags) = (call.args, &mut self.diags);
        let kernel = args.pair("kernel", [1, 1], 1, limits::BATCH, diags)?;
        let stride = args.pair("stride", kernel, 1, limits::BATCH, diags)?;
        let pad = args.pair("pad", [0, 0], 0, limits::BATCH, diags)?;
        if pad[0] >= kernel[0] || pad[1] >= kernel[1] {
            let message = format!("`{}` pads by as much as its window, or more", call.name());
            self.fail(
                Diagnostic::error(Code::OutOfRange, message).at(
                    call.args.get("pad").map_or(call.span, |g| g.span),
                    "it must be less than the kernel",
                ),
            );
            return None;
        }
        let pool = Pool { kernel, stride, pad };
        let Some([rows, columns]) = pool.output([h, w]) else {
            return self.window(call, "window", kernel, [h, w]);
        };
        let kind =
            if call.entry.operator == Operator::MaxPool { Kind::MaxPool(pool) } else { Kind::AvgPool(pool) };
        Some((kind, Shape::from([c, rows, columns]), Vec::new()))
    }

    fn reshape(&mut self, call: &Call<'_>, x: &Shape) -> Option<(Kind, Shape, Vec<usize>)> {
        let given = call.args.get("shape")?;
        let Value::List(items) = &given.value else {
            return given.wrong_kind("a list of extents", &mut self.diags);
        };
        let mut dims = Vec::with_capacity(items.len());
        for item in items.iter() {
            dims.push(given.entry(item).size(1, limits::EXTENT, &mut self.diags)?);
        }
        let shape = Shape::from(dims.as_slice());
        if shape.rank() == 0 || shape.rank() > 3 || shape.checked_elements() != Some(x.elements()) {
            let message = match shape.rank() {
                1..=3 => format!("`reshape` from {x} to {shape}: not as many elements"),
                _ => "`reshape` takes one to three extents".to_string(),
            };
            let d = Diagnostic::error(Code::BadShape, message).at(call.span, "");
            let d = self.made(d, call.x, call.span);
            self.fail(d);
            return None;
        }
        Some((Kind::Reshape, shape, Vec::new()))
    }

    /// The other operand of an operator on two values.
    fn operand(&mut self, given: &crate::args::Given) -> Option<Tensor> {
        match given.value {
            Value::Tensor(t) => Some(t),
            _ => given.wrong_kind("a value of the network", &mut self.diags),
        }
    }

    fn mismatch<T>(&mut self, call: &Call<'_>, other: Tensor, hint: Option<&str>) -> Option<T> {
        let (a, b) = (self.shape(call.x).clone(), self.shape(other).clone());
        let mut d = Diagnostic::error(
            Code::ShapeMismatch,
            format!("`{}`: shapes {a} and {b} do not agree", call.name()),
        )
        .at(call.span, "");
        d = self.made(d, call.x, call.span);
        if other.span != call.x.span {
            d = self.made(d, other, call.span);
        }
        if let Some(hint) = hint {
            d = d.hint(hint);
        }
        self.fail(d);
        None
    }

    fn elementwise(&mut self, call: &Call<'_>, x: &Shape) -> Option<(Kind, Shape, Vec<usize>)> {
        let other = self.operand(call.args.get("other")?)?;
        let y = self.shape(other).clone();
        let shape = if *x == y || stretches(y.dims(), x.dims()) {
            x.clone()
        } else if stretches(x.dims(), y.dims()) {
            y
        } else {
            let hint = (x.rank() == 3 && y.rank() == 3)
                .then_some("a 1x1 convolution, with the stride, makes channels and resolution agree");
            return self.mismatch(call, other, hint);
        };
        let kind = if call.entry.operator == Operator::Add { Kind::Add } else { Kind::Mul };
        Some((kind, shape, vec![other.step]))
    }

    fn concat(&mut self, call: &Call<'_>, x: &Shape) -> Option<(Kind, Shape, Vec<usize>)> {
        let mut dims = x.dims().to_vec();
        let mut steps = Vec::new();
        for given in call.args.get("other").into_iter().chain(&call.args.more) {
            let other = self.operand(given)?;
            let y = self.shape(other).dims().to_vec();
            if y.len() != dims.len() || y[1..] != dims[1..] {
                return self.mismatch(call, other, None);
            }
            dims[0] = dims[0].saturating_add(y[0]);
            steps.push(other.step);
        }
        Some((Kind::Concat, Shape::from(dims.as_slice()), steps))
    }
}

/// Whether a value of shape `small`, one number a channel, stretches over maps of shape `large`.
fn stretches(small: &[usize], large: &[usize]) -> bool {
    match (small, large) {
        ([c] | [c, 1, 1], [d, _, _]) => c == d,
        _ => false,
    }
}
