//! Elementwise chains as code: the scalar form that prologues and tiles are made of.

use crate::chain_text::{coordinates, place, replace_word, unary};
use crate::ctext::float;
use ddnnc_ir::reference::to_bf16;
use ddnnc_ir::{BinaryKind, DType, Group, Local, Op, Step, UnaryKind, ValueType};
use std::fmt::Write as _;

/// How a value of a chain is found for the element at row `row` and channel `c` of the chain's shape. Rows are all axes
/// but the channels, row-major: N, H, W of an image, N of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Of the chain's own shape and layout: element `row * channels + c` (of a row-major value: its own linear index).
    Element,
    /// A channel vector: element `c`.
    Channel,
    /// One number.
    Scalar,
    /// A smaller value that repeats (`Op::Broadcast`): the C expression of its index in `row` and `c`.
    Repeated(String),
    /// The two i64 numbers of a random state (`Op::Dropout`).
    Random,
}

/// A value that a chain takes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Which.
    pub local: Local,
    /// How it is found.
    pub access: Access,
}

/// An elementwise expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What it takes, in order: input i is the float `i<i>` in the code (Random: the pointer `i<i>`).
    pub inputs: Vec<Input>,
    /// C statements that from channel and scalar inputs make `const float k0, k1, …`: constant along the rows.
    pub channel_code: String,
    /// How many of those.
    pub channel_values: usize,
    /// C statements that from `i…`, `k…`, `row` and `c` make the floats `o0, o1, …`: the wanted values, rounded to
    /// their element types.
    pub code: String,
    /// Floating-point operations per element.
    pub flops: usize,
}

/// The chain that makes `wanted` from operands and from `given` values (in hand already: inputs of access `Element`).
///
/// # Errors
///
/// What is no elementwise chain.
pub fn chain(group: &Group, wanted: &[Local], given: &[Local]) -> Result<Chain, String> {
    let wanted: Vec<(Local, Access)> = wanted.iter().map(|&l| (l, Access::Element)).collect();
    chain_at(group, &wanted, given)
}

/// As [`chain`], each wanted value at an index of its own: `o<n>` is the n-th of them. Given values that are wanted at
/// another index than their element are inputs of that access.
///
/// # Errors
///
/// What is no elementwise chain.
pub(crate) fn chain_at(group: &Group, wanted: &[(Local, Access)], given: &[Local]) -> Result<Chain, String> {
    let mut maker =
        Maker { group, given, chain: Chain::default(), made: Vec::new(), names: 0, kept: Vec::new() };
    for (n, (local, index)) in wanted.iter().enumerate() {
        let value = maker.value(*local, index)?;
        let text = maker.in_code(&value);
        let _ = writeln!(maker.chain.code, "const float o{n} = {text};");
    }
    Ok(maker.chain)
}

/// Where the text of a value can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Everywhere: a number, or one of the scalar inputs.
    Both,
    /// In the code of channels.
    Channel,
    /// In the code of elements.
    Element,
}

#[derive(Clone, Debug)]
struct Value {
    text: String,
    level: Level,
}

struct Maker<'a> {
    group: &'a Group,
    given: &'a [Local],
    chain: Chain,
    made: Vec<(Local, Access, Value)>,
    names: usize,
    /// Names of the channel code that have a `k` of their own.
    kept: Vec<(String, String)>,
}

impl Maker<'_> {
    fn ty(&self, local: Local) -> Result<&ValueType, String> {
        self.group.ty(local).ok_or_else(|| "a value that is not there".to_owned())
    }

    /// A new value of what these are, as an expression of their texts.
    fn apply<const N: usize>(
        &mut self,
        of: [&Value; N],
        flops: usize,
        text: impl Fn([&str; N]) -> String,
    ) -> Value {
        let element = of.iter().any(|v| v.level == Level::Element);
        let texts = of.map(|v| if element { self.in_code(v) } else { v.text.clone() });
        let text = text(std::array::from_fn(|i| texts[i].as_str()));
        self.name(text, flops, element)
    }

    fn name(&mut self, text: String, flops: usize, element: bool) -> Value {
        let n = self.names;
        self.names += 1;
        if element {
            self.chain.flops += flops;
            let _ = writeln!(self.chain.code, "const float v{n} = {text};");
            Value { text: format!("v{n}"), level: Level::Element }
        } else {
            let _ = writeln!(self.chain.channel_code, "const float a{n} = {text};");
            Value { text: format!("a{n}"), level: Level::Channel }
        }
    }

    /// The text of a value in the code of elements.
    fn in_code(&mut self, value: &Value) -> String {
        if value.level != Level::Channel {
            return value.text.clone();
        }
        if let Some((_, k)) = self.kept.iter().find(|(text, _)| *text == value.text) {
            return k.clone();
        }
        let k = format!("k{}", self.chain.channel_values);
        self.chain.channel_values += 1;
        let _ = writeln!(self.chain.channel_code, "const float {k} = {};", value.text);
        self.kept.push((value.text.clone(), k.clone()));
        k
    }

    fn input(&mut self, local: Local, access: Access) -> Result<String, String> {
        let dtype = self.ty(local)?.dtype;
        if (dtype == DType::I64) != (access == Access::Random) {
            return Err("integers in a chain of numbers".to_owned());
        }
        let input = Input { local, access };
        let n = self.chain.inputs.iter().position(|i| *i == input).unwrap_or_else(|| {
            self.chain.inputs.push(input);
            self.chain.inputs.len() - 1
        });
        Ok(format!("i{n}"))
    }

    /// A value at an index.
    fn value(&mut self, local: Local, index: &Access) -> Result<Value, String> {
        if let Some((_, _, value)) = self.made.iter().find(|(l, i, _)| *l == local && i == index) {
            return Ok(value.clone());
        }
        let value = match local {
            Local::Step { step, result } if !self.given.contains(&local) => {
                let group = self.group;
                let step = group.steps.get(step as usize).ok_or("a step that is not there")?;
                if result > 0 {
                    return Err(format!("{} is no elementwise step", step.op.mnemonic()));
                }
                let value = self.step(step, index)?;
                match step.results.first().map(|ty| ty.dtype) {
                    Some(DType::Bf16) if !matches!(step.op, Op::Constant { .. }) && !self.exact(step) => {
                        self.apply([&value], 1, |[x]| format!("to_float(to_bf16({x}))"))
                    }
                    _ => value,
                }
            }
            _ => {
                let text = self.input(local, index.clone())?;
                let level = match index {
                    Access::Scalar => Level::Both,
                    Access::Channel => Level::Channel,
                    _ => Level::Element,
                };
                Value { text, level }
            }
        };
        self.made.push((local, index.clone(), value.clone()));
        Ok(value)
    }

    /// Whether a step gives numbers that its operand has.
    fn exact(&self, step: &Step) -> bool {
        let same = step.operands.first().and_then(|&l| self.group.ty(l)).map(|ty| ty.dtype)
            == step.results.first().map(|ty| ty.dtype);
        let moves = matches!(
            step.op,
            Op::StopGradient
                | Op::Broadcast { .. }
                | Op::Cast { .. }
                | Op::Unary { kind: UnaryKind::Relu | UnaryKind::Relu6 }
        );
        same && moves
    }

    /// The channel vector among a step's operands, where the step's value is wanted at `index`.
    fn vector(&mut self, step: &Step, i: usize, index: &Access) -> Result<Value, String> {
        let index = match index {
            Access::Element => Access::Channel,
            index => {
                let ty = step.results.first().ok_or("a step without a result")?;
                let c = coordinates(ty, index).get(1).cloned().ok_or("a value without channels")?;
                Access::Repeated(c)
            }
        };
        self.value(operand(step, i)?, &index)
    }

    fn step(&mut self, step: &Step, index: &Access) -> Result<Value, String> {
        let ty = step.results.first().ok_or("a step without a result")?;
        let group = self.group;
        let at = |maker: &mut Self, i: usize| maker.value(operand(step, i)?, index);
        Ok(match &step.op {
            Op::Constant { value } => {
                let value = if ty.dtype == DType::Bf16 { to_bf16(*value) } else { *value };
                // In brackets, as a sign may stand before it.
                Value { text: format!("({})", float(value)), level: Level::Both }
            }
            Op::Unary { kind } => {
                let x = at(self, 0)?;
                let (flops, text) = unary(*kind);
                self.apply([&x], flops, |[x]| replace_word(text, 'x', x))
            }
            Op::UnaryGrad { kind } => {
                let (saved, dy) = (at(self, 0)?, at(self, 1)?);
                self.derivative(*kind, &saved, &dy)
            }
            Op::Binary { kind } => {
                let (a, b) = (at(self, 0)?, at(self, 1)?);
                let sign = match kind {
                    BinaryKind::Add => '+',
                    BinaryKind::Sub => '-',
                    BinaryKind::Mul => '*',
                };
                self.apply([&a, &b], 1, |[a, b]| format!("{a} {sign} {b}"))
            }
            Op::Scale { factor } => {
                let x = at(self, 0)?;
                self.apply([&x], 1, |[x]| format!("{} * {x}", float(*factor)))
            }
            Op::Ema { momentum, scale } => {
                let (state, x) = (at(self, 0)?, at(self, 1)?);
                let (keep, take) = (float(1.0 - momentum), float(momentum * scale));
                self.apply([&state, &x], 3, |[s, x]| format!("{keep} * {s} + {take} * {x}"))
            }
            Op::BiasAdd => {
                let (x, b) = (at(self, 0)?, self.vector(step, 1, index)?);
                self.apply([&x, &b], 1, |[x, b]| format!("{x} + {b}"))
            }
            Op::Dropout { p, site } => {
                let x = at(self, 0)?;
                let random = self.input(operand(step, 1)?, Access::Random)?;
                self.dropout(ty, index, &x, &random, *p, *site)
            }
            Op::StopGradient | Op::Cast { .. } => at(self, 0)?,
            Op::Normalize { eps, .. } => {
                let x = at(self, 0)?;
                let [mean, var, gain, bias] = self.vectors(step, [1, 2, 3, 4], index)?;
                let scale = self.scale(&var, &gain, *eps);
                let of = [&x, &mean, &scale, &bias];
                self.apply(of, 3, |[x, mean, scale, bias]| format!("fmaf({x} - {mean}, {scale}, {bias})"))
            }
            Op::NormalizeGradInput { eps } => {
                // dx = scale · (dy − dbias/m − (x − mean) · dgain/(m·s)), scale = gain/s
                let (x, dy) = (at(self, 0)?, at(self, 4)?);
                let [mean, var, gain, dgain, dbias] = self.vectors(step, [1, 2, 3, 5, 6], index)?;
                let channels = ty.dims().get(1).copied().unwrap_or(1).max(1);
                let m = float(1.0 / (ty.elements() / channels).max(1) as f64);
                let scale = self.scale(&var, &gain, *eps);
                let slope = self.apply([&var, &dgain], 4, |[var, dgain]| {
                    format!("{dgain} * {m} / sqrtf({var} + {})", float(*eps))
                });
                let shift = self.apply([&dbias], 1, |[dbias]| format!("{dbias} * {m}"));
                let of = [&x, &mean, &dy, &scale, &slope, &shift];
                self.apply(of, 5, |[x, mean, dy, scale, slope, shift]| {
                    format!("{scale} * fmaf(-({x} - {mean}), {slope}, {dy} - {shift})")
                })
            }
            Op::NormalizeGradFixed { eps } => {
                let dy = at(self, 2)?;
                let [var, gain] = self.vectors(step, [0, 1], index)?;
                let scale = self.scale(&var, &gain, *eps);
                self.apply([&dy, &scale], 1, |[dy, scale]| format!("{dy} * {scale}"))
            }
            Op::Broadcast { axes, .. } => {
                let x = operand(step, 0)?;
                let from = group.ty(x).ok_or("a value that is not there")?;
                let index = if from.elements() == 1 {
                    Access::Scalar
                } else if from.shape == ty.shape && from.layout == ty.layout {
                    index.clone()
                } else if *index == Access::Element && axes.as_slice() == [1] {
                    Access::Channel
                } else {
                    let all = coordinates(ty, index);
                    let mine: Option<Vec<String>> = axes.iter().map(|&a| all.get(a).cloned()).collect();
                    Access::Repeated(place(from, &mine.ok_or("an axis that is not there")?))
                };
                self.value(x, &index)?
            }
            op => return Err(format!("{} is no elementwise step", op.mnemonic())),
        })
    }

    fn vectors<const N: usize>(
        &mut self,
        step: &Step,
        which: [usize; N],
        index: &Access,
    ) -> Result<[Value; N], String> {
        let mut all = Vec::with_capacity(N);
        for i in which {
            all.push(self.vector(step, i, index)?);
        }
        all.try_into().map_err(|_| "a vector is missing".to_owned())
    }

    /// gain / √(var + eps)
    fn scale(&mut self, var: &Value, gain: &Value, eps: f64) -> Value {
        self.apply([var, gain], 4, |[var, gain]| format!("{gain} / sqrtf({var} + {})", float(eps)))
    }

    fn derivative(&mut self, kind: UnaryKind, saved: &Value, dy: &Value) -> Value {
        let (flops, slope) = match kind {
            UnaryKind::Relu => (2, "(s > 0.f ? 1.f : 0.f)"),
            UnaryKind::Relu6 => (3, "(s > 0.f && s < 6.f ? 1.f : 0.f)"),
            UnaryKind::Sigmoid => (3, "(s * (1.f - s))"),
            UnaryKind::Tanh => (3, "fmaf(-s, s, 1.f)"),
            UnaryKind::HardSwish => (4, "(s <= -3.f ? 0.f : s >= 3.f ? 1.f : s / 3.f + 0.5f)"),
            UnaryKind::Silu => {
                let g = self.apply([saved], 12, |[s]| format!("1.f / (1.f + expf(-{s}))"));
                return self.apply([saved, dy, &g], 5, |[s, dy, g]| {
                    format!("{dy} * ({g} * fmaf({s}, 1.f - {g}, 1.f))")
                });
            }
            // Φ(x) + x · φ(x)
            UnaryKind::Gelu => {
                (40, "fmaf(0.5f, erff(s * 0.707106781f), 0.5f + s * (0.398942280f * expf(-0.5f * s * s)))")
            }
            UnaryKind::Square => (2, "(2.f * s)"),
            UnaryKind::Log => (10, "(s > 1.17549435e-38f ? 1.f / s : 0.f)"),
        };
        self.apply([saved, dy], flops, |[s, dy]| format!("{dy} * {}", replace_word(slope, 's', s)))
    }

    /// Kept where the upper 53 bits, as a number in [0, 1), are at least p: both sides times 2⁵³ are compared, which is
    /// exact.
    fn dropout(
        &mut self,
        ty: &ValueType,
        index: &Access,
        x: &Value,
        random: &str,
        p: f64,
        site: u64,
    ) -> Value {
        let d = ty.dims();
        let inner: usize = d.iter().skip(2).product();
        let element = match index {
            Access::Element if d.len() >= 2 && inner == 1 => format!("(ulong)row * {} + c", d[1]),
            Access::Element if d.len() >= 2 => {
                format!("((ulong)(row / {inner}) * {} + c) * {inner} + row % {inner}", d[1])
            }
            index => {
                let at = coordinates(ty, index);
                let fold = |before: String, (at, d): (&String, &usize)| format!("({before} * {d} + {at})");
                at.iter().zip(d).fold("(ulong)0".to_owned(), fold)
            }
        };
        let x = self.in_code(x);
        let threshold = (p * (1u64 << 53) as f64).ceil() as u64;
        let keep = float(1.0 / (1.0 - p));
        let text =
            format!("dropout_bits({random}, {site}ull, {element}) >= {threshold}ull ? {x} * {keep} : 0.f");
        self.name(text, 12, true)
    }
}

fn operand(step: &Step, i: usize) -> Result<Local, String> {
    step.operands.get(i).copied().ok_or_else(|| format!("{} lacks an operand", step.op.mnemonic()))
}
