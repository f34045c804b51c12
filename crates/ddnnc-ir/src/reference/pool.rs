//! Pooling.

use super::Tensor;
use crate::{Pool, ValueType};

/// Calls `f(output index, window)` for every window, with the indices of those of its entries that lie in the map, in
/// row order.
fn each_window(pool: &Pool, x: &[usize], y: &[usize], mut f: impl FnMut(usize, &[usize])) {
    let mut window = Vec::new();
    let axis = |out: usize, tap: usize, i: usize| {
        (out * pool.stride[i] + tap).checked_sub(pool.pad[i]).filter(|&at| at < x[2 + i])
    };
    for map in 0..x[0] * x[1] {
        for row in 0..y[2] {
            for column in 0..y[3] {
                window.clear();
                for h in (0..pool.kernel[0]).filter_map(|tap| axis(row, tap, 0)) {
                    for w in (0..pool.kernel[1]).filter_map(|tap| axis(column, tap, 1)) {
                        window.push((map * x[2] + h) * x[3] + w);
                    }
                }
                f((map * y[2] + row) * y[3] + column, &window);
            }
        }
    }
}

/// The first of the largest entries; not a number is larger than any.
fn argmax(x: &[f64], window: &[usize]) -> Option<usize> {
    let mut best = *window.first()?;
    for &i in &window[1..] {
        if x[i] > x[best] || (x[i].is_nan() && !x[best].is_nan()) {
            best = i;
        }
    }
    Some(best)
}

pub(super) fn max(pool: &Pool, x: &Tensor, y: &ValueType) -> Vec<f64> {
    let mut out = vec![0.0; y.elements()];
    each_window(pool, x.dims(), y.dims(), |at, window| {
        out[at] = argmax(&x.data, window).map_or(f64::NEG_INFINITY, |i| x.data[i]);
    });
    out
}

pub(super) fn max_grad(pool: &Pool, x: &Tensor, dy: &Tensor) -> Vec<f64> {
    let mut dx = vec![0.0; x.data.len()];
    each_window(pool, x.dims(), dy.dims(), |at, window| {
        if let Some(i) = argmax(&x.data, window) {
            dx[i] += dy.data[at];
        }
    });
    dx
}

/// How many entries a window has, the border's included.
fn area(pool: &Pool) -> f64 {
    (pool.kernel[0] * pool.kernel[1]) as f64
}

pub(super) fn avg(pool: &Pool, x: &Tensor, y: &ValueType) -> Vec<f64> {
    let mut out = vec![0.0; y.elements()];
    each_window(pool, x.dims(), y.dims(), |at, window| {
        out[at] = window.iter().map(|&i| x.data[i]).sum::<f64>() / area(pool);
    });
    out
}

pub(super) fn avg_grad(pool: &Pool, dy: &Tensor, x: &ValueType) -> Vec<f64> {
    let mut dx = vec![0.0; x.elements()];
    each_window(pool, x.dims(), dy.dims(), |at, window| {
        for &i in window {
            dx[i] += dy.data[at] / area(pool);
        }
    });
    dx
}
