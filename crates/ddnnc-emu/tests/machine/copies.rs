//! `cp.async`: what is visible when, and to whom.

use ddnnc_emu::FaultKind;

use crate::bench::{Bench, ORDERS, kernel, line_of, strict, with_places};

/// Each of 64 threads copies its 16 bytes of p0 to shared memory, then reads the first word of the thread `distance`
/// away.
fn copying(bytes: &str, between: &str, distance: u32) -> String {
    kernel(
        2,
        ".shared .align 16 .b8 s[1024];",
        &format!(
            "ld.param.u64 %rd1, [p0];
             ld.param.u64 %rd2, [p1];
             mov.u32 %r1, %tid.x;
             mov.u32 %r2, s;
             shl.b32 %r3, %r1, 4;
             add.s32 %r4, %r2, %r3;
             cvt.u64.u32 %rd3, %r3;
             add.s64 %rd4, %rd1, %rd3;
             cp.async.cg.shared.global [%r4], [%rd4], 16{bytes}; // copy
             {between}
             xor.b32 %r5, %r1, {distance};
             shl.b32 %r6, %r5, 4;
             add.s32 %r7, %r2, %r6;
             ld.shared.v4.u32 {{%r8, %r9, %r10, %r11}}, [%r7]; // read
             add.s64 %rd5, %rd2, %rd3;
             st.global.v4.u32 [%rd5], {{%r8, %r9, %r10, %r11}};"
        ),
    )
}

fn words() -> Vec<u32> {
    (1..=256).collect()
}

/// Runs it in every order and gives the results, which must be of one kind.
fn outcomes(text: &str) -> Vec<Result<Vec<u32>, ddnnc_emu::Fault>> {
    let run = |order| {
        with_places(text, |text| {
            let mut bench = Bench::new(text, strict(order));
            let (from, to) = (bench.words(&words()), bench.words(&[0; 256]));
            bench.launch(1, 64, &[from, to])?;
            Ok(bench.read(to, 256))
        })
    };
    ORDERS.into_iter().map(run).collect()
}

#[track_caller]
fn expect_words(text: &str, expected: &[u32]) {
    for found in outcomes(text) {
        match found {
            Ok(found) => assert_eq!(found, expected),
            Err(fault) => panic!("{fault}"),
        }
    }
}

#[track_caller]
fn expect_fault(text: &str, kind: FaultKind) -> ddnnc_emu::Fault {
    let faults: Vec<_> = outcomes(text).into_iter().map(|r| r.expect_err("no fault")).collect();
    faults.iter().for_each(|f| assert_eq!(f.kind, kind, "{f}"));
    faults[0].clone()
}

fn moved(distance: u32) -> Vec<u32> {
    (0..256).map(|i| ((i / 4) ^ distance) * 4 + i % 4 + 1).collect()
}

const WAIT: &str = "cp.async.commit_group;\ncp.async.wait_group 0;";

#[test]
fn committed_awaited_and_met() {
    expect_words(&copying("", &format!("{WAIT}\nbar.sync 0;"), 32), &moved(32));
    expect_words(&copying("", "cp.async.wait_all;\nbar.sync 0;", 32), &moved(32));
    expect_words(&copying("", WAIT, 0), &moved(0));
}

#[test]
fn reading_without_waiting() {
    for between in ["", "bar.sync 0;", "cp.async.commit_group;\nbar.sync 0;"] {
        let text = copying("", between, 0);
        let fault = expect_fault(&text, FaultKind::AsyncCopy);
        assert_eq!(fault.line, line_of(&text, "// read"));
        let copy = line_of(&text, "// copy");
        assert!(fault.message.contains(&format!("the cp.async of PTX line {copy} by thread")), "{fault}");
    }
}

#[test]
fn waiting_without_a_commit_waits_for_nothing() {
    expect_fault(&copying("", "cp.async.wait_group 0;\nbar.sync 0;", 0), FaultKind::AsyncCopy);
}

#[test]
fn waiting_for_too_few_groups() {
    let text =
        |n: u32| copying("", &format!("cp.async.commit_group;\ncp.async.wait_group {n};\nbar.sync 0;"), 1);
    expect_words(&text(0), &moved(1));
    expect_fault(&text(1), FaultKind::AsyncCopy);
    // A second, empty group makes 1 enough.
    let two = "cp.async.commit_group;\ncp.async.commit_group;\ncp.async.wait_group 1;\nbar.sync 0;";
    expect_words(&copying("", two, 1), &moved(1));
}

#[test]
fn others_need_a_barrier_behind_the_wait() {
    let text = copying("", WAIT, 1);
    let fault = expect_fault(&text, FaultKind::Race);
    assert!(fault.message.contains(&format!("writes at PTX line {}", line_of(&text, "// copy"))), "{fault}");
    // A barrier before the wait is not behind it.
    expect_fault(&copying("", &format!("bar.sync 0;\n{WAIT}"), 1), FaultKind::Race);
}

#[test]
fn overwriting_what_is_still_copied() {
    let text = copying("", &format!("st.shared.u32 [%r4+4], 5; // store\n{WAIT}\nbar.sync 0;"), 0);
    let fault = expect_fault(&text, FaultKind::AsyncCopy);
    assert_eq!(fault.line, line_of(&text, "// store"));
    let again =
        format!("cp.async.commit_group;\ncp.async.cg.shared.global [%r4], [%rd4], 16; // again\n{WAIT}");
    assert_eq!(
        expect_fault(&copying("", &again, 0), FaultKind::AsyncCopy).line,
        line_of(&copying("", &again, 0), "// again")
    );
}

#[test]
fn copies_over_what_others_still_read() {
    // All threads read row 0; then thread 63 copies over it, with and without a barrier between.
    let text = |barrier: &str| {
        let over = format!(
            "{WAIT}
             bar.sync 0;
             ld.shared.u32 %r12, [s];
             {barrier}
             setp.eq.s32 %p1, %r1, 63;
             @%p1 cp.async.cg.shared.global [s], [%rd4], 16; // over
             cp.async.wait_all;
             bar.sync 0;"
        );
        copying("", &over, 0)
    };
    let mut expected = moved(0);
    expected.copy_within(252..256, 0);
    expect_words(&text("bar.sync 0;"), &expected);
    let fault = expect_fault(&text("membar.cta;"), FaultKind::Race);
    assert!(fault.line >= line_of(&text(""), "// over") - 2, "{fault}");
}

#[test]
fn fewer_source_bytes_are_filled_with_zeros() {
    let between = &format!("{WAIT}\nbar.sync 0;");
    let expected: Vec<u32> =
        moved(1).iter().enumerate().map(|(i, w)| if i % 4 < 2 { *w } else { 0 }).collect();
    expect_words(&copying(", 8", between, 1), &expected);
    // 6 bytes end inside a word.
    let expected: Vec<u32> = moved(1)
        .iter()
        .enumerate()
        .map(|(i, w)| match i % 4 {
            0 => *w,
            1 => w & 0xffff,
            _ => 0,
        })
        .collect();
    expect_words(&copying(", 6", between, 1), &expected);
    // Nothing is read where there are no source bytes, not even far outside.
    let text = copying(", 0", between, 1).replace("[%rd4], 16, 0", "[%rd4+4096], 16, 0");
    expect_words(&text, &[0; 256]);
    let fault = expect_fault(&text.replace("16, 0", "16, 4"), FaultKind::OutOfBounds);
    assert!(fault.message.starts_with("reads 1 bytes at"), "{fault}");
}

#[test]
fn bounds_and_alignment_are_checked_when_the_copy_is_issued() {
    let text = copying("", "", 0);
    let line = line_of(&text, "// copy");
    for (from, to, kind) in [
        ("[%rd4], 16", "[%rd4+3072], 16", FaultKind::OutOfBounds),
        ("[%rd4], 16", "[%rd4+8], 16", FaultKind::Misaligned),
        ("[%r4], [%rd4]", "[%r4+1008], [%rd4]", FaultKind::OutOfBounds),
        ("[%r4], [%rd4]", "[%r4+4], [%rd4]", FaultKind::Misaligned),
    ] {
        let wrong = text.replace(from, to);
        assert_ne!(wrong, text);
        assert_eq!(expect_fault(&wrong, kind).line, line);
    }
}

#[test]
fn a_kernel_may_end_with_copies_under_way() {
    let text = copying("", "ret;", 0);
    expect_words(&text, &[0; 256]);
}
