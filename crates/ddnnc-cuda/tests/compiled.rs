//! CUDA C++ of all kinds through NVRTC and the emulator, for every architecture that kernels are made for: the parser
//! must take the PTX, and what is executed must give what the host gives.

use ddnnc_cuda::arch::Arch;
use ddnnc_cuda::nvrtc::{self, Output};
use ddnnc_emu::inst::Kernel;
use ddnnc_emu::{Machine, ModuleId, Options, Properties, parse};

const SOURCE: &str = include_str!("compiled/forms.cu");

fn ptx(arch: Arch) -> String {
    let binary = nvrtc::compile("forms", SOURCE, arch, Output::Ptx)
        .unwrap_or_else(|e| panic!("{e}\n(`bash .ci/nvrtc` installs NVRTC for the tests)"));
    String::from_utf8(binary.bytes).expect("PTX is text")
}

/// With line information the instructions are the same, and the text that they come from is there.
#[test]
fn lines_change_no_instruction() {
    let with_lines = nvrtc::compile("forms", SOURCE, Arch(90), Output::PtxWithLines);
    let with_lines = String::from_utf8(with_lines.unwrap_or_else(|e| panic!("{e}")).bytes).expect("text");
    let (plain, with_lines) = [ptx(Arch(90)), with_lines].map(|text| parse(&text).expect("PTX")).into();
    for (plain, with_lines) in plain.kernels.iter().zip(&with_lines.kernels) {
        let ops = |kernel: &Kernel| -> Vec<_> {
            kernel.code.iter().map(|inst| (inst.guard, inst.op.clone())).collect()
        };
        assert_eq!(ops(plain), ops(with_lines), "{}", plain.name);
        assert!(plain.locs.is_empty() && !with_lines.locs.is_empty(), "{}", plain.name);
    }
    assert_eq!(with_lines.files.len(), 1);
    let lines = with_lines.files[0].lines.as_ref().expect("the source");
    assert_eq!((with_lines.files[0].name.as_str(), lines.join("\n").trim()), ("forms.cu", SOURCE.trim()));
}

fn machine(arch: Arch) -> (Machine, ModuleId) {
    let text = ptx(arch);
    let module = parse(&text).unwrap_or_else(|e| panic!("{arch}: {e}"));
    assert_eq!(module.target, arch.0);
    assert_eq!(module.kernels.len(), SOURCE.matches("__global__").count());
    let properties = Properties { arch: arch.0, ..Properties::default() };
    let mut machine = Machine::new(properties, Options::default());
    let id = machine.load(module).unwrap_or_else(|e| panic!("{arch}: {e}"));
    (machine, id)
}

/// Runs a kernel of the form (out, in, n) and gives what it wrote, in words of 32 bits.
fn run(
    arch: Arch,
    kernel: &str,
    input: &[u32],
    each: usize,
    (grid, block): (u32, [u32; 3]),
    shared: u32,
) -> Vec<u32> {
    let (mut machine, module) = machine(arch);
    let out = machine.alloc((input.len() * each * 4) as u64).expect("memory");
    let data = machine.alloc((input.len() * 4) as u64).expect("memory");
    let bytes: Vec<u8> = input.iter().flat_map(|v| v.to_le_bytes()).collect();
    machine.write(data, &bytes).expect("inside");
    let mut params = [out.to_le_bytes(), data.to_le_bytes()].concat();
    params.extend((input.len() as u32).to_le_bytes());
    let report = machine.launch(module, kernel, [grid, 1, 1], block, shared, &params);
    report.unwrap_or_else(|e| panic!("{arch}: {e}"));
    let mut bytes = vec![0; input.len() * each * 4];
    machine.read(out, &mut bytes).expect("inside");
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

fn words(count: u32) -> Vec<u32> {
    let mixed = (0..count).map(|i| i.wrapping_mul(0x9e37_79b9) ^ (i << 7));
    mixed.chain([0, 1, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff]).collect()
}

/// What `check_integers` writes for a pair of words.
fn integers(i: u32, u: u32, v: u32) -> [u32; 16] {
    let v = v | 1;
    let (a, b) = (u as i32, (v as i32 >> 3) | 1);
    let w = u64::from(u) << 32 | u64::from(v);
    let pick = |x: u32, y: u32, selector: u32| {
        let both = u64::from(y) << 32 | u64::from(x);
        (0..4).map(|k| ((both >> (8 * (selector >> (4 * k) & 7))) as u32 & 0xff) << (8 * k)).sum::<u32>()
    };
    let left =
        |low: u32, high: u32, n: u32| (((u64::from(high) << 32 | u64::from(low)) << (n & 31)) >> 32) as u32;
    let right = |low: u32, high: u32, n: u32| ((u64::from(high) << 32 | u64::from(low)) >> (n & 31)) as u32;
    let first_set = if u == 0 { 0 } else { u.trailing_zeros() + 1 };
    let choice = match u % 9 {
        0 => u.wrapping_add(1),
        1 => u.wrapping_mul(3),
        2 => u.wrapping_sub(v),
        3 => u ^ 77,
        4 => u / 3,
        5 => (0..v & 31).fold(0u32, |sum, k| sum.wrapping_add(k.wrapping_mul(u))),
        6 => !u,
        _ => 9,
    };
    let short = i32::from(u as i16);
    [
        (u / v).wrapping_add(u % v),
        a.wrapping_div(b).wrapping_add(a.wrapping_rem(b)) as u32,
        u / 7 + u % 13,
        (a / 10).wrapping_add(a % 10) as u32,
        ((i64::from(a) * i64::from(b)) >> 32) as u32 ^ ((u64::from(u) * u64::from(v)) >> 32) as u32,
        (u.count_ones() + u.leading_zeros() + first_set).wrapping_add(u.reverse_bits()),
        pick(u, v, 0x4152) ^ pick(u, 0, 0x0123),
        left(u, v, 5) ^ right(u, v, v),
        ((w / 1_000_003) as u32).wrapping_add((w % u64::from(v)) as u32),
        (u64::from(u).wrapping_mul(0x1234_5678_abcd) >> 32) as u32,
        ((w >> (v & 63)) ^ (w << (u & 63))) as u32,
        (u >> 3 & 0x1f) | (v & 0xff) << 8 | ((((u << 5) as i32) >> 27) as u32) << 16,
        (a.min(b).wrapping_add(a.max(3)).wrapping_sub((a >> 1).abs()) as u32).wrapping_add(u.min(v)),
        ((u & 0xff) * (v >> 8 & 0xff) + (u >> 16 & 0xff) * (v >> 24)).wrapping_add(i),
        (short.wrapping_mul(i32::from(v as i16)).wrapping_add(short >> 2) as u32).wrapping_add(u & 0xff),
        choice,
    ]
}

#[test]
fn integers_are_those_of_the_host() {
    let input = words(500);
    let n = input.len();
    for arch in Arch::GATED {
        let found = run(arch, "check_integers", &input, 16, (n.div_ceil(96) as u32, [96, 1, 1]), 0);
        let mut wrong = 0;
        for i in 0..n {
            let expected = integers(i as u32, input[i], input[(i + 1) % n]);
            for (k, expected) in expected.iter().enumerate() {
                if found[i * 16 + k] != *expected {
                    wrong += 1;
                    eprintln!("{arch}: o[{k}] of {:#x}, {:#x}", input[i], input[(i + 1) % n]);
                }
            }
        }
        assert_eq!(wrong, 0);
    }
}

#[test]
fn floats_are_those_of_the_host() {
    let input: Vec<f32> = (0..300).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) * 0.013 + 0.001).collect();
    let n = input.len();
    let bits: Vec<u32> = input.iter().map(|x| x.to_bits()).collect();
    let table = [1.0, 2.0, 3.0, 4.5, -7.0];
    for arch in Arch::GATED {
        let found = run(arch, "check_floats", &bits, 12, (n.div_ceil(64) as u32, [64, 1, 1]), 0);
        let mut wrong = 0;
        for i in 0..n {
            let [x, y] = [input[i], input[(i + 1) % n]].map(f64::from);
            // The error function by its series, which converges everywhere.
            let (mut term, mut erf) = (x, x);
            for k in 1..2000 {
                term *= -x * x / f64::from(k);
                erf += term / f64::from(2 * k + 1);
            }
            let erf = if x.abs() > 4.0 { x.signum() } else { erf * 2.0 / std::f64::consts::PI.sqrt() };
            let expected = [
                x / y + x.abs().sqrt(),
                x.mul_add(y, 1.0) - x.min(y) + x.max(0.0),
                x.floor() + y.ceil() + x.trunc() + y.round_ties_even() + x.round(),
                x.exp(),
                (y.abs() + 0.5).ln(),
                x.tanh(),
                (x.abs() + f64::from(0.1f32)).powf(y),
                x.sin() + y.cos(),
                erf + 1.0 / (y.abs() + 1.0).sqrt(),
                x.trunc() + y.abs().trunc() + x.trunc(),
                x.copysign(y) + x % 0.75,
                f64::from(input[(i + i % 6) % n])
                    + table.get(i & 15).copied().unwrap_or(0.0)
                    + (i % 3 + 1) as f64,
            ];
            for (k, expected) in expected.iter().enumerate() {
                let value = f64::from(f32::from_bits(found[i * 12 + k]));
                // Sums of a few f32 of this size.
                let tolerance = 4e-6 * (expected.abs() + x.abs() + y.abs()).max(1.0);
                let near = (value - expected).abs() <= tolerance;
                if !near {
                    wrong += 1;
                    eprintln!("{arch}: o[{k}] of {x}, {y}: expected {expected}, found {value}");
                }
            }
        }
        assert_eq!(wrong, 0);
    }
}

#[test]
fn blocks_and_warps_work_together() {
    let input: Vec<f32> = (0..1024).map(|i| (i % 37) as f32).collect();
    let bits: Vec<u32> = input.iter().map(|x| x.to_bits()).collect();
    for arch in Arch::GATED {
        let found = run(arch, "check_block", &bits, 1, (1, [32, 32, 1]), 128);
        let mut wrong = 0;
        for y in 0..32usize {
            let sum: f32 = (0..32).map(|x| input[x * 32 + y] + (31 - x) as f32).sum();
            for x in 0..32usize {
                // Lanes out of range keep their own value.
                let down = if x + 3 < 32 { x + 3 } else { x };
                let up = if x >= 3 { x - 3 } else { x };
                let shuffles = (x ^ 4) + down + up + 5;
                let votes = 28 * 32 + 1 + 16 + 1 + 32 + 8 + 496 + 31;
                let expected = sum + (shuffles + votes) as f32;
                let value = f32::from_bits(found[y * 32 + x]);
                if value != expected {
                    wrong += 1;
                    eprintln!("{arch}: ({x}, {y}): expected {expected}, found {value}");
                }
            }
        }
        assert_eq!(wrong, 0);
    }
}

/// A kernel that spills for want of registers that a block may have is compiled again with them.
#[test]
fn what_spills_is_compiled_again_with_more_registers() {
    let kernel = |bounds: &str| {
        let sums: String = (0..96).map(|i| format!("    s[{i}] += x[{i}] * y;\n")).collect();
        format!(
            "{bounds}\nextern \"C\" __global__ void BOUNDS sums(float* x, int n) {{\n    float s[96] = {{}};\n    \
             for (int k = 0; k < n; k++, x += 96) {{\n    const float y = x[k];\n{sums}    }}\n    \
             for (int i = 0; i < 96; i++) x[i] = s[i];\n}}\n"
        )
    };
    let resources = |source: &str| {
        let binary =
            nvrtc::compile("sums", source, Arch(90), Output::Cubin).unwrap_or_else(|e| panic!("{e}"));
        ddnnc_cuda::machine_code::resources(&binary.log).expect("the log names the kernel's registers")
    };
    let always = resources(&kernel("#define BOUNDS __maxnreg__(40)"));
    assert!(always.spills > 0, "{always:?}");
    let at_first =
        resources(&kernel("#ifdef ROOMY\n#define BOUNDS\n#else\n#define BOUNDS __maxnreg__(40)\n#endif"));
    assert!(at_first.spills == 0 && at_first.registers > 96, "{at_first:?}");
}
