//! Steps of pipes: operators on maps and on vectors.

use super::drawing::{Drawing, Scope, Shape, Steps, pipe};
use super::windows::Size;

const ACTIVATIONS: [&str; 7] = ["relu", "relu6", "sigmoid", "tanh", "hard_swish", "silu", "gelu"];

/// A step on a map.
#[derive(Clone, Copy)]
enum OnMap {
    Convolution,
    Layer,
    Pool,
    Norm,
    Activation,
    Combine,
    Concat,
    L2Normalize,
    Dropout,
    Identity,
    If,
    Reshape,
    Lstm,
    Block,
}

/// A step on a vector.
#[derive(Clone, Copy)]
enum OnVector {
    Linear,
    Norm,
    Activation,
    Combine,
    Concat,
    L2Normalize,
    Softmax,
    Dropout,
    ThroughMap,
}

impl Drawing {
    /// Up to `count` steps on a value; with [`Size::Same`] a map keeps its rows and columns, and a vector stays one.
    pub(super) fn steps(&mut self, scope: &Scope, from: Shape, size: Size, count: usize) -> Steps {
        let (mut steps, mut shape) = (Vec::new(), from);
        for _ in 0..count {
            let step = match shape {
                Shape::Map(map) => self.on_map(scope, map, size),
                Shape::Vector(c) => self.on_vector(scope, c),
            };
            if let Some((more, gives)) = step
                && self.fits(gives)
            {
                steps.extend(more);
                shape = gives;
            }
        }
        (steps, shape)
    }

    fn on_map(&mut self, scope: &Scope, map: [usize; 3], size: Size) -> Option<Steps> {
        let same = Shape::Map(map);
        let step = self.dice.weighted(&[
            (60, OnMap::Convolution),
            (40, OnMap::Layer),
            (12, OnMap::Pool),
            (25, OnMap::Norm),
            (40, OnMap::Activation),
            (30, OnMap::Combine),
            (12, OnMap::Concat),
            (2, OnMap::L2Normalize),
            (self.manner.dropout, OnMap::Dropout),
            (1, OnMap::Identity),
            (6, OnMap::If),
            (2, OnMap::Reshape),
            (3, OnMap::Lstm),
            (self.manner.nesting, OnMap::Block),
        ]);
        match step {
            OnMap::Convolution => {
                let (text, gives) = self.convolution(map, None, size)?;
                Some((vec![text], Shape::Map(gives)))
            }
            OnMap::Layer => self.layer(map, None, size),
            OnMap::Pool => {
                let (text, gives) = self.pool(map, size)?;
                Some((vec![text], Shape::Map(gives)))
            }
            OnMap::Norm => Some((vec![self.norm(same)?], same)),
            OnMap::Activation => Some((vec![self.activation()], same)),
            OnMap::Combine => {
                let fits = |of: Shape| match of {
                    Shape::Map(other) => other == map || other == [map[0], 1, 1],
                    Shape::Vector(c) => c == map[0],
                };
                let other = self.one_of(scope, fits)?;
                Some((vec![format!("{}({other})", self.dice.pick(&["add", "add", "mul"]))], same))
            }
            OnMap::Concat => self.concat(scope, map),
            OnMap::L2Normalize => Some((vec![self.l2_normalize()], same)),
            OnMap::Dropout => Some((vec![self.dropout()], same)),
            OnMap::Identity => Some((vec!["identity".to_owned()], same)),
            OnMap::If => self.choice(map),
            OnMap::Reshape => Some(self.reshape(map, size)),
            OnMap::Lstm => self.lstm(map, size),
            OnMap::Block => {
                let block = self.nested(map)?;
                Some((vec![block.call], Shape::Map(block.gives)))
            }
        }
    }

    fn on_vector(&mut self, scope: &Scope, c: usize) -> Option<Steps> {
        let same = Shape::Vector(c);
        let step = self.dice.weighted(&[
            (40, OnVector::Linear),
            (15, OnVector::Norm),
            (40, OnVector::Activation),
            (15, OnVector::Combine),
            (6, OnVector::Concat),
            (4, OnVector::L2Normalize),
            (6, OnVector::Softmax),
            (self.manner.dropout, OnVector::Dropout),
            (4, OnVector::ThroughMap),
        ]);
        match step {
            OnVector::Linear => {
                let out = self.channels();
                Some((vec![self.linear(out)], Shape::Vector(out)))
            }
            OnVector::Norm => Some((vec![self.norm(same)?], same)),
            OnVector::Activation => Some((vec![self.activation()], same)),
            OnVector::Combine => {
                let other = self.one_of(scope, |of| of == same)?;
                Some((vec![format!("{}({other})", self.dice.pick(&["add", "mul"]))], same))
            }
            OnVector::Concat => {
                let (other, more) = self.any_vector(scope)?;
                Some((vec![format!("concat({other})")], Shape::Vector(c + more)))
            }
            OnVector::L2Normalize => Some((vec![self.l2_normalize()], same)),
            OnVector::Softmax => {
                Some((vec![self.dice.pick(&["softmax", "softmax", "log_softmax"]).to_owned()], same))
            }
            OnVector::Dropout => Some((vec![self.dropout()], same)),
            OnVector::ThroughMap => {
                let reshape = format!("reshape([{}, 1, 1])", self.number(c));
                let (conv, gives) = self.convolution([c, 1, 1], None, Size::Same)?;
                Some((vec![reshape, conv, "flatten".to_owned()], Shape::Vector(gives[0])))
            }
        }
    }

    /// A convolution, perhaps a norm, perhaps an activation.
    pub(super) fn layer(&mut self, map: [usize; 3], out: Option<usize>, size: Size) -> Option<Steps> {
        let (text, gives) = self.convolution(map, out, size)?;
        let mut steps = vec![text];
        if self.dice.percent(self.manner.norms) {
            steps.extend(self.norm(Shape::Map(gives)));
        }
        if self.dice.percent(80) {
            steps.push(self.activation());
        }
        Some((steps, Shape::Map(gives)))
    }

    pub(super) fn activation(&mut self) -> String {
        let name = if self.dice.percent(40) { "relu" } else { self.dice.pick(&ACTIVATIONS) };
        name.to_owned()
    }

    /// A norm; `None` where statistics of so few numbers say nothing.
    pub(super) fn norm(&mut self, of: Shape) -> Option<String> {
        let each = self.batch * of.elements() / of.channels();
        if each < 2 || (each < 4 && !self.dice.percent(10)) {
            return None;
        }
        let name = self.dice.pick(&["bn", "bn", "bn", "batch_norm"]);
        let mut args = Vec::new();
        if self.dice.percent(10) {
            args.push(format!("eps = {}", self.dice.pick(&["1e-3", "1e-2", "0.1"])));
        }
        if self.dice.percent(10) {
            args.push(format!("momentum = {}", self.dice.pick(&["0.0", "1.0", "0.3", "0.01"])));
        }
        Some(if args.is_empty() { name.to_owned() } else { format!("{name}({})", args.join(", ")) })
    }

    pub(super) fn linear(&mut self, out: usize) -> String {
        let out = if out == self.classes && self.dice.percent(60) {
            "classes".to_owned()
        } else {
            self.number(out)
        };
        if self.dice.percent(80) {
            return format!("linear({out})");
        }
        format!("linear({out}, bias = {})", self.dice.percent(20))
    }

    pub(super) fn dropout(&mut self) -> String {
        match self.dice.percent(20) {
            true => "dropout".to_owned(),
            false => format!("dropout(p = {})", self.dice.pick(&["0.1", "0.3", "0.9", "0.0"])),
        }
    }

    pub(super) fn l2_normalize(&mut self) -> String {
        let text = if self.dice.percent(30) { "l2_normalize(eps = 1e-3)" } else { "l2_normalize" };
        text.to_owned()
    }

    fn one_of(&mut self, scope: &Scope, fits: impl Fn(Shape) -> bool) -> Option<String> {
        let all: Vec<&str> =
            scope.iter().filter(|(_, of)| fits(*of)).map(|(name, _)| name.as_str()).collect();
        (!all.is_empty()).then(|| self.dice.pick(&all).to_owned())
    }

    fn any_vector(&mut self, scope: &Scope) -> Option<(String, usize)> {
        let vectors: Vec<(&str, usize)> = scope
            .iter()
            .filter_map(|(name, of)| match of {
                Shape::Vector(c) => Some((name.as_str(), *c)),
                Shape::Map(_) => None,
            })
            .collect();
        (!vectors.is_empty()).then(|| self.dice.pick(&vectors)).map(|(name, c)| (name.to_owned(), c))
    }

    fn concat(&mut self, scope: &Scope, [c, h, w]: [usize; 3]) -> Option<Steps> {
        let maps: Vec<(&str, usize)> = scope
            .iter()
            .filter_map(|(name, of)| match *of {
                Shape::Map([more, rows, columns]) if [rows, columns] == [h, w] => Some((name.as_str(), more)),
                Shape::Map(_) | Shape::Vector(_) => None,
            })
            .collect();
        if maps.is_empty() {
            return None;
        }
        let others: Vec<(&str, usize)> =
            (0..self.dice.pick(&[1, 1, 1, 2])).map(|_| self.dice.pick(&maps)).collect();
        let channels = c + others.iter().map(|(_, more)| more).sum::<usize>();
        let names: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
        (channels <= 100)
            .then(|| (vec![format!("concat({})", names.join(", "))], Shape::Map([channels, h, w])))
    }

    /// `if` with an activation on one side, and a convolution to as many channels on the other.
    fn choice(&mut self, map: [usize; 3]) -> Option<Steps> {
        let (conv, _) = self.convolution(map, Some(map[0]), Size::Same)?;
        let (then, otherwise) = match self.dice.percent(50) {
            true => (self.activation(), conv),
            false => (conv, self.activation()),
        };
        // A condition on `in` would need its shape here; one on the classes does not.
        let condition = match self.dice.between(0, 3) {
            0 => format!("classes == {}", self.classes),
            1 => format!("not (classes >= {})", self.classes),
            2 => "-1 < 0 and 7 % 4 == 3".to_owned(),
            _ => format!("classes > {} or \"a\" != \"a\"", self.classes),
        };
        let text = match self.dice.percent(20) {
            true => format!("if {condition} {{ {then} }} else if true {{ {otherwise} }} else {{ identity }}"),
            false => format!("if {condition} {{ {then} }} else {{ {otherwise} }}"),
        };
        Some((vec![text], Shape::Map(map)))
    }

    /// To another shape, and back where rows and columns have to stay.
    fn reshape(&mut self, [c, h, w]: [usize; 3], size: Size) -> Steps {
        match size {
            Size::Any => (vec![format!("reshape([{c}, {w}, {h}])")], Shape::Map([c, w, h])),
            Size::Same => {
                let flat = match self.dice.percent(50) {
                    true => "flatten".to_owned(),
                    false => format!("reshape([{}])", self.number(c * h * w)),
                };
                let activation = self.activation();
                (vec![flat, activation, format!("reshape([{c}, {h}, {w}])")], Shape::Map([c, h, w]))
            }
        }
    }

    /// Gives some steps that count parameters or blocks a name of their own.
    pub(super) fn name_some(&mut self, steps: &mut [String]) {
        for step in steps {
            let counted = ["conv(", "depthwise(", "linear(", "lstm(", "bn", "batch_norm"];
            if counted.iter().any(|word| step.starts_with(word)) && self.dice.percent(12) {
                *step = format!("{step} as {}", self.name("own"));
            }
        }
    }

    /// An LSTM over the columns of a map: a map of one row, or a vector where the shape may change.
    fn lstm(&mut self, [_, h, w]: [usize; 3], size: Size) -> Option<Steps> {
        let hidden = self.dice.between(1, 8);
        let both = self.dice.percent(40);
        let sequence = size == Size::Same || self.dice.percent(60);
        if !(2..=12).contains(&w) || (size == Size::Same && h > 1) {
            return None;
        }
        let mut args =
            vec![if self.dice.percent(20) { format!("hidden = {hidden}") } else { self.number(hidden) }];
        if sequence || self.dice.percent(20) {
            args.push(format!("sequence = {sequence}"));
        }
        if both || self.dice.percent(20) {
            args.push(format!("bidirectional = {both}"));
        }
        let out = if both { 2 * hidden } else { hidden };
        let gives = if sequence { Shape::Map([out, 1, w]) } else { Shape::Vector(out) };
        Some((vec![format!("lstm({})", args.join(", "))], gives))
    }

    /// From a map to logits.
    pub(super) fn head(&mut self, scope: &Scope, from: [usize; 3]) -> Vec<String> {
        let (mut steps, mut map) = (Vec::new(), from);
        if self.dice.percent(20)
            && let Some(norm) = self.norm(Shape::Map(map))
        {
            steps.extend([norm, self.activation()]);
        }
        if self.dice.percent(20) {
            let (more, gives) = self.steps(scope, Shape::Map(map), Size::Any, 1);
            if let Shape::Map(gives) = gives {
                steps.extend(more);
                map = gives;
            }
        }
        if self.dice.percent(10) {
            steps.extend([self.projection(self.classes), "global_avg_pool".to_owned()]);
            return steps;
        }
        let mut c = map[0];
        let elements = map.iter().product();
        if elements <= 1200 && self.dice.percent(30) {
            let flat = format!("reshape([{}])", self.number(elements));
            steps.push(if self.dice.percent(70) { "flatten".to_owned() } else { flat });
            c = elements;
        } else {
            steps.push("global_avg_pool".to_owned());
        }
        let count = self.dice.pick(&[0, 0, 0, 1, 2, 3]);
        let scope = Scope::new();
        let (more, gives) = self.steps(&scope, Shape::Vector(c), Size::Same, count);
        steps.extend(more);
        if gives.channels() != self.classes || self.dice.percent(90) {
            steps.push(self.linear(self.classes));
        }
        if self.dice.percent(4) {
            steps.push("log_softmax".to_owned());
        }
        steps
    }

    /// A pipe on a value of a name.
    pub(super) fn pipe_from(&mut self, name: &str, mut steps: Vec<String>) -> String {
        self.name_some(&mut steps);
        pipe(Some(name), &steps)
    }
}
