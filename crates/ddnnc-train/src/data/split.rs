//! The validation split: a seeded choice from the training images, the same fraction of every class.

use crate::random::{self, Purpose};

/// Indices to train on and indices held out, both ascending. Of each class, `fraction` of its images (rounded) is held
/// out, but never the last one; the choice depends on `seed`, the class and the order of the images alone.
pub(super) fn stratified(labels: &[u32], classes: usize, fraction: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut by_class: Vec<Vec<u32>> = vec![Vec::new(); classes];
    for (i, &label) in labels.iter().enumerate() {
        if let Some(class) = by_class.get_mut(label as usize) {
            class.push(i as u32);
        }
    }
    let (mut kept, mut held_out) = (Vec::new(), Vec::new());
    for (class, mut images) in by_class.into_iter().enumerate() {
        random::shuffle(&mut random::stream(seed, Purpose::Split, class as u64, 0), &mut images);
        let out = (images.len() as f64 * fraction.clamp(0.0, 1.0)).round() as usize;
        let rest = images.split_off(out.min(images.len().saturating_sub(1)));
        held_out.extend(images);
        kept.extend(rest);
    }
    kept.sort_unstable();
    held_out.sort_unstable();
    (kept, held_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_one_image_is_trained_on() {
        let (kept, held_out) = stratified(&[0, 1, 1, 1], 3, 0.5, 0);
        assert!(kept.contains(&0), "{held_out:?} held out");
        assert_eq!((kept.len(), held_out.len()), (2, 2));
    }
}
