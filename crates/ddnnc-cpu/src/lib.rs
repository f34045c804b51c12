//! The CPU device: native kernels, threads, arena.
