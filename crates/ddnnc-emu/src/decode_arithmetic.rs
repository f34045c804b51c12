//! Arithmetic, logic and bits.

use crate::decode::{Rounding, float};
use crate::inst::{Binary, Float, Op, Round, Ternary, Type, Unary};
use crate::instruction::Instruction;

const EXACT: Float = Float { round: Round::Rn, ftz: false, sat: false };

/// The type of twice the width.
fn twice(ty: Type) -> Option<Type> {
    match ty {
        Type::U16 => Some(Type::U32),
        Type::S16 => Some(Type::S32),
        Type::U32 => Some(Type::U64),
        Type::S32 => Some(Type::S64),
        _ => None,
    }
}

pub(crate) fn unary(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(2..=2)?;
    let (op, rounding) = match i.root {
        "not" => (Unary::Not, Rounding::None),
        "neg" => (Unary::Neg, Rounding::None),
        "abs" => (Unary::Abs, Rounding::None),
        "cnot" => (Unary::Cnot, Rounding::None),
        "popc" => (Unary::Popc, Rounding::None),
        "clz" => (Unary::Clz, Rounding::None),
        "brev" => (Unary::Brev, Rounding::None),
        "bfind" => (Unary::Bfind { shift_amount: i.take("shiftamt") }, Rounding::None),
        "rcp" | "sqrt" => {
            let approx = i.take("approx");
            let op = if i.root == "rcp" { Unary::Rcp { approx } } else { Unary::Sqrt { approx } };
            (op, if approx { Rounding::None } else { Rounding::Required })
        }
        root => {
            i.require("approx")?;
            let op = match root {
                "rsqrt" => Unary::RsqrtApprox,
                "ex2" => Unary::Ex2Approx,
                "lg2" => Unary::Lg2Approx,
                "sin" => Unary::SinApprox,
                "cos" => Unary::CosApprox,
                _ => Unary::TanhApprox,
            };
            (op, Rounding::None)
        }
    };
    let approximate = matches!(op, Unary::Rcp { approx: true } | Unary::Sqrt { approx: true });
    if ty == Type::F64 && matches!(op, Unary::Sqrt { approx: true }) {
        return Err(format!("`{}` has no approximation of type `.f64`", i.opcode));
    }
    let mut mode = float(i, ty, rounding, false)?;
    // `rcp.approx.ftz.f64`, `rsqrt.approx{.ftz}.f64` and `ex2.approx.ftz.bf16` have flushing forms too.
    let flushes = approximate || matches!(op, Unary::RsqrtApprox | Unary::Ex2Approx);
    if flushes && matches!(ty, Type::F64 | Type::Bf16 | Type::Bf16x2) {
        mode.ftz = i.take("ftz");
    }
    let result = match op {
        Unary::Popc | Unary::Clz | Unary::Bfind { .. } => Type::U32,
        _ => ty,
    };
    let (dst, a) = (i.destination(0, result)?, i.source(1, ty)?);
    Ok(Op::Unary { op, ty, float: mode, dst, a })
}

const HALF_OF_PRODUCT: &[(&str, (Binary, Ternary))] = &[
    ("lo", (Binary::MulLo, Ternary::MadLo)),
    ("hi", (Binary::MulHi, Ternary::MadHi)),
    ("wide", (Binary::MulWide, Ternary::MadWide)),
];

pub(crate) fn binary(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(3..=3)?;
    let mut mode = EXACT;
    let (mut carry_out, mut carry_in) = (false, false);
    let op = match i.root {
        "add" | "sub" => {
            mode = float(i, ty, Rounding::Optional, true)?;
            let words = matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64);
            carry_out = words && i.take("cc");
            if i.root == "add" { Binary::Add } else { Binary::Sub }
        }
        "addc" | "subc" => {
            (carry_out, carry_in) = (i.take("cc"), true);
            if i.root == "addc" { Binary::Add } else { Binary::Sub }
        }
        "mul" if ty.is_float() => {
            mode = float(i, ty, Rounding::Optional, true)?;
            Binary::MulLo
        }
        "mul" => i.required_choice(HALF_OF_PRODUCT)?.0,
        "mul24" => {
            i.require("lo")?;
            Binary::Mul24Lo
        }
        "div" if ty.is_float() => {
            let approx = ty == Type::F32 && (i.take("approx") || i.take("full"));
            mode = float(i, ty, if approx { Rounding::None } else { Rounding::Required }, false)?;
            Binary::Div { approx }
        }
        "div" => Binary::Div { approx: false },
        "rem" => Binary::Rem,
        "and" => Binary::And,
        "or" => Binary::Or,
        "xor" => Binary::Xor,
        "shl" => Binary::Shl,
        "shr" => Binary::Shr,
        "copysign" => Binary::CopySign,
        root => {
            mode = float(i, ty, Rounding::None, false)?;
            let nan = ty.is_float() && ty != Type::F64 && i.take("NaN");
            if root == "min" { Binary::Min { nan } } else { Binary::Max { nan } }
        }
    };
    let result = match op {
        Binary::MulWide => {
            twice(ty).ok_or_else(|| format!("type `.{}` of `{}` is not executed", ty.name(), i.opcode))?
        }
        _ => ty,
    };
    let second = if matches!(op, Binary::Shl | Binary::Shr) { Type::U32 } else { ty };
    let (dst, a, b) = (i.destination(0, result)?, i.source(1, ty)?, i.source(2, second)?);
    Ok(Op::Binary { op, ty, float: mode, carry_out, carry_in, dst, a, b })
}

pub(crate) fn ternary(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    let mut mode = EXACT;
    let (mut carry_out, mut carry_in) = (false, false);
    // Types of the second and third operand; the first is of the instruction's.
    let (mut second, mut third) = (ty, ty);
    let op = match i.root {
        "fma" => {
            let relu = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) && i.take("relu");
            mode = float(i, ty, Rounding::Required, !relu)?;
            Ternary::Fma { relu }
        }
        // On every device that is executed here it is fused.
        "mad" if ty.is_float() => {
            mode = float(i, ty, Rounding::Required, true)?;
            Ternary::Fma { relu: false }
        }
        "mad" | "madc" => {
            carry_in = i.root == "madc";
            let op = i.required_choice(HALF_OF_PRODUCT)?.1;
            let words = matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64);
            carry_out = words && op != Ternary::MadWide && i.take("cc");
            if op == Ternary::MadWide {
                let refused = format!("type `.{}` of `{}` is not executed", ty.name(), i.opcode);
                third = twice(ty).filter(|_| !carry_in).ok_or(refused)?;
            }
            op
        }
        "mad24" => {
            i.require("lo")?;
            Ternary::Mad24Lo
        }
        "sad" => Ternary::Sad,
        "bfe" => {
            (second, third) = (Type::U32, Type::U32);
            Ternary::Bfe
        }
        "lop3" => {
            i.expect(5..=5)?;
            let table = i.constant(4)?;
            Ternary::Lop3(u8::try_from(table).map_err(|_| format!("the table of `{}` is a byte", i.opcode))?)
        }
        "shf" => {
            let clamp = i.required_choice(&[("clamp", true), ("wrap", false)])?;
            let left = i.required_choice(&[("l", true), ("r", false)])?;
            if left { Ternary::ShfLeft { clamp } } else { Ternary::ShfRight { clamp } }
        }
        _ => Ternary::Prmt,
    };
    if !matches!(op, Ternary::Lop3(_)) {
        i.expect(4..=4)?;
    }
    let dst = i.destination(0, if op == Ternary::MadWide { third } else { ty })?;
    let (a, b, c) = (i.source(1, ty)?, i.source(2, second)?, i.source(3, third)?);
    Ok(Op::Ternary { op, ty, float: mode, carry_out, carry_in, dst, a, b, c })
}

pub(crate) fn dp4a(i: &mut Instruction, _: Type) -> Result<Op, String> {
    i.expect(4..=4)?;
    let (a, b) = (i.type_of(&[Type::U32, Type::S32])?, i.type_of(&[Type::U32, Type::S32])?);
    let (a_signed, b_signed) = (a.is_signed(), b.is_signed());
    let ty = if a_signed || b_signed { Type::S32 } else { Type::U32 };
    let op = Ternary::Dp4a { a_signed, b_signed };
    let (dst, a, b, c) = (i.destination(0, ty)?, i.source(1, a)?, i.source(2, b)?, i.source(3, ty)?);
    Ok(Op::Ternary { op, ty, float: EXACT, carry_out: false, carry_in: false, dst, a, b, c })
}

pub(crate) fn dp2a(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    let high = i.required_choice(&[("lo", false), ("hi", true)])?;
    let mut made = dp4a(i, ty)?;
    if let Op::Ternary { op, .. } = &mut made
        && let Ternary::Dp4a { a_signed, b_signed } = *op
    {
        *op = Ternary::Dp2a { high, a_signed, b_signed };
    }
    Ok(made)
}

pub(crate) fn bfi(i: &mut Instruction, ty: Type) -> Result<Op, String> {
    i.expect(5..=5)?;
    let dst = i.destination(0, ty)?;
    let (a, b) = (i.source(1, ty)?, i.source(2, ty)?);
    let (position, length) = (i.source(3, Type::U32)?, i.source(4, Type::U32)?);
    Ok(Op::Bfi { ty, dst, a, b, position, length })
}
