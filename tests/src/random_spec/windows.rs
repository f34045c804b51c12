//! Convolutions and pools: geometries that fit a map.

use super::drawing::{Drawing, Shape};
use ddnnc_ir::{Conv, Pool};

/// What a convolution or a pool has to give.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Any map.
    Any,
    /// A map of as many rows and columns.
    Same,
}

/// How often a geometry is drawn again before there is none.
const TRIES: usize = 20;

impl Drawing {
    /// A convolution, or one of every channel on its own: its text and its result.
    pub(super) fn convolution(
        &mut self,
        [c, h, w]: [usize; 3],
        out: Option<usize>,
        size: Size,
    ) -> Option<(String, [usize; 3])> {
        for _ in 0..TRIES {
            let depthwise = out.is_none_or(|out| out == c) && self.dice.percent(20);
            let out = if depthwise { c } else { out.unwrap_or_else(|| self.channels()) };
            let kernel = match self.dice.percent(15) {
                true => [self.dice.pick(&[1, 2, 3, 5]), self.dice.pick(&[1, 2, 3, 5])],
                false => [self.dice.pick(&[1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 7]); 2],
            };
            let dilation = match self.dice.percent(5) {
                true => [self.dice.between(1, 3), self.dice.between(1, 2)],
                false => [self.dice.pick(&[1, 1, 1, 1, 1, 2, 2, 3]); 2],
            };
            let strided = size == Size::Any && self.dice.percent(35);
            let stride = match strided {
                true => self.dice.pick(&[[2, 2], [2, 2], [2, 2], [3, 3], [1, 2], [2, 1], [3, 2]]),
                false => [1, 1],
            };
            let usual = [0, 1].map(|i| dilation[i] * (kernel[i] - 1) / 2);
            let padded = size == Size::Any && self.dice.percent(25);
            let pad = match padded {
                true => {
                    self.dice.pick(&[[0, 0], [0, 0], [1, 1], [1, 1], [2, 2], [3, 3], [0, 1], [1, 0], [2, 1]])
                }
                false => usual,
            };
            let groups = if depthwise { c } else { self.groups(c, out) };
            let conv = Conv { stride, pad, dilation, groups };
            let Some([rows, columns]) = conv.output([h, w], kernel) else { continue };
            let work = out * (c / groups) * kernel[0] * kernel[1] * rows * columns * self.batch;
            let same = [rows, columns] == [h, w];
            let grown = rows > h + 4 || columns > w + 4;
            let gives = [out, rows, columns];
            if (size == Size::Same && !same)
                || grown
                || work > self.manner.work
                || !self.fits(Shape::Map(gives))
            {
                continue;
            }
            let text = match depthwise {
                true => self.depthwise_text(kernel, &conv, pad != usual || padded),
                false => self.conv_text(out, kernel, &conv, pad != usual || padded),
            };
            return Some((text, gives));
        }
        None
    }

    /// A convolution of one tap to so many channels, which every map takes.
    pub(super) fn projection(&mut self, out: usize) -> String {
        format!("conv({}, 1)", self.number(out))
    }

    fn groups(&mut self, c: usize, out: usize) -> usize {
        let all: Vec<usize> =
            (2..=c.min(out)).filter(|&g| c.is_multiple_of(g) && out.is_multiple_of(g)).collect();
        if !all.is_empty() && self.dice.percent(20) { self.dice.pick(&all) } else { 1 }
    }

    fn conv_text(&mut self, out: usize, kernel: [usize; 2], conv: &Conv, padded: bool) -> String {
        let (out, kernel) = (self.number(out), self.pair(kernel));
        let mut args = match self.dice.between(0, 9) {
            0 => vec![format!("out = {out}"), format!("kernel = {kernel}")],
            1 => vec![out, format!("kernel = {kernel}")],
            _ => vec![out, kernel],
        };
        let named = args.iter().any(|arg| arg.contains('='));
        if conv.stride != [1, 1] {
            let stride = self.pair(conv.stride);
            args.push(if !named && self.dice.percent(50) { stride } else { format!("stride = {stride}") });
        }
        if conv.groups > 1 {
            args.push(format!("groups = {}", self.number(conv.groups)));
        }
        self.further(&mut args, conv, padded);
        format!("conv({})", args.join(", "))
    }

    fn depthwise_text(&mut self, kernel: [usize; 2], conv: &Conv, padded: bool) -> String {
        let kernel = self.pair(kernel);
        let mut args = vec![if self.dice.percent(10) { format!("kernel = {kernel}") } else { kernel }];
        if conv.stride != [1, 1] {
            args.push(format!("stride = {}", self.pair(conv.stride)));
        }
        self.further(&mut args, conv, padded);
        format!("depthwise({})", args.join(", "))
    }

    fn further(&mut self, args: &mut Vec<String>, conv: &Conv, padded: bool) {
        if padded {
            args.push(format!("pad = {}", self.pair(conv.pad)));
        }
        if conv.dilation != [1, 1] {
            args.push(format!("dilation = {}", self.pair(conv.dilation)));
        }
        if self.dice.percent(15) {
            args.push(format!("bias = {}", self.dice.percent(90)));
        }
    }

    /// A pool: its text and its result.
    pub(super) fn pool(&mut self, [c, h, w]: [usize; 3], size: Size) -> Option<(String, [usize; 3])> {
        for _ in 0..TRIES {
            let kernel =
                self.dice.pick(&[[1, 1], [2, 2], [2, 2], [3, 3], [3, 3], [4, 4], [5, 5], [2, 3], [3, 1]]);
            let stride = match (size, self.dice.percent(40)) {
                (Size::Same, _) => Some([1, 1]),
                (Size::Any, true) => None,
                (Size::Any, false) => Some(self.dice.pick(&[[1, 1], [1, 1], [2, 2], [2, 2], [3, 3], [1, 2]])),
            };
            let pad = match size {
                Size::Same => kernel.map(|k| (k - 1) / 2),
                Size::Any => self.dice.pick(&[[0, 0], [0, 0], [1, 1], [1, 1], [2, 2], [1, 0], [0, 1]]),
            };
            if pad[0] >= kernel[0] || pad[1] >= kernel[1] {
                continue;
            }
            let pool = Pool { kernel, stride: stride.unwrap_or(kernel), pad };
            let Some([rows, columns]) = pool.output([h, w]) else { continue };
            if size == Size::Same && [rows, columns] != [h, w] {
                continue;
            }
            let mut args = vec![self.pair(kernel)];
            if let Some(stride) = stride {
                args.push(format!("stride = {}", self.pair(stride)));
            }
            if pad != [0, 0] {
                args.push(format!("pad = {}", self.pair(pad)));
            }
            let name = self.dice.pick(&["max_pool", "avg_pool"]);
            return Some((format!("{name}({})", args.join(", ")), [c, rows, columns]));
        }
        None
    }
}
