//! The CUDA device: kernels as text, NVRTC, cache, driver.
//!
//! Emission is text generation and works on every machine; compiling needs NVRTC, running needs a driver.

pub mod analysis;
pub mod arch;
pub mod binaries;
pub mod cache;
mod chain;
mod chain_text;
pub mod code;
mod convolution;
mod ctext;
mod depthwise;
mod depthwise_map;
mod depthwise_weight;
pub mod device;
mod driver;
mod elementwise;
pub mod emit;
pub mod emitted;
pub mod executable;
mod flat;
mod gemm;
pub mod layout;
pub mod limits;
mod losses;
pub mod machine_code;
mod matmul;
mod module;
mod moves;
pub mod nvrtc;
mod operand;
mod pack;
mod partial_sums;
mod parts;
mod places;
mod pointwise;
mod pointwise_cut;
mod pooling;
mod product;
mod regroup;
mod relations;
mod samples;
mod sequence;
mod split;
mod staging;
mod steps;
mod sums;
mod tile;
mod tile_plan;
mod tile_sums;
mod tiles;
mod update;
mod weight_gradient;

pub use device::{CudaDevice, CudaOptions, OpenError, Watch};
pub use executable::{CudaExecutable, LoadReport};
