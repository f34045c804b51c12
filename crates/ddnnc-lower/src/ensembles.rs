//! The loss terms of sets of teachers, as operators.
//!
//! N samples, m teachers, K classes. A set's logits are one value `[N,m,K]`, so that what is done to each teacher is one
//! operator for all of them. A mixture of probabilities q goes to the same `kl_divergence` as one teacher's logits: the
//! logits T · ln q have it as their softmax at the temperature T. Where a q is below the least normal number, its
//! logarithm is that number's ([`UnaryKind::Log`]): logits stay finite, and such a class teaches as if it had 2⁻¹²⁶.

use crate::emit::{Emit, Emitter};
use crate::nets::Nets;
use crate::terms::{Ensemble, Weights};
use ddnnc_ir::{BinaryKind, Init, Layout, Op, Pool, ReduceKind, Shape, UnaryKind, Value};

impl Emitter<'_> {
    /// T² · KL of what the set teaches and the student, mean over the batch; `None` where a net is missing.
    pub(crate) fn kl_of_ensemble(
        &mut self,
        nets: &Nets<'_>,
        ensemble: &Ensemble<'_>,
        student: &str,
        temperature: f64,
    ) -> Emit<Option<Value>> {
        let Some(logits) = self.logits(nets, student) else { return Ok(None) };
        let taught = match &ensemble.weights {
            Weights::Gate { .. } => {
                let Some(gated) = self.gated_logits(nets, ensemble)? else { return Ok(None) };
                // The label trains the gate; what the student gives does not, where nothing of it reaches the teachers.
                if ensemble.detach { self.add(Op::StopGradient, &[gated])? } else { gated }
            }
            Weights::Equal => {
                let Some(p) = self.softened(nets, ensemble, temperature)? else { return Ok(None) };
                let q = self.reduce(ReduceKind::Mean, &[1], p)?;
                self.logits_of(q, temperature)?
            }
            Weights::Adaptive { feature, path } => {
                let Some(feature) = self.value(student, *feature) else { return Ok(None) };
                let Some(p) = self.softened(nets, ensemble, temperature)? else { return Ok(None) };
                let g = self.on_net(student, |this| this.channel_maxima(feature))?;
                let w = self.adaptive_weights(g, ensemble.teachers.len(), path)?;
                let q = self.weighted(w, p)?;
                self.logits_of(q, temperature)?
            }
        };
        self.add(Op::KlDivergence { temperature }, &[taught, logits]).map(Some)
    }

    /// Σ g_t · z_t, g = softmax(W · features + b); `None` where a net is missing.
    pub(crate) fn gated_logits(&mut self, nets: &Nets<'_>, ensemble: &Ensemble<'_>) -> Emit<Option<Value>> {
        let Weights::Gate { features, path } = &ensemble.weights else { return Ok(None) };
        let Some(z) = self.stacked(nets, ensemble)? else { return Ok(None) };
        let mut pooled = Vec::with_capacity(features.len());
        for (teacher, step) in ensemble.teachers.iter().zip(features) {
            let Some(x) = self.value(teacher, *step) else { return Ok(None) };
            let axes: Vec<usize> = (2..self.graph().shape(x).rank()).collect();
            pooled.push(match axes.is_empty() {
                true => x,
                false => self.on_net(teacher, |this| this.reduce(ReduceKind::Mean, &axes, x))?,
            });
        }
        let mut x = self.add(Op::Concat { axis: 1 }, &pooled)?;
        if ensemble.detach {
            x = self.add(Op::StopGradient, &[x])?;
        }
        let (m, d) = (ensemble.teachers.len(), self.graph().shape(x).dims()[1]);
        // All teachers count the same to begin with.
        let weight = self.trained(path, "linear1.weight", Shape::from([m, d]), 0.0)?;
        let bias = self.trained(path, "linear1.bias", Shape::from([m]), 0.0)?;
        let scores = self.add(Op::MatMul { transpose_a: false, transpose_b: true }, &[x, weight])?;
        let scores = self.add(Op::BiasAdd, &[scores, bias])?;
        let gates = self.add(Op::Softmax, &[scores])?;
        self.weighted(gates, z).map(Some)
    }

    /// ‖θ‖² + ‖v‖² of an adaptive set; `None` where it is not there.
    pub(crate) fn penalty(&mut self, path: &str) -> Emit<Option<Value>> {
        let mut sum = None;
        for name in ["theta", "v"] {
            let Some(x) = self.known(&format!("{path}.{name}")) else { return Ok(None) };
            let square = self.add(Op::Unary { kind: UnaryKind::Square }, &[x])?;
            let axes: Vec<usize> = (0..self.graph().shape(x).rank()).collect();
            let norm = self.reduce(ReduceKind::Sum, &axes, square)?;
            sum = Some(match sum {
                None => norm,
                Some(sum) => self.add(Op::Binary { kind: BinaryKind::Add }, &[sum, norm])?,
            });
        }
        Ok(sum)
    }

    /// softmax_t(v · (θ_t ⊙ g)) `[N,m]`, g `[N,d]`
    fn adaptive_weights(&mut self, g: Value, teachers: usize, path: &str) -> Emit<Value> {
        let d = self.graph().shape(g).dims()[1];
        // θ = 0: all teachers count the same to begin with. With v = 0 as well, neither would ever move.
        let theta = self.trained(path, "theta", Shape::from([teachers, d]), 0.0)?;
        let v = self.trained(path, "v", Shape::from([d]), 1.0 / (d as f64).sqrt())?;
        let shape = Shape::from([teachers, d]);
        let v = self.add(Op::Broadcast { shape, axes: vec![1], layout: Layout::RowMajor }, &[v])?;
        let scaled = self.add(Op::Binary { kind: BinaryKind::Mul }, &[theta, v])?;
        let scores = self.add(Op::MatMul { transpose_a: false, transpose_b: true }, &[g, scaled])?;
        self.add(Op::Softmax, &[scores])
    }

    /// The largest element of each channel: `[N,C,…]` → `[N,C]`
    fn channel_maxima(&mut self, x: Value) -> Emit<Value> {
        let dims = self.graph().shape(x).dims().to_vec();
        let [h, w] = match dims[2..] {
            [] => return Ok(x),
            [h, w] => [h, w],
            ref more => [more.iter().product(), 1],
        };
        let x = match dims.len() {
            4 => x,
            _ => self.add(Op::Reshape { shape: Shape::from([dims[0], dims[1], h, w]) }, &[x])?,
        };
        let pool = Pool { kernel: [h, w], stride: [h, w], pad: [0, 0] };
        let x = self.add(Op::MaxPool(pool), &[x])?;
        self.add(Op::Reshape { shape: Shape::from([dims[0], dims[1]]) }, &[x])
    }

    /// The teachers' logits `[N,m,K]`, detached where the set is.
    fn stacked(&mut self, nets: &Nets<'_>, ensemble: &Ensemble<'_>) -> Emit<Option<Value>> {
        let all: Option<Vec<Value>> =
            ensemble.teachers.iter().map(|teacher| self.logits(nets, teacher)).collect();
        let Some(all) = all else { return Ok(None) };
        let mut z = self.add(Op::Concat { axis: 1 }, &all)?;
        if ensemble.detach {
            z = self.add(Op::StopGradient, &[z])?;
        }
        let (n, m) = (self.graph().shape(z).dims()[0], all.len());
        let classes = self.graph().shape(z).dims()[1] / m;
        self.add(Op::Reshape { shape: Shape::from([n, m, classes]) }, &[z]).map(Some)
    }

    /// softmax(z_t / T) of every teacher `[N,m,K]`
    fn softened(
        &mut self,
        nets: &Nets<'_>,
        ensemble: &Ensemble<'_>,
        temperature: f64,
    ) -> Emit<Option<Value>> {
        let Some(z) = self.stacked(nets, ensemble)? else { return Ok(None) };
        let shape = self.graph().shape(z).clone();
        let [n, m, classes] = [0, 1, 2].map(|axis| shape.dims()[axis]);
        let rows = self.add(Op::Reshape { shape: Shape::from([n * m, classes]) }, &[z])?;
        let rows = self.add(Op::Scale { factor: 1.0 / temperature }, &[rows])?;
        let p = self.add(Op::Softmax, &[rows])?;
        self.add(Op::Reshape { shape }, &[p]).map(Some)
    }

    /// Σ_t w_t · x_t: `[N,m]` and `[N,m,K]` → `[N,K]`
    fn weighted(&mut self, w: Value, x: Value) -> Emit<Value> {
        let shape = self.graph().shape(x).clone();
        let w = self.add(Op::Broadcast { shape, axes: vec![0, 1], layout: Layout::RowMajor }, &[w])?;
        let product = self.add(Op::Binary { kind: BinaryKind::Mul }, &[w, x])?;
        self.reduce(ReduceKind::Sum, &[1], product)
    }

    /// T · ln q
    fn logits_of(&mut self, q: Value, temperature: f64) -> Emit<Value> {
        let log = self.add(Op::Unary { kind: UnaryKind::Log }, &[q])?;
        self.add(Op::Scale { factor: temperature }, &[log])
    }

    fn reduce(&mut self, kind: ReduceKind, axes: &[usize], x: Value) -> Emit<Value> {
        self.add(Op::Reduce { kind, axes: axes.to_vec() }, &[x])
    }

    /// A trained parameter of a term.
    fn trained(&mut self, path: &str, name: &str, shape: Shape, value: f64) -> Emit<Value> {
        self.parameter(format!("{path}.{name}"), shape, Init::Constant { value }, false, None)
    }
}
