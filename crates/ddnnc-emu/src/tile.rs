//! The part of a warpgroup's product that one warp has: 16 rows, as f32.
//!
//! As in [`crate::matrix`], products are exact, and each sum is made one by one in the order of k, rounded to the nearest
//! f32 each time.

use crate::alu::vectorised;
use crate::inst::{Factor, Reg};
use crate::matrix::{Element, place_a, value};
use crate::registers::Registers;

/// Rows of a warp.
const ROWS: usize = 16;
/// The longest sum.
const DEPTH: usize = 16;
/// Room for the widest product. Not a power of two, so that columns do not all fall into the same lines of the cache.
const WIDE: usize = 264;
/// Columns that are worked on at once.
const CHUNK: usize = 16;
/// Rows that are worked on at once.
const BLOCK: usize = 4;

/// The factors and sums of a product.
pub(crate) struct Tile {
    left: [[f32; DEPTH]; ROWS],
    right: [[f32; WIDE]; DEPTH],
    sums: [[f32; WIDE]; ROWS],
}

/// The element of a factor.
fn element(factor: Factor) -> Element {
    match factor {
        Factor::Bf16 => Element::Bf16,
        Factor::F16 => Element::F16,
        Factor::Tf32 => Element::Tf32,
    }
}

/// How many products a sum has.
pub(crate) fn depth(factor: Factor) -> usize {
    if factor == Factor::Tf32 { 8 } else { 16 }
}

/// Elements of a unit of 16 bytes.
pub(crate) fn unit_elements(factor: Factor) -> usize {
    if factor == Factor::Tf32 { 4 } else { 8 }
}

/// Calls `f(number, value)` for each element of a unit.
#[inline(always)]
fn elements(element: Element, unit: [u64; 2], mut f: impl FnMut(usize, f32)) {
    let per = element.per_register();
    for word in 0..4 {
        let bits = (unit[word / 2] >> (32 * (word % 2))) as u32;
        for half in 0..per {
            f(word * per + half, value(element, bits, half));
        }
    }
}

impl Tile {
    pub fn new() -> Box<Tile> {
        Box::new(Tile { left: [[0.0; DEPTH]; ROWS], right: [[0.0; WIDE]; DEPTH], sums: [[0.0; WIDE]; ROWS] })
    }

    /// Element (row, k) of A from a unit along k, or (with `trans`) along the rows.
    pub fn put_left(&mut self, factor: Factor, trans: bool, row: usize, k: usize, unit: [u64; 2]) {
        elements(element(factor), unit, |i, value| {
            let (row, k) = if trans { (row + i, k) } else { (row, k + i) };
            self.left[row % ROWS][k % DEPTH] = value;
        });
    }

    /// Likewise element (k, column) of B.
    pub fn put_right(&mut self, factor: Factor, trans: bool, k: usize, column: usize, unit: [u64; 2]) {
        elements(element(factor), unit, |i, value| {
            let (k, column) = if trans { (k, column + i) } else { (k + i, column) };
            self.right[k % DEPTH][column] = value;
        });
    }

    /// A from registers.
    pub fn left_registers(&mut self, factor: Factor, registers: &Registers, a: &[Reg; 4]) {
        let element = element(factor);
        for (register, reg) in a.iter().enumerate() {
            for (lane, bits) in registers.b32[reg.index as usize].iter().enumerate() {
                for half in 0..element.per_register() {
                    let (row, k) = place_a(element, lane, register, half);
                    self.left[row % ROWS][k % DEPTH] = value(element, *bits, half);
                }
            }
        }
    }

    /// Changes the sign of every product.
    pub fn negate(&mut self) {
        self.left.as_flattened_mut().iter_mut().for_each(|value| *value = -*value);
    }

    /// Begins sums with those in registers, or (`None`) with 0.
    pub fn begin(&mut self, registers: Option<&Registers>, d: &[Reg]) {
        let Some(registers) = registers else {
            self.sums.iter_mut().for_each(|row| row.fill(0.0));
            return;
        };
        for (register, reg) in d.iter().enumerate() {
            for (lane, bits) in registers.b32[reg.index as usize].iter().enumerate() {
                let (row, column) = place_d(lane, register);
                self.sums[row % ROWS][column % WIDE] = f32::from_bits(*bits);
            }
        }
    }

    /// Adds the products of as many columns.
    pub fn multiply(&mut self, factor: Factor, columns: usize) {
        product(&self.left, &self.right, &mut self.sums, depth(factor), columns);
    }

    /// Puts the sums into registers.
    pub fn end(&self, registers: &mut Registers, d: &[Reg]) {
        for (register, reg) in d.iter().enumerate() {
            for (lane, bits) in registers.b32[reg.index as usize].iter_mut().enumerate() {
                let (row, column) = place_d(lane, register);
                let sum = self.sums[row % ROWS][column % WIDE];
                *bits = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
            }
        }
    }
}

/// (row, column) of an element of the result, the row counted from the warp's first: section "Register fragments for
/// wgmma".
fn place_d(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2 % 2), 8 * (register / 4) + 2 * (lane % 4) + register % 2)
}

vectorised! {
    fn product(
        left: &[[f32; DEPTH]; ROWS], right: &[[f32; WIDE]; DEPTH], sums: &mut [[f32; WIDE]; ROWS], depth: usize,
        columns: usize,
    ) {
        for first in (0..columns).step_by(CHUNK) {
            for row in (0..ROWS).step_by(BLOCK) {
                let mut block = [[0f32; CHUNK]; BLOCK];
                for (sums, block) in sums[row..row + BLOCK].iter().zip(&mut block) {
                    block.copy_from_slice(&sums[first..first + CHUNK]);
                }
                for (k, right) in right.iter().enumerate().take(depth) {
                    let right: &[f32] = &right[first..first + CHUNK];
                    for r in 0..BLOCK {
                        let factor = left[row + r][k];
                        for c in 0..CHUNK {
                            block[r][c] = factor.mul_add(right[c], block[r][c]);
                        }
                    }
                }
                for (sums, block) in sums[row..row + BLOCK].iter_mut().zip(&block) {
                    sums[first..first + CHUNK].copy_from_slice(block);
                }
            }
        }
    }
}
