//! Moves, packing and selection.

use super::lanes::view32;
use super::{Alu, NONE32};
use crate::inst::{File, Reg, Src, Type};
use crate::registers::{LANES, blend};

impl Alu<'_> {
    pub(super) fn mov(&mut self, ty: Type, dst: Reg, src: &Src) {
        match (dst.file, src) {
            (File::Pred, _) => {
                let holds = self.registers.condition(src, false);
                self.put_predicate(Some(dst), holds);
            }
            (File::B32, _) => {
                let mut space = NONE32;
                let values = *view32(self.registers, src, self.context, &mut space);
                self.registers.put32(dst, &values, self.mask);
            }
            (File::B128, Src::Reg(Reg { file: File::B128, index })) if ty == Type::B128 => {
                let values = self.registers.b128[*index as usize];
                blend(&mut self.registers.b128[dst.index as usize], &values, self.mask);
            }
            _ => {
                let values = self.wide(src);
                self.registers.put64(dst, &values, self.mask);
            }
        }
    }

    pub(super) fn pack(&mut self, ty: Type, dst: Reg, parts: &[Src]) {
        let bits = ty.bits() / parts.len().max(1) as u32;
        let mut out = [0u128; LANES];
        for (i, part) in parts.iter().enumerate() {
            let values = self.wide(part);
            for lane in 0..LANES {
                let part = u128::from(values[lane]) & ((1 << bits) - 1);
                out[lane] |= part << (bits * i as u32);
            }
        }
        if dst.file == File::B128 {
            blend(&mut self.registers.b128[dst.index as usize], &out, self.mask);
        } else {
            self.registers.put64(dst, &out.map(|bits| bits as u64), self.mask);
        }
    }

    pub(super) fn unpack(&mut self, ty: Type, parts: &[Option<Reg>], src: &Src) {
        let bits = ty.bits() / parts.len().max(1) as u32;
        let values = match *src {
            Src::Reg(Reg { file: File::B128, index }) => self.registers.b128[index as usize],
            _ => self.wide(src).map(u128::from),
        };
        for (i, part) in parts.iter().enumerate() {
            if let Some(reg) = part {
                let part = values.map(|v| (v >> (bits * i as u32)) as u64 & (u64::MAX >> (64 - bits)));
                self.registers.put64(*reg, &part, self.mask);
            }
        }
    }

    pub(super) fn select(&mut self, dst: Reg, a: &Src, b: &Src, predicate: &Src) {
        let first = self.registers.condition(predicate, false);
        if dst.file == File::B32 {
            let (mut space_a, mut space_b) = (NONE32, NONE32);
            let a = view32(self.registers, a, self.context, &mut space_a);
            let b = view32(self.registers, b, self.context, &mut space_b);
            let mut out = *b;
            blend(&mut out, a, first);
            self.registers.put32(dst, &out, self.mask);
        } else {
            let (a, mut out) = (self.wide(a), self.wide(b));
            blend(&mut out, &a, first);
            self.registers.put64(dst, &out, self.mask);
        }
    }
}
