//! Losses between the relations of a batch (Park et al. 2019), as their definitions say: every pair, every triple.

use super::Tensor;

/// Embeddings, a row per sample.
fn rows(t: &Tensor) -> Vec<&[f64]> {
    let [samples, len] = [t.dims()[0], t.dims()[1]];
    (0..samples).map(|i| &t.data[i * len..][..len]).collect()
}

/// x²/2 near 0, |x| − ½ from 1 on.
fn huber(x: f64) -> f64 {
    if x.abs() < 1.0 { x * x / 2.0 } else { x.abs() - 0.5 }
}

/// Its derivative; not a number stays so.
fn huber_derivative(x: f64) -> f64 {
    x.clamp(-1.0, 1.0)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// All distances of a batch, and the mean of those that are not 0.
struct Distances {
    all: Vec<Vec<f64>>,
    mean: f64,
    count: f64,
}

impl Distances {
    fn new(t: &Tensor) -> Distances {
        let rows = rows(t);
        let distance = |a: &[f64], b: &[f64]| {
            let d = minus(a, b);
            dot(&d, &d).sqrt()
        };
        let all: Vec<Vec<f64>> = rows.iter().map(|a| rows.iter().map(|b| distance(a, b)).collect()).collect();
        let apart: Vec<f64> = all.iter().flatten().copied().filter(|d| *d != 0.0).collect();
        let count = apart.len() as f64;
        Distances { all, mean: apart.iter().sum::<f64>() / count, count }
    }

    /// A distance by the mean.
    fn quotient(&self, i: usize, j: usize) -> f64 {
        if self.all[i][j] == 0.0 { 0.0 } else { self.all[i][j] / self.mean }
    }
}

/// Mean over all pairs of h(dᵢⱼ(a)/m(a) − dᵢⱼ(b)/m(b)).
pub(super) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (p, q) = (Distances::new(a), Distances::new(b));
    let n = a.dims()[0];
    let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
    pairs.map(|(i, j)| huber(p.quotient(i, j) - q.quotient(i, j))).sum::<f64>() / (n * n) as f64
}

/// With g = h′/N²: ∂L/∂dᵢⱼ = gᵢⱼ/m − Σ g·d / (m² · count) where dᵢⱼ ≠ 0, and daᵢ gains it along (aᵢ − aⱼ)/dᵢⱼ, daⱼ against.
pub(super) fn distance_grad(a: &Tensor, b: &Tensor, dl: &Tensor) -> Vec<f64> {
    let (p, q) = (Distances::new(a), Distances::new(b));
    let (rows, n, len) = (rows(a), a.dims()[0], a.dims()[1]);
    let factor = dl.data[0] / (n * n) as f64;
    let g = |i: usize, j: usize| factor * huber_derivative(p.quotient(i, j) - q.quotient(i, j));
    let mut along = 0.0;
    for i in 0..n {
        along += (0..n).map(|j| g(i, j) * p.all[i][j]).sum::<f64>();
    }
    let mut out = vec![0.0; a.data.len()];
    for i in 0..n {
        for j in 0..n {
            let d = p.all[i][j];
            if d == 0.0 {
                continue;
            }
            let slope = g(i, j) / p.mean - along / (p.mean * p.mean * p.count);
            for (c, x) in minus(rows[i], rows[j]).into_iter().enumerate() {
                out[i * len + c] += slope * x / d;
                out[j * len + c] -= slope * x / d;
            }
        }
    }
    out
}

/// What the samples look like from one of them: distance and direction of each.
fn view(rows: &[&[f64]], j: usize) -> Vec<(f64, Vec<f64>)> {
    let look = |row: &&[f64]| {
        let mut u = minus(row, rows[j]);
        let d = dot(&u, &u).sqrt();
        u.iter_mut().for_each(|x| *x = if d == 0.0 { 0.0 } else { *x / d });
        (d, u)
    };
    rows.iter().map(look).collect()
}

/// Mean over all triples of h(⟨uᵢⱼ, uₖⱼ⟩(a) − ⟨uᵢⱼ, uₖⱼ⟩(b)).
pub(super) fn angle(a: &Tensor, b: &Tensor) -> f64 {
    let (p, q, n) = (rows(a), rows(b), a.dims()[0]);
    let mut total = 0.0;
    for j in 0..n {
        let (u, v) = (view(&p, j), view(&q, j));
        for i in 0..n {
            total += (0..n).map(|k| huber(dot(&u[i].1, &u[k].1) - dot(&v[i].1, &v[k].1))).sum::<f64>();
        }
    }
    total / (n * n * n) as f64
}

/// With g = h′/N³, for every j: duᵢ = 2 Σₖ gᵢₖ uₖ, and daᵢ gains (duᵢ − ⟨duᵢ, uᵢ⟩ uᵢ)/dᵢⱼ, daⱼ loses it.
pub(super) fn angle_grad(a: &Tensor, b: &Tensor, dl: &Tensor) -> Vec<f64> {
    let (p, q, n, len) = (rows(a), rows(b), a.dims()[0], a.dims()[1]);
    let factor = dl.data[0] / (n * n * n) as f64;
    let mut out = vec![0.0; a.data.len()];
    for j in 0..n {
        let (u, v) = (view(&p, j), view(&q, j));
        for i in 0..n {
            let (d, ui) = &u[i];
            if *d == 0.0 {
                continue;
            }
            let mut du = vec![0.0; len];
            for (k, (_, uk)) in u.iter().enumerate() {
                let g = 2.0 * factor * huber_derivative(dot(ui, uk) - dot(&v[i].1, &v[k].1));
                du.iter_mut().zip(uk).for_each(|(du, u)| *du += g * u);
            }
            let radial = dot(&du, ui);
            for c in 0..len {
                let x = (du[c] - radial * ui[c]) / d;
                out[i * len + c] += x;
                out[j * len + c] -= x;
            }
        }
    }
    out
}
