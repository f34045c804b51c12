//! Arithmetic of a warp on its registers. What is executed is chosen once per instruction; the loops are over lanes, all
//! 32 of them, and the mask decides which results are kept.

mod compare;
mod convert;
mod exact;
mod float;
mod half;
mod integer;
mod lanes;
mod moves;
#[cfg(test)]
mod tests;

use crate::inst::{Binary, File, Float, Op, Reg, Round, Src, Ternary, Type, Unary};
use crate::registers::{Context, LANES, Registers};
use convert::Conversion;
use integer::{Carried, bits16, bits32, bits64};
pub(crate) use lanes::vectorised;
use lanes::{put16, view16, view32, view64};

const NONE32: [u32; LANES] = [0; LANES];
const NONE64: [u64; LANES] = [0; LANES];

/// Executes an operation that works on registers alone, for the lanes of `mask`. Returns false, with nothing done, for
/// operations that touch memory, other lanes or control flow.
pub fn execute(op: &Op, registers: &mut Registers, mask: u32, context: &Context) -> bool {
    let mut alu = Alu { registers, mask, context };
    match op {
        Op::Mov { ty, dst, src } => alu.mov(*ty, *dst, src),
        Op::Pack { ty, dst, parts } => alu.pack(*ty, *dst, parts),
        Op::Unpack { ty, parts, src } => alu.unpack(*ty, parts, src),
        Op::Unary { op, ty, float, dst, a } => return alu.unary(*op, *ty, *float, *dst, a),
        Op::Binary { op, ty, float, carry_out, carry_in, dst, a, b } => {
            if *carry_out || *carry_in {
                let op = match op {
                    Binary::Add => Carried::Add,
                    Binary::Sub => Carried::Sub,
                    _ => return false,
                };
                alu.carried(op, *ty, *dst, [a, b, b], *carry_in, *carry_out);
            } else {
                return alu.binary(*op, *ty, *float, *dst, a, b);
            }
        }
        Op::Ternary { op, ty, float, carry_out, carry_in, dst, a, b, c } => {
            if *carry_out || *carry_in {
                let high = match op {
                    Ternary::MadLo => false,
                    Ternary::MadHi => true,
                    _ => return false,
                };
                let op = Carried::Mad { high, signed: ty.is_signed() };
                alu.carried(op, *ty, *dst, [a, b, c], *carry_in, *carry_out);
            } else {
                return alu.ternary(*op, *ty, *float, *dst, [a, b, c]);
            }
        }
        Op::Bfi { ty, dst, a, b, position, length } => {
            let [a, b] = [a, b].map(|src| alu.wide(src));
            let [position, length] = [position, length].map(|src| alu.registers.source32(src, context));
            let out = std::array::from_fn(|l| integer::insert(ty.bits(), a[l], b[l], position[l], length[l]));
            alu.registers.put64(*dst, &out, mask);
        }
        Op::Setp { compare, ty, ftz, dst, other, a, b, combine } => {
            let Some(holds) = compare::compare(*compare, *ty, *ftz, alu.registers, a, b, context) else {
                return false;
            };
            let (holds, complement) = compare::combine(holds, combine, alu.registers);
            alu.put_predicate(*dst, holds);
            alu.put_predicate(*other, complement);
        }
        Op::Set { compare, ty, to, ftz, dst, a, b, combine } => {
            let Some(holds) = compare::compare(*compare, *ty, *ftz, alu.registers, a, b, context) else {
                return false;
            };
            let (holds, _) = compare::combine(holds, combine, alu.registers);
            let truth = compare::truth(*to);
            let out = std::array::from_fn(|lane| if holds >> lane & 1 != 0 { truth } else { 0 });
            alu.registers.put32(*dst, &out, mask);
        }
        Op::Selp { dst, a, b, predicate, .. } => alu.select(*dst, a, b, predicate),
        Op::Cvt { to, from, round, ftz, sat, relu, integer, dst, src } => {
            let round = round.unwrap_or(Round::Rn);
            let how = Conversion {
                to: *to,
                from: *from,
                round,
                ftz: *ftz,
                sat: *sat,
                relu: *relu,
                integer: *integer,
            };
            alu.convert(how, *dst, src);
        }
        Op::CvtPack { to, round, relu, sat, dst, high, low } => {
            let how = Conversion {
                to: *to,
                from: Type::F32,
                round: *round,
                ftz: false,
                sat: *sat,
                relu: *relu,
                integer: false,
            };
            let (mut space_a, mut space_b, mut out) = (NONE32, NONE32, NONE32);
            let high = view32(alu.registers, high, context, &mut space_a);
            let low = view32(alu.registers, low, context, &mut space_b);
            convert::pack(how, high, low, &mut out);
            alu.registers.put32(*dst, &out, mask);
        }
        _ => return false,
    }
    true
}

/// Where an operation reads and writes.
struct Alu<'a> {
    registers: &'a mut Registers,
    mask: u32,
    context: &'a Context<'a>,
}

impl Alu<'_> {
    /// An operand of any width as 64 bits.
    fn wide(&self, src: &Src) -> [u64; LANES] {
        self.registers.source64(src, self.context)
    }

    fn put_predicate(&mut self, reg: Option<Reg>, holds: u32) {
        if let Some(reg) = reg {
            let old = &mut self.registers.pred[reg.index as usize];
            *old = *old & !self.mask | holds & self.mask;
        }
    }

    fn unary(&mut self, op: Unary, ty: Type, float: Float, dst: Reg, a: &Src) -> bool {
        match ty {
            Type::Pred => {
                let holds = self.registers.condition(a, true);
                self.put_predicate(Some(dst), holds);
                return op == Unary::Not;
            }
            Type::F32 => {
                let (mut space, mut out) = (NONE32, NONE32);
                let a = view32(self.registers, a, self.context, &mut space);
                if !float::unary32(op, float, a, &mut out) {
                    return false;
                }
                self.registers.put32(dst, &out, self.mask);
            }
            Type::F64 => {
                let mut out = NONE64;
                if !float::unary64(op, float, &self.wide(a), &mut out) {
                    return false;
                }
                self.registers.put64(dst, &out, self.mask);
            }
            _ => {
                return self.each(dst, [a], |[a]| match ty {
                    Type::F16 | Type::Bf16 => half::unary(op, ty, float, a & 0xffff),
                    Type::F16x2 | Type::Bf16x2 => half::halves([a], |[a]| half::unary(op, ty, float, a)),
                    _ => integer::unary(op, ty, a),
                });
            }
        }
        true
    }

    /// Applies a function to one lane after the other; false, with nothing done, where it has no result.
    fn each<const N: usize>(
        &mut self,
        dst: Reg,
        sources: [&Src; N],
        f: impl Fn([u64; N]) -> Option<u64>,
    ) -> bool {
        let sources = sources.map(|src| self.wide(src));
        let mut out = NONE64;
        for lane in 0..LANES {
            match f(std::array::from_fn(|i| sources[i][lane])) {
                Some(bits) => out[lane] = bits,
                None => return false,
            }
        }
        self.registers.put64(dst, &out, self.mask);
        true
    }

    fn binary(&mut self, op: Binary, ty: Type, float: Float, dst: Reg, a: &Src, b: &Src) -> bool {
        let (registers, context, mask) = (&mut *self.registers, self.context, self.mask);
        let signed = ty.is_signed();
        match ty {
            Type::Pred => {
                let (x, y) = (registers.condition(a, false), registers.condition(b, false));
                let holds = match op {
                    Binary::And => x & y,
                    Binary::Or => x | y,
                    Binary::Xor => x ^ y,
                    _ => return false,
                };
                self.put_predicate(Some(dst), holds);
            }
            Type::U32 | Type::S32 | Type::B32 | Type::F32 => {
                let (mut space_a, mut space_b) = (NONE32, NONE32);
                let a = view32(registers, a, context, &mut space_a);
                let b = view32(registers, b, context, &mut space_b);
                if op == Binary::MulWide {
                    let mut out = NONE64;
                    integer::wide32(signed, a, b, &NONE64, &mut out);
                    registers.put64(dst, &out, mask);
                    return true;
                }
                let mut out = NONE32;
                let known = match op {
                    _ if ty == Type::F32 => float::binary32(op, float, a, b, &mut out),
                    Binary::Shl | Binary::Shr => {
                        bits32::shift(op == Binary::Shl, signed, a, b, &mut out);
                        true
                    }
                    _ => bits32::binary(op, signed, float.sat, a, b, &mut out),
                };
                if !known {
                    return false;
                }
                registers.put32(dst, &out, mask);
            }
            Type::U64 | Type::S64 | Type::B64 | Type::F64 => {
                let (mut space_a, mut space_b, mut out) = (NONE64, NONE64, NONE64);
                let a = view64(registers, a, context, &mut space_a);
                if matches!(op, Binary::Shl | Binary::Shr) {
                    let mut space = NONE32;
                    let b = view32(registers, b, context, &mut space);
                    bits64::shift(op == Binary::Shl, signed, a, b, &mut out);
                } else {
                    let b = view64(registers, b, context, &mut space_b);
                    let known = if ty == Type::F64 {
                        float::binary64(op, float, a, b, &mut out)
                    } else {
                        bits64::binary(op, signed, float.sat, a, b, &mut out)
                    };
                    if !known {
                        return false;
                    }
                }
                registers.put64(dst, &out, mask);
            }
            Type::U16 | Type::S16 | Type::B16 => {
                let x = view16(registers, a, context);
                let mut out = [0; LANES];
                match op {
                    Binary::Shl | Binary::Shr => {
                        let amounts = registers.source32(b, context);
                        bits16::shift(op == Binary::Shl, signed, &x, &amounts, &mut out);
                    }
                    Binary::MulWide => {
                        let mut out = NONE32;
                        integer::wide16(signed, &x, &view16(registers, b, context), &NONE32, &mut out);
                        registers.put32(dst, &out, mask);
                        return true;
                    }
                    _ => {
                        if !bits16::binary(
                            op,
                            signed,
                            float.sat,
                            &x,
                            &view16(registers, b, context),
                            &mut out,
                        ) {
                            return false;
                        }
                    }
                }
                put16(registers, dst, &out, mask);
            }
            Type::F16 | Type::Bf16 => {
                return self.each(dst, [a, b], |[a, b]| half::binary(op, ty, float, a & 0xffff, b & 0xffff));
            }
            Type::F16x2 | Type::Bf16x2 => {
                return self.each(dst, [a, b], |pairs| {
                    half::halves(pairs, |[a, b]| half::binary(op, ty, float, a, b))
                });
            }
            Type::B8 | Type::U8 | Type::S8 | Type::B128 | Type::Tf32 => return false,
        }
        true
    }

    fn ternary(&mut self, op: Ternary, ty: Type, float: Float, dst: Reg, [a, b, c]: [&Src; 3]) -> bool {
        let (registers, context, mask) = (&mut *self.registers, self.context, self.mask);
        let signed = ty.is_signed();
        let high = op == Ternary::MadHi;
        match (ty, op) {
            (Type::F32, _) if float::is_fma(op) => {
                let (mut space_a, mut space_b, mut space_c, mut out) = (NONE32, NONE32, NONE32, NONE32);
                let a = view32(registers, a, context, &mut space_a);
                let b = view32(registers, b, context, &mut space_b);
                let c = view32(registers, c, context, &mut space_c);
                float::fma32(float, a, b, c, &mut out);
                registers.put32(dst, &out, mask);
            }
            (Type::F64, _) if float::is_fma(op) => {
                let [a, b, c] = [a, b, c].map(|src| registers.source64(src, context));
                let mut out = NONE64;
                float::fma64(float, &a, &b, &c, &mut out);
                registers.put64(dst, &out, mask);
            }
            (Type::F16 | Type::Bf16, Ternary::Fma { relu }) => {
                return self.each(dst, [a, b, c], |[a, b, c]| {
                    Some(half::fma(ty, float, relu, a & 0xffff, b & 0xffff, c & 0xffff))
                });
            }
            (Type::F16x2 | Type::Bf16x2, Ternary::Fma { relu }) => {
                return self.each(dst, [a, b, c], |triples| {
                    half::halves(triples, |[a, b, c]| Some(half::fma(ty, float, relu, a, b, c)))
                });
            }
            (Type::U32 | Type::S32, Ternary::MadWide) => {
                let (mut space_a, mut space_b, mut space_c, mut out) = (NONE32, NONE32, NONE64, NONE64);
                let a = view32(registers, a, context, &mut space_a);
                let b = view32(registers, b, context, &mut space_b);
                let c = view64(registers, c, context, &mut space_c);
                integer::wide32(signed, a, b, c, &mut out);
                registers.put64(dst, &out, mask);
            }
            (Type::U16 | Type::S16, Ternary::MadWide) => {
                let [a, b] = [a, b].map(|src| view16(registers, src, context));
                let mut out = NONE32;
                integer::wide16(signed, &a, &b, &registers.source32(c, context), &mut out);
                registers.put32(dst, &out, mask);
            }
            (Type::U16 | Type::S16, Ternary::MadLo | Ternary::MadHi) => {
                let [a, b, c] = [a, b, c].map(|src| view16(registers, src, context));
                let mut out = [0; LANES];
                bits16::mad(high, signed, &a, &b, &c, &mut out);
                put16(registers, dst, &out, mask);
            }
            (Type::U64 | Type::S64, Ternary::MadLo | Ternary::MadHi) => {
                let [a, b, c] = [a, b, c].map(|src| registers.source64(src, context));
                let mut out = NONE64;
                bits64::mad(high, signed, &a, &b, &c, &mut out);
                registers.put64(dst, &out, mask);
            }
            (_, Ternary::Sad) => {
                return self.each(dst, [a, b, c], |[a, b, c]| {
                    Some(integer::absolute_difference(ty.bits(), signed, a, b, c))
                });
            }
            (Type::U32 | Type::S32 | Type::U64 | Type::S64, Ternary::Bfe) => {
                return self
                    .each(dst, [a, b, c], |[a, b, c]| Some(integer::extract(ty, a, b as u32, c as u32)));
            }
            (Type::U32 | Type::S32 | Type::B32, _) => {
                let (mut space_a, mut space_b, mut space_c, mut out) = (NONE32, NONE32, NONE32, NONE32);
                let a = view32(registers, a, context, &mut space_a);
                let b = view32(registers, b, context, &mut space_b);
                let c = view32(registers, c, context, &mut space_c);
                match op {
                    Ternary::MadLo | Ternary::MadHi => bits32::mad(high, signed, a, b, c, &mut out),
                    _ => {
                        if !integer::ternary32(op, signed, a, b, c, &mut out) {
                            return false;
                        }
                    }
                }
                registers.put32(dst, &out, mask);
            }
            _ => return false,
        }
        true
    }

    fn carried(
        &mut self,
        op: Carried,
        ty: Type,
        dst: Reg,
        sources: [&Src; 3],
        carry_in: bool,
        carry_out: bool,
    ) {
        let sources = sources.map(|src| self.wide(src));
        let (mut out, mut flags) = (NONE64, 0);
        for lane in 0..LANES {
            let carry = carry_in && self.registers.carry >> lane & 1 != 0;
            let (value, flag) = integer::carried(op, ty.bits(), sources.map(|s| s[lane]), carry);
            out[lane] = value;
            flags |= u32::from(flag) << lane;
        }
        self.registers.put64(dst, &out, self.mask);
        if carry_out {
            self.registers.carry = self.registers.carry & !self.mask | flags & self.mask;
        }
    }

    fn convert(&mut self, how: Conversion, dst: Reg, src: &Src) {
        let (registers, context, mask) = (&mut *self.registers, self.context, self.mask);
        if how.to.bits() == 32 && how.from.bits() == 32 && dst.file == File::B32 {
            let (mut space, mut out) = (NONE32, NONE32);
            let a = view32(registers, src, context, &mut space);
            if convert::convert32(how, a, &mut out) {
                return registers.put32(dst, &out, mask);
            }
        }
        let plain = !how.ftz && !how.sat && !how.relu && !how.integer;
        if (how.to, how.from, how.round) == (Type::Bf16, Type::F32, Round::Rn) && plain {
            let (mut space, mut out) = (NONE32, [0; LANES]);
            convert::to_bf16(view32(registers, src, context, &mut space), &mut out);
            return put16(registers, dst, &out, mask);
        }
        if (how.to, how.from) == (Type::F32, Type::Bf16) && plain {
            let mut out = NONE32;
            convert::from_bf16(&view16(registers, src, context), &mut out);
            return registers.put32(dst, &out, mask);
        }
        let (mut space, mut out) = (NONE64, NONE64);
        convert::convert(how, view64(registers, src, context, &mut space), &mut out);
        registers.put64(dst, &out, mask);
    }
}
