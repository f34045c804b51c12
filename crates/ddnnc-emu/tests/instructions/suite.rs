//! Runs an instruction over many operands in lanes of a machine, with and without guards, and compares each result.

use crate::exact;
use ddnnc_emu::inst::Type;
use ddnnc_emu::{Fault, Machine, Options, Properties, instructions, parse};
use std::collections::BTreeSet;
use std::fmt::Write;

/// What an instruction should give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expect {
    /// Exactly these bits.
    Bits(u64),
    /// A NaN of the result's type, whichever.
    Nan,
    /// A number of the result's type that differs at most that much from a value.
    Near { value: f64, tolerance: f64 },
}

impl Expect {
    fn holds(self, ty: Type, bits: u64) -> bool {
        match self {
            Expect::Bits(expected) => bits == expected,
            Expect::Nan => number(ty, bits).is_nan(),
            Expect::Near { value, tolerance } => (number(ty, bits) - value).abs() <= tolerance,
        }
    }
}

/// The number that bits of a floating-point type stand for.
pub fn number(ty: Type, bits: u64) -> f64 {
    let format = match ty {
        Type::F16 => exact::F16,
        Type::Bf16 => exact::BF16,
        Type::F64 => exact::F64,
        _ => exact::F32,
    };
    exact::F64.write(&format.read(bits), exact::Mode::Nearest).map_or(f64::NAN, f64::from_bits)
}

/// Registers of a kernel's template: a result of this type in `%d`, operands in `%a`, `%b`, `%c`, `%e`.
const OPERANDS: [&str; 4] = ["%a", "%b", "%c", "%e"];

/// What a result register holds before the instruction, so that one that is guarded off is seen to change nothing.
const BEFORE: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Collects which instructions are checked, and checks them unless it only lists them.
pub struct Suite {
    run: bool,
    /// Instructions as [`instructions`] names them.
    pub seen: BTreeSet<String>,
    known: Vec<String>,
}

impl Suite {
    /// One that checks.
    pub fn running() -> Suite {
        Suite { run: true, seen: BTreeSet::new(), known: instructions() }
    }

    /// One that only notes what would be checked.
    pub fn listing() -> Suite {
        Suite { run: false, ..Suite::running() }
    }

    fn note(&mut self, opcode: &str) {
        let mut parts = opcode.split('.');
        let root = parts.next().unwrap_or_default();
        if self.known.iter().any(|name| name == root) {
            self.seen.insert(root.to_owned());
            return;
        }
        let typed = parts.rev().map(|m| format!("{root}.{m}")).find(|name| self.known.contains(name));
        if let Some(name) = typed {
            self.seen.insert(name);
        }
    }

    /// Notes all instructions of a text.
    fn note_all(&mut self, text: &str) {
        for word in text.split(|c: char| c.is_whitespace() || c == ';') {
            self.note(word);
        }
    }

    /// Runs a kernel in blocks of at most 128 threads. Its one parameter, `data`, is the address of 64-bit words, of which
    /// each thread has as many: `%x1` is where its own begin, `%r0` its number in the block, `%p1` true in every other
    /// lane. Gives the words as the kernel leaves them, or the fault; `None` where instructions are only listed.
    pub fn kernel(
        &mut self,
        declarations: &str,
        body: &str,
        threads: u32,
        input: &[u64],
    ) -> Option<Result<Vec<u64>, Fault>> {
        self.note_all(body);
        if !self.run {
            return None;
        }
        let bytes = input.len() as u32 / threads * 8;
        let text = format!(
            "{declarations}\n.visible .entry k(.param .u64 data) {{\n.reg .pred %p<8>;\n.reg .b16 %h<16>;\n\
             .reg .b32 %r<32>;\n.reg .b64 %x<16>;\n.reg .b128 %q<4>;\nmov.u32 %r0, %tid.x;\nmov.u32 %r31, %ctaid.x;\n\
             mad.lo.u32 %r31, %r31, 128, %r0;\nld.param.u64 %x0, [data];\nmad.wide.u32 %x1, %r31, {bytes}, %x0;\n\
             and.b32 %r31, %r0, 1;\nsetp.ne.u32 %p1, %r31, 0;\n{body}\nret;\n}}\n"
        );
        Some(execute(&text, threads, input))
    }

    /// As [`Suite::kernel`], and checks one word of each thread.
    pub fn words(
        &mut self,
        (declarations, body): (&str, &str),
        threads: u32,
        input: &[u64],
        word: usize,
        expect: impl Fn(usize) -> u64,
    ) {
        let Some(found) = self.kernel(declarations, body, threads, input) else { return };
        let found = found.unwrap_or_else(|e| panic!("{e}\n{body}"));
        let each = input.len() / threads as usize;
        let wrong: Vec<String> = (0..threads as usize)
            .map(|thread| (thread, expect(thread), found[thread * each + word]))
            .filter(|(_, expected, found)| expected != found)
            .map(|(thread, expected, found)| {
                format!("  thread {thread}: expected {expected:#x}, found {found:#x}")
            })
            .collect();
        let shown = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "{} wrong words of\n{body}\n{shown}", wrong.len());
    }

    /// Executes `instruction`, whose result is `%d` and whose operands are `%a`, `%b`, … of types, on every tuple of
    /// operands, in every lane, without a guard, with one and with its opposite.
    pub fn check(
        &mut self,
        instruction: &str,
        result: Type,
        operands: &[Type],
        tuples: &[Vec<u64>],
        expect: impl Fn(&[u64]) -> Expect,
    ) {
        let opcode = instruction.split_whitespace().next().unwrap_or_default();
        self.note(opcode);
        self.compare(instruction, result, operands, tuples, &["", "@%g ", "@!%g "], &expect);
    }

    /// As [`Suite::check`] for several instructions in braces, which cannot have one guard. All of them count as checked.
    pub fn check_block(
        &mut self,
        block: &str,
        result: Type,
        operands: &[Type],
        tuples: &[Vec<u64>],
        expect: impl Fn(&[u64]) -> Expect,
    ) {
        self.note_all(block);
        self.compare(block, result, operands, tuples, &[""], &expect);
    }

    fn compare(
        &self,
        instruction: &str,
        result: Type,
        operands: &[Type],
        tuples: &[Vec<u64>],
        guards: &[&str],
        expect: &dyn Fn(&[u64]) -> Expect,
    ) {
        if !self.run {
            return;
        }
        let mut wrong = String::new();
        let mut count = 0;
        for &guard in guards {
            let found = results(&format!("{guard}{instruction}"), result, operands, tuples);
            for (i, (tuple, bits)) in tuples.iter().zip(&found).enumerate() {
                let executed = match guard {
                    "" => true,
                    "@%g " => i % 2 == 1,
                    _ => i % 2 == 0,
                };
                let expected = if executed { expect(tuple) } else { Expect::Bits(mask(BEFORE, result)) };
                if !expected.holds(result, *bits) {
                    count += 1;
                    if count <= 5 {
                        let _ =
                            writeln!(wrong, "  {guard}{tuple:x?}: expected {expected:x?}, found {bits:#x}");
                    }
                }
            }
        }
        assert!(count == 0, "{count} wrong results of `{instruction}`:\n{wrong}");
    }
}

/// The bits that a type has.
pub fn mask(value: u64, ty: Type) -> u64 {
    match ty.bits() {
        64.. => value,
        bits => value & ((1 << bits) - 1),
    }
}

fn file(ty: Type) -> &'static str {
    match ty.bits() {
        1 => ".pred",
        8 | 16 => ".b16",
        32 => ".b32",
        _ => ".b64",
    }
}

fn execute(kernel: &str, threads: u32, input: &[u64]) -> Result<Vec<u64>, Fault> {
    let text = format!(".version 9.0\n.target sm_90\n.address_size 64\n{kernel}");
    let module = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    let mut machine = Machine::new(Properties::default(), Options::default());
    let module = machine.load(module).unwrap_or_else(|e| panic!("{e}"));
    let data = machine.alloc(input.len() as u64 * 8).expect("memory");
    let mut bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    machine.write(data, &bytes).unwrap_or_else(|e| panic!("{e}"));
    let block = threads.min(128);
    let grid = [threads.div_ceil(block), 1, 1];
    machine.launch(module, "k", grid, [block, 1, 1], 0, &data.to_le_bytes())?;
    machine.read(data, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
    Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
}

/// The result of an instruction for each tuple of operands: one thread each, five words of memory each.
fn results(instruction: &str, result: Type, operands: &[Type], tuples: &[Vec<u64>]) -> Vec<u64> {
    let mut body = String::from(
        ".reg .pred %g;\n.reg .b32 %i, %t, %w;\n.reg .b64 %base, %v;\nmov.u32 %i, %tid.x;\nmov.u32 %t, %ctaid.x;\n\
         mad.lo.u32 %i, %t, 128, %i;\nand.b32 %t, %i, 1;\nsetp.ne.u32 %g, %t, 0;\nld.param.u64 %base, [data];\n\
         mad.wide.u32 %base, %i, 40, %base;\n",
    );
    let register = |name: &str, ty: Type| format!(".reg {} {name};\n", file(ty));
    body += &register("%d", result);
    for (i, (name, ty)) in OPERANDS.iter().zip(operands).enumerate() {
        body += &register(name, *ty);
        let at = i * 8;
        body += &match ty.bits() {
            1 => format!("ld.global.b32 %t, [%base+{at}];\nsetp.ne.u32 {name}, %t, 0;\n"),
            8 | 16 => format!("ld.global.b16 {name}, [%base+{at}];\n"),
            32 => format!("ld.global.b32 {name}, [%base+{at}];\n"),
            _ => format!("ld.global.b64 {name}, [%base+{at}];\n"),
        };
    }
    let before = mask(BEFORE, result);
    body += &match result.bits() {
        1 => format!(
            "mov.pred %d, {before};\n{instruction}\nselp.b64 %v, 1, 0, %d;\nst.global.b64 [%base+32], %v;\n"
        ),
        8 => format!("mov.b16 %d, {before};\n{instruction}\nst.global.b8 [%base+32], %d;\n"),
        bits => format!("mov.b{bits} %d, {before};\n{instruction}\nst.global.b{bits} [%base+32], %d;\n"),
    };
    // Whole warps: the last tuple is repeated.
    let threads = tuples.len().next_multiple_of(128);
    let mut words = Vec::with_capacity(threads * 5);
    for i in 0..threads {
        let tuple = &tuples[i.min(tuples.len() - 1)];
        words.extend((0..4).map(|k| tuple.get(k).copied().unwrap_or(0)));
        words.push(0);
    }
    let found = execute(
        &format!(".visible .entry k(.param .u64 data) {{\n{body}\nret;\n}}\n"),
        threads as u32,
        &words,
    )
    .unwrap_or_else(|e| panic!("{e}\n{instruction}"));
    found.chunks_exact(5).take(tuples.len()).map(|words| words[4]).collect()
}

/// All pairs of values.
pub fn pairs(a: &[u64], b: &[u64]) -> Vec<Vec<u64>> {
    a.iter().flat_map(|x| b.iter().map(move |y| vec![*x, *y])).collect()
}

/// All triples of values.
pub fn triples(a: &[u64], b: &[u64], c: &[u64]) -> Vec<Vec<u64>> {
    pairs(a, b).into_iter().flat_map(|xy| c.iter().map(move |z| vec![xy[0], xy[1], *z])).collect()
}

/// Each value alone.
pub fn singles(a: &[u64]) -> Vec<Vec<u64>> {
    a.iter().map(|x| vec![*x]).collect()
}
