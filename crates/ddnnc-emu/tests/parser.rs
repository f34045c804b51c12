//! What the parser makes of every form of statement.

use ddnnc_emu::inst::{
    Address, Atomic, Binary, BoolOp, Compare, File, Float, Kernel, Mma, Module, Op, Reg, Round, Space,
    Special, Src, Ternary, Type, Variable,
};
use ddnnc_emu::parse;

const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

fn module(text: &str) -> Module {
    match parse(&format!("{HEAD}{text}")) {
        Ok(module) => module,
        Err(e) => panic!("{e}"),
    }
}

/// A kernel with registers of every file, two parameters and a body.
fn kernel(body: &str) -> Kernel {
    let text = format!(
        ".visible .entry k(.param .u64 p0, .param .u32 p1)\n{{\n.reg .pred %p<4>;\n.reg .b16 %rs<8>;\n\
         .reg .b32 %r<16>;\n.reg .b64 %rd<8>;\n.reg .b128 %rq<2>;\n{body}\nret;\n}}\n"
    );
    module(&text).kernels.remove(0)
}

fn op(instruction: &str) -> Op {
    kernel(instruction).code.remove(0).op
}

fn p(index: u32) -> Reg {
    Reg { file: File::Pred, index }
}

fn rs(index: u32) -> Reg {
    Reg { file: File::B16, index }
}

fn r(index: u32) -> Reg {
    Reg { file: File::B32, index }
}

fn rd(index: u32) -> Reg {
    Reg { file: File::B64, index }
}

fn at(base: Src, offset: i64) -> Address {
    Address { base, offset }
}

#[test]
fn heads_and_skipped_directives() {
    let module = module(
        "// a comment\n/* another\n one */ .file 1 \"k.cu\"\n.pragma \"nounroll\";\n\
         .section .debug_str { .b8 1, 2 { } }\n.visible .entry k()\n{ .loc 1 5 3, function_name $L, inlined_at 1 2 3\n\
         .pragma \"nounroll\"; ; ret; }\n",
    );
    assert_eq!(module.target, 90);
    assert_eq!(module.kernels.len(), 1);
    assert_eq!(module.kernels[0].code.len(), 1);
    // The text ends with the null of NVRTC's buffers.
    assert!(parse(&format!("{HEAD}.entry k() {{ ret; }}\n\0")).is_ok());
}

#[test]
fn kernels_parameters_and_limits() {
    let module = module(
        ".visible .entry k(\n.param .u64 .ptr .global .align 16 a,\n.param .align 8 .b8 s[24],\n.param .f32 f\n)\n\
         .maxntid 128, 2, 1\n.minnctapersm 2\n.maxnreg 64\n{ ret; }\n.entry q .reqntid 32, 4 { ret; }\n.weak .entry e() { }",
    );
    let sizes: Vec<_> =
        module.kernels[0].variables.iter().map(|v| (v.name.as_str(), v.space, v.bytes, v.align)).collect();
    let expected = [("a", Space::Param, 8, 8), ("s", Space::Param, 24, 8), ("f", Space::Param, 4, 4)];
    assert_eq!(sizes, expected);
    assert_eq!((module.kernels[0].max_threads, module.kernels[0].required_threads), (Some(256), None));
    assert_eq!(
        (module.kernels[1].max_threads, module.kernels[1].required_threads),
        (Some(128), Some([32, 4, 1]))
    );
    // A body without an end gets one.
    assert_eq!(module.kernels[2].code[0].op, Op::Ret);
}

#[test]
fn variables() {
    let module = module(
        ".global .align 4 .u32 counter = 5;\n.const .align 16 .b8 t[6] = {1, 0x2, 0b11, 04};\n\
         .global .f32 g[2][2] = {{0f3F800000, -1.5}, {2.0}};\n.const .f64 d = 0d3FF0000000000000;\n\
         .const .s16 n[] = {-1, 2, 3};\n.extern .shared .align 16 .b8 dyn[];\n.shared .v4 .f32 v[2];\n\
         .visible .global .u64 x, y;\n\
         .entry k() { .shared .align 8 .b8 s[33]; .local .align 16 .b8 l[64]; ret; }",
    );
    let find = |name: &str| module.variables.iter().find(|v| v.name == name).expect("declared").clone();
    assert_eq!(find("counter").init, 5u32.to_le_bytes());
    assert_eq!((find("t").bytes, find("t").align, find("t").init), (6, 16, vec![1, 2, 3, 4, 0, 0]));
    let floats: Vec<u8> = [1.0f32, -1.5, 2.0, 0.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    assert_eq!((find("g").bytes, find("g").init), (16, floats));
    assert_eq!(find("d").init, 1f64.to_le_bytes());
    assert_eq!((find("n").bytes, find("n").init), (6, vec![0xff, 0xff, 2, 0, 3, 0]));
    assert_eq!((find("dyn").bytes, find("dyn").align, find("dyn").dynamic), (0, 16, true));
    assert_eq!((find("v").bytes, find("v").align, find("v").space), (32, 16, Space::Shared));
    assert_eq!((find("x").bytes, find("y").bytes), (8, 8));
    let local = &module.kernels[0].variables;
    let shared = Variable {
        name: "s".to_owned(),
        space: Space::Shared,
        bytes: 33,
        align: 8,
        dynamic: false,
        init: Vec::new(),
    };
    assert_eq!((local.len(), &local[0], local[1].space), (2, &shared, Space::Local));
}

#[test]
fn variables_are_numbered_from_the_module_on() {
    let module = module(
        ".global .u32 a;\n.global .u32 b;\n.entry k(.param .u64 q) { .reg .b64 %rd<3>; .reg .b32 %r<2>; .shared .u32 s;\n\
         mov.u64 %rd0, b; mov.u32 %r0, s; ld.param.u64 %rd1, [q]; cvta.global.u64 %rd2, a+8; ld.b32 %r1, [b+4]; ret; }",
    );
    let code = &module.kernels[0].code;
    let variable = |variable, offset| Src::Variable { variable, offset };
    assert_eq!(code[0].op, Op::Mov { ty: Type::U64, dst: rd(0), src: variable(1, 0) });
    assert_eq!(code[1].op, Op::Mov { ty: Type::U32, dst: r(0), src: variable(3, 0) });
    let Op::Ld { space: Space::Param, address, .. } = &code[2].op else { panic!("{:?}", code[2]) };
    assert_eq!(*address, at(variable(2, 0), 0));
    let Op::Cvta { to_generic: true, src, .. } = &code[3].op else { panic!("{:?}", code[3]) };
    assert_eq!(*src, variable(0, 8));
    let Op::Ld { space: Space::Generic, address, .. } = &code[4].op else { panic!("{:?}", code[4]) };
    assert_eq!(*address, at(variable(1, 0), 4));
}

#[test]
fn registers_scopes_and_lines() {
    let kernel = kernel(
        "mov.u32 %r1, 1;\n{ .reg .b32 t, %r<2>; .reg.pred q;\nmov.u32 t, %r1; {.reg .b32 t; mov.u32 t, %r2;} }\n\
         { .reg .b32 t; mov.u32 %r1, t; }\nadd.s32\n %r3,\n %r1, %r2;",
    );
    let moves: Vec<(u32, u32, u32)> = kernel
        .code
        .iter()
        .filter_map(|inst| match inst.op {
            Op::Mov { dst, src: Src::Reg(src), .. } => Some((dst.index, src.index, inst.line)),
            _ => None,
        })
        .collect();
    // 16 registers outside; `t` is 16, then `%r0` and `%r1` of the scope; `%r2` is the outer one.
    assert_eq!(moves, [(16, 18, 13), (19, 2, 13), (1, 20, 14)]);
    assert_eq!(kernel.registers, [5, 8, 21, 8, 2]);
    assert_eq!(kernel.code[4].line, 15);
}

#[test]
fn labels_guards_and_jumps() {
    let kernel = kernel(
        "L0: @%p1 bra L2;\n{ L1: @!%p2 bra.uni L1; bra L0; }\n{ L1: bra L1; }\nts: .branchtargets L0, L2;\n\
         @%p1 brx.idx %r1, ts;\nL2: ret;\n@%p3 bra L3; L3:",
    );
    let targets: Vec<u32> = kernel
        .code
        .iter()
        .filter_map(|inst| if let Op::Bra { target } = inst.op { Some(target) } else { None })
        .collect();
    assert_eq!(targets, [5, 1, 0, 3, 7]);
    let guards: Vec<_> = kernel.code.iter().map(|inst| inst.guard).collect();
    assert_eq!(guards[..3], [Some((p(1), false)), Some((p(2), true)), None]);
    let Op::Brx { targets, index: Src::Reg(_) } = &kernel.code[4].op else { panic!("{:?}", kernel.code[4]) };
    assert_eq!(targets.as_slice(), [0, 5]);
}

#[test]
fn a_jump_to_the_end_finds_an_instruction() {
    let module = module(".entry k() { .reg .pred p; @p bra E; trap; E: }");
    let code = &module.kernels[0].code;
    assert_eq!(code[0].op, Op::Bra { target: 2 });
    assert_eq!(code[2].op, Op::Ret);
}

#[test]
fn constants() {
    let imm = |text: &str| match op(text) {
        Op::Mov { src: Src::Imm(bits), .. } => bits,
        other => panic!("{other:?}"),
    };
    for (text, bits) in [
        ("mov.u32 %r1, 17;", 17),
        ("mov.u32 %r1, 017;", 15),
        ("mov.u32 %r1, 0x1F;", 31),
        ("mov.u32 %r1, 0b101;", 5),
        ("mov.u32 %r1, 4294967295U;", 0xffff_ffff),
        ("mov.s32 %r1, -1;", 0xffff_ffff),
        ("mov.u16 %rs1, -2;", 0xfffe),
        ("mov.b64 %rd1, -1;", u64::MAX),
        ("mov.u64 %rd1, 18446744073709551615;", u64::MAX),
        ("mov.u32 %r1, WARP_SZ;", 32),
        ("mov.f32 %r1, 0f3F800000;", 0x3f80_0000),
        ("mov.b32 %r1, 0fBF800000;", 0xbf80_0000),
        ("mov.f32 %r1, -0f3F800000;", 0xbf80_0000),
        ("mov.f32 %r1, 1.5;", 0x3fc0_0000),
        ("mov.f32 %r1, -1.5e-1;", 0xbe19_999a),
        ("mov.f64 %rd1, 0d4000000000000000;", 2f64.to_bits()),
        ("mov.f64 %rd1, 0.1;", 0.1f64.to_bits()),
        ("mov.pred %p1, -1;", 1),
        ("mov.pred %p1, 0;", 0),
    ] {
        assert_eq!(imm(text), bits, "{text}");
    }
    // Shift amounts are 32 bits wide whatever is shifted; the addend of `mad.wide` is twice as wide as the factors.
    let Op::Binary { b, .. } = op("shl.b64 %rd1, %rd2, -1;") else { panic!() };
    assert_eq!(b, Src::Imm(0xffff_ffff));
    let Op::Ternary { op: Ternary::MadWide, b, c, .. } = op("mad.wide.s32 %rd1, %r2, -1, -1;") else {
        panic!()
    };
    assert_eq!((b, c), (Src::Imm(0xffff_ffff), Src::Imm(u64::MAX)));
}

#[test]
fn special_registers() {
    let Op::Mov { src, .. } = op("mov.u32 %r1, %ctaid.y;") else { panic!() };
    assert_eq!(src, Src::Special(Special::CtaidY));
    let Op::Mov { src, .. } = op("mov.u64 %rd1, %clock64;") else { panic!() };
    assert_eq!(src, Src::Special(Special::Clock64));
}

#[test]
fn vectors_pairs_and_sinks() {
    let parts = vec![Src::Reg(rs(1)), Src::Reg(rs(2))];
    assert_eq!(op("mov.b32 %r1, {%rs1, %rs2};"), Op::Pack { ty: Type::B32, dst: r(1), parts: parts.into() });
    let parts = vec![Some(r(1)), None];
    assert_eq!(
        op("mov.b64 {%r1, _}, %rd2;"),
        Op::Unpack { ty: Type::B64, parts: parts.into(), src: Src::Reg(rd(2)) }
    );
    let parts = vec![Src::Reg(rd(1)), Src::Imm(7)];
    let whole = Reg { file: File::B128, index: 1 };
    assert_eq!(op("mov.b128 %rq1, {%rd1, 7};"), Op::Pack { ty: Type::B128, dst: whole, parts: parts.into() });
    let Op::Setp { compare, dst, other, combine, ftz, .. } =
        op("setp.ltu.and.ftz.f32 %p1|_, %r1, 0f00000000, !%p2;")
    else {
        panic!()
    };
    assert_eq!((compare, dst, other, ftz), (Compare::Ltu, Some(p(1)), None, true));
    assert_eq!(combine, Some((BoolOp::And, Src::Reg(p(2)), true)));
    let Op::Shfl { valid, .. } = op("shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;") else { panic!() };
    assert_eq!(valid, Some(p(1)));
}

#[test]
fn addresses_and_hints() {
    let Op::Ld { space, ty, dst, address, volatile } =
        op("ld.relaxed.gpu.global.L1::evict_last.L2::128B.v4.f32 {%r1,%r2,_,%r4}, [%rd1+-16];")
    else {
        panic!()
    };
    assert_eq!((space, ty, volatile), (Space::Global, Type::F32, false));
    assert_eq!(dst.as_slice(), [Some(r(1)), Some(r(2)), None, Some(r(4))]);
    assert_eq!(address, at(Src::Reg(rd(1)), -16));
    let Op::Ld { address, .. } = op("ld.param.u32 %r1, [p1];") else { panic!() };
    assert_eq!(address, at(Src::Variable { variable: 1, offset: 0 }, 0));
    let Op::Ld { space: Space::Param, address, .. } = op("ld.param::entry.b32 %r1, [p0+4];") else {
        panic!()
    };
    assert_eq!(address, at(Src::Variable { variable: 0, offset: 0 }, 4));
    let Op::Ld { space: Space::Shared, address, .. } = op("ld.shared::cta.b32 %r1, [64];") else { panic!() };
    assert_eq!(address, at(Src::Imm(64), 0));
    let Op::St { volatile: true, address, .. } = op("st.volatile.shared.u8 [%r1-4], 300;") else { panic!() };
    assert_eq!(address, at(Src::Reg(r(1)), -4));
    // Eight values of newer devices.
    let Op::Ld { dst, .. } = op("ld.global.v8.b32 {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}, [%rd1];") else {
        panic!()
    };
    assert_eq!(dst.len(), 8);
    let Op::Atom { space, op: Atomic::Cas, b: Some(_), .. } =
        op("atom.acq_rel.gpu.global.cas.b32 %r1, [%rd1], %r2, %r3;")
    else {
        panic!()
    };
    assert_eq!(space, Space::Global);
    let Op::Atom { dst: None, .. } = op("red.relaxed.gpu.global.add.f32 [%rd1], %r2;") else { panic!() };
}

#[test]
fn modifiers_of_results() {
    let Op::Binary { float, op: Binary::Add, .. } = op("add.rz.ftz.sat.f32 %r1, %r2, %r3;") else { panic!() };
    assert_eq!(float, Float { round: Round::Rz, ftz: true, sat: true });
    let Op::Binary { carry_out: true, carry_in: false, .. } = op("add.cc.u32 %r1, %r2, %r3;") else {
        panic!()
    };
    let Op::Ternary { op: Ternary::MadHi, carry_out: true, carry_in: true, .. } =
        op("madc.hi.cc.u32 %r1, %r2, %r3, %r4;")
    else {
        panic!()
    };
    let Op::Binary { op: Binary::Min { nan: true }, .. } = op("min.NaN.f32 %r1, %r2, %r3;") else { panic!() };
    let Op::Ternary { op: Ternary::Fma { relu: true }, ty: Type::Bf16x2, .. } =
        op("fma.rn.relu.bf16x2 %r1, %r2, %r3, %r4;")
    else {
        panic!()
    };
    let Op::Cvt { round: Some(Round::Rz), integer: false, sat: true, .. } =
        op("cvt.rzi.sat.s8.f32 %rs1, %r2;")
    else {
        panic!()
    };
    let Op::Cvt { round: Some(Round::Rm), integer: true, .. } = op("cvt.rmi.f32.f32 %r1, %r2;") else {
        panic!()
    };
    let Op::Cvt { round: Some(Round::Rna), to: Type::Tf32, .. } = op("cvt.rna.tf32.f32 %r1, %r2;") else {
        panic!()
    };
    let Op::CvtPack { high, low, to: Type::Bf16x2, .. } = op("cvt.rn.bf16x2.f32 %r1, %r2, %r3;") else {
        panic!()
    };
    assert_eq!((high, low), (Src::Reg(r(2)), Src::Reg(r(3))));
    let Op::Ternary { op: Ternary::Lop3(0xe8), .. } = op("lop3.b32 %r1, %r2, %r3, %r4, 0xe8;") else {
        panic!()
    };
}

#[test]
fn matrices_and_copies() {
    let Op::Mma { shape: Mma::M16N8K16Bf16, d, a, b, c } = op(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5,%r6,%r7}, {%r8,%r9}, \
         {%r0,%r1,0f00000000,%r3};",
    ) else {
        panic!()
    };
    assert_eq!((d, a.len(), b.len(), c[2]), ([r(0), r(1), r(2), r(3)], 4, 2, Src::Imm(0)));
    let Op::Mma { shape: Mma::M16N8K4Tf32, .. } = op(
        "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%r8}, {%r0,%r1,%r2,%r3};",
    ) else {
        panic!()
    };
    let Op::LdMatrix { trans: true, dst, .. } =
        op("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r1,%r2}, [%r3+32];")
    else {
        panic!()
    };
    assert_eq!(dst.as_slice(), [r(1), r(2)]);
    let Op::CpAsync { bytes: 16, source_bytes: Some(Src::Reg(n)), ignore: None, .. } =
        op("cp.async.cg.shared.global.L2::128B [%r1], [%rd2], 16, %r3;")
    else {
        panic!()
    };
    assert_eq!(n, r(3));
    let Op::CpAsync { bytes: 4, source_bytes: None, ignore: Some((Src::Reg(q), true)), .. } =
        op("cp.async.ca.shared::cta.global [%r1], [%rd2], 4, !%p1;")
    else {
        panic!()
    };
    assert_eq!(q, p(1));
    assert_eq!(op("cp.async.wait_group 2;"), Op::CpAsyncWait { pending: 2 });
}

#[test]
fn without_effect() {
    for text in ["prefetch.global.L2 [%rd1];", "nanosleep.u32 20;", "prefetchu.L1 [%rd1];"] {
        assert_eq!(op(text), Op::Nop, "{text}");
    }
    for text in ["membar.gl;", "fence.acq_rel.gpu;", "fence.sc.cta;", "membar.sys;"] {
        assert_eq!(op(text), Op::Fence, "{text}");
    }
}
