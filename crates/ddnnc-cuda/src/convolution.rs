//! Forward convolutions and input gradients as matrix products: rows are pixels, columns channels, the depth taps and
//! channels.

use crate::arch::Target;
use crate::code::{Argument, Arguments, Cost, LaunchCode, c_type};
use crate::operand::{Operand, Source};
use crate::pack::pack;
use crate::parts;
use crate::product::{Class, Cut, Finish, Products, Rows};
use crate::tile::{self, TileSpec};
use crate::tiles::Unit;
use ddnnc_ir::{Conv, Group, Layout, Local, Op, Step, ValueType, is_convolution};
use std::fmt::Write as _;

/// Extents of a convolution beside the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub conv: Conv,
    /// (H, W) of x.
    pub input: [usize; 2],
    /// (H', W') of y.
    pub output: [usize; 2],
    /// (kh, kw)
    pub kernel: [usize; 2],
    /// C
    pub inputs: usize,
    /// O
    pub outputs: usize,
}

pub(crate) fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Geometry {
    /// Of a convolution step.
    pub(crate) fn of(group: &Group, step: &Step) -> Result<Geometry, String> {
        let four = |ty: Option<&ValueType>| -> Result<[usize; 4], String> {
            ty.and_then(|ty| ty.dims().try_into().ok())
                .ok_or_else(|| "a convolution of four dimensions".to_owned())
        };
        let operand = |i: usize| four(step.operands.get(i).and_then(|&l| group.ty(l)));
        let result = four(step.results.first())?;
        let (conv, x, w, y) = match &step.op {
            Op::Conv2d(conv) => (conv, operand(0)?, operand(1)?, result),
            Op::Conv2dGradInput { conv, .. } => (conv, result, operand(1)?, operand(0)?),
            Op::Conv2dGradWeight { conv, .. } => (conv, operand(0)?, result, operand(1)?),
            op => return Err(format!("{} is not a convolution", op.mnemonic())),
        };
        Ok(Geometry {
            conv: *conv,
            input: [x[2], x[3]],
            output: [y[2], y[3]],
            kernel: [w[2], w[3]],
            inputs: x[1],
            outputs: y[1],
        })
    }

    /// Channels of x in a group.
    pub(crate) fn group_inputs(&self) -> usize {
        self.inputs / self.conv.groups.max(1)
    }

    /// Channels of y in a group.
    pub(crate) fn group_outputs(&self) -> usize {
        self.outputs / self.conv.groups.max(1)
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether pixels of x and y are the same and meet no others.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.conv.stride == [1, 1] && self.conv.pad == [0, 0]
    }

    /// The constants that indices go by.
    pub(crate) fn declare(&self, name: &str) -> String {
        let Conv { stride, pad, dilation, .. } = self.conv;
        let common = [gcd(stride[0], dilation[0]), gcd(stride[1], dilation[1])];
        let mut text = format!("struct {name} {{\n    static constexpr int");
        let constants = [
            ("IN_H", self.input[0]),
            ("IN_W", self.input[1]),
            ("OUT_H", self.output[0]),
            ("OUT_W", self.output[1]),
            ("KERNEL_H", self.kernel[0]),
            ("KERNEL_W", self.kernel[1]),
            ("STRIDE_H", stride[0]),
            ("STRIDE_W", stride[1]),
            ("PAD_H", pad[0]),
            ("PAD_W", pad[1]),
            ("DILATION_H", dilation[0]),
            ("DILATION_W", dilation[1]),
            ("INPUTS", self.inputs),
            ("OUTPUTS", self.outputs),
            ("GROUP_INPUTS", self.group_inputs()),
            ("GROUP_OUTPUTS", self.group_outputs()),
            ("TAP_STEP_H", stride[0] / common[0]),
            ("TAP_STEP_W", stride[1] / common[1]),
            ("OUT_STEP_H", dilation[0] / common[0]),
            ("OUT_STEP_W", dilation[1] / common[1]),
        ];
        for (i, (name, value)) in constants.iter().enumerate() {
            let _ = write!(text, "{} {name} = {value}", if i > 0 { "," } else { "" });
        }
        text.push_str(";\n};\n");
        text
    }

    /// Rows of the input gradient, by the remainders of their coordinates.
    fn phases(&self, images: usize) -> Vec<Rows> {
        let Conv { stride, pad, dilation, .. } = self.conv;
        // Of the phase at one axis: pixels, taps, the first tap, and the output that the phase's first pixel sees by it.
        let axis = |a: usize, phase: usize| {
            let pixels = self.input[a].saturating_sub(phase).div_ceil(stride[a]);
            let at = |tap: usize| (phase + pad[a]) as i64 - (tap * dilation[a]) as i64;
            let meets = |tap: &usize| at(*tap).rem_euclid(stride[a] as i64) == 0;
            let mut taps = (0..self.kernel[a]).filter(meets);
            let first = taps.next();
            let count = usize::from(first.is_some()) + taps.count();
            (pixels, count, first.unwrap_or(0), first.map_or(0, |f| at(f).div_euclid(stride[a] as i64)))
        };
        let mut all = Vec::new();
        for h in 0..stride[0] {
            for w in 0..stride[1] {
                let (rows, taps_h, first_h, from_h) = axis(0, h);
                let (columns, taps_w, first_w, from_w) = axis(1, w);
                let pixels = images * rows * columns;
                if pixels == 0 {
                    continue;
                }
                let phase =
                    [rows, columns, h, w, taps_h, taps_w, first_h, first_w].map(|n| n.to_string()).join(", ");
                all.push(Rows {
                    rows: pixels,
                    depth: taps_h * taps_w * self.group_outputs(),
                    phase: format!("{phase}, {from_h}, {from_w}"),
                });
            }
        }
        all
    }
}

/// Whether a value's pixels are rows of channels, and its elements can be counted by an int.
pub(crate) fn check_rows(ty: &ValueType) -> Result<(), String> {
    let d = ty.dims();
    let rows = ty.layout == Layout::ChannelsLast || (d.len() == 4 && (d[1] == 1 || d[2] * d[3] == 1));
    if !rows {
        return Err(format!("a convolution takes channels-last values, not {ty}"));
    }
    if ty.elements() >= 1 << 31 {
        return Err(format!(
            "{ty} has more elements than an index of 32 bits counts: a smaller batch has fewer"
        ));
    }
    Ok(())
}

/// The largest run of elements that a copy takes, where runs of these lengths follow one another.
pub(crate) fn granule(unit: Unit, lengths: &[usize]) -> usize {
    lengths.iter().fold(16 / unit.element(), |g, &n| gcd(g, n))
}

/// The kernels of a group whose parts hold one convolution each, and nothing that must run before or after.
///
/// # Errors
///
/// What no kernel can do.
pub(crate) fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let mut code = LaunchCode::default();
    let Some((_, first)) = group.convolutions().next() else { return Ok(code) };
    let geometry = Geometry::of(group, first)?;
    let backward = matches!(first.op, Op::Conv2dGradInput { .. });
    let weight = first.operands.get(1).copied().ok_or("a weight is missing")?;
    let Local::Operand(weight_number) = weight else {
        return Err("a weight that the group makes itself".to_owned());
    };
    let weight_type = group.ty(weight).ok_or("a weight is missing")?;
    let unit = Unit::of(weight_type.dtype, target);

    // Weights whose channels are not contiguous are put in order first.
    let packed = if geometry.taps() == 1 {
        None
    } else {
        Some(pack(&geometry, weight_type, weight_number as usize, backward, unit, &mut code)?)
    };
    let mut column_multiple = 0;
    let mut classes = Vec::new();
    for (number, parts) in parts::classes(group).into_iter().enumerate() {
        let index = parts
            .steps
            .iter()
            .copied()
            .find(|&s| is_convolution(&group.steps[s].op))
            .ok_or("a part without a convolution")?;
        let step = &group.steps[index];
        let prefix = format!("c{number}_");
        let mut arguments = Arguments::with_parts(&prefix, parts.parts.clone());
        let x = step.operands[0];
        let x_type = group.ty(x).ok_or("an operand is missing")?;
        check_rows(x_type)?;
        check_rows(&step.results[0])?;
        let images = x_type.dims()[0];
        let (source, bytes) = Source::of(group, x, geometry.conv.groups, &mut arguments)?;
        let weight_pointer = match packed {
            Some(packed) => {
                let places = vec![Argument::Workspace(packed.offset); arguments.parts()];
                arguments.placed("packed", &format!("const {}*", c_type(weight_type.dtype)), places)
            }
            None => arguments.operand(weight_number as usize, weight_type),
        };
        let weights = Source::Direct { pointer: weight_pointer, dtype: weight_type.dtype };
        let (ci, co, taps) = (geometry.group_inputs(), geometry.group_outputs(), geometry.taps());
        let weight_bytes = packed.map_or(weight_type.bytes(), |p| p.bytes) as u64;
        let map = format!("{prefix}Map");
        let pixels = images * geometry.output[0] * geometry.output[1];
        let (a, b, rows, columns, row) = if backward {
            let rows = geometry.phases(images);
            let one = rows.len() == 1 && geometry.conv.stride == [1, 1];
            let (index, members) = if geometry.is_pointwise() {
                let g = granule(unit, &[geometry.outputs, co]);
                (format!("Matrix<{pixels}, {co}, {}, {g}>", geometry.outputs), format!("group * {co}"))
            } else {
                let g = granule(unit, &[geometry.outputs, co]);
                (format!("Gathered<{map}, {images}, {g}>"), format!("group * {co}, phase"))
            };
            let a = Operand { outer: false, index, members, channel: format!("group * {co}"), source, bytes };
            let pitch = packed.map_or(ci, |p| p.pitch);
            let g = granule(unit, &[pitch, if packed.is_some() { pitch } else { ci }]);
            let b = Operand {
                outer: true,
                index: format!("PhaseTaps<{map}, {pitch}, {g}>"),
                members: format!("group * {}, phase", co * taps * pitch),
                channel: "0".to_owned(),
                source: weights,
                bytes: weight_bytes,
            };
            let total: usize = rows.iter().map(|r| r.rows).sum();
            let row = if one {
                format!("first_row + (r) < {total} ? first_row + (r) : -1")
            } else {
                format!("phase_row<{map}, {images}>(phase, first_row + (r))")
            };
            (a, b, rows, ci, row)
        } else {
            let g = granule(unit, &[geometry.inputs, ci]);
            let index = if geometry.is_pointwise() {
                format!("Matrix<{pixels}, {ci}, {}, {g}>", geometry.inputs)
            } else {
                format!("Patches<{map}, {pixels}, {g}>")
            };
            let channel = format!("group * {ci}");
            let a = Operand { outer: false, index, members: channel.clone(), channel, source, bytes };
            let pitch = packed.map_or(ci, |p| p.pitch);
            let g = granule(unit, &[pitch]);
            let b = Operand {
                outer: false,
                index: format!("Matrix<{co}, {pitch}, {pitch}, {g}>"),
                members: format!("group * {}", co * pitch),
                channel: "0".to_owned(),
                source: weights,
                bytes: weight_bytes,
            };
            let rows = vec![Rows { rows: pixels, depth: taps * ci, phase: String::new() }];
            (a, b, rows, co, format!("first_row + (r) < {pixels} ? first_row + (r) : -1"))
        };
        let steps = behind(group, &parts.steps, index);
        let raw = Local::Step { step: index as u32, result: 0 };
        if !steps.is_empty() && geometry.conv.groups > 1 {
            column_multiple = columns;
        }
        let groups = geometry.conv.groups;
        let finish = move |cut: Cut, arguments: &mut Arguments, code: &mut LaunchCode| {
            if steps.is_empty() {
                plain(group, raw, columns, groups, arguments)
            } else {
                followed(group, raw, &steps, columns, groups, cut, arguments, code)
            }
        };
        classes.push(Class {
            declarations: geometry.declare(&map),
            prefix,
            arguments,
            a,
            b,
            rows,
            columns,
            groups,
            row,
            finish: Box::new(finish),
            sums: Vec::new(),
        });
    }
    let name = if backward { "convolution_input" } else { "convolution" };
    Products { name, unit, classes, column_multiple }.emit(target, &mut code)?;
    Ok(code)
}

/// The steps of a part that work on the convolution's result, and what they need beside it.
fn behind(group: &Group, steps: &[usize], convolution: usize) -> Vec<usize> {
    let takes = |s: usize, of: usize| {
        group.steps[s].operands.iter().any(|l| matches!(*l, Local::Step { step, .. } if step as usize == of))
    };
    let mut wanted = vec![false; group.steps.len()];
    for &s in steps {
        let after = s == convolution || steps.iter().any(|&of| of < s && wanted[of] && takes(s, of));
        wanted[s] = after;
    }
    for &s in steps.iter().rev() {
        if wanted[s] && s != convolution {
            for &of in steps.iter().filter(|&&of| of < s) {
                wanted[of] |= takes(s, of);
            }
        }
    }
    steps.iter().copied().filter(|&s| wanted[s] && s != convolution).collect()
}

/// The result as it is.
fn plain(
    group: &Group,
    raw: Local,
    columns: usize,
    groups: usize,
    arguments: &mut Arguments,
) -> Result<Finish, String> {
    let ty = group.ty(raw).ok_or("a result is missing")?;
    let result = group.results.iter().position(|&r| r == raw).ok_or("a convolution that nobody reads")?;
    let name = arguments.result(result, ty);
    let pitch = columns * groups;
    let vector = gcd(gcd(columns, pitch), 16 / ty.dtype.size());
    let parts = arguments.parts() as u64;
    Ok(Finish {
        body: format!(
            "        store_rows<{vector}>(tile, {name} + group * {columns}, {pitch}, {columns}, first_column, \
             [&](int r) {{ return ROW(r); }});"
        ),
        cost: Cost { bytes_written: ty.bytes() as u64 * parts, ..Cost::default() },
        ..Finish::default()
    })
}

/// The steps behind a convolution, on its result in shared memory.
#[expect(clippy::too_many_arguments, reason = "the pieces of one tile program")]
fn followed(
    group: &Group,
    raw: Local,
    steps: &[usize],
    columns: usize,
    groups: usize,
    cut: Cut,
    arguments: &mut Arguments,
    code: &mut LaunchCode,
) -> Result<Finish, String> {
    let ty = group.ty(raw).ok_or("a result is missing")?;
    let d = ty.dims();
    let tile = cut.choice.tile;
    let spec = TileSpec {
        group,
        steps: steps.to_vec(),
        given: vec![(raw, "tile".to_owned())],
        given_stride: tile.pitch(),
        rows: d[0] * d[2] * d[3],
        channels: columns * groups,
        tile_rows: tile.rows,
        tile_channels: tile.columns,
        row_tiles: cut.row_tiles,
        threads: tile.threads,
    };
    let made = tile::tile(&spec, arguments, code)?;
    let per_group = columns.div_ceil(tile.columns);
    Ok(Finish {
        functions: made.functions,
        body: format!(
            "        const int row_tile = m_tile, channel_tile = group * {per_group} + n_tile;\n        (void)row_tile;\n{}",
            made.body
        ),
        scratch: made.scratch_bytes,
        cost: made.cost * arguments.parts(),
    })
}
