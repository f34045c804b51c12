//! Weight gradients as matrix products: rows are output channels, columns taps and input channels, the depth the pixels
//! of all sub-nets.

use crate::arch::Target;
use crate::code::{Argument, Arguments, Cost, LaunchCode};
use crate::convolution::{Geometry, check_rows, granule};
use crate::operand::{Operand, Source};
use crate::parts;
use crate::product::{Class, Cut, Finish, Products, Rows};
use crate::regroup::{apart, weight_sums};
use crate::tiles::Unit;
use ddnnc_ir::{Group, Local, is_convolution};

/// The kernels of a group whose results are sums of weight gradients, each made of operands by elementwise chains.
///
/// # Errors
///
/// What no kernel can do.
pub(crate) fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let mut code = LaunchCode::default();
    let sums = weight_sums(group);
    // The convolutions that results add up, and for each the result.
    let mut wanted = Vec::new();
    let mut results = Vec::new();
    for (r, local) in group.results.iter().enumerate() {
        let &Local::Step { step, .. } = local else { return Err("a result is an operand".to_owned()) };
        if sums[step as usize].is_empty() || group.results[..r].contains(local) {
            return Err("a result that is no weight gradient".to_owned());
        }
        for &c in &sums[step as usize] {
            wanted.push(Local::Step { step: c as u32, result: 0 });
            results.push(r);
        }
    }
    let Some((_, first)) = group.convolutions().next() else { return Ok(code) };
    let geometry = Geometry::of(group, first)?;
    let plain = apart(group, &wanted);
    let dtype = first.operands.first().and_then(|&l| group.ty(l)).ok_or("an operand is missing")?.dtype;
    let unit = Unit::of(dtype, target);
    let (ci, co, taps) = (geometry.group_inputs(), geometry.group_outputs(), geometry.taps());
    let mut classes = Vec::new();
    for (number, parts) in parts::classes(&plain).into_iter().enumerate() {
        let index = parts
            .steps
            .iter()
            .copied()
            .find(|&s| is_convolution(&plain.steps[s].op))
            .ok_or("a part without a convolution")?;
        let step = &plain.steps[index];
        let raw = Local::Step { step: index as u32, result: 0 };
        let own = plain.results.iter().position(|&r| r == raw).ok_or("a gradient that nobody reads")?;
        let sums: Vec<usize> =
            parts.parts.iter().map(|map| results[map.results.get(&own).copied().unwrap_or(own)]).collect();
        let prefix = format!("c{number}_");
        let mut arguments = Arguments::with_parts(&prefix, parts.parts.clone());
        let [x, dy] = step.operands[..] else { return Err("a weight gradient of two operands".to_owned()) };
        let types = [x, dy].map(|l| plain.ty(l));
        let [Some(x_type), Some(dy_type)] = types else { return Err("an operand is missing".to_owned()) };
        check_rows(x_type)?;
        check_rows(dy_type)?;
        let pixels = x_type.dims()[0] * geometry.output[0] * geometry.output[1];
        let groups = geometry.conv.groups;
        let (x_source, x_bytes) = Source::of(&plain, x, groups, &mut arguments)?;
        let (dy_source, dy_bytes) = Source::of(&plain, dy, groups, &mut arguments)?;
        let map = format!("{prefix}Map");
        let g = granule(unit, &[geometry.outputs, co]);
        let a = Operand {
            outer: true,
            index: format!("Matrix<{pixels}, {co}, {}, {g}>", geometry.outputs),
            members: format!("group * {co}"),
            channel: format!("group * {co}"),
            source: dy_source,
            bytes: dy_bytes,
        };
        let g = granule(unit, &[geometry.inputs, ci]);
        let b = Operand {
            outer: true,
            index: if geometry.is_pointwise() {
                format!("Matrix<{pixels}, {ci}, {}, {g}>", geometry.inputs)
            } else {
                format!("Patches<{map}, {pixels}, {g}>")
            },
            members: format!("group * {ci}"),
            channel: format!("group * {ci}"),
            source: x_source,
            bytes: x_bytes,
        };
        let places: Vec<Argument> = sums.iter().map(|&r| Argument::Result(r)).collect();
        let bytes = step.results[0].bytes() as u64;
        let columns = taps * ci;
        let finish = move |_: Cut, arguments: &mut Arguments, _: &mut LaunchCode| {
            let out = arguments.placed("out", "float*", places.clone());
            let (rows, of_group) = (co, co * columns);
            Ok(Finish {
                body: format!(
                    "        store_weights(tile, {out} + group * {of_group}, {rows}, {ci}, {taps}, first_row, first_column);"
                ),
                cost: Cost { bytes_written: bytes, ..Cost::default() },
                ..Finish::default()
            })
        };
        classes.push(Class {
            declarations: geometry.declare(&map),
            prefix,
            arguments,
            a,
            b,
            rows: vec![Rows { rows: co, depth: pixels, phase: String::new() }],
            columns,
            groups,
            row: "-1".to_owned(),
            finish: Box::new(finish),
            sums,
        });
    }
    Products { name: "convolution_weight", unit, classes, column_multiple: 0 }.emit(target, &mut code)?;
    Ok(code)
}
