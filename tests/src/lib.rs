//! Tests across the crates: cases by phase, with snapshots.
