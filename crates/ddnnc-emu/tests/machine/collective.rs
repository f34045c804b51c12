//! Shuffles, votes, matches, reductions: values, segments, and lanes that do not come.

use ddnnc_emu::FaultKind;

use crate::bench::{expect_fault, expect_words, kernel, line_of};

fn with(body: &str) -> String {
    kernel(
        1,
        "",
        &format!(
            "mov.u32 %r1, %tid.x;
             {body}
             ld.param.u64 %rd1, [p0];
             mul.wide.u32 %rd2, %r1, 4;
             add.s64 %rd3, %rd1, %rd2;
             st.global.u32 [%rd3], %r2;"
        ),
    )
}

fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn shuffles_of_every_mode_and_segment() {
    expect_words(&with("shfl.sync.bfly.b32 %r2, %r1, 5, 31, -1;"), 32, &lanes(|l| l ^ 5));
    expect_words(
        &with("shfl.sync.up.b32 %r2, %r1, 3, 0, -1;"),
        32,
        &lanes(|l| if l < 3 { l } else { l - 3 }),
    );
    expect_words(
        &with("shfl.sync.down.b32 %r2, %r1, 3, 31, -1;"),
        32,
        &lanes(|l| if l > 28 { l } else { l + 3 }),
    );
    expect_words(&with("shfl.sync.idx.b32 %r2, %r1, 7, 31, -1;"), 32, &lanes(|_| 7));
    // Segments of 8 lanes: the mask in bits 8 to 12 of the last operand but one, as `__shfl_*_sync` gives it.
    expect_words(&with("shfl.sync.idx.b32 %r2, %r1, 2, 0x181f, -1;"), 32, &lanes(|l| l / 8 * 8 + 2));
    expect_words(
        &with("shfl.sync.down.b32 %r2, %r1, 2, 0x181f, -1;"),
        32,
        &lanes(|l| if l % 8 > 5 { l } else { l + 2 }),
    );
    expect_words(
        &with("shfl.sync.up.b32 %r2, %r1, 2, 0x1800, -1;"),
        32,
        &lanes(|l| if l % 8 < 2 { l } else { l - 2 }),
    );
    // The predicate tells whether the source lane was in range.
    expect_words(
        &with("shfl.sync.down.b32 %r2|%p1, %r1, 16, 31, -1;\nselp.b32 %r2, 1, 0, %p1;"),
        32,
        &lanes(|l| u32::from(l < 16)),
    );
}

#[test]
fn halves_of_a_warp_shuffle_apart() {
    let text = with(
        "setp.lt.s32 %p1, %r1, 16;
         selp.b32 %r3, 0x0000ffff, 0xffff0000, %p1;
         @%p1 bra LOW;
         shfl.sync.bfly.b32 %r2, %r1, 1, 31, %r3;
         bra.uni DONE;
         LOW:
         shfl.sync.bfly.b32 %r2, %r1, 2, 31, %r3;
         DONE:",
    );
    expect_words(&text, 32, &lanes(|l| if l < 16 { l ^ 2 } else { l ^ 1 }));
    let together = with(
        "setp.lt.s32 %p1, %r1, 16;
         selp.b32 %r3, 0x0000ffff, 0xffff0000, %p1;
         shfl.sync.bfly.b32 %r2, %r1, 1, 31, %r3;",
    );
    expect_words(&together, 32, &lanes(|l| l ^ 1));
    let crossing = together.replace("%r1, 1, 31", "%r1, 16, 31");
    let fault = expect_fault(&crossing, 32, FaultKind::Divergence);
    assert!(fault.message.contains("lane 0 reads from lane 16, which does not take part"), "{fault}");
}

#[test]
fn lanes_wait_for_the_others_at_a_shuffle() {
    // The lanes that come first wait at the shuffle, until the others join them there.
    let text = with(
        "mov.u32 %r4, 1;
         setp.lt.s32 %p1, %r1, 9;
         @!%p1 bra JOIN;
         mov.u32 %r5, 0;
         LOOP:
         add.s32 %r4, %r4, %r5;
         add.s32 %r5, %r5, 1;
         setp.le.s32 %p2, %r5, %r1;
         @%p2 bra LOOP;
         JOIN:
         shfl.sync.bfly.b32 %r2, %r4, 31, 31, -1;",
    );
    let own = |l: u32| if l < 9 { 1 + l * (l + 1) / 2 } else { 1 };
    expect_words(&text, 32, &lanes(|l| own(l ^ 31)));
}

#[test]
fn lanes_that_come_to_an_earlier_place_wait_there() {
    // The shuffle lies before the code of the lanes that come later, so those that need no more are there first.
    let text = with(
        "setp.lt.s32 %p1, %r1, 9;
         mov.u32 %r4, %r1;
         bra START;
         JOIN:
         shfl.sync.bfly.b32 %r2, %r4, 31, 31, -1;
         bra DONE;
         START:
         @%p1 bra JOIN;
         add.s32 %r4, %r4, 100;
         setp.lt.s32 %p2, %r1, 20;
         @%p2 bra JOIN;
         add.s32 %r4, %r4, 1000;
         bra JOIN;
         DONE:",
    );
    let own = |l: u32| match l {
        0..9 => l,
        9..20 => l + 100,
        _ => l + 1100,
    };
    expect_words(&text, 32, &lanes(|l| own(l ^ 31)));
}

#[test]
fn a_shuffle_that_some_lanes_never_reach() {
    let text = with(
        "mov.u32 %r2, 0;
         setp.lt.s32 %p1, %r1, 16;
         @%p1 shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; // here
         bar.warp.sync -1;",
    );
    let fault = expect_fault(&text, 32, FaultKind::Divergence);
    assert!(fault.message.contains("0x0000ffff") && fault.message.contains("never come"), "{fault}");
    let text = with(
        "setp.lt.s32 %p1, %r1, 16;
         @!%p1 exit;
         shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; // here",
    );
    let fault = expect_fault(&text, 32, FaultKind::Divergence);
    assert_eq!(fault.message, "its mask 0xffffffff names lanes 0xffff0000, which have exited");
    assert_eq!(fault.line, line_of(&text, "// here"));
    let text = with("shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0x0000ffff;");
    let fault = expect_fault(&text, 32, FaultKind::Divergence);
    assert_eq!(fault.message, "lane 16 executes it and is not in its own mask 0x0000ffff");
}

#[test]
fn a_last_warp_of_few_threads() {
    // Lanes 0 to 15 exist. Between themselves they may shuffle with the full mask; what lies beyond gives no value.
    let text = with("shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;");
    expect_words(&text, 16, &(0..16).map(|l| l ^ 1).collect::<Vec<_>>());
    let fault = expect_fault(&with("shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;"), 16, FaultKind::Divergence);
    assert!(fault.message.contains("lane 0 reads from lane 16"), "{fault}");
}

#[test]
fn votes() {
    let vote = |v: &str| with(&format!("setp.lt.s32 %p1, %r1, 5;\nsetp.ge.s32 %p4, %r1, 0;\n{v}"));
    let mask = (1 << 5) - 1;
    expect_words(&vote("vote.sync.ballot.b32 %r2, %p1, -1;"), 32, &[mask; 32]);
    expect_words(&vote("vote.sync.ballot.b32 %r2, !%p1, -1;"), 32, &[!mask; 32]);
    for (mode, predicate, expected) in [
        ("any", "%p1", 1),
        ("all", "%p1", 0),
        ("all", "%p4", 1),
        ("any", "!%p4", 0),
        ("uni", "%p1", 0),
        ("uni", "%p4", 1),
    ] {
        let text = vote(&format!("vote.sync.{mode}.pred %p2, {predicate}, -1;\nselp.b32 %r2, 1, 0, %p2;"));
        expect_words(&text, 32, &[expected; 32]);
    }
}

#[test]
fn matches_and_reductions() {
    let text = with("and.b32 %r3, %r1, 3;\nmatch.any.sync.b32 %r2, %r3, -1;");
    expect_words(&text, 32, &lanes(|l| 0x1111_1111 << (l & 3)));
    let reduce = |op: &str| with(&format!("sub.s32 %r3, %r1, 7;\nredux.sync.{op} %r2, %r3, -1;"));
    expect_words(&reduce("add.s32"), 32, &[(31 * 16 - 7 * 32) as u32; 32]);
    expect_words(&reduce("min.s32"), 32, &[-7i32 as u32; 32]);
    expect_words(&reduce("max.s32"), 32, &[24; 32]);
    expect_words(&reduce("min.u32"), 32, &[0; 32]);
    expect_words(&reduce("max.u32"), 32, &[u32::MAX; 32]);
    expect_words(&reduce("xor.b32"), 32, &[(0..32u32).fold(0, |a, l| a ^ l.wrapping_sub(7)); 32]);
}

#[test]
fn matrix_instructions_need_whole_warps() {
    let text = kernel(
        1,
        ".shared .align 16 .b8 s[512];",
        "mov.u32 %r1, %tid.x;
         mov.u32 %r2, s;
         shl.b32 %r3, %r1, 4;
         add.s32 %r4, %r2, %r3;
         st.shared.v4.u32 [%r4], {%r1, %r1, %r1, %r1};
         bar.warp.sync -1;
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4];
         ld.param.u64 %rd1, [p0];
         mul.wide.u32 %rd2, %r1, 4;
         add.s64 %rd3, %rd1, %rd2;
         st.global.u32 [%rd3], %r6;",
    );
    // Row r of matrix 1 holds lane 8 + r's number in every word.
    expect_words(&text, 32, &lanes(|l| 8 + l / 4));
    assert_eq!(
        expect_fault(&text, 16, FaultKind::Divergence).message,
        "an instruction of 32 lanes in a warp of 16"
    );
    let off = text.replace("[%r4];", "[%r4+8];");
    assert_eq!(expect_fault(&off, 32, FaultKind::Misaligned).line, line_of(&off, "ldmatrix"));
    let racing = text.replace("bar.warp.sync -1;", "");
    assert_eq!(racing.matches("bar.warp").count(), 0);
    // Each lane gives the address of a row of its own, which it has written itself, but other lanes get it too.
    expect_fault(&racing, 32, FaultKind::Race);
    let unwritten = text.replace("st.shared.v4.u32 [%r4], {%r1, %r1, %r1, %r1};", "");
    expect_fault(&unwritten, 32, FaultKind::Uninitialised);
}

#[test]
fn matrices_are_stored_by_rows_or_columns() {
    // Lane l holds the elements 2 l and 2 l + 1, row by row, of an 8 × 8 matrix.
    let text = |trans: &str| {
        kernel(
            1,
            ".shared .align 16 .b8 s[128];",
            &format!(
                "ld.param.u64 %rd1, [p0];
                 mov.u32 %r1, %tid.x;
                 mov.u32 %r2, s;
                 and.b32 %r3, %r1, 7;
                 shl.b32 %r3, %r3, 4;
                 add.s32 %r4, %r2, %r3;
                 mad.lo.s32 %r5, %r1, 0x20002, 0x10000;
                 stmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 [%r4], {{%r5}};
                 bar.warp.sync -1;
                 shl.b32 %r6, %r1, 2;
                 add.s32 %r7, %r2, %r6;
                 ld.shared.u32 %r8, [%r7];
                 mul.wide.u32 %rd2, %r1, 4;
                 add.s64 %rd3, %rd1, %rd2;
                 st.global.u32 [%rd3], %r8;"
            ),
        )
        .replace("sm_80", "sm_90")
    };
    expect_words(&text(""), 32, &lanes(|l| (2 * l) | ((2 * l + 1) << 16)));
    // Element (r, c) now lies at (c, r).
    let element = |at: u32| at % 8 * 8 + at / 8;
    expect_words(&text(".trans"), 32, &lanes(|l| element(2 * l) | (element(2 * l + 1) << 16)));
}
