//! Tests of the passes, one module per pass, over hand-made and random graphs.

mod assign_layout;
mod autocast;
mod batch_shared_weights;
mod build;
mod canonical;
mod dead_code;
mod fuse;
mod pipeline;
mod plan_groups;
mod plan_memory;
mod program_bytes;
mod random_graphs;
mod recompute;
mod reference_device;
mod schedule;
mod share_prefixes;
