//! LSTM over the columns of a map, as ordinary operators: the columns are a fixed number, so the recurrence is written out.

use crate::emit::{Emit, Emitter};
use crate::naming::WeightNames;
use crate::nets::Net;
use crate::trace::Lstm;
use ddnnc_ir::{BinaryKind, Conv, Init, Op, Shape, UnaryKind, Value};

/// The fields of the weights of one direction, as PyTorch names them: of the input, of the state, and the biases of both.
const FORWARD: [&str; 4] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];

/// Those of the direction from the last column to the first.
const BACKWARD: [&str; 4] = ["weight_ih_reverse", "weight_hh_reverse", "bias_ih_reverse", "bias_hh_reverse"];

impl Emitter<'_> {
    /// `[N,C,H,W]` → `[N,D·hidden]`, the states behind the last column of each of D directions, or `[N,D·hidden,1,W]`, those
    /// behind every column.
    pub(crate) fn lstm(
        &mut self,
        net: &Net<'_>,
        step: usize,
        names: Option<&WeightNames>,
        lstm: Lstm,
        x: Value,
        entry: &mut ddnnc_ir::Net,
    ) -> Emit<Value> {
        let [channels, rows, columns] = *net.trace.input_shape(step).dims() else { return Ok(x) };
        let inputs = channels * rows;
        let directions = if lstm.bidirectional { &[FORWARD, BACKWARD][..] } else { &[FORWARD][..] };
        let mut results = Vec::with_capacity(directions.len());
        for (direction, fields) in directions.iter().enumerate() {
            let gates = 4 * lstm.hidden;
            // Before the first column there is no state.
            let macs = gates as u64 * (columns * inputs + (columns - 1) * lstm.hidden) as u64;
            entry.macs = entry.macs.saturating_add(macs);
            let init = Init::Uniform { bound: 1.0 / (lstm.hidden as f64).sqrt() };
            let shapes = [&[gates, inputs][..], &[gates, lstm.hidden], &[gates], &[gates]];
            let mut weights = Vec::with_capacity(4);
            for (field, shape) in fields.iter().zip(shapes) {
                weights.push(self.weight(net, names, field, Shape::from(shape), init, entry)?);
            }
            let order: Vec<usize> =
                if direction == 0 { (0..columns).collect() } else { (0..columns).rev().collect() };
            let of_columns = self.of_columns(x, [inputs, columns], &weights)?;
            let mut states = self.states(of_columns, weights[1], lstm.hidden, &order)?;
            results.push(if lstm.sequence {
                if direction == 1 {
                    states.reverse();
                }
                let shape = self.batched(&Shape::from([lstm.hidden, 1, 1]));
                for state in &mut states {
                    *state = self.add(Op::Reshape { shape: shape.clone() }, &[*state])?;
                }
                self.side_by_side(3, states)?
            } else {
                states.pop().unwrap_or(x)
            });
        }
        self.side_by_side(1, results)
    }

    /// What the columns add to the gates, biases included, `[N,4·hidden,1,W]`: a 1×1 convolution over columns as channels.
    fn of_columns(&mut self, x: Value, [inputs, columns]: [usize; 2], weights: &[Value]) -> Emit<Value> {
        let &[input, _, bias_ih, bias_hh] = weights else { return Ok(x) };
        let gates = self.graph().shape(input).dims()[0];
        let shape = self.batched(&Shape::from([inputs, 1, columns]));
        let x = if *self.graph().shape(x) == shape { x } else { self.add(Op::Reshape { shape }, &[x])? };
        let kernel = self.add(Op::Reshape { shape: Shape::from([gates, inputs, 1, 1]) }, &[input])?;
        let conv = Conv { stride: [1, 1], pad: [0, 0], dilation: [1, 1], groups: 1 };
        let y = self.add(Op::Conv2d(conv), &[x, kernel])?;
        let bias = self.binary(BinaryKind::Add, bias_ih, bias_hh)?;
        self.add(Op::BiasAdd, &[y, bias])
    }

    /// The state behind each column, `[N,hidden]`, in the order in which columns are read: with σ(x) the sigmoid and gates
    /// (i, f, g, o) = column + W h, c' = σ(f) · c + σ(i) · tanh(g) and h' = σ(o) · tanh(c'), where h and c begin as 0.
    fn states(&mut self, of_columns: Value, w: Value, hidden: usize, order: &[usize]) -> Emit<Vec<Value>> {
        let flat = self.batched(&Shape::from([4 * hidden]));
        let mut states = Vec::with_capacity(order.len());
        let mut before: Option<(Value, Value)> = None;
        for &column in order {
            let gates = self.add(Op::Slice { axis: 3, start: column, len: 1 }, &[of_columns])?;
            let mut gates = self.add(Op::Reshape { shape: flat.clone() }, &[gates])?;
            if let Some((h, _)) = before {
                let of_state = self.add(Op::MatMul { transpose_a: false, transpose_b: true }, &[h, w])?;
                gates = self.binary(BinaryKind::Add, gates, of_state)?;
            }
            let mut parts = Vec::with_capacity(4);
            for (part, kind) in [UnaryKind::Sigmoid, UnaryKind::Sigmoid, UnaryKind::Tanh, UnaryKind::Sigmoid]
                .into_iter()
                .enumerate()
            {
                let gate = self.add(Op::Slice { axis: 1, start: part * hidden, len: hidden }, &[gates])?;
                parts.push(self.add(Op::Unary { kind }, &[gate])?);
            }
            let mut c = self.binary(BinaryKind::Mul, parts[0], parts[2])?;
            if let Some((_, cell)) = before {
                let kept = self.binary(BinaryKind::Mul, parts[1], cell)?;
                c = self.binary(BinaryKind::Add, kept, c)?;
            }
            let shown = self.add(Op::Unary { kind: UnaryKind::Tanh }, &[c])?;
            let h = self.binary(BinaryKind::Mul, parts[3], shown)?;
            states.push(h);
            before = Some((h, c));
        }
        Ok(states)
    }

    fn binary(&mut self, kind: BinaryKind, a: Value, b: Value) -> Emit<Value> {
        self.add(Op::Binary { kind }, &[a, b])
    }

    fn side_by_side(&mut self, axis: usize, values: Vec<Value>) -> Emit<Value> {
        match values.as_slice() {
            &[one] => Ok(one),
            all => self.add(Op::Concat { axis }, all),
        }
    }
}
