//! Whose turn it is.

/// In which order the warps of a block, and the blocks of a grid, take turns. Results must not depend on it; faults may
/// show in one order only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Lowest first.
    Forward,
    /// Highest first.
    Reverse,
    /// Drawn anew at each turn, from this seed.
    Random(u64),
}

impl Order {
    /// Block number `i` of `n` to begin.
    pub(crate) fn block(self, i: u64, n: u64) -> u64 {
        match self {
            Order::Forward => i,
            Order::Reverse => n - 1 - i,
            Order::Random(seed) => shuffled(i, n, seed),
        }
    }
}

/// SplitMix64: a counter and a hash.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }
}

/// The finishing hash of SplitMix64.
pub(crate) fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A permutation of 0..n without a table: a Feistel network on the next even power of two, walked until it lands below
/// n again.
fn shuffled(i: u64, n: u64, seed: u64) -> u64 {
    let half = (64 - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let low = (1u64 << half) - 1;
    let mut x = i;
    loop {
        let (mut left, mut right) = (x >> half, x & low);
        for round in 0..4 {
            (left, right) = (right, left ^ mix(right ^ mix(seed.wrapping_add(round))) & low);
        }
        x = left << half | right;
        if x < n {
            return x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_takes_each_block_once() {
        for order in [Order::Forward, Order::Reverse, Order::Random(0), Order::Random(7)] {
            for n in [1, 2, 3, 17, 64, 1000] {
                let mut seen = vec![false; n as usize];
                for i in 0..n {
                    let b = order.block(i, n) as usize;
                    assert!(!seen[b], "{order:?} takes block {b} of {n} twice");
                    seen[b] = true;
                }
            }
        }
        let drawn: Vec<u64> = (0..64).map(|i| Order::Random(1).block(i, 64)).collect();
        assert_ne!(drawn, (0..64).collect::<Vec<_>>());
    }
}
