//! Operators that move, repeat and add up elements.

use super::Tensor;
use crate::{ReduceKind, ValueType};

/// Elements before an axis (products of the outer extents) and after it.
fn around(dims: &[usize], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis + 1..].iter().product())
}

pub(super) fn concat(operands: &[&Tensor], axis: usize) -> Vec<f64> {
    let (outer, inner) = around(operands[0].dims(), axis);
    let mut out = Vec::new();
    for o in 0..outer {
        for t in operands {
            let run = t.dims()[axis] * inner;
            out.extend_from_slice(&t.data[o * run..(o + 1) * run]);
        }
    }
    out
}

pub(super) fn slice(x: &Tensor, axis: usize, start: usize, len: usize) -> Vec<f64> {
    let (outer, inner) = around(x.dims(), axis);
    let run = x.dims()[axis] * inner;
    (0..outer).flat_map(|o| &x.data[o * run + start * inner..][..len * inner]).copied().collect()
}

pub(super) fn pad(x: &Tensor, axis: usize, start: usize, total: usize) -> Vec<f64> {
    let (outer, inner) = around(x.dims(), axis);
    let run = x.dims()[axis] * inner;
    let mut out = vec![0.0; outer * total * inner];
    for o in 0..outer {
        out[o * total * inner + start * inner..][..run].copy_from_slice(&x.data[o * run..(o + 1) * run]);
    }
    out
}

/// For each element of a value of extents `dims`, in order, the index into a value that has only its axes `axes`.
fn projected(dims: &[usize], axes: &[usize]) -> Vec<usize> {
    let elements: usize = dims.iter().product();
    let mut strides = vec![0; dims.len()];
    let mut step = 1;
    for &a in axes.iter().rev() {
        strides[a] = step;
        step *= dims[a];
    }
    let one = |mut i: usize| {
        let mut at = 0;
        for (&d, &s) in dims.iter().zip(&strides).rev() {
            at += i % d * s;
            i /= d;
        }
        at
    };
    (0..elements).map(one).collect()
}

pub(super) fn reduce(x: &Tensor, kind: ReduceKind, axes: &[usize], y: &ValueType) -> Vec<f64> {
    let kept: Vec<usize> = (0..x.dims().len()).filter(|a| !axes.contains(a)).collect();
    let mut out = vec![0.0; y.elements()];
    for (x, at) in x.data.iter().zip(projected(x.dims(), &kept)) {
        out[at] += x;
    }
    if kind == ReduceKind::Mean {
        let n: usize = axes.iter().map(|&a| x.dims()[a]).product();
        out.iter_mut().for_each(|y| *y /= n as f64);
    }
    out
}

pub(super) fn broadcast(x: &Tensor, axes: &[usize], y: &ValueType) -> Vec<f64> {
    projected(y.dims(), axes).into_iter().map(|at| x.data[at]).collect()
}
