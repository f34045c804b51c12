//! The part of a warpgroup's product that one warp has: 16 rows, as f32.
//!
//! As in [`crate::matrix`], products are exact, and each sum is made one by one in the order of k, rounded to the nearest
//! f32 each time.

use crate::alu::vectorised;
use crate::inst::{Factor, Reg};
use crate::matrix::{Element, place_a, value};
use crate::registers::{LANES, Registers};

/// Rows of a warp.
const ROWS: usize = 16;
/// The longest sum.
const DEPTH: usize = 16;
/// Room for the widest product. Not a power of two, so that its rows do not share the same lines of the cache.
const WIDE: usize = 264;
/// Columns that are worked on at once.
const CHUNK: usize = 16;
/// Rows that are worked on at once.
const BLOCK: usize = 4;
/// Units of a factor that are turned at once.
const TURN: usize = 8;

/// 16 bytes of a factor.
pub(crate) type Unit = [u32; 4];

/// The factors and sums of a product.
pub(crate) struct Tile {
    /// A, by k and row.
    left: [[f32; WIDE]; DEPTH],
    /// B, by k and column.
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

/// Elements of a unit.
pub(crate) fn unit_elements(factor: Factor) -> usize {
    if factor == Factor::Tf32 { 4 } else { 8 }
}

impl Tile {
    pub fn new() -> Box<Tile> {
        let empty = [[0.0; WIDE]; DEPTH];
        Box::new(Tile { left: empty, right: empty, sums: empty })
    }

    /// A from its units: along k those of each row, or (`trans`) along the rows those of each k.
    pub fn left(&mut self, factor: Factor, trans: bool, units: &[Unit]) {
        decode(element(factor), trans, units, &mut self.left);
    }

    /// Likewise B.
    pub fn right(&mut self, factor: Factor, trans: bool, units: &[Unit]) {
        decode(element(factor), trans, units, &mut self.right);
    }

    /// A from registers.
    pub fn left_registers(&mut self, factor: Factor, registers: &Registers, a: &[Reg; 4]) {
        let element = element(factor);
        for (register, reg) in a.iter().enumerate() {
            for (lane, bits) in registers.b32[reg.index as usize].iter().enumerate() {
                for half in 0..element.per_register() {
                    let (row, k) = place_a(element, lane, register, half);
                    self.left[k % DEPTH][row % ROWS] = value(element, *bits, half);
                }
            }
        }
    }

    /// Changes the sign of every product.
    pub fn negate(&mut self) {
        let rows = self.left.iter_mut().flat_map(|left| &mut left[..ROWS]);
        rows.for_each(|value| *value = -*value);
    }

    /// Begins sums with 0.
    pub fn clear(&mut self) {
        self.sums.iter_mut().for_each(|row| row.fill(0.0));
    }

    /// Begins sums with those in registers.
    pub fn begin(&mut self, registers: &Registers, d: &[Reg]) {
        for (eight, d) in d.as_chunks::<4>().0.iter().enumerate() {
            let d = d.map(|reg| &registers.b32[reg.index as usize]);
            for (row, sums) in self.sums.iter_mut().enumerate() {
                let (even, odd, first) = quads(d, row);
                let sums = &mut sums[8 * eight..8 * eight + 8];
                for i in 0..4 {
                    sums[2 * i] = f32::from_bits(even[first + i]);
                    sums[2 * i + 1] = f32::from_bits(odd[first + i]);
                }
            }
        }
    }

    /// Adds the products of as many columns.
    pub fn multiply(&mut self, factor: Factor, columns: usize) {
        product(&self.left, &self.right, &mut self.sums, depth(factor), columns);
    }

    /// Puts the sums into registers.
    pub fn end(&self, registers: &mut Registers, d: &[Reg]) {
        let bits = |sum: f32| if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
        for (eight, d) in d.as_chunks::<4>().0.iter().enumerate() {
            let mut out = [[0; LANES]; 4];
            for (row, sums) in self.sums.iter().enumerate() {
                let (even, odd, first) = quads(out.each_mut(), row);
                let sums = &sums[8 * eight..8 * eight + 8];
                for i in 0..4 {
                    even[first + i] = bits(sums[2 * i]);
                    odd[first + i] = bits(sums[2 * i + 1]);
                }
            }
            for (reg, out) in d.iter().zip(&out) {
                registers.b32[reg.index as usize] = *out;
            }
        }
    }
}

/// Of four registers of a result, which hold eight columns: those with the even and the odd columns of a row, counted from
/// the warp's first, and the first of the four lanes that have it. Section "Register fragments for wgmma".
fn quads<T>([above_even, above_odd, below_even, below_odd]: [T; 4], row: usize) -> (T, T, usize) {
    if row < 8 { (above_even, above_odd, 4 * row) } else { (below_even, below_odd, 4 * (row - 8)) }
}

vectorised! {
    fn decode(element: Element, trans: bool, units: &[Unit], out: &mut [[f32; WIDE]; DEPTH]) {
        // A copy of the code for each kind of element, so that shifts are constants in it.
        match element {
            Element::Bf16 => decode_as(Element::Bf16, trans, units, out),
            Element::F16 => decode_as(Element::F16, trans, units, out),
            Element::Tf32 => decode_as(Element::Tf32, trans, units, out),
        }
    }
}

#[inline(always)]
fn decode_as(element: Element, trans: bool, units: &[Unit], out: &mut [[f32; WIDE]; DEPTH]) {
    let per = element.per_register();
    let across = 4 * per;
    if trans {
        let depth = 2 * across;
        for (number, units) in units.chunks_exact(depth).enumerate() {
            for (unit, out) in units.iter().zip(out.iter_mut()) {
                let out = &mut out[number * across..(number + 1) * across];
                for word in 0..4 {
                    for half in 0..per {
                        out[word * per + half] = value(element, unit[word], half);
                    }
                }
            }
        }
        return;
    }
    // Two units are a row; eight rows are turned at once.
    for (number, units) in units.as_chunks::<{ 2 * TURN }>().0.iter().enumerate() {
        let mut words = [[0u32; TURN]; 8];
        for row in 0..TURN {
            for word in 0..4 {
                words[word][row] = units[2 * row][word];
                words[4 + word][row] = units[2 * row + 1][word];
            }
        }
        for (word, words) in words.iter().enumerate() {
            for half in 0..per {
                let out = &mut out[word * per + half][number * TURN..(number + 1) * TURN];
                for row in 0..TURN {
                    out[row] = value(element, words[row], half);
                }
            }
        }
    }
}

vectorised! {
    fn product(
        left: &[[f32; WIDE]; DEPTH], right: &[[f32; WIDE]; DEPTH], sums: &mut [[f32; WIDE]; ROWS], depth: usize,
        columns: usize,
    ) {
        for first in (0..columns).step_by(CHUNK) {
            for row in (0..ROWS).step_by(BLOCK) {
                let mut block = [[0f32; CHUNK]; BLOCK];
                for (sums, block) in sums[row..row + BLOCK].iter().zip(&mut block) {
                    block.copy_from_slice(&sums[first..first + CHUNK]);
                }
                for (left, right) in left.iter().zip(right).take(depth) {
                    let (left, right) = (&left[row..row + BLOCK], &right[first..first + CHUNK]);
                    for r in 0..BLOCK {
                        for c in 0..CHUNK {
                            block[r][c] = left[r].mul_add(right[c], block[r][c]);
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
