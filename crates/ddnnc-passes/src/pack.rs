//! Offsets for pieces of memory with a size and a life, so that no two that live at one time overlap.

use crate::ALIGNMENT;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A piece of memory: bytes (a multiple of [`ALIGNMENT`]) and the first and last launch that it must survive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Its size.
    pub(crate) bytes: usize,
    /// The launch at which it begins.
    pub(crate) birth: usize,
    /// The last launch that needs it; at least `birth`.
    pub(crate) death: usize,
}

/// The quadratic way places at most this many pieces.
const MANY: usize = 4096;

/// An offset for every piece, and the total: the better of two ways, the first where they are equal.
pub(crate) fn pack(pieces: &[Piece]) -> (Vec<usize>, usize) {
    let by_time = best_fit(pieces);
    let by_size = largest_first(pieces, MANY);
    if by_size.1 < by_time.1 { by_size } else { by_time }
}

/// Rounds up to the alignment; at least one unit, so that two pieces never share an offset while both live.
pub(crate) fn aligned(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

/// Goes through time with a list of free ranges and takes the smallest that fits; O(n log n).
fn best_fit(pieces: &[Piece]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; pieces.len()];
    let mut total = 0;
    // Free ranges by (size, offset) and by offset.
    let mut by_size: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut by_offset: BTreeMap<usize, usize> = BTreeMap::new();
    let mut births: Vec<usize> = (0..pieces.len()).collect();
    births.sort_by_key(|&i| (pieces[i].birth, Reverse(pieces[i].bytes), i));
    let mut deaths: Vec<usize> = (0..pieces.len()).collect();
    deaths.sort_by_key(|&i| (pieces[i].death, i));
    let mut deaths = deaths.into_iter().peekable();
    for i in births {
        let piece = pieces[i];
        while let Some(d) = deaths.next_if(|&d| pieces[d].death < piece.birth) {
            // Joins the freed range with its free neighbours.
            let (mut start, mut size) = (offsets[d], pieces[d].bytes);
            if let Some((&s, &n)) = by_offset.range(..start).next_back()
                && s + n == start
            {
                by_offset.remove(&s);
                by_size.remove(&(n, s));
                (start, size) = (s, n + size);
            }
            if let Some(n) = by_offset.remove(&(start + size)) {
                by_size.remove(&(n, start + size));
                size += n;
            }
            by_offset.insert(start, size);
            by_size.insert((size, start));
        }
        let fit = by_size.range((piece.bytes, 0)..).next().copied();
        offsets[i] = match fit {
            Some((size, start)) => {
                by_size.remove(&(size, start));
                by_offset.remove(&start);
                if size > piece.bytes {
                    by_offset.insert(start + piece.bytes, size - piece.bytes);
                    by_size.insert((size - piece.bytes, start + piece.bytes));
                }
                start
            }
            None => {
                // A free range at the very end is grown.
                let tail =
                    by_offset.iter().next_back().map(|(&s, &n)| (s, n)).filter(|&(s, n)| s + n == total);
                let start = match tail {
                    Some((s, n)) => {
                        by_offset.remove(&s);
                        by_size.remove(&(n, s));
                        s
                    }
                    None => total,
                };
                total = start + piece.bytes;
                start
            }
        };
    }
    (offsets, total)
}

/// Places the `many` largest pieces, the largest first, each as low as those already placed allow; the others, which are
/// small then, lie behind them by [`best_fit`]. O(many² + n log n).
fn largest_first(pieces: &[Piece], many: usize) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; pieces.len()];
    let mut total = 0;
    let mut by_bytes: Vec<usize> = (0..pieces.len()).collect();
    by_bytes.sort_by_key(|&i| (Reverse(pieces[i].bytes), pieces[i].birth, i));
    // (offset, end, birth, death) of what is placed, by offset.
    let mut placed: Vec<(usize, usize, usize, usize)> = Vec::with_capacity(many.min(pieces.len()));
    let small = by_bytes.split_off(many.min(pieces.len()));
    for i in by_bytes {
        let piece = pieces[i];
        let mut start = 0;
        for &(offset, end, birth, death) in &placed {
            if birth > piece.death || death < piece.birth {
                continue;
            }
            if offset >= start + piece.bytes {
                break;
            }
            start = start.max(end);
        }
        offsets[i] = start;
        total = total.max(start + piece.bytes);
        let at = placed.partition_point(|p| p.0 <= start);
        placed.insert(at, (start, start + piece.bytes, piece.birth, piece.death));
    }
    let behind: Vec<Piece> = small.iter().map(|&i| pieces[i]).collect();
    let (places, more) = best_fit(&behind);
    for (i, place) in small.into_iter().zip(places) {
        offsets[i] = total + place;
    }
    (offsets, total + more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overlaps(a: (usize, &Piece), b: (usize, &Piece)) -> bool {
        let in_time = a.1.birth <= b.1.death && b.1.birth <= a.1.death;
        in_time && a.0 < b.0 + b.1.bytes && b.0 < a.0 + a.1.bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn pieces_that_live_together_lie_apart(
            raw in prop::collection::vec((1usize..2000, 0usize..60, 0usize..20), 1..80)
        ) {
            let pieces: Vec<Piece> = raw
                .iter()
                .map(|&(b, birth, life)| Piece { bytes: aligned(b), birth, death: birth + life })
                .collect();
            let at_once = (0..80)
                .map(|t| pieces.iter().filter(|p| p.birth <= t && t <= p.death).map(|p| p.bytes).sum::<usize>())
                .max()
                .unwrap_or(0);
            let ways =
                [best_fit(&pieces), largest_first(&pieces, MANY), largest_first(&pieces, 7), pack(&pieces)];
            for (offsets, total) in ways {
                prop_assert!(total >= at_once);
                prop_assert!(total <= pieces.iter().map(|p| p.bytes).sum());
                for i in 0..pieces.len() {
                    prop_assert!(offsets[i] % ALIGNMENT == 0 && offsets[i] + pieces[i].bytes <= total);
                    for j in 0..i {
                        prop_assert!(!overlaps((offsets[i], &pieces[i]), (offsets[j], &pieces[j])));
                    }
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_pieces() {
        let pieces: Vec<Piece> = (0..10).map(|i| Piece { bytes: 128, birth: i, death: i + 1 }).collect();
        assert_eq!(pack(&pieces).1, 256);
    }

    #[test]
    fn ten_thousand_pieces_are_quick() {
        let pieces: Vec<Piece> = (0..10_000)
            .map(|i: usize| {
                let size = aligned((i * 7919) % 100_000);
                // Half of them live as activations do: from the forward pass to their place in the backward pass.
                let death = if i < 5000 && i.is_multiple_of(2) { 9_999 - i } else { i + 3 };
                Piece { bytes: size, birth: i, death }
            })
            .collect();
        let start = std::time::Instant::now();
        let (_, total) = pack(&pieces);
        assert!(total > 0);
        assert!(start.elapsed().as_secs_f64() < 3.0, "{:?}", start.elapsed());
    }
}
