//! How convolutions are computed, and which way is chosen for which.

use crate::choices::Choices;
use crate::convolution::Geometry;
use crate::simd::Level;
use crate::winograd;
use crate::winograd_weight;
use std::sync::Arc;

/// Input channels below which weight gradients are no products of pairs of bf16.
const NARROW: usize = 8;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Sums of f32 products, tap by tap.
    Direct,
    /// Every channel on its own.
    Depthwise,
    /// Winograd's F(4×4, 3×3) in f32.
    Winograd,
    /// Products of pairs of bf16, summed in f32.
    Bf16,
}

/// What a convolution computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// y of x and w.
    Forward,
    /// dx of dy and w.
    InputGradient,
    /// dw of x and dy.
    WeightGradient,
}

/// What the choice goes by besides the shape.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instructions that kernels may use.
    pub level: Level,
    /// Whether products of pairs of bf16 are faster than those of f32.
    pub pairs: bool,
    /// Whether Winograd's algorithm may be chosen.
    pub winograd: bool,
    /// What was measured.
    pub choices: Arc<Choices>,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 4] = [Method::Direct, Method::Depthwise, Method::Winograd, Method::Bf16];

    /// As users read it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Direct => "direct",
            Method::Depthwise => "depthwise",
            Method::Winograd => "winograd",
            Method::Bf16 => "bf16",
        }
    }

    /// Whether its tasks ask for their memory ahead of use, so that tile programs on the way in and out need not.
    pub fn asks_ahead(self, direction: Direction) -> bool {
        match self {
            Method::Depthwise | Method::Winograd => true,
            Method::Direct | Method::Bf16 => direction != Direction::WeightGradient,
        }
    }

    /// Whether it computes such a convolution; `bf16` where both operands are rounded to bf16.
    pub fn fits(self, g: &Geometry, direction: Direction, level: Level, bf16: bool) -> bool {
        match self {
            Method::Direct => !g.is_depthwise(),
            Method::Depthwise => g.is_depthwise(),
            Method::Winograd if direction == Direction::WeightGradient => winograd_weight::fits(g),
            Method::Winograd => winograd::fits(g),
            Method::Bf16 => bf16 && level.multiplies_bf16() && g.conv.groups == 1,
        }
    }

    /// The fastest by what is known of the kernels, for parts of so many images.
    pub fn choose(
        settings: &Settings,
        g: &Geometry,
        direction: Direction,
        images: &[usize],
        bf16: bool,
    ) -> Method {
        let fast = settings.pairs || settings.level.multiplies_tiles();
        let fits = |method: &Method| method.fits(g, direction, settings.level, bf16 && fast);
        let bf16 = fits(&Method::Bf16);
        let pays = match direction {
            // Tiles of pairs are faster than a fourth of the products in f32.
            _ if bf16 && settings.level.multiplies_tiles() => false,
            Direction::WeightGradient => winograd_weight::pays(g, images, bf16),
            _ => winograd::pays(g, direction, images, bf16),
        };
        if settings.winograd && fits(&Method::Winograd) && pays {
            return Method::Winograd;
        }
        // The rows of its products are input channels: of a few, most of a vector would be empty.
        let empty = direction == Direction::WeightGradient && g.inputs < NARROW;
        let ways = if empty { &[Method::Depthwise][..] } else { &[Method::Bf16, Method::Depthwise] };
        ways.iter().copied().find(fits).unwrap_or(Method::Direct)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use ddnnc_ir::Conv;

    fn settings(pairs: bool) -> Settings {
        Settings { level: Level::Avx512Bf16, pairs, winograd: true, choices: Arc::default() }
    }

    #[test]
    fn pairs_are_left_alone_where_they_are_slow() {
        let conv = Conv { stride: [2; 2], pad: [1; 2], dilation: [1; 2], groups: 1 };
        let g = Geometry { conv, input: [32; 2], output: [16; 2], kernel: [3; 2], inputs: 64, outputs: 64 };
        for direction in [Direction::Forward, Direction::InputGradient, Direction::WeightGradient] {
            let chosen = |settings: &Settings| Method::choose(settings, &g, direction, &[32], true);
            assert_eq!(chosen(&settings(true)), Method::Bf16);
            assert_eq!(chosen(&settings(false)), Method::Direct);
            assert_eq!(chosen(&Settings { level: Level::Amx, ..settings(false) }), Method::Bf16);
        }
    }

    #[test]
    fn weight_gradients_of_few_channels_are_no_pairs_of_bf16() {
        let settings = settings(true);
        let chosen = |direction, inputs| {
            let conv = Conv { stride: [2; 2], pad: [1; 2], dilation: [1; 2], groups: 1 };
            let g = Geometry { conv, input: [32; 2], output: [16; 2], kernel: [3; 2], inputs, outputs: 64 };
            Method::choose(&settings, &g, direction, &[32], true)
        };
        assert_eq!(chosen(Direction::WeightGradient, 3), Method::Direct);
        assert_eq!(chosen(Direction::WeightGradient, 16), Method::Bf16);
        assert_eq!(chosen(Direction::Forward, 3), Method::Bf16);
    }

    /// What was faster when measured, of 3×3 weight gradients of stride 1.
    #[test]
    fn weight_gradients_are_computed_the_faster_way() {
        for (side, channels, bf16, method) in [
            (32, 64, true, Method::Winograd),
            (28, 128, true, Method::Winograd),
            (16, 32, true, Method::Winograd),
            (32, 16, true, Method::Bf16),
            (32, 16, false, Method::Winograd),
            (14, 256, true, Method::Bf16),
            (14, 256, false, Method::Winograd),
            (7, 512, true, Method::Bf16),
            (4, 512, true, Method::Bf16),
            (4, 512, false, Method::Winograd),
        ] {
            let settings = settings(true);
            let conv = Conv { stride: [1; 2], pad: [1; 2], dilation: [1; 2], groups: 1 };
            let (input, kernel) = ([side; 2], [3; 2]);
            let g = Geometry { conv, input, output: input, kernel, inputs: channels, outputs: channels };
            let chosen = Method::choose(&settings, &g, Direction::WeightGradient, &[128], bf16);
            assert_eq!(chosen, method, "{channels} channels of {side}×{side}, bf16 {bf16}");
        }
    }
}
