//! Depthwise convolution (one channel per group) of channels-last rows and its gradients, directly: the loops run along
//! the channels of a row.

use crate::convolution::{Emit, Geometry, Part, Weights};
use crate::convolution_weight::{Cut, GradPart, dy_rows};
use crate::correlation::{each_position, launch, scratch};
use crate::device::Machine;
use crate::launch::Need;
use crate::plan::{Axis, Data, Plan};
use std::ops::Range;

/// Channels whose sums are held in registers.
const CHANNELS: usize = 32;

/// Workspace of [`run`].
pub fn need(g: &Geometry, backward: bool, images: &[usize]) -> Need {
    Need { scratch: scratch::<f32>(g, backward, images), shared: g.taps() * g.inputs, ..Need::default() }
}

/// y of x and w, or dx where `backward`; the arguments are those of [`crate::convolution::run`].
pub fn run(
    machine: &mut Machine<'_>,
    g: &Geometry,
    backward: bool,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    let (channels, taps) = (g.inputs, g.taps());
    let (machine, weights) = machine.with_shared(taps * channels);
    // The weights of a tap follow one another; taps in the order of the phases.
    for (phase, before) in Plan::new(g, backward, 1).phases() {
        for t in 0..phase[0].taps * phase[1].taps {
            let tap = [phase[0].tap(t / phase[1].taps), phase[1].tap(t % phase[1].taps)];
            let from = tap[0] * g.kernel[1] + tap[1];
            for (c, to) in weights[(before + t) * channels..][..channels].iter_mut().enumerate() {
                *to = match w {
                    Weights::F32(w) => w[c * taps + from],
                    Weights::Bf16(w) => f32::from_bits(u32::from(w[c * taps + from]) << 16),
                };
            }
        }
    }
    let (weights, level) = (&*weights, machine.level);
    launch(&machine, g, backward, parts, emit, |plan, data, lines, _, out, _| {
        level.run(|| {
            for (phase, before) in plan.phases() {
                let taps = phase[0].taps * phase[1].taps;
                let weights = &weights[before * channels..][..taps * channels];
                each_position(plan, phase, data, lines.clone(), |at, row| {
                    position(&mut out[row * channels..][..channels], phase, data, at, weights);
                });
            }
        });
    });
}

/// One result row: the sum over the taps of a phase.
#[inline(always)]
fn position(out: &mut [f32], [row, column]: [Axis; 2], data: Data<'_>, at: usize, weights: &[f32]) {
    let channels = out.len();
    let mut first = 0;
    let terms = |first: usize, sums: &mut [f32]| {
        for t in 0..row.taps {
            for u in 0..column.taps {
                let from = at + t * row.step * data.pitch + u * column.step * channels + first;
                let x = &data.elements[from..from + sums.len()];
                let w = &weights[(t * column.taps + u) * channels + first..][..sums.len()];
                for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                    *sum += x * w;
                }
            }
        }
    };
    while first + CHANNELS <= channels {
        let mut sums = [0.0f32; CHANNELS];
        terms(first, &mut sums);
        out[first..first + CHANNELS].copy_from_slice(&sums);
        first += CHANNELS;
    }
    let rest = &mut out[first..];
    rest.fill(0.0);
    terms(first, rest);
}

/// Workspace of [`grad_weight`].
pub fn grad_weight_need(g: &Geometry, images: &[usize]) -> Need {
    let cut = Cut::new(g, images.iter().sum(), false);
    let scratch = cut.scratch(g, images.iter().copied(), g.inputs).iter().sum();
    Need { scratch, shared: cut.pieces * g.taps() * g.inputs, ..Need::default() }
}

/// dw = the sum over all parts, of which at least one has an image.
pub fn grad_weight(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    let (channels, taps) = (g.inputs, g.taps());
    let cut = Cut::new(g, parts.iter().map(|p| p.images).sum(), false);
    let sizes = cut.scratch(g, parts.iter().map(|p| p.images), channels);
    let (machine, shared) = machine.with_shared(cut.pieces * taps * channels);
    machine.pool.split(shared, taps * channels, |piece, out, worker| {
        out.fill(0.0);
        machine.with_scratch(worker, |scratch| {
            let (window, dy) = scratch.split_at_mut(sizes[0]);
            cut.each_chunk(g, parts.iter().map(|p| p.images), piece, |part, plan, lines| {
                let part = &parts[part];
                let rows = lines.start * plan.result[1]..lines.end * plan.result[1];
                let dy = dy_rows(&machine, part.dy, rows, true, worker, dy);
                let x = plan.data(&machine, part.x, lines.clone(), 0..channels, worker, window, &mut []);
                machine.level.run(|| chunk(plan, x, dy, lines, out));
            });
        });
    });
    let sums = &*shared;
    machine.pool.split(dw, 16 * taps, |task, dw, _| {
        for (i, dw) in dw.iter_mut().enumerate() {
            let (c, tap) = (task * 16 + i / taps, i % taps);
            *dw = (0..cut.pieces).map(|piece| sums[(piece * taps + tap) * channels + c]).sum();
        }
    });
}

/// Adds the terms of a chunk; out\[tap, c\] += the sum over positions of dy\[position, c\] · x\[position + tap, c\].
#[inline(always)]
fn chunk(plan: &Plan, x: Data<'_>, dy: &[f32], lines: Range<usize>, out: &mut [f32]) {
    let channels = x.channels;
    for ([row, column], _) in plan.phases() {
        for segment in plan.segments(lines.clone(), x) {
            for line in segment.lines.clone() {
                let dy = &dy[(line * plan.result[1]).wrapping_add_signed(segment.row) * channels..];
                let at = segment.at
                    + row.begin(line, segment.rows[0]) * x.pitch
                    + column.begin(0, x.left) * channels;
                for t in 0..row.taps * column.taps {
                    let at =
                        at + t / column.taps * row.step * x.pitch + t % column.taps * column.step * channels;
                    let out = &mut out[t * channels..][..channels];
                    let terms = |first: usize, sums: &mut [f32]| {
                        for p in 0..column.positions {
                            let x = &x.elements[at + p * column.scale * channels + first..][..sums.len()];
                            let dy = &dy[p * channels + first..][..sums.len()];
                            for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                                *sum += x * dy;
                            }
                        }
                    };
                    let mut first = 0;
                    while first + CHANNELS <= channels {
                        let mut sums = [0.0f32; CHANNELS];
                        terms(first, &mut sums);
                        out[first..first + CHANNELS].iter_mut().zip(sums).for_each(|(o, s)| *o += s);
                        first += CHANNELS;
                    }
                    let mut sums = [0.0f32; CHANNELS];
                    let rest = &mut sums[..channels - first];
                    terms(first, rest);
                    out[first..].iter_mut().zip(rest).for_each(|(o, s)| *o += *s);
                }
            }
        }
    }
}
