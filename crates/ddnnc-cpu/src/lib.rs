//! The CPU device: native f32 kernels, threads, arena.
//!
//! A loaded program owns three kinds of memory: the arena and the persistent region of its plan, and a workspace sized
//! when it is loaded. Running a step, writing inputs and reading outputs allocate nothing.
//!
//! Results do not depend on the number of threads, to the bit: work is cut into tasks by shapes alone, each task writes
//! memory of its own, and sums over tasks are taken in the order of the tasks.
//!
//! Values that are not a number stay so: `relu`, `relu6` and maximum pooling pass them on.
//!
//! `unsafe` stands in `memory` (views of the arena), `device` and `launch` (which make those views of the buffers of a
//! program and of one launch), `pool` (sharing a result among tasks), `simd` (functions compiled for more of the
//! processor), `gemm` (the micro-kernels of the `gemm` project) and `tile` (the micro-kernels of convolutions); the kernels
//! themselves are safe code on slices. This crate knows neither the language nor the training loop.

mod channels;
mod columns;
mod conv;
#[cfg_attr(not(test), expect(dead_code, reason = "the launches still compute in NCHW"))]
mod convolution;
#[cfg_attr(not(test), expect(dead_code, reason = "the launches still compute in NCHW"))]
mod convolution_input;
#[cfg(test)]
mod convolution_tests;
#[cfg_attr(not(test), expect(dead_code, reason = "the launches still compute in NCHW"))]
mod convolution_weight;
mod correlation;
mod depthwise;
mod depthwise_rows;
mod device;
mod elementwise;
mod gemm;
mod launch;
mod loss;
mod matmul;
mod memory;
mod plan;
mod pool;
mod pooling;
mod sample;
mod shape;
mod simd;
mod tile;
mod update;

pub use device::{CpuDevice, CpuExecutable};
