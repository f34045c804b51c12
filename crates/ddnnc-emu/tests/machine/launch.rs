//! What a launch is checked for before it begins, and what special registers say.

use ddnnc_emu::{FaultKind, Machine, Options, Order, Properties};

use crate::bench::{Bench, kernel, strict};

#[track_caller]
fn refused(bench: &mut Bench, grid: [u32; 3], block: [u32; 3], shared: u32, params: &[u8], part: &str) {
    let fault = bench.launch_shaped(grid, block, shared, params).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Launch, "{fault}");
    assert!(fault.message.contains(part), "{fault}");
}

#[test]
fn limits_of_the_device_and_the_kernel() {
    let text = kernel(1, ".shared .align 16 .b8 s[1024];", "mov.u32 %r1, s;");
    let mut bench = Bench::new(&text, strict(Order::Forward));
    let p = &[0; 8];
    refused(&mut bench, [1, 1, 1], [1025, 1, 1], 0, p, "a block of [1025, 1, 1] threads; at most 1024");
    refused(&mut bench, [1, 1, 1], [32, 32, 2], 0, p, "at most 1024");
    refused(&mut bench, [1, 1, 1], [1, 1, 65], 0, p, "[1024, 1024, 64] each way");
    refused(&mut bench, [1, 1, 1], [0, 1, 1], 0, p, "a block of [0, 1, 1]");
    refused(&mut bench, [0, 1, 1], [1, 1, 1], 0, p, "a grid of [0, 1, 1] blocks");
    refused(&mut bench, [1, 65536, 1], [1, 1, 1], 0, p, "a grid of [1, 65536, 1] blocks");
    refused(&mut bench, [1, 1, 1], [1, 1, 1], 0, &[0; 4], "4 bytes of parameters; the kernel has 8");
    refused(&mut bench, [1, 1, 1], [1, 1, 1], (227 << 10) - 1023, p, "a block has at most 232448");
    bench.launch_shaped([1, 65535, 1], [1, 1, 1], 0, p).unwrap();
    bench.launch_shaped([1, 1, 1], [32, 32, 1], (227 << 10) - 1024, p).unwrap();
    bench.kernel = "other".to_owned();
    refused(&mut bench, [1, 1, 1], [1, 1, 1], 0, p, "no loaded module has it");

    let text = text.replace("(.param .u64 p0)", "(.param .u64 p0) .maxntid 64, 2, 1");
    let mut bench = Bench::new(&text, strict(Order::Forward));
    refused(&mut bench, [1, 1, 1], [129, 1, 1], 0, p, "declares at most 128");
    bench.launch_shaped([1, 1, 1], [128, 1, 1], 0, p).unwrap();
}

#[test]
fn modules_that_cannot_be_loaded() {
    let mut machine =
        Machine::new(Properties { arch: 80, memory: 4096, ..Properties::default() }, Options::default());
    let load = |machine: &mut Machine, text: &str| machine.load(ddnnc_emu::parse(text).unwrap()).unwrap_err();
    let text = kernel(0, "", "");
    let newer = text.replace("sm_80", "sm_90");
    assert_eq!(load(&mut machine, &newer), "a module for sm_90 on a device of sm_80");
    let large = kernel(0, ".shared .align 4 .b8 s[49156];", "mov.u32 %r1, s;");
    assert!(load(&mut machine, &large).contains("49156 bytes of static shared memory; at most 49152"));
    let full =
        text.replace(".visible", ".global .align 4 .b8 a[2048];\n.global .align 4 .b8 b[4096];\n.visible");
    assert_eq!(load(&mut machine, &full), "no memory for the 4096 bytes of `b`");
    assert_eq!(machine.free_bytes(), 4096, "what was allocated for `a` is free again");
}

#[test]
fn dynamic_shared_memory_begins_behind_the_static() {
    let text = "
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry k(.param .u64 p0)
{
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
.shared .align 4 .b8 s[20];
ld.param.u64 %rd1, [p0];
mov.u32 %r1, dynamic;
mov.u32 %r2, %dynamic_smem_size;
mov.u32 %r3, %total_smem_size;
st.shared.u32 [%r1+92], %r1;
st.global.u32 [%rd1], %r1;
st.global.u32 [%rd1+4], %r2;
st.global.u32 [%rd1+8], %r3;
ret;
}";
    let mut bench = Bench::new(text, strict(Order::Forward));
    let out = bench.words(&[0; 3]);
    assert_eq!(bench.machine.static_shared(bench.module, "k"), Some(32));
    bench.launch_shaped([1, 1, 1], [1, 1, 1], 96, &out.to_le_bytes()).unwrap();
    assert_eq!(bench.read(out, 3), [32, 96, 128]);
    let fault = bench.launch_shaped([1, 1, 1], [1, 1, 1], 92, &out.to_le_bytes()).unwrap_err();
    assert_eq!(fault.message, "writes 4 bytes at 0x7c of 124 bytes of shared memory");
}

#[test]
fn places_in_three_directions() {
    let text = kernel(
        1,
        "",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, %tid.x;
         mov.u32 %r2, %tid.y;
         mov.u32 %r3, %tid.z;
         mov.u32 %r4, %ctaid.x;
         mov.u32 %r5, %ctaid.y;
         mov.u32 %r6, %ctaid.z;
         mov.u32 %r7, %nctaid.x;
         mov.u32 %r8, %nctaid.y;
         mad.lo.s32 %r9, %r6, %r8, %r5;
         mad.lo.s32 %r9, %r9, %r7, %r4;
         mov.u32 %r10, %ntid.z;
         mov.u32 %r11, %ntid.y;
         mov.u32 %r12, %ntid.x;
         mad.lo.s32 %r9, %r9, %r10, %r3;
         mad.lo.s32 %r9, %r9, %r11, %r2;
         mad.lo.s32 %r9, %r9, %r12, %r1;
         mul.wide.u32 %rd2, %r9, 4;
         add.s64 %rd3, %rd1, %rd2;
         atom.global.add.u32 %r13, [%rd3], %r9;",
    );
    let mut bench = Bench::new(&text, strict(Order::Forward));
    let out = bench.words(&[1; 2 * 3 * 4 * 5 * 3 * 2]);
    bench.launch_shaped([2, 3, 4], [5, 3, 2], 0, &out.to_le_bytes()).unwrap();
    assert_eq!(bench.read(out, 720), (1..721).collect::<Vec<_>>());
}
