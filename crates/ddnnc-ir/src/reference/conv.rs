//! Convolution, its gradients, and the matrix product.

use super::Tensor;
use crate::{Conv, ValueType};

/// Calls `f(x index, w index, y index, count, x step)` for every run of multiply-accumulates along one output row:
/// entry i of the run takes x at `x index + i · x step` and y at `y index + i`.
fn each_run(
    conv: &Conv,
    x: &[usize],
    w: &[usize],
    y: &[usize],
    mut f: impl FnMut(usize, usize, usize, usize, usize),
) {
    let (out_per_group, in_per_group) = (w[0] / conv.groups, w[1]);
    for n in 0..y[0] {
        for o in 0..y[1] {
            let group = o / out_per_group;
            for c in 0..in_per_group {
                let channel = group * in_per_group + c;
                for kh in 0..w[2] {
                    for kw in 0..w[3] {
                        let wi = ((o * w[1] + c) * w[2] + kh) * w[3] + kw;
                        let (first, last) =
                            inside(y[3], kw * conv.dilation[1], conv.stride[1], conv.pad[1], x[3]);
                        for row in 0..y[2] {
                            let Some(h) =
                                (row * conv.stride[0] + kh * conv.dilation[0]).checked_sub(conv.pad[0])
                            else {
                                continue;
                            };
                            if h >= x[2] || first >= last {
                                continue;
                            }
                            let column = first * conv.stride[1] + kw * conv.dilation[1] - conv.pad[1];
                            let xi = ((n * x[1] + channel) * x[2] + h) * x[3] + column;
                            let yi = ((n * y[1] + o) * y[2] + row) * y[3] + first;
                            f(xi, wi, yi, last - first, conv.stride[1]);
                        }
                    }
                }
            }
        }
    }
}

/// The outputs first..last of `outputs` whose tap, `offset` entries on, lies within `size` entries.
fn inside(outputs: usize, offset: usize, stride: usize, pad: usize, size: usize) -> (usize, usize) {
    let first = pad.saturating_sub(offset).div_ceil(stride);
    let last = (size + pad).saturating_sub(offset).div_ceil(stride).min(outputs);
    (first, last)
}

pub(super) fn forward(conv: &Conv, x: &Tensor, w: &Tensor, y: &ValueType) -> Vec<f64> {
    let mut out = vec![0.0; y.elements()];
    each_run(conv, x.dims(), w.dims(), y.dims(), |xi, wi, yi, count, step| {
        let weight = w.data[wi];
        for (i, y) in out[yi..yi + count].iter_mut().enumerate() {
            *y += weight * x.data[xi + i * step];
        }
    });
    out
}

pub(super) fn grad_input(conv: &Conv, dy: &Tensor, w: &Tensor, x: &ValueType) -> Vec<f64> {
    let mut dx = vec![0.0; x.elements()];
    each_run(conv, x.dims(), w.dims(), dy.dims(), |xi, wi, yi, count, step| {
        let weight = w.data[wi];
        for (i, dy) in dy.data[yi..yi + count].iter().enumerate() {
            dx[xi + i * step] += weight * dy;
        }
    });
    dx
}

pub(super) fn grad_weight(conv: &Conv, x: &Tensor, dy: &Tensor, w: &ValueType) -> Vec<f64> {
    let mut dw = vec![0.0; w.elements()];
    each_run(conv, x.dims(), w.dims(), dy.dims(), |xi, wi, yi, count, step| {
        for (i, dy) in dy.data[yi..yi + count].iter().enumerate() {
            dw[wi] += x.data[xi + i * step] * dy;
        }
    });
    dw
}

pub(super) fn matmul(a: &Tensor, ta: bool, b: &Tensor, tb: bool, y: &ValueType) -> Vec<f64> {
    let (m, n) = (y.dims()[0], y.dims()[1]);
    let k = a.dims()[if ta { 0 } else { 1 }];
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k)
                .map(|l| {
                    let a = a.data[if ta { l * m + i } else { i * k + l }];
                    let b = b.data[if tb { j * k + l } else { l * n + j }];
                    a * b
                })
                .sum();
        }
    }
    out
}
