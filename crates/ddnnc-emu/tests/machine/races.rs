//! Races on shared memory, and accesses that look like races and are none.

use ddnnc_emu::{FaultKind, Options, Order};

use crate::bench::{Bench, expect_fault, expect_words, kernel, line_of, strict};

/// Each thread writes its number to its word, then reads its neighbour's (`tid ^ 1` or further), with `between`.
fn exchange(distance: u32, between: &str) -> String {
    kernel(
        1,
        ".shared .align 4 .b8 s[4096];",
        &format!(
            "ld.param.u64 %rd1, [p0];
             mov.u32 %r1, %tid.x;
             mov.u32 %r2, s;
             shl.b32 %r3, %r1, 2;
             add.s32 %r4, %r2, %r3;
             st.shared.u32 [%r4], %r1; // write
             {between}
             xor.b32 %r5, %r1, {distance};
             shl.b32 %r6, %r5, 2;
             add.s32 %r7, %r2, %r6;
             ld.shared.u32 %r8, [%r7]; // read
             mul.wide.u32 %rd2, %r1, 4;
             add.s64 %rd3, %rd1, %rd2;
             st.global.u32 [%rd3], %r8;"
        ),
    )
}

fn neighbours(threads: u32, distance: u32) -> Vec<u32> {
    (0..threads).map(|t| t ^ distance).collect()
}

#[test]
fn a_barrier_between_write_and_read() {
    expect_words(&exchange(32, "bar.sync 0;"), 128, &neighbours(128, 32));
    expect_words(&exchange(1, "bar.sync 0;"), 128, &neighbours(128, 1));
}

#[test]
fn without_a_barrier_warps_race_or_read_what_is_not_there() {
    let text = exchange(32, "");
    for order in crate::bench::ORDERS {
        let fault = crate::bench::run(&text, order, 128, 128).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialised), "{fault}");
    }
    // Warp 0 finds nothing in forward order; in reverse order warp 3 does. With memory written before, both race.
    let text = exchange(32, "").replace(
        "st.shared.u32 [%r4], %r1; // write",
        "st.shared.u32 [%r4], 0;\nbar.sync 0;\nst.shared.u32 [%r4], %r1; // write",
    );
    let fault = expect_fault(&text, 128, FaultKind::Race);
    assert_eq!(
        fault.message,
        format!(
            "writes 4 bytes at 0x80 of shared memory, which thread (0, 0, 0) reads at PTX line {}, with no barrier \
             between",
            line_of(&text, "// read")
        )
    );
    assert_eq!((fault.line, fault.thread), (line_of(&text, "// write"), [32, 0, 0]));
}

#[test]
fn lanes_of_a_warp_need_a_warp_barrier() {
    let text = exchange(1, "");
    let fault = expect_fault(&text, 32, FaultKind::Race);
    assert_eq!(
        fault.message,
        format!(
            "reads 4 bytes at 0x4 of shared memory, which thread (1, 0, 0) writes at PTX line {}, with no barrier \
             between",
            line_of(&text, "// write")
        )
    );
    expect_words(&exchange(1, "bar.warp.sync -1;"), 128, &neighbours(128, 1));
    expect_words(&exchange(0, ""), 128, &neighbours(128, 0));
    // A warp barrier does not order two warps.
    let fault = crate::bench::run(&exchange(32, "bar.warp.sync -1;"), Order::Forward, 64, 64).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Uninitialised);
    let fault = crate::bench::run(&exchange(32, "bar.warp.sync -1;"), Order::Random(5), 64, 64).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialised), "{fault}");
    // Nor do shuffles and fences.
    expect_fault(&exchange(1, "shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;"), 32, FaultKind::Race);
    expect_fault(&exchange(1, "membar.cta;"), 32, FaultKind::Race);
}

#[test]
fn a_warp_barrier_of_some_lanes_orders_those() {
    let halves =
        "setp.lt.s32 %p1, %r1, 16;\nselp.b32 %r10, 0x0000ffff, 0xffff0000, %p1;\nbar.warp.sync %r10;";
    expect_words(&exchange(1, halves), 32, &neighbours(32, 1));
    expect_words(&exchange(15, halves), 32, &neighbours(32, 15));
    expect_fault(&exchange(16, halves), 32, FaultKind::Race);
}

#[test]
fn a_named_barrier_orders_those_who_meet_at_it() {
    // Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2.
    let pairs = "shr.u32 %r10, %r1, 6;\nadd.s32 %r10, %r10, 1;\nbar.sync %r10, 64;";
    expect_words(&exchange(32, pairs), 128, &neighbours(128, 32));
    for order in crate::bench::ORDERS {
        let fault = crate::bench::run(&exchange(64, pairs), order, 128, 128).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialised), "{fault}");
    }
}

#[test]
fn order_is_passed_on_from_barrier_to_barrier() {
    // Warps 0 and 1 meet, then warps 1 and 2: warp 2 may read what warp 0 has written.
    let text = |first: &str| {
        kernel(
            1,
            ".shared .align 4 .b8 s[4];",
            &format!(
                "ld.param.u64 %rd1, [p0];
                 mov.u32 %r1, %tid.x;
                 mov.u32 %r2, %warpid;
                 setp.eq.s32 %p1, %r1, 0;
                 @%p1 st.shared.u32 [s], 5;
                 setp.eq.s32 %p2, %r2, 2;
                 @%p2 bra SECOND;
                 bar.sync 1, {first};
                 setp.eq.s32 %p3, %r2, 0;
                 @%p3 ret;
                 SECOND:
                 bar.sync 2, 64;
                 ld.shared.u32 %r3, [s];
                 mul.wide.u32 %rd2, %r1, 4;
                 add.s64 %rd3, %rd1, %rd2;
                 st.global.u32 [%rd3], %r3;"
            ),
        )
    };
    let words: Vec<u32> = (0..96).map(|t| if t < 32 { 0 } else { 5 }).collect();
    expect_words(&text("64"), 96, &words);
    for order in crate::bench::ORDERS {
        let fault = crate::bench::run(&text("32"), order, 96, 96).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialised), "{fault}");
    }
}

#[test]
fn a_write_after_reads_needs_a_barrier_too() {
    let text = |between: &str, writer: u32| {
        kernel(
            1,
            ".shared .align 4 .b8 s[4];",
            &format!(
                "ld.param.u64 %rd1, [p0];
                 mov.u32 %r1, %tid.x;
                 setp.eq.s32 %p1, %r1, 0;
                 @%p1 st.shared.u32 [s], 5;
                 bar.sync 0;
                 ld.shared.u32 %r2, [s]; // read
                 {between}
                 setp.eq.s32 %p2, %r1, {writer};
                 @%p2 st.shared.u32 [s], 6; // write
                 mul.wide.u32 %rd2, %r1, 4;
                 add.s64 %rd3, %rd1, %rd2;
                 st.global.u32 [%rd3], %r2;"
            ),
        )
    };
    // Whoever writes, be it the first or last who read: the others have read too.
    for writer in [0, 1, 31, 32, 70, 95] {
        expect_words(&text("bar.sync 0;", writer), 96, &[5; 96]);
        expect_fault(&text("", writer), 96, FaultKind::Race);
        expect_fault(&text("bar.warp.sync -1;", writer), 96, FaultKind::Race);
    }
    // In a block of one warp its barrier is enough.
    for writer in [0, 1, 31] {
        expect_words(&text("bar.warp.sync -1;", writer), 32, &[5; 32]);
        expect_fault(&text("", writer), 32, FaultKind::Race);
    }
}

#[test]
fn writes_of_one_instruction_may_agree() {
    let text = |value: &str| {
        kernel(
            1,
            ".shared .align 4 .b8 s[4];",
            &format!(
                "ld.param.u64 %rd1, [p0];
                 mov.u32 %r1, %tid.x;
                 st.shared.u32 [s], {value};
                 bar.sync 0;
                 ld.shared.u32 %r2, [s];
                 mul.wide.u32 %rd2, %r1, 4;
                 add.s64 %rd3, %rd1, %rd2;
                 st.global.u32 [%rd3], %r2;"
            ),
        )
    };
    expect_words(&text("9"), 32, &[9; 32]);
    let fault = expect_fault(&text("%r1"), 32, FaultKind::Race);
    assert!(fault.message.starts_with("lanes of one instruction write different values"), "{fault}");
    // Different warps do not execute one instruction.
    expect_fault(&text("9"), 64, FaultKind::Race);
}

#[test]
fn halves_of_a_word_are_places_of_their_own() {
    let text = kernel(
        1,
        ".shared .align 4 .b8 s[128];",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, %tid.x;
         mov.u32 %r2, s;
         shl.b32 %r3, %r1, 1;
         add.s32 %r4, %r2, %r3;
         cvt.u16.u32 %rs1, %r1;
         st.shared.u16 [%r4], %rs1;
         bar.sync 0;
         shl.b32 %r5, %r1, 2;
         add.s32 %r6, %r2, %r5;
         setp.lt.s32 %p1, %r1, 32;
         @!%p1 ret;
         ld.shared.u32 %r7, [%r6];
         mul.wide.u32 %rd2, %r1, 4;
         add.s64 %rd3, %rd1, %rd2;
         st.global.u32 [%rd3], %r7;",
    );
    expect_words(&text, 64, &(0..32).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect::<Vec<_>>());
}

#[test]
fn atomics_race_with_plain_accesses_only() {
    let text = |between: &str| {
        kernel(
            1,
            ".shared .align 4 .b8 s[4];",
            &format!(
                "ld.param.u64 %rd1, [p0];
                 mov.u32 %r1, %tid.x;
                 setp.eq.s32 %p1, %r1, 0;
                 @%p1 st.shared.u32 [s], 0;
                 bar.sync 0;
                 atom.shared.add.u32 %r2, [s], %r1;
                 red.shared.max.u32 [s], 1;
                 {between}
                 @!%p1 ret;
                 ld.shared.u32 %r3, [s]; // plain
                 st.global.u32 [%rd1], %r3;"
            ),
        )
    };
    expect_words(&text("bar.sync 0;"), 128, &[127 * 64]);
    for order in crate::bench::ORDERS {
        let fault = crate::bench::run(&text(""), order, 128, 1).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    }
}

#[test]
fn races_are_looked_for_only_where_asked_for() {
    let text = exchange(1, "");
    let mut bench = Bench::new(&text, Options { races: false, ..strict(Order::Forward) });
    let out = bench.words(&[0; 32]);
    bench.launch(1, 32, &[out]).unwrap();
    assert_eq!(bench.read(out, 32), neighbours(32, 1));
}
