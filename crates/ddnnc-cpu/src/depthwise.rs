//! Depthwise convolution (one channel per group) and its gradients, directly: a row of the map at a time.

use crate::conv::Extents;
use crate::device::Machine;
use ddnnc_ir::Conv;

/// Geometry along the columns and rows of one map.
#[derive(Clone, Copy)]
struct Map {
    x: [usize; 2],
    y: [usize; 2],
    kernel: [usize; 2],
    conv: Conv,
}

impl Map {
    fn new(conv: &Conv, e: Extents<'_>) -> Map {
        Map { x: [e.x[2], e.x[3]], y: [e.y[2], e.y[3]], kernel: [e.w[2], e.w[3]], conv: *conv }
    }

    /// Calls `f(tap, x index, y index, count)` for every run along an output row: entry i takes x at
    /// `x index + i · stride`.
    #[inline(always)]
    fn each_run(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let Conv { stride, pad, dilation, .. } = self.conv;
        for row in 0..self.y[0] {
            for kh in 0..self.kernel[0] {
                let Some(h) = (row * stride[0] + kh * dilation[0]).checked_sub(pad[0]) else { continue };
                if h >= self.x[0] {
                    continue;
                }
                for kw in 0..self.kernel[1] {
                    let shift = kw * dilation[1];
                    let first = pad[1].saturating_sub(shift).div_ceil(stride[1]);
                    let space = (self.x[1] + pad[1]).saturating_sub(shift);
                    let last = space.div_ceil(stride[1]).min(self.y[1]);
                    if first < last {
                        let x = h * self.x[1] + first * stride[1] + shift - pad[1];
                        f(kh * self.kernel[1] + kw, x, row * self.y[1] + first, last - first);
                    }
                }
            }
        }
    }
}

/// y = conv(x, w).
pub fn forward(machine: &Machine<'_>, conv: &Conv, e: Extents<'_>, x: &[f32], w: &[f32], y: &mut [f32]) {
    let map = Map::new(conv, e);
    let (area, taps, step) = (map.x[0] * map.x[1], map.kernel[0] * map.kernel[1], conv.stride[1]);
    machine.pool.split(y, map.y[0] * map.y[1], |task, y, _| {
        let x = &x[task * area..][..area];
        let w = &w[task % e.x[1] * taps..][..taps];
        machine.level.run(|| {
            y.fill(0.0);
            map.each_run(|tap, xi, yi, count| {
                let (y, w) = (&mut y[yi..yi + count], w[tap]);
                if step == 1 {
                    y.iter_mut().zip(&x[xi..xi + count]).for_each(|(y, x)| *y += w * x);
                } else {
                    y.iter_mut().zip(x[xi..].iter().step_by(step)).for_each(|(y, x)| *y += w * x);
                }
            });
        });
    });
}

/// dx of y = conv(x, w).
pub fn grad_input(machine: &Machine<'_>, conv: &Conv, e: Extents<'_>, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let map = Map::new(conv, e);
    let (area, taps, step) = (map.y[0] * map.y[1], map.kernel[0] * map.kernel[1], conv.stride[1]);
    machine.pool.split(dx, map.x[0] * map.x[1], |task, dx, _| {
        let dy = &dy[task * area..][..area];
        let w = &w[task % e.x[1] * taps..][..taps];
        machine.level.run(|| {
            dx.fill(0.0);
            map.each_run(|tap, xi, yi, count| {
                let (dy, w) = (&dy[yi..yi + count], w[tap]);
                if step == 1 {
                    dx[xi..xi + count].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += w * dy);
                } else {
                    dx[xi..].iter_mut().step_by(step).zip(dy).for_each(|(dx, dy)| *dx += w * dy);
                }
            });
        });
    });
}

/// dw of y = conv(x, w): one task per channel, so the sum over the batch has one order.
pub fn grad_weight(
    machine: &Machine<'_>,
    conv: &Conv,
    e: Extents<'_>,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    let map = Map::new(conv, e);
    let (area, positions) = (map.x[0] * map.x[1], map.y[0] * map.y[1]);
    let (taps, step, channels) = (map.kernel[0] * map.kernel[1], conv.stride[1], e.x[1]);
    machine.pool.split(dw, taps, |c, dw, _| {
        machine.level.run(|| {
            dw.fill(0.0);
            for n in 0..e.x[0] {
                let x = &x[(n * channels + c) * area..][..area];
                let dy = &dy[(n * channels + c) * positions..][..positions];
                map.each_run(|tap, xi, yi, count| {
                    let dy = &dy[yi..yi + count];
                    dw[tap] += if step == 1 {
                        dot(&x[xi..xi + count], dy)
                    } else {
                        x[xi..].iter().step_by(step).zip(dy).map(|(x, dy)| x * dy).sum::<f32>()
                    };
                });
            }
        });
    });
}

/// Σ a·b in eight lanes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}
