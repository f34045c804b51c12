//! Steps that add up: reductions over any axes, channel statistics and small matrix products.

use crate::code::c_type;
use crate::ctext::{axis, extents, float, joined, locate};
use crate::steps::{Library, Phase, Writer, not_a};
use ddnnc_ir::{Layout, Op, ReduceKind, ValueType};

/// The most slices of a sum: what a warp adds in 32 rounds.
const MOST_SLICES: usize = 1024;

/// Σ or mean over axes.
pub fn reduce(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let (ty, results) = (w.ty(step, 0), step.results[0].elements());
    let Op::Reduce { kind, axes } = &step.op else { return Err(not_a(step, "reduction")) };
    if results == 0 {
        return Ok(Vec::new());
    }
    // Axes of memory, those that vanish and those that stay.
    let vanishing: Vec<usize> = axes.iter().map(|&a| axis(&ty, a)).collect();
    let (mut gone, mut kept, mut step_in_x, mut inside) = (Vec::new(), Vec::new(), 1, None);
    for (a, &extent) in extents(&ty).iter().enumerate().rev() {
        let vanishes = vanishing.contains(&a);
        if extent != 1 {
            inside.get_or_insert(vanishes);
        }
        (if vanishes { &mut gone } else { &mut kept }).push((extent, step_in_x));
        step_in_x *= extent;
    }
    gone.reverse();
    kept.reverse();
    let count: usize = gone.iter().map(|a| a.0).product();
    let factor = float(if *kind == ReduceKind::Mean { 1.0 / count as f64 } else { 1.0 });
    // A warp along what is contiguous, or threads side by side.
    let inside = inside.unwrap_or(true) && count > 1;
    let per = match inside {
        true => count.div_ceil(MOST_SLICES).max(4096),
        false if results >= 1 << 14 => count,
        false => count.div_ceil(MOST_SLICES).max(64),
    };
    let slices = count.div_ceil(per.max(1)).max(1);
    let (x, result) = (w.operand(step, 0), w.result(s, 0));
    let (to, outer) = match slices {
        1 => (result.clone(), factor.clone()),
        _ => (w.partials(results * slices), "1.f".to_owned()),
    };
    w.needs(Library::Sums);
    w.costs(ty.bytes(), 4 * results, 7 * ty.elements());
    let (base, offset) = (locate(&joined(&kept), "o"), locate(&joined(&gone), "j"));
    let ctype = c_type(ty.dtype);
    let items = results * slices;
    let text = if inside {
        format!(
            "        for (uint item = t / 32; item < {items}; item += n / 32) {{
            const uint o = item / {slices}, slice = item % {slices}, first = slice * {per};
            const {ctype}* from = {x} + {base};
            Sum s = no_sum();
            for (uint j = first + (t & 31); j < min(first + {per}, {count}u); j += 32) add(s, to_float(from[{offset}]));
            const float sum = warp_total(s);
            if ((t & 31) == 0) {to}[o * {slices} + slice] = sum * {outer};
        }}\n"
        )
    } else {
        format!(
            "        for (uint item = t; item < {items}; item += n) {{
            const uint o = item % {results}, slice = item / {results}, first = slice * {per};
            const {ctype}* from = {x} + {base};
            Sum s = no_sum();
            for (uint j = first; j < min(first + {per}, {count}u); j++) add(s, to_float(from[{offset}]));
            {to}[o * {slices} + slice] = total(s) * {outer};
        }}\n"
        )
    };
    let mut phases = vec![Phase::new(text, if inside { 32 * items } else { items })];
    if slices > 1 {
        w.costs(4 * items, 4 * items, 7 * items);
        let text = format!("        sum_slices({to}, {result}, {results}, {slices}, {factor}, t, n);\n");
        phases.push(Phase::new(text, 32 * results));
    }
    Ok(phases)
}

/// Channels, elements of a channel, and the place of element `j` of channel `c`.
fn channel(ty: &ValueType) -> (usize, usize, String) {
    let d = ty.dims();
    let channels = d[1];
    let inner: usize = d[2..].iter().product();
    let place = match ty.layout {
        Layout::ChannelsLast => format!("j * {channels} + c"),
        Layout::RowMajor if inner == 1 => format!("j * {channels} + c"),
        Layout::RowMajor => format!("(j / {inner} * {channels} + c) * {inner} + j % {inner}"),
    };
    (channels, d[0] * inner, place)
}

/// Statistics of channels, and the gradients of gain and bias: a warp for each channel.
pub fn channels(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let ty = w.ty(step, 0);
    let (channels, count, place) = channel(&ty);
    if channels == 0 {
        return Ok(Vec::new());
    }
    w.needs(Library::Sums);
    let (first, second) = (w.result(s, 0), w.result(s, 1));
    let x = w.operand(step, 0);
    let each = |body: &str| format!("for (uint j = t & 31; j < {count}; j += 32) {body}");
    let text = if let Op::NormalizeGradReduce { eps } = step.op {
        let (mean, var, dy) = (w.operand(step, 1), w.operand(step, 2), w.operand(step, 3));
        w.costs(2 * ty.bytes() + 8 * channels, 8 * channels, 16 * ty.elements());
        let terms = each(&format!(
            "{{ const float d = to_float({dy}[{place}]); add(bias, d); add(gain, (to_float({x}[{place}]) - mean) * d); }}"
        ));
        format!(
            "        for (uint c = t / 32; c < {channels}; c += n / 32) {{
            const float mean = {mean}[c], inverse = 1.f / sqrtf({var}[c] + {eps});
            Sum gain = no_sum(), bias = no_sum();
            {terms}
            const float dgain = warp_total(gain) * inverse, dbias = warp_total(bias);
            if ((t & 31) == 0) {{ {first}[c] = dgain; {second}[c] = dbias; }}
        }}\n",
            eps = float(eps)
        )
    } else {
        w.costs(ty.bytes(), 8 * channels, 16 * ty.elements());
        let sum = each(&format!("add(s, to_float({x}[{place}]));"));
        let squares =
            each(&format!("{{ const float d = to_float({x}[{place}]) - mean; add(squares, d * d); }}"));
        format!(
            "        for (uint c = t / 32; c < {channels}; c += n / 32) {{
            Sum s = no_sum(), squares = no_sum();
            {sum}
            const float mean = warp_total(s) / {count}.f;
            {squares}
            const float var = warp_total(squares) / {count}.f;
            if ((t & 31) == 0) {{ {first}[c] = mean; {second}[c] = var; }}
        }}\n"
        )
    };
    Ok(vec![Phase::new(text, 32 * channels)])
}

/// A small matrix product, a thread for each element.
pub fn matmul(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let Op::MatMul { transpose_a, transpose_b } = step.op else { return Err(not_a(step, "matrix product")) };
    let result = &step.results[0];
    let (m, columns) = (result.dims()[0], result.dims()[1]);
    if m * columns == 0 {
        return Ok(Vec::new());
    }
    let (ta, tb) = (w.ty(step, 0), w.ty(step, 1));
    let depth = ta.dims()[usize::from(!transpose_a)];
    let (a, b, y) = (w.operand(step, 0), w.operand(step, 1), w.result(s, 0));
    let at_a = if transpose_a { format!("k * {m} + i") } else { format!("i * {depth} + k") };
    let at_b = if transpose_b { format!("j * {depth} + k") } else { format!("k * {columns} + j") };
    w.needs(Library::Sums);
    w.costs(ta.bytes() + tb.bytes(), result.bytes(), 8 * depth * m * columns);
    let count = m * columns;
    let text = format!(
        "        for (uint e = t; e < {count}; e += n) {{
            const uint i = e / {columns}, j = e % {columns};
            Sum s = no_sum();
            for (uint k = 0; k < {depth}; k++) add(s, to_float({a}[{at_a}]) * to_float({b}[{at_b}]));
            {y}[e] = total(s);
        }}\n"
    );
    Ok(vec![Phase::new(text, count)])
}
