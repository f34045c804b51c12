//! Which instructions are executed, and the decoding of each family of them.

use crate::inst::{Float, Op, Round, Type};
use crate::instruction::{Instruction, WITHOUT_EFFECT};
use crate::{
    decode_arithmetic as arithmetic, decode_memory as memory, decode_moves as moves, decode_warp as warp,
    decode_warpgroup as warpgroup,
};
use Type::{
    B8, B16, B32, B64, B128, Bf16, Bf16x2, F16, F16x2, F32, F64, Pred, S8, S16, S32, S64, U8, U16, U32, U64,
};

/// An opcode with the types that it is executed with. Those without types here have several, or none, and read them
/// themselves.
pub(crate) struct Opcode {
    pub name: &'static str,
    pub types: &'static [Type],
    decode: fn(&mut Instruction, Type) -> Result<Op, String>,
}

const BITS: &[Type] = &[Pred, B16, B32, B64];
const INTEGERS: &[Type] = &[U16, U32, U64, S16, S32, S64];
const BITS_32_64: &[Type] = &[B32, B64];
const BITS_16_TO_64: &[Type] = &[B16, B32, B64];
const WIDE: &[Type] = &[U32, U64, S32, S64];
const FLOATS: &[Type] = &[F32, F64];
const HALVES: &[Type] = &[F16, F16x2, Bf16, Bf16x2];
const ADDED: &[Type] = &[U16, U32, U64, S16, S32, S64, F16, F16x2, Bf16, Bf16x2, F32, F64];
const ABSOLUTE: &[Type] = &[S16, S32, S64, F16, F16x2, Bf16, Bf16x2, F32, F64];
const DIVIDED: &[Type] = &[U16, U32, U64, S16, S32, S64, F32, F64];
const FUSED: &[Type] = &[F16, F16x2, Bf16, Bf16x2, F32, F64];
const SMALL: &[Type] = &[F16, F16x2, Bf16, Bf16x2, F32];
const MOVED: &[Type] = &[Pred, B16, B32, B64, B128, U16, U32, U64, S16, S32, S64, F32, F64];
const SELECTED: &[Type] = &[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64];
pub(crate) const LOADED: &[Type] = &[B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64];
const COMPARED: &[Type] = &[B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, Bf16, F32, F64];

macro_rules! opcodes {
    ($($name:literal $types:expr, $decode:path;)*) => {
        &[$(Opcode { name: $name, types: $types, decode: $decode }),*]
    };
}

/// Every opcode that is executed, in the order of the alphabet.
pub(crate) const OPCODES: &[Opcode] = opcodes! {
    "abs" ABSOLUTE, arithmetic::unary;
    "activemask" &[B32], warp::activemask;
    "add" ADDED, arithmetic::binary;
    "addc" WIDE, arithmetic::binary;
    "and" BITS, arithmetic::binary;
    "applypriority" &[], memory::hint;
    "atom" &[], memory::atom;
    "bar" &[], warp::bar;
    "barrier" &[], warp::bar;
    "bfe" WIDE, arithmetic::ternary;
    "bfi" BITS_32_64, arithmetic::bfi;
    "bfind" WIDE, arithmetic::unary;
    "bra" &[], warp::bra;
    "brev" BITS_32_64, arithmetic::unary;
    "brx" &[], warp::brx;
    "clz" BITS_32_64, arithmetic::unary;
    "cnot" BITS_16_TO_64, arithmetic::unary;
    "copysign" FLOATS, arithmetic::binary;
    "cos" &[F32], arithmetic::unary;
    "cp" &[], memory::cp_async;
    "cvt" &[], moves::cvt;
    "cvta" &[U64], memory::cvta;
    "div" DIVIDED, arithmetic::binary;
    "dp2a" &[], arithmetic::dp2a;
    "dp4a" &[], arithmetic::dp4a;
    "ex2" SMALL, arithmetic::unary;
    "exit" &[], warp::end;
    "fence" &[], memory::fence;
    "fma" FUSED, arithmetic::ternary;
    "isspacep" &[], memory::isspacep;
    "ld" LOADED, memory::ld;
    "ldmatrix" &[], warp::ldmatrix;
    "ldu" LOADED, memory::ld;
    "lg2" &[F32], arithmetic::unary;
    "lop3" &[B32], arithmetic::ternary;
    "mad" DIVIDED, arithmetic::ternary;
    "mad24" &[U32, S32], arithmetic::ternary;
    "madc" WIDE, arithmetic::ternary;
    "match" BITS_32_64, warp::match_any;
    "max" ADDED, arithmetic::binary;
    "membar" &[], memory::fence;
    "min" ADDED, arithmetic::binary;
    "mma" &[], warp::mma;
    "mov" MOVED, moves::mov;
    "mul" ADDED, arithmetic::binary;
    "mul24" &[U32, S32], arithmetic::binary;
    "nanosleep" &[U32], memory::nanosleep;
    "neg" ABSOLUTE, arithmetic::unary;
    "not" BITS, arithmetic::unary;
    "or" BITS, arithmetic::binary;
    "popc" BITS_32_64, arithmetic::unary;
    "prefetch" &[], memory::hint;
    "prefetchu" &[], memory::hint;
    "prmt" &[B32], arithmetic::ternary;
    "rcp" FLOATS, arithmetic::unary;
    "red" &[], memory::atom;
    "redux" &[B32, U32, S32], warp::redux;
    "rem" INTEGERS, arithmetic::binary;
    "ret" &[], warp::end;
    "rsqrt" FLOATS, arithmetic::unary;
    "sad" INTEGERS, arithmetic::ternary;
    "selp" SELECTED, moves::selp;
    "set" &[], moves::set;
    "setp" COMPARED, moves::setp;
    "shf" &[B32], arithmetic::ternary;
    "shfl" &[B32], warp::shfl;
    "shl" BITS_16_TO_64, arithmetic::binary;
    "shr" &[B16, B32, B64, U16, U32, U64, S16, S32, S64], arithmetic::binary;
    "sin" &[F32], arithmetic::unary;
    "sqrt" FLOATS, arithmetic::unary;
    "st" LOADED, memory::st;
    "stmatrix" &[], warp::stmatrix;
    "sub" ADDED, arithmetic::binary;
    "subc" WIDE, arithmetic::binary;
    "tanh" SMALL, arithmetic::unary;
    "trap" &[], warp::end;
    "vote" &[], warp::vote;
    "wgmma" &[], warpgroup::wgmma;
    "xor" BITS, arithmetic::binary;
};

/// Decodes an instruction.
pub(crate) fn decode(instruction: &mut Instruction) -> Result<Op, String> {
    let Some(opcode) = OPCODES.iter().find(|opcode| opcode.name == instruction.root) else {
        return Err(unknown(instruction.opcode, instruction.root));
    };
    let ty = match opcode.types {
        [] => Type::B32,
        // Where the type comes last there may be another before it, which the decoder of the family reads.
        types => instruction.type_of(types)?,
    };
    let op = (opcode.decode)(instruction, ty)?;
    instruction.finish()?;
    Ok(op)
}

fn unknown(opcode: &str, root: &str) -> String {
    let hint = match root {
        "call" => "; device functions must be `__forceinline__`",
        "wmma" | "tcgen05" => "; of the matrix products `mma.sync` and `wgmma` are",
        "mbarrier" => "; of asynchronous copies `cp.async` with commit and wait groups is",
        _ => "",
    };
    format!("opcode `{opcode}` is not executed{hint}")
}

/// Names of the instructions that are executed: `add.s32` and so on, or the opcode alone where it reads its types
/// itself.
pub fn instructions() -> Vec<String> {
    let mut names = Vec::new();
    for opcode in OPCODES {
        match opcode.types {
            [] => names.push(opcode.name.to_owned()),
            types => names.extend(types.iter().map(|ty| format!("{}.{}", opcode.name, ty.name()))),
        }
    }
    names
}

/// Modifiers that are taken without effect, each with an opcode that it belongs to.
pub fn modifiers_without_effect() -> Vec<(&'static str, &'static str)> {
    let all = |(roots, modifiers): &(&'static [&'static str], &'static [&'static str])| {
        roots.iter().flat_map(|root| modifiers.iter().map(|m| (*root, *m))).collect::<Vec<_>>()
    };
    WITHOUT_EFFECT.iter().flat_map(all).collect()
}

/// Which modifiers of rounding an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// None: the result is exact, or approximate.
    None,
    /// To the nearest where none is given.
    Optional,
    /// One must be given.
    Required,
}

/// Rounding as `.rn` and so on.
pub(crate) const ROUNDINGS: &[(&str, Round)] =
    &[("rn", Round::Rn), ("rz", Round::Rz), ("rm", Round::Rm), ("rp", Round::Rp)];

/// Takes the floating-point modifiers that a type can have. What it cannot have stays and is refused.
pub(crate) fn float(i: &mut Instruction, ty: Type, rounding: Rounding, sat: bool) -> Result<Float, String> {
    if !ty.is_float() {
        return Ok(Float { round: Round::Rn, ftz: false, sat: false });
    }
    let choices = if HALVES.contains(&ty) { &ROUNDINGS[..1] } else { ROUNDINGS };
    let round = match rounding {
        Rounding::None => Round::Rn,
        Rounding::Optional => i.choice(choices).unwrap_or(Round::Rn),
        Rounding::Required => i.required_choice(choices)?,
    };
    let ftz = !matches!(ty, F64 | Bf16 | Bf16x2) && i.take("ftz");
    let sat = sat && !matches!(ty, F64 | Bf16 | Bf16x2) && i.take("sat");
    Ok(Float { round, ftz, sat })
}
