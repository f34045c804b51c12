//! What is refused, and in which words.

use ddnnc_emu::parse;

const HEAD: &str = ".version 9.0\n.target sm_90\n.address_size 64\n";

fn refusal(text: &str) -> String {
    match parse(&format!("{HEAD}{text}")) {
        Ok(module) => panic!("taken:\n{text}\nas {module:?}"),
        Err(e) => e.to_string(),
    }
}

/// Each text is line 4 of a module.
#[test]
fn modules() {
    for (text, expected) in [
        (
            ".func (.param .b64 r) f(.param .b64 a) { ret; }",
            "device function `f` is not executed; make it `__forceinline__`",
        ),
        (
            ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);",
            "`printf` is not executed in kernels; leave it out",
        ),
        (
            ".extern .func __assertfail (.param .b64 a) .noreturn;",
            "`assert` is not executed in kernels; compile with `-DNDEBUG`",
        ),
        (
            ".extern .func free (.param .b64 a);",
            "`free` is not executed in kernels; pass memory to the kernel",
        ),
        (".extern .func f;", "device function `f` is of another module, and modules are not linked"),
        (".global .u64 q = generic(x);", "the address `generic` as an initial value is not executed"),
        (".extern .global .u32 x;", "variables of other modules are not linked"),
        (".global .u32 x[];", "only `.extern .shared` arrays may have no extent"),
        (".shared .u32 x = 3;", "only `.global` and `.const` variables have initial values"),
        (".global .u32 x[1] = {1, 2};", "8 initial bytes for a variable of 4"),
        (".global .u32 x; .global .u32 x;", "`x` is declared twice in this scope"),
        (".global .align 3 .u32 x;", "an alignment of 3 is not a power of two"),
        (".global .texref t;", "`.texref` of a variable is not executed"),
        (".global .pred q;", "`.pred` of a variable is not executed"),
        (".global x;", "variable `x` has no type"),
        (".global .u32 x", "expected `;`, found the end of the text"),
        (".file", "expected the number of a file, found the end of the text"),
        (".file k.cu", "expected the number of a file, found `k.cu`"),
        (".file 1 k.cu", "expected the name of a file in quotes, found `k.cu`"),
        (".file 1 \"k.cu\", x", "expected time or size of a file, found `x`"),
        (".file 1 \"a.cu\" .file 1 \"b.cu\"", "file 1 is declared twice"),
        (".loc 1 2", "expected the column of `.loc`, found the end of the text"),
        (".alias a, b;", "directive `.alias` is not executed"),
        (".entry k() .explicitcluster { ret; }", "directive `.explicitcluster` of a kernel is not executed"),
        (".entry k() { ret; } .entry k() { ret; }", "kernel `k` is declared twice"),
        (".entry k(.param .u32 a, .param .u32 a) { ret; }", "`a` is declared twice in this scope"),
        ("/* no end", "the comment `/*` has no end"),
        (".pragma \"x", "the string has no end"),
        (".entry k() { ? }", "the character `?` is not PTX"),
        (".entry k() { ret;", "expected an instruction, found the end of the text"),
    ] {
        assert_eq!(refusal(text), format!("PTX line 4: {expected}\n    {text}"));
    }
    let head = |text: &str| parse(text).expect_err(text).to_string();
    let expected = "PTX line 1: only addresses of 64 bits are executed\n    .address_size 32";
    assert_eq!(head(".address_size 32"), expected);
    assert_eq!(
        head(".target compute"),
        "PTX line 1: expected a target such as sm_90, found `compute`\n    .target compute"
    );
}

/// Each text is line 10, in a kernel.
#[test]
fn instructions() {
    for (text, expected) in [
        (
            "call.uni f, (%r1);",
            "opcode `call.uni` is not executed; device functions must be `__forceinline__`",
        ),
        (".param .b32 x;", "calls are not executed; device functions must be `__forceinline__`"),
        ("@%r1 ret;", "register `%r1` is not a predicate"),
        ("@%p9 ret;", "register `%p9` is not declared"),
        (".reg .b32 %r<3>;", "`%r` is declared twice in this scope"),
        (".reg .f8 x;", "registers of type `.f8` are not executed"),
        ("bra L;", "label `L` is not declared"),
        ("brx.idx %r1, ts;", "the list `ts` of targets is not declared"),
        ("L: L: ret;", "`L` is declared twice in this scope"),
        ("{ M: ret; } bra M;", "label `M` is not declared"),
        (".calltargets x;", "directive `.calltargets` in a kernel is not executed"),
        ("vadd4.u32.u32.u32 %r1, %r2, %r3, %r4;", "opcode `vadd4.u32.u32.u32` is not executed"),
        ("wgmma.fence.sync.aligned;", "`wgmma` exists on the target sm_90a only, not on sm_90"),
        (
            "mbarrier.init.shared.b64 [%r1], 1;",
            "opcode `mbarrier.init.shared.b64` is not executed; of asynchronous copies `cp.async` with commit and wait \
             groups is",
        ),
        (
            "cp.async.bulk.commit_group;",
            "opcode `cp.async.bulk.commit_group` is not executed; of asynchronous copies `cp.async.ca`, `cp.async.cg` \
             and their groups are",
        ),
        ("add.sat.s32 %r1, %r2, %r3;", "modifier `.sat` of `add.sat.s32` is not executed"),
        ("add.f32x2 %rd1, %rd2, %rd3;", "modifier `.f32x2` of `add.f32x2` is not executed"),
        ("add.rn.ftz.f64 %rd1, %rd2, %rd3;", "modifier `.ftz` of `add.rn.ftz.f64` is not executed"),
        ("add.rz.bf16 %rs1, %rs2, %rs3;", "modifier `.rz` of `add.rz.bf16` is not executed"),
        ("add.b32 %r1, %r2, %r3;", "type `.b32` of `add.b32` is not executed"),
        ("add %r1, %r2, %r3;", "`add` lacks a type"),
        ("add.s32 %r1, %r2;", "`add.s32` takes 3 operands, not 2"),
        ("add.s32 %r1, %r2, %r77;", "register `%r77` is not declared"),
        ("add.s32 %r1, %r2, %r07;", "register `%r07` is not declared"),
        ("add.s32 %r1, %r2, x;", "`x` is neither declared nor a number"),
        ("add.s32 %r1, %r2, 09;", "`09` is neither declared nor a number"),
        ("add.s32 %r1, %r2, x+8;", "variable `x` is not declared"),
        (
            "add.s32 %rd1, %r2, %r3;",
            "register `%rd1` is 64 bits wide; type `.s32` of `add.s32` is 32 bits wide",
        ),
        ("add.s32 %r1, %p2, %r3;", "register `%p2` is a predicate; type `.s32` of `add.s32` is 32 bits wide"),
        ("add.s32 %r1, %r2, 0f3F800000;", "the constant `0f3F800000` is not one of type `.s32`"),
        ("add.f32 %r1, %r2, -1;", "the constant `-1` is not one of type `.f32`"),
        ("add.s32 5, %r2, %r3;", "register `5` is not declared"),
        ("add.s32 %r1, -%r2, %r3;", "operand 2 of `add.s32` must be a register without sign and offset"),
        ("add.s32 %r1, [%r2], %r3;", "operand 2 of `add.s32` must be a register, variable or constant"),
        ("add.f32 %r1, %tid.x, %r3;", "`%tid.x` cannot be an operand of `add.f32`"),
        (
            "fma.f32 %r1, %r2, %r3, %r4;",
            "`fma.f32` is executed only with one of the modifiers `.rn`, `.rz`, `.rm`, `.rp`",
        ),
        (
            "div.f32 %r1, %r2, %r3;",
            "`div.f32` is executed only with one of the modifiers `.rn`, `.rz`, `.rm`, `.rp`",
        ),
        (
            "mul.s32 %r1, %r2, %r3;",
            "`mul.s32` is executed only with one of the modifiers `.lo`, `.hi`, `.wide`",
        ),
        ("mul.wide.s64 %rd1, %rd2, %rd3;", "type `.s64` of `mul.wide.s64` is not executed"),
        ("mul24.hi.s32 %r1, %r2, %r3;", "`mul24.hi.s32` is executed only with the modifier `.lo`"),
        ("sin.f32 %r1, %r2;", "`sin.f32` is executed only with the modifier `.approx`"),
        (
            "min.xorsign.abs.f32 %r1, %r2, %r3;",
            "modifier `.xorsign` of `min.xorsign.abs.f32` is not executed",
        ),
        ("min.f32 %r1, %r2, %r3, %r4;", "`min.f32` takes 3 operands, not 4"),
        ("prmt.b32.f4e %r1, %r2, %r3, %r4;", "modifier `.f4e` of `prmt.b32.f4e` is not executed"),
        ("lop3.b32 %r1, %r2, %r3, %r4, 256;", "the table of `lop3.b32` is a byte"),
        ("lop3.b32 %r1, %r2, %r3, %r4, %r5;", "operand 5 of `lop3.b32` must be a constant"),
        ("setp.lt.b32 %p1, %r1, %r2;", "this comparison of `setp.lt.b32` does not go with its type"),
        ("setp.lo.s32 %p1, %r1, %r2;", "this comparison of `setp.lo.s32` does not go with its type"),
        ("setp.num.s32 %p1, %r1, %r2;", "this comparison of `setp.num.s32` does not go with its type"),
        ("setp.lt.f16x2 %p1|%p2, %r1, %r2;", "type `.f16x2` of `setp.lt.f16x2` is not executed"),
        ("setp.lt.and.s32 %p1, %r1, %r2;", "`setp.lt.and.s32` takes 4 operands, not 3"),
        (
            "setp.lt.s32 %p1, !%r1, %r2;",
            "operand 2 of `setp.lt.s32` must be a register, variable or constant",
        ),
        (
            "cvt.rn.satfinite.e4m3x2.f32 %rs1, %r2, %r3;",
            "modifier `.satfinite` of `cvt.rn.satfinite.e4m3x2.f32` is not executed",
        ),
        (
            "cvt.s32.f32 %r1, %r2;",
            "`cvt.s32.f32` is executed only with one of the modifiers `.rni`, `.rzi`, `.rmi`, `.rpi`",
        ),
        ("cvt.rzi.f32.f64 %r1, %rd2;", "conversion `cvt.rzi.f32.f64` is not executed"),
        ("cvt.rn.tf32.f16 %r1, %rs2;", "conversion `cvt.rn.tf32.f16` is not executed"),
        ("cvt.rn.f32.f32 %r1, %r2;", "modifier `.rn` of `cvt.rn.f32.f32` is not executed"),
        ("mov.b32 %r1, {%rs1, %rs2, %rs3};", "`mov.b32` of 3 parts is not executed"),
        ("selp.b32 %r1, %r2, %r3, !%p1;", "operand 4 of `selp.b32` must be a register, variable or constant"),
        (
            "ld.global.f32 %rd1, [%rd2];",
            "register `%rd1` is 64 bits wide; type `.f32` of `ld.global.f32` is 32 bits wide",
        ),
        ("ld.global.u32 %r1, [%r2];", "register `%r2` is not as wide as an address of `ld.global.u32`"),
        ("ld.shared.u32 %r1, [p0];", "variable `p0` is not in the state space of `ld.shared.u32`"),
        ("ld.global.u32 %r1, %rd2;", "operand 2 of `ld.global.u32` must be an address in brackets"),
        (
            "ld.global.L2::cache_hint.u32 %r1, [%rd2], %rd3;",
            "modifier `.L2::cache_hint` of `ld.global.L2::cache_hint.u32` is not executed",
        ),
        ("ld.global.v2.u32 %r1, [%rd2];", "operand 1 of `ld.global.v2.u32` must be 2 registers, not 1"),
        ("ld.global.v8.b64 {%rd1,%rd2}, [%rd2];", "`ld.global.v8.b64` moves more than 32 bytes"),
        (
            "ld.shared::cluster.u32 %r1, [%r2];",
            "modifier `.shared::cluster` of `ld.shared::cluster.u32` is not executed",
        ),
        ("ld.global.f16 %rs1, [%rd2];", "type `.f16` of `ld.global.f16` is not executed"),
        ("st.param.u32 [p0], %r1;", "modifier `.param` of `st.param.u32` is not executed"),
        (
            "atom.global.add.noftz.f16 %rs1, [%rd2], %rs3;",
            "type `.f16` of `atom.global.add.noftz.f16` is not executed",
        ),
        ("atom.global.add.s64 %rd1, [%rd2], %rd3;", "type `.s64` of `atom.global.add.s64` is not executed"),
        ("red.global.exch.b32 [%rd2], %r3;", "`red.global.exch.b32` is not PTX"),
        ("fence.proxy.async.cta;", "`fence.proxy.async.cta` is not PTX"),
        ("fence.proxy.alias;", "`fence.proxy.alias` is executed only with the modifier `.async`"),
        ("fence.proxy.async.global;", "modifier `.global` of `fence.proxy.async.global` is not executed"),
        ("bar.sync 16;", "barrier 16 of `bar.sync` is not one of 0 to 15"),
        ("bar.red.popc.u32 %r1, 0, 64, %p1;", "a number of threads of `bar.red.popc.u32` is not executed"),
        ("barrier.cluster.arrive;", "modifier `.cluster` of `barrier.cluster.arrive` is not executed"),
        ("shfl.bfly.b32 %r1, %r2, 1, 31;", "`shfl.bfly.b32` is executed only with the modifier `.sync`"),
        (
            "match.all.sync.b32 %r1|%p1, %r2, -1;",
            "`match.all.sync.b32` is executed only with the modifier `.any`",
        ),
        ("isspacep.const %p1, %rd1;", "`isspacep.const` is not executed: constants lie in global memory"),
        (
            "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 %r1, %r1, %r1, %r1;",
            "`mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32` is executed only with the modifier `.col`",
        ),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 %r1, %r1, %r1, %r1;",
            "matrix product `mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32` is not executed",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r1,%r1,%r1,%r1}, {%r1,%r1}, {%r1};",
            "operand 1 of `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32` must be 4 registers, not 1",
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1}, [%r1];",
            "`ldmatrix.sync.aligned.m8n8.x3.shared.b16` is executed only with one of the modifiers `.x1`, `.x2`, `.x4`",
        ),
        (
            "cp.async.cg.shared.global [%r1], [%rd1], 8;",
            "`cp.async.cg.shared.global` copies [16] bytes, not 8",
        ),
        (
            "cp.async.ca.shared.global [%r1], [%rd1], %r2;",
            "operand 3 of `cp.async.ca.shared.global` must be a constant",
        ),
        (".loc x 2 3", "expected the file of `.loc`, found `x`"),
        (".loc 1 4294967296 3", "the line of `.loc` has more than 32 bits"),
        (".loc 1 2 3, inlined_at 1 2 3", "expected `function_name`, found `inlined_at`"),
        (".loc 1 2 3, function_name $L inlined_at 1 2 3", "expected `,`, found `inlined_at`"),
        (".loc 1 2 3, function_name $L, line 1 2 3", "expected `inlined_at`, found `line`"),
        (".loc 1 2 3, function_name 1+x, inlined_at 1 2 3", "expected an offset, found `x`"),
        (".loc 1 2 3, function_name $L, inlined_at 1 2, 3", "expected the column of `inlined_at`, found `,`"),
        (".file 1 2", "expected the name of a file in quotes, found `2`"),
    ] {
        let body = format!(
            ".entry k(.param .u64 p0) {{\n.reg .pred %p<4>;\n.reg .b16 %rs<8>;\n.reg .b32 %r<16>;\n\
             .reg .b64 %rd<8>;\n\n{text}\nret;\n}}"
        );
        assert_eq!(refusal(&body), format!("PTX line 10: {expected}\n    {text}"));
    }
}

/// What a target does not have, as `ptxas` refuses it.
#[test]
fn targets() {
    let on = |target: &str, text: &str| {
        parse(&format!(".version 8.0\n.target {target}\n.entry k() {{\n{text}\nret;\n}}"))
            .err()
            .map(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
    };
    for text in [
        "wgmma.fence.sync.aligned;",
        "wgmma.commit_group.sync.aligned;",
        "wgmma.wait_group.sync.aligned 0;",
        ".reg .b32 %r<4>; wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%r0,%r1,%r2,%r3}, 0, 0, 1, 1, 1;",
    ] {
        assert_eq!(on("sm_90a", text), None);
        for target in ["sm_80", "sm_90", "sm_100a", "sm_120"] {
            let expected = format!("PTX line 4: `wgmma` exists on the target sm_90a only, not on {target}");
            assert_eq!(on(target, text), Some(expected));
        }
    }
    assert_eq!(on("sm_90", "fence.proxy.async;"), None);
    let expected = "PTX line 4: `fence.proxy.async` exists from sm_90 on, not on sm_89";
    assert_eq!(on("sm_89", "fence.proxy.async;").as_deref(), Some(expected));
}

/// Instructions in a kernel for sm_90a.
#[test]
fn warpgroups() {
    const PRODUCT: &str = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16";
    let d = "{%r1, %r2, %r3, %r4}";
    let cases = [
        ("wgmma.fence.aligned;", "`wgmma.fence.aligned` is executed only with the modifier `.sync`"),
        ("wgmma.fence.sync;", "`wgmma.fence.sync` is executed only with the modifier `.aligned`"),
        (
            "wgmma.fence.sync.aligned.cta;",
            "modifier `.cta` of `wgmma.fence.sync.aligned.cta` is not executed",
        ),
        ("wgmma.fence.sync.aligned 0;", "`wgmma.fence.sync.aligned` takes 0 operands, not 1"),
        ("wgmma.wait_group.sync.aligned;", "`wgmma.wait_group.sync.aligned` takes 1 operands, not 0"),
        (
            "wgmma.wait_group.sync.aligned %r1;",
            "operand 1 of `wgmma.wait_group.sync.aligned` must be a constant",
        ),
        (
            "wgmma.load.sync.aligned;",
            "`wgmma.load.sync.aligned` is executed only with one of the modifiers `.fence`, `.commit_group`, \
             `.wait_group`, `.mma_async`",
        ),
    ];
    let mut cases: Vec<(String, String)> =
        cases.iter().map(|(text, expected)| ((*text).to_owned(), (*expected).to_owned())).collect();
    // What no product of the ISA is, or none that is executed.
    for opcode in [
        "m64n8k16.f16.f16.f16",
        "m64n8k32.f32.e4m3.e4m3",
        "m64n8k32.s32.s8.s8",
        "m64n8k16.f32.bf16.f16",
        "m64n8k8.f32.bf16.bf16",
        "m64n8k16.f32.tf32.tf32",
        "m64n12k16.f32.bf16.bf16",
        "m64n264k16.f32.bf16.bf16",
        "m64n0k16.f32.bf16.bf16",
        "m64n08k16.f32.bf16.bf16",
        "m128n8k16.f32.bf16.bf16",
        "f32.bf16.bf16",
    ] {
        let opcode = format!("wgmma.mma_async.sync.aligned.{opcode}");
        let text = format!("{opcode} {d}, %rd1, %rd2, %p1, 1, 1, 0, 0;");
        cases.push((text, format!("matrix product `{opcode}` is not executed")));
    }
    let sparse = PRODUCT.replace("mma_async", "mma_async.sp");
    cases.push((
        format!("{sparse} {d}, %rd1, %rd2, %p1, 1, 1, 0, 0;"),
        format!("modifier `.sp` of `{sparse}` is not executed"),
    ));
    for (operands, expected) in [
        ("%rd1, %rd2, %p1, 1, 1, 0", "`P` takes 8 operands, not 7"),
        ("{%r5, %r6, %r7, %r8}, %rd2, %p1, 1, 1, 0, 0", "`P` takes 7 operands, not 8"),
        ("%rd1, %rd2, %p1, 0, 1, 0, 0", "operand 5 of `P` must be 1 or -1"),
        ("%rd1, %rd2, %p1, 1, 2, 0, 0", "operand 6 of `P` must be 1 or -1"),
        ("%rd1, %rd2, %p1, 1, 1, 2, 0", "operand 7 of `P` must be 0 or 1"),
        ("%rd1, %rd2, %p1, 1, 1, 0, -1", "operand 8 of `P` must be 0 or 1"),
        ("%rd1, %rd2, %p1, 1, 1, 0, %r9", "operand 8 of `P` must be a constant"),
        ("%rd1, %rd2, %r9, 1, 1, 0, 0", "register `%r9` is 32 bits wide; type `.pred` of `P` is a predicate"),
        ("%rd1, %r9, %p1, 1, 1, 0, 0", "register `%r9` is 32 bits wide; type `.b64` of `P` is 64 bits wide"),
        ("{%r5, %r6}, %rd2, %p1, 1, 1, 0", "operand 2 of `P` must be 4 registers, not 2"),
    ] {
        cases.push((format!("{PRODUCT} {d}, {operands};"), expected.replace('P', PRODUCT)));
    }
    for (d, expected) in [
        ("{%r1, %r2, %r3}", "operand 1 of `P` must be 4 registers, not 3"),
        ("{%r1, %r2, %r3, %r1}", "a register stands twice in the result of `P`"),
    ] {
        cases.push((format!("{PRODUCT} {d}, %rd1, %rd2, %p1, 1, 1, 0, 0;"), expected.replace('P', PRODUCT)));
    }
    for (text, expected) in &cases {
        let module = format!(
            ".version 8.0\n.target sm_90a\n.entry k() {{\n.reg .pred %p<4>;\n.reg .b32 %r<16>;\n\
             .reg .b64 %rd<8>; {text}\nret;\n}}"
        );
        let found = parse(&module).expect_err(text).to_string();
        assert!(found.starts_with(&format!("PTX line 6: {expected}\n")), "{text}\n{found}");
    }
}

/// A text that no PTX is must be refused, not crash: every prefix of a kernel, and every token of it left out.
#[test]
fn broken_texts() {
    let text = format!(
        "{HEAD}.global .f32 g[2][2] = {{{{0f3F800000, -1.5}}, {{2.0}}}};\n.extern .shared .align 16 .b8 d[];\n\
         .visible .entry k(.param .u64 .ptr .align 1 a, .param .align 8 .b8 s[24])\n.maxntid 128, 2\n{{\n\
         .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<4>;\nts: .branchtargets L, M;\nL: @!%p1 bra M;\n\
         ld.global.v2.f32 {{%r1, %r2}}, [%rd1+-4];\nsetp.lt.and.s32 %p1|%p2, %r1, -5, !%p3;\n\
         {{ .reg .b32 t; mov.u32 t, d+4; }}\nM: brx.idx %r1, ts;\n}}\n"
    );
    assert!(parse(&text).is_ok());
    let ends: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
    let mut refused = 0;
    for &end in &ends {
        refused += usize::from(parse(&text[..end]).is_err());
    }
    // Whole prefixes exist only before `.visible` and after the last brace.
    assert!(refused > ends.len() / 2, "{refused} of {}", ends.len());
    let words: Vec<&str> = text.split_inclusive([' ', '\n', ',', ';']).collect();
    for left_out in 0..words.len() {
        let without: String =
            words.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, word)| *word).collect();
        // Some words may be left out. Where one may not, the message has a place.
        if let Err(e) = parse(&without) {
            assert!((1..=text.lines().count() as u32).contains(&e.line), "{e}");
        }
    }
}
