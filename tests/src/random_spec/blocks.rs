//! Blocks: with a shortcut and parameters, or with any steps and names of values.

use super::drawing::{Block, Drawing, Scope, Shape, pipe};
use super::windows::Size;

/// How often a block is drawn again before it is the identity.
const TRIES: usize = 20;

/// How deep blocks use one another.
const DEPTH: usize = 2;

impl Drawing {
    /// A block on that map, declared now or before; one that keeps the shape where `size` says so.
    pub(super) fn block(&mut self, takes: [usize; 3], size: Size) -> Block {
        let fits = |block: &&Block| block.takes == takes && (size == Size::Any || block.gives == takes);
        let known: Vec<usize> = (0..self.blocks.len()).filter(|&i| fits(&&self.blocks[i])).collect();
        if !known.is_empty() && self.dice.percent(25) {
            return self.blocks[self.dice.pick(&known)].clone();
        }
        for _ in 0..TRIES {
            let drawn = match self.dice.percent(self.manner.residual) {
                true => self.residual(takes, size),
                false => self.free(takes, size),
            };
            if let Some(block) = drawn {
                self.blocks.push(block.clone());
                return block;
            }
        }
        Block { call: "identity".to_owned(), takes, gives: takes }
    }

    /// A block within a block, which keeps the shape.
    pub(super) fn nested(&mut self, takes: [usize; 3]) -> Option<Block> {
        (self.depth < DEPTH).then(|| self.block(takes, Size::Same))
    }

    /// A call of a block `(out, stride = 1)` with a shortcut.
    fn residual(&mut self, takes: [usize; 3], size: Size) -> Option<Block> {
        let [c, h, w] = takes;
        let (out, stride) = match size {
            Size::Same => (c, 1),
            Size::Any => (self.channels(), self.dice.pick(&[1, 2, 2, 3])),
        };
        let gives = [out, (h - 1) / stride + 1, (w - 1) / stride + 1];
        // The largest of its convolutions has nine taps.
        let work = out * c.max(out) * 9 * gives[1] * gives[2] * self.batch;
        if work > self.manner.work || !self.fits(Shape::Map(gives)) || gives[1] * gives[2] * self.batch < 4 {
            return None;
        }
        let name = match self.residuals.is_empty() || self.dice.percent(30) {
            true => self.declare_residual(),
            false => {
                let i = self.dice.between(0, self.residuals.len() - 1);
                self.residuals[i].clone()
            }
        };
        let channels = self.number(out);
        let call = match (stride, self.dice.between(0, 2)) {
            (1, 0 | 1) => format!("{name}({channels})"),
            (_, 0) => format!("{name}({channels}, {stride})"),
            (_, 1) => format!("{name}(out = {channels}, stride = {stride})"),
            _ => format!("{name}({channels}, stride = {stride})"),
        };
        Some(Block { call, takes, gives })
    }

    fn declare_residual(&mut self) -> String {
        let name = self.name("residual");
        let (activation, kernel) = (self.activation(), self.dice.pick(&[1, 3, 3, 3, 5]));
        let body = match self.dice.between(0, 3) {
            0 => format!(
                "conv(out, {kernel}, stride) |> bn |> {activation}\n       |> conv(out, 3) |> bn |> add(skip) |> {activation}"
            ),
            1 => format!(
                "conv((out + 3 - (out + 3) % 4) / 4, 1) |> bn |> {activation}\n       |> depthwise({kernel}, stride) |> bn |> {activation} |> conv(out, 1) |> bn |> add(skip)"
            ),
            2 => format!("bn |> {activation} |> conv(out, {kernel}, stride) |> add(skip)"),
            _ => format!(
                "conv(out, {kernel}, stride, bias = true) |> {activation} |> bn |> add(skip) |> {activation}"
            ),
        };
        self.items.push(format!(
            "block {name}(out, stride = 1) {{\n    let skip = if stride == 1 and in.channels == out {{ in }}\n               \
             else {{ in |> conv(out, 1, stride) as proj |> bn as proj_bn }}\n    in |> {body}\n}}"
        ));
        self.residuals.push(name.clone());
        name
    }

    /// A block of any steps.
    fn free(&mut self, takes: [usize; 3], size: Size) -> Option<Block> {
        self.depth += 1;
        let body = self.body(takes, size);
        self.depth -= 1;
        let (text, gives) = body?;
        let name = self.name("block");
        self.items.push(format!("block {name} {{\n{text}}}"));
        Some(Block { call: name, takes, gives })
    }

    /// `let`s, and a pipe that gives a map.
    fn body(&mut self, takes: [usize; 3], size: Size) -> Option<(String, [usize; 3])> {
        let input = Shape::Map(takes);
        let mut scope: Scope = vec![("in".to_owned(), input)];
        let mut text = String::new();
        for i in 0..self.dice.pick(&[0, 0, 1, 1, 2, 3]) {
            let at = self.dice.between(0, scope.len() - 1);
            let (from, of) = scope[at].clone();
            let (value, gives) = match of {
                Shape::Map(map) if self.dice.percent(35) => self.gate(&scope, &from, map, takes[0]),
                _ => {
                    let count = self.dice.between(1, 3);
                    let (steps, gives) = self.steps(&scope, of, size, count);
                    (self.pipe_from(&from, steps), gives)
                }
            };
            let name = format!("v{i}");
            let value = match self.dice.percent(12) {
                true => {
                    let holds = self.dice.percent(50);
                    let condition = self.condition(holds, input);
                    let branches = match holds {
                        true => format!("{{ let w = {value}\n        w }} else {{ in }}"),
                        false => format!("{{ in }} else {{ let w = {value}\n        w }}"),
                    };
                    format!("if {condition} {branches}")
                }
                false => value,
            };
            text += &format!("    let {name} = {value}\n");
            scope.push((name, gives));
        }
        let kept = |of: Shape| match of {
            Shape::Map(map) => size == Size::Any || map[1..] == takes[1..],
            Shape::Vector(_) => false,
        };
        let stretches = scope.iter().position(|(_, of)| *of == Shape::Vector(takes[0]));
        let (from, mut steps, of) = match stretches.filter(|_| self.dice.percent(30)) {
            // A vector stretches over the map that it is combined with.
            Some(i) => (scope[i].0.clone(), vec![format!("{}(in)", self.dice.pick(&["mul", "add"]))], input),
            None => {
                let starts: Vec<usize> = (0..scope.len()).filter(|&i| kept(scope[i].1)).collect();
                let (name, of) = scope[self.dice.pick(&starts)].clone();
                (name, Vec::new(), of)
            }
        };
        let count = self.dice.between(0, 4);
        let (more, mut gives) = self.steps(&scope, of, size, count);
        steps.extend(more);
        if size == Size::Same && gives != input {
            let Shape::Map([_, rows, columns]) = gives else { return None };
            if [rows, columns] != takes[1..] {
                return None;
            }
            steps.push(self.projection(takes[0]));
            gives = input;
        }
        let shortcuts: Vec<String> =
            scope.iter().filter(|(_, of)| *of == gives).map(|(name, _)| name.clone()).collect();
        if !shortcuts.is_empty() && self.dice.percent(50) {
            let i = self.dice.between(0, shortcuts.len() - 1);
            steps.push(format!("{}({})", self.dice.pick(&["add", "add", "add", "mul"]), shortcuts[i]));
            steps.push(self.activation());
        }
        if steps.is_empty() {
            steps.push("identity".to_owned());
        }
        let Shape::Map(gives) = gives else { return None };
        text += &format!("    {}\n", self.pipe_from(&from, steps));
        Some((text, gives))
    }

    /// A vector of as many channels as the block takes, from the means of a map: a squeeze-and-excite gate.
    fn gate(&mut self, scope: &Scope, from: &str, map: [usize; 3], channels: usize) -> (String, Shape) {
        let mut steps = vec!["global_avg_pool".to_owned()];
        let count = self.dice.between(0, 3);
        let (more, mut gives) = self.steps(scope, Shape::Vector(map[0]), Size::Same, count);
        steps.extend(more);
        if gives != Shape::Vector(channels) && self.dice.percent(80) {
            steps.push(self.linear(channels));
            gives = Shape::Vector(channels);
        }
        if self.dice.percent(50) {
            steps.push("sigmoid".to_owned());
        }
        (self.pipe_from(from, steps), gives)
    }

    /// An entry of a stage that is no block's call.
    pub(super) fn plain_entry(&mut self, takes: [usize; 3]) -> Option<String> {
        let scope: Scope = vec![("in".to_owned(), Shape::Map(takes))];
        let (mut steps, gives) = self.steps(&scope, Shape::Map(takes), Size::Same, 2);
        if gives != Shape::Map(takes) {
            let Shape::Map([_, rows, columns]) = gives else { return None };
            if [rows, columns] != takes[1..] {
                return None;
            }
            steps.push(self.projection(takes[0]));
        }
        (!steps.is_empty()).then(|| pipe(None, &steps))
    }
}
