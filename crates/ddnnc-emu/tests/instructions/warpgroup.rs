//! Matrix products of a warpgroup. The layouts in shared memory are written out from the words of the PTX ISA: atoms of
//! eight rows, in which the 16-byte units of a row are exchanged by a part of the row's number.

use crate::exact::{BF16, F16, F32, Format, Mode};
use crate::suite::Suite;

#[derive(Clone, Copy)]
struct Kind {
    types: &'static str,
    format: Format,
    /// Bytes of an element.
    bytes: usize,
    /// The inner extent: 32 bytes of a row.
    k: usize,
}

const BF: Kind = Kind { types: "bf16.bf16", format: BF16, bytes: 2, k: 16 };
const HALF: Kind = Kind { types: "f16.f16", format: F16, bytes: 2, k: 16 };
const TF: Kind = Kind { types: "tf32.tf32", format: F32, bytes: 4, k: 8 };

/// How a factor lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Whether neighbours along M or N lie next to each other, instead of along K.
    turned: bool,
    /// Units of 16 bytes in a row of an atom: 1 without a swizzle, else 2, 4, 8.
    width: usize,
    /// Units of the atom's rows before the matrix begins: only along K.
    skip: usize,
}

/// A factor's place: its bytes, the offsets of the descriptor.
struct Place {
    layout: Layout,
    /// Elements of a unit.
    unit: usize,
    leading: usize,
    stride: usize,
    bytes: usize,
}

impl Layout {
    /// Places a factor of so many rows (for B: columns), with gaps that the descriptor must know of.
    fn place(self, kind: Kind, rows: usize) -> Place {
        let unit = 16 / kind.bytes;
        let atom = 128 * self.width;
        let (leading, stride, bytes) = match (self.turned, self.width) {
            // Two columns of 8 x 16 bytes; those of one column lie 16 bytes apart.
            (false, 1) => (rows / 8 * 144 + 32, 144, rows / 8 * 288 + 64),
            // One column of atoms, every other place used.
            (false, _) => (0x3ff0, 2 * atom, rows / 8 * 2 * atom),
            // One row of 8 x 16 bytes for each eight k, the units of it 160 bytes apart.
            (true, 1) => (rows / unit * 160 + 48, 160, rows / unit * 320 + 96),
            // Atoms: first along the rows, then along k, each with an empty one behind it.
            (true, width) => {
                let across = (rows / unit).div_ceil(width);
                (2 * atom, 2 * atom * across, 4 * atom * across)
            }
        };
        Place { layout: self, unit, leading, stride, bytes }
    }
}

impl Place {
    /// The number of bytes before element (row, k).
    fn offset(&self, bytes: usize, row: usize, k: usize) -> usize {
        let Layout { turned, width, skip } = self.layout;
        // Which unit, and which row of its atom.
        let (along, across) = if turned { (row, k) } else { (k, row) };
        let (unit, line) = (along / self.unit + skip, across % 8);
        let exchanged = match width {
            8 => (unit % 8) ^ line,
            4 => (unit % 4) ^ (line / 2),
            2 => (unit % 2) ^ (line / 4),
            _ => 0,
        };
        let atom = match (turned, width) {
            (false, 1) => unit * self.leading + across / 8 * self.stride,
            (false, _) => across / 8 * self.stride,
            (true, 1) => unit * self.stride + across / 8 * self.leading,
            (true, _) => unit / width * self.leading + across / 8 * self.stride,
        };
        atom + line * 16 * width + exchanged * 16 + along % self.unit * bytes
    }

    /// Everything of the descriptor but the place where the matrix begins.
    fn descriptor(&self) -> u64 {
        let swizzle = match self.layout.width {
            8 => 1,
            4 => 2,
            2 => 3,
            _ => 0,
        };
        (swizzle << 62) | (self.stride as u64 / 16) << 32 | (self.leading as u64 / 16) << 16
    }
}

/// Threads of a warpgroup.
const THREADS: usize = 128;

/// One product.
#[derive(Clone, Copy)]
struct Case {
    kind: Kind,
    columns: usize,
    /// A in registers where `None`.
    a: Option<Layout>,
    b: Layout,
    /// The operand `scale-d`, and whether it means that sums go on.
    scale: (&'static str, bool),
    signs: (i32, i32),
    values: Values,
}

/// Small whole numbers, of which every sum is exact in f32.
fn small(seed: usize, row: usize, column: usize) -> i32 {
    let mixed = (seed * 7919 + row * 131 + column * 17 + 5).wrapping_mul(0x9e37_79b9) >> 7;
    (mixed % 31) as i32 - 15
}

/// What the factors and sums are made of.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Small,
    /// Numbers of which hardly a sum is exact.
    Rough,
    /// Zeros, denormals, the largest numbers, infinities, NaN among small ones.
    Edges,
}

/// The bits of a number, as the elements of a kind have them.
fn bits(kind: Kind, value: f32) -> u64 {
    kind.format.write(&F32.read(u64::from(value.to_bits())), Mode::Nearest).unwrap_or(0)
}

impl Values {
    /// Element (row, column) of a factor.
    fn element(self, kind: Kind, seed: usize, row: usize, column: usize) -> u64 {
        let number = small(seed, row, column);
        let edge = (row * 5 + column * 3 + seed) % 97;
        let bits = match self {
            Values::Rough => bits(kind, number as f32 * 1.017 + 0.3),
            Values::Edges if edge < 9 => {
                let edges = match kind.types {
                    "bf16.bf16" => [0x8000, 1, 0x7f, 0x807f, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0],
                    "f16.f16" => [0x8000, 1, 0x3ff, 0x83ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00],
                    _ => [
                        0x8000_0000,
                        0x2000,
                        0x7f_e000,
                        0x807f_e000,
                        0x7f7f_e000,
                        0xff7f_e000,
                        0x7f80_0000,
                        0xff80_0000,
                        0x7fc0_0000,
                    ],
                };
                edges[edge]
            }
            Values::Small | Values::Edges => bits(kind, number as f32),
        };
        // The low bits of a tf32 must not matter.
        if kind.bytes == 4 { bits & !0x1fff | 0x1555 } else { bits }
    }

    /// Element (row, column) of the accumulator.
    fn sum(self, row: usize, column: usize) -> f32 {
        let number = small(3, row, column) as f32;
        match self {
            Values::Small => number,
            Values::Rough => number * 1234.567,
            Values::Edges if (row + column).is_multiple_of(23) => f32::MIN_POSITIVE / 3.0,
            Values::Edges if (row + column).is_multiple_of(29) => f32::MAX,
            Values::Edges => number,
        }
    }
}

/// The value of an element.
fn number(kind: Kind, bits: u64) -> f32 {
    let bits = if kind.bytes == 4 { bits & !0x1fff } else { bits };
    F32.write(&kind.format.read(bits), Mode::Nearest).map_or(f32::NAN, |bits| f32::from_bits(bits as u32))
}

/// Element `i` of a lane's part of A in registers: as `mma.m16n8k16` and `mma.m16n8k8` of tf32 have it.
fn fragment(kind: Kind, lane: usize, i: usize) -> (usize, usize) {
    match kind.bytes {
        2 => (lane / 4 + 8 * (i / 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i / 4)),
        _ => (lane / 4 + 8 * (i % 2), lane % 4 + 4 * (i / 2)),
    }
}

/// The text that puts a descriptor into a register: `s` is where the image begins.
fn descriptor(register: &str, constant: u64, start: usize) -> String {
    format!(
        "mov.u32 %r2, s; add.u32 %r2, %r2, {start}; shr.u32 %r2, %r2, 4; cvt.u64.u32 %x2, %r2;\n\
         mov.b64 {register}, {constant}; or.b64 {register}, {register}, %x2;\n"
    )
}

fn names(prefix: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("%{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

fn run(suite: &mut Suite, case: Case) {
    let Case { kind, columns, b, .. } = case;
    let results = columns / 2;
    let a_place = case.a.map(|a| a.place(kind, 64));
    let b_place = b.place(kind, columns);
    let b_start = a_place.as_ref().map_or(0, |a| a.bytes).next_multiple_of(1024);

    // What no element lies in is NaN.
    let mut image = vec![0xffu8; (b_start + b_place.bytes).next_multiple_of(1024)];
    let mut put = |at: usize, bits: u64| {
        image[at..at + kind.bytes].copy_from_slice(&bits.to_le_bytes()[..kind.bytes]);
    };
    let left = |row: usize, k: usize| case.values.element(kind, 1, row, k);
    let right = |k: usize, column: usize| case.values.element(kind, 2, k, column);
    for k in 0..kind.k {
        if let Some(a) = &a_place {
            (0..64).for_each(|row| put(a.offset(kind.bytes, row, k), left(row, k)));
        }
        (0..columns).for_each(|column| put(b_start + b_place.offset(kind.bytes, column, k), right(k, column)));
    }

    let mine = image.len() / 8 / THREADS;
    let per = 4 / kind.bytes;
    let mut data = Vec::new();
    for thread in 0..THREADS {
        let words = &image[thread * mine * 8..(thread + 1) * mine * 8];
        data.extend(words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
        for register in 0..4 {
            let part = |half: usize| {
                let (row, k) = fragment(kind, thread % 32, register * per + half);
                left(thread / 32 * 16 + row, k) << (16 * half)
            };
            data.push((0..per).map(part).sum());
        }
        for i in 0..results {
            let (row, column) = result(thread, i);
            data.push(u64::from(case.values.sum(row, column).to_bits()));
        }
    }

    let mut body = format!(".reg .f32 %d<{results}>; .reg .b64 %y<2>; .reg .pred %s;\n");
    body += &format!("mov.u32 %r1, s; mad.lo.u32 %r1, %r0, {}, %r1;\n", mine * 8);
    for word in 0..mine {
        body += &format!("ld.global.b64 %x2, [%x1+{0}]; st.shared.b64 [%r1+{0}], %x2;\n", word * 8);
    }
    body += "fence.proxy.async; bar.sync 0;\n";
    for i in 0..4 {
        body += &format!("ld.global.b32 %r{}, [%x1+{}];\n", 4 + i, (mine + i) * 8);
    }
    for i in 0..results {
        body += &format!("ld.global.f32 %d{i}, [%x1+{}];\n", (mine + 4 + i) * 8);
    }
    let mut operands = names("d", results);
    match (&a_place, case.a) {
        (Some(place), Some(layout)) => {
            body += &descriptor("%y0", place.descriptor(), layout.skip * 16);
            operands += ", %y0, %y1";
        }
        _ => operands += ", {%r4, %r5, %r6, %r7}, %y1",
    }
    body += &descriptor("%y1", b_place.descriptor(), b_start + b.skip * 16);
    operands += &format!(", {}, {}, {}", case.scale.0, case.signs.0, case.signs.1);
    if kind.bytes == 2 {
        if let Some(a) = case.a {
            operands += &format!(", {}", u8::from(a.turned));
        }
        operands += &format!(", {}", u8::from(b.turned));
    }
    body += &format!(
        "setp.eq.u32 %s, %r0, %r0;\nwgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n{columns}k{}.f32.{} {operands};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
        kind.k, kind.types
    );
    for i in 0..results {
        body += &format!("st.global.f32 [%x1+{}], %d{i};\n", (mine + 4 + i) * 8);
    }
    let declarations = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.shared .align 1024 .b8 before[1024];\n\
         .shared .align 1024 .b8 s[{}];",
        image.len()
    );
    let text = format!("{body}mov.u32 %r2, before;");
    let Some(found) = suite.kernel(&declarations, &text, THREADS as u32, &data) else { return };
    let found = found.unwrap_or_else(|e| panic!("{e}\n{body}"));
    let each = data.len() / THREADS;
    for thread in 0..THREADS {
        for i in 0..results {
            let (row, column) = result(thread, i);
            let mut expected = if case.scale.1 { case.values.sum(row, column) } else { 0.0 };
            for k in 0..kind.k {
                let a = number(kind, left(row, k)) * case.signs.0 as f32;
                let b = number(kind, right(k, column)) * case.signs.1 as f32;
                expected = a.mul_add(b, expected);
            }
            let expected = if expected.is_nan() { 0x7fff_ffff } else { expected.to_bits() };
            let bits = found[thread * each + mine + 4 + i];
            assert_eq!(
                bits,
                u64::from(expected),
                "({row}, {column}) of {columns} columns of {}, A {:?}, B {b:?}",
                kind.types,
                case.a
            );
        }
    }
}

/// (row, column) of a thread's result number `i`: four of every eight columns, two in each of two rows.
fn result(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (warp * 16 + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// Rows of the ISA's figures, as written there.
#[test]
fn the_places_are_those_of_the_figures() {
    assert_eq!([0, 1, 2, 3, 4].map(|i| result(0, i)), [(0, 0), (0, 1), (8, 0), (8, 1), (0, 8)]);
    assert_eq!([0, 3].map(|i| result(127, i)), [(55, 6), (63, 7)]);
    let at = |turned, width, skip| Layout { turned, width, skip }.place(BF, 64);
    // Along K, 128 bytes: the second unit of the fourth row goes to the place of the third.
    assert_eq!(at(false, 8, 0).offset(2, 3, 8), 3 * 128 + 2 * 16);
    assert_eq!(at(false, 4, 0).offset(2, 3, 8), 3 * 64);
    assert_eq!(at(false, 2, 0).offset(2, 5, 1), 5 * 32 + 16 + 2);
    assert_eq!(at(true, 8, 0).offset(2, 9, 2), 2 * 128 + 3 * 16 + 2);
}

const WIDTHS: [usize; 4] = [1, 2, 4, 8];

pub fn cases(suite: &mut Suite) {
    let plain = Layout { turned: false, width: 8, skip: 0 };
    let base = Case {
        kind: BF,
        columns: 16,
        a: Some(plain),
        b: plain,
        scale: ("%s", true),
        signs: (1, 1),
        values: Values::Small,
    };
    let layouts = |turned: bool| WIDTHS.map(|width| Layout { turned, width, skip: 0 });
    let all: Vec<Layout> = layouts(false).into_iter().chain(layouts(true)).collect();
    for kind in [BF, HALF] {
        for &a in &all {
            for &b in &all {
                run(suite, Case { kind, a: Some(a), b, ..base });
            }
        }
        for &b in &all {
            run(suite, Case { kind, a: None, b, ..base });
        }
    }
    for a in layouts(false).map(Some).into_iter().chain([None]) {
        for b in layouts(false) {
            run(suite, Case { kind: TF, a, b, ..base });
        }
    }
    // Every width, along both directions.
    for columns in (8..=256).step_by(8) {
        let b = Layout { width: if columns > 128 { 4 } else { 8 }, ..plain };
        for b in [b, Layout { turned: true, ..plain }] {
            run(suite, Case { columns, b, a: None, ..base });
        }
        run(suite, Case { kind: TF, columns, b: Layout { width: 2, ..plain }, a: None, ..base });
    }
    // A matrix that begins in the midst of its atoms' rows.
    for (width, skip) in [(8, 2), (8, 4), (8, 6), (4, 2), (8, 3)] {
        let b = Layout { turned: false, width, skip };
        run(suite, Case { a: Some(b), b, ..base });
        run(suite, Case { kind: TF, a: Some(b), b, ..base });
    }
    for scale in [("!%s", false), ("1", true), ("0", false)] {
        run(suite, Case { scale, ..base });
    }
    for values in [Values::Rough, Values::Edges] {
        for kind in [BF, HALF, TF] {
            for a in [Some(plain), None] {
                run(suite, Case { kind, a, columns: 64, values, ..base });
            }
        }
        run(suite, Case { signs: (-1, 1), values, ..base });
    }
    for signs in [(1, -1), (-1, 1), (-1, -1)] {
        run(suite, Case { signs, ..base });
        run(suite, Case { signs, a: None, kind: TF, ..base });
    }
}
