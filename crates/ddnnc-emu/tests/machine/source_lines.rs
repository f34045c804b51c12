//! Lines of the CUDA source in reports: what `.file` and `.loc` say, of hand-written kernels.

use crate::bench::{expect_fault, kernel, line_of};
use ddnnc_emu::{Fault, FaultKind, Position};

/// A text with files behind it, where NVRTC puts them.
fn with_file(text: &str) -> String {
    format!("{text}.file 1 \"/nowhere/k.cu\"\n.file 2 \"/nowhere/h.cuh\", 1700000000, 12\n")
}

/// The places of a fault, as they are printed.
fn places(fault: &Fault) -> Vec<String> {
    let shown: Vec<String> = fault.places.iter().map(ToString::to_string).collect();
    let all: Vec<&str> = std::iter::once("").chain(shown.iter().map(String::as_str)).collect();
    assert!(fault.to_string().ends_with(&all.join("\n")), "{fault}");
    shown
}

#[test]
fn directives_are_read() {
    let text = with_file(&kernel(
        0,
        ".loc\t1 5 0",
        "mov.u32 %r1, 1;\n.loc 2 7 3, function_name $L__info_string0, inlined_at 1 5 0\n\
         .loc 2 8 1, function_name .debug_str+16, inlined_at 2 7 3 mov.u32 %r2, 2;\n.file 3 \"c.cu\"",
    ));
    let module = ddnnc_emu::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    let files: Vec<(u32, &str)> = module.files.iter().map(|f| (f.number, f.name.as_str())).collect();
    assert_eq!(files, [(3, "c.cu"), (1, "/nowhere/k.cu"), (2, "/nowhere/h.cuh")]);
    let at = |file, line, column| Position { file, line, column };
    let locs: Vec<_> = module.kernels[0].locs.iter().map(|l| (l.first, l.at, l.inlined_at)).collect();
    let expected =
        [(0, at(1, 5, 0), None), (1, at(2, 7, 3), Some(at(1, 5, 0))), (1, at(2, 8, 1), Some(at(2, 7, 3)))];
    assert_eq!(locs, expected);
    // What stands behind a directive in its line is an instruction like any other.
    assert_eq!(module.kernels[0].code.len(), 3);
    // The same file again is the same file; its text may come in comments.
    let again = format!("{text}.file 3 \"c.cu\"\n// source 3 d.cu\n//|one\n//| two\n//three\n");
    let module = ddnnc_emu::parse(&again).unwrap_or_else(|e| panic!("{e}"));
    let expected = Some(vec!["one".to_owned(), " two".to_owned()]);
    assert_eq!((module.files[0].name.as_str(), &module.files[0].lines), ("d.cu", &expected));
    assert_eq!((module.files.len(), &module.files[1].lines), (3, &None));
}

/// Of a fault at `// fault`, with these directives before it.
#[track_caller]
fn places_behind(before: &str) -> Vec<String> {
    let text = with_file(&kernel(1, "", &format!("{before}\nst.global.u32 [%rd9+8], 1; // fault")));
    let text = text.replace("%rd9", "0");
    let fault = expect_fault(&text, 1, FaultKind::OutOfBounds);
    let line = format!("  PTX line {}: ", line_of(&text, "// fault"));
    let cut = |place: String| place.strip_prefix(&line).unwrap_or_else(|| panic!("{place}")).to_owned();
    places(&fault).into_iter().map(cut).collect()
}

#[test]
fn calls_that_were_inlined_are_followed_to_the_kernel() {
    let none: [&str; 0] = [];
    assert_eq!(places_behind(""), none);
    assert_eq!(places_behind(".loc 1 0 0"), none, "no line is known");
    assert_eq!(places_behind(".loc 1 9 5"), ["/nowhere/k.cu:9:5"]);
    assert_eq!(places_behind(".loc 1 9 0"), ["/nowhere/k.cu:9"]);
    assert_eq!(places_behind(".loc 7 9 5"), ["file 7:9:5"], "no such file");
    assert_eq!(places_behind(".loc 1 9 5\nmov.u32 %r1, 1;\n.loc 1 8 5\n.loc 2 7 1"), ["/nowhere/h.cuh:7:1"]);
    let inlined = |at: &str, call: &str| format!(".loc {at}, function_name $L, inlined_at {call}\n");
    assert_eq!(
        places_behind(&inlined("2 3 5", "1 6 5")),
        ["/nowhere/h.cuh:3:5, inlined at /nowhere/k.cu:6:5"],
        "what that call was inlined at is not said"
    );
    let nested = format!(".loc 1 11 5\n{}{}", inlined("1 6 5", "1 11 5"), inlined("2 3 5", "1 6 5"));
    let expected =
        ["/nowhere/h.cuh:3:5, inlined at /nowhere/k.cu:6:5, inlined at /nowhere/k.cu:11:5".to_owned()];
    assert_eq!(places_behind(&nested), expected);
    // The compiler comes back to a call without saying its place again.
    let back =
        format!("{nested}mov.u32 %r1, 1;\n.loc 1 12 5\nmov.u32 %r2, 1;\n{}", inlined("2 3 5", "1 6 5"));
    assert_eq!(places_behind(&back), expected);
    // The call at 6:5 is inlined twice: which of them, the directives before tell if they stand together.
    let other = format!(".loc 1 12 5\n{}{}", inlined("1 6 5", "1 12 5"), inlined("2 3 5", "1 6 5"));
    let both = format!("{nested}mov.u32 %r1, 1;\n{other}");
    let second = "/nowhere/h.cuh:3:5, inlined at /nowhere/k.cu:6:5, inlined at /nowhere/k.cu:12:5";
    assert_eq!(places_behind(&both), [second]);
    let either = format!("{both}mov.u32 %r2, 1;\n{}", inlined("2 4 5", "1 6 5"));
    let expected = "/nowhere/h.cuh:4:5, inlined at /nowhere/k.cu:6:5, inlined at /nowhere/k.cu:11:5 or \
                    /nowhere/k.cu:12:5";
    assert_eq!(places_behind(&either), [expected]);
    // A function that calls itself ends somewhere.
    assert_eq!(
        places_behind(&inlined("1 3 5", "1 3 5").repeat(3)),
        [format!("/nowhere/k.cu:3:5{}", ", inlined at /nowhere/k.cu:3:5".repeat(3))]
    );
}

#[test]
fn both_sides_of_a_race_are_shown() {
    let race = |between: &str| {
        let text = kernel(
            1,
            ".shared .align 4 .b8 s[128];",
            &format!(
                ".loc 1 5 9\nmov.u32 %r1, %tid.x; xor.b32 %r2, %r1, 1;\nshl.b32 %r1, %r1, 2; shl.b32 %r2, %r2, 2;\n\
                 mov.u32 %r3, s; add.s32 %r4, %r3, %r1; add.s32 %r5, %r3, %r2;\n.loc 1 6 9\n\
                 st.shared.u32 [%r4], %r1; // write\n{between}\nld.shared.u32 %r6, [%r5]; // read"
            ),
        );
        let source = "\n".repeat(5) + "\ts[i] = i;\n    int x = s[i ^ 1]; \u{1b}[31m" + &"x".repeat(200);
        let comment: String = source.lines().map(|line| format!("//|{line}\n")).collect();
        let text = format!("{}// source 1 race.cu\n{comment}", with_file(&text));
        (line_of(&text, "// write"), line_of(&text, "// read"), expect_fault(&text, 32, FaultKind::Race))
    };
    let (write, read, fault) = race(".loc 1 7 17");
    let long = format!("int x = s[i ^ 1];  [31m{}…", "x".repeat(97));
    let expected = [
        format!("  PTX line {read}: race.cu:7:17\n    7 | {long}"),
        format!("  PTX line {write}: race.cu:6:9\n    6 | s[i] = i;"),
    ];
    assert_eq!(places(&fault), expected);
    // Both in one line of the source; then of two lines one is in a file that has no text.
    let (write, read, fault) = race("");
    assert_eq!(places(&fault), [format!("  PTX lines {read}, {write}: race.cu:6:9\n    6 | s[i] = i;")]);
    let (_, read, fault) = race(".loc 2 7 17");
    assert_eq!(places(&fault)[0], format!("  PTX line {read}: /nowhere/h.cuh:7:17"));
    // The call's line is shown where that of the function is not known.
    let (_, read, fault) = race(".loc 2 7 17, function_name $L, inlined_at 1 6 9");
    let line = "/nowhere/h.cuh:7:17, inlined at race.cu:6:9\n    6 | s[i] = i;";
    assert_eq!(places(&fault)[0], format!("  PTX line {read}: {line}"));
}

#[test]
fn a_deadlock_shows_every_barrier_once() {
    let text = with_file(&kernel(
        1,
        "",
        ".loc 1 5 5\nmov.u32 %r1, %tid.x; setp.gt.u32 %p1, %r1, 63;\n@%p1 bra other;\n.loc 1 6 5\n\
         bar.sync 0; // here\nret;\nother:\n.loc 1 8 5\nbar.sync 1, 96; // there",
    ));
    let fault = expect_fault(&text, 96, FaultKind::Deadlock);
    let shown = |line: &str, at: &str| format!("  PTX line {}: /nowhere/k.cu:{at}", line_of(&text, line));
    assert_eq!(places(&fault), [shown("// here", "6:5"), shown("// there", "8:5")]);
}
