//! Pooling steps.

use crate::code::{Cost, c_type};
use crate::steps::{Library, Phase, Writer, not_a};
use ddnnc_ir::{DType, Layout, Op, Pool, ValueType};

/// Channels that a thread takes at once: as many as make 16 bytes, where that divides them.
fn vector(dtype: DType, channels: usize) -> usize {
    let most = 16 / dtype.size();
    [most, most / 2, most / 4].into_iter().find(|&v| v > 0 && channels.is_multiple_of(v)).unwrap_or(1)
}

/// Maps as images and channels, channels-last: a row-major value is as many images of one channel.
fn maps(ty: &ValueType) -> (usize, usize) {
    let d = ty.dims();
    if ty.layout == Layout::ChannelsLast { (d[0], d[1]) } else { (d[0] * d[1], 1) }
}

/// The phases of a pooling step.
pub fn phases(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let (operand, result) = (w.ty(step, 0), &step.results[0]);
    // What is as large as the input, and what is as large as the output.
    let (name, pool, x, y): (&str, Pool, &ValueType, ValueType) = match &step.op {
        Op::MaxPool(pool) => ("max_pool_maps", *pool, &operand, result.clone()),
        Op::AvgPool(pool) => ("avg_pool_maps", *pool, &operand, result.clone()),
        Op::MaxPoolGrad(pool) => ("max_pool_grad_maps", *pool, &operand, w.ty(step, 1)),
        Op::AvgPoolGrad { pool, .. } => ("avg_pool_grad_maps", *pool, result, operand.clone()),
        _ => return Err(not_a(step, "pooling")),
    };
    if result.elements() == 0 {
        return Ok(Vec::new());
    }
    let (images, channels) = maps(x);
    let v = vector(x.dtype, channels);
    let (xd, yd) = (x.dims(), y.dims());
    let [kernel, stride, pad] = [pool.kernel, pool.stride, pool.pad];
    let geometry = format!(
        "Geometry<{images}, {channels}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}>",
        xd[2], xd[3], yd[2], yd[3], kernel[0], kernel[1], stride[0], stride[1], pad[0], pad[1]
    );
    let mut arguments: Vec<String> = (0..step.operands.len()).map(|i| w.operand(step, i)).collect();
    arguments.push(w.result(s, 0));
    w.needs(Library::Pooling);
    let area = kernel[0] * kernel[1];
    let ctype = c_type(x.dtype);
    // Windows overlap within reach of the caches.
    let read = step.operands.iter().filter_map(|&l| group.ty(l)).map(ValueType::bytes).sum();
    let threads = |ty: &ValueType| ty.elements() / v;
    if !matches!(step.op, Op::MaxPoolGrad(_)) {
        w.costs(read, result.bytes(), y.elements() * area);
        let text = format!("        {name}<{ctype}, {v}, {geometry}>({}, t, n);\n", arguments.join(", "));
        return Ok(vec![Phase::new(text, threads(result))]);
    }
    // The smallest type that counts the positions of a window.
    let (index, size) = match area {
        0..=0x100 => ("unsigned char", 1),
        0x101..=0x1_0000 => ("ushort_t", 2),
        _ => ("uint", 4),
    };
    let places = w.workspace(index, size * y.elements());
    let list = size * y.elements();
    w.costs(x.bytes(), list, y.elements() * area);
    let [x_pointer, dy, dx] = &arguments[..] else {
        return Err("a maximum's gradient lacks an operand".to_owned());
    };
    let first =
        format!("        max_pool_places<{ctype}, {v}, {geometry}, {index}>({x_pointer}, {places}, t, n);\n");
    let second = format!("        {name}<{ctype}, {v}, {geometry}, {index}>({places}, {dy}, {dx}, t, n);\n");
    let cost = Cost {
        bytes_read: (list + y.bytes()) as u64,
        bytes_written: result.bytes() as u64,
        vector_flops: (y.elements() * area) as u64,
        ..Cost::default()
    };
    Ok(vec![
        Phase::new(first, threads(&y)),
        Phase { text: second, threads: threads(result), apart: Some(cost) },
    ])
}
