//! Elementwise steps by themselves.

use crate::chain::{Access, chain};
use crate::code::c_type;
use crate::ctext::float;
use crate::split::subgroup;
use crate::steps::{Phase, Writer};
use ddnnc_ir::{GroupKind, Layout, Local, Op, ValueType};
use std::fmt::Write as _;

/// C declarations of `row` and `c` for element `e` of a value: its channel, and its number among the elements of that
/// channel, images and then positions.
fn coordinates(ty: &ValueType) -> String {
    let d = ty.dims();
    if d.len() < 2 {
        return "[[maybe_unused]] const uint row = e, c = 0;".to_owned();
    }
    let (channels, inner) = (d[1], d[2..].iter().product::<usize>());
    match ty.layout {
        Layout::RowMajor if inner > 1 => format!(
            "[[maybe_unused]] const uint row = e / {} * {inner} + e % {inner}, c = e / {inner} % {channels};",
            channels * inner
        ),
        _ => format!("[[maybe_unused]] const uint row = e / {channels}, c = e % {channels};"),
    }
}

/// The phases of an elementwise step.
///
/// # Errors
///
/// What is no elementwise chain.
pub fn phases(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let ty = &step.results[0];
    let (count, ctype) = (ty.elements(), c_type(ty.dtype));
    if count == 0 {
        return Ok(Vec::new());
    }
    let result = w.result(s, 0);
    let each = |body: &str| format!("        for (uint e = t; e < {count}; e += n) {{ {body} }}\n");
    if let Op::Constant { value } = step.op {
        w.costs(0, ty.bytes(), 0);
        let value = float(value);
        let text = each(&format!("{result}[e] = from_float<{ctype}>({value});"));
        return Ok(vec![Phase::new(text, count)]);
    }
    if let Op::Ema { momentum, scale } = step.op {
        let (state, x) = (w.operand(step, 0), w.operand(step, 1));
        w.costs(2 * ty.bytes(), ty.bytes(), 3 * count);
        let (keep, take) = (float(1.0 - momentum), float(momentum * scale));
        let text = each(&format!("{result}[e] = {keep} * {state}[e] + {take} * {x}[e];"));
        return Ok(vec![Phase::new(text, count)]);
    }
    let (one, operands, _) = subgroup(group, GroupKind::Sequence, &[s]);
    let made = chain(&one, &[Local::Step { step: 0, result: 0 }], &[])?;
    let mut loads = String::new();
    let mut read = 0;
    for (i, input) in made.inputs.iter().enumerate() {
        let Local::Operand(number) = input.local else {
            return Err("a chain of one step takes what another makes".to_owned());
        };
        // The operand of the step that is this operand of the group of one.
        let position = step.operands.iter().position(|l| *l == operands[number as usize]).unwrap_or_default();
        let pointer = w.operand(step, position);
        read += w.ty(step, position).bytes();
        let place = match &input.access {
            Access::Element => "e".to_owned(),
            Access::Channel => "c".to_owned(),
            Access::Scalar => "0".to_owned(),
            Access::Repeated(index) => index.clone(),
            Access::Random => {
                let _ = writeln!(loads, "            const long long* i{i} = {pointer};");
                continue;
            }
        };
        let _ = writeln!(loads, "            const float i{i} = to_float({pointer}[{place}]);");
    }
    w.costs(read, ty.bytes(), made.flops * count);
    let text = format!(
        "        for (uint e = t; e < {count}; e += n) {{\n            {}\n{loads}{}\n{}\n            {result}[e] = \
         from_float<{ctype}>(o0);\n        }}\n",
        coordinates(ty),
        made.channel_code,
        made.code
    );
    Ok(vec![Phase::new(text, count)])
}
