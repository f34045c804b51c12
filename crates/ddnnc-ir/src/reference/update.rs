//! Optimizer updates.

use super::Tensor;

/// (w, g, b, lr) → w', b', or (w, g, lr) → w'; PyTorch's SGD without dampening.
pub(super) fn sgd(x: &[&Tensor], momentum: f64, nesterov: bool, weight_decay: f64) -> Vec<Vec<f64>> {
    let buffer = (momentum != 0.0).then(|| x[2]);
    let lr = x[x.len() - 1].data[0];
    let n = x[0].data.len();
    let (mut parameter, mut moved) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for i in 0..n {
        let w = x[0].data[i];
        let g = x[1].data[i] + weight_decay * w;
        let b = match buffer {
            Some(buffer) => momentum * buffer.data[i] + g,
            None => g,
        };
        let step = if nesterov { g + momentum * b } else { b };
        parameter.push(w - lr * step);
        moved.push(b);
    }
    if buffer.is_some() { vec![parameter, moved] } else { vec![parameter] }
}

/// (w, g, m, v, lr, t) → w', m', v' (Loshchilov & Hutter 2019, as PyTorch's AdamW).
pub(super) fn adamw(x: &[&Tensor], beta1: f64, beta2: f64, eps: f64, weight_decay: f64) -> Vec<Vec<f64>> {
    let (lr, t) = (x[4].data[0], x[5].data[0]);
    let (bias1, bias2) = (1.0 - beta1.powf(t), 1.0 - beta2.powf(t));
    let n = x[0].data.len();
    let mut out = vec![Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n)];
    for i in 0..n {
        let (w, g) = (x[0].data[i], x[1].data[i]);
        let m = beta1 * x[2].data[i] + (1.0 - beta1) * g;
        let v = beta2 * x[3].data[i] + (1.0 - beta2) * g * g;
        let step = (m / bias1) / ((v / bias2).sqrt() + eps);
        out[0].push(w * (1.0 - lr * weight_decay) - lr * step);
        out[1].push(m);
        out[2].push(v);
    }
    out
}
