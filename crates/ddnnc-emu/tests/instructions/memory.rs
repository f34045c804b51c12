//! Loads, stores, atomics, asynchronous copies, addresses and fences.

use crate::suite::Suite;
use ddnnc_emu::FaultKind;
use ddnnc_emu::inst::Type;

/// Words of a thread: two of input, six for results.
const WORDS: usize = 8;

fn input(threads: usize) -> Vec<u64> {
    let word = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x8081_8283_8485_8687;
    (0..(threads * WORDS) as u64)
        .map(|i| if i as usize % WORDS < 2 { word(i) } else { 0x5a5a_5a5a_5a5a_5a5a })
        .collect()
}

fn register(ty: Type) -> &'static str {
    match ty.bits() {
        8 | 16 => "%h1",
        32 => "%r1",
        64 => "%x2",
        _ => "%q1",
    }
}

pub fn cases(suite: &mut Suite) {
    use Type::{B8, B16, B32, B64, B128, F32, F64, S8, S16, S32, S64, U8, U16, U32, U64};
    for ty in [B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64] {
        scalars(suite, ty);
    }
    wide_registers(suite);
    vectors(suite);
    constants_and_parameters(suite);
    atomics(suite);
    float_atomics(suite);
    conversions(suite);
    copies(suite);
    orders(suite);
}

/// A value moves through each space: it is loaded and stored as the type, and the bytes beside it stay.
fn scalars(suite: &mut Suite, ty: Type) {
    let name = ty.name();
    let reg = register(ty);
    let data = input(64);
    let shared = ".shared .align 16 .b8 s[4096];";
    let to_space = |space: &str, at: &str| {
        format!(
            "ld.global.b64 %x5, [%x1]; ld.global.b64 %x6, [%x1+8]; st.{space}.b64 [{at}], %x5; st.{space}.b64 [{at}+8], %x6;\n\
             mov.b64 %x7, 0x5a5a5a5a5a5a5a5a; st.{space}.b64 [{at}+16], %x7; st.{space}.b64 [{at}+24], %x7;\n"
        )
    };
    let from_space = |space: &str, at: &str| {
        format!(
            "ld.{space}.b64 %x5, [{at}+16]; ld.{space}.b64 %x6, [{at}+24];\n\
             st.global.b64 [%x1+16], %x5; st.global.b64 [%x1+24], %x6;\n"
        )
    };
    let move_in = |suffix: &str, load: &str, at: &str| {
        format!("{load}{suffix}.{name} {reg}, [{at}]; st{suffix}.{name} [{at}+16], {reg};\n")
    };
    let address32 = "shl.b32 %r2, %r0, 5; mov.u32 %r3, s; add.u32 %r2, %r2, %r3;\n";
    let address64 = "cvt.u64.u32 %x3, %r2; cvta.shared.u64 %x3, %x3;\n";
    let bodies = [
        move_in(".global", "ld", "%x1"),
        move_in(".global", "ldu", "%x1"),
        move_in(".volatile.global", "ld", "%x1"),
        move_in("", "ld", "%x1"),
        format!("{address32}{}{}{}", to_space("shared", "%r2"), move_in(".shared", "ld", "%r2"), from_space("shared", "%r2")),
        format!(
            "{address32}{address64}{}{}{}",
            to_space("shared::cta", "%r2"),
            move_in("", "ld", "%x3"),
            from_space("shared", "%r2")
        ),
        format!(
            ".local .align 16 .b8 l[32]; {}{}{}",
            to_space("local", "l"),
            move_in(".local", "ld", "l"),
            from_space("local", "l")
        ),
        format!(
            ".local .align 16 .b8 l[32]; mov.u64 %x3, l; cvta.local.u64 %x3, %x3; {}{}{}",
            to_space("local", "l"),
            move_in("", "ld", "%x3"),
            from_space("local", "l")
        ),
    ];
    let kept = |word: u64, bits: u32| {
        if bits >= 64 { word } else { word & ((1 << bits) - 1) | 0x5a5a_5a5a_5a5a_5a5a & !((1 << bits) - 1) }
    };
    for body in bodies {
        suite.words((shared, &body), 64, &data, 2, |t| kept(data[t * WORDS], ty.bits()));
        let second = |t: usize| if ty.bits() == 128 { data[t * WORDS + 1] } else { 0x5a5a_5a5a_5a5a_5a5a };
        suite.words((shared, &body), 64, &data, 3, second);
    }
    // Under a guard: only every other lane, and then only the others.
    for (guard, odd) in [("@%p1", 1), ("@!%p1", 0)] {
        let body = format!("ld.global.{name} {reg}, [%x1]; {guard} st.global.{name} [%x1+16], {reg};");
        suite.words(("", &body), 64, &data, 2, |t| {
            if t % 2 == odd { kept(data[t * WORDS], ty.bits()) } else { 0x5a5a_5a5a_5a5a_5a5a }
        });
        if ty.bits() == 64 {
            let body = format!(
                "mov.b64 %x2, 7; {guard} ld.global.{name} %x2, [%x1]; st.global.b64 [%x1+16], %x2;"
            );
            suite.words(("", &body), 64, &data, 2, |t| if t % 2 == odd { data[t * WORDS] } else { 7 });
        }
    }
}

/// Registers wider than what is loaded: signed values are extended by their sign, all others by zeros.
fn wide_registers(suite: &mut Suite) {
    use Type::{B8, B16, B32, S8, S16, S32, U8, U16, U32};
    let data = input(64);
    for ty in [B8, B16, B32, U8, U16, U32, S8, S16, S32] {
        let body = format!("ld.global.{} %x2, [%x1]; st.global.b64 [%x1+16], %x2;", ty.name());
        let extended = |word: u64, to: u32| {
            let unused = 64 - ty.bits();
            let value = if ty.is_signed() { ((word << unused) as i64 >> unused) as u64 } else { word << unused >> unused };
            if to == 64 { value } else { value & ((1 << to) - 1) }
        };
        suite.words(("", &body), 64, &data, 2, |t| extended(data[t * WORDS], 64));
        if ty.bits() < 32 {
            let body = format!(
                "ld.global.{} %r1, [%x1]; cvt.u64.u32 %x2, %r1; st.global.b64 [%x1+16], %x2;",
                ty.name()
            );
            suite.words(("", &body), 64, &data, 2, |t| extended(data[t * WORDS], 32));
        }
        // Stores take the low bits of a wider register.
        let body = format!("ld.global.b64 %x2, [%x1]; st.global.{} [%x1+16], %x2;", ty.name());
        let low = (1u64 << ty.bits()) - 1;
        suite.words(("", &body), 64, &data, 2, |t| data[t * WORDS] & low | 0x5a5a_5a5a_5a5a_5a5a & !low);
    }
}

/// `.v2`, `.v4` and `.v8`: the elements are stored in the opposite order.
fn vectors(suite: &mut Suite) {
    let data = input(32);
    for (count, bits) in [(2, 8), (4, 8), (8, 8), (2, 16), (4, 16), (8, 16), (2, 32), (4, 32), (2, 64)] {
        let name = match bits {
            8 | 16 => "%h",
            32 => "%r1",
            _ => "%x1",
        };
        let names: Vec<String> = (0..count).map(|i| format!("{name}{i}")).collect();
        let mut reversed = names.clone();
        reversed.reverse();
        let body = format!(
            "ld.global.v{count}.b{bits} {{{}}}, [%x1]; st.global.v{count}.b{bits} [%x1+16], {{{}}};",
            names.join(","),
            reversed.join(",")
        );
        let expected = |t: usize, word: usize| {
            let bytes: Vec<u8> = data[t * WORDS..][..2].iter().flat_map(|w| w.to_le_bytes()).collect();
            let size = bits / 8;
            let mut out = [0x5a; 16];
            for i in 0..count {
                out[i * size..][..size].copy_from_slice(&bytes[(count - 1 - i) * size..][..size]);
            }
            u64::from_le_bytes(out[word * 8..][..8].try_into().expect("eight bytes"))
        };
        suite.words(("", &body), 32, &data, 2, |t| expected(t, 0));
        suite.words(("", &body), 32, &data, 3, |t| expected(t, 1));
    }
    // 32 bytes at once, as newer devices have it.
    let body = "ld.global.v4.b64 {%x4,%x5,_,%x6}, [%x1]; add.u64 %x4, %x4, %x5; st.global.v4.u64 [%x1+32], {%x4,%x6,1,%x5};";
    suite.words(("", body), 32, &data, 4, |t| data[t * WORDS].wrapping_add(data[t * WORDS + 1]));
    suite.words(("", body), 32, &data, 6, |_| 1);
    suite.words(("", body), 32, &data, 7, |t| data[t * WORDS + 1]);
    let body = "ld.global.v8.f32 {%r10,%r11,%r12,%r13,%r14,%r15,%r16,%r17}, [%x1]; \
                st.global.v8.f32 [%x1+32], {%r13,%r12,%r11,%r10,%r17,%r16,%r15,%r14};";
    suite.words(("", body), 32, &data, 4, |t| data[t * WORDS + 1].rotate_left(32));
    suite.words(("", body), 32, &data, 5, |t| data[t * WORDS].rotate_left(32));
}

fn constants_and_parameters(suite: &mut Suite) {
    let declarations = ".const .align 8 .u32 c[4] = {10, 20, 30, 40};\n.global .align 8 .u32 g[4] = {1, 2, 3, 4};";
    let data = input(32);
    let body = "and.b32 %r1, %r0, 3; mul.wide.u32 %x2, %r1, 4; mov.u64 %x3, c; add.u64 %x3, %x3, %x2; ld.const.u32 %x4, [%x3];\n\
                mov.u64 %x5, g; add.u64 %x5, %x5, %x2; ld.global.u32 %x6, [%x5]; ld.const.u32 %x7, [c+8];\n\
                add.u64 %x4, %x4, %x6; add.u64 %x4, %x4, %x7; st.global.u64 [%x1+16], %x4;";
    suite.words((declarations, body), 32, &data, 2, |t| 11 * (t as u64 % 4 + 1) + 30);
    // Halves of a parameter, and a byte of it, are those of the whole.
    let body = "ld.param.u32 %r1, [data]; ld.param.u32 %r2, [data+4]; mov.b64 %x2, {%r1, %r2}; ld.param.u8 %x3, [data+1];\n\
                mov.u64 %x4, data; ld.param.u64 %x5, [%x4]; xor.b64 %x2, %x2, %x0; xor.b64 %x5, %x5, %x0;\n\
                shr.u64 %x6, %x0, 8; and.b64 %x6, %x6, 255; xor.b64 %x3, %x3, %x6; or.b64 %x2, %x2, %x3;\n\
                or.b64 %x2, %x2, %x5; st.global.u64 [%x1+16], %x2;";
    suite.words(("", body), 32, &data, 2, |_| 0);
}

/// The step of an atomic operation: what is there afterwards.
fn step(op: &str, signed: bool, bits: u32, old: u64, a: u64, b: u64) -> u64 {
    let number = |v: u64| if signed { i128::from((v << (64 - bits)) as i64 >> (64 - bits)) } else { i128::from(v) };
    let new = match op {
        "add" => old.wrapping_add(a),
        "min" => if number(a) < number(old) { a } else { old },
        "max" => if number(a) > number(old) { a } else { old },
        "and" => old & a,
        "or" => old | a,
        "xor" => old ^ a,
        "exch" => a,
        "inc" => if old >= a { 0 } else { old + 1 },
        "dec" => if old == 0 || old > a { a } else { old - 1 },
        _ => if old == a { b } else { old },
    };
    if bits == 64 { new } else { new & 0xffff_ffff }
}

fn atomics(suite: &mut Suite) {
    const FORMS: &[(&str, &str, u32)] = &[
        ("add", "u32", 32),
        ("add", "s32", 32),
        ("add", "u64", 64),
        ("min", "u32", 32),
        ("min", "s32", 32),
        ("min", "u64", 64),
        ("min", "s64", 64),
        ("max", "u32", 32),
        ("max", "s32", 32),
        ("max", "u64", 64),
        ("max", "s64", 64),
        ("and", "b32", 32),
        ("and", "b64", 64),
        ("or", "b32", 32),
        ("or", "b64", 64),
        ("xor", "b32", 32),
        ("xor", "b64", 64),
        ("exch", "b32", 32),
        ("exch", "b64", 64),
        ("cas", "b32", 32),
        ("cas", "b64", 64),
        ("inc", "u32", 32),
        ("dec", "u32", 32),
    ];
    for &(op, ty, bits) in FORMS {
        let low = |v: u64| if bits == 64 { v } else { v & 0xffff_ffff };
        // Values around which the operations turn; each thread has a cell of its own.
        let edges = [0, 1, 5, 6, 7, 1 << (bits - 1), (1 << (bits - 1)) - 1, low(u64::MAX)];
        let mut data = vec![0u64; 64 * WORDS];
        for t in 0..64 {
            (data[t * WORDS], data[t * WORDS + 1]) = (edges[t % 8], edges[t / 8]);
        }
        let (old, a) = (|t: usize| edges[t % 8], |t: usize| edges[t / 8]);
        let new = |t: usize| step(op, ty.starts_with('s'), bits, old(t), a(t), 99);
        let third = if op == "cas" { ", 99" } else { "" };
        let (d, v) = if bits == 64 { ("%x3", "%x2") } else { ("%r3", "%r2") };
        let shared = ".shared .align 8 .u64 s[64];";
        let at_shared = "shl.b32 %r4, %r0, 3; mov.u32 %r5, s; add.u32 %r4, %r4, %r5;\n";
        let fill = "ld.global.b64 %x4, [%x1]; st.shared.b64 [%r4], %x4;\n";
        let back = "ld.shared.b64 %x4, [%r4]; st.global.b64 [%x1], %x4;\n";
        for (space, setup, address, end) in [
            (".global", String::new(), "%x1", ""),
            ("", String::new(), "%x1", ""),
            (".relaxed.gpu.global", String::new(), "%x1", ""),
            (".shared", format!("{at_shared}{fill}"), "%r4", back),
            (".acq_rel.cta.shared::cta", format!("{at_shared}{fill}"), "%r4", back),
        ] {
            let load = format!("ld.global.b{bits} {v}, [%x1+8];\n");
            let body = format!(
                "{setup}{load}atom{space}.{op}.{ty} {d}, [{address}], {v}{third}; st.global.b{bits} [%x1+16], {d};\n{end}"
            );
            suite.words((shared, &body), 64, &data, 2, |t| low(old(t)));
            suite.words((shared, &body), 64, &data, 0, new);
            if !matches!(op, "exch" | "cas") {
                let body = format!("{setup}{load}red{space}.{op}.{ty} [{address}], {v};\n{end}");
                suite.words((shared, &body), 64, &data, 0, new);
            }
        }
        // Under a guard only every other thread's cell changes.
        let body = format!("ld.global.b{bits} {v}, [%x1+8]; @%p1 atom.global.{op}.{ty} {d}, [%x1], {v}{third};");
        suite.words(("", &body), 64, &data, 0, |t| if t % 2 == 1 { new(t) } else { old(t) });
    }
    // All threads on one cell: each addition counts, and each sees another old value.
    let data = vec![0; 256 * WORDS];
    let body = "atom.global.add.u32 %r1, [%x0], 1; mov.u32 %r2, %ctaid.x;\n\
                cvt.u64.u32 %x2, %r1; st.global.b64 [%x1+8], %x2;";
    if let Some(found) = suite.kernel("", body, 256, &data) {
        let found = found.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found[0] as u32, 256);
        let mut seen: Vec<u64> = found.chunks_exact(WORDS).map(|words| words[1]).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..256).collect::<Vec<u64>>());
    }
}

fn float_atomics(suite: &mut Suite) {
    let data: Vec<u64> = (0..64 * WORDS as u64)
        .map(|i| match i % WORDS as u64 {
            0 => u64::from((i as f32 * 0.37 - 50.0).to_bits()),
            1 => u64::from((1.0f32 / (i as f32 + 1.0)).to_bits()),
            2 => (i as f64 * 0.37 - 50.0).to_bits(),
            3 => (1.0 / (i as f64 + 1.0)).to_bits(),
            _ => 0,
        })
        .collect();
    let single = |t: usize, i: usize| f32::from_bits(data[t * WORDS + i] as u32);
    let double = |t: usize, i: usize| f64::from_bits(data[t * WORDS + i]);
    for (atom, d) in [("atom", "%r2, "), ("red", "")] {
        let body = format!("ld.global.f32 %r1, [%x1+8]; {atom}.global.add.f32 {d}[%x1], %r1;");
        suite.words(("", &body), 64, &data, 0, |t| u64::from((single(t, 0) + single(t, 1)).to_bits()));
        let d = d.replace("%r", "%x");
        let body = format!("ld.global.f64 %x3, [%x1+24]; {atom}.global.add.f64 {d}[%x1+16], %x3;");
        suite.words(("", &body), 64, &data, 2, |t| (double(t, 2) + double(t, 3)).to_bits());
    }
}

/// `cvta` to a window and back, and which window an address lies in.
fn conversions(suite: &mut Suite) {
    let data = input(32);
    let declarations = ".shared .align 8 .u64 s[8];";
    let local = ".local .align 8 .b8 l[16];";
    for (space, address) in [("global", "%x1"), ("shared", "s"), ("shared::cta", "s"), ("local", "l"), ("param", "data")] {
        let body = format!(
            "{local} mov.u64 %x2, {address}; cvta.{space}.u64 %x3, %x2; cvta.to.{space}.u64 %x4, %x3; xor.b64 %x4, %x4, %x2;\n\
             st.global.u64 [%x1+16], %x4;\n\
             mov.b64 %x5, 0;\n\
             isspacep.global %p2, %x3; @%p2 or.b64 %x5, %x5, 1; isspacep.shared %p2, %x3; @%p2 or.b64 %x5, %x5, 2;\n\
             isspacep.local %p2, %x3; @%p2 or.b64 %x5, %x5, 4; isspacep.param %p2, %x3; @%p2 or.b64 %x5, %x5, 8;\n\
             st.global.u64 [%x1+24], %x5;"
        );
        suite.words((declarations, &body), 32, &data, 2, |_| 0);
        let expected = match space {
            "global" => 1,
            "local" => 4,
            "param" => 8,
            _ => 2,
        };
        suite.words((declarations, &body), 32, &data, 3, |_| expected);
    }
    // Constants are read through generic addresses too.
    let body = "cvta.const.u64 %x2, c; ld.u32 %x3, [%x2+4]; cvta.to.const.u64 %x4, %x2; ld.const.u32 %x5, [%x4];\n\
                add.u64 %x3, %x3, %x5; st.global.u64 [%x1+16], %x3;";
    suite.words((".const .align 8 .u32 c[2] = {5, 6};", body), 32, &data, 2, |_| 11);
}

fn copies(suite: &mut Suite) {
    let data = input(64);
    let declarations = ".shared .align 16 .b8 s[1024];";
    let address = "shl.b32 %r2, %r0, 4; mov.u32 %r3, s; add.u32 %r2, %r2, %r3;\n";
    let read = "ld.shared.b64 %x2, [%r2]; ld.shared.b64 %x3, [%r2+8]; st.global.b64 [%x1+16], %x2; st.global.b64 [%x1+24], %x3;";
    let fill = "mov.b64 %x4, 0x7777777777777777; st.shared.b64 [%r2], %x4; st.shared.b64 [%r2+8], %x4;\n";
    // What the copy leaves of the 16 bytes: so many of the source, zeros up to its size, then what was there.
    let expected = |t: usize, word: usize, source: usize, bytes: usize| {
        let mut out = [0x77; 16];
        out[..bytes].fill(0);
        let words: Vec<u8> = data[t * WORDS..][..2].iter().flat_map(|w| w.to_le_bytes()).collect();
        out[..source].copy_from_slice(&words[..source]);
        u64::from_le_bytes(out[word * 8..][..8].try_into().expect("eight bytes"))
    };
    for wait in ["cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"] {
        for (copy, source, bytes) in [
            ("cp.async.cg.shared.global [%r2], [%x1], 16;", 16, 16),
            ("cp.async.cg.shared::cta.global.L2::128B [%r2], [%x1], 16, 10;", 10, 16),
            ("mov.u32 %r4, 3; cp.async.ca.shared.global [%r2], [%x1], 4, %r4;", 3, 4),
            ("cp.async.ca.shared.global [%r2], [%x1], 8;", 8, 8),
            ("cp.async.ca.shared.global [%r2], [%x1], 16, 0;", 0, 16),
            ("setp.eq.u32 %p2, %r0, %r0; cp.async.ca.shared.global [%r2], [%x1], 8, %p2;", 0, 8),
            ("setp.eq.u32 %p2, %r0, %r0; cp.async.ca.shared.global [%r2], [%x1], 8, !%p2;", 8, 8),
        ] {
            let body = format!("{address}{fill}{copy} {wait}\n{read}");
            for word in 0..2 {
                suite.words((declarations, &body), 64, &data, 2 + word, |t| expected(t, word, source, bytes));
            }
        }
    }
    // Two groups, of which the older must have arrived; a guard leaves every other thread's bytes as they were.
    let body = format!(
        "{address}{fill}@%p1 cp.async.ca.shared.global [%r2], [%x1], 8; cp.async.commit_group;\n\
         cp.async.ca.shared.global [%r2+8], [%x1+8], 8; cp.async.commit_group; cp.async.wait_group 1;\n\
         ld.shared.b64 %x2, [%r2]; st.global.b64 [%x1+16], %x2; cp.async.wait_group 0;"
    );
    suite.words((declarations, &body), 64, &data, 2, |t| {
        if t % 2 == 1 { data[t * WORDS] } else { 0x7777_7777_7777_7777 }
    });
    // Without a wait the bytes are not there.
    let body = format!("{address}cp.async.cg.shared.global [%r2], [%x1], 16; cp.async.commit_group;\n{read}");
    if let Some(found) = suite.kernel(declarations, &body, 64, &data) {
        assert!(found.is_err(), "{found:?}");
    }
}

/// What orders accesses, or hints at them, changes no value.
fn orders(suite: &mut Suite) {
    let data = input(32);
    let body = "membar.gl; membar.cta; membar.sys; fence.acq_rel.gpu; fence.sc.sys; prefetch.global.L2 [%x1]; prefetch.L1 [%x1];\n\
                prefetchu.L1 [%x1]; applypriority.global.L2::evict_normal [%x1], 128; nanosleep.u32 100;\n\
                ld.acquire.gpu.global.u64 %x2, [%x1]; st.release.gpu.global.u64 [%x1+16], %x2;";
    suite.words(("", body), 32, &data, 2, |t| data[t * WORDS]);
    if let Some(found) = suite.kernel("", "@%p1 trap;", 32, &data) {
        let fault = found.expect_err("a trap");
        assert_eq!((fault.kind, fault.thread), (FaultKind::Trap, [1, 0, 0]));
    }
}
