//! Bounds, alignment, initialised memory; the state spaces.

use ddnnc_emu::{FaultKind, Machine, Options, Order, Properties};

use crate::bench::{Bench, expect_fault, expect_words, kernel, line_of, strict};

/// Thread t of block b reads word `b * ntid + t` of p0 and writes it to p1.
fn copy_kernel() -> String {
    kernel(
        2,
        "",
        "ld.param.u64 %rd1, [p0];
         ld.param.u64 %rd2, [p1];
         mov.u32 %r1, %tid.x;
         mov.u32 %r2, %ctaid.x;
         mov.u32 %r3, %ntid.x;
         mad.lo.s32 %r4, %r2, %r3, %r1;
         mul.wide.s32 %rd3, %r4, 4;
         add.s64 %rd4, %rd1, %rd3;
         add.s64 %rd5, %rd2, %rd3;
         ld.global.u32 %r5, [%rd4];
         st.global.u32 [%rd5], %r5;",
    )
}

#[test]
fn a_copy_moves_words_and_counts_them() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let words: Vec<u32> = (0..256).map(|i| i * i).collect();
    let (from, to) = (bench.words(&words), bench.raw(256));
    let report = bench.launch(4, 64, &[from, to]).unwrap();
    assert_eq!(bench.read(to, 256), words);
    assert_eq!((report.global_read, report.global_written), (1024, 1024));
    assert_eq!((report.warp_instructions, report.thread_instructions), (8 * 12, 8 * 12 * 32));
}

#[test]
fn reading_past_the_end_names_place_and_allocation() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let (from, to) = (bench.words(&[7; 100]), bench.raw(128));
    let fault = bench.launch(2, 64, &[from, to]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert_eq!((fault.block, fault.thread), ([1, 0, 0], [36, 0, 0]));
    assert_eq!(fault.line, line_of(&copy_kernel(), "ld.global.u32"));
    assert_eq!(
        fault.message,
        format!(
            "reads 4 bytes at {:#x}, 0 bytes behind the end of the allocation of 400 bytes at {from:#x}",
            from + 400
        )
    );
    assert_eq!(
        fault.to_string(),
        format!(
            "access out of bounds in kernel `k`, PTX line {}, block (1, 0, 0), thread (36, 0, 0): {}",
            fault.line, fault.message
        )
    );
}

#[test]
fn writing_past_the_end_is_a_fault_too() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let (from, to) = (bench.words(&[7; 64]), bench.raw(63));
    let fault = bench.launch(1, 64, &[from, to]).unwrap_err();
    assert_eq!((fault.kind, fault.thread), (FaultKind::OutOfBounds, [63, 0, 0]));
    assert_eq!(fault.line, line_of(&copy_kernel(), "st.global.u32"));
}

#[test]
fn addresses_before_all_allocations_and_across_an_end() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let good = bench.words(&[1; 64]);
    let fault = bench.launch(1, 64, &[good, good - 4]).unwrap_err();
    assert!(fault.message.contains("4 bytes before the allocation of 256 bytes"), "{fault}");
    let fault = bench.launch(1, 64, &[good, 0]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    let odd = bench.machine.alloc(6).unwrap();
    bench.machine.write(odd, &[0; 6]).unwrap();
    let fault = bench.launch(1, 2, &[odd, good]).unwrap_err();
    assert!(fault.message.contains("across the end of the allocation of 6 bytes"), "{fault}");
}

#[test]
fn freed_memory_is_remembered() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let (from, to) = (bench.words(&[7; 64]), bench.raw(64));
    assert!(bench.machine.free(from));
    assert!(!bench.machine.free(from));
    let again = bench.words(&[8; 64]);
    assert_ne!(from, again, "an address is never used twice");
    let fault = bench.launch(1, 64, &[from, to]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert!(fault.message.ends_with("byte 0 of an allocation of 256 bytes that was freed"), "{fault}");
}

#[test]
fn misaligned_accesses() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let (from, to) = (bench.words(&[7; 64]), bench.raw(64));
    let fault = bench.launch(1, 32, &[from + 2, to]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Misaligned);
    assert!(fault.message.ends_with("which is not a multiple of 4"), "{fault}");
    let vector = kernel(
        1,
        "",
        "ld.param.u64 %rd1, [p0];
         ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+8];",
    );
    assert_eq!(expect_fault(&vector, 1, FaultKind::Misaligned).thread, [0, 0, 0]);
}

#[test]
fn unwritten_global_memory_is_seen_only_where_asked_for() {
    let mut bench = Bench::new(&copy_kernel(), strict(Order::Forward));
    let (from, to) = (bench.raw(64), bench.raw(64));
    bench.machine.write(from, &[1; 200]).unwrap();
    let fault = bench.launch(1, 64, &[from, to]).unwrap_err();
    assert_eq!((fault.kind, fault.thread), (FaultKind::Uninitialised, [50, 0, 0]));
    assert!(fault.message.contains("byte 200 of the allocation of 256 bytes"), "{fault}");
    // A copy carries along what was not written.
    let other = bench.raw(64);
    bench.machine.copy(other, from, 256).unwrap();
    assert_eq!(bench.launch(1, 64, &[other, to]).unwrap_err().thread, [50, 0, 0]);
    bench.launch(1, 32, &[other, to]).unwrap();

    let mut bench = Bench::new(&copy_kernel(), Options { uninitialised: false, ..strict(Order::Forward) });
    let (from, to) = (bench.raw(64), bench.raw(64));
    bench.launch(1, 64, &[from, to]).unwrap();
    assert!(bench.read_floats(to, 64).iter().all(|v| v.is_nan()), "poison is a NaN");
}

#[test]
fn words_of_every_width_and_sign() {
    let text = kernel(
        1,
        "",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, 0xfedc8081;
         st.global.u32 [%rd1], %r1;
         ld.global.s8 %rs1, [%rd1];
         cvt.s32.s16 %r2, %rs1;
         st.global.u32 [%rd1+4], %r2;
         ld.global.u8 %rs2, [%rd1+1];
         cvt.u32.u16 %r3, %rs2;
         st.global.u32 [%rd1+8], %r3;
         ld.global.s16 %r4, [%rd1+2];
         st.global.u32 [%rd1+12], %r4;
         ld.global.u64 %rd2, [%rd1];
         st.global.u64 [%rd1+16], %rd2;
         st.global.u8 [%rd1+17], %rs2;
         ld.global.v2.u32 {%r5, %r6}, [%rd1+16];
         st.global.v2.u32 [%rd1+24], {%r6, %r5};",
    );
    expect_words(
        &text,
        1,
        &[0xfedc_8081, 0xffff_ff81, 0x80, 0xffff_fedc, 0xfedc_8081, 0xffff_ff81, 0xffff_ff81, 0xfedc_8081],
    );
}

#[test]
fn local_memory_is_each_threads_own() {
    let text = kernel(
        1,
        ".local .align 8 .b8 mine[16];",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, %tid.x;
         mov.u64 %rd2, mine;
         cvta.local.u64 %rd3, %rd2;
         st.local.u32 [mine+4], %r1;
         ld.u32 %r2, [%rd3+4];
         mul.wide.u32 %rd4, %r1, 4;
         add.s64 %rd5, %rd1, %rd4;
         st.global.u32 [%rd5], %r2;",
    );
    expect_words(&text, 40, &(0..40).collect::<Vec<_>>());
    let beyond = text.replace("ld.u32 %r2, [%rd3+4]", "ld.u32 %r2, [%rd3+16]");
    assert_eq!(
        expect_fault(&beyond, 1, FaultKind::OutOfBounds).message,
        "4 bytes at 0x10 of 16 bytes of local memory"
    );
}

#[test]
fn shared_memory_has_bounds_and_begins_unwritten() {
    let text = kernel(
        1,
        ".shared .align 16 .b8 s[64];",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, %tid.x;
         shl.b32 %r2, %r1, 2;
         mov.u32 %r3, s;
         add.s32 %r4, %r3, %r2;
         st.shared.u32 [%r4], %r1;
         ld.shared.u32 %r5, [%r4];
         cvt.u64.u32 %rd2, %r4;
         cvta.shared.u64 %rd3, %rd2;
         ld.u32 %r6, [%rd3];
         add.s32 %r6, %r6, %r5;
         mul.wide.u32 %rd4, %r1, 4;
         add.s64 %rd5, %rd1, %rd4;
         st.global.u32 [%rd5], %r6;",
    );
    expect_words(&text, 16, &(0..16).map(|i| 2 * i).collect::<Vec<_>>());
    let fault = expect_fault(&text, 17, FaultKind::OutOfBounds);
    assert_eq!(fault.message, "writes 4 bytes at 0x40 of 64 bytes of shared memory");
    assert_eq!(fault.thread, [16, 0, 0]);
    let unwritten = text.replace("st.shared.u32 [%r4], %r1;", "");
    let fault = expect_fault(&unwritten, 1, FaultKind::Uninitialised);
    assert_eq!(fault.line, line_of(&unwritten, "ld.shared"));
    assert_eq!(
        fault.message,
        "reads 4 bytes at 0x0 of shared memory, which nothing has written yet (a barrier may be missing)"
    );
    // Through a generic address as well.
    let generic = unwritten.replace("ld.shared.u32 %r5, [%r4];", "mov.u32 %r5, 0;");
    assert_eq!(expect_fault(&generic, 1, FaultKind::Uninitialised).line, line_of(&generic, "ld.u32"));
}

#[test]
fn variables_of_a_module_are_initialised_and_found() {
    let text = "
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 counter = 5;
.const .align 4 .b32 table[3] = {10, 20, 30};
.visible .entry k(.param .u64 p0)
{
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
ld.param.u64 %rd1, [p0];
ld.global.u32 %r1, [counter];
ld.const.u32 %r2, [table+8];
add.s32 %r3, %r1, %r2;
st.global.u32 [counter], %r3;
mov.u64 %rd2, table;
cvta.const.u64 %rd3, %rd2;
ld.u32 %r4, [%rd3+4];
st.global.u32 [%rd1], %r4;
ret;
}";
    let mut bench = Bench::new(text, strict(Order::Forward));
    let out = bench.words(&[0]);
    bench.launch(1, 1, &[out]).unwrap();
    let (address, bytes) = bench.machine.variable(bench.module, "counter").unwrap();
    assert_eq!((bench.read(address, 1), bytes, bench.read(out, 1)), (vec![35], 4, vec![20]));
    assert_eq!(bench.machine.variable(bench.module, "none"), None);
    let before = bench.machine.free_bytes();
    bench.machine.unload(bench.module);
    assert_eq!(bench.machine.free_bytes(), before + 1024);
    assert!(bench.launch(1, 1, &[out]).unwrap_err().message.contains("no loaded module"));
}

#[test]
fn memory_runs_out_and_comes_back() {
    let mut machine = Machine::new(Properties { memory: 4096, ..Properties::default() }, Options::default());
    let a = machine.alloc(1000).unwrap();
    assert_eq!((a % 512, machine.free_bytes()), (0, 4096 - 1024));
    assert_eq!(machine.alloc(4000), None);
    let b = machine.alloc(3000).unwrap();
    assert!(b >= a + 1000 + 512, "there is a gap between allocations");
    assert_eq!(machine.free_bytes(), 0);
    assert!(machine.free(a) && machine.free(b));
    assert_eq!(machine.free_bytes(), 4096);
    assert!(machine.write(b, &[0]).unwrap_err().contains("that was freed"));
}

#[test]
fn parameters_have_bounds() {
    let text = kernel(1, "", "ld.param.u64 %rd1, [p0+8];");
    assert_eq!(
        expect_fault(&text, 1, FaultKind::OutOfBounds).message,
        "8 bytes at 0x8 of 8 bytes of parameters"
    );
}
