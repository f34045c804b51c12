//! Lanes that part and meet again.

use ddnnc_emu::FaultKind;

use crate::bench::{expect_fault, expect_words, kernel, line_of};

const STORE: &str = "
ld.param.u64 %rd1, [p0];
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;
st.global.u32 [%rd3], %r2;";

#[test]
fn if_and_else() {
    let text = kernel(
        1,
        "",
        &format!(
            "mov.u32 %r1, %tid.x;
             and.b32 %r3, %r1, 1;
             setp.eq.s32 %p1, %r3, 0;
             @%p1 bra EVEN;
             mul.lo.s32 %r2, %r1, 10;
             bra.uni DONE;
             EVEN:
             add.s32 %r2, %r1, 1000;
             DONE:
             activemask.b32 %r4;
             setp.ne.s32 %p2, %r4, -1;
             @%p2 trap;
             {STORE}"
        ),
    );
    let words: Vec<u32> = (0..64).map(|i| if i % 2 == 0 { 1000 + i } else { 10 * i }).collect();
    expect_words(&text, 64, &words);
}

#[test]
fn loops_of_different_lengths() {
    let text = kernel(
        1,
        "",
        &format!(
            "mov.u32 %r1, %tid.x;
             mov.u32 %r2, 0;
             mov.u32 %r3, 0;
             LOOP:
             setp.ge.s32 %p1, %r3, %r1;
             @%p1 bra DONE;
             add.s32 %r3, %r3, 1;
             and.b32 %r4, %r3, 3;
             setp.eq.s32 %p2, %r4, 0;
             @%p2 bra LOOP;
             add.s32 %r2, %r2, %r3;
             bra.uni LOOP;
             DONE:
             {STORE}"
        ),
    );
    let words: Vec<u32> = (0..70).map(|t| (1..=t).filter(|i| i % 4 != 0).sum()).collect();
    expect_words(&text, 70, &words);
}

#[test]
fn some_threads_leave_early() {
    let text = kernel(
        1,
        "",
        &format!(
            "mov.u32 %r1, %tid.x;
             mov.u32 %r2, 7;
             setp.gt.s32 %p1, %r1, 20;
             @%p1 ret;
             setp.eq.s32 %p2, %r1, 5;
             @!%p2 bra REST;
             exit;
             REST:
             activemask.b32 %r2;
             {STORE}"
        ),
    );
    let mask = (1 << 21) - 1 - (1 << 5);
    let words: Vec<u32> = (0..32).map(|t| if t > 20 || t == 5 { 0 } else { mask }).collect();
    expect_words(&text, 32, &words);
}

#[test]
fn a_jump_through_a_list() {
    let text = kernel(
        1,
        "",
        &format!(
            "mov.u32 %r1, %tid.x;
             rem.u32 %r3, %r1, 3;
             LIST: .branchtargets A, B, C;
             brx.idx %r3, LIST;
             A:
             mov.u32 %r2, 100;
             bra DONE;
             B:
             mov.u32 %r2, 200;
             bra DONE;
             C:
             mov.u32 %r2, 300;
             DONE:
             {STORE}"
        ),
    );
    let words: Vec<u32> = (0..32).map(|t| 100 * (t % 3 + 1)).collect();
    expect_words(&text, 32, &words);
    let beyond = text.replace("rem.u32 %r3, %r1, 3;", "rem.u32 %r3, %r1, 4;");
    let fault = expect_fault(&beyond, 32, FaultKind::OutOfBounds);
    assert_eq!((fault.message.as_str(), fault.thread), ("jump number 3 of a list of 3", [3, 0, 0]));
}

#[test]
fn the_lanes_at_the_lowest_place_go_first() {
    // Lane 0 jumps furthest. Each lane draws a ticket where it arrives.
    let text = kernel(
        1,
        ".shared .align 4 .b8 s[4];",
        &format!(
            "mov.u32 %r1, %tid.x;
             setp.eq.s32 %p1, %r1, 0;
             @%p1 st.shared.u32 [s], 0;
             bar.warp.sync -1;
             rem.u32 %r3, %r1, 3;
             LIST: .branchtargets C, B, A;
             brx.idx %r3, LIST;
             A:
             atom.shared.add.u32 %r2, [s], 1;
             bra DONE;
             B:
             atom.shared.add.u32 %r2, [s], 100;
             bra DONE;
             C:
             atom.shared.add.u32 %r2, [s], 10000;
             DONE:
             {STORE}"
        ),
    );
    // Of 30 lanes ten draw each; their order within one place may be any, so they are sorted.
    for order in crate::bench::ORDERS {
        let mut tickets = crate::bench::run(&text, order, 30, 30).unwrap();
        tickets.sort_unstable();
        let expected: Vec<u32> =
            (0..10).chain((0..10).map(|i| 10 + 100 * i)).chain((0..10).map(|i| 1010 + 10_000 * i)).collect();
        assert_eq!(tickets, expected, "{order:?}");
    }
}

#[test]
fn a_trap_and_spent_fuel_name_their_line() {
    let text = kernel(
        1,
        "",
        "mov.u32 %r1, %tid.x;
         setp.eq.s32 %p1, %r1, 3;
         @%p1 trap;",
    );
    let fault = expect_fault(&text, 32, FaultKind::Trap);
    assert_eq!((fault.thread, fault.line), ([3, 0, 0], line_of(&text, "trap")));
    let text = kernel(
        1,
        "",
        "ld.param.u64 %rd1, [p0];\nL:\nld.volatile.global.u32 %r1, [%rd1];\nsetp.eq.s32 %p1, %r1, 0;\n@%p1 bra L;",
    );
    let fault = expect_fault(&text, 32, FaultKind::Trap);
    assert!(fault.message.contains("1048576 instructions"), "{fault}");
}
