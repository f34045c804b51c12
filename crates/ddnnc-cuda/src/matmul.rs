//! Matrix products `op(a) · op(b)`, several side by side.

use crate::arch::Target;
use crate::code::{Argument, Arguments, Cost, LaunchCode, PartMap, c_type};
use crate::convolution::{gcd, granule};
use crate::operand::{Operand, Source};
use crate::product::{Class, Cut, Finish, Products, Rows};
use crate::tiles::Unit;
use ddnnc_ir::{DType, Group, Local, Op};

/// What products must share to be computed by one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    dtype: DType,
    transposed: [bool; 2],
}

/// One product of a group.
#[derive(Clone, Copy, Debug)]
struct Product {
    form: Form,
    /// Rows, columns, depth.
    extents: [usize; 3],
    /// The group's operands and result, by their numbers.
    values: [usize; 3],
}

fn products(group: &Group) -> Result<Vec<Product>, String> {
    let mut all = Vec::new();
    for (i, step) in group.steps.iter().enumerate() {
        let &Op::MatMul { transpose_a, transpose_b } = &step.op else {
            return Err(format!("{} is no matrix product", step.op.mnemonic()));
        };
        let [Local::Operand(a), Local::Operand(b)] = step.operands[..] else {
            return Err("a matrix product of another step's result".to_owned());
        };
        let raw = Local::Step { step: i as u32, result: 0 };
        let result = group.results.iter().position(|&r| r == raw).ok_or("a product that nobody reads")?;
        let ty = group.ty(Local::Operand(a)).ok_or("an operand is missing")?;
        let &[k0, k1] = ty.dims() else { return Err("a product of two dimensions".to_owned()) };
        let &[rows, columns] = step.results[0].dims() else {
            return Err("a product of two dimensions".to_owned());
        };
        let depth = if transpose_a { k0 } else { k1 };
        if [rows * columns, rows * depth, depth * columns].iter().any(|&n| n >= 1 << 31) {
            return Err(
                "a matrix of more elements than an index of 32 bits counts: a smaller batch has fewer"
                    .to_owned(),
            );
        }
        all.push(Product {
            form: Form { dtype: ty.dtype, transposed: [transpose_a, transpose_b] },
            extents: [rows, columns, depth],
            values: [a as usize, b as usize, result],
        });
    }
    Ok(all)
}

/// The kernels of independent matrix products: one for each form; products of equal extents are parts of one class.
///
/// # Errors
///
/// Steps that are no matrix product, or that take each other's results.
pub fn emit_matmuls(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let mut code = LaunchCode::default();
    let all = products(group)?;
    let mut forms: Vec<Form> = Vec::new();
    for p in &all {
        if !forms.contains(&p.form) {
            forms.push(p.form);
        }
    }
    for form in forms {
        let mut alike: Vec<Vec<Product>> = Vec::new();
        for p in all.iter().filter(|p| p.form == form) {
            match alike.iter_mut().find(|class| class[0].extents == p.extents) {
                Some(class) => class.push(*p),
                None => alike.push(vec![*p]),
            }
        }
        let classes = alike
            .iter()
            .enumerate()
            .map(|(n, parts)| class(group, n, parts, target))
            .collect::<Result<_, _>>()?;
        let unit = Unit::of(form.dtype, target);
        Products { name: "matmul", unit, classes, column_multiple: 0 }.emit(target, &mut code)?;
    }
    Ok(code)
}

fn class<'a>(
    group: &'a Group,
    number: usize,
    parts: &[Product],
    target: &Target,
) -> Result<Class<'a>, String> {
    let Product { form, extents: [rows, columns, depth], values } = parts[0];
    let unit = Unit::of(form.dtype, target);
    let prefix = format!("c{number}_");
    // Equal operands of the first product (a · a) may part in others: each side has a name of its own.
    let mut arguments = Arguments::with_parts(&prefix, vec![PartMap::default(); parts.len()]);
    let side = |i: usize, arguments: &mut Arguments| -> Result<Operand, String> {
        let transposed = form.transposed[i];
        let outer = transposed != (i == 1);
        let extent = if i == 0 { rows } else { columns };
        let (u, v) = if outer { (depth, extent) } else { (extent, depth) };
        let ty = group.ty(Local::Operand(values[i] as u32)).ok_or("an operand is missing")?;
        let places = parts.iter().map(|p| Argument::Operand(p.values[i])).collect();
        let pointer = arguments.placed(["a", "b"][i], &format!("const {}*", c_type(ty.dtype)), places);
        Ok(Operand {
            outer,
            index: format!("Matrix<{u}, {v}, {v}, {}>", granule(unit, &[v])),
            members: "0".to_owned(),
            channel: "0".to_owned(),
            source: Source::Direct { pointer, dtype: ty.dtype },
            bytes: ty.bytes() as u64,
        })
    };
    let (a, b) = (side(0, &mut arguments)?, side(1, &mut arguments)?);
    let count = parts.len() as u64;
    let places: Vec<_> = parts.iter().map(|p| Argument::Result(p.values[2])).collect();
    let finish = move |_: Cut, arguments: &mut Arguments, _: &mut LaunchCode| {
        let to = arguments.placed("to", "float*", places.clone());
        let vector = gcd(columns, 4);
        Ok(Finish {
            body: format!(
                "        store_rows<{vector}>(tile, {to}, {columns}, {columns}, first_column, [&](int r) {{ return ROW(r); }});"
            ),
            cost: Cost { bytes_written: count * (4 * rows * columns) as u64, ..Cost::default() },
            ..Finish::default()
        })
    };
    Ok(Class {
        prefix,
        arguments,
        declarations: String::new(),
        a,
        b,
        rows: vec![Rows { rows, depth, phase: String::new() }],
        columns,
        groups: 1,
        row: format!("first_row + (r) < {rows} ? first_row + (r) : -1"),
        finish: Box::new(finish),
        sums: Vec::new(),
    })
}
