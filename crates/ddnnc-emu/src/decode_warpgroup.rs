//! Hopper's matrix products of a warpgroup.

use crate::inst::{Factor, FirstFactor, Op, Type, Wgmma};
use crate::instruction::Instruction;

#[derive(Clone, Copy)]
enum Kind {
    Fence,
    Commit,
    Wait,
    Product,
}

/// Types with the depth of the product, and whether its factors may be transposed.
const TYPES: &[(&str, Factor, u32, bool)] = &[
    ("f32.bf16.bf16", Factor::Bf16, 16, true),
    ("f32.f16.f16", Factor::F16, 16, true),
    ("f32.tf32.tf32", Factor::Tf32, 8, false),
];

pub(crate) fn wgmma(i: &mut Instruction, _: Type) -> Result<Op, String> {
    let kinds = [
        ("fence", Kind::Fence),
        ("commit_group", Kind::Commit),
        ("wait_group", Kind::Wait),
        ("mma_async", Kind::Product),
    ];
    let kind = i.required_choice(&kinds)?;
    i.require("sync")?;
    i.require("aligned")?;
    match kind {
        Kind::Fence | Kind::Commit => {
            i.finish()?;
            i.expect(0..=0)?;
            Ok(if matches!(kind, Kind::Fence) { Op::WgmmaFence } else { Op::WgmmaCommit })
        }
        Kind::Wait => {
            i.finish()?;
            i.expect(1..=1)?;
            let pending = i.constant(0)?;
            Ok(Op::WgmmaWait { pending: u32::try_from(pending).map_err(|e| e.to_string())? })
        }
        Kind::Product => product(i),
    }
}

/// `d, a-desc, b-desc, scale-d, imm-scale-a, imm-scale-b, imm-trans-a, imm-trans-b`; with A in registers there is no
/// `imm-trans-a`, and tf32 has neither.
fn product(i: &mut Instruction) -> Result<Op, String> {
    let shape = i.take_shape("m64n").unwrap_or_default();
    let mut types = Vec::new();
    while let Some(ty) = i.take_type() {
        types.push(ty.name());
    }
    let types = types.join(".");
    let refused = || format!("matrix product `{}` is not executed", i.opcode);
    let (columns, depth) = shape.split_once('k').ok_or_else(refused)?;
    let known = TYPES.iter().find(|(name, _, k, _)| *name == types && depth == k.to_string());
    let columns = columns.parse::<u32>().ok().filter(|n| n.to_string() == columns);
    let columns = columns.filter(|n| (8..=256).contains(n) && n % 8 == 0);
    let (Some(&(_, factor, _, transposes)), Some(columns)) = (known, columns) else { return Err(refused()) };
    i.finish()?;

    let registers = i.is_vector(1);
    let trans = if transposes { 2 - usize::from(registers) } else { 0 };
    i.expect(6 + trans..=6 + trans)?;
    let d = i.all_destinations(0, columns as usize / 2, Type::F32)?;
    let mut sorted: Vec<u32> = d.iter().map(|reg| reg.index).collect();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("a register stands twice in the result of `{}`", i.opcode));
    }
    let a = if registers {
        let broken = |_| format!("`{}` has four registers of A", i.opcode);
        FirstFactor::Registers(i.all_destinations(1, 4, Type::B32)?.try_into().map_err(broken)?)
    } else {
        FirstFactor::Descriptor(i.source(1, Type::B64)?)
    };
    let flag = |i: &Instruction, at: usize, values: [u64; 2], shown: &str| match i.constant(at)? {
        value if value == values[0] => Ok(false),
        value if value == values[1] => Ok(true),
        _ => Err(format!("operand {} of `{}` must be {shown}", at + 1, i.opcode)),
    };
    let minus = |i: &Instruction, at| flag(i, at, [1, u64::MAX], "1 or -1");
    let turned = |i: &Instruction, at| flag(i, at, [0, 1], "0 or 1");
    Ok(Op::Wgmma(Box::new(Wgmma {
        factor,
        columns,
        d,
        a,
        b: i.source(2, Type::B64)?,
        scale_d: i.predicate(3)?,
        negate: minus(i, 4)? != minus(i, 5)?,
        trans_a: trans == 2 && turned(i, 6)?,
        trans_b: trans > 0 && turned(i, 5 + trans)?,
    })))
}
