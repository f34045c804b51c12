//! Operators along the channels of x `[N,C,…]`: bias, batch statistics, normalisation and its gradients.
//!
//! A channel's statistics are one task's, summed in f64 in eight lanes, in one order.

use crate::device::Machine;
use crate::elementwise::{Arg, BLOCK, PIECE, each_block};

/// A value `[N,C,…]` as N images of C maps of `area` elements.
#[derive(Clone, Copy)]
pub struct Maps {
    images: usize,
    channels: usize,
    area: usize,
}

impl Maps {
    /// Of a value of these extents (at least two).
    pub fn new(dims: &[usize]) -> Maps {
        Maps { images: dims[0], channels: dims[1], area: dims[2..].iter().product() }
    }

    /// Elements of a channel.
    fn count(&self) -> f64 {
        (self.images * self.area) as f64
    }

    /// Maps in one task.
    fn maps_per_task(&self) -> usize {
        (PIECE / self.area.max(1)).max(1)
    }

    /// The maps of channel c.
    #[inline(always)]
    fn of<'a>(&self, x: &'a [f32], c: usize) -> impl Iterator<Item = &'a [f32]> {
        let Maps { images, channels, area } = *self;
        (0..images).map(move |n| &x[(n * channels + c) * area..][..area])
    }

    /// Writes every map of `out` with `f(channel, first element's index, old block)`.
    #[inline(always)]
    fn each(
        &self,
        machine: &Machine<'_>,
        out: &mut [f32],
        f: impl Fn(usize, usize, &[f32]) -> [f32; BLOCK] + Sync,
    ) {
        if self.area == 1 {
            return self.each_row(machine, out, f);
        }
        let per_task = self.maps_per_task();
        machine.pool.split(out, per_task * self.area, |task, out, _| {
            machine.level.run(|| {
                for (i, map) in out.chunks_mut(self.area).enumerate() {
                    let index = task * per_task + i;
                    each_block(map, index * self.area, |at, old| f(index % self.channels, at, old));
                }
            });
        });
    }

    /// As `each` for maps of one element.
    #[inline(always)]
    fn each_row(
        &self,
        machine: &Machine<'_>,
        out: &mut [f32],
        f: impl Fn(usize, usize, &[f32]) -> [f32; BLOCK] + Sync,
    ) {
        machine.pool.split(out, PIECE, |task, out, _| {
            for (i, one) in out.iter_mut().enumerate() {
                let at = task * PIECE + i;
                *one = f(at % self.channels, at, std::slice::from_ref(one))[0];
            }
        });
    }
}

/// Σ f(i) over a run, in eight lanes.
#[inline(always)]
pub fn sum(len: usize, f: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let whole = len / 8 * 8;
    for i in (0..whole).step_by(8) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + j);
        }
    }
    for i in whole..len {
        lanes[i - whole] += f(i);
    }
    lanes.iter().sum()
}

/// out = x + b.
pub fn bias_add(machine: &Machine<'_>, maps: Maps, out: &mut [f32], x: Arg<'_>, b: &[f32]) {
    maps.each(machine, out, |c, at, old| {
        let b = b[c];
        x.block(at, old).map(|x| x + b)
    });
}

/// Mean and biased variance, in two passes.
pub fn stats(machine: &Machine<'_>, maps: Maps, x: &[f32], mean: &mut [f32], var: &mut [f32]) {
    machine.pool.split2((mean, var), 1, |c, mean, var| {
        machine.level.run(|| {
            let total: f64 = maps.of(x, c).map(|x| sum(x.len(), |i| f64::from(x[i]))).sum();
            let m = total / maps.count();
            let squares = |x: &[f32]| {
                sum(x.len(), |i| {
                    let d = f64::from(x[i]) - m;
                    d * d
                })
            };
            mean[0] = m as f32;
            var[0] = (maps.of(x, c).map(squares).sum::<f64>() / maps.count()) as f32;
        });
    });
}

/// 1/√(var + eps).
fn inverse(var: f32, eps: f64) -> f64 {
    1.0 / (f64::from(var) + eps).sqrt()
}

/// The four per-channel operands of a normalisation: mean, variance, gain, bias.
pub type Statistics<'a> = [&'a [f32]; 4];

/// out = gain · (x − mean) / √(var + eps) + bias.
pub fn normalize(
    machine: &Machine<'_>,
    maps: Maps,
    out: &mut [f32],
    x: Arg<'_>,
    [mean, var, gain, bias]: Statistics<'_>,
    eps: f64,
) {
    maps.each(machine, out, |c, at, old| {
        let scale = (f64::from(gain[c]) * inverse(var[c], eps)) as f32;
        let (mean, bias) = (mean[c], bias[c]);
        x.block(at, old).map(|x| (x - mean) * scale + bias)
    });
}

/// dgain = Σ dy · x̂, dbias = Σ dy.
pub fn grad_reduce(
    machine: &Machine<'_>,
    maps: Maps,
    [x, mean, var, dy]: [&[f32]; 4],
    eps: f64,
    dgain: &mut [f32],
    dbias: &mut [f32],
) {
    machine.pool.split2((dgain, dbias), 1, |c, dgain, dbias| {
        machine.level.run(|| {
            let mean = f64::from(mean[c]);
            let (mut along, mut total) = (0.0, 0.0);
            for (x, dy) in maps.of(x, c).zip(maps.of(dy, c)) {
                let len = x.len().min(dy.len());
                along += sum(len, |i| f64::from(dy[i]) * (f64::from(x[i]) - mean));
                total += sum(len, |i| f64::from(dy[i]));
            }
            dgain[0] = (along * inverse(var[c], eps)) as f32;
            dbias[0] = total as f32;
        });
    });
}

/// out = gain/s · (dy − dbias/m − x̂ · dgain/m); `per_channel` is mean, var, gain, dgain, dbias.
pub fn grad_input(
    machine: &Machine<'_>,
    maps: Maps,
    out: &mut [f32],
    (x, dy): (Arg<'_>, Arg<'_>),
    [mean, var, gain, dgain, dbias]: [&[f32]; 5],
    eps: f64,
) {
    let m = maps.count();
    maps.each(machine, out, |c, at, old| {
        let inverse = inverse(var[c], eps);
        let scale = (f64::from(gain[c]) * inverse) as f32;
        let (mean, bias) = (mean[c], (f64::from(dbias[c]) / m) as f32);
        let along = (inverse * f64::from(dgain[c]) / m) as f32;
        let (x, mut dy) = (x.block(at, old), dy.block(at, old));
        for i in 0..BLOCK {
            dy[i] = scale * (dy[i] - bias - (x[i] - mean) * along);
        }
        dy
    });
}

/// out = dy · gain / √(var + eps).
pub fn grad_fixed(
    machine: &Machine<'_>,
    maps: Maps,
    out: &mut [f32],
    dy: Arg<'_>,
    [var, gain]: [&[f32]; 2],
    eps: f64,
) {
    maps.each(machine, out, |c, at, old| {
        let scale = (f64::from(gain[c]) * inverse(var[c], eps)) as f32;
        dy.block(at, old).map(|dy| dy * scale)
    });
}
