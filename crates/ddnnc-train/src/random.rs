//! Counter-based random streams: each is keyed by what it is for, so no draw depends on another's order.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for; part of its key.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Parameter = 1,
    Shuffle = 2,
    Augment = 3,
    Split = 4,
    Pool = 5,
}

/// The stream of (`seed`, `purpose`, `a`, `b`).
pub(crate) fn stream(seed: u64, purpose: Purpose, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// FNV-1a over bytes (Fowler, Noll, Vo), 64 bits.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A number below `n` (0 for `n` = 0), by the high half of a 64×64-bit product; the bias is below n/2⁶⁴.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    let wide = u128::from(rng.next_u64()) * u128::from(n);
    (wide >> 64) as u64
}

/// A number in [0, 1) with 53 random bits.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Shuffles in place (Fisher and Yates).
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        let j = below(rng, i as u64 + 1) as usize;
        items.swap(i, j);
    }
}
