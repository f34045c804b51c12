//! Loads and stores: the moves between memory and registers, once [`Warp::resolve`] has checked the access.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::access::{Access, Pointers, nowhere};
use crate::block::Scene;
use crate::collective::lanes;
use crate::fault::{FaultKind, Problem, problem};
use crate::inst::{Address, File, Reg, Space, Src, Type};
use crate::program::type_bytes;
use crate::registers::{LANES, blend};
use crate::warp::Warp;

// Safety of these functions: `p` points to an aligned element in memory that lives, which others access atomically only.
macro_rules! element {
    ($load:ident, $store:ident, $atomic:ty, $int:ty) => {
        #[inline(always)]
        unsafe fn $load(p: *mut u8) -> $int {
            // SAFETY: as the caller promises.
            unsafe { <$atomic>::from_ptr(p.cast()) }.load(Ordering::Relaxed)
        }
        unsafe fn $store(p: *mut u8, value: $int) {
            // SAFETY: as the caller promises.
            unsafe { <$atomic>::from_ptr(p.cast()) }.store(value, Ordering::Relaxed);
        }
    };
}

element!(load8, store8, AtomicU8, u8);
element!(load16, store16, AtomicU16, u16);
element!(load32, store32, AtomicU32, u32);
element!(load64, store64, AtomicU64, u64);

impl Warp<'_> {
    /// `ld`
    pub fn load(
        &mut self,
        scene: &mut Scene<'_>,
        mask: u32,
        space: Space,
        ty: Type,
        dst: &[Option<Reg>],
        address: &Address,
    ) -> Result<(), Box<Problem>> {
        let size = type_bytes(ty);
        let addresses = self.registers.addresses(address, &self.context);
        let mut pointers = nowhere();
        let bytes = size * dst.len() as u32;
        self.resolve(scene, space, &addresses, mask, bytes, Access::Read, &mut pointers)?;
        for (i, reg) in dst.iter().enumerate() {
            if i > 0 {
                pointers.iter_mut().for_each(|p| *p = p.wrapping_add(size as usize));
            }
            if let Some(reg) = reg {
                // SAFETY: `resolve` has checked all elements of the lanes of `mask`; the other lanes read zeros, of
                // which there are as many as the largest access has bytes.
                unsafe { self.load_element(*reg, ty, &pointers, mask) };
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// Every pointer is that of an aligned element of `ty` in memory that lives.
    unsafe fn load_element(&mut self, reg: Reg, ty: Type, at: &Pointers, mask: u32) {
        let index = reg.index as usize;
        let size = type_bytes(ty);
        match (size, reg.file) {
            // SAFETY: as the caller promises.
            (4, File::B32) => unsafe { gather(&mut self.registers.b32[index], at, mask, load32) },
            // SAFETY: as the caller promises.
            (8, File::B64) => unsafe { gather(&mut self.registers.b64[index], at, mask, load64) },
            // SAFETY: as the caller promises.
            (2, File::B16) => unsafe { gather(&mut self.registers.b16[index], at, mask, load16) },
            (16, File::B128) => {
                for lane in lanes(mask) {
                    let p = at[lane as usize];
                    // SAFETY: as the caller promises; the element is two words of 8 bytes.
                    let (low, high) = unsafe { (load64(p), load64(p.wrapping_add(8))) };
                    self.registers.b128[index][lane as usize] = u128::from(low) | u128::from(high) << 64;
                }
            }
            _ => {
                let mut values = [0; LANES];
                for (value, p) in values.iter_mut().zip(at) {
                    // SAFETY: as the caller promises.
                    let bits = unsafe { load_bits(*p, size.min(8)) };
                    let unused = 64 - 8 * size.min(8);
                    *value = if ty.is_signed() { ((bits << unused) as i64 >> unused) as u64 } else { bits };
                }
                self.registers.put64(reg, &values, mask);
            }
        }
    }

    /// `st`
    pub fn store(
        &mut self,
        scene: &mut Scene<'_>,
        mask: u32,
        space: Space,
        ty: Type,
        src: &[Src],
        address: &Address,
    ) -> Result<(), Box<Problem>> {
        let size = type_bytes(ty);
        let addresses = self.registers.addresses(address, &self.context);
        let mut pointers = nowhere();
        let bytes = size * src.len() as u32;
        let clash = self.resolve(scene, space, &addresses, mask, bytes, Access::Write, &mut pointers)?;
        for (i, src) in src.iter().enumerate() {
            if i > 0 {
                pointers.iter_mut().for_each(|p| *p = p.wrapping_add(size as usize));
            }
            let at = &pointers;
            match size {
                4 => {
                    let values = self.registers.source32(src, &self.context);
                    for lane in lanes(mask) {
                        // SAFETY: `resolve` has checked the element.
                        unsafe { store32(at[lane as usize], values[lane as usize]) };
                    }
                }
                16 => {
                    let values = match *src {
                        Src::Reg(Reg { file: File::B128, index }) => self.registers.b128[index as usize],
                        _ => self.registers.source64(src, &self.context).map(u128::from),
                    };
                    for lane in lanes(mask) {
                        let (p, value) = (at[lane as usize], values[lane as usize]);
                        // SAFETY: `resolve` has checked the element, which is two words of 8 bytes.
                        unsafe { store64(p, value as u64) };
                        // SAFETY: as above.
                        unsafe { store64(p.wrapping_add(8), (value >> 64) as u64) };
                    }
                }
                _ => {
                    let values = self.registers.source64(src, &self.context);
                    for lane in lanes(mask) {
                        // SAFETY: `resolve` has checked the element.
                        unsafe { store_bits(at[lane as usize], size, values[lane as usize]) };
                    }
                }
            }
            if clash {
                self.same_values(src, at, mask, size, scene)?;
            }
        }
        Ok(())
    }

    /// Lanes of one instruction wrote to one place: they must have written the same.
    fn same_values(
        &self,
        src: &Src,
        at: &Pointers,
        mask: u32,
        size: u32,
        scene: &Scene<'_>,
    ) -> Result<(), Box<Problem>> {
        let values = self.registers.source64(src, &self.context);
        for lane in lanes(mask) {
            // SAFETY: the element was checked before it was written.
            let now = unsafe { load_bits(at[lane as usize], size.min(8)) };
            let own = values[lane as usize] & (u64::MAX >> (64 - 8 * size.min(8)));
            if scene.launch.options.races && now != own {
                let message = "lanes of one instruction write different values to one place in shared memory";
                return problem(FaultKind::Race, lane, message.to_owned());
            }
        }
        Ok(())
    }
}

/// Loads an element for each lane; a lane outside the mask keeps what it had.
///
/// # Safety
///
/// Every pointer is one that `load` may be called with.
#[inline(always)]
unsafe fn gather<T: Copy>(
    register: &mut [T; LANES],
    at: &Pointers,
    mask: u32,
    load: unsafe fn(*mut u8) -> T,
) {
    let mut values = *register;
    for (value, p) in values.iter_mut().zip(at) {
        // SAFETY: as the caller promises.
        *value = unsafe { load(*p) };
    }
    blend(register, &values, mask);
}

/// # Safety
///
/// `p` is that of an aligned element of 1, 2, 4 or 8 bytes in memory that lives.
pub(crate) unsafe fn load_bits(p: *mut u8, bytes: u32) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        match bytes {
            1 => u64::from(load8(p)),
            2 => u64::from(load16(p)),
            4 => u64::from(load32(p)),
            _ => load64(p),
        }
    }
}

/// # Safety
///
/// As for [`load_bits`]; the element may be written.
pub(crate) unsafe fn store_bits(p: *mut u8, bytes: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        match bytes {
            1 => store8(p, value as u8),
            2 => store16(p, value as u16),
            4 => store32(p, value as u32),
            _ => store64(p, value),
        }
    }
}
