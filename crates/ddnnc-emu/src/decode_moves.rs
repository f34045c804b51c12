//! Moves, selections, comparisons and conversions.

use crate::decode::ROUNDINGS;
use crate::inst::{BoolOp, Compare, Op, Round, Src, Type};
use crate::instruction::Instruction;

pub(crate) fn mov(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(2..=2)?;
    if !i.is_vector(0) && !i.is_vector(1) {
        let (dst, src) = (i.destination(0, ty)?, i.source(1, ty)?);
        return Ok(Op::Mov { ty, dst, src });
    }
    let packed = if i.is_vector(0) { 0 } else { 1 };
    let count = i.length(packed)?;
    let part = match (ty, count) {
        (Type::B16, 2) => Type::B8,
        (Type::B32, 2) => Type::B16,
        (Type::B32, 4) => Type::B8,
        (Type::B64, 2) => Type::B32,
        (Type::B64, 4) => Type::B16,
        (Type::B128, 2) => Type::B64,
        (Type::B128, 4) => Type::B32,
        _ => return Err(format!("`{}` of {count} parts is not executed", i.opcode)),
    };
    if packed == 1 {
        let (dst, parts) = (i.destination(0, ty)?, i.sources(1, count, part, false)?);
        return Ok(Op::Pack { ty, dst, parts: parts.into() });
    }
    let (parts, src) = (i.destinations(0, count, part, false)?, i.source(1, ty)?);
    Ok(Op::Unpack { ty, parts: parts.into(), src })
}

pub(crate) fn selp(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(4..=4)?;
    let (dst, a, b) = (i.destination(0, ty)?, i.source(1, ty)?, i.source(2, ty)?);
    Ok(Op::Selp { ty, dst, a, b, predicate: i.source(3, Type::Pred)? })
}

const COMPARISONS: &[(&str, Compare)] = &[
    ("eq", Compare::Eq),
    ("ne", Compare::Ne),
    ("lt", Compare::Lt),
    ("le", Compare::Le),
    ("gt", Compare::Gt),
    ("ge", Compare::Ge),
    ("lo", Compare::Lo),
    ("ls", Compare::Ls),
    ("hi", Compare::Hi),
    ("hs", Compare::Hs),
    ("equ", Compare::Equ),
    ("neu", Compare::Neu),
    ("ltu", Compare::Ltu),
    ("leu", Compare::Leu),
    ("gtu", Compare::Gtu),
    ("geu", Compare::Geu),
    ("num", Compare::Num),
    ("nan", Compare::Nan),
];

const LOGIC: &[(&str, BoolOp)] = &[("and", BoolOp::And), ("or", BoolOp::Or), ("xor", BoolOp::Xor)];

/// What `setp` and `set` share: the comparison, and the predicate that it is combined with.
type Comparison = (Compare, bool, Option<(BoolOp, Src, bool)>);

fn comparison(i: &mut Instruction, ty: Type) -> Result<Comparison, String> {
    let compare = i.required_choice(COMPARISONS)?;
    let allowed = match compare {
        Compare::Eq | Compare::Ne => true,
        Compare::Lt | Compare::Le | Compare::Gt | Compare::Ge => !ty.name().starts_with('b') || ty.is_float(),
        Compare::Lo | Compare::Ls | Compare::Hi | Compare::Hs => ty.name().starts_with('u'),
        _ => ty.is_float(),
    };
    if !allowed {
        return Err(format!("this comparison of `{}` does not go with its type", i.opcode));
    }
    let ftz = matches!(ty, Type::F32 | Type::F16) && i.take("ftz");
    let combine = match i.choice(LOGIC) {
        Some(logic) => {
            i.expect(4..=4)?;
            let (predicate, negate) = i.predicate(3)?;
            Some((logic, predicate, negate))
        }
        None => {
            i.expect(3..=3)?;
            None
        }
    };
    Ok((compare, ftz, combine))
}

pub(crate) fn setp(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    let (compare, ftz, combine) = comparison(i, ty)?;
    let (dst, other) = i.predicate_pair(0)?;
    let (a, b) = (i.source(1, ty)?, i.source(2, ty)?);
    Ok(Op::Setp { compare, ty, ftz, dst, other, a, b, combine })
}

pub(crate) fn set(i: &mut Instruction, _: Type) -> Result<Op, String> {
    use Type::{B16, B32, B64, Bf16, F16, F32, F64, S16, S32, S64, U16, U32, U64};
    let to = i.type_of(&[U32, S32, F32, F16, Bf16])?;
    let ty = i.type_of(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, Bf16, F32, F64])?;
    let (compare, ftz, combine) = comparison(i, ty)?;
    let dst = i.destination(0, to)?;
    let (a, b) = (i.source(1, ty)?, i.source(2, ty)?);
    Ok(Op::Set { compare, ty, to, ftz, dst, a, b, combine })
}

const TO_INTEGER: &[(&str, Round)] =
    &[("rni", Round::Rn), ("rzi", Round::Rz), ("rmi", Round::Rm), ("rpi", Round::Rp)];

pub(crate) fn cvt(i: &mut Instruction, _: Type) -> Result<Op, String> {
    use Type::{Bf16, Bf16x2, F16, F16x2, F32, F64, Tf32};
    const TYPES: &[Type] = &[
        Type::U8,
        Type::U16,
        Type::U32,
        Type::U64,
        Type::S8,
        Type::S16,
        Type::S32,
        Type::S64,
        F16,
        Bf16,
        F32,
        F64,
    ];
    i.refuse(&["pack", "rs", "satfinite", "scaled"])?;
    let to = i.type_of(&[TYPES, &[Tf32, F16x2, Bf16x2]].concat())?;
    let from = i.type_of(TYPES)?;
    let refused = |i: &Instruction| format!("conversion `{}` is not executed", i.opcode);
    if matches!(to, F16x2 | Bf16x2) {
        i.expect(3..=3)?;
        let round = i.required_choice(&[("rn", Round::Rn), ("rz", Round::Rz)])?;
        if from != F32 {
            return Err(refused(i));
        }
        let (dst, high, low) = (i.destination(0, to)?, i.source(1, F32)?, i.source(2, F32)?);
        return Ok(Op::CvtPack { to, round, relu: i.take("relu"), sat: false, dst, high, low });
    }
    i.expect(2..=2)?;
    let mut integer = false;
    let mut round = None;
    match (to.is_float(), from.is_float()) {
        (false, true) => round = Some(i.required_choice(TO_INTEGER)?),
        (true, false) => round = Some(i.required_choice(ROUNDINGS)?),
        (true, true) if to == Tf32 => {
            let choices = [("rna", Round::Rna), ("rn", Round::Rn), ("rz", Round::Rz)];
            round = Some(i.required_choice(&choices)?);
        }
        (true, true) => {
            if let Some(r) = i.choice(TO_INTEGER) {
                if to != from {
                    return Err(refused(i));
                }
                (integer, round) = (true, Some(r));
            } else if to.bits() < from.bits() {
                round = Some(i.required_choice(ROUNDINGS)?);
            } else if to != from && to.bits() == 16 {
                return Err(refused(i));
            }
        }
        (false, false) => {}
    }
    if to == Tf32 && from != F32 {
        return Err(refused(i));
    }
    let ftz = (to == F32 || from == F32) && i.take("ftz");
    let relu = matches!(to, F16 | Bf16 | Tf32) && from == F32 && i.take("relu");
    let sat = to != Tf32 && !relu && i.take("sat");
    let (dst, src) = (i.destination(0, to)?, i.wide_source(1, from)?);
    Ok(Op::Cvt { to, from, round, ftz, sat, relu, integer, dst, src })
}
