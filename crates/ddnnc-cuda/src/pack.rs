//! Weights in the order in which convolutions read them.

use crate::code::{Argument, Cost, Kernel, LaunchCode, c_type};
use crate::convolution::Geometry;
use crate::emit::PRELUDE;
use crate::tiles::Unit;
use ddnnc_ir::ValueType;

const PACK: &str = include_str!("../../../kernels/pack.cuh");
const THREADS: usize = 256;

/// Weights in workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Where.
    pub offset: usize,
    /// Elements from one row to the next: rows are outputs, or (backward) outputs and taps.
    pub pitch: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Adds the kernel that packs weights `[O][C][kh][kw]`: for a forward convolution to `[O][kh·kw·C]`, for an input gradient
/// to `[O][kh·kw][C]`, rows padded with zeros to whole chunks of 16 bytes.
///
/// # Errors
///
/// Weights of more elements than an int counts.
pub(crate) fn pack(
    geometry: &Geometry,
    ty: &ValueType,
    operand: usize,
    backward: bool,
    unit: Unit,
    code: &mut LaunchCode,
) -> Result<Packed, String> {
    let vector = 16 / unit.element();
    let (inputs, outputs, taps) = (geometry.group_inputs(), geometry.outputs, geometry.taps());
    let (pitch, rows) = if backward {
        (inputs.next_multiple_of(vector), outputs * taps)
    } else {
        ((taps * inputs).next_multiple_of(vector), outputs)
    };
    let elements = pitch * rows;
    if elements >= 1 << 31 {
        return Err(format!(
            "{ty} has more elements than an index of 32 bits counts: a smaller batch has fewer"
        ));
    }
    let offset = code.workspace_bytes;
    let bytes = elements * ty.dtype.size();
    code.workspace_bytes += bytes.next_multiple_of(256);
    let e = c_type(ty.dtype);
    let whole = !backward;
    if elements > 0 {
        code.kernels.push(Kernel {
            name: "pack_weights_kernel".to_owned(),
            source: format!(
                "{PRELUDE}\n{PACK}\nextern \"C\" __global__ void BLOCK_OF({THREADS}) pack_weights_kernel(const {e}* from, \
                 {e}* to) {{\n    pack_weights<{e}, {outputs}, {inputs}, {taps}, {pitch}, {whole}>(from, to);\n}}\n"
            ),
            grid: [elements.div_ceil(THREADS) as u32, 1, 1],
            block: THREADS as u32,
            dynamic_shared: 0,
            arguments: vec![Argument::Operand(operand), Argument::Workspace(offset)],
            cost: Cost { bytes_read: ty.bytes() as u64, bytes_written: bytes as u64, ..Cost::default() },
            choice: format!("{outputs}x{taps}x{inputs}"),
        });
    }
    Ok(Packed { offset, pitch, bytes })
}
