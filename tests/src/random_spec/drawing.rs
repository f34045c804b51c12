//! What is known while a spec is drawn, and how its numbers and conditions are written.

use super::dice::Dice;

/// The shape of a value, per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[C, H, W]`
    Map([usize; 3]),
    /// `[C]`
    Vector(usize),
}

impl Shape {
    /// Elements of one sample.
    pub(super) fn elements(self) -> usize {
        match self {
            Shape::Map([c, h, w]) => c * h * w,
            Shape::Vector(c) => c,
        }
    }

    /// C.
    pub(super) fn channels(self) -> usize {
        match self {
            Shape::Map([c, ..]) | Shape::Vector(c) => c,
        }
    }
}

/// The values that an expression may name, with their shapes.
pub(super) type Scope = Vec<(String, Shape)>;

/// A step of a pipe, or several, and what they give.
pub(super) type Steps = (Vec<String>, Shape);

/// What a spec has much or little of, in percent where nothing else is said.
pub(super) struct Manner {
    /// Convolutions that a norm follows.
    pub(super) norms: usize,
    /// Blocks with a shortcut.
    pub(super) residual: usize,
    /// Weight of dropout among steps.
    pub(super) dropout: usize,
    /// Weight of blocks among steps of blocks.
    pub(super) nesting: usize,
    /// Multiply-accumulates of one convolution of one net, of the whole batch.
    pub(super) work: usize,
}

/// A block that is declared, on the shape that it was drawn for.
#[derive(Clone)]
pub(super) struct Block {
    /// How it is called.
    pub(super) call: String,
    /// What it takes.
    pub(super) takes: [usize; 3],
    /// What it gives.
    pub(super) gives: [usize; 3],
}

/// A spec while it is drawn.
pub(super) struct Drawing {
    /// The choices.
    pub(super) dice: Dice,
    /// Images in a step.
    pub(super) batch: usize,
    /// Classes of the target.
    pub(super) classes: usize,
    /// `[C, H, W]` of an image.
    pub(super) image: [usize; 3],
    /// What it has much of.
    pub(super) manner: Manner,
    /// Numbers declared at the top level.
    pub(super) numbers: Vec<(String, usize)>,
    /// Declarations that are written.
    pub(super) items: Vec<String>,
    /// Blocks that are declared.
    pub(super) blocks: Vec<Block>,
    /// Names of residual blocks `(out, stride = 1)`, which take any shape.
    pub(super) residuals: Vec<String>,
    /// Names given so far.
    pub(super) names: usize,
    /// Blocks that are being drawn, one within another.
    pub(super) depth: usize,
}

/// The largest value: elements of the whole batch.
const LARGEST: usize = 30_000;

impl Drawing {
    /// A name that nothing else has.
    pub(super) fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    /// Whether a value of that shape is small enough.
    pub(super) fn fits(&self, shape: Shape) -> bool {
        shape.elements() * self.batch <= LARGEST
    }

    /// Channels: what fills vectors and tiles, and what just does not.
    pub(super) fn channels(&mut self) -> usize {
        let usual = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 63, 64, 65];
        if self.dice.percent(80) { self.dice.pick(&usual) } else { self.dice.between(1, 40) }
    }

    /// A whole number, now and then as an expression.
    pub(super) fn number(&mut self, n: usize) -> String {
        if n == 0 || !self.dice.percent(12) {
            return n.to_string();
        }
        let k = self.dice.between(1, 9);
        match self.dice.between(0, 6) {
            0 if n > 1 => format!("{} + {}", n - 1, 1),
            1 => format!("{} / {k}", n * k),
            2 => format!("{} - {k}", n + k),
            3 => format!("{} % {}", n + n + k, n + k),
            4 => format!("-{k} + {}", n + k),
            5 if n.is_multiple_of(2) => format!("2 * {}", n / 2),
            _ => {
                let divides = self.numbers.iter().find(|(_, value)| n.is_multiple_of(*value));
                match divides {
                    Some((name, value)) if *value == n => name.clone(),
                    Some((name, value)) => format!("{name} * {}", n / value),
                    None => n.to_string(),
                }
            }
        }
    }

    /// Rows and columns: one number where they are equal, for the most part.
    pub(super) fn pair(&mut self, [rows, columns]: [usize; 2]) -> String {
        if rows == columns && self.dice.percent(85) {
            return self.number(rows);
        }
        format!("[{}, {}]", self.number(rows), self.number(columns))
    }

    /// A condition that has that value, where `in` has that shape.
    pub(super) fn condition(&mut self, holds: bool, input: Shape) -> String {
        let channels = input.channels();
        let rows = match input {
            Shape::Map([_, rows, _]) => Some(rows),
            Shape::Vector(_) => None,
        };
        match (self.dice.between(0, 9), rows, holds) {
            (0, _, _) => format!("in.channels == {}", if holds { channels } else { channels + 1 }),
            (1, _, _) => format!("in.channels != {}", if holds { channels + 1 } else { channels }),
            (2, Some(rows), true) => format!("in.height >= {rows} and in.width > 0"),
            (3, Some(rows), false) => format!("in.height < {rows} or in.width <= 0"),
            (4, _, _) => format!("not {}", !holds),
            (5, _, true) => "\"a\" == \"a\" and 0.5 < 1.0".to_owned(),
            (6, _, _) => format!("(classes == {}) == {holds}", self.classes),
            (7, _, true) => format!("in.channels % {} == 0", channels),
            (8, _, false) => format!("not (in.channels >= {channels})"),
            _ => holds.to_string(),
        }
    }
}

/// A pipe of steps from a value, or of steps alone.
pub(super) fn pipe(from: Option<&str>, steps: &[String]) -> String {
    let mut parts: Vec<&str> = from.into_iter().chain(steps.iter().map(String::as_str)).collect();
    if parts.is_empty() {
        parts.push("identity");
    }
    parts.join(" |> ")
}
