//! Elementary functions in f32, without branches and calls, so that loops over them vectorise at every level: the same bits
//! at each, and on every machine, whatever its mathematical library.

/// Added and taken away again, it rounds what is smaller than 2²² to the nearest whole number.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts, of which the first has so few digits that its products with whole numbers below 2⁹ are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// 2ⁿ for a whole number n of −126 to 127.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// e^x: within 2 units in the last place, infinite from 88.73 on, 0 below −104.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Beyond these it is infinite, or 0. What is no number stays so.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    // Cephes: e^r on ±ln 2 / 2.
    let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // In two steps, as the power alone may be none of f32.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    y * power(half) * power(n.wrapping_sub(half))
}

/// ln max(x, 2⁻¹²⁶), within 2 units in the last place.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let x = if x < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { x };
    // x = 2^e · (1 + z), where 1 + z lies between √½ and √2.
    let bits = x.to_bits() as i32;
    let e = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let z = f32::from_bits(bits.wrapping_sub(e << 23) as u32) - 1.0;
    // Cephes.
    let p = 7.037_683_6e-2 * z - 0.115_146_1;
    let p = p * z + 0.116_769_99;
    let p = p * z - 0.124_201_41;
    let p = p * z + 0.142_493_23;
    let p = p * z - 0.166_680_58;
    let p = p * z + 0.200_007_14;
    let p = p * z - 0.249_999_94;
    let p = p * z + 0.333_333_3;
    let (e, square) = (e as f32, z * z);
    let y = p * square * z + e * LN_2[1] - 0.5 * square;
    let y = (z + y) + e * LN_2[0];
    // What is infinite, or no number, stays so.
    if x < f32::INFINITY { y } else { x }
}

/// 1 / (1 + e^−x)
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, within 3 units in the last place.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    // Cephes: below 0.625 a polynomial, so that small results keep their digits.
    let z = x * x;
    let p = -5.704_988_7e-3 * z + 2.063_909e-2;
    let p = p * z - 5.373_971_5e-2;
    let p = p * z + 0.133_314_42;
    let p = p * z - 0.333_332_8;
    let small = p * z * a + a;
    let large = 1.0 - 2.0 / (exp(a + a) + 1.0);
    let y = if a < 0.625 { small } else { large };
    y.copysign(x)
}

/// The distribution function of the standard normal distribution: within 1.5e-6 of itself down to −5.
#[inline(always)]
pub fn phi(x: f32) -> f32 {
    let a = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * a);
    // Press et al., Numerical Recipes, `erfcc`: erfc(a) = t · e^(−a² + p(t)), to 1.2e-7 of itself.
    let p = 0.170_872_77 * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - 0.5 * x * x);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pointwise_kernels::{unary, unary_grad};
    use crate::simd::Level;
    use ddnnc_ir::UnaryKind;

    /// Every 997th number of f32 within a bound, of both signs.
    fn numbers(bound: f32) -> impl Iterator<Item = f32> {
        let positive = (0..=bound.to_bits()).step_by(997).map(f32::from_bits);
        positive.flat_map(|x| [x, -x])
    }

    /// How far results are from what they should be, in units of the last place of that.
    fn farthest(bound: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for x in numbers(bound) {
            let wanted = exact(f64::from(x));
            let unit = f64::from((wanted as f32).abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
            let off = (f64::from(f(x)) - wanted).abs() / unit;
            // What is no number is the worst.
            if off.is_nan() || off > worst.0 {
                worst = (off, x);
            }
        }
        worst
    }

    #[test]
    fn functions_are_near_the_exact_ones() {
        let phi64 = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        for (name, bound, f, exact, units) in [
            ("exp", 88.0, exp as fn(f32) -> f32, f64::exp as fn(f64) -> f64, 2.0),
            ("sigmoid", 80.0, sigmoid, |x: f64| 1.0 / (1.0 + (-x).exp()), 3.0),
            ("tanh", 50.0, tanh, f64::tanh, 3.0),
            ("phi", 5.0, phi, phi64, 12.0),
            ("ln", f32::MAX, ln, |x: f64| x.max(f64::from(f32::MIN_POSITIVE)).ln(), 2.0),
        ] {
            let (off, at) = farthest(bound, f, exact);
            assert!(off <= units, "{name}({at}) is off by {off} units");
        }
    }

    #[test]
    fn ends_are_as_they_should_be() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!([exp(inf), exp(-inf), exp(0.0), exp(88.8), exp(-105.0)], [inf, 0.0, 1.0, inf, 0.0]);
        assert_eq!([sigmoid(inf), sigmoid(-inf), sigmoid(0.0)], [1.0, 0.0, 0.5]);
        assert_eq!([tanh(inf), tanh(-inf), tanh(0.0), tanh(20.0)], [1.0, -1.0, 0.0, 1.0]);
        assert!(tanh(-0.0).is_sign_negative());
        assert_eq!([phi(inf), phi(-inf), phi(-40.0), phi(40.0)], [1.0, 0.0, 0.0, 1.0]);
        // The smallest numbers of all are reached.
        assert!((exp(-100.0) - 3.8e-44).abs() < 2e-45 && exp(-103.0) > 0.0);
        assert_eq!([ln(1.0), ln(0.0), ln(-inf), ln(inf)], [0.0, f32::MIN_POSITIVE.ln(), ln(1e-45), inf]);
        for f in [exp, ln, sigmoid, tanh, phi] {
            assert!(f(nan).is_nan());
        }
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        let x: Vec<f32> = numbers(100.0).step_by(101).collect();
        let kinds = [UnaryKind::Sigmoid, UnaryKind::Tanh, UnaryKind::Silu, UnaryKind::Gelu, UnaryKind::Log];
        for kind in kinds {
            let bits = |level: Level| {
                let mut out = [vec![0.0; x.len()], vec![0.0; x.len()]];
                unary(level, kind, &mut out[0], &x);
                unary_grad(level, kind, &mut out[1], &x, &x);
                out.map(|all| all.iter().map(|y| y.to_bits()).collect::<Vec<u32>>())
            };
            let portable = bits(Level::Portable);
            assert!(Level::available().all(|level| bits(level) == portable), "{kind:?}");
        }
    }
}
