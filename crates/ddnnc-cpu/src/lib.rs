//! The CPU device: native kernels for f32 and bf16, threads, arena.
//!
//! A loaded program owns three kinds of memory: the arena and the persistent region of its plan, and a workspace sized
//! when it is loaded. Running a step, writing inputs and reading outputs allocate nothing.
//!
//! Results do not depend on the number of threads, to the bit: work is cut into tasks by shapes alone, each task writes
//! memory of its own, and sums over tasks are taken in the order of the tasks.
//!
//! Values that are not a number stay so: `relu`, `relu6` and maximum pooling pass them on.
//!
//! A channels-last value `[N,C,H,W]` is a matrix of rows of C channels, and so is `[N,C]`: elementwise operators, sums
//! over rows and groups of them run as tile programs on such rows (`pointwise`), convolutions read and write them.
//! Row-major values of four dimensions have kernels for what is elementwise or moves elements only.
//!
//! `unsafe` stands in `memory` (views of the arena), `device`, `kernel`, `convolution_group` and the `pointwise` files
//! (which make those views of the buffers of a program and of one launch), `pool` (sharing a result among tasks), `simd`
//! (functions compiled for more of the processor), `gemm` (the micro-kernels of the `gemm` project), `tile`, `bf16_tile`,
//! `amx_tile`, `packed_weight_tile`, `packed_weight_rows`, `packed_weight_vectors` and `amx_weight_tile` (the micro-kernels of
//! convolutions), `amx` (its registers), `matmul`, `matmul_bf16`, `amx_weight`, `packed_weight` and `packed_weight_cut` (results
//! that tasks share), `correlation` (zeros past the caches), `transpose` (blocks in registers), `vector`, `half_vector`,
//! `half_vector_x86`, `winograd_source`, `winograd_transform` and `winograd_patches` (vectors of each level, and transforms of
//! patches), and `ahead` (asking for memory); the other kernels are safe code on slices. This crate knows neither the language
//! nor the training loop.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_tile;
#[cfg(target_arch = "x86_64")]
mod amx_weight;
#[cfg(target_arch = "x86_64")]
mod amx_weight_places;
#[cfg(target_arch = "x86_64")]
mod amx_weight_tile;
mod bf16_rows;
mod bf16_tile;
mod choices;
mod convolution;
mod convolution_group;
#[cfg(test)]
mod convolution_tests;
mod convolution_weight;
mod correlation;
mod depthwise_rows;
mod device;
mod functions;
mod gemm;
mod half_vector;
#[cfg(target_arch = "x86_64")]
mod half_vector_x86;
mod kernel;
mod launch;
mod limits;
mod loss;
mod matmul;
mod matmul_bf16;
mod memory;
mod method;
mod packed_weight;
mod packed_weight_chunk;
mod packed_weight_cut;
mod packed_weight_rows;
mod packed_weight_tile;
#[cfg(target_arch = "x86_64")]
mod packed_weight_vectors;
mod plan;
mod pointwise;
mod pointwise_chain;
mod pointwise_chain_run;
#[cfg(test)]
mod pointwise_chain_tests;
mod pointwise_compile;
mod pointwise_finish;
mod pointwise_gather;
mod pointwise_inst;
mod pointwise_kernels;
mod pointwise_pass;
mod pointwise_program;
mod pointwise_sums;
mod pointwise_tables;
mod pool;
mod pooling;
mod relation;
mod sample;
mod sequence;
mod shape;
mod simd;
mod tile;
mod transpose;
mod tune;
mod vector;
mod winograd;
mod winograd_patches;
mod winograd_source;
mod winograd_transform;
mod winograd_weight;

pub use ddnnc_passes::Limits;
pub use device::{CpuDevice, CpuExecutable, CpuOptions};
pub use method::{Direction, Method};
pub use simd::Level;
pub use tune::Tune;
