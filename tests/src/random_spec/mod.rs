//! Random specs: from a seed to a legal `.ddnn` file that is small enough to be evaluated in f64.
//!
//! A spec is drawn forwards, with the shape of every value known, so that each one is legal by construction: one that the
//! front end refuses is a fault of one of the two. What they have in common with networks that people train is little,
//! and meant to be so: channels that fill no vector, maps of one row, strides beyond the kernel, blocks that use their
//! input thrice, exits in the middle of a stage, sub-nets that teach one another. [`crate::vocabulary`] says which words
//! of the language a spec uses, and a test demands that a few hundred seeds use them all.

mod blocks;
mod dice;
mod drawing;
mod networks;
mod phases;
mod steps;
mod training;
mod windows;

use crate::harness::try_model;
use ddnnc_ir::Mode;
use dice::Dice;
use drawing::{Drawing, Manner};

/// Multiply-accumulates of all nets on a whole batch, at most.
const WORK: u64 = 6_000_000;

/// A spec and where it comes from.
#[derive(Clone, Debug)]
pub struct RandomSpec {
    /// The seed that it was drawn by.
    pub seed: u64,
    /// Its text.
    pub text: String,
}

/// The spec of a seed: the first that the seed draws whose nets have little enough to do.
pub fn random_spec(seed: u64) -> RandomSpec {
    let mut dice = Dice::new(seed);
    loop {
        let text;
        (dice, text) = draw(dice, seed);
        let small = match try_model(&text, Mode::Train, None) {
            Ok(model) => model.nets.iter().map(|net| net.macs).sum::<u64>() * model.batch as u64 <= WORK,
            // Whoever compares it finds that it is refused.
            Err(_) => true,
        };
        if small {
            return RandomSpec { seed, text };
        }
    }
}

fn draw(mut dice: Dice, seed: u64) -> (Dice, String) {
    let sides = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 21];
    let rows = dice.pick(&sides);
    let columns = if dice.percent(50) { rows } else { dice.pick(&sides) };
    let sides = if dice.percent(10) { [dice.pick(&[24, 28, 33]); 2] } else { [rows, columns] };
    let manner = Manner {
        norms: dice.pick(&[90, 90, 60, 20, 0]),
        residual: dice.pick(&[0, 20, 50, 90]),
        dropout: dice.pick(&[0, 0, 0, 5]),
        nesting: dice.pick(&[0, 7]),
        work: dice.pick(&[100_000, 300_000, 1_000_000, 3_000_000]),
    };
    let mut drawing = Drawing {
        batch: dice.pick(&[1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9]),
        classes: dice.pick(&[2, 3, 4, 5, 7, 10, 10, 16, 17, 33]),
        image: [dice.pick(&[1, 3, 3, 2, 4, 5, 8, 16, 17]), sides[0], sides[1]],
        manner,
        dice,
        numbers: Vec::new(),
        items: Vec::new(),
        blocks: Vec::new(),
        residuals: Vec::new(),
        names: 0,
        depth: 0,
    };
    drawing.declare_all();
    let Drawing { dice, items, .. } = drawing;
    (dice, format!("// Drawn by seed {seed}.\nmodel random\n\n{}\n", items.join("\n\n")))
}

impl Drawing {
    /// Every declaration, in an order that says nothing.
    fn declare_all(&mut self) {
        let [c, h, w] = self.image;
        self.items.push(format!("input image : f32[{c}, {h}, {w}]"));
        self.items.push(format!("target label : class[{}]", self.classes));
        for _ in 0..self.dice.pick(&[0, 0, 1, 2]) {
            let (name, value) = (self.name("number"), self.dice.pick(&[1, 2, 3, 4, 8, 16]));
            self.items.push(format!("let {name} = {value}"));
            self.numbers.push((name, value));
        }
        let mut backbones = vec![self.backbone()];
        let mut nets = self.subnets(&backbones, 0);
        if self.dice.percent(30) {
            let of = match self.dice.percent(60) {
                true => {
                    backbones.push(self.backbone());
                    1
                }
                false => 0,
            };
            nets.push(self.network(&backbones, of));
        }
        for _ in 0..self.dice.pick(&[0, 0, 0, 1, 1, 2, 3]) {
            nets.extend(self.exit(&backbones, &nets));
        }
        self.share(&backbones[0]);
        self.supervise(&nets);
        self.distill(&backbones, &nets);
        let phased = self.dice.percent(25);
        self.train(phased);
        if phased {
            self.phases(&backbones, &nets);
        }
        if self.dice.percent(15) {
            let order = self.order(&nets);
            self.items.push(order);
        }
        if self.dice.percent(15) {
            self.items.push("task classification".to_owned());
        }
        if self.dice.percent(30) {
            let mut items = std::mem::take(&mut self.items);
            self.dice.shuffle(&mut items);
            self.items = items;
        }
        // Last, so that what else a seed draws does not hang on it.
        self.distill_sets(&nets);
    }
}
