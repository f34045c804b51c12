//! Control flow, barriers, and what lanes of a warp do together.

use crate::inst::{Atomic, BarReduce, Mma, Op, Shuffle, Space, Src, Type, Vote};
use crate::instruction::Instruction;
use smallvec::SmallVec;

/// Jumps name labels; the target is filled in when all labels are known.
pub(crate) fn bra(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.expect(1..=1)?;
    i.label(0)?;
    Ok(Op::Bra { target: u32::MAX })
}

pub(crate) fn brx(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.require("idx")?;
    i.expect(2..=2)?;
    i.label(1)?;
    Ok(Op::Brx { index: i.source(0, Type::U32)?, targets: SmallVec::new() })
}

pub(crate) fn end(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.expect(0..=0)?;
    Ok(match i.root {
        "ret" => Op::Ret,
        "exit" => Op::Exit,
        _ => Op::Trap,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bar {
    Sync,
    Arrive,
    Reduce,
}

pub(crate) fn bar(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.refuse(&["cluster"])?;
    if i.take("warp") {
        i.require("sync")?;
        i.expect(1..=1)?;
        return Ok(Op::BarWarp { mask: i.source(0, Type::B32)? });
    }
    let id = |i: &Instruction, at| match i.source(at, Type::U32)? {
        Src::Imm(id) if id > 15 => Err(format!("barrier {id} of `{}` is not one of 0 to 15", i.opcode)),
        id => Ok(id),
    };
    match i.required_choice(&[("sync", Bar::Sync), ("arrive", Bar::Arrive), ("red", Bar::Reduce)])? {
        Bar::Sync => {
            i.expect(1..=2)?;
            let threads = if i.operands() == 2 { Some(i.source(1, Type::U32)?) } else { None };
            Ok(Op::BarSync { id: id(i, 0)?, threads })
        }
        Bar::Arrive => {
            i.expect(2..=2)?;
            Ok(Op::BarArrive { id: id(i, 0)?, threads: i.source(1, Type::U32)? })
        }
        Bar::Reduce => {
            let choices = [("popc", BarReduce::Popc), ("and", BarReduce::And), ("or", BarReduce::Or)];
            let op = i.required_choice(&choices)?;
            let ty = i.type_of(if op == BarReduce::Popc { &[Type::U32] } else { &[Type::Pred] })?;
            if i.operands() == 4 {
                return Err(format!("a number of threads of `{}` is not executed", i.opcode));
            }
            i.expect(3..=3)?;
            let (predicate, negate) = i.predicate(2)?;
            Ok(Op::BarRed { op, id: id(i, 1)?, predicate, negate, dst: i.destination(0, ty)? })
        }
    }
}

pub(crate) fn shfl(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.require("sync")?;
    let modes =
        [("up", Shuffle::Up), ("down", Shuffle::Down), ("bfly", Shuffle::Bfly), ("idx", Shuffle::Idx)];
    let mode = i.required_choice(&modes)?;
    i.expect(5..=5)?;
    let (dst, valid) = i.destination_and_predicate(0, ty)?;
    let (src, lane) = (i.source(1, ty)?, i.source(2, Type::B32)?);
    let (clamp, mask) = (i.source(3, Type::B32)?, i.source(4, Type::B32)?);
    Ok(Op::Shfl { mode, dst, valid, src, lane, clamp, mask })
}

pub(crate) fn vote(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.require("sync")?;
    let modes = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uni), ("ballot", Vote::Ballot)];
    let mode = i.required_choice(&modes)?;
    let ty = i.type_of(if mode == Vote::Ballot { &[Type::B32] } else { &[Type::Pred] })?;
    i.expect(3..=3)?;
    let (predicate, negate) = i.predicate(1)?;
    Ok(Op::Vote { mode, dst: i.destination(0, ty)?, predicate, negate, mask: i.source(2, Type::B32)? })
}

pub(crate) fn activemask(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(1..=1)?;
    Ok(Op::Activemask { dst: i.destination(0, ty)? })
}

pub(crate) fn match_any(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.require("any")?;
    i.require("sync")?;
    i.expect(3..=3)?;
    let (dst, src) = (i.destination(0, Type::B32)?, i.source(1, ty)?);
    Ok(Op::MatchAny { ty, dst, src, mask: i.source(2, Type::B32)? })
}

pub(crate) fn redux(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.require("sync")?;
    let numbers = [("add", Atomic::Add), ("min", Atomic::Min), ("max", Atomic::Max)];
    let bits = [("and", Atomic::And), ("or", Atomic::Or), ("xor", Atomic::Xor)];
    let op = i.required_choice(if ty == Type::B32 { &bits } else { &numbers })?;
    i.expect(3..=3)?;
    let (dst, src) = (i.destination(0, ty)?, i.source(1, ty)?);
    Ok(Op::Redux { op, ty, dst, src, mask: i.source(2, Type::B32)? })
}

/// What `ldmatrix` and `stmatrix` share: how many 8 × 8 matrices, and whether they are transposed.
fn matrices(i: &mut Instruction) -> Result<(usize, bool), String> {
    for modifier in ["sync", "aligned", "m8n8", "b16"] {
        i.require(modifier)?;
    }
    let count = i.required_choice(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let trans = i.take("trans");
    i.required_choice(&[("shared", ()), ("shared::cta", ())])?;
    i.finish()?;
    i.expect(2..=2)?;
    Ok((count, trans))
}

pub(crate) fn ldmatrix(i: &mut Instruction, _: Type) -> Result<Op, String> {
    let (count, trans) = matrices(i)?;
    let dst = i.all_destinations(0, count, Type::B32)?;
    Ok(Op::LdMatrix { trans, dst: dst.into(), address: i.address(1, Space::Shared)? })
}

pub(crate) fn stmatrix(i: &mut Instruction, _: Type) -> Result<Op, String> {
    let (count, trans) = matrices(i)?;
    let address = i.address(0, Space::Shared)?;
    let mut src = SmallVec::new();
    for reg in i.all_destinations(1, count, Type::B32)? {
        src.push(reg);
    }
    Ok(Op::StMatrix { trans, src, address })
}

/// Shapes with the number of registers of A and B.
const SHAPES: &[(&str, &str, Mma, usize, usize)] = &[
    ("m16n8k16", "f32.bf16.bf16.f32", Mma::M16N8K16Bf16, 4, 2),
    ("m16n8k8", "f32.bf16.bf16.f32", Mma::M16N8K8Bf16, 2, 1),
    ("m16n8k16", "f32.f16.f16.f32", Mma::M16N8K16F16, 4, 2),
    ("m16n8k8", "f32.tf32.tf32.f32", Mma::M16N8K8Tf32, 4, 2),
    ("m16n8k4", "f32.tf32.tf32.f32", Mma::M16N8K4Tf32, 2, 1),
];

pub(crate) fn mma(i: &mut Instruction, _: Type) -> Result<Op, String> {
    for modifier in ["sync", "aligned", "row", "col"] {
        i.require(modifier)?;
    }
    let mut types = Vec::new();
    while let Some(ty) = i.take_type() {
        types.push(ty.name());
    }
    let types = types.join(".");
    let found = SHAPES.iter().find(|(shape, ty, ..)| *ty == types && i.take(shape));
    let Some(&(_, _, shape, a, b)) = found else {
        return Err(format!("matrix product `{}` is not executed", i.opcode));
    };
    i.finish()?;
    i.expect(4..=4)?;
    let broken = |_| format!("`{}` has four results", i.opcode);
    let d = i.all_destinations(0, 4, Type::F32)?.try_into().map_err(broken)?;
    let c = i.sources(3, 4, Type::F32, false)?.try_into().map_err(|_| broken(Vec::new()))?;
    let (a, b) = (i.sources(1, a, Type::B32, false)?, i.sources(2, b, Type::B32, false)?);
    Ok(Op::Mma { shape, d, a: a.into(), b: b.into(), c })
}
