//! Faults planted in kernels: each is one that a person could make, and each must show. `docs/testing.md` lists them.

mod common;
#[path = "faults/plant.rs"]
mod plant;
#[path = "faults/products.rs"]
mod products;
#[path = "faults/sequences.rs"]
mod sequences;
#[path = "faults/statistics.rs"]
mod statistics;
#[path = "faults/sums.rs"]
mod sums;

/// The list in `docs/testing.md` and the tests name the same faults.
#[test]
fn every_fault_is_listed() {
    let list = include_str!("../../../docs/testing.md");
    let files = [
        ("products", include_str!("faults/products.rs")),
        ("sequences", include_str!("faults/sequences.rs")),
        ("statistics", include_str!("faults/statistics.rs")),
        ("sums", include_str!("faults/sums.rs")),
    ];
    let mut count = 0;
    for (module, text) in files {
        for test in text.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next()) {
            assert!(list.contains(&format!("`{module}::{test}`")), "{module}::{test} is not in the list");
            count += 1;
        }
    }
    let listed: usize = files.iter().map(|(module, _)| list.matches(&format!("`{module}::")).count()).sum();
    assert_eq!(count, listed);
}
