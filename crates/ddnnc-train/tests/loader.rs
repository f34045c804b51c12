//! The split, the order and the augmentation of training images.

mod common;

use common::mnist;
use ddnnc_ir::{Augment, Curriculum};
use ddnnc_train::{Batch, Loader, Pools};
use std::collections::BTreeSet;

fn all(mut loader: Loader) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = loader.next_batch() {
        let batch = batch.unwrap();
        batches.push(batch.clone());
        loader.recycle(batch);
    }
    batches
}

/// (tag, number) of every real image, as its pixels tell.
fn identities(batches: &[Batch]) -> Vec<(u32, u32)> {
    let pixel = |x: f32| (x * 255.0).round() as u32;
    let of = |b: &Batch| {
        let images = b.images.chunks(784).take(b.real);
        images.map(|i| (pixel(i[1]), pixel(i[2]) + 256 * pixel(i[3]))).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn splits_are_apart_and_stratified() {
    let folder = tempfile::tempdir().unwrap();
    let data = mnist(folder.path(), 300, 35, 0.1, vec![]);
    assert_eq!((data.train_len(), data.validation_len(), data.test_len()), (270, 30, 35));
    let validation = all(data.validation(8, 1));
    let held_out: BTreeSet<_> = identities(&validation).into_iter().collect();
    assert_eq!(held_out.len(), 30);
    for class in 0..10 {
        assert_eq!(held_out.iter().filter(|(_, n)| n % 10 == class).count(), 3);
    }
    let trained: BTreeSet<_> = identities(&all(data.training(27, 0, 20, 2).unwrap())).into_iter().collect();
    assert_eq!(trained.len(), 270, "an epoch holds every image once");
    assert!(trained.is_disjoint(&held_out));
    assert!(
        trained.iter().chain(&held_out).all(|(tag, _)| *tag == 1),
        "a test image was trained or validated on"
    );
    let test = all(data.test(8, 3));
    let numbers: Vec<_> = identities(&test);
    assert_eq!(numbers, (0..35).map(|n| (2, n)).collect::<Vec<_>>());
    assert_eq!(test.last().unwrap().real, 3);
}

#[test]
fn batches_do_not_depend_on_threads_or_on_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = mnist(folder.path(), 130, 10, 0.0, vec![Augment::Crop { pad: 2 }, Augment::Flip]);
    let spe = data.steps_per_epoch(20).unwrap();
    assert_eq!(spe, 6, "the partial batch is dropped");
    let one = all(data.training(20, 0, 3 * spe, 1).unwrap());
    for threads in [2, 3, 7] {
        assert_eq!(one, all(data.training(20, 0, 3 * spe, threads).unwrap()));
    }
    assert_eq!(one[7..], all(data.training(20, 7, 3 * spe, 2).unwrap()));
    assert_ne!(one[0].labels, one[6].labels, "the second epoch has another order");
}

#[test]
fn crops_shift_and_flips_mirror() {
    let folder = tempfile::tempdir().unwrap();
    let plain = mnist(folder.path(), 40, 10, 0.0, vec![]);
    let original = all(plain.training(40, 0, 1, 1).unwrap()).remove(0);
    let shifted_row = |image: &[f32], dy: i32, dx: i32, flip: bool| -> Vec<f32> {
        let pixel = |y: i32, x: i32| {
            let inside = (0..28).contains(&y) && (0..28).contains(&x);
            if inside { image[(y * 28 + x) as usize] } else { 0.0 }
        };
        let column = |x: i32| if flip { 27 - x } else { x };
        (0..784).map(|i| pixel(i / 28 + dy, column(i % 28) + dx)).collect()
    };
    let data = mnist(folder.path(), 40, 10, 0.0, vec![Augment::Crop { pad: 2 }, Augment::Flip]);
    let changed = all(data.training(40, 0, 1, 1).unwrap()).remove(0);
    let mut kinds = BTreeSet::new();
    for (from, to) in original.images.chunks(784).zip(changed.images.chunks(784)) {
        let found = (-2..=2)
            .flat_map(|dy| (-2..=2).flat_map(move |dx| [(dy, dx, false), (dy, dx, true)]))
            .find(|&(dy, dx, flip)| shifted_row(from, dy, dx, flip) == to);
        kinds.insert(found.expect("every image is a shift of at most 2 pixels, perhaps mirrored"));
    }
    assert!(kinds.len() > 10, "{kinds:?}");
    assert!(kinds.iter().any(|k| k.2) && kinds.iter().any(|k| !k.2));
}

#[test]
fn images_are_ranked_by_score_and_then_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let data = mnist(folder.path(), 20, 10, 0.0, vec![]);
    assert_eq!(identities(&all(data.scored(8, 2))), (0..20).map(|n| (1, n)).collect::<Vec<_>>());
    // Four scores, each of five images: 3, 2, 1, 0, 3, 2, …
    let scores: Vec<f32> = (0..20u8).map(|n| f32::from(3 - n % 4)).collect();
    let easy = [3, 7, 11, 15, 19, 2, 6, 10, 14, 18, 1, 5, 9, 13, 17, 0, 4, 8, 12, 16];
    assert_eq!(data.ranking(Curriculum::Curriculum, &scores, 0), easy);
    let hard = [0, 4, 8, 12, 16, 1, 5, 9, 13, 17, 2, 6, 10, 14, 18, 3, 7, 11, 15, 19];
    assert_eq!(data.ranking(Curriculum::AntiCurriculum, &scores, 0), hard);
    let [one, again, other] = [4, 4, 5].map(|epoch| data.ranking(Curriculum::RandomCurriculum, &[], epoch));
    let sorted = |mut all: Vec<u32>| {
        all.sort_unstable();
        all
    };
    assert_eq!(sorted(one.clone()), (0..20).collect::<Vec<_>>());
    assert!(one == again && one != other && one != sorted(one.clone()));
}

#[test]
fn held_out_images_have_no_rank() {
    let folder = tempfile::tempdir().unwrap();
    let data = mnist(folder.path(), 60, 10, 0.1, vec![]);
    let kept: BTreeSet<u32> = identities(&all(data.scored(7, 1))).into_iter().map(|(_, n)| n).collect();
    assert_eq!(kept.len(), 50);
    for mode in [Curriculum::Curriculum, Curriculum::AntiCurriculum, Curriculum::RandomCurriculum] {
        let ranked: BTreeSet<u32> = data.ranking(mode, &[0.0; 50], 0).into_iter().collect();
        assert_eq!(ranked, kept);
    }
}

#[test]
fn an_epoch_has_the_front_of_a_ranking() {
    let folder = tempfile::tempdir().unwrap();
    let data = mnist(folder.path(), 50, 10, 0.0, vec![Augment::Crop { pad: 2 }]);
    let ranking: Vec<u32> = (0..50).map(|n| n * 7 % 50).collect();
    let pools = Pools::new(ranking.clone(), 3, vec![(10..12, 25), (12..16, 40), (16..20, 40)]);
    let plain = mnist(folder.path(), 50, 10, 0.0, vec![]);
    let epoch = |steps: std::ops::Range<u64>| {
        identities(&all(plain.pooled(10, &pools, steps, 2))).into_iter().map(|(_, n)| n).collect::<Vec<_>>()
    };
    let [first, second, third] = [10..12, 12..16, 16..20].map(epoch);
    let set = |of: &[u32]| of.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!((first.len(), set(&first).len()), (20, 20), "two whole batches of a pool of 25");
    assert!(set(&first).is_subset(&set(&ranking[..25])));
    assert_eq!(set(&second), set(&ranking[..40]));
    assert_eq!(set(&third), set(&ranking[..40]));
    assert!(second != third && second != ranking[..40], "each epoch is shuffled anew");
    // What a step has depends neither on threads nor on where the loader begins; changes are those of the epoch.
    let whole = all(data.pooled(10, &pools, 10..20, 1));
    assert_eq!(all(data.pooled(10, &pools, 10..20, 3)), whole);
    assert_eq!(all(data.pooled(10, &pools, 13..18, 2)), whole[3..8]);
    assert_ne!(whole[2].images, all(plain.pooled(10, &pools, 12..13, 1))[0].images);
}
