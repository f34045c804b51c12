//! Depthwise convolutions forward, and gradients of their inputs: a map from a map. Both gather for each position of the
//! result what the taps find.

use crate::arch::Target;
use crate::code::{Arguments, Cost, Kernel, LaunchCode, c_type};
use crate::depthwise::{Geometry, Source, THREADS, lanes, read_cost, vector};
use crate::emit::PRELUDE;
use crate::limits::multiprocessor;
use crate::steps::CHANNELS;
use crate::tile::{TileCode, TileSpec, tile};
use ddnnc_ir::{Group, Local, Op};
use std::fmt::Write as _;

/// Positions of one thread, at most.
const MOST_ROUNDS: usize = 8;

/// How a map is cut.
struct Cut {
    vector: usize,
    lanes: usize,
    /// Positions of a block.
    rows: usize,
    /// Blocks along the positions and along the channels.
    tiles: [usize; 2],
}

impl Cut {
    fn new(positions: usize, channels: usize, most: usize, parts: usize, target: &Target) -> Cut {
        let vector = vector(channels, most);
        let lanes = lanes(channels, vector);
        let across = channels.div_ceil(lanes * vector);
        let at_once = THREADS / lanes;
        // Fewer positions a thread where there would be too few blocks.
        let enough = 2 * target.multiprocessors as usize;
        let mut rounds = MOST_ROUNDS;
        while rounds > 1 && positions.div_ceil(at_once * rounds) * across * parts < enough {
            rounds /= 2;
        }
        Cut::of([vector, lanes, rounds], positions, channels)
    }

    fn of([vector, lanes, rounds]: [usize; 3], positions: usize, channels: usize) -> Cut {
        let rows = THREADS / lanes * rounds;
        Cut { vector, lanes, rows, tiles: [positions.div_ceil(rows), channels.div_ceil(lanes * vector)] }
    }

    /// One whose blocks need less memory: fewer positions, or fewer channels where the weights of all taps take more.
    fn smaller(&self, positions: usize, channels: usize, taps: usize) -> Option<Cut> {
        let rounds = self.rows * self.lanes / THREADS;
        let [vector, lanes, rounds] = match () {
            _ if rounds > 1 && self.rows >= taps => [self.vector, self.lanes, rounds / 2],
            _ if self.lanes > 1 => [self.vector, self.lanes / 2, rounds],
            _ if rounds > 1 => [self.vector, self.lanes, rounds / 2],
            _ if self.vector > 1 => [self.vector / 2, self.lanes, rounds],
            _ => return None,
        };
        Some(Cut::of([vector, lanes, rounds], positions, channels))
    }

    fn channels(&self) -> usize {
        self.lanes * self.vector
    }
}

/// The kernel of a convolution, and of the steps after it.
///
/// # Errors
///
/// What no kernel can do.
pub fn kernel(
    group: &Group,
    step: usize,
    after: &[usize],
    target: &Target,
    arguments: &mut Arguments,
    code: &mut LaunchCode,
) -> Result<Kernel, String> {
    let g = Geometry::of(group, step).ok_or("not depthwise")?;
    let conv = &group.steps[step];
    let forward = matches!(conv.op, Op::Conv2d(_));
    let made = Local::Step { step: step as u32, result: 0 };
    let ty = &conv.results[0];
    let source = Source::new(group, conv.operands[0], "a", arguments)?;
    let weights = Source::new(group, conv.operands[1], "b", arguments)?;
    let weight = weights.plain().ok_or("a weight that is made")?;
    let [rows, columns] = if forward { g.y } else { g.x };
    let positions = g.images * rows * columns;
    let parts = arguments.parts();
    let dtype = group.ty(conv.operands[0]).map_or(4, |ty| ty.dtype.size());
    let plain = after.is_empty();
    let taps = g.taps();
    let limit = multiprocessor(target.arch).shared_per_block as usize;
    let before = arguments.mark(code);
    let mut cut = Cut::new(positions, g.channels, 16 / dtype, parts, target);
    let (wide, epilogue, tables, tile_floats, shared) = loop {
        let wide = cut.channels();
        let epilogue = match plain {
            true => TileCode::default(),
            false => {
                let spec = TileSpec {
                    group,
                    steps: after.to_vec(),
                    given: vec![(made, "tile".to_owned())],
                    given_stride: stride(wide),
                    rows: positions,
                    channels: g.channels,
                    tile_rows: cut.rows,
                    tile_channels: wide,
                    row_tiles: cut.tiles[0],
                    threads: THREADS,
                };
                tile(&spec, arguments, code)?
            }
        };
        // Weights as floats, the source's constants, the result's tile, what the epilogue needs.
        let tables = (taps * wide + source.table(wide)).next_multiple_of(4);
        let tile_floats = if plain { 0 } else { cut.rows * stride(wide) };
        let shared = 4 * (tables + tile_floats) + epilogue.scratch_bytes;
        if shared <= limit {
            break (wide, epilogue, tables, tile_floats, shared);
        }
        let less = cut.smaller(positions, g.channels, taps);
        cut = less.ok_or_else(|| {
            format!("{taps} taps take {shared} bytes of shared memory, and a block has {limit}")
        })?;
        arguments.rewind(code, &before);
    };
    let write = match plain {
        true => direct(group, made, arguments, &cut, g.channels)?,
        false => format!(
            "        #pragma unroll\n        for (int v = 0; v < {}; v++) tile[r * {} + j + v] = {};\n",
            cut.vector,
            stride(wide),
            // What others take has been rounded to its type.
            match c_type(ty.dtype) {
                "float" => "sum[v]".to_owned(),
                ctype => format!("to_float(from_float<{ctype}>(sum[v]))"),
            }
        ),
    };
    let name = if forward { "depthwise_forward" } else { "depthwise_input_gradient" };
    let (parameters, list) = arguments.parameters();
    let mut text = format!("{PRELUDE}\n{CHANNELS}\n{}\n", epilogue.functions);
    let _ = writeln!(
        text,
        "extern __shared__ __align__(16) char shared[];\n#define ROW(r) (row_tile * {} + (int)(r))\nextern \"C\" __global__ \
         void BLOCK_OF({THREADS}) {name}({parameters}) {{\n    [[maybe_unused]] const int part = blockIdx.x / {}, \
         row_tile = blockIdx.x % {}, channel_tile = blockIdx.y;\n{}    const uint first = channel_tile * {wide};\n    float* \
         const weights = (float*)shared;\n    [[maybe_unused]] float* const a_table = weights + {};",
        cut.rows,
        cut.tiles[0],
        cut.tiles[0],
        arguments.select(),
        taps * wide
    );
    if !plain {
        let _ = writeln!(
            text,
            "    float* const tile = weights + {tables};\n    char* const scratch = (char*)(tile + {tile_floats});"
        );
    }
    let _ = write!(
        text,
        "    for (uint i = threadIdx.x; i < {}; i += {THREADS}) {{\n        const uint c = first + i % {wide};\n        weights[i] \
         = c < {} ? to_float({weight}[c * {taps} + i / {wide}]) : 0.f;\n    }}\n{}    __syncthreads();\n",
        taps * wide,
        g.channels,
        source.fill(wide, g.channels)
    );
    let _ = write!(
        text,
        "    const uint j = threadIdx.x % {lanes} * {v}, c0 = first + j;\n    for (uint r = threadIdx.x / {lanes}; r < {rows_in_tile}; r \
         += {step}) {{\n        const uint at = row_tile * {rows_in_tile} + r;\n        float sum[{v}];\n        #pragma unroll\n        \
         for (int v = 0; v < {v}; v++) sum[v] = 0.f;\n        if (at < {positions} && c0 < {channels}) {{\n        const int image = at / \
         {}, row0 = at / {columns} % {rows}, column0 = at % {columns};\n{}        }}\n{write}    }}\n",
        rows * columns,
        taps_of(&g, forward, &source, &cut),
        lanes = cut.lanes,
        v = cut.vector,
        rows_in_tile = cut.rows,
        step = THREADS / cut.lanes,
        channels = g.channels,
    );
    if !plain {
        let _ = writeln!(text, "    __syncthreads();\n    {{\n{}\n    }}", epilogue.body);
    }
    text.push_str("}\n");
    let from = g.images * g.channels * if forward { g.x[0] * g.x[1] } else { g.y[0] * g.y[1] };
    let outputs = g.images * g.channels * g.y[0] * g.y[1];
    let own = Cost {
        vector_flops: (2 * taps * outputs) as u64,
        bytes_read: (weights.bytes.0 * taps * g.channels) as u64,
        bytes_written: if plain { ty.bytes() as u64 } else { 0 },
        ..Cost::default()
    };
    // Neighbouring taps find their elements in the caches, but each computes the chain anew.
    let read = read_cost(&source, from, taps.min(outputs * taps / from.max(1) + 1));
    Ok(Kernel {
        name: name.to_owned(),
        source: text,
        grid: [(cut.tiles[0] * parts) as u32, cut.tiles[1] as u32, 1],
        block: THREADS as u32,
        dynamic_shared: shared as u32,
        arguments: list,
        cost: (own + read + epilogue.cost) * parts,
        choice: format!("tile {}x{wide}, {} channels a thread", cut.rows, cut.vector),
    })
}

/// Floats from row to row of the result's tile.
fn stride(channels: usize) -> usize {
    channels.next_multiple_of(4)
}

/// Writes the result itself.
fn direct(
    group: &Group,
    made: Local,
    arguments: &mut Arguments,
    cut: &Cut,
    channels: usize,
) -> Result<String, String> {
    let i = group.results.iter().position(|&r| r == made).ok_or("a convolution that nobody needs")?;
    let ty = group.ty(made).ok_or("no such value")?;
    let (pointer, ctype, v) = (arguments.result(i, ty), c_type(ty.dtype), cut.vector);
    Ok(format!(
        "        if (row_tile * {rows} + r < {positions} && c0 < {channels}) {{\n            Channels<{ctype}, {v}> out;\n            \
         #pragma unroll\n            for (int v = 0; v < {v}; v++) out.v[v] = from_float<{ctype}>(sum[v]);\n            \
         *(Channels<{ctype}, {v}>*)({pointer} + (row_tile * {rows} + r) * {channels} + c0) = out;\n        }}\n",
        rows = cut.rows,
        positions = ty.elements() / channels.max(1),
    ))
}

/// The loops over taps: `sum[v]` += weight · what the tap finds; nothing outside the map.
fn taps_of(g: &Geometry, forward: bool, source: &Source, cut: &Cut) -> String {
    let (wide, v) = (cut.channels(), cut.vector);
    let conv = g.conv;
    let [height, width] = if forward { g.x } else { g.y };
    // Where a tap of an axis finds its entry.
    let axis = |i: usize, at: &str, tap: &str, to: &str, size: usize| {
        let (stride, pad, dilation) = (conv.stride[i], conv.pad[i], conv.dilation[i]);
        if forward {
            format!(
                "const int {to} = {at} * {stride} + {tap} * {dilation} - {pad};\n            if ({to} < 0 || {to} >= {size}) continue;"
            )
        } else if stride == 1 {
            format!(
                "const int {to} = {at} + {pad} - {tap} * {dilation};\n            if ({to} < 0 || {to} >= {size}) continue;"
            )
        } else {
            format!(
                "const int {to}_wide = {at} + {pad} - {tap} * {dilation}, {to} = {to}_wide / {stride};\n            if ({to}_wide < 0 || \
                 {to}_wide % {stride} != 0 || {to} >= {size}) continue;"
            )
        }
    };
    // Large kernels are not unrolled whole.
    let unroll = if g.taps() <= 25 { "#pragma unroll" } else { "#pragma unroll 1" };
    format!(
        "        {unroll}\n        for (int kh = 0; kh < {}; kh++) {{\n            {}\n            {unroll}\n            for (int kw = 0; kw < {}; \
         kw++) {{\n            {}\n            float a[{v}];\n            {}\n            #pragma unroll\n            for (int v = 0; v < {v}; v++) sum[v] = \
         fmaf(a[v], weights[(kh * {} + kw) * {wide} + j + v], sum[v]);\n            }}\n        }}\n",
        g.kernel[0],
        axis(0, "row0", "kh", "h", height),
        g.kernel[1],
        axis(1, "column0", "kw", "w", width),
        source.read(&format!("(uint)((image * {height} + h) * {width} + w)"), "a", v, wide, g.channels),
        g.kernel[1],
    )
}
