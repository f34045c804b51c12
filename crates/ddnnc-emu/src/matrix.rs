//! Matrix products of a warp: fragment layouts as in the PTX ISA, section "Matrix fragments for mma".
//!
//! With g = lane / 4 and t = lane % 4, element (row, column) of the result and of the addend lies in register r at
//! (g + 8 (r / 2), 2 t + r % 2). Products are exact, and for each element of the result they are added one by one, in
//! the order of k, to the addend, each sum rounded to the nearest f32: the ISA leaves the order open and promises the
//! accuracy of f32 at least.

use crate::alu::vectorised;
use crate::inst::{Mma, Reg, Src};
use crate::registers::{LANES, Registers};

/// Rows of the result.
const M: usize = 16;
/// Columns of the result.
const N: usize = 8;
/// The longest sum.
const K: usize = 16;

/// How a factor's element is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Bf16,
    F16,
    /// The low 13 bits of the register are not looked at.
    Tf32,
}

impl Element {
    /// Elements in a register.
    pub fn per_register(self) -> usize {
        match self {
            Element::Bf16 | Element::F16 => 2,
            Element::Tf32 => 1,
        }
    }
}

/// The elements of the factors, and how many products each sum has.
fn shape_of(shape: Mma) -> (Element, usize) {
    match shape {
        Mma::M16N8K16Bf16 => (Element::Bf16, 16),
        Mma::M16N8K8Bf16 => (Element::Bf16, 8),
        Mma::M16N8K16F16 => (Element::F16, 16),
        Mma::M16N8K8Tf32 => (Element::Tf32, 8),
        Mma::M16N8K4Tf32 => (Element::Tf32, 4),
    }
}

/// (row, k) of an element of A: registers go down the rows first, then along k by half of what the elements of a quad
/// of lanes leave out.
pub fn place_a(element: Element, lane: usize, register: usize, half: usize) -> (usize, usize) {
    let per = element.per_register();
    (lane / 4 + 8 * (register % 2), per * (lane % 4) + half + 4 * per * (register / 2))
}

/// (k, column) of an element of B.
fn place_b(element: Element, lane: usize, register: usize, half: usize) -> (usize, usize) {
    let per = element.per_register();
    (per * (lane % 4) + half + 4 * per * register, lane / 4)
}

/// (row, column) of an element of C and D.
fn place_c(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2)
}

/// The value of an element of a register.
#[inline(always)]
pub fn value(element: Element, bits: u32, half: usize) -> f32 {
    match element {
        Element::Bf16 => f32::from_bits(if half == 0 { bits << 16 } else { bits & 0xffff_0000 }),
        Element::F16 => half_value(bits >> (16 * half) & 0xffff),
        Element::Tf32 => f32::from_bits(bits & !0x1fff),
    }
}

/// The value of an f16, by moving its fields; denormals are scaled by a product that is exact.
#[inline(always)]
fn half_value(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let rest = bits & 0x7fff;
    let magnitude = if rest >= 0x7c00 {
        // Infinity and NaN.
        0x7f80_0000 | (rest & 0x3ff) << 13
    } else {
        // The exponent is too small by 112, which the product corrects.
        (f32::from_bits(rest << 13) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(sign | magnitude)
}

fn operand(registers: &Registers, src: &Src) -> [u32; LANES] {
    match *src {
        Src::Reg(reg) => registers.b32[reg.index as usize],
        Src::Imm(bits) => [bits as u32; LANES],
        // The parser admits registers and constants only.
        Src::Special(_) | Src::Variable { .. } => [0; LANES],
    }
}

/// `mma.sync` of a whole warp.
pub fn mma(shape: Mma, registers: &mut Registers, d: &[Reg; 4], a: &[Src], b: &[Src], c: &[Src; 4]) {
    let (element, k) = shape_of(shape);
    let mut left = [[0; LANES]; 4];
    let mut right = [[0; LANES]; 2];
    let mut sums = [[0; LANES]; 4];
    for (bits, src) in left.iter_mut().zip(a).chain(right.iter_mut().zip(b)).chain(sums.iter_mut().zip(c)) {
        *bits = operand(registers, src);
    }
    product(element, k, &left, &right, &mut sums);
    for (dst, bits) in d.iter().zip(&sums) {
        registers.b32[dst.index as usize] = *bits;
    }
}

vectorised! {
    /// The registers of A and B to those of C, which become those of D.
    fn product(
        element: Element, k: usize, a: &[[u32; LANES]; 4], b: &[[u32; LANES]; 2], c: &mut [[u32; LANES]; 4],
    ) {
        // A copy of the code for each kind of element, so that places are constants in it.
        match element {
            Element::Bf16 => fixed(Element::Bf16, k, a, b, c),
            Element::F16 => fixed(Element::F16, k, a, b, c),
            Element::Tf32 => fixed(Element::Tf32, k, a, b, c),
        }
    }
}

#[inline(always)]
fn fixed(
    element: Element,
    k: usize,
    a: &[[u32; LANES]; 4],
    b: &[[u32; LANES]; 2],
    c: &mut [[u32; LANES]; 4],
) {
    let (mut left, mut right, mut sums) = ([[0f32; K]; M], [[0f32; N]; K], [[0f32; N]; M]);
    for (register, bits) in a.iter().enumerate() {
        for half in 0..element.per_register() {
            for (lane, bits) in bits.iter().enumerate() {
                let (row, k) = place_a(element, lane, register, half);
                left[row % M][k % K] = value(element, *bits, half);
            }
        }
    }
    for (register, bits) in b.iter().enumerate() {
        for half in 0..element.per_register() {
            for (lane, bits) in bits.iter().enumerate() {
                let (k, column) = place_b(element, lane, register, half);
                right[k % K][column % N] = value(element, *bits, half);
            }
        }
    }
    for (register, bits) in c.iter().enumerate() {
        for (lane, bits) in bits.iter().enumerate() {
            let (row, column) = place_c(lane, register);
            sums[row % M][column % N] = f32::from_bits(*bits);
        }
    }
    for (row, sums) in left.iter().zip(sums.iter_mut()) {
        for (factor, right) in row.iter().zip(&right).take(k) {
            for column in 0..N {
                sums[column] = factor.mul_add(right[column], sums[column]);
            }
        }
    }
    for (register, bits) in c.iter_mut().enumerate() {
        for (lane, bits) in bits.iter_mut().enumerate() {
            let (row, column) = place_c(lane, register);
            let sum = sums[row % M][column % N];
            *bits = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inst::File;

    /// As section "Matrix fragments for mma.m16n8k16 with floating point type" writes it, element by element.
    #[test]
    fn fragments_of_m16n8k16_lie_where_the_isa_says() {
        for lane in 0..LANES {
            let (group, thread) = (lane >> 2, lane % 4);
            for i in 0..8 {
                let row = if (0..2).contains(&i) || (4..6).contains(&i) { group } else { group + 8 };
                let column = if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 };
                assert_eq!(place_a(Element::Bf16, lane, i / 2, i % 2), (row, column), "a{i} of lane {lane}");
            }
            for i in 0..4 {
                let row = if i < 2 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 };
                assert_eq!(place_b(Element::F16, lane, i / 2, i % 2), (row, group), "b{i} of lane {lane}");
                let row = if i < 2 { group } else { group + 8 };
                assert_eq!(place_c(lane, i), (row, thread * 2 + (i & 1)), "c{i} of lane {lane}");
            }
        }
    }

    #[test]
    fn fragments_of_m16n8k8_tf32_lie_where_the_isa_says() {
        for lane in 0..LANES {
            let (group, thread) = (lane >> 2, lane % 4);
            for i in 0..4 {
                let row = if i == 0 || i == 2 { group } else { group + 8 };
                let column = if i < 2 { thread } else { thread + 4 };
                assert_eq!(place_a(Element::Tf32, lane, i, 0), (row, column), "a{i} of lane {lane}");
            }
            for i in 0..2 {
                let row = if i == 0 { thread } else { thread + 4 };
                assert_eq!(place_b(Element::Tf32, lane, i, 0), (row, group), "b{i} of lane {lane}");
            }
        }
    }

    const SHAPES: [Mma; 5] =
        [Mma::M16N8K16Bf16, Mma::M16N8K8Bf16, Mma::M16N8K16F16, Mma::M16N8K8Tf32, Mma::M16N8K4Tf32];

    #[test]
    fn every_element_has_one_place() {
        for shape in SHAPES {
            let (element, k) = shape_of(shape);
            let per = element.per_register();
            let (mut left, mut right, mut sums) = (vec![0; M * k], vec![0; k * N], [0; M * N]);
            for lane in 0..LANES {
                for half in 0..per {
                    for register in 0..M * k / LANES / per {
                        let (row, column) = place_a(element, lane, register, half);
                        left[row * k + column] += 1;
                    }
                    for register in 0..k * N / LANES / per {
                        let (row, column) = place_b(element, lane, register, half);
                        right[row * N + column] += 1;
                    }
                }
                for register in 0..4 {
                    let (row, column) = place_c(lane, register);
                    sums[row * N + column] += 1;
                }
            }
            let once = |counts: &[i32]| counts.iter().all(|n| *n == 1);
            assert!(once(&left) && once(&right) && once(&sums), "{shape:?}");
        }
    }

    /// Small integers, so that every sum is exact in any order.
    fn entry(row: usize, column: usize, salt: usize) -> f32 {
        ((row * 7 + column * 3 + salt) % 11) as f32 - 5.0
    }

    fn bits(element: Element, value: f32) -> u32 {
        match element {
            Element::Bf16 => value.to_bits() >> 16,
            Element::F16 if value == 0.0 => 0,
            Element::F16 => {
                let bits = value.to_bits();
                bits >> 16 & 0x8000 | ((bits >> 13 & 0x3ffff) - (112 << 10)) & 0x7fff
            }
            // What is below a tf32 must not matter.
            Element::Tf32 => value.to_bits() | 0x1555,
        }
    }

    #[test]
    fn products_of_every_shape() {
        for shape in SHAPES {
            let (element, k) = shape_of(shape);
            let per = element.per_register();
            let (count_a, count_b) = (M * k / LANES / per, k * N / LANES / per);
            let mut registers = Registers::new([0, 0, 12, 0, 0]);
            for lane in 0..LANES {
                for half in 0..per {
                    for register in 0..count_a {
                        let (row, column) = place_a(element, lane, register, half);
                        let word = &mut registers.b32[register][lane];
                        *word = if half == 0 { 0 } else { *word }
                            | bits(element, entry(row, column, 1)) << (16 * half);
                    }
                    for register in 0..count_b {
                        let (row, column) = place_b(element, lane, register, half);
                        let word = &mut registers.b32[4 + register][lane];
                        *word = if half == 0 { 0 } else { *word }
                            | bits(element, entry(row, column, 4)) << (16 * half);
                    }
                }
                for register in 0..4 {
                    let (row, column) = place_c(lane, register);
                    registers.b32[8 + register][lane] = entry(row, column, 8).to_bits();
                }
            }
            let reg = |index: usize| Reg { file: File::B32, index: index as u32 };
            let list = |from: usize, count: usize| {
                (from..from + count).map(|i| Src::Reg(reg(i))).collect::<Vec<_>>()
            };
            let d = [8, 9, 10, 11].map(reg);
            mma(shape, &mut registers, &d, &list(0, count_a), &list(4, count_b), &d.map(Src::Reg));
            for lane in 0..LANES {
                for register in 0..4 {
                    let (row, column) = place_c(lane, register);
                    let expected = (0..k).map(|i| entry(row, i, 1) * entry(i, column, 4)).sum::<f32>()
                        + entry(row, column, 8);
                    let got = f32::from_bits(registers.b32[8 + register][lane]);
                    assert_eq!(got, expected, "{shape:?} at ({row}, {column})");
                }
            }
        }
    }

    #[test]
    fn halves_have_their_value() {
        for (bits, value) in [
            (0x0001, 2f32.powi(-24)),
            (0x03ff, 1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
            (0x8000, -0.0),
        ] {
            assert_eq!(half_value(bits).to_bits(), value.to_bits(), "{bits:#x}");
        }
        assert!(half_value(0x7e00).is_nan());
    }
}
