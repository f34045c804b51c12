//! Tests across the crates: cases by phase, with snapshots. This library holds what several of them need.

pub mod comparison;
pub mod digest;
pub mod gate;
pub mod harness;
pub mod onnx;
pub mod random_spec;
pub mod reduction;
pub mod rounding;
pub mod vocabulary;
