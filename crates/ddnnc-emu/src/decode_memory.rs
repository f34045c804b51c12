//! Loads, stores, atomics, asynchronous copies and addresses.

use crate::inst::{Atomic, Op, Space, Type};
use crate::instruction::Instruction;

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Const),
    ("param", Space::Param),
    ("param::entry", Space::Param),
];

/// How many values an access moves: 1 without `.v2`, `.v4` or `.v8`.
fn vector(i: &mut Instruction, ty: Type) -> Result<usize, String> {
    let count = i.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    if count as u32 * ty.bits() > 256 {
        return Err(format!("`{}` moves more than 32 bytes", i.opcode));
    }
    Ok(count)
}

pub(crate) fn ld(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    let space = i.choice(SPACES).unwrap_or(Space::Generic);
    let volatile = i.take("volatile");
    let count = vector(i, ty)?;
    // Modifiers such as `.L2::cache_hint` come with operands of their own.
    i.finish()?;
    i.expect(2..=2)?;
    let dst = i.destinations(0, count, ty, true)?;
    Ok(Op::Ld { space, ty, dst: dst.into(), address: i.address(1, space)?, volatile })
}

pub(crate) fn st(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    // Parameters of a kernel and constants are not written.
    let space = i.choice(&SPACES[..4]).unwrap_or(Space::Generic);
    let volatile = i.take("volatile");
    let count = vector(i, ty)?;
    i.finish()?;
    i.expect(2..=2)?;
    let address = i.address(0, space)?;
    let src = i.sources(1, count, ty, true)?;
    Ok(Op::St { space, ty, src: src.into(), address, volatile })
}

const ATOMICS: &[(&str, Atomic)] = &[
    ("add", Atomic::Add),
    ("min", Atomic::Min),
    ("max", Atomic::Max),
    ("and", Atomic::And),
    ("or", Atomic::Or),
    ("xor", Atomic::Xor),
    ("exch", Atomic::Exch),
    ("cas", Atomic::Cas),
    ("inc", Atomic::Inc),
    ("dec", Atomic::Dec),
];

pub(crate) fn atom(i: &mut Instruction, _: Type) -> Result<Op, String> {
    use Type::{B32, B64, F32, F64, S32, S64, U32, U64};
    let space = i.choice(&SPACES[..3]).unwrap_or(Space::Generic);
    let op = i.required_choice(ATOMICS)?;
    let allowed: &[Type] = match op {
        Atomic::Add => &[U32, S32, U64, F32, F64],
        Atomic::Min | Atomic::Max => &[U32, S32, U64, S64],
        Atomic::And | Atomic::Or | Atomic::Xor => &[B32, B64],
        Atomic::Exch => &[B32, B64],
        Atomic::Cas => &[B32, B64],
        Atomic::Inc | Atomic::Dec => &[U32],
    };
    // `.f16` and the vectors of atoms are types and modifiers of their own, refused by name.
    let ty = i.type_of(allowed)?;
    i.finish()?;
    let returns = i.root == "atom";
    if !returns && matches!(op, Atomic::Exch | Atomic::Cas) {
        return Err(format!("`{}` is not PTX", i.opcode));
    }
    let first = usize::from(returns);
    let count = first + if op == Atomic::Cas { 3 } else { 2 };
    i.expect(count..=count)?;
    let dst = if returns { i.destinations(0, 1, ty, false)?[0] } else { None };
    let address = i.address(first, space)?;
    let a = i.source(first + 1, ty)?;
    let b = if op == Atomic::Cas { Some(i.source(first + 2, ty)?) } else { None };
    Ok(Op::Atom { space, op, ty, dst, address, a, b })
}

pub(crate) fn fence(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.expect(0..=0)?;
    if i.take("proxy") {
        i.require("async")?;
        // Of another space than shared memory it would order nothing here.
        i.choice(&[("shared::cta", ()), ("shared::cluster", ())]);
        i.finish()?;
        // Modifiers that are without effect on other fences do not belong to this one.
        return match i.opcode {
            "fence.proxy.async" | "fence.proxy.async.shared::cta" | "fence.proxy.async.shared::cluster" => {
                Ok(Op::ProxyFence)
            }
            opcode => Err(format!("`{opcode}` is not PTX")),
        };
    }
    Ok(Op::Fence)
}

/// `prefetch`, `prefetchu` and `applypriority` change no value. Their address must still be one.
pub(crate) fn hint(i: &mut Instruction, _: Type) -> Result<Op, String> {
    let space = i.choice(&[("global", Space::Global), ("local", Space::Local)]).unwrap_or(Space::Generic);
    i.finish()?;
    let operands = if i.root == "applypriority" { 2 } else { 1 };
    i.expect(operands..=operands)?;
    i.address(0, space)?;
    Ok(Op::Nop)
}

/// Time does not pass here.
pub(crate) fn nanosleep(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(1..=1)?;
    i.source(0, ty)?;
    Ok(Op::Nop)
}

pub(crate) fn cvta(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(2..=2)?;
    let to_generic = !i.take("to");
    let space = i.required_choice(SPACES)?;
    let (dst, src) = (i.destination(0, ty)?, i.source(1, ty)?);
    Ok(Op::Cvta { space, to_generic, dst, src })
}

pub(crate) fn isspacep(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.expect(2..=2)?;
    let space = i.required_choice(SPACES)?;
    if space == Space::Const {
        return Err(format!("`{}` is not executed: constants lie in global memory", i.opcode));
    }
    Ok(Op::IsSpace { space, dst: i.destination(0, Type::Pred)?, src: i.source(1, Type::U64)? })
}

pub(crate) fn cp_async(i: &mut Instruction, _: Type) -> Result<Op, String> {
    if !i.take("async") || i.opcode.contains(".bulk") || i.opcode.contains(".mbarrier") {
        let hint = "of asynchronous copies `cp.async.ca`, `cp.async.cg` and their groups are";
        return Err(format!("opcode `{}` is not executed; {hint}", i.opcode));
    }
    if i.take("commit_group") {
        i.expect(0..=0)?;
        return Ok(Op::CpAsyncCommit);
    }
    if i.take("wait_all") {
        i.expect(0..=0)?;
        return Ok(Op::CpAsyncWaitAll);
    }
    if i.take("wait_group") {
        i.expect(1..=1)?;
        let pending = u32::try_from(i.constant(0)?).map_err(|e| e.to_string())?;
        return Ok(Op::CpAsyncWait { pending });
    }
    let whole_lines = i.required_choice(&[("cg", true), ("ca", false)])?;
    i.required_choice(&SPACES[1..3])?;
    i.require("global")?;
    i.finish()?;
    i.expect(3..=4)?;
    let (shared, global) = (i.address(0, Space::Shared)?, i.address(1, Space::Global)?);
    let bytes = i.constant(2)?;
    let allowed: &[u64] = if whole_lines { &[16] } else { &[4, 8, 16] };
    if !allowed.contains(&bytes) {
        return Err(format!("`{}` copies {allowed:?} bytes, not {bytes}", i.opcode));
    }
    let (mut source_bytes, mut ignore) = (None, None);
    if i.operands() == 4 {
        if i.is_predicate(3) {
            ignore = Some(i.predicate(3)?);
        } else {
            source_bytes = Some(i.source(3, Type::U32)?);
        }
    }
    Ok(Op::CpAsync { bytes: bytes as u32, source_bytes, shared, global, ignore })
}
