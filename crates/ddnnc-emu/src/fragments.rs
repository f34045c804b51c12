//! `ldmatrix` and `stmatrix`: 8 × 8 matrices of 16-bit elements between shared memory and a warp's registers.
//!
//! Row `r` of matrix `i` are the 16 bytes at the address that lane `8 i + r` gives. Lane `l` holds of each matrix the
//! elements (l / 4, 2 (l % 4)) and, in the upper half, (l / 4, 2 (l % 4) + 1); with `.trans`, of the transposed matrix.

use crate::access::{Access, Pointers, nowhere};
use crate::block::Scene;
use crate::fault::Problem;
use crate::inst::{Address, Reg, Space, Src};
use crate::moves::{load_bits, store_bits};
use crate::program::{SHARED_WINDOW, WINDOW};
use crate::registers::LANES;
use crate::warp::Warp;

/// A row: eight elements.
const ROW: u32 = 16;

impl Warp<'_> {
    fn rows(
        &mut self,
        scene: &mut Scene<'_>,
        matrices: usize,
        address: &Address,
        access: Access,
    ) -> Result<Pointers, Box<Problem>> {
        let addresses = self.registers.addresses(address, &self.context);
        let offsets =
            addresses.map(|a| if a.wrapping_sub(SHARED_WINDOW) < WINDOW { a - SHARED_WINDOW } else { a });
        let mask = u32::MAX >> (LANES - 8 * matrices);
        let mut pointers = nowhere();
        self.resolve(scene, Space::Shared, &offsets, mask, ROW, access, &mut pointers)?;
        if access == Access::Read && scene.launch.options.races {
            // Lanes read what other lanes give the address of: that a row's own lane wrote it orders nothing. So each
            // row counts as read by a second lane too.
            self.note_reads(scene, &offsets, mask, ROW)?;
        }
        Ok(pointers)
    }

    /// `ldmatrix`, for the whole warp.
    pub fn load_matrix(
        &mut self,
        scene: &mut Scene<'_>,
        trans: bool,
        dst: &[Reg],
        address: &Address,
    ) -> Result<(), Box<Problem>> {
        let rows = self.rows(scene, dst.len(), address, Access::Read)?;
        for (i, reg) in dst.iter().enumerate() {
            let mut matrix = [[0u16; 8]; 8];
            for (row, p) in matrix.iter_mut().zip(&rows[8 * i..]) {
                for half in 0..2 {
                    // SAFETY: `rows` has checked the 16 bytes of the row.
                    let bits = unsafe { load_bits(p.wrapping_add(8 * half), 8) };
                    for e in 0..4 {
                        row[4 * half + e] = (bits >> (16 * e)) as u16;
                    }
                }
            }
            let values = std::array::from_fn(|lane| {
                let (r, c) = (lane / 4, lane % 4 * 2);
                let (low, high) =
                    if trans { (matrix[c][r], matrix[c + 1][r]) } else { (matrix[r][c], matrix[r][c + 1]) };
                u32::from(low) | u32::from(high) << 16
            });
            self.registers.put32(*reg, &values, u32::MAX);
        }
        Ok(())
    }

    /// `stmatrix`, for the whole warp.
    pub fn store_matrix(
        &mut self,
        scene: &mut Scene<'_>,
        trans: bool,
        src: &[Reg],
        address: &Address,
    ) -> Result<(), Box<Problem>> {
        let rows = self.rows(scene, src.len(), address, Access::Write)?;
        for (i, src) in src.iter().enumerate() {
            let values = self.registers.source32(&Src::Reg(*src), &self.context);
            let mut matrix = [[0u16; 8]; 8];
            for (lane, value) in values.into_iter().enumerate() {
                let (r, c) = (lane / 4, lane % 4 * 2);
                let (low, high) = (value as u16, (value >> 16) as u16);
                if trans {
                    (matrix[c][r], matrix[c + 1][r]) = (low, high);
                } else {
                    (matrix[r][c], matrix[r][c + 1]) = (low, high);
                }
            }
            for (row, p) in matrix.iter().zip(&rows[8 * i..]) {
                for half in 0..2 {
                    let bits = (0..4).fold(0, |bits, e| bits | u64::from(row[4 * half + e]) << (16 * e));
                    // SAFETY: `rows` has checked the 16 bytes of the row.
                    unsafe { store_bits(p.wrapping_add(8 * half), 8, bits) };
                }
            }
        }
        Ok(())
    }
}
