//! Elementwise chains over all elements of a value in the order of memory.

use crate::chain::{Access, chain_at};
use crate::code::{Arguments, Cost};
use ddnnc_ir::{Group, Layout, Local, ValueType};
use std::fmt::Write as _;

/// Threads of a block.
const THREADS: usize = 256;

/// A chain's text for the blocks of a part: `u_left` is the number of the block.
pub(crate) struct Flat {
    /// Statements.
    pub body: String,
    /// Blocks of a part.
    pub blocks: usize,
    /// The cost of a part.
    pub cost: Cost,
    /// Elements of an access.
    pub vector: usize,
}

/// C declarations of `row` and `c` for element `u_i` of a value.
fn coordinates(ty: &ValueType) -> String {
    let d = ty.dims();
    if d.len() < 2 {
        return "[[maybe_unused]] const uint row = u_i, c = 0;".to_owned();
    }
    let (channels, inner) = (d[1].max(1), d[2..].iter().product::<usize>().max(1));
    match ty.layout {
        Layout::RowMajor if inner > 1 => format!(
            "[[maybe_unused]] const uint row = u_i / {} * {inner} + u_i % {inner}, c = u_i / {inner} % {channels};",
            channels * inner
        ),
        _ => format!("[[maybe_unused]] const uint row = u_i / {channels}, c = u_i % {channels};"),
    }
}

/// The text of a chain of values that all have the extents and the layout of `ty`; at most `most` blocks.
///
/// # Errors
///
/// What is no elementwise chain, or too large.
pub(crate) fn flat(
    group: &Group,
    wanted: &[Local],
    ty: &ValueType,
    most: usize,
    arguments: &mut Arguments,
) -> Result<Flat, String> {
    let count = ty.elements();
    if count >= 1 << 31 {
        return Err("more elements than an index of 32 bits counts".to_owned());
    }
    let places: Vec<(Local, Access)> = wanted.iter().map(|&l| (l, Access::Element)).collect();
    let chain = chain_at(group, &places, &[])?;
    let size = |l: Local| group.ty(l).map_or(4, |ty| ty.dtype.size());
    let read = chain.inputs.iter().filter(|i| i.access == Access::Element).map(|i| size(i.local));
    let least = read.chain(wanted.iter().map(|&l| size(l))).min().unwrap_or(4);
    let vector = [8, 4, 2, 1].into_iter().find(|v| v * least <= 16 && count.is_multiple_of(*v)).unwrap_or(1);
    let blocks = count.div_ceil(THREADS * vector).clamp(1, most.max(1));
    let mut cost = Cost { vector_flops: (count * chain.flops) as u64, ..Cost::default() };
    let (mut fixed, mut load, mut take, mut store) =
        (String::new(), String::new(), String::new(), String::new());
    for (n, input) in chain.inputs.iter().enumerate() {
        let Local::Operand(o) = input.local else {
            return Err("a chain takes what another kernel makes".to_owned());
        };
        let of = group.ty(input.local).ok_or("a value that is not there")?;
        let p = arguments.operand(o as usize, of);
        cost.bytes_read += of.bytes() as u64;
        let _ = match &input.access {
            Access::Element => {
                if of.shape != ty.shape || of.layout != ty.layout {
                    return Err(format!("{of} among elements of {ty}"));
                }
                let _ = writeln!(
                    load,
                    "        float u_x{n}[{vector}];\n        unpack<{vector}>({p} + u_first, u_x{n});"
                );
                writeln!(take, "            const float i{n} = u_x{n}[u_e];")
            }
            Access::Channel => writeln!(take, "            const float i{n} = to_float({p}[c]);"),
            Access::Repeated(index) => {
                writeln!(take, "            const float i{n} = to_float({p}[{index}]);")
            }
            Access::Scalar => writeln!(fixed, "    const float i{n} = to_float({p}[0]);"),
            Access::Random => writeln!(fixed, "    const long long i{n}[2] = {{ {p}[0], {p}[1] }};"),
        };
    }
    let mut keep = String::new();
    for (n, &local) in wanted.iter().enumerate() {
        let of = group.ty(local).ok_or("a value that is not there")?;
        let _ = writeln!(load, "        float u_y{n}[{vector}];");
        let _ = writeln!(keep, "            u_y{n}[u_e] = o{n};");
        for (r, _) in group.results.iter().enumerate().filter(|(_, l)| **l == local) {
            cost.bytes_written += of.bytes() as u64;
            let name = arguments.result(r, of);
            let _ = writeln!(store, "        pack<{vector}>({name} + u_first, u_y{n});");
        }
    }
    let (stride, rounds) = (blocks * THREADS * vector, THREADS * vector);
    let body = format!(
        "{fixed}    for (uint u_first = u_left * {rounds} + threadIdx.x * {vector}; u_first < {count}; u_first += {stride}) {{\n{load}        \
         #pragma unroll\n        for (int u_e = 0; u_e < {vector}; u_e++) {{\n            [[maybe_unused]] const uint u_i = u_first + \
         u_e;\n            {}\n{take}{}{}{keep}        }}\n{store}    }}\n",
        coordinates(ty),
        indented(&chain.channel_code),
        indented(&chain.code)
    );
    Ok(Flat { body, blocks, cost, vector })
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "            {line}");
        all
    })
}
