//! Matrix products and the moves of matrices: the fragments of the ISA's tables, element by element.

use crate::exact::{BF16, F16, F32, Format, Mode};
use crate::suite::Suite;

/// Which element of a matrix a lane's part is: (row, column) from (lane, element).
type Place = fn(usize, usize) -> (usize, usize);

struct Product {
    opcode: &'static str,
    /// The inner extent.
    k: usize,
    /// How the elements of A and B lie in registers.
    format: Format,
    per_register: usize,
    /// Registers of A and of B.
    registers: (usize, usize),
    a: Place,
    b: Place,
}

/// Four results of every shape: rows of the lane's group and eight below, two neighbouring columns.
const C: Place = |lane, i| (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);

/// m16n8k16 of 16-bit types: a0 and a1 above, a2 and a3 eight rows below, a4 to a7 likewise eight columns to the right.
const A16: Place = |lane, i| (lane / 4 + 8 * (i / 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i / 4));
const B16: Place = |lane, i| (lane % 4 * 2 + i % 2 + 8 * (i / 2), lane / 4);
/// m16n8k8 of 16-bit types.
const A8: Place = |lane, i| (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
const B8: Place = |lane, i| (lane % 4 * 2 + i, lane / 4);
/// m16n8k8 of tf32: a1 is eight rows below a0, a2 and a3 are four columns to the right.
const A8_TF32: Place = |lane, i| (lane / 4 + 8 * (i % 2), lane % 4 + 4 * (i / 2));
const B8_TF32: Place = |lane, i| (lane % 4 + 4 * i, lane / 4);
/// m16n8k4 of tf32.
const A4_TF32: Place = |lane, i| (lane / 4 + 8 * i, lane % 4);
const B4_TF32: Place = |lane, _| (lane % 4, lane / 4);

const PRODUCTS: [Product; 5] = [
    Product {
        opcode: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        k: 16,
        format: BF16,
        per_register: 2,
        registers: (4, 2),
        a: A16,
        b: B16,
    },
    Product {
        opcode: "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        k: 16,
        format: F16,
        per_register: 2,
        registers: (4, 2),
        a: A16,
        b: B16,
    },
    Product {
        opcode: "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
        k: 8,
        format: BF16,
        per_register: 2,
        registers: (2, 1),
        a: A8,
        b: B8,
    },
    Product {
        opcode: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        k: 8,
        format: F32,
        per_register: 1,
        registers: (4, 2),
        a: A8_TF32,
        b: B8_TF32,
    },
    Product {
        opcode: "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32",
        k: 4,
        format: F32,
        per_register: 1,
        registers: (2, 1),
        a: A4_TF32,
        b: B4_TF32,
    },
];

/// Rows of the ISA's figures, as written there: which element lanes hold.
#[test]
fn the_places_are_those_of_the_figures() {
    let of = |place: Place, lane: usize, count: usize| (0..count).map(|i| place(lane, i)).collect::<Vec<_>>();
    let t0 = [(0, 0), (0, 1), (8, 0), (8, 1), (0, 8), (0, 9), (8, 8), (8, 9)];
    assert_eq!(of(A16, 0, 8), t0);
    let t31 = [(7, 6), (7, 7), (15, 6), (15, 7), (7, 14), (7, 15), (15, 14), (15, 15)];
    assert_eq!(of(A16, 31, 8), t31);
    assert_eq!(of(B16, 5, 4), [(2, 1), (3, 1), (10, 1), (11, 1)]);
    assert_eq!(of(C, 6, 4), [(1, 4), (1, 5), (9, 4), (9, 5)]);
    assert_eq!(of(A8, 7, 4), [(1, 6), (1, 7), (9, 6), (9, 7)]);
    assert_eq!(of(B8, 9, 2), [(2, 2), (3, 2)]);
    assert_eq!(of(A8_TF32, 6, 4), [(1, 2), (9, 2), (1, 6), (9, 6)]);
    assert_eq!(of(B8_TF32, 30, 2), [(2, 7), (6, 7)]);
    assert_eq!(of(A4_TF32, 6, 2), [(1, 2), (9, 2)]);
    assert_eq!(of(B4_TF32, 6, 1), [(2, 1)]);
}

pub fn cases(suite: &mut Suite) {
    for product in &PRODUCTS {
        multiply(suite, product);
    }
    not_finite(suite);
    for count in [1, 2, 4] {
        for trans in [false, true] {
            load(suite, count, trans);
            store(suite, count, trans);
        }
    }
}

/// Small whole numbers, of which every sum is exact in f32.
fn small(seed: usize, row: usize, column: usize) -> i32 {
    let mixed = (seed * 7919 + row * 131 + column * 17 + 5).wrapping_mul(0x9e37_79b9) >> 7;
    (mixed % 31) as i32 - 15
}

fn bits(format: Format, value: i32) -> u64 {
    let single = u64::from((value as f32).to_bits());
    format.write(&F32.read(single), Mode::Nearest).expect("a number")
}

/// The registers of a lane, each in a word.
fn fragment(product: &Product, place: Place, registers: usize, lane: usize, seed: usize) -> Vec<u64> {
    let element = |i: usize| {
        let (row, column) = place(lane, i);
        bits(product.format, small(seed, row, column))
    };
    let per = product.per_register;
    (0..registers).map(|r| (0..per).map(|e| element(r * per + e) << (16 * e)).sum()).collect()
}

fn multiply(suite: &mut Suite, product: &Product) {
    const WORDS: usize = 16;
    let (count_a, count_b) = product.registers;
    let mut data = Vec::new();
    for lane in 0..32 {
        let mut words = fragment(product, product.a, count_a, lane, 1);
        words.extend(fragment(product, product.b, count_b, lane, 2));
        words.resize(8, 0);
        for i in 0..4 {
            let (row, column) = C(lane, i);
            words.push(u64::from((small(3, row, column) as f32).to_bits()));
        }
        words.resize(WORDS, 0);
        data.extend(words);
    }
    let names = |first: usize, count: usize| {
        let names: Vec<String> = (first..first + count).map(|i| format!("%r{i}")).collect();
        names.join(",")
    };
    let load: String = (0..12).map(|i| format!("ld.global.b32 %r{}, [%x1+{}];\n", i + 1, i * 8)).collect();
    let store: String = (0..4).map(|i| format!("st.global.b32 [%x1+{}], %r{};\n", 96 + i * 8, 20 + i)).collect();
    let (a, b, c) = (names(1, count_a), names(1 + count_a, count_b), names(9, 4));
    // With D apart from C, and in the registers of C.
    for (d, copy) in [(names(20, 4), ""), (c.clone(), "mov.b32 %r20, %r9; mov.b32 %r21, %r10; mov.b32 %r22, %r11; mov.b32 %r23, %r12;")] {
        let body = format!("{load}{} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};\n{copy}{store}", product.opcode);
        for i in 0..4 {
            suite.words(("", &body), 32, &data, 12 + i, |lane| {
                let (row, column) = C(lane, i);
                let sum: i32 = (0..product.k).map(|k| small(1, row, k) * small(2, k, column)).sum();
                u64::from(((sum + small(3, row, column)) as f32).to_bits())
            });
        }
    }
}

/// Infinity times zero spoils the one row that it stands in.
fn not_finite(suite: &mut Suite) {
    let body = "mov.b32 %r1, 0; setp.eq.u32 %p2, %r0, 0; @%p2 mov.b32 %r1, 0x7f80; mov.b32 %r2, 0;\n\
                mov.b32 %r3, 0f00000000;\n\
                mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r20,%r21,%r22,%r23}, {%r1,%r2}, {%r2}, {%r3,%r3,%r3,%r3};\n\
                testword: setp.nan.f32 %p3, %r20, %r20; selp.u64 %x2, 1, 0, %p3; st.global.u64 [%x1], %x2;\n\
                setp.nan.f32 %p3, %r22, %r22; selp.u64 %x2, 1, 0, %p3; st.global.u64 [%x1+8], %x2;";
    suite.words(("", body), 32, &[7; 64], 0, |lane| u64::from(lane / 4 == 0));
    suite.words(("", body), 32, &[7; 64], 1, |_| 0);
}

/// Element (row, column) of matrix `m`.
fn element(m: usize, row: usize, column: usize) -> u64 {
    (m * 64 + row * 8 + column + 0x100) as u64
}

/// Rows lie in shared memory in an order of their own: row `r` of matrix `m` is the line `(m * 8 + r) * 5 % 32`.
fn line(m: usize, row: usize) -> usize {
    (m * 8 + row) * 5 % 32
}

/// The two elements that a lane has of a matrix.
fn halves(m: usize, lane: usize, trans: bool) -> u64 {
    let (row, column) = (lane / 4, lane % 4 * 2);
    let at = |i: usize| if trans { element(m, column + i, row) } else { element(m, row, column + i) };
    at(1) << 16 | at(0)
}

fn registers(count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("%r{}", 20 + i)).collect();
    format!("{{{}}}", names.join(","))
}

/// The address of the row that a lane points to. Lanes beyond the matrices point to the first line.
fn row_address(count: usize) -> String {
    format!(
        "mul.lo.u32 %r1, %r0, 5; and.b32 %r1, %r1, 31; setp.lt.u32 %p2, %r0, {}; @!%p2 mov.u32 %r1, 0;\n\
         shl.b32 %r1, %r1, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2;\n",
        8 * count
    )
}

const SHARED: &str = ".shared .align 16 .b8 s[512];";

fn trans_name(trans: bool) -> &'static str {
    if trans { ".trans" } else { "" }
}

fn load(suite: &mut Suite, count: usize, trans: bool) {
    const WORDS: usize = 8;
    // Each thread writes one line of shared memory: the words 0 and 1.
    let mut data = vec![0u64; 32 * WORDS];
    for m in 0..4 {
        for row in 0..8 {
            for column in 0..8 {
                data[line(m, row) * WORDS + column / 4] |= element(m, row, column) << (16 * (column % 4));
            }
        }
    }
    let store: String =
        (0..count).map(|i| format!("st.global.b32 [%x1+{}], %r{};\n", 32 + i * 8, 20 + i)).collect();
    for (suffix, offset) in [("", 0), ("::cta", 16)] {
        let body = format!(
            "shl.b32 %r3, %r0, 4; mov.u32 %r2, s; add.u32 %r3, %r3, %r2; ld.global.v2.b64 {{%x2, %x3}}, [%x1];\n\
             st.shared.v2.b64 [%r3], {{%x2, %x3}}; bar.sync 0;\n{}sub.u32 %r1, %r1, {offset};\n\
             ldmatrix.sync.aligned.m8n8.x{count}{}.shared{suffix}.b16 {}, [%r1+{offset}];\n{store}",
            row_address(count),
            trans_name(trans),
            registers(count)
        );
        for m in 0..count {
            suite.words((SHARED, &body), 32, &data, 4 + m, |lane| halves(m, lane, trans));
        }
    }
}

fn store(suite: &mut Suite, count: usize, trans: bool) {
    const WORDS: usize = 8;
    let mut data = vec![0u64; 32 * WORDS];
    for lane in 0..32 {
        for m in 0..count {
            data[lane * WORDS + m] = halves(m, lane, trans);
        }
    }
    let load: String = (0..count).map(|i| format!("ld.global.b32 %r{}, [%x1+{}];\n", 20 + i, i * 8)).collect();
    let body = format!(
        "{load}{}stmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 [%r1], {};\nbar.sync 0;\n\
         setp.lt.u32 %p2, %r0, {}; @!%p2 exit;\nld.shared.v2.b64 {{%x2, %x3}}, [%r1];\n\
         st.global.b64 [%x1+48], %x2; st.global.b64 [%x1+56], %x3;",
        row_address(count),
        trans_name(trans),
        registers(count),
        8 * count
    );
    for half in 0..2 {
        suite.words((SHARED, &body), 32, &data, 6 + half, |lane| {
            if lane >= 8 * count {
                return 0;
            }
            (0..4).map(|i| element(lane / 8, lane % 8, half * 4 + i) << (16 * i)).sum()
        });
    }
}
