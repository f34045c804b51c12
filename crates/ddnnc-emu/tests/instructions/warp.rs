//! Control flow, barriers, shuffles, votes and reductions of a warp.

use crate::suite::Suite;
use ddnnc_emu::FaultKind;

/// Words of a thread: two of input, two for results.
const WORDS: usize = 4;

fn input(threads: usize) -> Vec<u64> {
    (0..(threads * WORDS) as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 ^ i << 3).collect()
}

const LOAD: &str = "ld.global.b32 %r1, [%x1]; ld.global.b32 %r2, [%x1+8];\n";
const STORE: &str = "cvt.u64.u32 %x2, %r3; st.global.b64 [%x1+16], %x2;\n";

pub fn cases(suite: &mut Suite) {
    jumps(suite);
    barriers(suite);
    shuffles(suite);
    votes(suite);
    matches(suite);
    reductions(suite);
}

fn jumps(suite: &mut Suite) {
    let data = input(64);
    // Loops of different lengths, forwards and out of the middle.
    let body = format!(
        "and.b32 %r4, %r0, 7; mov.u32 %r3, 0;\nL: setp.ge.u32 %p2, %r3, %r4; @%p2 bra E;\nadd.u32 %r3, %r3, 1; bra.uni L;\n\
         E: @!%p1 bra F; add.u32 %r3, %r3, 100;\nF: {STORE}"
    );
    suite.words(("", &body), 64, &data, 2, |t| t as u64 % 8 + if t % 2 == 1 { 100 } else { 0 });
    // A jump that all lanes take in a uniform loop.
    let body = format!("mov.u32 %r3, 0;\nL: add.u32 %r3, %r3, 3; setp.lt.u32 %p2, %r3, 30; @%p2 bra L;\n{STORE}");
    suite.words(("", &body), 64, &data, 2, |_| 30);
    let body = format!(
        "rem.u32 %r4, %r0, 3;\nts: .branchtargets A, B, C;\nbrx.idx %r4, ts;\nA: mov.u32 %r3, 5; bra E;\n\
         B: mov.u32 %r3, 6; bra E;\nC: mov.u32 %r3, 7;\nE: {STORE}"
    );
    suite.words(("", &body), 64, &data, 2, |t| t as u64 % 3 + 5);
    for end in ["exit", "ret", "ret.uni"] {
        let body = format!("mov.u32 %r3, 9; @%p1 {end};\n{STORE}");
        suite.words(("", &body), 64, &data, 2, |t| if t % 2 == 1 { data[t * WORDS + 2] } else { 9 });
    }
    if let Some(found) = suite.kernel("", "setp.eq.u32 %p2, %r0, 40; @%p2 trap;", 64, &data) {
        assert_eq!(found.map_err(|fault| (fault.kind, fault.thread)), Err((FaultKind::Trap, [40, 0, 0])));
    }
    let body = format!("activemask.b32 %r3; @%p1 activemask.b32 %r3;\n{STORE}");
    suite.words(("", &body), 64, &data, 2, |t| if t % 2 == 1 { 0xaaaa_aaaa } else { 0xffff_ffff });
}

fn barriers(suite: &mut Suite) {
    let data = input(128);
    let shared = ".shared .align 4 .u32 s[128];";
    let address = "shl.b32 %r4, %r0, 2; mov.u32 %r5, s; add.u32 %r6, %r4, %r5;\n";
    // Each thread reads what another warp's thread wrote; without the barrier that is a race.
    for barrier in ["bar.sync 0", "bar.cta.sync 3, 128", "barrier.sync 1", "barrier.cta.sync.aligned 0, 128"] {
        let body = format!(
            "{LOAD}{address}st.shared.b32 [%r6], %r1; {barrier};\nxor.b32 %r7, %r4, 508; add.u32 %r7, %r7, %r5;\n\
             ld.shared.b32 %r3, [%r7]; {STORE}"
        );
        suite.words((shared, &body), 128, &data, 2, |t| data[(127 - t) * WORDS] & 0xffff_ffff);
        let without = body.replace(&format!("{barrier};"), "");
        if let Some(found) = suite.kernel(shared, &without, 128, &data) {
            assert!(found.is_err(), "no fault without `{barrier}`");
        }
    }
    // Half of the warps only arrive.
    let body = format!(
        "{LOAD}{address}mov.u32 %r3, 1; setp.lt.u32 %p2, %r0, 64; @%p2 bra C;\n\
         st.shared.b32 [%r6], %r1; bar.arrive 2, 128; bra E;\n\
         C: bar.sync 2, 128; ld.shared.b32 %r3, [%r6+256];\nE: {STORE}"
    );
    suite.words((shared, &body), 128, &data, 2, |t| {
        if t < 64 { data[(t + 64) * WORDS] & 0xffff_ffff } else { 1 }
    });
    // Two warps have a barrier of their own.
    let body = format!(
        "{LOAD}{address}setp.ge.u32 %p2, %r0, 64; @%p2 exit;\n\
         st.shared.b32 [%r6], %r1; bar.sync 4, 64; xor.b32 %r7, %r4, 252; add.u32 %r7, %r7, %r5;\n\
         ld.shared.b32 %r3, [%r7]; {STORE}"
    );
    suite.words((shared, &body), 128, &data, 2, |t| {
        if t < 64 { data[(63 - t) * WORDS] & 0xffff_ffff } else { data[t * WORDS + 2] }
    });
    // Within a warp.
    let body = format!(
        "{LOAD}{address}st.shared.b32 [%r6], %r1; bar.warp.sync -1; xor.b32 %r7, %r4, 4; add.u32 %r7, %r7, %r5;\n\
         ld.shared.b32 %r3, [%r7]; {STORE}"
    );
    suite.words((shared, &body), 128, &data, 2, |t| data[(t ^ 1) * WORDS] & 0xffff_ffff);
    let set = |t: usize| data[t * WORDS] & 4 != 0;
    let count = (0..128).filter(|t| set(*t)).count() as u64;
    let bit = "and.b32 %r4, %r1, 4; setp.ne.u32 %p2, %r4, 0;\n";
    for (reduction, expected) in [
        ("bar.red.popc.u32 %r3, 0, %p2;", count),
        ("barrier.cta.red.popc.aligned.u32 %r3, 1, !%p2;", 128 - count),
        ("bar.red.and.pred %p3, 0, %p2; selp.u32 %r3, 1, 0, %p3;", 0),
        ("bar.red.or.pred %p3, 0, %p2; selp.u32 %r3, 1, 0, %p3;", 1),
        ("setp.lt.u32 %p2, %r0, 128; bar.red.and.pred %p3, 0, %p2; selp.u32 %r3, 1, 0, %p3;", 1),
        ("setp.lt.u32 %p2, %r0, 128; barrier.red.or.pred %p3, 0, !%p2; selp.u32 %r3, 1, 0, %p3;", 0),
    ] {
        suite.words(("", &format!("{LOAD}{bit}{reduction}\n{STORE}")), 128, &data, 2, |_| expected);
    }
}

/// The source lane and whether it is in range, in the words of the ISA.
fn source_lane(mode: &str, lane: i64, b: i64, c: i64) -> (i64, bool) {
    let (bval, cval, mask) = (b & 31, c & 31, c >> 8 & 31);
    let max = (lane & mask) | (cval & !mask & 31);
    let min = lane & mask;
    let (j, valid) = match mode {
        "up" => (lane - bval, lane - bval >= max),
        "down" => (lane + bval, lane + bval <= max),
        "bfly" => (lane ^ bval, lane ^ bval <= max),
        _ => (min | (bval & !mask & 31), min | (bval & !mask & 31) <= max),
    };
    let valid = match mode {
        "bfly" => j <= max,
        "idx" => j <= max,
        _ => valid,
    };
    (if valid { j } else { lane }, valid)
}

fn shuffles(suite: &mut Suite) {
    let data = input(64);
    let value = |t: usize| data[t * WORDS] & 0xffff_ffff;
    for mode in ["up", "down", "bfly", "idx"] {
        // Clamps of whole warps and of segments of 16 and 8 lanes.
        let clamps: &[i64] = if mode == "up" { &[0, 0x1000, 0x1800] } else { &[31, 0x101f, 0x181f, 0x0007] };
        for &c in clamps {
            for b in [0i64, 1, 2, 7, 16, 31, 33] {
                let body = format!(
                    "{LOAD}shfl.sync.{mode}.b32 %r3|%p2, %r1, {b}, {c}, -1; selp.u64 %x3, 1, 0, %p2; st.global.b64 [%x1+24], %x3;\n{STORE}"
                );
                let from = |t: usize| source_lane(mode, t as i64 % 32, b, c);
                suite.words(("", &body), 64, &data, 2, |t| value(t / 32 * 32 + from(t).0 as usize));
                suite.words(("", &body), 64, &data, 3, |t| u64::from(from(t).1));
            }
            // A lane of each thread's own.
            let body = format!(
                "{LOAD}and.b32 %r4, %r2, 31; mov.b32 %r5, {c}; mov.b32 %r6, -1; shfl.sync.{mode}.b32 %r3, %r1, %r4, %r5, %r6;\n{STORE}"
            );
            suite.words(("", &body), 64, &data, 2, |t| {
                let b = data[t * WORDS + 1] as i64 & 31;
                value(t / 32 * 32 + source_lane(mode, t as i64 % 32, b, c).0 as usize)
            });
        }
    }
    // Every other lane only.
    let body = format!("{LOAD}mov.u32 %r3, 5; @%p1 shfl.sync.bfly.b32 %r3, %r1, 2, 31, 0xaaaaaaaa;\n{STORE}");
    suite.words(("", &body), 64, &data, 2, |t| if t % 2 == 1 { value(t ^ 2) } else { 5 });
    // Lanes that a mask names and that do not come.
    let body = "@%p1 shfl.sync.bfly.b32 %r3, %r0, 2, 31, -1;";
    if let Some(found) = suite.kernel("", body, 64, &data) {
        assert!(found.is_err(), "a shuffle with lanes missing: {found:?}");
    }
}

fn votes(suite: &mut Suite) {
    let data = input(64);
    for bit in [0u64, 3] {
        // Bit 3 of the input; and one that is the same in all lanes.
        let test = if bit == 3 {
            "and.b32 %r4, %r1, 8; setp.ne.u32 %p2, %r4, 0;\n"
        } else {
            "setp.ge.u32 %p2, %r0, 0;\n"
        };
        let set = |t: usize| bit == 0 || data[t * WORDS] & 8 != 0;
        for not in ["", "!"] {
            for (guard, members) in [("", 0xffff_ffffu64), ("@%p1 ", 0xaaaa_aaaa), ("@!%p1 ", 0x5555_5555)] {
                let ballot = |t: usize| -> u64 {
                    let first = t / 32 * 32;
                    (0..32)
                        .filter(|lane| members >> lane & 1 == 1 && set(first + lane) != (not == "!"))
                        .map(|lane| 1 << lane)
                        .sum()
                };
                let member = |t: usize| members >> (t % 32) & 1 == 1;
                let body =
                    format!("{LOAD}{test}mov.u32 %r3, 77; {guard}vote.sync.ballot.b32 %r3, {not}%p2, {members};\n{STORE}");
                suite.words(("", &body), 64, &data, 2, |t| if member(t) { ballot(t) } else { 77 });
                for (mode, f) in [
                    ("all", (|b, m| b == m) as fn(u64, u64) -> bool),
                    ("any", |b, _| b != 0),
                    ("uni", |b, m| b == m || b == 0),
                ] {
                    let body = format!(
                        "{LOAD}{test}mov.pred %p3, 0; {guard}vote.sync.{mode}.pred %p3, {not}%p2, {members}; selp.u32 %r3, 1, 0, %p3;\n{STORE}"
                    );
                    suite.words(("", &body), 64, &data, 2, |t| u64::from(member(t) && f(ballot(t), members)));
                }
            }
        }
    }
}

fn matches(suite: &mut Suite) {
    let data = input(64);
    for (guard, members) in [("", 0xffff_ffffu64), ("@%p1 ", 0xaaaa_aaaa)] {
        for bits in [32, 64] {
            // Few values, so that some lanes have the same; those of 64 bits differ in the upper half.
            let key = |t: usize| data[t * WORDS] >> 4 & 3;
            let (setup, reg) =
                if bits == 32 { ("", "%r4") } else { ("mov.b64 %x2, {%r5, %r4};", "%x2") };
            let body = format!(
                "{LOAD}shr.u32 %r4, %r1, 4; and.b32 %r4, %r4, 3; mov.u32 %r5, 8; mov.u32 %r3, 0; {setup}\n\
                 {guard}match.any.sync.b{bits} %r3, {reg}, {members};\n{STORE}"
            );
            suite.words(("", &body), 64, &data, 2, |t| {
                if members >> (t % 32) & 1 == 0 {
                    return 0;
                }
                let first = t / 32 * 32;
                (0..32).filter(|l| members >> l & 1 == 1 && key(first + l) == key(t)).map(|l| 1u64 << l).sum()
            });
        }
    }
}

fn reductions(suite: &mut Suite) {
    let data = input(64);
    for (guard, members) in [("", 0xffff_ffffu64), ("@!%p1 ", 0x5555_5555)] {
        for (op, ty) in [
            ("add", "u32"),
            ("add", "s32"),
            ("min", "u32"),
            ("min", "s32"),
            ("max", "u32"),
            ("max", "s32"),
            ("and", "b32"),
            ("or", "b32"),
            ("xor", "b32"),
        ] {
            let body = format!("{LOAD}mov.u32 %r3, 3; {guard}redux.sync.{op}.{ty} %r3, %r1, {members};\n{STORE}");
            suite.words(("", &body), 64, &data, 2, |t| {
                if members >> (t % 32) & 1 == 0 {
                    return 3;
                }
                let first = t / 32 * 32;
                let values = (0..32).filter(|l| members >> l & 1 == 1).map(|l| data[(first + l) * WORDS] as u32);
                let result = match (op, ty) {
                    ("add", _) => values.fold(0u32, u32::wrapping_add),
                    ("min", "u32") => values.min().unwrap_or(0),
                    ("max", "u32") => values.max().unwrap_or(0),
                    ("min", _) => values.map(|v| v as i32).min().unwrap_or(0) as u32,
                    ("max", _) => values.map(|v| v as i32).max().unwrap_or(0) as u32,
                    ("and", _) => values.fold(u32::MAX, |a, b| a & b),
                    ("or", _) => values.fold(0, |a, b| a | b),
                    _ => values.fold(0, |a, b| a ^ b),
                };
                u64::from(result)
            });
        }
    }
}
