//! Convolutions whose channels do not mix.

mod common;

use common::compare::check;
use ddnnc_cases::group::{Builder, group_of as group_of_case};
use ddnnc_cases::{Case, cases, fixed_groups};
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_cuda::emit::{emit_group, group_of};
use ddnnc_cuda::nvrtc::{self, Output};
use ddnnc_ir::{BinaryKind, Conv, DType, GroupKind, Layout, Op, UnaryKind, ValueType};

fn conv_of(op: &Op) -> Option<(Conv, usize)> {
    match op {
        Op::Conv2d(conv) => Some((*conv, 0)),
        Op::Conv2dGradInput { conv, .. } => Some((*conv, 1)),
        Op::Conv2dGradWeight { conv, .. } => Some((*conv, 2)),
        _ => None,
    }
}

/// Cases of operators that are depthwise, of one direction.
fn operators(direction: usize) -> Vec<Case> {
    let depthwise = |case: &Case| {
        conv_of(&case.op).is_some_and(|(conv, d)| {
            let channels = case.operands[0].dims()[1];
            let others = match d {
                2 => case.operands[1].dims()[1],
                _ => case.operands[1].dims()[0],
            };
            d == direction && conv.groups == channels && others == channels && channels > 1
        })
    };
    let all: Vec<Case> = cases().into_iter().filter(depthwise).collect();
    assert!(all.len() >= 6, "{}", all.len());
    all
}

#[test]
fn kernels_compile_without_spills() {
    let mut wrong = Vec::new();
    for case in (0..3).flat_map(operators) {
        let program = case.program(&[]);
        let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
        let group = group_of(&program, launch);
        for arch in [Arch(80), Arch(120)] {
            let code = emit_group(&group, &Target::new(arch)).unwrap_or_else(|e| panic!("{case:?}: {e}"));
            assert_eq!(code.kernels.len(), 1);
            for kernel in &code.kernels {
                assert!(kernel.name.starts_with("depthwise"));
                match nvrtc::compile(&kernel.name, &kernel.source, arch, Output::Cubin) {
                    Err(e) => wrong.push(e.to_string()),
                    Ok(binary) => {
                        let well =
                            binary.log.contains(" 0 bytes spill stores") && !binary.log.contains("warning");
                        if !well {
                            wrong.push(format!("{case:?}: {}", binary.log));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn forward_agrees_with_the_reference() {
    check(&operators(0));
}

#[test]
fn input_gradients_agree_with_the_reference() {
    check(&operators(1));
}

#[test]
fn weight_gradients_agree_with_the_reference() {
    check(&operators(2));
}

/// More channels than a block takes, vectors of channels, more taps than a block takes.
#[test]
fn large_convolutions_agree_with_the_reference() {
    let mut all = Vec::new();
    for (x, kernel, stride, dtype) in [
        ([2, 136, 7, 6], [3, 3], 2, DType::F32),
        ([2, 264, 5, 6], [3, 3], 1, DType::Bf16),
        ([1, 12, 9, 9], [7, 5], 1, DType::F32),
        ([20, 8, 14, 14], [3, 3], 1, DType::Bf16),
    ] {
        let conv = Conv { stride: [stride; 2], pad: [1, 1], dilation: [1, 1], groups: x[1] };
        let [h, w] = conv.output([x[2], x[3]], kernel).expect("the kernel fits");
        let map = |dims: [usize; 4]| ValueType::f32(dims).with_dtype(dtype).with_layout(Layout::ChannelsLast);
        let (y, weight) =
            ([x[0], x[1], h, w], ValueType::f32([x[1], 1, kernel[0], kernel[1]]).with_dtype(dtype));
        all.push(Case { op: Op::Conv2d(conv), operands: vec![map(x), weight.clone()] });
        let op = Op::Conv2dGradInput { conv, input: [x[2], x[3]] };
        all.push(Case { op, operands: vec![map(y), weight] });
        all.push(Case { op: Op::Conv2dGradWeight { conv, kernel }, operands: vec![map(x), map(y)] });
    }
    check(&all);
}

/// Prologues, statistics and sums around them.
#[test]
fn groups_agree_with_the_reference() {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        all.extend(fixed_groups::convolution_groups(dtype).into_iter().map(|c| c.1).filter(|case| {
            group_of_case(case).convolutions().all(|(_, s)| conv_of(&s.op).is_some_and(|c| c.0.groups > 1))
        }));
        all.push(weight_gradients(dtype));
    }
    assert!(all.len() >= 4);
    for case in &all {
        // What surrounds the convolutions is part of their kernels.
        let code = emit_group(group_of_case(case), &Target::new(Arch(80))).expect("kernels");
        let names: Vec<&str> = code.kernels.iter().map(|k| k.name.as_str()).collect();
        assert!(names.iter().all(|n| n.starts_with("depthwise")), "{names:?}");
    }
    check(&all);
}

/// Blocks take fewer channels where the weights of all taps, or the constants of many sub-nets, would take more shared
/// memory than the card has for one.
#[test]
fn shared_memory_is_what_a_block_has() {
    let map =
        |dims: [usize; 4]| ValueType::f32(dims).with_dtype(DType::Bf16).with_layout(Layout::ChannelsLast);
    let conv = |side: usize, channels: usize| Conv {
        stride: [1, 1],
        pad: [side / 2; 2],
        dilation: [1, 1],
        groups: channels,
    };
    let weight =
        |side: usize, channels: usize| ValueType::f32([channels, 1, side, side]).with_dtype(DType::Bf16);
    let mut small = Vec::new();
    for (channels, side, size) in [(64, 31, 3), (512, 11, 14), (512, 9, 14), (5, 127, 2)] {
        let (x, w) = (map([2, channels, size, size]), weight(side, channels));
        let input = [size; 2];
        let (forward, backward) =
            (Op::Conv2d(conv(side, channels)), Op::Conv2dGradInput { conv: conv(side, channels), input });
        let mut b = Builder::new(GroupKind::Convolution);
        let (bx, bw) = (b.operand(x.clone()), b.operand(w.clone()));
        let y = b.step(forward.clone(), &[bx, bw]);
        let stats = b.step(Op::ChannelStats, &[y]);
        let mut all = vec![b.finish(&[y, stats])];
        all.extend([forward, backward].map(|op| Case { op, operands: vec![x.clone(), w.clone()] }));
        for case in &all {
            let program = case.program(&[]);
            let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
            let group = group_of(&program, launch);
            for (arch, most) in [(90, 227 << 10), (120, 99 << 10)] {
                let code = emit_group(&group, &Target::new(Arch(arch))).expect("kernels");
                let shared = code.kernels.iter().map(|k| k.dynamic_shared).max();
                assert!(shared.is_some_and(|s| s <= most), "sm_{arch}: {shared:?} for {channels} x {side}");
            }
        }
        if size < 14 {
            small.extend(all);
        }
    }
    check(&small);

    let mut b = Builder::new(GroupKind::Convolution);
    let mut sum = None;
    for _ in 0..20 {
        let (x, dy) = (b.operand(map([1, 256, 2, 2])), b.operand(map([1, 256, 2, 2])));
        let vectors = [(); 4].map(|()| b.operand(ValueType::f32([256])));
        let x = b.step(
            Op::Normalize { eps: 1e-5, batch_stats: false },
            &[x, vectors[0], vectors[1], vectors[2], vectors[3]],
        );
        let dw = b.step(Op::Conv2dGradWeight { conv: conv(3, 256), kernel: [3, 3] }, &[x, dy]);
        sum = Some(sum.map_or(dw, |before| b.step(Op::Binary { kind: BinaryKind::Add }, &[before, dw])));
    }
    check(&[b.finish(&[sum.expect("twenty")])]);
}

/// relu(x · scale) of three sub-nets, their weight gradients and the sum of these.
fn weight_gradients(dtype: DType) -> Case {
    let act = |dims: [usize; 4]| ValueType::f32(dims).with_dtype(dtype).with_layout(Layout::ChannelsLast);
    let conv = Conv { stride: [2, 2], pad: [1, 1], dilation: [1, 1], groups: 12 };
    let mut b = Builder::new(GroupKind::Convolution);
    let mut sum = None;
    for images in [3, 1, 5] {
        let x = b.operand(act([images, 12, 9, 8]));
        let x = b.step(Op::Unary { kind: UnaryKind::Silu }, &[x]);
        let dy = b.operand(act([images, 12, 5, 4]));
        let dy = b.step(Op::Scale { factor: 0.5 }, &[dy]);
        let dw = b.step(Op::Conv2dGradWeight { conv, kernel: [3, 3] }, &[x, dy]);
        sum = Some(match sum {
            None => dw,
            Some(before) => b.step(Op::Binary { kind: BinaryKind::Add }, &[before, dw]),
        });
    }
    b.finish(&[sum.expect("three")])
}
