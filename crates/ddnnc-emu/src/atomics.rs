//! `atom` and `red`: read-modify-write on global and shared memory, real atomics on the host.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::access::{Access, nowhere};
use crate::block::Scene;
use crate::collective::lanes;
use crate::fault::Problem;
use crate::inst::{Atomic, Op, Type};
use crate::order::Order;
use crate::program::type_bytes;
use crate::registers::LANES;
use crate::warp::Warp;

impl Warp<'_> {
    /// Executes such an operation, one lane after the other, in the order of the launch.
    pub fn atomic(&mut self, scene: &mut Scene<'_>, mask: u32, op: &Op) -> Result<(), Box<Problem>> {
        let Op::Atom { space, op, ty, dst, address, a, b } = op else { return Ok(()) };
        let addresses = self.registers.addresses(address, &self.context);
        let bytes = type_bytes(*ty);
        let mut pointers = nowhere();
        self.resolve(scene, *space, &addresses, mask, bytes, Access::Atomic, &mut pointers)?;
        let a = self.registers.source64(a, &self.context);
        let b = b.map_or([0; LANES], |b| self.registers.source64(&b, &self.context));
        let mut old = [0; LANES];
        let mut one = |lane: u32| {
            let l = lane as usize;
            let (a, b) = (a[l], b[l]);
            let p = pointers[l];
            old[l] = if bytes == 4 {
                // SAFETY: `resolve` has checked the element; everything accesses it atomically.
                let cell = unsafe { AtomicU32::from_ptr(p.cast()) };
                let next = |now: u32| Some(step(*op, *ty, u64::from(now), a, b) as u32);
                // The function never gives up, so both arms hold what was there.
                let was = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
                u64::from(was.unwrap_or_else(|now| now))
            } else {
                // SAFETY: as above, with 8 bytes.
                let cell = unsafe { AtomicU64::from_ptr(p.cast()) };
                let next = |now: u64| Some(step(*op, *ty, now, a, b));
                cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_else(|now| now)
            };
        };
        if scene.launch.options.order == Order::Reverse {
            (0..LANES as u32).rev().filter(|l| mask >> l & 1 != 0).for_each(&mut one);
        } else {
            lanes(mask).for_each(&mut one);
        }
        if let Some(dst) = dst {
            self.registers.put64(*dst, &old, mask);
        }
        Ok(())
    }
}

/// What an operation makes of `now`.
fn step(op: Atomic, ty: Type, now: u64, a: u64, b: u64) -> u64 {
    let wide = type_bytes(ty) == 8;
    let cut = |v: u64| if wide { v } else { u64::from(v as u32) };
    let signed = |v: u64| if wide { v as i64 } else { i64::from(v as u32 as i32) };
    let (now, a, b) = (cut(now), cut(a), cut(b));
    match (op, ty) {
        (Atomic::Add, Type::F32) => {
            u64::from((f32::from_bits(now as u32) + f32::from_bits(a as u32)).to_bits())
        }
        (Atomic::Add, Type::F64) => (f64::from_bits(now) + f64::from_bits(a)).to_bits(),
        (Atomic::Add, _) => now.wrapping_add(a),
        (Atomic::Min, Type::S32 | Type::S64) => signed(now).min(signed(a)) as u64,
        (Atomic::Max, Type::S32 | Type::S64) => signed(now).max(signed(a)) as u64,
        (Atomic::Min, _) => now.min(a),
        (Atomic::Max, _) => now.max(a),
        (Atomic::And, _) => now & a,
        (Atomic::Or, _) => now | a,
        (Atomic::Xor, _) => now ^ a,
        (Atomic::Exch, _) => a,
        (Atomic::Cas, _) => {
            if now == a {
                b
            } else {
                now
            }
        }
        (Atomic::Inc, _) => {
            if now >= a {
                0
            } else {
                now + 1
            }
        }
        (Atomic::Dec, _) => {
            if now == 0 || now > a {
                a
            } else {
                now - 1
            }
        }
    }
}
