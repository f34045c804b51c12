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
        (".extern .func vprintf;", "device function `vprintf` is not executed; make it `__forceinline__`"),
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
        (
            "wgmma.fence.sync.aligned;",
            "opcode `wgmma.fence.sync.aligned` is not executed; of the matrix products `mma.sync` is",
        ),
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
        ("fence.proxy.async;", "modifier `.proxy` of `fence.proxy.async` is not executed"),
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
    ] {
        let body = format!(
            ".entry k(.param .u64 p0) {{\n.reg .pred %p<4>;\n.reg .b16 %rs<8>;\n.reg .b32 %r<16>;\n\
             .reg .b64 %rd<8>;\n\n{text}\nret;\n}}"
        );
        assert_eq!(refusal(&body), format!("PTX line 10: {expected}\n    {text}"));
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
