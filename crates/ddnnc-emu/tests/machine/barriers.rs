//! Barriers of a block: who waits for whom, and what happens where somebody never comes.

use ddnnc_emu::FaultKind;

use crate::bench::{expect_fault, expect_words, kernel, line_of};

const STORE: &str = "
ld.param.u64 %rd1, [p0];
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;
st.global.u32 [%rd3], %r2;";

#[test]
fn exited_threads_are_not_waited_for() {
    // Warps 2 and 3, and half of warp 1, exit before the barrier.
    let text = kernel(
        1,
        ".shared .align 4 .b8 s[4];",
        &format!(
            "mov.u32 %r1, %tid.x;
             setp.ge.s32 %p1, %r1, 48;
             @%p1 exit;
             setp.eq.s32 %p2, %r1, 40;
             @%p2 st.shared.u32 [s], 77;
             bar.sync 0;
             ld.shared.u32 %r2, [s];
             {STORE}"
        ),
    );
    let words: Vec<u32> = (0..128).map(|t| if t < 48 { 77 } else { 0 }).collect();
    expect_words(&text, 128, &words);
}

#[test]
fn warps_at_different_barriers_wait_for_ever() {
    let text = kernel(
        1,
        "",
        "mov.u32 %r1, %tid.x;
         setp.ge.s32 %p1, %r1, 32;
         @%p1 bra OTHER;
         bar.sync 1; // first
         ret;
         OTHER:
         bar.sync 2; // second",
    );
    let fault = expect_fault(&text, 64, FaultKind::Deadlock);
    assert_eq!((fault.line, fault.thread), (line_of(&text, "// first"), [0, 0, 0]));
    assert_eq!(
        fault.message,
        format!(
            "no warp can go on: barrier 1 is for all threads that have not exited and 32 have arrived; warp 0 waits \
             at barrier 1, line {}, warp 1 waits at barrier 2, line {}; 0 of 2 warps have exited (thread (0, 0, 0) is \
             the first that waits)",
            line_of(&text, "// first"),
            line_of(&text, "// second")
        )
    );
}

#[test]
fn a_counted_barrier_waits_for_its_count() {
    let text = kernel(
        1,
        "",
        "mov.u32 %r1, %tid.x;
         setp.ge.s32 %p1, %r1, 32;
         @%p1 ret;
         bar.sync 3, 64;",
    );
    let fault = expect_fault(&text, 64, FaultKind::Deadlock);
    assert!(fault.message.contains("barrier 3 is for 64 threads and 32 have arrived"), "{fault}");
    assert!(fault.message.contains("1 of 2 warps have exited"), "{fault}");
    for (count, part) in [("33", "must be a multiple of 32"), ("96", "at most that of the block, 64")] {
        let fault = expect_fault(&text.replace("3, 64", &format!("3, {count}")), 64, FaultKind::Deadlock);
        assert!(fault.message.contains(part), "{fault}");
    }
}

#[test]
fn half_a_warp_at_a_barrier_waits_for_the_other_half() {
    let text = kernel(
        1,
        "",
        "mov.u32 %r1, %tid.x;
         setp.lt.s32 %p1, %r1, 16;
         @%p1 bra LOW;
         bar.sync 0; // high
         ret;
         LOW:
         bar.sync 0; // low",
    );
    let fault = expect_fault(&text, 32, FaultKind::Divergence);
    assert!(fault.message.contains("wait here for lanes of their warp that never come"), "{fault}");
    let lines = [line_of(&text, "// high"), line_of(&text, "// low")];
    assert!(lines.contains(&fault.line), "{fault}");
    let other = lines[0] + lines[1] - fault.line;
    assert!(fault.message.contains(&format!("wait at line {other}")), "{fault}");
}

#[test]
fn a_producer_arrives_and_a_consumer_waits() {
    let text = |arrive: &str| {
        kernel(
            1,
            ".shared .align 4 .b8 s[128];",
            &format!(
                "mov.u32 %r1, %tid.x;
                 mov.u32 %r3, s;
                 and.b32 %r4, %r1, 31;
                 shl.b32 %r5, %r4, 2;
                 add.s32 %r6, %r3, %r5;
                 mov.u32 %r2, 0;
                 setp.ge.s32 %p1, %r1, 32;
                 @%p1 bra CONSUMER;
                 st.shared.u32 [%r6], %r1;
                 {arrive}
                 bra.uni DONE;
                 CONSUMER:
                 bar.sync 1, 64;
                 ld.shared.u32 %r2, [%r6];
                 DONE:
                 {STORE}"
            ),
        )
    };
    let words: Vec<u32> = (0..64).map(|t: u32| t.saturating_sub(32)).collect();
    expect_words(&text("bar.arrive 1, 64;"), 64, &words);
    assert!(expect_fault(&text(""), 64, FaultKind::Deadlock).message.contains("for 64 threads"));
    let fault = expect_fault(&text("bar.arrive 1, 32;"), 64, FaultKind::Deadlock);
    assert!(fault.message.contains("barrier 1 is for 64 threads and 32 have arrived"), "{fault}");
}

#[test]
fn a_barrier_reduces_predicates() {
    let text = kernel(
        1,
        "",
        &format!(
            "mov.u32 %r1, %tid.x;
             setp.lt.s32 %p1, %r1, 37;
             bar.red.popc.u32 %r2, 0, %p1;
             bar.red.popc.u32 %r3, 0, !%p1;
             mad.lo.s32 %r2, %r3, 1000, %r2;
             bar.red.and.pred %p2, 0, %p1;
             bar.red.or.pred %p3, 0, %p1;
             selp.b32 %r4, 1000000, 0, %p2;
             selp.b32 %r5, 2000000, 0, %p3;
             add.s32 %r2, %r2, %r4;
             add.s32 %r2, %r2, %r5;
             {STORE}"
        ),
    );
    expect_words(&text, 96, &[2_059_037; 96]);
}
