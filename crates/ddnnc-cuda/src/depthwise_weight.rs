//! Gradients of depthwise weights: for every channel and tap a sum over all positions, of one convolution or of several
//! that meet in a sum. Blocks sum slices of the positions; the last one of a tile of channels adds the slices in order.

use crate::arch::Target;
use crate::code::{Arguments, Cost, Kernel, LaunchCode};
use crate::depthwise::{Geometry, Source, THREADS, lanes, read_cost, vector};
use crate::emit::PRELUDE;
use crate::steps::CHANNELS;
use ddnnc_ir::{BinaryKind, Group, Local, Op};
use std::fmt::Write as _;

/// Sums that a thread keeps in registers, at most (unless a channel has more taps at once).
const MOST_SUMS: usize = 80;

/// Taps of a block, at most.
const MOST_TAPS: usize = 25;

/// Positions of one thread in a slice, at least.
const LEAST_ROUNDS: usize = 8;

/// Bytes of shared memory of a block that are declared, not asked for: 48 KiB at most.
const MOST_STATIC: usize = 47 << 10;

/// The one result that a sum of the convolutions gives: they are added up, and nothing else is done with them.
fn root(group: &Group, convolutions: &[usize], after: &[usize]) -> Option<Local> {
    let adds = after.iter().all(|&s| matches!(group.steps[s].op, Op::Binary { kind: BinaryKind::Add }));
    let taken = |local: Local| -> usize {
        group.steps.iter().map(|step| step.operands.iter().filter(|&&l| l == local).count()).sum()
    };
    let all: Vec<Local> =
        convolutions.iter().chain(after).map(|&s| Local::Step { step: s as u32, result: 0 }).collect();
    let inside = after.iter().all(|&s| group.steps[s].operands.iter().all(|l| all.contains(l)));
    let mut results = all.iter().filter(|l| group.results.contains(l));
    let (result, more) = (results.next().copied()?, results.next());
    let once = all.iter().all(|&l| if l == result { taken(l) == 0 } else { taken(l) == 1 });
    (adds && inside && once && more.is_none()).then_some(result)
}

/// The kernel of convolutions' weight gradients and their sum.
///
/// # Errors
///
/// What no kernel can do.
pub fn kernel(
    group: &Group,
    convolutions: &[usize],
    after: &[usize],
    target: &Target,
    arguments: &mut Arguments,
    code: &mut LaunchCode,
) -> Result<Kernel, String> {
    let result = root(group, convolutions, after).ok_or("more than a sum of weight gradients")?;
    let number = group.results.iter().position(|&r| r == result).ok_or("no result")?;
    let ty = group.ty(result).ok_or("no such value")?;
    let g = Geometry::of(group, convolutions[0]).ok_or("not depthwise")?;
    let taps = g.taps();
    let block_taps = taps.min(MOST_TAPS);
    let chunks = taps.div_ceil(block_taps);
    let size = group.ty(group.steps[convolutions[0]].operands[0]).map_or(4, |ty| ty.dtype.size());
    let v = vector(g.channels, (16 / size).min((MOST_SUMS / block_taps).max(1)));
    // Fewer channels a block where the tables of many convolutions would not find room beside the rows.
    let mut constants = 0;
    for &s in convolutions {
        for &operand in &group.steps[s].operands[..2] {
            constants += Source::new(group, operand, "", &mut arguments.clone())?.table(1);
        }
    }
    let mut lanes = lanes(g.channels, v);
    while lanes > 1 && 4 * (THREADS * v + constants * lanes * v) > MOST_STATIC {
        lanes /= 2;
    }
    let (wide, at_once) = (lanes * v, THREADS / lanes);
    let across = g.channels.div_ceil(wide);
    let parts = arguments.parts();
    // Slices of each convolution: as many as fill the device, but none of too few positions.
    let wanted =
        (4 * target.multiprocessors as usize / (across * chunks * parts * convolutions.len())).max(1);
    let mut slices = Vec::new();
    let (mut tables, mut fills, mut sums, mut costs) =
        (String::new(), String::new(), String::new(), Vec::new());
    let (mut table, mut first_slice) = (0, 0);
    for (i, &s) in convolutions.iter().enumerate() {
        let g = Geometry::of(group, s).ok_or("not depthwise")?;
        let step = &group.steps[s];
        let x = Source::new(group, step.operands[0], &format!("x{i}"), arguments)?;
        let dy = Source::new(group, step.operands[1], &format!("y{i}"), arguments)?;
        let positions = g.images * g.y[0] * g.y[1];
        let count = wanted.min(positions.div_ceil(at_once * LEAST_ROUNDS)).max(1);
        for (name, source) in [("x", &x), ("y", &dy)] {
            let _ = writeln!(tables, "    [[maybe_unused]] float* const {name}{i}_table = table + {table};");
            table += source.table(wide);
            fills += &source.fill(wide, g.channels);
        }
        let per = positions.div_ceil(count);
        let otherwise = if i > 0 { "else " } else { "" };
        let _ = write!(
            sums,
            "    {otherwise}if (slice < {}) {{\n        const uint begin = (slice - {first_slice}) * {per}, end = min(begin + {per}, \
             {positions}u);\n{}    }}\n",
            first_slice + count,
            positions_of(&g, &x, &dy, v, wide, lanes, block_taps)
        );
        first_slice += count;
        slices.push(count);
        let inputs = g.images * g.channels * g.x[0] * g.x[1];
        costs.push(read_cost(&x, inputs, (positions * taps / (g.images * g.x[0] * g.x[1]).max(1)).max(1)));
        costs.push(read_cost(&dy, positions * g.channels, chunks));
        costs.push(Cost { vector_flops: (2 * taps * positions * g.channels) as u64, ..Cost::default() });
    }
    let all = first_slice;
    let pointer = arguments.result(number, ty);
    let partials = arguments.workspace(code, "float", 4 * all * taps * across * wide);
    let counters = arguments.counters(code, across * chunks);
    let (parameters, list) = arguments.parameters();
    let mut text = format!("{PRELUDE}\n{CHANNELS}\n");
    let _ = write!(
        text,
        "extern \"C\" __global__ void BLOCK_OF({THREADS}) depthwise_weight_gradient({parameters}) {{\n    __shared__ float \
         rows[{}];\n    [[maybe_unused]] __shared__ float table[{}];\n    [[maybe_unused]] const int part = blockIdx.x / {all};\n    \
         const int slice = blockIdx.x % {all};\n{}    const uint first = blockIdx.y * {wide};\n    const int tap0 = {};\n{tables}{fills}    \
         __syncthreads();\n    const uint j = threadIdx.x % {lanes} * {v}, c0 = first + j;\n    float sum[{block_taps}][{v}];\n    #pragma \
         unroll\n    for (int k = 0; k < {block_taps}; k++)\n        #pragma unroll\n        for (int v = 0; v < {v}; v++) sum[k][v] = 0.f;\n{sums}",
        at_once * wide,
        table.max(1),
        arguments.select(),
        if chunks == 1 { "0".to_owned() } else { format!("blockIdx.z * {block_taps}") },
    );
    // Rows of threads are added in order, then slices.
    let channels = g.channels;
    let _ = write!(
        text,
        "    #pragma unroll\n    for (int k = 0; k < {block_taps}; k++) {{\n        __syncthreads();\n        #pragma unroll\n        for (int v = \
         0; v < {v}; v++) rows[threadIdx.x / {lanes} * {wide} + j + v] = sum[k][v];\n        __syncthreads();\n        for (uint i = \
         threadIdx.x; i < {wide}; i += {THREADS}) {{\n            float all = 0.f;\n            for (int r = 0; r < {at_once}; r++) all += rows[r * \
         {wide} + i];\n            if (tap0 + k < {taps}) {partials}[((blockIdx.y * {all} + slice) * {taps} + tap0 + k) * {wide} + i] = all;\n        \
         }}\n    }}\n    if (!last_block({counters} + blockIdx.y * {chunks} + blockIdx.z, {all})) return;\n    for (uint i = threadIdx.x; i < \
         {block_taps} * {wide}; i += {THREADS}) {{\n        const uint k = tap0 + i / {wide}, c = first + i % {wide};\n        if (k >= {taps} || c >= \
         {channels}) continue;\n        float all = 0.f;\n        for (int s = 0; s < {all}; s++) all += {partials}[((blockIdx.y * {all} + s) * \
         {taps} + k) * {wide} + i % {wide}];\n        {pointer}[c * {taps} + k] = all;\n    }}\n}}\n",
    );
    let moved = (4 * all * taps * across * wide) as u64;
    costs.push(Cost {
        bytes_read: moved,
        bytes_written: moved + ty.bytes() as u64,
        vector_flops: (all * taps * across * wide) as u64,
        ..Cost::default()
    });
    Ok(Kernel {
        name: "depthwise_weight_gradient".to_owned(),
        source: text,
        grid: [(all * parts) as u32, across as u32, chunks as u32],
        block: THREADS as u32,
        dynamic_shared: 0,
        arguments: list,
        cost: costs.into_iter().sum::<Cost>() * parts,
        choice: format!("{wide} channels, {block_taps} taps, slices {slices:?}"),
    })
}

/// The loop over the positions of a slice.
fn positions_of(
    g: &Geometry,
    x: &Source,
    dy: &Source,
    v: usize,
    wide: usize,
    lanes: usize,
    block_taps: usize,
) -> String {
    let [stride, pad, dilation] = [g.conv.stride, g.conv.pad, g.conv.dilation];
    let ([height, width], [rows, columns]) = (g.x, g.y);
    format!(
        "        if (c0 < {channels}) for (uint at = begin + threadIdx.x / {lanes}; at < end; at += {step}) {{\n        const int image = at / \
         {area}, row0 = at / {columns} % {rows}, column0 = at % {columns};\n        float d[{v}];\n        {read_dy}        #pragma unroll\n        for \
         (int k = 0; k < {block_taps}; k++) {{\n            const int h = row0 * {s0} + (tap0 + k) / {kw} * {d0} - {p0}, w = column0 * {s1} + (tap0 + \
         k) % {kw} * {d1} - {p1};\n            if (tap0 + k >= {taps} || h < 0 || h >= {height} || w < 0 || w >= {width}) continue;\n            float \
         a[{v}];\n            {read_x}            #pragma unroll\n            for (int v = 0; v < {v}; v++) sum[k][v] = fmaf(a[v], d[v], sum[k][v]);\n        \
         }}\n        }}\n",
        channels = g.channels,
        step = THREADS / lanes,
        area = rows * columns,
        read_dy = dy.read("at", "d", v, wide, g.channels),
        read_x = x.read(&format!("(uint)((image * {height} + h) * {width} + w)"), "a", v, wide, g.channels),
        taps = g.taps(),
        kw = g.kernel[1],
        s0 = stride[0],
        s1 = stride[1],
        d0 = dilation[0],
        d1 = dilation[1],
        p0 = pad[0],
        p1 = pad[1],
    )
}
