//! Partial sums of tile programs: per channel, f64, folded for a task and added in the order of the tasks.

use crate::simd::at_every_level;

at_every_level! {
    /// Adds all repetitions of the channels to the first.
    pub fn fold(all: &mut [f64], channels: usize) {
        let (first, rest) = all.split_at_mut(channels);
        rest.chunks_exact(channels).for_each(|other| add_up(first, other));
    }

    /// (mean, sum of squares about it) of `n` elements, in place of the sums of their distances from `shift` and of the
    /// squares of those.
    pub fn moments(n: f64, sums: [&mut [f64]; 2], shift: &[f64]) {
        let [total, squares] = sums;
        let channels = shift.len();
        let (total, squares) = (&mut total[..channels], &mut squares[..channels]);
        for c in 0..channels {
            let (s, rest) = (total[c], squares[c] - total[c] * total[c] / n);
            squares[c] = if rest < 0.0 { 0.0 } else { rest };
            total[c] = shift[c] + s / n;
        }
    }

    /// (mean, sum of squares about it) of two samples together, in place of the first; `counts` are their elements: Chan,
    /// Golub & LeVeque 1983. Shares of the whole are taken once for all channels.
    pub fn merge_moments(counts: [f64; 2], into: [&mut [f64]; 2], other: [&[f64]; 2]) {
        let [n, m] = counts;
        let share = m / (n + m);
        let [mean, squares] = into;
        let channels = mean.len();
        let (squares, [mean2, squares2]) = (&mut squares[..channels], other.map(|x| &x[..channels]));
        for c in 0..channels {
            let delta = mean2[c] - mean[c];
            mean[c] += delta * share;
            squares[c] += squares2[c] + delta * delta * (n * share);
        }
    }

    /// into += other.
    pub fn add(into: &mut [f64], other: &[f64]) {
        add_up(into, other);
    }
}

#[inline(always)]
fn add_up(into: &mut [f64], other: &[f64]) {
    let other = &other[..into.len()];
    for c in 0..into.len() {
        into[c] += other[c];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    /// Mean and sum of squares about it, of a few channels in two samples that are folded and merged.
    #[test]
    fn samples_together_are_one_sample() {
        let (channels, shift) = (5, [3.0, -2.0, 0.0, 100.0, 1.0]);
        let x = |row: usize, c: usize| ((row * 7 + c * 3) % 11) as f64 + shift[c];
        for level in Level::available() {
            let sample = |rows: std::ops::Range<usize>| {
                // Two repetitions of the channels, as in a period of two rows.
                let (mut total, mut squares) = (vec![0.0; 2 * channels], vec![0.0; 2 * channels]);
                for row in rows.clone() {
                    for c in 0..channels {
                        let d = x(row, c) - shift[c];
                        total[row % 2 * channels + c] += d;
                        squares[row % 2 * channels + c] += d * d;
                    }
                }
                fold(level, &mut total, channels);
                fold(level, &mut squares, channels);
                total.truncate(channels);
                squares.truncate(channels);
                moments(level, rows.len() as f64, [&mut total, &mut squares], &shift);
                [total, squares]
            };
            let [mut mean, mut squares] = sample(0..13);
            let second = sample(13..20);
            merge_moments(level, [13.0, 7.0], [&mut mean, &mut squares], second.each_ref().map(|v| &v[..]));
            for c in 0..channels {
                let exact = (0..20).map(|row| x(row, c)).sum::<f64>() / 20.0;
                let about = (0..20).map(|row| (x(row, c) - exact).powi(2)).sum::<f64>();
                assert!((mean[c] - exact).abs() < 1e-12 * exact.abs().max(1.0), "{}", level.name());
                assert!((squares[c] - about).abs() < 1e-11 * about, "{}", level.name());
            }
        }
    }
}
