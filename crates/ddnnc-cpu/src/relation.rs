//! Losses between the relations of a batch, and their gradients, in f64: of embeddings that are nearly equal, squares of
//! their differences keep their digits.
//!
//! The entries of embeddings are added up for pairs alone. An angle is that of three distances, by the law of cosines:
//! cos ∠pqr = (d²(p,q) + d²(q,r) − d²(p,r)) / (2 · d(p,q) · d(q,r)). So a loss has a derivative v(p,q) with respect to the square
//! of each distance, and the gradient of an embedding is 2 Σ v(p,q) · (p − q) over the others.

use crate::device::Machine;
use crate::pointwise_kernels::sum;
use crate::simd::at_every_level;

/// Entries of embeddings that are added up side by side.
const LANES: usize = 16;

/// f64 of workspace for a loss of so many samples.
pub fn partials(samples: usize) -> usize {
    samples * row(samples) + samples
}

/// f64 of workspace for a gradient.
pub fn partials_of_gradient(samples: usize) -> usize {
    samples * row(samples) + samples * (samples + 1)
}

/// What the table has of a sample: squared distances to all and their inverse roots (0 for 0), of both batches; then of each
/// the sum of the distances and how many are not 0.
fn row(samples: usize) -> usize {
    4 * samples + 4
}

/// Embeddings of both batches, row after row.
#[derive(Clone, Copy)]
pub struct Batches<'a> {
    samples: usize,
    both: [&'a [f32]; 2],
    lens: [usize; 2],
}

impl<'a> Batches<'a> {
    /// Of so many samples.
    pub fn new(samples: usize, a: &'a [f32], b: &'a [f32]) -> Batches<'a> {
        Batches { samples, both: [a, b], lens: [a, b].map(|x| x.len() / samples.max(1)) }
    }

    #[inline(always)]
    fn embedding(&self, batch: usize, sample: usize) -> &'a [f32] {
        &self.both[batch][sample * self.lens[batch]..][..self.lens[batch]]
    }

    /// The table, in the memory given.
    fn tabulate<'t>(&self, machine: &Machine<'_>, memory: &'t mut [f64]) -> Table<'t> {
        machine.pool.split(memory, row(self.samples), |p, row, _| tabulate(machine.level, *self, p, row));
        Table { samples: self.samples, rows: memory }
    }
}

at_every_level! {
    /// A row of the table.
    pub fn tabulate(batches: Batches<'_>, p: usize, row: &mut [f64]) {
        let n = batches.samples;
        for batch in 0..2 {
            let x = batches.embedding(batch, p);
            let (mut total, mut apart) = (0.0, 0.0);
            for q in 0..n {
                let y = batches.embedding(batch, q);
                let square = squared_distance(x, y);
                // Not a number is no 0, and stays.
                let inverse = if square == 0.0 { 0.0 } else { 1.0 / square.sqrt() };
                row[2 * batch * n + q] = square;
                row[(2 * batch + 1) * n + q] = inverse;
                total += square * inverse;
                apart += if square == 0.0 { 0.0 } else { 1.0 };
            }
            row[4 * n + 2 * batch] = total;
            row[4 * n + 2 * batch + 1] = apart;
        }
    }

    /// Σ h over the angles at a sample; those from p to q and from q to p are equal.
    pub fn angles_at(table: Table<'_>, at: usize, share: &mut f64) {
        let here = table.from(at);
        // From p to itself, and to those before it.
        let (mut same, mut lanes) = (0.0, [0.0; LANES]);
        for p in 0..table.samples {
            let there = table.from(p);
            let sides = [0, 1].map(|batch| (here[batch].squares[p], 0.5 * here[batch].inverses[p]));
            let of = |batch: usize, square: f64, inverse: f64, across: f64| {
                let (side, half) = sides[batch];
                cosine(side, square, across, half * inverse)
            };
            let term = |[s, i, u, t, j, v]: [f64; 6]| huber(of(0, s, i, u) - of(1, t, j, v));
            let [a, b] = [0, 1].map(|batch| [here[batch].squares, here[batch].inverses, there[batch].squares]);
            let all = [a[0], a[1], a[2], b[0], b[1], b[2]];
            same += term(all.map(|x| x[p]));
            let before = all.map(|x| x[..p].as_chunks::<LANES>());
            for i in 0..p / LANES {
                let pieces = before.map(|(pieces, _)| &pieces[i]);
                for (lane, sum) in lanes.iter_mut().enumerate() {
                    *sum += term(pieces.map(|piece| piece[lane]));
                }
            }
            for (i, sum) in lanes[..p % LANES].iter_mut().enumerate() {
                *sum += term(before.map(|(_, rest)| rest[i]));
            }
        }
        *share = same + 2.0 * lanes.iter().sum::<f64>();
    }

    /// v(p,q) of one sample p: see [`angle_grad`].
    pub fn angle_slopes(table: Table<'_>, p: usize, slopes: &mut [f64]) {
        slopes.fill(0.0);
        let from_p = table.from(p);
        for r in 0..table.samples {
            let from_r = table.from(r);
            for (q, slope) in slopes.iter_mut().enumerate() {
                let triangle = |batch: usize| {
                    let (p, r_) = (from_p[batch], from_r[batch]);
                    Triangle {
                        squares: [p.squares[q], r_.squares[q], p.squares[r]],
                        inverses: [p.inverses[q], r_.inverses[q], p.inverses[r]],
                    }
                };
                let (a, b) = (triangle(0), triangle(1));
                let [pq, qr, pr] = a.inverses;
                let at = |i: usize, j: usize| {
                    let cosine = a.cosine(i, j);
                    (cosine, huber_derivative(cosine - b.cosine(i, j)))
                };
                let ((cos_q, at_q), (cos_p, at_p), (_, at_r)) = (at(0, 1), at(0, 2), at(1, 2));
                *slope += pq * (at_q * (qr - cos_q * pq) + at_p * (pr - cos_p * pq)) - at_r * pr * qr;
            }
        }
    }

    /// out = factor · Σ over q of v(p,q) · (p − q), in the first batch, of one sample p.
    pub fn pull(batches: Batches<'_>, p: usize, out: &mut [f32], slopes: &[f64], factor: f64) {
        let x = batches.embedding(0, p);
        for (piece, out) in out.chunks_mut(LANES).enumerate() {
            let first = piece * LANES;
            let mut sums = [0.0f64; LANES];
            let x = &x[first..][..out.len()];
            match x.first_chunk::<LANES>() {
                Some(x) => gather(batches, first, x, slopes, &mut sums),
                None => gather(batches, first, x, slopes, &mut sums),
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (factor * sum) as f32);
        }
    }
}

/// Adds slope · (p − q) over all q of the first batch, of some entries; `x` are p's. Compiled for whole pieces and for others.
#[inline(always)]
fn gather(batches: Batches<'_>, first: usize, x: &[f32], slopes: &[f64], sums: &mut [f64; LANES]) {
    for (q, slope) in slopes.iter().enumerate() {
        let y = &batches.embedding(0, q)[first..][..x.len()];
        for (sum, (&x, &y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += slope * (f64::from(x) - f64::from(y));
        }
    }
}

/// Distances of all pairs.
#[derive(Clone, Copy)]
pub struct Table<'t> {
    samples: usize,
    rows: &'t [f64],
}

/// Distances from one sample to all: their squares, and their inverses.
#[derive(Clone, Copy)]
struct From<'t> {
    squares: &'t [f64],
    inverses: &'t [f64],
}

impl<'t> Table<'t> {
    fn row(&self, sample: usize) -> &'t [f64] {
        let row = row(self.samples);
        &self.rows[sample * row..][..row]
    }

    #[inline(always)]
    fn from(&self, sample: usize) -> [From<'t>; 2] {
        let (n, row) = (self.samples, self.row(sample));
        let batch =
            |i: usize| From { squares: &row[2 * i * n..][..n], inverses: &row[(2 * i + 1) * n..][..n] };
        [batch(0), batch(1)]
    }

    /// Of a batch: one by the mean of the distances that are not 0, and how many these are. Where all are 0, both are 0.
    fn scale(&self, batch: usize) -> (f64, f64) {
        let (mut total, mut apart) = (0.0, 0.0);
        for p in 0..self.samples {
            let sums = &self.row(p)[4 * self.samples + 2 * batch..];
            total += sums[0];
            apart += sums[1];
        }
        (if apart == 0.0 { 0.0 } else { apart / total }, apart)
    }
}

#[inline(always)]
fn squared_distance(x: &[f32], y: &[f32]) -> f64 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [0.0f64; LANES];
    let add = |sum: &mut f64, x: f32, y: f32| {
        let d = f64::from(x) - f64::from(y);
        *sum += d * d;
    };
    for (x, y) in x.iter().zip(y) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            add(sum, x[lane], y[lane]);
        }
    }
    for (sum, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        add(sum, x, y);
    }
    lanes.iter().sum()
}

/// x²/2 near 0, |x| − ½ from 1 on.
#[inline(always)]
fn huber(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 0.5 * x * x } else { x - 0.5 }
}

/// Its derivative; not a number stays so.
#[inline(always)]
fn huber_derivative(x: f64) -> f64 {
    x.clamp(-1.0, 1.0)
}

/// What two distances from one sample differ by, each by its mean.
#[inline(always)]
fn apart([a, b]: [From<'_>; 2], scales: [f64; 2], q: usize) -> f64 {
    a.squares[q] * a.inverses[q] * scales[0] - b.squares[q] * b.inverses[q] * scales[1]
}

/// Mean over all pairs of h(d(a)/m(a) − d(b)/m(b)).
pub fn distance(machine: &mut Machine<'_>, batches: Batches<'_>) -> f32 {
    let n = batches.samples;
    let (machine, memory) = machine.with_partials(partials(n));
    let (memory, shares) = memory.split_at_mut(n * row(n));
    let table = batches.tabulate(&machine, memory);
    let scales = [table.scale(0).0, table.scale(1).0];
    machine.pool.split(shares, 1, |p, share, _| {
        let both = table.from(p);
        share[0] = machine.level.run(|| sum(n, |q| huber(apart(both, scales, q))));
    });
    (shares.iter().sum::<f64>() / (n * n) as f64) as f32
}

/// v(p,q) = (g/m − Σ g·d / (m² · count)) / d with g = h′, times dl/N².
pub fn distance_grad(machine: &mut Machine<'_>, out: &mut [f32], batches: Batches<'_>, dl: f32) {
    let n = batches.samples;
    let (machine, memory) = machine.with_partials(partials_of_gradient(n));
    let (memory, slopes) = memory.split_at_mut(n * row(n));
    let table = batches.tabulate(&machine, memory);
    let (scale, count) = table.scale(0);
    let scales = [scale, table.scale(1).0];
    // Of each sample g/m, and Σ g·d.
    machine.pool.split(slopes, n + 1, |p, slopes, _| {
        machine.level.run(|| {
            let both @ [a, _] = table.from(p);
            for (q, slope) in slopes[..n].iter_mut().enumerate() {
                *slope = huber_derivative(apart(both, scales, q)) * scale;
            }
            slopes[n] = sum(n, |q| slopes[q] * a.squares[q] * a.inverses[q]);
        });
    });
    let along = slopes.chunks(n + 1).map(|slopes| slopes[n]).sum::<f64>() * scale / count.max(1.0);
    machine.pool.split(slopes, n + 1, |p, slopes, _| {
        let [a, _] = table.from(p);
        slopes[..n]
            .iter_mut()
            .zip(a.inverses)
            .for_each(|(slope, inverse)| *slope = (*slope - along) * inverse);
    });
    let factor = 2.0 * f64::from(dl) / (n * n) as f64;
    let slopes = &*slopes;
    machine.pool.split(out, batches.lens[0], |p, out, _| {
        pull(machine.level, batches, p, out, &slopes[p * (n + 1)..][..n], factor);
    });
}

/// The cosine of an angle between sides of squares `s` and `t`, whose inverse lengths have that half product; `u` is the square
/// of the side across.
#[inline(always)]
fn cosine(s: f64, t: f64, u: f64, half: f64) -> f64 {
    (s + t - u) * half
}

/// Mean over all triples of h of the difference of the cosines.
pub fn angle(machine: &mut Machine<'_>, batches: Batches<'_>) -> f32 {
    let n = batches.samples;
    let (machine, memory) = machine.with_partials(partials(n));
    let (memory, shares) = memory.split_at_mut(n * row(n));
    let table = batches.tabulate(&machine, memory);
    machine.pool.split(shares, 1, |at, share, _| angles_at(machine.level, table, at, &mut share[0]));
    (shares.iter().sum::<f64>() / (n * n * n) as f64) as f32
}

/// A triangle of one batch: its squared sides and their inverses.
#[derive(Clone, Copy)]
struct Triangle {
    squares: [f64; 3],
    inverses: [f64; 3],
}

impl Triangle {
    /// The cosine of the angle between sides i and j.
    #[inline(always)]
    fn cosine(&self, i: usize, j: usize) -> f64 {
        let (s, t, u) = (self.squares[i], self.squares[j], self.squares[3 - i - j]);
        cosine(s, t, u, 0.5 * self.inverses[i] * self.inverses[j])
    }
}

/// With g = h′, i = 1/d: v(p,q) = Σ over r of i(p,q) · (g(∠pqr) · (i(q,r) − cos ∠pqr · i(p,q)) + g(∠qpr) · (i(p,r) − cos ∠qpr ·
/// i(p,q))) − g(∠prq) · i(p,r) · i(q,r), times dl/N³. Where two of the three are one sample it is 0, as 1/0 counts as 0.
pub fn angle_grad(machine: &mut Machine<'_>, out: &mut [f32], batches: Batches<'_>, dl: f32) {
    let n = batches.samples;
    let (machine, memory) = machine.with_partials(partials_of_gradient(n));
    let (memory, slopes) = memory.split_at_mut(n * row(n));
    let table = batches.tabulate(&machine, memory);
    let slopes = &mut slopes[..n * n];
    machine.pool.split(slopes, n, |p, slopes, _| angle_slopes(machine.level, table, p, slopes));
    let factor = 2.0 * f64::from(dl) / (n * n * n) as f64;
    let slopes = &*slopes;
    machine.pool.split(out, batches.lens[0], |p, out, _| {
        pull(machine.level, batches, p, out, &slopes[p * n..][..n], factor);
    });
}
