//! Steps that move and repeat elements. Extents are those of memory, outermost first.

use crate::code::c_type;
use crate::ctext::{axis, extents, joined, locate};
use crate::steps::{Library, Phase, Writer, not_a};
use ddnnc_ir::{Layout, Op};

/// Elements of a tile that is transposed, about.
const TILE: usize = 1024;

/// The largest unit of bytes that divides all these, as a C type with its size. Values begin at multiples of 16 bytes.
fn unit(bytes: &[usize]) -> (&'static str, usize) {
    let fits = |size: usize| bytes.iter().all(|b| b.is_multiple_of(size));
    match () {
        () if fits(16) => ("uint4", 16),
        () if fits(8) => ("uint2", 8),
        () if fits(4) => ("uint", 4),
        () => ("ushort_t", 2),
    }
}

/// result = operand, byte for byte.
pub fn copy(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let ty = &step.results.first().cloned().unwrap_or_else(|| w.ty(step, 0));
    if ty.elements() == 0 {
        return Ok(Vec::new());
    }
    let (from, to) = (w.operand(step, 0), w.result(s, 0));
    let (unit, size) = unit(&[ty.bytes()]);
    let count = ty.bytes() / size;
    w.needs(Library::Moves);
    w.costs(ty.bytes(), ty.bytes(), 0);
    let text = format!("        copy_all<{unit}, {count}>((const {unit}*){from}, ({unit}*){to}, t, n);\n");
    Ok(vec![Phase::new(text, count)])
}

/// Concat, slice and pad.
pub fn spans(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let result = &step.results[0];
    let to = w.result(s, 0);
    w.needs(Library::Moves);
    let (mut text, mut threads, mut start) = (String::new(), 0, 0);
    for i in 0..step.operands.len() {
        let ty = w.ty(step, i);
        // The function, the axis, and of which value the rest is a part, from where on.
        let (name, along, whole, first) = match &step.op {
            Op::Concat { axis: a } => ("insert_runs", *a, result, start),
            Op::Slice { axis: a, start, .. } => ("take_runs", *a, &ty, *start),
            Op::Pad { axis: a, start, .. } => ("pad_runs", *a, result, *start),
            _ => return Err(not_a(step, "concat, slice or pad")),
        };
        let part = if matches!(step.op, Op::Slice { .. }) { result } else { &ty };
        let at = axis(whole, along);
        let (all, some) = (extents(whole), extents(part));
        let inner: usize = all[at + 1..].iter().product::<usize>() * ty.dtype.size();
        let rounds: usize = all[..at].iter().product();
        start += some[at];
        let [whole_run, offset, part_run] = [all[at] * inner, first * inner, some[at] * inner];
        if rounds * whole_run == 0 || (part_run == 0 && name != "pad_runs") {
            continue;
        }
        let (unit, size) = unit(&[whole_run, offset, part_run]);
        let [whole_run, offset, part_run] = [whole_run / size, offset / size, part_run / size];
        let from = w.operand(step, i);
        text += &format!(
            "        {name}<{unit}, {rounds}, {whole_run}, {offset}, {part_run}>((const {unit}*){from}, ({unit}*){to}, \
             t, n);\n"
        );
        threads = threads.max(rounds * if name == "pad_runs" { whole_run } else { part_run });
        let written = if name == "pad_runs" { whole_run } else { part_run };
        w.costs(rounds * part_run * size, rounds * written * size, 0);
    }
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Phase::new(text, threads)])
}

/// A smaller value repeated.
pub fn broadcast(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let (from, result) = (w.ty(step, 0), &step.results[0]);
    let Op::Broadcast { axes, .. } = &step.op else { return Err(not_a(step, "broadcast")) };
    if result.elements() == 0 {
        return Ok(Vec::new());
    }
    // The step in x for each axis of the result, in the order of memory.
    let mut steps = vec![0; result.dims().len()];
    let mut inner = 1;
    for (i, &a) in axes.iter().enumerate().rev() {
        steps[axis(result, a)] = inner;
        inner *= from.dims()[i];
    }
    let all: Vec<(usize, usize)> = extents(result).into_iter().zip(steps).collect();
    let (x, y) = (w.operand(step, 0), w.result(s, 0));
    let place = locate(&joined(&all), "e");
    w.costs(from.bytes(), result.bytes(), 0);
    let count = result.elements();
    let text = format!("        for (uint e = t; e < {count}; e += n) {y}[e] = {x}[{place}];\n");
    Ok(vec![Phase::new(text, count)])
}

/// Another layout: the matrices of channels and positions transposed.
pub fn transpose(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let result = &step.results[0];
    let d = result.dims();
    if result.elements() == 0 {
        return Ok(Vec::new());
    }
    let (channels, positions) = (d[1], d[2] * d[3]);
    let (rows, columns) = match result.layout {
        Layout::ChannelsLast => (channels, positions),
        Layout::RowMajor => (positions, channels),
    };
    let (r, c) = tile(rows, columns);
    let ctype = c_type(result.dtype);
    w.shared_bytes = w.shared_bytes.max(r * (c | 1) * result.dtype.size());
    let (x, y) = (w.operand(step, 0), w.result(s, 0));
    w.needs(Library::Moves);
    w.costs(result.bytes(), result.bytes(), 0);
    let text = format!(
        "        transpose_all<{ctype}, {}, {}, {rows}, {columns}, {r}, {c}>({x}, {y}, t, n, shared);\n",
        w.threads, d[0]
    );
    Ok(vec![Phase::new(text, d[0] * rows.div_ceil(r) * columns.div_ceil(c) * w.threads)])
}

/// Rows and columns of a tile: square, or long where the matrix is narrow.
fn tile(rows: usize, columns: usize) -> (usize, usize) {
    let long = |short: usize, extent: usize| (TILE / short.max(1) / 32 * 32).clamp(32, 256).min(extent);
    if rows < 32 {
        (rows, long(rows, columns))
    } else if columns < 32 {
        (long(columns, rows), columns)
    } else {
        (32, 32)
    }
}
