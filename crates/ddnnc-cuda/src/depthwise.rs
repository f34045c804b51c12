//! Convolutions whose channels do not mix: one kernel per channel, so that there is nothing for matrix units to do and
//! memory decides. A thread owns a few neighbouring channels and walks over positions.

use crate::arch::Target;
use crate::chain::{Access, Chain, chain};
use crate::code::{Arguments, Cost, LaunchCode, c_type, operand_of};
use crate::parts::Class;
use crate::parts::classes;
use crate::{depthwise_map, depthwise_weight};
use ddnnc_ir::{Conv, Group, Layout, Local, Op, ValueType, is_convolution};
use std::fmt::Write as _;

/// Threads of a block.
pub const THREADS: usize = 256;

/// The numbers of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Stride, pad and dilation.
    pub conv: Conv,
    /// Images.
    pub images: usize,
    /// Channels.
    pub channels: usize,
    /// Rows and columns of the input.
    pub x: [usize; 2],
    /// Rows and columns of the output.
    pub y: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
}

impl Geometry {
    /// Of a step that is a convolution.
    pub fn of(group: &Group, step: usize) -> Option<Geometry> {
        let step = group.steps.get(step)?;
        let (a, b) = (group.ty(*step.operands.first()?)?, group.ty(*step.operands.get(1)?)?);
        let result = step.results.first()?;
        let (conv, x, y, w) = match &step.op {
            Op::Conv2d(conv) => (*conv, a, result, b),
            Op::Conv2dGradInput { conv, .. } => (*conv, result, a, b),
            Op::Conv2dGradWeight { conv, .. } => (*conv, a, b, result),
            _ => return None,
        };
        let pair = |ty: &ValueType| Some([*ty.dims().get(2)?, *ty.dims().get(3)?]);
        let channels = x.dims()[1];
        let last = |ty: &ValueType| {
            ty.layout == Layout::ChannelsLast || ty.is_row_major() && pair(ty) == Some([1, 1])
        };
        let alone = conv.groups == channels && w.dims()[0] == channels && channels > 1;
        let small = x.elements().max(y.elements()) < 1 << 31;
        (alone && small && last(x) && last(y)).then_some(Geometry {
            conv,
            images: x.dims()[0],
            channels,
            x: pair(x)?,
            y: pair(y)?,
            kernel: pair(w)?,
        })
    }

    /// Taps of a kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// Whether every convolution of the group is one of these.
pub fn suits(group: &Group) -> bool {
    let mut any = false;
    for (s, _) in group.convolutions() {
        any = true;
        if Geometry::of(group, s).is_none() {
            return false;
        }
    }
    any
}

/// The kernels of a group in which each convolution, or sum of weight gradients, is a part of its own.
///
/// # Errors
///
/// What no kernel can do.
pub fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let mut code = LaunchCode::default();
    for class in classes(group) {
        component(group, &class, target, &mut code)?;
    }
    if code.kernels.is_empty() { Err("no parts".to_owned()) } else { Ok(code) }
}

/// One kernel for a class of parts.
fn component(group: &Group, class: &Class, target: &Target, code: &mut LaunchCode) -> Result<(), String> {
    let convolutions: Vec<usize> =
        class.steps.iter().copied().filter(|&s| is_convolution(&group.steps[s].op)).collect();
    let before = prologue(group, &convolutions);
    // A prologue's values exist only while they are read.
    let inner =
        |local: &Local| matches!(local, Local::Step { step, .. } if before.contains(&(*step as usize)));
    let shown = group.results.iter().any(inner)
        || class.steps.iter().any(|s| {
            !before.contains(s) && !convolutions.contains(s) && group.steps[*s].operands.iter().any(inner)
        });
    if shown {
        return Err("a value of a prologue is needed elsewhere".to_owned());
    }
    let after: Vec<usize> =
        class.steps.iter().copied().filter(|s| !before.contains(s) && !convolutions.contains(s)).collect();
    let mut arguments = Arguments::with_parts("", class.parts.clone());
    let first = *convolutions.first().ok_or("a part without a convolution")?;
    let kernel = match group.steps[first].op {
        Op::Conv2dGradWeight { .. } => {
            depthwise_weight::kernel(group, &convolutions, &after, target, &mut arguments, code)?
        }
        _ if convolutions.len() > 1 => return Err("convolutions that meet".to_owned()),
        _ => depthwise_map::kernel(group, first, &after, target, &mut arguments, code)?,
    };
    code.kernels.push(kernel);
    Ok(())
}

/// The steps from which the convolutions' operands are made.
fn prologue(group: &Group, convolutions: &[usize]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut open: Vec<Local> =
        convolutions.iter().flat_map(|&s| group.steps[s].operands.iter().copied()).collect();
    while let Some(local) = open.pop() {
        if let Local::Step { step, .. } = local
            && !found.contains(&(step as usize))
        {
            found.push(step as usize);
            open.extend(group.steps[step as usize].operands.iter().copied());
        }
    }
    found.sort_unstable();
    found
}

/// Channels that a thread takes at once, at most `most`: the most that divides them.
pub fn vector(channels: usize, most: usize) -> usize {
    [8, 4, 2].into_iter().find(|&v| v <= most && channels.is_multiple_of(v)).unwrap_or(1)
}

/// The threads that share a position: as many as there are vectors of channels, up to a warp, and a power of two.
pub fn lanes(channels: usize, vector: usize) -> usize {
    (channels / vector).next_power_of_two().min(32)
}

/// How an operand of a convolution is read: as it lies in memory, or through a chain.
pub struct Source {
    chain: Chain,
    pointers: Vec<(String, &'static str)>,
    name: String,
    plain: bool,
    /// Floating-point operations per element.
    pub flops: usize,
    /// Bytes per element, and bytes of what is read once.
    pub bytes: (usize, usize),
}

impl Source {
    /// The source of a value; `name` begins its constants' names.
    ///
    /// # Errors
    ///
    /// What is no elementwise chain of operands.
    pub fn new(group: &Group, local: Local, name: &str, arguments: &mut Arguments) -> Result<Source, String> {
        let chain = match operand_of(local) {
            Some(_) => Chain {
                inputs: vec![crate::chain::Input { local, access: Access::Element }],
                code: "const float o0 = i0;".to_owned(),
                ..Chain::default()
            },
            None => chain(group, &[local], &[])?,
        };
        let mut source = Source {
            pointers: Vec::new(),
            name: name.to_owned(),
            plain: operand_of(local).is_some(),
            flops: chain.flops,
            bytes: (0, 0),
            chain,
        };
        for input in &source.chain.inputs {
            let i = operand_of(input.local).ok_or("a prologue of what a step makes")?;
            let ty = group.ty(input.local).ok_or("no such value")?;
            match input.access {
                Access::Element => source.bytes.0 += ty.dtype.size(),
                _ => source.bytes.1 += ty.bytes(),
            }
            source.pointers.push((arguments.operand(i, ty), c_type(ty.dtype)));
        }
        Ok(source)
    }

    /// The pointer, where the value lies in memory.
    pub fn plain(&self) -> Option<String> {
        self.plain.then(|| self.pointers.first().map(|p| p.0.clone())).flatten()
    }

    /// Floats of shared memory that the constants of `tile` channels take.
    pub fn table(&self, tile: usize) -> usize {
        self.chain.channel_values * tile
    }

    /// Statements that fill the table `{name}_table` for the channels from `first` on; a barrier must follow.
    pub fn fill(&self, tile: usize, channels: usize) -> String {
        if self.chain.channel_values == 0 {
            return String::new();
        }
        let mut text = format!(
            "    for (uint j = threadIdx.x; j < {tile}; j += {THREADS}) {{\n        const uint c = first + j;\n        if \
             (c >= {channels}) continue;\n"
        );
        for (i, (input, (pointer, _))) in self.chain.inputs.iter().zip(&self.pointers).enumerate() {
            let place = match input.access {
                Access::Channel => "c",
                Access::Scalar => "0",
                _ => continue,
            };
            let _ = writeln!(text, "        const float i{i} = to_float({pointer}[{place}]);");
        }
        let _ = writeln!(text, "        {}", self.chain.channel_code);
        for k in 0..self.chain.channel_values {
            let _ = writeln!(text, "        {}_table[{k} * {tile} + j] = k{k};", self.name);
        }
        text.push_str("    }\n");
        text
    }

    /// Statements that read `vector` channels from `c0` on, at the row that C expression `row` gives, to `to[v]`.
    pub fn read(&self, row: &str, to: &str, vector: usize, tile: usize, channels: usize) -> String {
        let mut text = format!("{{ const uint row = {row};\n");
        let mut values = String::new();
        for (i, (input, (pointer, ctype))) in self.chain.inputs.iter().zip(&self.pointers).enumerate() {
            match &input.access {
                Access::Element => {
                    let _ = writeln!(
                        text,
                        "const Channels<{ctype}, {vector}> q{i} = *(const Channels<{ctype}, {vector}>*)({pointer} + row \
                         * {channels} + c0);"
                    );
                    let _ = writeln!(values, "const float i{i} = to_float(q{i}.v[v]);");
                }
                Access::Repeated(index) => {
                    let _ = writeln!(values, "const float i{i} = to_float({pointer}[{index}]);");
                }
                Access::Random => {
                    let _ = writeln!(values, "const long long* i{i} = {pointer};");
                }
                Access::Channel | Access::Scalar => {}
            }
        }
        for k in 0..self.chain.channel_values {
            let _ = writeln!(values, "const float k{k} = {}_table[{k} * {tile} + j + v];", self.name);
        }
        let _ = write!(
            text,
            "#pragma unroll\nfor (int v = 0; v < {vector}; v++) {{\n[[maybe_unused]] const uint c = c0 + v;\n{values}{}\n{to}[v] \
             = o0;\n}}\n}}\n",
            self.chain.code
        );
        text
    }
}

/// The cost of reading a source once per element.
pub fn read_cost(source: &Source, elements: usize, times: usize) -> Cost {
    Cost {
        bytes_read: (source.bytes.0 * elements + source.bytes.1) as u64,
        vector_flops: (source.flops * elements * times) as u64,
        ..Cost::default()
    }
}
