//! Random bits as a pure function of counters, so that every device draws the same ones in any order.

/// One round of splitmix64 (Steele, Lea & Flood 2014): a bijection of 64-bit words that mixes well.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Whether a dropout keeps element `index`: true with probability 1 − `p`.
///
/// `seed` and `step` are the two elements of the input `rng`, `site` is the operator's own number.
pub fn dropout_keeps(seed: i64, step: i64, site: u64, index: u64, p: f64) -> bool {
    let stream = mix(mix(mix(seed as u64) ^ step as u64) ^ site);
    let bits = mix(stream ^ index);
    // The upper 53 bits as a number in [0, 1).
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64) >= p
}
